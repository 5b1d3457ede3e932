"""Write embeddings to .npz, .csv and Parquet files, and read them."""

import codecs
import contextlib
import csv
import functools
import glob
import itertools
import json
import operator
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vggish_keras import _npz, params
from vggish_keras._atomic import atomic_write
from vggish_keras._errors import counted, error_message
from vggish_keras._text import printable
from vggish_keras._validation import PathLike, file_suffix
from vggish_keras.embeddings import Embeddings, embedding_dtype

NamedEmbeddings: TypeAlias = Iterable[tuple[str, Embeddings]]
Options: TypeAlias = Mapping[str, Any]

__all__ = ["RECORDS_SUFFIX", "SUFFIXES", "Rows", "read", "read_npz", "read_options", "read_rows", "write"]

SUFFIXES = (".npz", ".csv", ".parquet")
RECORDS_SUFFIX = ".tfrecord"
"""Files of `vggish_keras.records`, which `vggish embed` also writes."""
OPTIONS_SUFFIX = ".vggish.json"
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_NPZ_ARRAYS = ("times", "values", "files")
_NPZ_OPTIONS = "options"
_PARQUET_OPTIONS = b"vggish"
_CSV_COLUMNS = ["file", "time", *(f"embedding_{index}" for index in range(params.EMBEDDING_SIZE))]
_ROWS_PER_GROUP = 8_192
_CSV_ROWS = 1_024


def check_path(path: PathLike, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """Returns an output path as a Path, or raises a ValueError for an unknown suffix or a missing folder."""
    path = Path(path)
    if file_suffix(path) not in suffixes:
        raise ValueError(_unknown_format(path, suffixes))
    if not path.parent.is_dir():
        raise ValueError(f"folder {path.parent} does not exist")
    if file_suffix(path) == ".parquet":
        _pyarrow()
    return path


def _unknown_format(path: Path, suffixes: Sequence[str]) -> str:
    return f"unknown file format: expected an {', '.join(suffixes[:-1])} or {suffixes[-1]} file, got {path}"


def options_path(path: Path) -> Path:
    """The file beside a .csv or .tfrecord file that holds its options: x.csv.vggish.json for x.csv.

    The shards of a .tfrecord file share one: x.tfrecord.vggish.json for x-00000-of-00004.tfrecord.
    """
    stem = _SHARD.sub("", path.stem) if file_suffix(path) == RECORDS_SUFFIX else path.stem
    return path.with_name(f"{stem}{path.suffix}{OPTIONS_SUFFIX}")


def existing_shards(path: Path) -> list[Path]:
    """The files of a .tfrecord output that exist: x.tfrecord, or x-00000-of-00004.tfrecord and so on."""
    shards = path.parent.glob(f"{glob.escape(path.stem)}-?????-of-?????{path.suffix}")
    return [file for file in (path, *sorted(shards)) if file.is_file() and options_path(file) == options_path(path)]


def write_options(path: Path, options: Options) -> None:
    """Writes the file of options beside a .tfrecord file."""
    with atomic_write(options_path(path)) as partial:
        partial.write_text(f"{json.dumps(options)}\n")


def write(path: PathLike, recordings: NamedEmbeddings, options: Options | None = None) -> None:
    """Writes the embeddings of one or more recordings to a file, which appears once it is complete.

    `.npz` files contain `times` [n] and `values` [n, 128] of all recordings, and `files` [n], the recording of each
    row. `.csv` files have the columns file, time and embedding_0 to embedding_127; `.parquet` files have file, time and
    embedding.

    Options are stored as JSON text: in the array `options` of an `.npz` file, under the key "vggish" of the metadata of
    a `.parquet` file, and in x.csv.vggish.json beside x.csv.

    Args:
        path: The .npz, .csv or .parquet file. An existing file is replaced.
        recordings: Names and embeddings, at least one. A collection is iterated several times; an iterator is first
            read into memory.
        options: How the embeddings were made, such as `Embedder.options`: a mapping of values that JSON can represent.

    Raises:
        ValueError: The suffix is unknown, the folder does not exist, or an .npz or .parquet file would have no
            recordings.
        ImportError: A .parquet file without pyarrow.
        OSError: The file cannot be written.

    Examples:
        >>> from vggish_keras import embedding_files
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.zeros((2, 128), np.float32))
        >>> embedding_files.write("x.npz", [("recording.wav", embeddings)], {"hop_seconds": 0.96})
    """
    path = check_path(path)
    if iter(recordings) is recordings:
        recordings = list(recordings)
    text = None if options is None else json.dumps(options)
    if file_suffix(path) == ".csv":
        _write_csv(path, recordings, text)
        return
    with atomic_write(path) as partial, partial.open("wb") as file:
        _WRITERS[file_suffix(path)](file, recordings, text)


def write_npz(path: Path, recordings: NamedEmbeddings, options: Options) -> None:
    """Writes an .npz file as `write` does, but directly under its name."""
    with path.open("wb") as file:
        _write_npz(file, recordings, json.dumps(options))


def read_npz(path: PathLike, recording: str | None = None) -> Embeddings:
    """Reads the embeddings of one recording from an .npz file written by `write`.

    Args:
        path: The file.
        recording: The name of the recording; required if the file contains several.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, is not a file of embeddings, would decompress to far more than its size, does
            not contain the recording, or contains several and `recording` is None.

    Examples:
        >>> from vggish_keras import embedding_files
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.zeros((2, 128), np.float32))
        >>> embedding_files.write("x.npz", [("recording.wav", embeddings)])
        >>> embedding_files.read_npz("x.npz").times
        array([0.  , 0.96])
    """
    arrays = _npz.read_npz(path, _NPZ_ARRAYS, functools.partial(_check_npz, path))
    times, values = arrays["times"], arrays["values"]
    names = arrays.get("files", np.full(len(times), ""))
    if recording is None:
        if len(set(names)) > 1:
            raise ValueError(f"{path} contains {len(set(names))} recordings: choose one, such as {names[0]}")
        return Embeddings(times, values)
    if recording not in names:
        raise ValueError(f"{path} contains no embeddings of {recording}")
    return Embeddings(times[names == recording], values[names == recording])


def read(path: PathLike) -> Iterator[tuple[str, Embeddings]]:
    """Reads the embeddings of all recordings; those of a .csv or .parquet file in bounded memory.

    Args:
        path: A file written by `write`.

    Yields:
        Each recording with its embeddings, in the order of the file. A recording whose rows do not follow each other is
        yielded in several parts.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The suffix is unknown, or the file is damaged or contains no embeddings.
        ImportError: A .parquet file without pyarrow.

    Examples:
        >>> from vggish_keras import embedding_files
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.zeros((2, 128), np.float32))
        >>> embedding_files.write("x.csv", [("a.wav", embeddings), ("b.wav", embeddings)])
        >>> for name, embeddings in embedding_files.read("x.csv"):
        ...     print(name, embeddings)
        a.wav Embeddings(2 examples, 0.0 to 0.96 s, float32 [2, 128])
        b.wav Embeddings(2 examples, 0.0 to 0.96 s, float32 [2, 128])
    """
    runs = (run for chunk in read_chunks(path) for run in _runs(chunk))
    for name, parts in itertools.groupby(runs, operator.attrgetter("name")):
        times, values = zip(*((part.times, part.values) for part in parts), strict=True)
        yield name, Embeddings(np.concatenate(times), np.concatenate(values))


class Chunk(NamedTuple):
    """Successive rows of a file.

    Attributes:
        names: The recording of each row.
        times: float64 [n]: the start of each example in seconds.
        values: [n, 128]: the embeddings.

    Examples:
        >>> from vggish_keras import embedding_files
        >>> embedding_files.Chunk(["x.wav"], np.zeros(1), np.zeros((1, 128))).values.shape
        (1, 128)
    """

    names: Sequence[str]
    times: NDArray[np.float64]
    values: NDArray[Any]


def read_chunks(path: PathLike) -> Iterator[Chunk]:
    """As `read`, but yields many rows at a time, of several recordings.

    Args:
        path: A file written by `write`.

    Yields:
        Successive rows. A recording may continue in the next chunk.

    Raises:
        FileNotFoundError: As in `read`.
        ValueError: As in `read`.
        ImportError: As in `read`.

    Examples:
        >>> from vggish_keras import embedding_files
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.zeros((2, 128), np.float32))
        >>> embedding_files.write("x.csv", [("a.wav", embeddings), ("b.wav", embeddings)])
        >>> [len(chunk.names) for chunk in embedding_files.read_chunks("x.csv")]
        [4]
    """
    path = Path(path)
    if file_suffix(path) not in _CHUNK_READERS:
        raise ValueError(_unknown_format(path, SUFFIXES))
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    yield from _CHUNK_READERS[file_suffix(path)](path)


class _Run(NamedTuple):
    """Successive rows of a recording."""

    name: str
    times: NDArray[np.float64]
    values: NDArray[Any]


def _runs(chunk: Chunk) -> Iterator[_Run]:
    start = 0
    for name, rows in itertools.groupby(chunk.names):
        stop = start + sum(1 for _ in rows)
        yield _Run(name, chunk.times[start:stop], chunk.values[start:stop])
        start = stop


def read_options(path: PathLike) -> dict[str, Any]:
    """Reads the options that a file of embeddings was made with.

    Args:
        path: A file written by `write`, or a .tfrecord file written by `vggish embed`.

    Returns:
        The options; empty if the file was written without any.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The suffix is unknown, or the file is damaged.
        ImportError: A .parquet file without pyarrow.

    Examples:
        >>> from vggish_keras import embedding_files
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.zeros((2, 128), np.float32))
        >>> embedding_files.write("x.npz", [("recording.wav", embeddings)], {"hop_seconds": 0.96})
        >>> embedding_files.read_options("x.npz")
        {'hop_seconds': 0.96}
    """
    path = Path(path)
    if file_suffix(path) not in _OPTIONS_READERS:
        raise ValueError(_unknown_format(path, tuple(_OPTIONS_READERS)))
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    text = _OPTIONS_READERS[file_suffix(path)](path)
    return {} if text is None else parse_options(text, path)


def parse_options(text: str | bytes, where: PathLike) -> dict[str, Any]:
    """Parses the options of an output; raises a ValueError that names it if they are not a JSON object."""
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} contains invalid options: {error_message(error)}") from error
    if not isinstance(options, dict):
        raise ValueError(f"{where} contains invalid options: expected a JSON object, got {type(options).__name__}")
    return options


class Rows(NamedTuple):
    """The rows of a file of embeddings, without their values.

    Attributes:
        files: The recording of each row.
        times: The start of each example in seconds.
        dtype: Dtype of the embeddings; None if the file does not say.

    Examples:
        >>> from vggish_keras import embedding_files
        >>> embedding_files.Rows(["x.wav"], [0.0], "float32").dtype
        'float32'
    """

    files: Sequence[str]
    times: Sequence[float]
    dtype: str | None


def read_rows(path: PathLike) -> Rows:
    """Reads which recordings and examples a file of embeddings contains.

    Args:
        path: A file written by `write`.

    Returns:
        The rows without their embeddings.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The suffix is unknown, or the file is damaged or contains no embeddings.
        ImportError: A .parquet file without pyarrow.

    Examples:
        >>> from vggish_keras import embedding_files
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.zeros((2, 128), np.float32))
        >>> embedding_files.write("x.npz", [("recording.wav", embeddings)])
        >>> embedding_files.read_rows("x.npz")
        Rows(files=['recording.wav', 'recording.wav'], times=[0.0, 0.96], dtype='float32')
    """
    path = Path(path)
    if file_suffix(path) not in _ROWS_READERS:
        raise ValueError(_unknown_format(path, SUFFIXES))
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    return _ROWS_READERS[file_suffix(path)](path)


# === .npz ===


def _check_npz(path: PathLike, arrays: Mapping[str, _npz.ArrayHeader]) -> None:
    size = params.EMBEDDING_SIZE
    needed = [arrays[name] for name in ("times", "values") if name in arrays and arrays[name].dtype.kind in "fiu"]
    rows = needed[0].shape if needed else ()
    if [array.shape for array in needed] != [rows, (*rows, size)] or len(rows) != 1:
        raise ValueError(f"{path} contains no embeddings: expected times [n] and values [n, {size}]")
    files = arrays.get("files")
    if files is not None and (files.shape != rows or files.dtype.kind != "U"):
        got = f"{files.dtype} {list(files.shape)}"
        raise ValueError(f"{path}: files must contain {counted(rows[0], 'name')}, one for each of times, got {got}")


def _write_npz(file: IO[bytes], recordings: NamedEmbeddings, options: str | None) -> None:
    # Equivalent to np.savez, but one recording at a time.
    counts = [(name, *embeddings.values.shape, embeddings.values.dtype) for name, embeddings in recordings]
    if not counts:
        raise ValueError("an .npz file needs at least one recording")
    rows = sum(count for _, count, _, _ in counts)
    size, dtype = counts[0][2:]
    names = np.dtype(f"<U{max(1, *(len(name) for name, *_ in counts))}")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, dtype: Any, shape: tuple[int, ...], parts: Iterable[NDArray[Any]]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for part in parts:
                    member.write(part.astype(dtype, copy=False).tobytes())

        add("times", np.float64, (rows,), (embeddings.times for _, embeddings in recordings))
        add("values", dtype, (rows, size), (embeddings.values for _, embeddings in recordings))
        add("files", names, (rows,), (np.full(count, name, names) for name, count, _, _ in counts))
        if options is not None:
            add(_NPZ_OPTIONS, f"<U{len(options)}", (), [np.array(options)])


def _read_npz_options(path: Path) -> str | None:
    def check(arrays: Mapping[str, _npz.ArrayHeader]) -> None:
        header = arrays.get(_NPZ_OPTIONS)
        if header is not None and (header.shape != () or header.dtype.kind != "U"):
            raise ValueError(f"{path}: options must be a text, got {header.dtype} {list(header.shape)}")

    arrays = _npz.read_npz(path, [_NPZ_OPTIONS], check)
    return str(arrays[_NPZ_OPTIONS]) if arrays else None


def _read_npz_rows(path: Path) -> Rows:
    dtype = ""

    def check(arrays: Mapping[str, _npz.ArrayHeader]) -> None:
        nonlocal dtype
        _check_npz(path, arrays)
        dtype = str(arrays["values"].dtype)

    arrays = _npz.read_npz(path, ["times", "files"], check)
    times = arrays["times"].tolist()
    return Rows(arrays["files"].tolist() if "files" in arrays else [""] * len(times), times, dtype)


def _read_npz_chunks(path: Path) -> Iterator[Chunk]:
    arrays = _npz.read_npz(path, _NPZ_ARRAYS, functools.partial(_check_npz, path))
    times = arrays["times"]
    names = arrays["files"].tolist() if "files" in arrays else [""] * len(times)
    yield Chunk(names, times, arrays["values"])


# === .csv ===


def _write_csv(path: Path, recordings: NamedEmbeddings, options: str | None) -> None:
    beside = options_path(path)
    with contextlib.ExitStack() as stack:
        if options is not None:
            # Replaced last, after the old one is removed: embeddings never lie beside the options of others.
            partial = stack.enter_context(atomic_write(beside))
            partial.write_text(f"{options}\n")
        old = beside.read_bytes() if beside.is_file() else None
        try:
            with atomic_write(path) as partial:
                with partial.open("wb") as file:
                    write_csv_rows(file, recordings)
                beside.unlink(missing_ok=True)
        except BaseException:
            if old is not None and not beside.exists():
                with atomic_write(beside) as partial:
                    partial.write_bytes(old)
            raise


def write_csv_rows(file: IO[bytes], recordings: NamedEmbeddings, header: bool = True) -> None:
    """Writes the rows of a .csv file, after a header that names the columns."""
    # File names may be invalid UTF-8.
    rows = csv.writer(codecs.getwriter("utf-8")(file, "surrogateescape"))
    if header:
        rows.writerow(_CSV_COLUMNS)
    for name, embeddings in recordings:
        for time, values in zip(embeddings.times, embeddings.values, strict=True):
            # str writes the fewest digits that read back as the same float32.
            rows.writerow([name, f"{time:.2f}", *map(str, values)])


def _read_options_beside(path: Path) -> bytes | None:
    try:
        return options_path(path).read_bytes()
    except FileNotFoundError:
        return None


def _read_csv_lines(path: Path) -> Iterator[list[str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file)
        try:
            if next(rows, None) != _CSV_COLUMNS:
                raise ValueError("its first line does not name the columns file, time and embedding_0 to embedding_127")
            for row in rows:
                if len(row) != len(_CSV_COLUMNS):
                    raise ValueError(f"line {rows.line_num} has {len(row)} of {len(_CSV_COLUMNS)} columns")
                yield row
        except (ValueError, csv.Error) as error:
            raise _not_csv(path, error) from error


def _not_csv(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} contains no embeddings, or is damaged: {error_message(error)}")


def _read_csv_rows(path: Path) -> Rows:
    files, times = [], []
    for row in _read_csv_lines(path):
        files.append(row[0])
        try:
            times.append(float(row[1]))
        except ValueError as error:
            raise _not_csv(path, error) from error
    return Rows(files, times, None)


def _read_csv_chunks(path: Path) -> Iterator[Chunk]:
    dtype = embedding_dtype(read_options(path).get("postprocess"))
    lines = _read_csv_lines(path)
    while rows := list(itertools.islice(lines, _CSV_ROWS)):
        try:
            numbers = np.array([row[1:] for row in rows]).astype(np.float64)
        except ValueError as error:
            raise _not_csv(path, error) from error
        yield Chunk([row[0] for row in rows], numbers[:, 0], numbers[:, 1:].astype(dtype))


# === .parquet ===


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet files require pyarrow: pip install "vggish[parquet]"') from error
    return pyarrow


def parquet_schema(dtype: Any, options: Options | None = None) -> Any:
    """The `pyarrow.Schema` of embeddings of a dtype: the columns file, time and embedding, and options as metadata."""
    return _schema(dtype, None if options is None else json.dumps(options))


def _schema(dtype: Any, options: str | None) -> Any:
    pyarrow = _pyarrow()
    embedding = pyarrow.list_(pyarrow.from_numpy_dtype(np.dtype(dtype)), params.EMBEDDING_SIZE)
    columns = [("file", pyarrow.string()), ("time", pyarrow.float64()), ("embedding", embedding)]
    return pyarrow.schema(columns, None if options is None else {_PARQUET_OPTIONS: options})


def parquet_table(recordings: Sequence[tuple[str, Embeddings]], schema: Any) -> Any:
    """The rows of one or more recordings as a `pyarrow.Table` with a schema from `parquet_schema`."""
    pyarrow = _pyarrow()
    # Parquet text is UTF-8; file names may be invalid UTF-8.
    names = [printable(name) for name, _ in recordings]
    files = np.repeat(np.array(names, object), [len(part.times) for _, part in recordings])
    times = np.concatenate([part.times for _, part in recordings])
    values = pyarrow.array(np.concatenate([part.values for _, part in recordings]).reshape(-1))
    columns = [
        pyarrow.array(files, pyarrow.string()),
        pyarrow.array(times, pyarrow.float64()),
        pyarrow.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type),
    ]
    return pyarrow.table(columns, schema)


def _write_parquet(file: IO[bytes], recordings: NamedEmbeddings, options: str | None) -> None:
    pyarrow = _pyarrow()
    dtype = next((embeddings.values.dtype for _, embeddings in recordings), None)
    if dtype is None:
        raise ValueError("a .parquet file needs at least one recording")
    schema = _schema(dtype, options)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for group in _groups(recordings):
            writer.write_table(parquet_table(group, schema))


def _groups(recordings: NamedEmbeddings) -> Iterator[list[tuple[str, Embeddings]]]:
    """Batches of recordings, each with enough rows for a Parquet row group."""
    group, rows = [], 0
    for name, embeddings in recordings:
        group.append((name, embeddings))
        rows += len(embeddings.times)
        if rows >= _ROWS_PER_GROUP:
            yield group
            group, rows = [], 0
    if group:
        yield group


def _read_parquet_options(path: Path) -> bytes | None:
    pyarrow = _pyarrow()
    try:
        metadata = pyarrow.parquet.read_schema(path).metadata or {}
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error_message(error)}") from error
    text: bytes | None = metadata.get(_PARQUET_OPTIONS)
    return text


def _read_parquet_rows(path: Path) -> Rows:
    pyarrow = _pyarrow()
    try:
        table = pyarrow.parquet.read_table(path, columns=["file", "time"])
        values = pyarrow.array([], pyarrow.parquet.read_schema(path).field("embedding").type.value_type)
        return Rows(table["file"].to_pylist(), table["time"].to_pylist(), str(values.to_numpy().dtype))
    except (pyarrow.ArrowException, OSError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is not a Parquet file of embeddings: {error_message(error)}") from error


def _read_parquet_chunks(path: Path) -> Iterator[Chunk]:
    pyarrow = _pyarrow()
    try:
        columns = ["file", "time", "embedding"]
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_ROWS_PER_GROUP, columns=columns):
            names, times, embeddings = (batch.column(name) for name in columns)
            values = embeddings.flatten().to_numpy(zero_copy_only=False).reshape(len(names), params.EMBEDDING_SIZE)
            yield Chunk(names.to_pylist(), times.to_numpy(zero_copy_only=False), values)
    except (pyarrow.ArrowException, OSError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a Parquet file of embeddings: {error_message(error)}") from error


_WRITERS: dict[str, Callable[[IO[bytes], NamedEmbeddings, str | None], None]] = {
    ".npz": _write_npz,
    ".parquet": _write_parquet,
}
_OPTIONS_READERS: dict[str, Callable[[Path], str | bytes | None]] = {
    ".npz": _read_npz_options,
    ".csv": _read_options_beside,
    ".parquet": _read_parquet_options,
    RECORDS_SUFFIX: _read_options_beside,
}
_ROWS_READERS: dict[str, Callable[[Path], Rows]] = {
    ".npz": _read_npz_rows,
    ".csv": _read_csv_rows,
    ".parquet": _read_parquet_rows,
}
_CHUNK_READERS: dict[str, Callable[[Path], Iterator[Chunk]]] = {
    ".npz": _read_npz_chunks,
    ".csv": _read_csv_chunks,
    ".parquet": _read_parquet_chunks,
}

"""Embeddings written to files, and read from them."""

import csv
import functools
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from vggish_keras import _npz, params
from vggish_keras._atomic import atomic_write
from vggish_keras.embeddings import Embeddings

_ROWS_OF_A_GROUP = 8_192

SUFFIXES = (".npz", ".csv", ".parquet")
_NPZ_ARRAYS = ("times", "values", "files")


def check_path(path: str | os.PathLike[str], suffixes: Iterable[str] = SUFFIXES) -> Path:
    """`path` as a Path, or a ValueError if its suffix is no format or its folder does not exist."""
    path = Path(path)
    if path.suffix not in suffixes:
        raise ValueError(f"the format goes by the suffix, one of {', '.join(suffixes)}: got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}")
    if path.suffix == ".parquet":
        _pyarrow()
    return path


def write(path: str | os.PathLike[str], recordings: Iterable[tuple[str, Embeddings]]) -> None:
    """Writes the embeddings of one or more recordings to one file, which appears when it is complete.

    `.npz` holds `times` [n] and `values` [n, 128] of all recordings, and `files` [n], each row's recording. `.csv` has
    the columns file, time and embedding_0 .. embedding_127; `.parquet` has file, time and embedding.

    Args:
        path: The file: .npz, .csv or .parquet. It is replaced if it exists.
        recordings: Names and embeddings, at least one; it is gone through several times.

    Raises:
        ValueError: Another suffix, or no such folder.
        ImportError: .parquet without pyarrow.
        OSError: The file cannot be written.
    """
    path = check_path(path)
    with atomic_write(path) as aside, aside.open("wb") as file:
        _WRITERS[path.suffix](file, recordings)


def read_npz(path: str | os.PathLike[str], recording: str | None = None) -> Embeddings:
    """Reads the embeddings of a recording from an .npz file that `write` made.

    Args:
        path: The file.
        recording: Which recording, if it holds several.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or a different one, would inflate to much more than its size, holds no such
            recording, or several and none is named.
    """
    arrays = _npz.read_npz(path, _NPZ_ARRAYS, functools.partial(_check_npz, path))
    times, values = arrays["times"], arrays["values"]
    names = arrays.get("files", np.full(len(times), ""))
    if recording is None:
        if len(set(names)) > 1:
            raise ValueError(f"{path} holds {len(set(names))} recordings: name one, such as {names[0]}")
        return Embeddings(times, values)
    if recording not in names:
        raise ValueError(f"{path} holds no embeddings of {recording}")
    return Embeddings(times[names == recording], values[names == recording])


# === .npz ===


def _check_npz(path: str | os.PathLike[str], arrays: Mapping[str, _npz.ArrayHeader]) -> None:
    size = params.EMBEDDING_SIZE
    needed = [arrays[name] for name in ("times", "values") if name in arrays and arrays[name].dtype.kind in "fiu"]
    rows = needed[0].shape if needed else ()
    if [array.shape for array in needed] != [rows, (*rows, size)] or len(rows) != 1:
        raise ValueError(f"{path} holds no embeddings: it needs times [n] and values [n, {size}]")
    files = arrays.get("files")
    if files is not None and (files.shape != rows or files.dtype.kind != "U"):
        got = f"{files.dtype} {list(files.shape)}"
        raise ValueError(f"{path}: files must hold {rows[0]} names, as many as there are times, got {got}")


def _write_npz(file: IO[bytes], recordings: Iterable[tuple[str, Embeddings]]) -> None:
    # As np.savez does, but recording by recording.
    counts = [(name, *embeddings.values.shape, embeddings.values.dtype) for name, embeddings in recordings]
    rows = sum(count for _, count, _, _ in counts)
    size, dtype = counts[0][2:]
    names = np.dtype(f"<U{max(len(name) for name, *_ in counts)}")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

        def add(name: str, dtype: Any, shape: tuple[int, ...], parts: Iterable[np.ndarray]) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                for part in parts:
                    member.write(part.astype(dtype, copy=False).tobytes())

        add("times", np.float64, (rows,), (embeddings.times for _, embeddings in recordings))
        add("values", dtype, (rows, size), (embeddings.values for _, embeddings in recordings))
        add("files", names, (rows,), (np.full(count, name, names) for name, count, _, _ in counts))


# === .csv ===


def _write_csv(file: IO[bytes], recordings: Iterable[tuple[str, Embeddings]]) -> None:
    # A file name need not be valid UTF-8.
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    rows = csv.writer(text)
    rows.writerow(["file", "time", *(f"embedding_{i}" for i in range(params.EMBEDDING_SIZE))])
    for name, embeddings in recordings:
        for time, values in zip(embeddings.times, embeddings.values, strict=True):
            # The shortest digits that give the same float32 again.
            rows.writerow([name, f"{time:.2f}", *map(str, values)])
    text.flush()
    text.detach()


# === .parquet ===


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet files need pyarrow: pip install "vggish[parquet]"') from error
    return pyarrow


def parquet_schema(dtype: Any) -> Any:
    """The columns of a Parquet file of embeddings of a dtype: file, time and embedding."""
    pyarrow = _pyarrow()
    embedding = pyarrow.list_(pyarrow.from_numpy_dtype(np.dtype(dtype)), params.EMBEDDING_SIZE)
    return pyarrow.schema([("file", pyarrow.string()), ("time", pyarrow.float64()), ("embedding", embedding)])


def parquet_table(recordings: Sequence[tuple[str, Embeddings]], schema: Any) -> Any:
    """The rows of recordings, at least one, as `pyarrow.Table` of `parquet_schema`."""
    pyarrow = _pyarrow()
    # Parquet's text is UTF-8, which a file name need not be.
    names = [name.encode(errors="surrogateescape").decode(errors="backslashreplace") for name, _ in recordings]
    files = np.repeat(np.array(names, object), [len(part.times) for _, part in recordings])
    times = np.concatenate([part.times for _, part in recordings])
    values = pyarrow.array(np.concatenate([part.values for _, part in recordings]).reshape(-1))
    columns = [
        pyarrow.array(files, pyarrow.string()),
        pyarrow.array(times, pyarrow.float64()),
        pyarrow.FixedSizeListArray.from_arrays(values, type=schema.field("embedding").type),
    ]
    return pyarrow.table(columns, schema)


def _write_parquet(file: IO[bytes], recordings: Iterable[tuple[str, Embeddings]]) -> None:
    pyarrow = _pyarrow()
    schema = parquet_schema(next(embeddings.values.dtype for _, embeddings in recordings))
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for group in _groups(recordings):
            writer.write_table(parquet_table(group, schema))


def _groups(recordings: Iterable[tuple[str, Embeddings]]) -> Iterator[list[tuple[str, Embeddings]]]:
    """Recordings that together have rows enough for a group of a Parquet file."""
    group, rows = [], 0
    for name, embeddings in recordings:
        group.append((name, embeddings))
        rows += len(embeddings.times)
        if rows >= _ROWS_OF_A_GROUP:
            yield group
            group, rows = [], 0
    if group:
        yield group


_WRITERS = {".npz": _write_npz, ".csv": _write_csv, ".parquet": _write_parquet}

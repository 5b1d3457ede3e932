"""What an output holds and what it was made with."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vggish_keras import embedding_files
from vggish_keras._validation import PathLike, file_suffix
from vggish_keras.corpus.output import (
    OPTIONS_FILE,
    OPTIONS_FILE_0_1,
    UNFINISHED,
    UNFINISHED_FOLDER,
    DatabaseErrors,
    connect_to_read,
    describe_difference,
)
from vggish_keras.embedding_files import RECORDS_SUFFIX
from vggish_keras.embeddings import embedding_dtype


class Contents(NamedTuple):
    """What an output holds.

    Attributes:
        recordings: Number of recordings. Files other than .tfrecord files and databases contain no recordings that are
            too short for an embedding.
        rows: Number of embeddings.
        first_time: The earliest start of an example in seconds; None without embeddings.
        last_time: The latest start.
        dtype: Dtype of the embeddings; None if unknown.
        options: How the embeddings were made; empty if unknown.
        damaged: Files of a folder that cannot be read, and why.
    """

    recordings: int
    rows: int
    first_time: float | None
    last_time: float | None
    dtype: str | None
    options: dict[str, Any]
    damaged: dict[str, str]


def read_contents(path: PathLike) -> Contents:
    """Reads what an output holds. Only a .tfrecord file needs TensorFlow.

    Args:
        path: A folder, an .npz, .csv, .parquet or .tfrecord file, or the database of an interrupted run. The path of a
            .tfrecord file also stands for its shards.

    Raises:
        FileNotFoundError: The output does not exist.
        ValueError: Not an output, or a damaged one.
        OSError: The output cannot be read, or a database is in use by a run.
        ImportError: A .parquet file without pyarrow.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if file_suffix(path) == RECORDS_SUFFIX:
        return _read_records(path)
    if not path.is_file():
        unfinished = path.with_name(f"{path.name}{UNFINISHED}")
        found = f"; {unfinished} contains the results of an interrupted run" if unfinished.is_file() else ""
        raise FileNotFoundError(f"{path} does not exist{found}")
    return _read_database(path) if path.suffix == UNFINISHED else _read_file(path)


class _Count:
    """Counts recordings and rows, and finds the first and last time."""

    def __init__(self) -> None:
        self.recordings = self.rows = 0
        self.dtypes: set[str] = set()
        self._first, self._last = np.inf, -np.inf

    def add(self, times: Iterable[float], recordings: int = 1, dtype: str | None = None) -> None:
        array = np.fromiter(times, np.float64)
        self.recordings += recordings
        self.rows += len(array)
        self._first, self._last = array.min(initial=self._first), array.max(initial=self._last)
        if dtype is not None:
            self.dtypes.add(dtype)

    def contents(self, options: Mapping[str, Any], damaged: Mapping[str, str] | None = None) -> Contents:
        first, last = (float(self._first), float(self._last)) if self.rows else (None, None)
        dtype = ", ".join(sorted(self.dtypes)) or None
        return Contents(self.recordings, self.rows, first, last, dtype, dict(options), dict(damaged or {}))


def _read_file(path: Path) -> Contents:
    count = _Count()
    rows = embedding_files.read_rows(path)
    options = embedding_files.read_options(path)
    dtype = rows.dtype or (embedding_dtype(options["postprocess"]) if "postprocess" in options else None)
    count.add(rows.times, len(set(rows.files)), dtype)
    return count.contents(options)


def _read_folder(folder: Path) -> Contents:
    files = find_embeddings(folder)
    options = read_folder_options(folder)
    if options is None and not files:
        raise ValueError(f"{folder} contains no embeddings")
    count, damaged = _Count(), {}
    for file in files:
        try:
            rows = embedding_files.read_rows(file)
        except (OSError, ValueError) as error:
            damaged[str(file)] = str(error)
        else:
            count.add(rows.times, 1, rows.dtype)
    return count.contents(options or {}, damaged)


def find_embeddings(folder: Path) -> list[Path]:
    """Returns the .npz files in a folder.

    Left out are those of a killed run, and those of an output in a subfolder that was made with different options.

    Raises:
        ValueError: The folder only holds outputs in subfolders, which were made with different options.
    """
    made_with = read_folder_options(folder)
    first: tuple[Path, dict[str, Any]] | None = None
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        inside = [Path(parent, name) for name in sorted(folders) if name != UNFINISHED_FOLDER]
        if made_with is not None:
            inside = [below for below in inside if not _difference(_options_of(below), made_with)]
        else:
            for below in inside:
                own = _options_of(below)
                if first is None and own is not None:
                    first = below, own
                if first is not None and _difference(first[1], own):
                    raise ValueError(f"{first[0]} and {below} were made with different options: read one at a time")
        folders[:] = [below.name for below in inside]
        found += [Path(parent, name) for name in files if name.endswith(".npz")]
    return sorted(found)


def _options_of(folder: Path) -> dict[str, Any] | None:
    """How an output in a subfolder was made; None if it is not one."""
    try:
        return read_folder_options(folder)
    except (OSError, ValueError):
        return None


def _difference(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> str:
    """Describes the options that differ, other than the folder of the recordings; empty if one side has none."""
    if one is None or other is None:
        return ""
    return describe_difference(one, {**other, "recordings": one.get("recordings")})


def saved_files(path: Path) -> list[Path]:
    """Returns the files of an output with embeddings: those in a folder, or the file itself.

    Raises:
        ValueError: The folder contains no embeddings.
    """
    if not path.is_dir():
        return [path]
    if files := find_embeddings(path):
        return files
    raise ValueError(f"{path} contains no embeddings")


def read_folder_options(folder: Path) -> dict[str, Any] | None:
    """Reads how the embeddings in a folder were made; None if the folder does not say.

    Raises:
        ValueError: The options are damaged.
        OSError: The options cannot be read.
    """
    stored = next((file for name in (OPTIONS_FILE, OPTIONS_FILE_0_1) if (file := folder / name).is_file()), None)
    return None if stored is None else embedding_files.parse_options(stored.read_bytes(), stored)


def _read_records(path: Path) -> Contents:
    shards = [path] if path.is_file() else embedding_files.existing_shards(path)
    if not shards:
        raise FileNotFoundError(f"{path} does not exist")
    from vggish_keras import records  # loads TensorFlow

    count = _Count()
    options = embedding_files.read_options(shards[0])
    for shard in shards:
        for record in records.read(shard):
            length = len(record.embedding)
            duration = record.end_time_seconds - record.start_time_seconds
            hop_seconds = options.get("hop_seconds", duration / max(length, 1))
            count.add(record.start_time_seconds + hop_seconds * np.arange(length), dtype=str(record.embedding.dtype))
    return count.contents(options)


def _read_database(path: Path) -> Contents:
    count = _Count()
    with DatabaseErrors(path), contextlib.closing(connect_to_read(path)) as database:
        (options,) = database.execute("SELECT json FROM options").fetchone() or ("{}",)
        for times, dtype in database.execute("SELECT times, dtype FROM recordings"):
            count.add(np.frombuffer(times), dtype=str(np.dtype(dtype)))
    return count.contents(embedding_files.parse_options(options, path))

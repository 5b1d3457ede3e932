"""Where the embeddings of a corpus go, so that a run can be stopped at any moment and taken up again."""

import csv
import io
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vggish_keras import formats, params, records
from vggish_keras.embedder import Embeddings
from vggish_keras.inputs import Recordings

RECORDS_SUFFIX = ".tfrecord"
FAILURES = "failures.csv"


class Output(Protocol):
    """What embeddings are handed to as they come."""

    def has(self, path: Path) -> bool:
        """Whether the embeddings of a recording are there."""

    def add(self, path: Path, embeddings: Embeddings) -> None:
        """Keeps the embeddings of a recording, whatever happens to the process after that."""

    def list_failures(self, failures: list[tuple[Path, str]]) -> None:
        """Lists the bad recordings, each with the reason, where a user finds them."""

    def finish(self) -> None:
        """Makes the output complete."""

    def close(self) -> None:
        """Lets go of it, complete or not."""


def check_path(output: str) -> Path:
    """`output` as a Path, or a ValueError if it is neither a folder nor a file of a known format in one."""
    if output.endswith(os.sep) or os.path.isdir(output) or not Path(output).suffix:
        return Path(output)
    return formats.check_path(output, (*formats.SUFFIXES, RECORDS_SUFFIX))


def open_output(
    path: Path, recordings: Recordings, options: dict[str, Any], resume: bool, write_records: "RecordWriter"
) -> Output:
    """Opens the output at a path that `check_path` gave, a folder or one file; see there for arguments and errors."""
    if path.suffix == RECORDS_SUFFIX:
        return FileOutput(path, recordings, options, resume, write_records.write)
    if path.suffix in formats.SUFFIXES and not path.is_dir():
        return FileOutput(path, recordings, options, resume)
    return FolderOutput(path, recordings, options, resume)


def is_complete(path: Path, write_records: "RecordWriter") -> bool:
    """Whether a file that `open_output` would make is there, and nothing unfinished beside it."""
    files = write_records.files(path) if path.suffix == RECORDS_SUFFIX else [path]
    return all(file.is_file() for file in files) and not _unfinished(path).exists()


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished")


class FolderOutput:
    """One .npz file for each recording, in a tree of folders like theirs.

    Args:
        folder: The folder, made if it is not there.
        recordings: What will be added.
        options: How it is embedded, kept in the folder.
        resume: False makes all files anew; True keeps those that are there, if `options` are the same.

    Raises:
        ValueError: `resume` with other options.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path, recordings: Recordings, options: dict[str, Any], resume: bool) -> None:
        self._folder = folder
        self._recordings = recordings
        folder.mkdir(parents=True, exist_ok=True)
        self._resume = resume
        about = folder / "options.json"
        if resume and about.exists():
            _check_options(json.loads(about.read_text()), options, folder)
        _write_aside(about, json.dumps(options, indent=2) + "\n")

    def _target(self, path: Path) -> Path:
        # With the suffix of the recording: x.wav and x.mp3 may lie in one folder.
        below = self._recordings.below(path)
        return self._folder / below.with_name(f"{below.name}.npz")

    def has(self, path: Path) -> bool:
        return self._resume and self._target(path).exists()

    def add(self, path: Path, embeddings: Embeddings) -> None:
        target = self._target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        formats.write(target, [(str(path), embeddings)])

    def list_failures(self, failures: list[tuple[Path, str]]) -> None:
        _write_failures(self._folder / FAILURES, failures)

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


class FileOutput:
    """All recordings in one file, or in the shards of one.

    Until it is complete, what is finished is kept in a database beside it, OUTPUT.unfinished.

    Args:
        path: The file. It is replaced if it exists.
        recordings: What will be added.
        options: How it is embedded, kept in the database.
        resume: True goes on with the database that is there, if `options` are the same.
        write: Makes the file from a collection of names and embeddings in the order of `recordings`.

    Raises:
        FileExistsError: There is a database, and `resume` is False.
        ValueError: `resume` with other options.
        OSError: The folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        recordings: Recordings,
        options: dict[str, Any],
        resume: bool,
        write: Callable[[Path, Any], None] = formats.write,
    ) -> None:
        self._path = path
        self._recordings = recordings
        self._write = write
        self._unfinished = _unfinished(path)
        if self._unfinished.exists() and not resume:
            raise FileExistsError(f"{self._unfinished} is what a stopped run finished: resume it, or remove this file")
        with _DatabaseErrors(self._unfinished):
            self._database = sqlite3.connect(self._unfinished)
            # Survives the death of the process; a commit waits for no disk.
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.execute("CREATE TABLE IF NOT EXISTS options (json TEXT)")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS recordings (name BLOB PRIMARY KEY, times BLOB, dtype TEXT, embeddings BLOB)"
            )
            before = self._database.execute("SELECT json FROM options").fetchone()
            if before:
                try:
                    _check_options(json.loads(before[0]), options, self._unfinished)
                except ValueError:
                    self._database.close()
                    raise
            else:
                self._database.execute("INSERT INTO options VALUES (?)", [json.dumps(options)])
            self._database.commit()

    def has(self, path: Path) -> bool:
        with _DatabaseErrors(self._unfinished):
            found = self._database.execute("SELECT 1 FROM recordings WHERE name = ?", [os.fsencode(path)])
            return found.fetchone() is not None

    def add(self, path: Path, embeddings: Embeddings) -> None:
        times, values = embeddings
        row = (os.fsencode(path), times.tobytes(), values.dtype.str, values.tobytes())
        with _DatabaseErrors(self._unfinished):
            self._database.execute("INSERT INTO recordings VALUES (?, ?, ?, ?)", row)
            self._database.commit()

    def list_failures(self, failures: list[tuple[Path, str]]) -> None:
        _write_failures(self._path.with_name(f"{self._path.stem}.{FAILURES}"), failures)

    def finish(self) -> None:
        """Writes the file and removes the database; of no recordings it makes no file."""
        finished = _Finished(self._database, [path for path in self._recordings.paths if self.has(path)])
        if finished.paths:
            with _DatabaseErrors(self._unfinished):
                self._write(self._path, finished)
        self._database.close()
        self._unfinished.unlink()

    def close(self) -> None:
        self._database.close()


class _Finished:
    """Names and embeddings of recordings in a database."""

    def __init__(self, database: sqlite3.Connection, paths: Sequence[Path]) -> None:
        self._database = database
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[str, Embeddings]]:
        for path in self.paths:
            query = "SELECT times, dtype, embeddings FROM recordings WHERE name = ?"
            times, dtype, values = self._database.execute(query, [os.fsencode(path)]).fetchone()
            rows = np.frombuffer(values, dtype).reshape(-1, params.EMBEDDING_SIZE)
            yield str(path), Embeddings(np.frombuffer(times), rows)


class _DatabaseErrors:
    """Turns the database's errors into an OSError that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: Any, error: BaseException | None, _traceback: Any) -> None:
        if isinstance(error, sqlite3.Error):
            raise OSError(f"{self._path}: {error}") from error


def _check_options(before: dict[str, Any], options: dict[str, Any], where: Path) -> None:
    differing = [name for name in options if before.get(name) != options[name]]
    if differing:
        was = ", ".join(f"{name} {before.get(name)}" for name in differing)
        now = ", ".join(f"{name} {options[name]}" for name in differing)
        raise ValueError(f"{where} was begun with {was}, not with {now}")


# === AudioSet's records ===


class RecordWriter(NamedTuple):
    """Writes recordings as AudioSet's records, each shard a file with as many recordings.

    Attributes:
        hop_seconds: Distance of examples.
        shards: The number of files: one is OUTPUT.tfrecord, more are OUTPUT-00000-of-00004.tfrecord and so on.
        segments: Names, times and labels by the recordings' names without suffix; None takes the path as the name and
            all of the recording, without labels.
    """

    hop_seconds: float
    shards: int
    segments: dict[str, records.Segment] | None

    def write(self, path: Path, recordings: Any) -> None:
        made = (self._record(Path(name), embeddings) for name, embeddings in recordings)
        for index, shard in enumerate(self.files(path)):
            start, stop = (len(recordings) * part // self.shards for part in (index, index + 1))
            records.write(shard, (next(made) for _ in range(stop - start)))

    def files(self, path: Path) -> list[Path]:
        if self.shards == 1:
            return [path]
        name = f"{path.stem}-{{:05}}-of-{self.shards:05}{path.suffix}"
        return [path.with_name(name.format(index)) for index in range(self.shards)]

    def _record(self, path: Path, embeddings: Embeddings) -> records.Record:
        if self.segments is not None:
            return records.Record(*self.segments[path.stem], embeddings.values)
        return records.Record(str(path), 0.0, len(embeddings.times) * self.hop_seconds, (), embeddings.values)


# === Failures ===


def _write_failures(path: Path, failures: list[tuple[Path, str]]) -> None:
    """Lists bad recordings in the columns file and reason; of none there is no file, not even an old one."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("file", "reason"), *failures])
    _write_aside(path, text.getvalue())


def _write_aside(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_bytes(text.encode(errors="surrogateescape"))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)

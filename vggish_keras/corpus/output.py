"""Resumable outputs for the embeddings of a corpus."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vggish_keras import embedding_files, params
from vggish_keras._atomic import atomic_write, remove_leftovers
from vggish_keras.corpus.audioset import FAILURES, RECORDS_SUFFIX, write_failures
from vggish_keras.embeddings import Embeddings
from vggish_keras.recordings import Recordings

OPTIONS_FILE = "vggish.json"
"""Records how the embeddings in a folder were made."""
_OPTIONS_FILE_0_1 = "vggish-keras.json"
LOCK = "vggish.lock"
"""Exists in a folder while a run writes to it."""
_IN_USE = "in use by another run"


class Output(Protocol):
    """A sink for embeddings."""

    def has(self, path: Path) -> bool:
        """Whether the output already has the embeddings of a recording."""

    def add(self, path: Path, embeddings: Embeddings) -> None:
        """Stores the embeddings of a recording; they survive the end of the process."""

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> None:
        """Completes the output for these recordings, and lists failures with their reasons."""

    def close(self) -> None:
        """Releases the output, complete or not."""


class Writer(Protocol):
    """Writes the embeddings of a corpus to a single file, or to its shards."""

    def files(self, path: Path) -> list[Path]:
        """The files that `write` creates for an output path."""

    def write(self, path: Path, recordings: Collection[tuple[str, Embeddings]], options: Mapping[str, Any]) -> None:
        """Writes named embeddings, made with these options."""


class EmbeddingsWriter:
    """Writes .npz, .csv and .parquet files."""

    def files(self, path: Path) -> list[Path]:
        return [path]

    def write(self, path: Path, recordings: Collection[tuple[str, Embeddings]], options: Mapping[str, Any]) -> None:
        embedding_files.write(path, recordings, options)


class Target(NamedTuple):
    """Where an output is written: a folder, or a file in the format of its suffix."""

    path: Path
    is_folder: bool


def parse_target(output: str) -> Target:
    """Interprets an output path: a folder if it exists as one, ends with a slash or has no suffix; else a file.

    Raises:
        ValueError: The path is neither a folder nor a file of a known format in an existing folder.
    """
    if not output:
        raise ValueError("the output path is empty")
    path = Path(output)
    if output.endswith(os.sep) or path.is_dir() or not path.suffix:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file, not a folder")
        return Target(path, is_folder=True)
    try:
        return Target(embedding_files.check_path(path, (*embedding_files.SUFFIXES, RECORDS_SUFFIX)), is_folder=False)
    except ValueError as error:
        raise ValueError(f"{error}; to create a new folder, end its name with {os.sep}") from error


def open_output(
    target: Target | None, writer: Writer, recordings: Recordings, options: Mapping[str, Any], resume: bool
) -> Output:
    """Opens an output; see `FolderOutput` and `FileOutput`. Without a target, embeddings are not stored."""
    if target is None:
        return NoOutput()
    if target.is_folder:
        return FolderOutput(target.path, recordings, options, resume)
    return FileOutput(target.path, recordings, options, resume, writer)


def is_complete(target: Target, writer: Writer) -> bool:
    """Whether a single-file output exists without a database of unfinished recordings.

    Files that a killed run left beside a complete output are removed.

    Raises:
        OSError: The output is in use by another run, or the leftover files cannot be removed.
    """
    if target.is_folder:
        return False
    database, *others = _database_files(target.path)
    complete = all(file.is_file() for file in writer.files(target.path)) and not database.exists()
    if complete and any(map(os.path.lexists, [*others, _lock_of(target.path)])):
        with _locked(_lock_of(target.path), target.path):
            _remove_database(target.path)
    return complete


class NoOutput:
    """Stores nothing."""

    def has(self, path: Path) -> bool:
        return False

    def add(self, path: Path, embeddings: Embeddings) -> None:
        pass

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> None:
        pass

    def close(self) -> None:
        pass


class FolderOutput:
    """One .npz file per recording, in the folder structure of the recordings.

    Args:
        folder: The folder; created if it does not exist.
        recordings: The recordings that will be added.
        options: How they are embedded. Stored in each file and, with the folder of the recordings, in the folder.
        resume: True keeps existing embeddings of these recordings; False removes them.

    Raises:
        ValueError: The folder contains embeddings of different recordings, or made with different options.
        OSError: The folder cannot be written, or is in use by another run.
    """

    def __init__(self, folder: Path, recordings: Recordings, options: Mapping[str, Any], resume: bool) -> None:
        self._folder = folder
        self._recordings = recordings
        self._options = options
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_locked(folder / LOCK, folder))
            self._open({**options, "recordings": str(recordings.folder)}, resume)
            self._resources = stack.pop_all()

    def _open(self, options: Mapping[str, Any], resume: bool) -> None:
        options_file = self._folder / OPTIONS_FILE
        if (old := self._folder / _OPTIONS_FILE_0_1).is_file() and not options_file.exists():
            old.rename(options_file)
        targets = [self._target(path) for path in self._recordings.paths]
        remove_leftovers([options_file, self._folder / FAILURES, *targets])
        if options_file.exists():
            _check_options(options_file.read_text(), options, self._folder)
        else:
            with atomic_write(options_file) as partial:
                partial.write_text(json.dumps(options, indent=2) + "\n")
        if not resume:
            for target in filter(os.path.isfile, targets):
                target.unlink()

    def _target(self, path: Path) -> Path:
        # Includes the suffix of the recording, because x.wav and x.mp3 may be in the same folder.
        below = self._recordings.relative_path(path)
        return self._folder / below.with_name(f"{below.name}.npz")

    def has(self, path: Path) -> bool:
        return os.path.isfile(self._target(path))  # False if the name is too long

    def add(self, path: Path, embeddings: Embeddings) -> None:
        target = self._target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        embedding_files.write(target, [(str(path), embeddings)], self._options)

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> None:
        write_failures(self._folder / FAILURES, failures)

    def close(self) -> None:
        self._resources.close()


class FileOutput:
    """All recordings in a single file, or in its shards.

    Until every recording is embedded without a failure, results are kept in a database beside the file,
    OUTPUT.unfinished.

    Args:
        path: The file. An existing file is replaced.
        recordings: The recordings that will be added.
        options: How they are embedded. Stored in the file and, with the folder of the recordings, in the database.
        resume: True continues with an existing database.
        writer: Writes the file from named embeddings in the order of `recordings`.

    Raises:
        FileExistsError: The database of an interrupted run exists, and `resume` is False.
        ValueError: The database belongs to different recordings or options.
        OSError: The folder cannot be written, the file is in use by another run, or the path of the database is a
            link.
    """

    def __init__(
        self,
        path: Path,
        recordings: Recordings,
        options: Mapping[str, Any],
        resume: bool,
        writer: Writer,
    ) -> None:
        self._path = path
        self._recordings = recordings
        self._options = options
        self._writer = writer
        self._failures = path.with_name(f"{path.name}.{FAILURES}")
        self._unfinished = _database_files(path)[0]
        with contextlib.ExitStack() as stack:
            stack.enter_context(_locked(_lock_of(path), path))
            remove_leftovers([self._failures, *writer.files(path), embedding_files.csv_options_path(path)])
            for file in _database_files(path):
                if file.is_symlink():
                    raise OSError(f"{file} is a link, expected the database of an interrupted run: delete it")
            existed = self._unfinished.exists()
            with _DatabaseErrors(self._unfinished):
                self._database = stack.enter_context(contextlib.closing(sqlite3.connect(self._unfinished, timeout=0)))
                self._open({**options, "recordings": str(recordings.folder)}, existed, resume)
            self._resources = stack.pop_all()

    def _open(self, options: Mapping[str, Any], existed: bool, resume: bool) -> None:
        execute = self._database.execute
        # One process at a time. Commits survive the end of the process, but do not wait for the disk.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = OFF"):
            execute(f"PRAGMA {pragma}")
        execute("CREATE TABLE IF NOT EXISTS options (json TEXT)")
        execute(
            "CREATE TABLE IF NOT EXISTS recordings (name BLOB PRIMARY KEY, times BLOB, dtype TEXT, embeddings BLOB)"
        )
        (written,) = execute("PRAGMA user_version").fetchone()  # whether the output was written from it
        if existed and not resume:
            if not written:
                raise FileExistsError(
                    f"{self._unfinished} contains the results of an interrupted run: use --resume, or delete it"
                )
            execute("DELETE FROM options")
            execute("DELETE FROM recordings")
        before = execute("SELECT json FROM options").fetchone()
        if before:
            _check_options(before[0], options, self._unfinished)
            named = {self._name(path) for path in self._recordings.paths}
            others = [name for (name,) in execute("SELECT name FROM recordings") if name not in named]
            if others:
                raise ValueError(
                    f"{self._unfinished} contains {len(others)} recordings that are not among the inputs, such as "
                    f"{os.fsdecode(others[0])}: include them, or choose a different output"
                )
        else:
            execute("INSERT INTO options VALUES (?)", [json.dumps(options)])
        execute("PRAGMA user_version = 0")
        self._database.commit()

    def _name(self, path: Path) -> bytes:
        return os.fsencode(self._recordings.relative_path(path))

    def has(self, path: Path) -> bool:
        with _DatabaseErrors(self._unfinished):
            found = self._database.execute("SELECT 1 FROM recordings WHERE name = ?", [self._name(path)])
            return found.fetchone() is not None

    def add(self, path: Path, embeddings: Embeddings) -> None:
        times, values = embeddings
        row = (self._name(path), times.tobytes(), values.dtype.str, values.tobytes())
        with _DatabaseErrors(self._unfinished):
            self._database.execute("INSERT INTO recordings VALUES (?, ?, ?, ?)", row)
            self._database.commit()

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> None:
        """Writes the file, unless there are no recordings; removes the database if nothing failed."""
        write_failures(self._failures, failures)
        if not all(map(self.has, paths)):
            return
        if paths:
            with _DatabaseErrors(self._unfinished):
                finished = _Finished(self._database, {str(path): self._name(path) for path in paths})
                self._writer.write(self._path, finished, self._options)
                self._database.execute("PRAGMA user_version = 1")
                self._database.commit()
        if not paths or not failures:
            self._database.close()
            _remove_database(self._path)

    def close(self) -> None:
        self._resources.close()


def _database_files(path: Path) -> list[Path]:
    """The database beside a file, and files that SQLite may leave beside it, such as its log when the disk is full."""
    return [path.with_name(f"{path.name}.unfinished{suffix}") for suffix in ("", "-journal", "-wal", "-shm")]


def _remove_database(path: Path) -> None:
    for file in _database_files(path):  # the database before its log, without which it may be corrupt
        file.unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished-lock")


class _Finished(Collection[tuple[str, Embeddings]]):
    """Named embeddings, read from a database one recording at a time."""

    def __init__(self, database: sqlite3.Connection, names: dict[str, bytes]) -> None:
        self._database = database
        self._names = names

    def __contains__(self, item: object) -> bool:
        return item in self._names

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[str, Embeddings]]:
        for path, name in self._names.items():
            query = "SELECT times, dtype, embeddings FROM recordings WHERE name = ?"
            times, dtype, values = self._database.execute(query, [name]).fetchone()
            rows = np.frombuffer(values, dtype).reshape(-1, params.EMBEDDING_SIZE)
            yield path, Embeddings(np.frombuffer(times), rows)


class _DatabaseErrors:
    """Turns errors of a database into an OSError that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: Any, error: BaseException | None, _traceback: Any) -> None:
        if isinstance(error, sqlite3.Error):
            locked = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
            reason = _IN_USE if locked else error
            raise OSError(f"{self._path}: {reason}") from error


def _check_options(stored: str, options: Mapping[str, Any], where: Path) -> None:
    """Raises a ValueError if an output was started with different options, other than the version."""
    try:
        known = json.loads(stored)
    except ValueError:
        known = None
    if not isinstance(known, dict):
        raise ValueError(f"{where} was not written by vggish: its options cannot be read")
    if "hop" in known:
        raise ValueError(
            f"{where} was started by an earlier version, which did not record the content of the weights: choose a "
            "different output"
        )
    if differing := [name for name in options if name != "version" and known.get(name) != options[name]]:
        before = ", ".join(f"{name} {known.get(name)}" for name in differing)
        now = ", ".join(f"{name} {options[name]}" for name in differing)
        raise ValueError(f"{where} was started with {before}, but this run has {now}: choose a different output")


@contextlib.contextmanager
def _locked(path: Path, output: Path) -> Iterator[None]:
    """Locks an output by a file that exists while the block runs.

    Raises:
        OSError: The output is in use by another run, or the lock file is a link or cannot be created.
    """
    descriptor = _lock(path, output)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # still locked: after closing, the file could be the next run's
        os.close(descriptor)


def _lock(path: Path, output: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if not _try_lock(descriptor):
            os.close(descriptor)
            raise OSError(f"{output}: {_IN_USE}")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        os.close(descriptor)  # a run that has just ended removed this file


def _try_lock(descriptor: int) -> bool:
    """Locks a file until it is closed; returns False if a different process has locked it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # depending on the file system
        return False
    except OSError:  # a file system without locks
        return True
    return True

"""Resumable outputs for the embeddings of a corpus."""

import contextlib
import errno
import json
import math
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from vggish_keras import embedding_files, params
from vggish_keras._atomic import atomic_write, remove_leftovers, replace
from vggish_keras._errors import counted
from vggish_keras._lock import locked
from vggish_keras._validation import file_suffix
from vggish_keras.corpus.audioset import FAILURES, failures_path, read_failures, update_failures
from vggish_keras.embedding_files import RECORDS_SUFFIX
from vggish_keras.embeddings import Embeddings
from vggish_keras.recordings import Recordings

OPTIONS_FILE = "vggish.json"
"""Records how the embeddings in a folder were made."""
OPTIONS_FILE_0_1 = "vggish-keras.json"
LOCK = ".vggish.lock"
"""The lock file in a folder."""
UNFINISHED_FOLDER = ".vggish.unfinished"
"""Holds results in a folder until they are on the disk."""
UNFINISHED = ".unfinished"
"""Suffix of the database beside a file."""
_COMMIT_SECONDS = 1.0
_IN_USE = "in use by another run"

OldResults = Literal["refuse", "keep", "replace"]
"""What a run does if its output already has embeddings: it raises an error, adds to them, or starts over."""


class Output(Protocol):
    """A sink for embeddings."""

    def has(self, path: Path) -> bool:
        """Whether the output already has the embeddings of a recording."""

    def add(self, path: Path, embeddings: Embeddings) -> None:
        """Stores the embeddings of a recording. A process that is killed loses at most those of one second."""

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> Path | None:
        """Completes the output for these recordings, and lists failures with their reasons.

        Returns:
            The database that is kept beside a complete file, because recordings failed.
        """

    def close(self) -> None:
        """Releases the output, complete or not."""


class Writer(Protocol):
    """Writes the embeddings of a corpus to a single file, or to its shards."""

    def files(self, path: Path) -> list[Path]:
        """The files that `write` creates for an output path."""

    def others(self, path: Path) -> list[Path]:
        """Existing files of the same output with a different number of shards, which `write` replaces."""

    def write(self, path: Path, recordings: Collection[tuple[str, Embeddings]], options: Mapping[str, Any]) -> None:
        """Writes named embeddings, made with these options."""


class EmbeddingsWriter:
    """Writes .npz, .csv and .parquet files."""

    def files(self, path: Path) -> list[Path]:
        return [path]

    def others(self, path: Path) -> list[Path]:
        return []

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
    target: Target | None,
    writer: Writer,
    recordings: Recordings,
    options: Mapping[str, Any],
    old_results: OldResults = "refuse",
    accept_failures: bool = False,
) -> Output:
    """Opens an output; see `FolderOutput` and `FileOutput`. Without a target, embeddings are not stored."""
    if target is None:
        return NoOutput()
    if target.is_folder:
        return FolderOutput(target.path, recordings, options, old_results)
    return FileOutput(target.path, recordings, options, old_results, writer, accept_failures)


def describe_results(target: Target, writer: Writer, recordings: Recordings) -> str:
    """Describes the results that an output already has, as in "x.npz already exists"; empty if it has none."""
    if target.is_folder:
        count = sum(os.path.isfile(_npz_path(target.path, recordings, path)) for path in recordings.paths)
        return f"{target.path} already contains embeddings of {count} of the recordings" if count else ""
    for file in (*writer.files(target.path), *writer.others(target.path)):
        if os.path.lexists(file):
            return f"{file} already exists"
    database = _database_files(target.path)[0]
    return f"{database} contains the results of an interrupted run" if os.path.lexists(database) else ""


def check_results(target: Target, writer: Writer, recordings: Recordings, old_results: OldResults) -> None:
    """Checks the results that an output already has.

    Raises:
        FileExistsError: The output has results, which are refused.
        ValueError: The results to keep are in a different number of shards.
    """
    if old_results == "refuse" and (results := describe_results(target, writer, recordings)):
        raise FileExistsError(f"{results}: use --resume to keep its embeddings, or --overwrite to replace them")
    if old_results != "keep" or target.is_folder or _database_files(target.path)[0].exists():
        return
    if others := writer.others(target.path):
        raise ValueError(f"{others[0]} is from a run with a different number of --shards: use that, or --overwrite")


def check_writable(target: Target) -> None:
    """Raises an OSError if files cannot be created where an output will be; leaves nothing behind."""
    folder = target.path if target.is_folder else target.path.parent
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target.path)) from error


def is_complete(target: Target, writer: Writer) -> bool:
    """Whether a single-file output exists without a database of unfinished recordings.

    Files that a killed run left beside a complete output are removed.

    Raises:
        OSError: The output is in use by another run, or the leftover files cannot be removed.
    """
    if target.is_folder:
        return False
    database, *others = _database_files(target.path)
    complete = _is_written(target.path, writer) and not database.exists()
    if complete and any(map(os.path.lexists, others)):
        with _locked(_lock_of(target.path), target.path):
            _remove_database(target.path)
    return complete


def check_complete(target: Target, writer: Writer, recordings: Recordings, options: Mapping[str, Any]) -> None:
    """Checks that a complete single-file output was made from the inputs of this run and with its options.

    Args:
        target: The file.
        writer: As in `open_output`.
        recordings: The inputs.
        options: Those options that are known before the weights are loaded.

    Raises:
        ValueError: The file was made with different options, or an .npz, .csv or .parquet file has no embeddings of
            recordings that are not in the list of failures either. Under "valid" padding, such a recording may only be
            too short.
    """
    path = target.path
    made_with = embedding_files.read_options(writer.files(path)[0])
    known = {name: value for name, value in options.items() if name in made_with}
    if difference := describe_difference(made_with, known):
        raise ValueError(
            f"{path} was made with {difference}: choose a different output, or replace it with --overwrite"
        )
    if file_suffix(path) == RECORDS_SUFFIX or made_with.get("padding", "valid") == "valid":
        return
    # The same recording may be named from different folders.
    named = [Path(name).parts for name in set(embedding_files.read_rows(path).files)]
    names = {Path(*parts[start:]) for parts in named for start in range(len(parts))}
    failed = read_failures(failures_path(path))
    missing = [
        file
        for file in recordings.paths
        if file not in names and recordings.relative_path(file) not in names and str(file) not in failed
    ]
    if missing:
        raise ValueError(
            f"{path} is complete, but has no embeddings of {counted(len(missing), 'recording')}, such as {missing[0]}: "
            "choose a different output, or replace it with --overwrite"
        )


def accept_failures(target: Target, writer: Writer, recordings: Recordings) -> int:
    """Completes a single-file output that lacks only recordings that failed, by removing its database.

    Returns:
        The number of recordings that failed; 0 if the output was not completed.

    Raises:
        OSError: The output is in use by another run, or cannot be read or removed.
    """
    database = _database_files(target.path)[0]
    if target.is_folder or not database.exists() or not _is_written(target.path, writer):
        return 0
    with _locked(_lock_of(target.path), target.path):
        written, names = _read_database(database)
        failed = read_failures(failures_path(target.path)).keys()
        missing = {str(path) for path in recordings.paths if os.fsencode(recordings.relative_path(path)) not in names}
        if not written or not missing or len(names) + len(missing) != len(recordings.paths) or not missing <= failed:
            return 0
        _remove_database(target.path)
    return len(missing)


def _is_written(path: Path, writer: Writer) -> bool:
    return all(file.is_file() for file in writer.files(path))


def _read_database(database: Path) -> tuple[bool, set[bytes]]:
    """Whether the output was written from a database, and the names of its recordings."""
    with DatabaseErrors(database), contextlib.closing(connect_to_read(database)) as connection:
        (written,) = connection.execute("PRAGMA user_version").fetchone()
        return bool(written), {name for (name,) in connection.execute("SELECT name FROM recordings")}


class NoOutput:
    """Stores nothing."""

    def has(self, path: Path) -> bool:
        return False

    def add(self, path: Path, embeddings: Embeddings) -> None:
        pass

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> Path | None:
        return None

    def close(self) -> None:
        pass


class FolderOutput:
    """One .npz file per recording, in the folder structure of the recordings.

    Args:
        folder: The folder; created if it does not exist.
        recordings: The recordings that will be added.
        options: How they are embedded. Stored in each file and, with the folder of the recordings, in the folder.
        old_results: Whether to refuse, keep or replace existing embeddings of these recordings.

    Raises:
        FileExistsError: The folder has embeddings of these recordings, which are refused.
        ValueError: The folder contains embeddings of different recordings, or made with different options.
        OSError: The folder cannot be written, or is in use by another run.
    """

    def __init__(
        self, folder: Path, recordings: Recordings, options: Mapping[str, Any], old_results: OldResults
    ) -> None:
        self._folder = folder
        self._recordings = recordings
        self._options = options
        self._unfinished = folder / UNFINISHED_FOLDER
        self._pending: dict[Path, Path] = {}
        self._committed = -math.inf
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_locked(folder / LOCK, folder))
            self._remove_unfinished()
            stack.callback(shutil.rmtree, self._unfinished, ignore_errors=True)
            self._open({**options, "recordings": str(recordings.folder)}, old_results)
            self._resources = stack.pop_all()

    def _remove_unfinished(self) -> None:
        """Removes what a killed run left."""
        if self._unfinished.is_symlink():
            raise OSError(f"{self._unfinished} is a link, expected the results of an interrupted run: delete it")
        if self._unfinished.exists():
            shutil.rmtree(self._unfinished)

    def _open(self, options: Mapping[str, Any], old_results: OldResults) -> None:
        options_file = self._folder / OPTIONS_FILE
        if (old := self._folder / OPTIONS_FILE_0_1).is_file() and not options_file.exists():
            replace({old: options_file})
        targets = [self._target(path) for path in self._recordings.paths]
        remove_leftovers([options_file, self._folder / FAILURES])
        check_results(Target(self._folder, is_folder=True), EmbeddingsWriter(), self._recordings, old_results)
        if options_file.exists():
            try:
                _check_options(options_file.read_text(), options, self._folder)
            except ValueError:
                if old_results != "replace":
                    raise
                self._check_no_others(targets)
        if old_results == "replace":
            for target in filter(os.path.isfile, targets):
                target.unlink()
        if old_results == "replace" or not options_file.exists():
            with atomic_write(options_file) as partial:
                partial.write_text(json.dumps(options, indent=2) + "\n")

    def _check_no_others(self, targets: Collection[Path]) -> None:
        """Raises a ValueError if embeddings of other recordings would lie beside those made with different options."""
        others = sorted(set(self._folder.rglob("*.npz")).difference(targets))
        if others:
            raise ValueError(
                f"{self._folder} was started with different options and also contains .npz files that do not belong to "
                f"these recordings ({len(others)}), such as {others[0]}: delete them, or choose a different output"
            )

    def _target(self, path: Path) -> Path:
        return _npz_path(self._folder, self._recordings, path)

    def has(self, path: Path) -> bool:
        return os.path.isfile(self._target(path))  # False if the name is too long

    def add(self, path: Path, embeddings: Embeddings) -> None:
        target = self._target(path)
        # Has the final name, so that a name that the file system rejects is an error of this recording.
        unfinished = self._unfinished / target.relative_to(self._folder)
        try:
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            embedding_files.write_npz(unfinished, [(str(path), embeddings)], self._options)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from error
        self._pending[unfinished] = target
        # The files of a second wait for the disk together: measured with 300 files, 0.2 s instead of 6 s.
        if time.monotonic() - self._committed >= _COMMIT_SECONDS:
            self._commit()

    def _commit(self) -> None:
        try:
            # An interrupted call has moved some of them.
            replace({new: target for new, target in self._pending.items() if new.exists()})
        except OSError as error:
            self._pending.clear()
            raise OSError(str(error)) from error  # without a number, which could mean a rejected name
        self._pending.clear()
        self._committed = time.monotonic()

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> Path | None:
        self._commit()
        failed = {self._target(path) for path, _ in failures}
        update_failures(self._folder / FAILURES, failures, lambda path: self.has(path) or self._target(path) in failed)
        return None

    def close(self) -> None:
        try:
            self._commit()  # what an interrupted call has left
        finally:
            self._resources.close()


def _npz_path(folder: Path, recordings: Recordings, path: Path) -> Path:
    # Includes the suffix of the recording, because x.wav and x.mp3 may be in the same folder.
    below = recordings.relative_path(path)
    return folder / below.with_name(f"{below.name}.npz")


class FileOutput:
    """All recordings in a single file, or in its shards.

    Until every recording is embedded without a failure, or failures are accepted, results are kept in a database beside
    the file, OUTPUT.unfinished.

    Args:
        path: The file.
        recordings: The recordings that will be added.
        options: How they are embedded. Stored in the file and, with the folder of the recordings, in the database.
        old_results: Whether to refuse an existing file or database, to continue with the database, or to replace both.
            An existing file is kept until the new one is complete.
        writer: Writes the file from named embeddings in the order of `recordings`.
        accept_failures: True completes the file without the recordings that failed.

    Raises:
        FileExistsError: The file or the database of an interrupted run exists, and is refused.
        ValueError: The database belongs to different recordings or options.
        OSError: The folder cannot be written, the file is in use by another run, or the path of the database is a
            link.
    """

    def __init__(
        self,
        path: Path,
        recordings: Recordings,
        options: Mapping[str, Any],
        old_results: OldResults,
        writer: Writer,
        accept_failures: bool = False,
    ) -> None:
        self._path = path
        self._recordings = recordings
        self._options = options
        self._writer = writer
        self._accept_failures = accept_failures
        self._failures = failures_path(path)
        self._unfinished = _database_files(path)[0]
        with contextlib.ExitStack() as stack:
            stack.enter_context(_locked(_lock_of(path), path))
            remove_leftovers([self._failures, *writer.files(path), embedding_files.options_path(path)])
            for file in _database_files(path):
                if file.is_symlink():
                    raise OSError(f"{file} is a link, expected the database of an interrupted run: delete it")
            check_results(Target(path, is_folder=False), writer, recordings, old_results)
            if old_results == "replace":
                _remove_database(path)
            with DatabaseErrors(self._unfinished):
                self._database = stack.enter_context(contextlib.closing(sqlite3.connect(self._unfinished, timeout=0)))
                self._open({**options, "recordings": str(recordings.folder)})
            self._resources = stack.pop_all()

    def _open(self, options: Mapping[str, Any]) -> None:
        execute = self._database.execute
        # One process at a time. Commits survive the end of the process, but do not wait for the disk; after a power
        # failure, the latest may be missing.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL"):
            execute(f"PRAGMA {pragma}")
        execute("CREATE TABLE IF NOT EXISTS options (json TEXT)")
        execute(
            "CREATE TABLE IF NOT EXISTS recordings (name BLOB PRIMARY KEY, times BLOB, dtype TEXT, embeddings BLOB)"
        )
        before = execute("SELECT json FROM options").fetchone()
        if before:
            _check_options(before[0], options, self._unfinished)
            named = {self._name(path) for path in self._recordings.paths}
            others = [name for (name,) in execute("SELECT name FROM recordings") if name not in named]
            if others:
                raise ValueError(
                    f"{self._unfinished} contains recordings that are not among the inputs ({len(others)}), such as "
                    f"{os.fsdecode(others[0])}: include them, or choose a different output"
                )
        else:
            execute("INSERT INTO options VALUES (?)", [json.dumps(options)])
        execute("PRAGMA user_version = 0")
        self._database.commit()

    def _name(self, path: Path) -> bytes:
        return os.fsencode(self._recordings.relative_path(path))

    def has(self, path: Path) -> bool:
        with DatabaseErrors(self._unfinished):
            found = self._database.execute("SELECT 1 FROM recordings WHERE name = ?", [self._name(path)])
            return found.fetchone() is not None

    def add(self, path: Path, embeddings: Embeddings) -> None:
        times, values = embeddings
        row = (self._name(path), times.tobytes(), values.dtype.str, values.tobytes())
        with DatabaseErrors(self._unfinished):
            self._database.execute("INSERT INTO recordings VALUES (?, ?, ?, ?)", row)
            self._database.commit()

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> Path | None:
        """Writes the file, unless there are no recordings; removes the database if nothing failed."""
        # An interrupted run keeps the failures that it has not retried.
        inputs = set(self._recordings.paths)
        update_failures(self._failures, failures, lambda path: path not in inputs or self.has(path))
        if not all(map(self.has, paths)):
            return None
        if paths:
            with DatabaseErrors(self._unfinished):
                finished = _Finished(self._database, {str(path): self._name(path) for path in paths})
                self._writer.write(self._path, finished, self._options)
                self._database.execute("PRAGMA user_version = 1")
                self._database.commit()
        if paths and failures and not self._accept_failures:
            return self._unfinished
        self._database.close()
        _remove_database(self._path)
        return None

    def close(self) -> None:
        self._resources.close()


def _database_files(path: Path) -> list[Path]:
    """The database beside a file, and files that SQLite may leave beside it, such as its log when the disk is full."""
    return [path.with_name(f"{path.name}{UNFINISHED}{suffix}") for suffix in ("", "-journal", "-wal", "-shm")]


def connect_to_read(database: Path) -> sqlite3.Connection:
    """Opens a database for reading, also one that a killed run left."""
    # Without a log nobody writes to it; SQLite would still create one, and leave it behind.
    log = database.with_name(f"{database.name}-wal")
    mode = "mode=ro" if log.exists() else "immutable=1"
    return sqlite3.connect(f"{database.absolute().as_uri()}?{mode}", uri=True, timeout=0)


def _remove_database(path: Path) -> None:
    for file in _database_files(path):  # the database before its log, without which it may be corrupt
        file.unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


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


class DatabaseErrors:
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
        known = embedding_files.parse_options(stored, where)
    except ValueError as error:
        raise ValueError(f"{where} was not written by vggish: its options cannot be read") from error
    if "hop" in known:
        raise ValueError(
            f"{where} was started by an earlier version, which did not record the content of the weights: replace "
            "it with --overwrite, or choose a different output"
        )
    if difference := describe_difference(known, options):
        raise ValueError(
            f"{where} was started with {difference}: choose a different output, or replace this one with --overwrite"
        )


def describe_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describes the options that differ, as in "hop_seconds 0.96, but this run has hop_seconds 0.5".

    Returns "" for equal options; the version may differ.
    """
    differing = [name for name in now if name != "version" and before.get(name) != now[name]]
    if not differing:
        return ""

    def listed(options: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {options.get(name)}" for name in differing)

    return f"{listed(before)}, but this run has {listed(now)}"


@contextlib.contextmanager
def _locked(file: Path, output: Path) -> Iterator[None]:
    """Locks an output while the block runs.

    Raises:
        OSError: The output is in use by another run, or as in `locked`.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(file))
        except BlockingIOError as error:
            raise OSError(f"{output}: {_IN_USE}") from error
        yield

"""Where the embeddings of a corpus go, so that a run can be stopped at any moment and taken up again."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from vggish_keras import embedding_files, params
from vggish_keras._atomic import atomic_write, remove_leftovers
from vggish_keras.corpus.audioset import FAILURES, RECORDS_SUFFIX, RecordWriter, write_failures
from vggish_keras.embeddings import Embeddings
from vggish_keras.recordings import Recordings

ABOUT = "vggish.json"
_ABOUT_OF_0_1 = "vggish-keras.json"
"""Tells how the embeddings of a folder were made."""
LOCK = "vggish.lock"
"""Exists in a folder as long as a run writes to it."""


class Output(Protocol):
    """What embeddings are handed to as they come."""

    def has(self, path: Path) -> bool:
        """Whether the embeddings of a recording are there."""

    def add(self, path: Path, embeddings: Embeddings) -> None:
        """Keeps the embeddings of a recording, whatever happens to the process after that."""

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> None:
        """Makes the output of these recordings, and lists the bad ones, each with the reason."""

    def close(self) -> None:
        """Lets go of it, finished or not."""


class Target(NamedTuple):
    """Where an output goes: a folder, or a file of the format that its suffix tells."""

    path: Path
    is_folder: bool

    @property
    def is_records(self) -> bool:
        """Whether it is AudioSet's format."""
        return not self.is_folder and self.path.suffix == RECORDS_SUFFIX


def check_target(output: str) -> Target:
    """What `output` means: a folder if it is one, ends with a slash or has no suffix.

    Raises:
        ValueError: It is neither a folder nor a file of a known format in one.
    """
    path = Path(output)
    if not output:
        raise ValueError("the output has no name")
    if output.endswith(os.sep) or path.is_dir() or not path.suffix:
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file, not a folder")
        return Target(path, is_folder=True)
    try:
        return Target(embedding_files.check_path(path, (*embedding_files.SUFFIXES, RECORDS_SUFFIX)), is_folder=False)
    except ValueError as error:
        raise ValueError(f"{error}; a folder that is not there yet is named with {os.sep} at the end") from error


def open_output(
    target: Target, recordings: Recordings, options: dict[str, Any], resume: bool, write_records: RecordWriter
) -> Output:
    """Opens an output; see `FolderOutput` and `FileOutput`."""
    if target.is_folder:
        return FolderOutput(target.path, recordings, options, resume)
    if target.is_records:
        files = write_records.files(target.path)
        return FileOutput(target.path, recordings, options, resume, write_records.write, files)
    return FileOutput(target.path, recordings, options, resume)


def is_complete(target: Target, write_records: RecordWriter) -> bool:
    """Whether a single file is there, and no database of unfinished recordings beside it.

    What a killed run left beside a complete file is removed.

    Raises:
        OSError: Another run writes to it, or what a killed run left beside the file cannot be removed.
    """
    if target.is_folder:
        return False
    files = write_records.files(target.path) if target.is_records else [target.path]
    database, *others = _database_files(target.path)
    complete = all(file.is_file() for file in files) and not database.exists()
    if complete and any(map(os.path.lexists, [*others, _lock_of(target.path)])):
        with _locked(_lock_of(target.path), target.path):
            _remove_database(target.path)
    return complete


class FolderOutput:
    """One .npz file for each recording, in a tree of folders like theirs.

    Args:
        folder: The folder, made if it is not there.
        recordings: What will be added.
        options: How it is embedded. They are kept in the folder, with the folder of the recordings.
        resume: False removes what is there of these recordings; True keeps it.

    Raises:
        ValueError: The folder holds embeddings of other recordings or made with other options.
        OSError: The folder cannot be written, or another run writes to it.
    """

    def __init__(self, folder: Path, recordings: Recordings, options: dict[str, Any], resume: bool) -> None:
        self._folder = folder
        self._recordings = recordings
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_locked(folder / LOCK, folder))
            self._open({**options, "recordings": str(recordings.folder)}, resume)
            self._resources = stack.pop_all()

    def _open(self, options: dict[str, Any], resume: bool) -> None:
        about = self._folder / ABOUT
        if (before := self._folder / _ABOUT_OF_0_1).is_file() and not about.exists():
            before.rename(about)
        targets = [self._target(path) for path in self._recordings.paths]
        remove_leftovers([about, self._folder / FAILURES, *targets])
        if about.exists():
            _check_options(about.read_text(), options, self._folder)
        else:
            with atomic_write(about) as aside:
                aside.write_text(json.dumps(options, indent=2) + "\n")
        if not resume:
            for target in filter(os.path.isfile, targets):
                target.unlink()

    def _target(self, path: Path) -> Path:
        # With the suffix of the recording: x.wav and x.mp3 may lie in one folder.
        below = self._recordings.below(path)
        return self._folder / below.with_name(f"{below.name}.npz")

    def has(self, path: Path) -> bool:
        return os.path.isfile(self._target(path))  # false for a name that is too long

    def add(self, path: Path, embeddings: Embeddings) -> None:
        target = self._target(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        embedding_files.write(target, [(str(path), embeddings)])

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> None:
        write_failures(self._folder / FAILURES, failures)

    def close(self) -> None:
        self._resources.close()


class FileOutput:
    """All recordings in one file, or in the shards of one.

    What is finished is kept in a database beside it, OUTPUT.unfinished, until no recording is missing and none is bad.

    Args:
        path: The file. It is replaced if it exists.
        recordings: What will be added.
        options: How it is embedded. They are kept in the database, with the folder of the recordings.
        resume: True goes on with the database that is there.
        write: Makes the file from a collection of names and embeddings in the order of `recordings`.
        files: What `write` makes; None is `path` alone.

    Raises:
        FileExistsError: There is the database of a stopped run, and `resume` is False.
        ValueError: The database is of other recordings or other options.
        OSError: The folder cannot be written, another run writes to the file, or a link is where the database belongs.
    """

    def __init__(
        self,
        path: Path,
        recordings: Recordings,
        options: dict[str, Any],
        resume: bool,
        write: Callable[[Path, Any], None] = embedding_files.write,
        files: Sequence[Path] | None = None,
    ) -> None:
        self._path = path
        self._recordings = recordings
        self._write = write
        self._failures = path.with_name(f"{path.name}.{FAILURES}")
        self._unfinished = _database_files(path)[0]
        with contextlib.ExitStack() as stack:
            stack.enter_context(_locked(_lock_of(path), path))
            remove_leftovers([self._failures, *(files or [path])])
            for file in _database_files(path):
                if file.is_symlink():
                    raise OSError(f"{file} is a link, expected the database of a stopped run: remove it")
            existed = self._unfinished.exists()
            with _DatabaseErrors(self._unfinished):
                self._database = stack.enter_context(contextlib.closing(sqlite3.connect(self._unfinished, timeout=0)))
                self._open({**options, "recordings": str(recordings.folder)}, existed, resume)
            self._resources = stack.pop_all()

    def _open(self, options: dict[str, Any], existed: bool, resume: bool) -> None:
        execute = self._database.execute
        # One process at a time. What it commits survives its death, and a commit waits for no disk.
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = OFF"):
            execute(f"PRAGMA {pragma}")
        execute("CREATE TABLE IF NOT EXISTS options (json TEXT)")
        execute(
            "CREATE TABLE IF NOT EXISTS recordings (name BLOB PRIMARY KEY, times BLOB, dtype TEXT, embeddings BLOB)"
        )
        (written,) = execute("PRAGMA user_version").fetchone()  # whether the file was made of it
        if existed and not resume:
            if not written:
                raise FileExistsError(
                    f"{self._unfinished} is what a stopped run finished: resume it, or remove this file"
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
                    f"{self._unfinished} holds {len(others)} recordings that are not named now, such as "
                    f"{os.fsdecode(others[0])}: name them too, or give another output"
                )
        else:
            execute("INSERT INTO options VALUES (?)", [json.dumps(options)])
        execute("PRAGMA user_version = 0")
        self._database.commit()

    def _name(self, path: Path) -> bytes:
        return os.fsencode(self._recordings.below(path))

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
        """Writes the file; of no recordings it makes none. Without failures the database goes."""
        write_failures(self._failures, failures)
        missing = [path for path in paths if not self.has(path)]
        if missing:
            return
        if paths:
            with _DatabaseErrors(self._unfinished):
                self._write(self._path, _Finished(self._database, {str(path): self._name(path) for path in paths}))
                self._database.execute("PRAGMA user_version = 1")
                self._database.commit()
        if not paths or not failures:
            self._database.close()
            _remove_database(self._path)

    def close(self) -> None:
        self._resources.close()


def _database_files(path: Path) -> list[Path]:
    """The database beside a file, and what SQLite may leave beside that, such as its log when the disk is full."""
    return [path.with_name(f"{path.name}.unfinished{suffix}") for suffix in ("", "-journal", "-wal", "-shm")]


def _remove_database(path: Path) -> None:
    for file in _database_files(path):  # the database first: without its log it may be damaged
        file.unlink(missing_ok=True)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.unfinished-lock")


class _Finished:
    """Names and embeddings of recordings in a database."""

    def __init__(self, database: sqlite3.Connection, names: dict[str, bytes]) -> None:
        self._database = database
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[str, Embeddings]]:
        for path, name in self._names.items():
            query = "SELECT times, dtype, embeddings FROM recordings WHERE name = ?"
            times, dtype, values = self._database.execute(query, [name]).fetchone()
            rows = np.frombuffer(values, dtype).reshape(-1, params.EMBEDDING_SIZE)
            yield path, Embeddings(np.frombuffer(times), rows)


class _DatabaseErrors:
    """Turns the database's errors into an OSError that names it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: Any, error: BaseException | None, _traceback: Any) -> None:
        if isinstance(error, sqlite3.Error):
            reason = "another run writes to it" if "locked" in str(error) else error
            raise OSError(f"{self._path}: {reason}") from error


def _check_options(before: str, options: dict[str, Any], where: Path) -> None:
    try:
        known = {"channels": "mix", **json.loads(before)}  # the only way before there was a choice
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} is no output of an earlier run: its options cannot be read") from error
    if differing := [name for name in options if known.get(name) != options[name]]:
        was = ", ".join(f"{name} {known.get(name)}" for name in differing)
        now = ", ".join(f"{name} {options[name]}" for name in differing)
        raise ValueError(f"{where} was begun with {was}, not with {now}: give another output")


@contextlib.contextmanager
def _locked(path: Path, output: Path) -> Iterator[None]:
    """Keeps other runs from an output by a file that exists as long as the block.

    Raises:
        OSError: Another run holds the file, it is a link, or it cannot be made.
    """
    descriptor = _lock(path, output)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # while it is locked: later it could be the next run's
        os.close(descriptor)


def _lock(path: Path, output: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if not _try_lock(descriptor):
            os.close(descriptor)
            raise OSError(f"{output}: another run writes to it")
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        os.close(descriptor)  # a run that ended meanwhile has removed this file


def _try_lock(descriptor: int) -> bool:
    """Whether no other process has locked a file, which is locked now until it is closed."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of them depends on the file system
        return False
    except OSError:  # a file system without locks
        return True
    return True

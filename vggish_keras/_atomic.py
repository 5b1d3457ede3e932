"""Atomic writes of files and folders, which also survive a power failure."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SUFFIX = ".partial"
_THREADS = 8
"""Files that wait for the disk at the same time: a file system writes its journal once for all of them."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path`, which replaces `path` when the block succeeds.

    If the block fails, `path` is unchanged and the temporary file is removed.

    Raises:
        OSError: The file cannot be written. The error names `path`, not the temporary file.
    """
    partial = path.with_name(f"{_tag(path)}-{secrets.token_hex(8)}{_SUFFIX}")
    with _errors_named(partial, path):
        partial.touch(exist_ok=False)  # always a new file: never follows a link or reuses an existing file
        try:
            yield partial
            replace({partial: path})
        finally:
            partial.unlink(missing_ok=True)


def replace(moves: Mapping[Path, Path]) -> None:
    """Moves new files or folders to their final paths, in this order, once the contents of all of them are on the disk.

    What exists at a final path is replaced. An old folder, which cannot be replaced in one step, is moved beside the
    new one.

    Args:
        moves: The final path of each new file or folder, on the same file system.

    Raises:
        OSError: A file cannot be written or moved. The error names its final path.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        synced = {new: [pool.submit(_sync, file) for file in (new, *new.rglob("*"))] for new in moves}
    for new, path in moves.items():
        with _errors_named(new, path):
            for future in synced[new]:
                future.result()
    for new, path in moves.items():
        with _errors_named(new, path):
            _move(new, path)
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(_sync, {path.parent for path in moves.values()}))


def sync(path: Path) -> None:
    """Waits until a file that was moved to its final path is on the disk."""
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    if not path.is_dir():
        _fsync(path, os.O_RDWR)  # Windows only syncs files that are open for writing
    elif os.name != "nt":
        with contextlib.suppress(OSError):  # a folder that cannot be opened, or a file system that syncs only files
            _fsync(path, os.O_RDONLY)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move(new: Path, path: Path) -> None:
    if not new.is_dir() or not os.path.lexists(path):
        new.replace(path)
        return
    old = new.with_name(f"{new.name}.old")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        old.rename(path)
        raise


@contextlib.contextmanager
def _errors_named(temporary: Path, path: Path) -> Iterator[None]:
    """An OSError that names the temporary file, or none, names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes the temporary files that killed processes left beside these files, which no process may be writing."""
    tags: dict[Path, set[str]] = {}
    for path in paths:
        tags.setdefault(path.parent, set()).add(_tag(path))
    for folder in filter(os.path.isdir, tags):
        for name in os.listdir(folder):
            if name.endswith(_SUFFIX) and name.partition("-")[0] in tags[folder]:
                (folder / name).unlink(missing_ok=True)


def _tag(path: Path) -> str:
    """The prefix of `path`'s temporary files: short, because `path` may already have a name of maximum length."""
    return "." + hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()

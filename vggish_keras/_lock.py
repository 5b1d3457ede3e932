"""Locks that end with their process."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(file: Path, on_wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Locks a file, which is created if it does not exist, while the block runs.

    Nobody may delete or replace the file while it is locked, so it stays. It is only locked while a process holds it,
    however that process ends.

    Args:
        file: The lock file.
        on_wait: Called before waiting for a lock that is held elsewhere. None raises an error instead.

    Raises:
        BlockingIOError: The lock is held by a different process or thread, and `on_wait` is None.
        OSError: The file is a link or cannot be created, or its file system does not support locks.
    """
    from filelock import FileLock, Timeout  # takes longer to import than this package

    lock = FileLock(file, thread_local=False, preserve_lock_file=True)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            if on_wait is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(file)) from error
            on_wait()
            lock.acquire()
    except OSError as error:
        if error.filename is not None:
            raise OSError(error.errno, error.strerror, str(file)) from error  # not the resolved path
        # The file was opened, so it is the lock that failed.
        raise OSError(
            f"{file} cannot be locked ({error.strerror}): use a folder on a file system that supports locks"
        ) from error
    try:
        yield
    finally:
        lock.release()

"""Atomic file writes."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

_SUFFIX = ".partial"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary file beside `path`, which replaces `path` when the block succeeds.

    If the block fails, `path` is unchanged and the temporary file is removed.

    Raises:
        OSError: The file cannot be written. The error names `path`, not the temporary file.
    """
    partial = path.with_name(f"{_tag(path)}-{secrets.token_hex(8)}{_SUFFIX}")
    try:
        partial.touch(exist_ok=False)  # always a new file: never follows a link or reuses an existing file
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
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

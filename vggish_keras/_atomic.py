"""Files that appear when they are complete."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

_SUFFIX = ".partial"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields an empty file beside `path` to be written, which replaces `path` at the end of the block.

    If the block fails, what was at `path` stays, and nothing is left beside it.

    Raises:
        OSError: The file cannot be written. An error about the file beside `path`, or about no file, names `path`.
    """
    aside = path.with_name(f"{_tag(path)}-{secrets.token_hex(8)}{_SUFFIX}")
    try:
        aside.touch(exist_ok=False)  # a new file: neither a link nor a file that is there already is opened
        try:
            yield aside
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(aside)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Removes what killed processes left of these files. No process may be writing them."""
    tags: dict[Path, set[str]] = {}
    for path in paths:
        tags.setdefault(path.parent, set()).add(_tag(path))
    for folder in filter(os.path.isdir, tags):
        for name in os.listdir(folder):
            if name.endswith(_SUFFIX) and name.partition("-")[0] in tags[folder]:
                (folder / name).unlink(missing_ok=True)


def _tag(path: Path) -> str:
    """What the names of the files beside `path` begin with: short, because its name may be as long as names can be."""
    return "." + hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()

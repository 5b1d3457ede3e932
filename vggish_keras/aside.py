"""Files that appear when they are complete."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Gives the place where a file is to be written; at the end of the block it takes the place of `path`.

    If the block fails, what was at `path` stays, and nothing is left beside it.
    """
    aside = aside_of(path)
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def aside_of(path: Path) -> Path:
    """Where a file is written until it is complete.

    Always the same place, so that a run that takes up a killed one leaves nothing of it; and a short name, because
    that of the file may be as long as names can be.
    """
    name = hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()
    return path.with_name(f".{name}.partial")

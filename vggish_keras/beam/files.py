"""Read and write files on the local disk and in the file systems that Beam supports."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems


def is_remote(path: str) -> bool:
    """Whether a path belongs to a file system of Beam, such as gs://bucket/a.wav."""
    return "://" in path


def exists(path: str) -> bool:
    """Whether a file exists."""
    return FileSystems.exists(path) if is_remote(path) else os.path.exists(path)


def remove(path: str) -> None:
    """Removes a file if it exists."""
    if not is_remote(path):
        Path(path).unlink(missing_ok=True)
    elif FileSystems.exists(path):
        FileSystems.delete([path])


@contextlib.contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """Yields the path of a file on the local disk that has the content of `path`."""
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, path.rpartition("/")[2])
        with (
            FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source,
            local.open("wb") as target,
        ):
            shutil.copyfileobj(source, target)
        yield local


@contextlib.contextmanager
def local_output(path: str) -> Iterator[Path]:
    """Yields the path of a local file to write, which is moved to `path` if that is remote and the block succeeds.

    The folder of a local path is created. Its writer must be atomic; a remote file appears once it is complete.
    """
    if not is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        yield Path(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, path.rpartition("/")[2])
        yield local
        partial = f"{path}.{secrets.token_hex(8)}.partial"
        with (
            local.open("rb") as source,
            FileSystems.create(partial, compression_type=CompressionTypes.UNCOMPRESSED) as target,
        ):
            shutil.copyfileobj(source, target)
        FileSystems.rename([partial], [path])

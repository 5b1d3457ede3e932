"""The published files: downloaded, verified and cached."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vggish_keras import params
from vggish_keras._errors import error_message
from vggish_keras._validation import PathLike

_DOWNLOAD = ".download-"
"""Part of the names of folders that hold downloads."""


def cache_dir() -> Path:
    """Returns the folder of the published files: `VGGISH_KERAS_HOME`, or the platform's cache folder for the user."""
    import pooch

    return Path(os.environ.get("VGGISH_KERAS_HOME") or pooch.os_cache("vggish_keras")).expanduser()


def published_path(file: params.PublishedFile) -> Path:
    """Returns the path of a published file in the cache, whether or not it exists."""
    return cache_dir() / file.name


def fetch(file: params.PublishedFile) -> Path:
    """Returns the path of a published file in the cache, and downloads it if it is missing.

    An existing file is used as it is, so that files can be placed by hand. A download gets its final name only after
    its checksum was verified; the next call removes the remains of a killed download.

    Args:
        file: `params.CHECKPOINT` or `params.PCA_PARAMS`.

    Returns:
        The file's path.

    Raises:
        FileNotFoundError: The file is not cached and cannot be downloaded. The message says where to download it and
            where to place it.
    """
    path = published_path(file)
    _remove_half_downloads(path)
    if path.is_file():
        return path
    import pooch
    from requests import ConnectionError

    url = params.PUBLISHED_URL + file.name
    pooch.get_logger().setLevel("WARNING")
    try:
        with _progress(file.name) as progress, _download_folder(path) as folder:
            # pooch verifies the download, so that no process ever sees an incomplete file.
            pooch.retrieve(
                url,
                file.checksum,
                fname=path.name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=progress, timeout=(10, 60)),
            )
            (folder / path.name).chmod(0o644)  # pooch makes files private, and a cache may be shared
            (folder / path.name).replace(path)
    except (OSError, ValueError) as error:
        reason = "no connection" if isinstance(error, ConnectionError) else error_message(error)
        raise FileNotFoundError(
            f"{file.name} is not in the cache and could not be downloaded ({reason}). "
            f"Download {url} ({file.checksum}) on a machine with a network and place it at {path}, "
            "or set VGGISH_KERAS_HOME to the folder that contains it."
        ) from error
    return path


@contextlib.contextmanager
def _download_folder(path: Path) -> Iterator[Path]:
    """Yields a folder beside `path` that no other process removes during the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _lock(path.parent, exclusive=False),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}{_DOWNLOAD}") as folder,
    ):
        yield Path(folder)


def _remove_half_downloads(path: Path) -> None:
    """Removes the remains of killed downloads of `path`, unless a download is running."""
    if left := list(path.parent.glob(f".{path.name}{_DOWNLOAD}*")):
        with contextlib.suppress(OSError), _lock(path.parent, exclusive=True):
            for folder in left:
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path, exclusive: bool) -> Iterator[None]:
    """Locks a folder until the block or the process ends; an OSError if an exclusive lock is not available."""
    try:
        import fcntl
    except ImportError:  # Windows, which does not remove open files
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if exclusive:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            with contextlib.suppress(OSError):  # a file system without locks, on which nothing is removed either
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def verify(path: PathLike, checksum: str) -> bool:
    """Returns whether a file has a checksum of the form algorithm:digest."""
    import pooch

    algorithm, digest = checksum.split(":")
    return str(pooch.file_hash(os.fspath(path), alg=algorithm)) == digest


class _PoochProgress:
    """The progress bar interface of pooch, drawn by rich."""

    def __init__(self, bar: Any, description: str) -> None:
        self._bar = bar
        self._task = bar.add_task(description, total=None)
        self.total = 0

    def update(self, size: int) -> None:
        self._bar.update(self._task, total=self.total, advance=size)

    def reset(self) -> None:
        self._bar.reset(self._task)

    def close(self) -> None:
        """Does nothing: the bar ends with its context."""


@contextlib.contextmanager
def _progress(description: str) -> Iterator[_PoochProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        yield _PoochProgress(bar, description)

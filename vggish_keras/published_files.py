"""The published files: downloaded, verified and cached."""

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vggish_keras import params
from vggish_keras._atomic import atomic_write, replace
from vggish_keras._errors import error_message
from vggish_keras._lock import locked

_logger = logging.getLogger(__name__)

_CHECKSUMS = ".checksums.json"
"""The file in the cache that remembers the checksum of each file, with its size and modification time."""
_CHECKSUMS_LOCK = ".checksums.lock"


def cache_dir() -> Path:
    """Returns the folder of the published files: `VGGISH_KERAS_HOME`, or the platform's cache folder for the user."""
    import pooch

    return Path(os.environ.get("VGGISH_KERAS_HOME") or pooch.os_cache("vggish_keras")).expanduser()


def published_path(file: params.PublishedFile) -> Path:
    """Returns the path of a published file in the cache, whether or not it exists."""
    return cache_dir() / file.name


def fetch(file: params.PublishedFile) -> Path:
    """Returns the path of a published file in the cache, and downloads it if it is missing.

    An existing file may have been placed by hand, but it must be the published one. A download gets its final name only
    after its checksum was verified; the next call removes the remains of a killed download. A call waits while a
    different process downloads the file.

    Args:
        file: `params.CHECKPOINT` or `params.PCA_PARAMS`.

    Returns:
        The file's path.

    Raises:
        FileNotFoundError: The file is not cached and cannot be downloaded. The message says where to download it and
            where to place it.
        ValueError: The file in the cache is not the published one, as in `check`.
    """
    path = published_path(file)
    if path.is_file() or not _download(file, path):
        _remove_half_download(path)
        check(file)
    return path


def check(file: params.PublishedFile, use_remembered: bool = True) -> None:
    """Checks that an existing file in the cache is the published one.

    Its checksum is remembered in the cache and stays valid while its size and modification time do not change. In a
    cache that is read-only, it is computed each time.

    Args:
        file: `params.CHECKPOINT` or `params.PCA_PARAMS`.
        use_remembered: False always computes the checksum.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It has a different checksum. The message says how to use it as your own file, and how to
            replace it with the published one.
    """
    path = published_path(file)
    published = _describe(path, file.checksum)  # before the file is read: it may change meanwhile
    if use_remembered and _read_checksums(path.parent).get(path.name) == published:
        return
    _logger.debug("verifying %s", path)
    algorithm, _, _ = file.checksum.partition(":")
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, functools.partial(hashlib.new, algorithm, usedforsecurity=False))
    checksum = f"{algorithm}:{digest.hexdigest()}"
    _remember_checksum(path, {**published, "checksum": checksum})
    if checksum != file.checksum:
        usage = (
            "--pca PATH or pca_params=PATH" if file.name == params.PCA_PARAMS.name else "--weights PATH or weights=PATH"
        )
        raise ValueError(
            f"{path} is not the published file: its checksum is {checksum}, expected {file.checksum}. "
            f"To use it, pass its path ({usage}). To use the published file, remove it, and the next use downloads it."
        )


def _describe(path: Path, checksum: str) -> dict[str, str | int]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "checksum": checksum}


def _read_checksums(cache: Path) -> dict[str, Any]:
    try:
        checksums = json.loads((cache / _CHECKSUMS).read_bytes())
    except (OSError, ValueError):
        return {}
    return checksums if isinstance(checksums, dict) else {}


def _remember_checksum(path: Path, description: dict[str, str | int]) -> None:
    with contextlib.suppress(OSError), locked(path.with_name(_CHECKSUMS_LOCK), on_wait=lambda: None):
        checksums = {**_read_checksums(path.parent), path.name: description}
        with atomic_write(path.with_name(_CHECKSUMS)) as partial:
            partial.write_text(json.dumps(checksums))
            partial.chmod(0o644)  # a cache may be shared


def _download(file: params.PublishedFile, path: Path) -> bool:
    """Downloads and verifies a published file; returns False if a different process has placed it meanwhile."""
    from requests import ConnectionError

    url = params.PUBLISHED_URL + file.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(_lock_of(path), on_wait=lambda: _announce_wait(file.name)):
            if path.is_file():
                return False
            _retrieve(file, url, path)
    except (OSError, ValueError) as error:
        reason = "no connection" if isinstance(error, ConnectionError) else error_message(error)
        raise FileNotFoundError(
            f"{file.name} is not in the cache and could not be downloaded ({reason}). "
            f"Download {url} ({file.checksum}) on a machine with an internet connection and place it at {path}, "
            "or set VGGISH_KERAS_HOME to the folder that contains it."
        ) from error
    return True


def _retrieve(file: params.PublishedFile, url: str, path: Path) -> None:
    import pooch

    _logger.info("downloading %s to %s", url, path)
    pooch.get_logger().setLevel("WARNING")
    folder = _download_folder(path)
    shutil.rmtree(folder, ignore_errors=True)  # of a killed download
    folder.mkdir()
    try:
        with _progress(file.name, url) as progress:
            # pooch verifies the download, so that no process ever sees an incomplete file.
            pooch.retrieve(
                url,
                file.checksum,
                fname=path.name,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=progress, timeout=(10, 60)),
            )
        (folder / path.name).chmod(0o644)  # pooch makes files private, and a cache may be shared
        description = _describe(folder / path.name, file.checksum)
        replace({folder / path.name: path})
        _remember_checksum(path, description)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_half_download(path: Path) -> None:
    """Removes the remains of a killed download of `path`, unless a download is running."""
    if _download_folder(path).exists():
        with contextlib.suppress(OSError), locked(_lock_of(path)):
            shutil.rmtree(_download_folder(path), ignore_errors=True)


def _download_folder(path: Path) -> Path:
    return path.with_name(f".{path.name}.download")


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


class _Bar:
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


class _Lines:
    """The progress bar interface of pooch, as a line at the start and at each tenth."""

    def __init__(self, console: Any, name: str, url: str) -> None:
        self._print = functools.partial(console.print, soft_wrap=True)
        self._name = name
        self._url = url
        self._received = 0
        self._tenths = -1
        self.total = 0

    def update(self, size: int) -> None:
        if self._tenths < 0:  # the first bytes, when pooch has set the total
            self._tenths = 0
            self._print(f"Downloading {self._name}{_in_brackets(self.total)} from {self._url}")
        self._received += size
        tenths = min(10 * self._received // self.total, 10) if self.total else 0
        if tenths > self._tenths:
            self._tenths = tenths
            self._print(f"{self._name}: {10 * tenths}%")

    def reset(self) -> None:
        """Does nothing: pooch starts again from zero when all is received."""

    def close(self) -> None:
        """Does nothing: each line is complete."""


def _in_brackets(size: int) -> str:
    from rich.filesize import decimal

    return f" ({decimal(size, precision=0)})" if size else ""


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, force_jupyter=False)


def _announce_wait(name: str) -> None:
    _console().print(f"Waiting for a different process to download {name}", soft_wrap=True)


@contextlib.contextmanager
def _progress(name: str, url: str) -> Iterator[_Bar | _Lines]:
    """A bar on a terminal, lines elsewhere, such as in a log or a notebook."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = _console()
    if not console.is_terminal:
        yield _Lines(console, name, url)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        yield _Bar(bar, name)

"""NumPy's .npz files, looked at before they are inflated."""

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from vggish_keras._errors import error_message

_MAX_HEADER_SIZE = 16_384
"""Bytes; NumPy writes 128 and refuses more than 10,000."""
_MAX_SMALL_SIZE = 64 * 2**20
_MAX_RATIO = 100
"""Compressed embeddings are a half to a fifth of their size; zeros are a thousandth."""
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class ArrayHeader(NamedTuple):
    """What an array is before it is read."""

    shape: tuple[int, ...]
    dtype: Any
    offset: int

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npz(
    path: str | os.PathLike[str], names: Iterable[str], check: Callable[[Mapping[str, ArrayHeader]], object]
) -> dict[str, np.ndarray]:
    """Reads arrays of an .npz file that may come from anywhere.

    Args:
        path: The file, as `np.savez` or `np.savez_compressed` writes it.
        names: The arrays to read. Those that the file lacks are left out.
        check: Called with the headers of all arrays of the file before one is read; raises a ValueError for others than
            are expected.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds anything but plain arrays, or would take much more memory than its size.
            Pickled objects are never loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no .npz file at {path}")
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            headers = {name: _read_header(archive, name) for name in _array_names(archive)}
            found = [name for name in names if name in headers]
            for name in found:
                _check_array(archive, name, headers[name])
        except Exception as error:
            raise _unreadable(path, error) from error
        check(headers)
        _check_total(path, sum(headers[name].size for name in found))
        try:
            return {name: _read_array(archive, name) for name in found}
        except Exception as error:
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    # numpy, zipfile, zlib and Python's parser each raise their own for a damaged file.
    return ValueError(f"{path} is not an .npz file of plain arrays: {error_message(error)}")


def _array_names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in dict.fromkeys(archive.namelist()) if name.endswith(".npy")]


def _open(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is compressed by method {member.compress_type}, expected none or deflation")
    return archive.open(member)


def _read_header(archive: zipfile.ZipFile, name: str) -> ArrayHeader:
    with _open(archive, name) as member:
        start = io.BytesIO(member.read(_MAX_HEADER_SIZE))
    version = np.lib.format.read_magic(start)
    if version not in _READERS:
        raise ValueError(f"{name} has version {version} of NumPy's format, expected one of {list(_READERS)}")
    shape, _, dtype = _READERS[version](start)
    return ArrayHeader(shape, dtype, start.tell())


def _check_array(archive: zipfile.ZipFile, name: str, header: ArrayHeader) -> None:
    if header.dtype.hasobject:
        raise ValueError(f"{name} holds pickled objects")
    present = archive.getinfo(f"{name}.npy").file_size - header.offset
    if header.size != present:
        raise ValueError(f"{name} is {header.dtype} {header.shape}, which takes {header.size} bytes, but has {present}")


def _check_total(path: Path, size: int) -> None:
    """Refuses a file that inflates to much more than its own size."""
    present = path.stat().st_size
    if size > max(_MAX_SMALL_SIZE, _MAX_RATIO * present):
        raise ValueError(
            f"{path} has {present} bytes and would take {size} bytes of memory, more than {_MAX_RATIO} times as many: "
            "if you trust it, read it with np.load and write it again with np.savez, which does not compress"
        )


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with _open(archive, name) as member:
        return np.lib.format.read_array(member, allow_pickle=False)

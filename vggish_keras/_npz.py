"""Read NumPy .npz and .npy files from untrusted sources: headers and sizes are checked before data is decompressed."""

import io
import math
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggish_keras._errors import counted, error_message

_MAX_HEADER_SIZE = 16_384
"""Bytes; NumPy writes 128 and refuses more than 10,000."""
_MAX_SMALL_SIZE = 64 * 2**20
_MAX_RATIO = 100
"""Embeddings compress to between a half and a fifth of their size; zeros to a thousandth."""
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class ArrayHeader(NamedTuple):
    """Description of an array that has not been read yet."""

    shape: tuple[int, ...]
    dtype: Any
    offset: int

    @property
    def size(self) -> int:
        """Size of the array in bytes."""
        return math.prod(self.shape) * int(self.dtype.itemsize)


def read_npz(
    path: str | os.PathLike[str], names: Iterable[str], check: Callable[[Mapping[str, ArrayHeader]], object]
) -> dict[str, NDArray[Any]]:
    """Reads arrays from an .npz file of unknown origin.

    Args:
        path: A file in the format of `np.savez` or `np.savez_compressed`.
        names: The arrays to read.
        check: Called with the headers of all arrays in the file before any data is read. It raises a ValueError if they
            are not as expected.

    Returns:
        The arrays by name, without those that the file lacks.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, contains anything other than plain arrays, or would need far more memory than
            its size. Pickled objects are never loaded.
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


def read_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Reads an .npy file of unknown origin.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or not a plain array. Pickled objects are never loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no .npy file at {path}")
    try:
        with path.open("rb") as file:
            header = _parse_header(file.read(_MAX_HEADER_SIZE), path.name)
            _check_size(path.name, header, path.stat().st_size)
            file.seek(0)
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array
    except Exception as error:
        raise ValueError(f"{path} is not an .npy file of a plain array: {error_message(error)}") from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    # For a damaged file, numpy, zipfile, zlib and Python's parser each raise their own exceptions.
    return ValueError(f"{path} is not an .npz file of plain arrays: {error_message(error)}")


def _array_names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in dict.fromkeys(archive.namelist()) if name.endswith(".npy")]


def _open(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} has compression method {member.compress_type}, expected stored or deflated")
    return archive.open(member)


def _read_header(archive: zipfile.ZipFile, name: str) -> ArrayHeader:
    with _open(archive, name) as member:
        return _parse_header(member.read(_MAX_HEADER_SIZE), name)


def _parse_header(content: bytes, name: str) -> ArrayHeader:
    start = io.BytesIO(content)
    version = np.lib.format.read_magic(start)
    if version not in _READERS:
        raise ValueError(f"{name} has .npy format version {version}, expected one of {list(_READERS)}")
    shape, _, dtype = _READERS[version](start)
    return ArrayHeader(shape, dtype, start.tell())


def _check_array(archive: zipfile.ZipFile, name: str, header: ArrayHeader) -> None:
    _check_size(name, header, archive.getinfo(f"{name}.npy").file_size)


def _check_size(name: str, header: ArrayHeader, file_size: int) -> None:
    if header.dtype.hasobject:
        raise ValueError(f"{name} contains pickled objects")
    present = file_size - header.offset
    if header.size != present:
        raise ValueError(
            f"{name} is {header.dtype} {header.shape}, which needs {counted(header.size, 'byte')}, but has {present}"
        )


def _check_total(path: Path, size: int) -> None:
    """Rejects a file that decompresses to far more than its own size."""
    present = path.stat().st_size
    if size > max(_MAX_SMALL_SIZE, _MAX_RATIO * present):
        raise ValueError(
            f"{path} has {present} bytes and would need {size} bytes of memory, more than {_MAX_RATIO} times as many: "
            "if you trust it, load it with np.load and save it again with np.savez, which does not compress"
        )


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with _open(archive, name) as member:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    if array.dtype.kind == "U":
        # NumPy stores any number as a character, and fails with a SystemError when it is used.
        characters = np.frombuffer(array.tobytes(), np.dtype(np.uint32).newbyteorder(array.dtype.byteorder))
        if characters.max(initial=0) > sys.maxunicode:
            raise ValueError(f"{name} contains invalid characters")
    return array

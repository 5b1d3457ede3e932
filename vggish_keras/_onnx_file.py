"""Read what an ONNX file holds without the packages that run it: metadata and tensors.

An ONNX file is one message of protocol buffers, whose fields are skipped by their length. So the metadata at its end is
read in a moment, and tensors are not copied.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_keras._hashing import checksum

# Numbers of fields in onnx.proto
_GRAPH, _METADATA = 7, 14
_INITIALIZER = 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_FLOAT = 1

KERNEL_AXES = (3, 2, 0, 1)
"""The axes of a convolution kernel of TF-Slim in the order of ONNX."""


def read_metadata(path: Path) -> dict[str, str]:
    """Reads the metadata of an ONNX model.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Not an ONNX file, or a damaged one.
    """
    entries = (dict(_fields(value)) for number, value in _model_fields(path) if number == _METADATA)
    try:
        return {_text(entry[1]): _text(entry.get(2, b"")) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def read_tensors(path: Path) -> dict[str, NDArray[np.float32]]:
    """Reads the float32 tensors of an ONNX model.

    Returns:
        Name -> tensor, most as a view of the file; convolution kernels have the axes of TF-Slim.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Not an ONNX file, or a damaged one.
    """
    tensors = {}
    try:
        for graph in (value for number, value in _model_fields(path) if number == _GRAPH):
            for message in (value for number, value in _fields(graph) if number == _INITIALIZER):
                fields = list(_fields(message))
                values = dict(fields)
                if values[_DATA_TYPE] == _FLOAT:
                    shape = [value for number, value in fields if number == _DIMS]
                    tensor = np.frombuffer(values[_RAW_DATA], "<f4").reshape(shape)
                    if tensor.ndim == len(KERNEL_AXES):
                        tensor = tensor.transpose(np.argsort(KERNEL_AXES))
                    tensors[_text(values[_NAME])] = tensor
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, error) from error
    return tensors


def check_constants(path: Path, expected: object) -> None:
    """Raises a ValueError unless the tensors of an ONNX model have the checksum they were exported with."""
    graphs = (value for number, value in _model_fields(path) if number == _GRAPH)
    tensors = (value for graph in graphs for number, value in _fields(graph) if number == _INITIALIZER)
    try:
        found = checksum(dict(_fields(tensor)).get(_RAW_DATA, b"") for tensor in tensors)
    except (TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    if found != expected:
        raise ValueError(f"{path} is damaged: its weights are not those that were exported")


def _model_fields(path: Path) -> list[tuple[int, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"no ONNX model at {path}")
    try:
        with path.open("rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        fields = list(_fields(content))
    except ValueError as error:  # also an empty file
        raise _damaged(path, error) from error
    if _GRAPH not in dict(fields):
        raise ValueError(f"{path} is not an ONNX model")
    return fields


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is not an ONNX model, or is damaged or incomplete ({error})")


def _text(value: Any) -> str:
    if isinstance(value, int):
        raise TypeError(f"expected text, got {value}")
    return bytes(value).decode()


def _fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """Yields the number and the value of each field of a message: an integer, or bytes."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(message, position)
            yield tag >> 3, value
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = {1: 8, 5: 4}[kind]
        else:
            raise ValueError("unexpected content")
        if position + size > len(message):
            raise ValueError("its end is missing")
        yield tag >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """Reads an integer of 7 bits per byte; returns it and the position after it."""
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("its end is missing")

"""Read recordings of any format as blocks of samples.

Plain samples after a common header are read here, rare formats by libsndfile, and compressed audio by FFmpeg. A file's
content decides between them, never its suffix. All read a file completely, or report what is missing.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from numpy.typing import NDArray

from vggish_keras.decoding import compressed, plain
from vggish_keras.decoding.headers import ID3V1_BYTES, MAX_MISSING_FRAMES, MAX_PADDING_BYTES, TRAILERS, read_header
from vggish_keras.decoding.plain import BLOCK_FRAMES

__all__ = [
    "BLOCK_FRAMES",
    "ID3V1_BYTES",
    "MAX_CHANNELS",
    "MAX_MISSING_FRAMES",
    "MAX_PADDING_BYTES",
    "TRAILERS",
    "Recording",
    "open_recording",
]

MAX_CHANNELS = 1_024
"""libsndfile's limit."""


class Recording(NamedTuple):
    """An open recording.

    Attributes:
        sample_rate: Hz.
        blocks: Arrays [frames, channels] of floats or integer PCM, which can be read once.
    """

    sample_rate: int
    blocks: Iterator[NDArray[Any]]


def open_recording(file: BinaryIO, name: str) -> Recording:
    """Opens a file of any format to read it block by block, in constant memory.

    Args:
        file: A seekable binary file, which stays open.
        name: The file's name in messages.

    Returns:
        The recording: the first audio stream, if the file has several.

    Raises:
        ValueError: The file is not audio, is damaged, or ends before its header says. Some of this is found only while
            reading.
    """
    header = read_header(file, name)
    if header is not None and header.encoding is not None:
        if not 1 <= header.channels <= MAX_CHANNELS:
            raise ValueError(f"{name} cannot be read as audio: its header declares {header.channels} channels")
        return Recording(header.sample_rate, plain.read_plain(file, header, name))
    decoders: list[Callable[..., tuple[int, Iterator[NDArray[Any]]]]] = [
        compressed.open_compressed,
        functools.partial(plain.open_sound, header=header),
    ]
    if header is not None and not header.is_mpeg:
        decoders.reverse()
    try:
        return Recording(*decoders[0](file, name=name))
    except plain.UnsupportedError as error:
        with contextlib.suppress(plain.UnsupportedError):
            return Recording(*decoders[1](file, name=name))
        raise error

"""Recordings of any format as blocks of samples: libsndfile reads samples behind a header, FFmpeg what is compressed.

Which of them reads a file depends on its content, never on its suffix. Both read the whole of it, or report what is
missing.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

from vggish_keras.decoding import compressed, plain
from vggish_keras.decoding.headers import read_header

MAX_CHANNELS = 1_024
"""libsndfile's limit."""


class Recording(NamedTuple):
    """An open recording.

    Attributes:
        sample_rate: Hz.
        blocks: Arrays [frames, channels] of floats or integer PCM, to be read once.
    """

    sample_rate: int
    blocks: Iterator[np.ndarray]


def open_recording(file: BinaryIO, name: str) -> Recording:
    """Opens a file of any format, to be read block by block in constant memory.

    Args:
        file: A seekable binary file, which stays open.
        name: What messages call it.

    Returns:
        The recording. Of a file with several audio streams, such as a video, it is the first.

    Raises:
        ValueError: The file is not audio, is damaged, or ends before its header says; some of it only while reading.
    """
    header = read_header(file, name)
    if header is not None and header.encoding is not None:
        if not 1 <= header.channels <= MAX_CHANNELS:
            raise ValueError(f"{name} cannot be read as audio: its header declares {header.channels} channels")
        return Recording(header.sample_rate, plain.read_plain(file, header, name))
    decoders: list[Callable[..., tuple[int, Iterator[np.ndarray]]]] = [
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

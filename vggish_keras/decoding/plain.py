"""Samples behind a header, read by libsndfile."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from vggish_keras.decoding.headers import Header
from vggish_keras.decoding.section import Section

BLOCK_FRAMES = 1 << 16

MAGICS = (
    b"Creative Voice File",
    b"NIST_1A",
    b" paf",
    b"fap ",
    b"PVF1",
    b"2BIT",
    b"\x64\xa3",
    b"ALawSoundFile",
    b"MATLAB",
)
"""How further files start that libsndfile reads and that `headers` does not know: VOC, SPHERE, PAF and the like."""


class UnsupportedError(ValueError):
    """A library does not read this kind of file."""


def read_plain(file: BinaryIO, header: Header, name: str) -> Iterator[np.ndarray]:
    """Reads the samples that a header describes.

    Args:
        file: The file.
        header: Its header, with an encoding.
        name: What messages call it.

    Yields:
        int16 or float32 [frames, channels].

    Raises:
        ValueError: While reading: the file holds no samples.
    """
    samples = Section(file, header.start, header.size - header.size % header.frame_bytes)
    order = "BIG" if header.big_endian else "LITTLE"
    sound = _open(
        samples,
        name,
        format="RAW",
        subtype=header.encoding,
        endian=order,
        samplerate=1,  # changes no sample
        channels=header.channels,
    )
    return _read(sound, name)


def open_sound(file: BinaryIO, name: str) -> tuple[int, Iterator[np.ndarray]]:
    """Opens a file whose header libsndfile reads itself.

    Args:
        file: The file.
        name: What messages call it.

    Returns:
        The sample rate in Hz, and int16 or float32 blocks [frames, channels].

    Raises:
        UnsupportedError: libsndfile does not read it.
        ValueError: While reading: the file is damaged, ends before its header says, or holds no samples.
    """
    file.seek(0)
    sound = _open(file, name)
    return sound.samplerate, _read(sound, name)


def _open(file: Any, name: str, **options: Any) -> Any:
    import soundfile

    try:
        return soundfile.SoundFile(file, **options)
    except (soundfile.LibsndfileError, ValueError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise UnsupportedError(f"{name} cannot be read as audio: {reason}") from error


def _read(sound: Any, name: str) -> Iterator[np.ndarray]:
    import soundfile

    read = 0
    dtype = "int16" if sound.subtype == "PCM_16" else "float32"  # libsndfile is slow to scale
    with sound:
        while True:
            try:
                block = sound.read(BLOCK_FRAMES, dtype=dtype, always_2d=True)
            except soundfile.LibsndfileError as error:
                raise ValueError(f"{name} is damaged after {read} samples: {error.error_string}") from error
            if not len(block):
                break
            read += len(block)
            yield block
        if not read:
            raise ValueError(f"{name} holds no samples")
        if read < sound.frames:
            raise ValueError(f"{name} is truncated: it has {read} of {sound.frames} samples")

"""Plain samples after a header; those in containers that `headers` does not know are read by libsndfile."""

import functools
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vggish_keras._errors import counted
from vggish_keras.decoding.headers import MAX_MISSING_FRAMES, Header
from vggish_keras.decoding.section import Section

BLOCK_FRAMES = 1 << 16

_DTYPES: dict[str | None, str] = {
    **{"PCM_S8": "i1", "PCM_U8": "u1", "PCM_16": "i2", "PCM_32": "i4"},
    **{"FLOAT": "f4", "DOUBLE": "f8"},
}

# FFmpeg reads these to their end; libsndfile also mistakes other files for MPEG audio, and prints messages about them.
_LEFT_TO_FFMPEG = frozenset(["MP3", "OGG", "FLAC"])
_MPEG_STARTS = (b"ID3", b"\xff")
_SPHERE_HEADER_BYTES = 1_024


class UnsupportedError(ValueError):
    """A library does not read this kind of file."""


def read_plain(file: BinaryIO, header: Header, name: str) -> Iterator[NDArray[Any]]:
    """Reads the samples that a header describes.

    Args:
        file: The file.
        header: Its header, with an encoding.
        name: The file's name in messages.

    Yields:
        Floats or integer PCM [frames, channels], as `audio.mono_blocks` accepts them.

    Raises:
        ValueError: The file holds no samples, or has become shorter since its header was read.
    """
    size = header.size - header.size % header.frame_bytes
    if not size:
        raise ValueError(f"{name} holds no samples")
    samples = Section(file, header.start, size)
    for start in range(0, size, BLOCK_FRAMES * header.frame_bytes):
        block = np.empty(min(BLOCK_FRAMES * header.frame_bytes, size - start), np.uint8)
        read = 0
        while read < len(block):
            count = samples.readinto(block[read:])
            if not count:
                raise ValueError(f"{name} is truncated: it has {start + read} of {size} bytes")
            read += count
        yield _decode(block, header).reshape(-1, header.channels)


def _decode(block: NDArray[np.uint8], header: Header) -> NDArray[Any]:
    if header.encoding == "PCM_24":
        return _decode_24_bits(block, header.big_endian)
    if header.encoding in ("ALAW", "ULAW"):
        return _law_table(header.encoding)[block]
    dtype = np.dtype(_DTYPES[header.encoding])
    return block.view(dtype.newbyteorder(">" if header.big_endian else "<"))


def _decode_24_bits(block: NDArray[np.uint8], big_endian: bool) -> NDArray[np.int32]:
    """Each sample as the upper bytes of 32 bits, read together with a neighbor's byte, which is then cleared."""
    padded = np.pad(block, (0, 1) if big_endian else (1, 0))
    return np.ndarray(len(block) // 3, ">i4" if big_endian else "<i4", padded, strides=3) & np.int32(-256)


@functools.cache
def _law_table(encoding: str) -> NDArray[np.int16]:
    """The samples that the 256 bytes of G.711's A-law or mu-law stand for."""
    code = np.arange(256) ^ (0x55 if encoding == "ALAW" else 0xFF)
    exponent, mantissa = code >> 4 & 7, code & 15
    if encoding == "ALAW":
        size = np.where(exponent, 2 * mantissa + 33 << exponent + 2, 2 * mantissa + 1 << 3)
        return np.where(code & 128, size, -size).astype(np.int16)
    size = (2 * mantissa + 33 << exponent + 2) - 132
    return np.where(code & 128, -size, size).astype(np.int16)


def open_sound(file: BinaryIO, header: Header | None, name: str) -> tuple[int, Iterator[NDArray[Any]]]:
    """Opens a file whose header is left to libsndfile.

    Args:
        file: The file.
        header: Its header, if `headers` knows the container.
        name: The file's name in messages.

    Returns:
        The sample rate in Hz, and int16 or float32 blocks [frames, channels].

    Raises:
        UnsupportedError: libsndfile does not read this kind of file.
        ValueError: While reading: the file is damaged, ends before its header says, or holds no samples.
    """
    file.seek(0)
    if file.read(3).startswith(_MPEG_STARTS):
        raise UnsupportedError(f"{name} cannot be read as audio: MPEG audio is left to FFmpeg")
    if header is None or not header.minimal_header:
        section = Section(file)
    else:
        section = Section(file, header.start, header.size, header.minimal_header)
    sound = _open(section, name)
    if sound.format in _LEFT_TO_FFMPEG:
        sound.close()
        raise UnsupportedError(f"{name} cannot be read as audio: {sound.format} is left to FFmpeg")
    try:
        _check_length(sound, section, name)
    except ValueError:
        sound.close()
        raise
    return sound.samplerate, _read(sound, name)


# libsndfile 1.2.2 reports only in its log, in these words, that a file ends too soon; a SPHERE header is text itself.
_FRAMES = r"(?:Frames|Cols|sample_count -i)[ :]*(\d+)"
_SIZES = r"(?:BODY|Data length)[ :]*(\d+) \(?should be (\d+)"


def _check_length(sound: Any, section: Section, name: str) -> None:
    """Raises ValueError if a file is shorter than its header declares, which libsndfile silently corrects."""
    log = sound.extra_info
    if sound.format == "NIST":
        position = section.tell()
        section.seek(0)
        log = section.read(_SPHERE_HEADER_BYTES).decode("latin-1")
        section.seek(position)
    declared = max((int(found[1]) for found in re.finditer(_FRAMES, log)), default=0)
    if declared - sound.frames > MAX_MISSING_FRAMES:
        raise ValueError(f"{name} is truncated: it has {sound.frames} of {counted(declared, 'sample')}")
    for found in re.finditer(_SIZES, log):
        if int(found[1]) > int(found[2]):
            raise ValueError(f"{name} is truncated: it has {found[2]} of {found[1]} bytes")
    if "truncated" in log:
        raise ValueError(
            f"{name} is truncated: it has {counted(sound.frames, 'sample')}, fewer than its header declares"
        )


def _open(file: Any, name: str, **options: Any) -> Any:
    import soundfile

    try:
        return soundfile.SoundFile(file, **options)
    except (soundfile.LibsndfileError, ValueError) as error:
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise UnsupportedError(f"{name} cannot be read as audio: {reason}") from error


def _read(sound: Any, name: str) -> Iterator[NDArray[Any]]:
    import soundfile

    read = 0
    dtype = "int16" if sound.subtype == "PCM_16" else "float32"  # libsndfile scales slowly
    with sound:
        while True:
            try:
                block = sound.read(BLOCK_FRAMES, dtype=dtype, always_2d=True)
            except soundfile.LibsndfileError as error:
                raise ValueError(f"{name} is damaged after {counted(read, 'sample')}: {error.error_string}") from error
            if not len(block):
                break
            read += len(block)
            yield block
        if not read:
            raise ValueError(f"{name} holds no samples")
        if read < sound.frames:
            raise ValueError(f"{name} is truncated: it has {read} of {counted(sound.frames, 'sample')}")

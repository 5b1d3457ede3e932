"""Samples behind a header, read by libsndfile."""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from vggish_keras.decoding.headers import MAX_MISSING_FRAMES, Header
from vggish_keras.decoding.section import Section

BLOCK_FRAMES = 1 << 16

# FFmpeg reads these to their end; libsndfile also takes other files for MPEG audio, and prints what is wrong with it.
_LEFT_TO_FFMPEG = frozenset(["MP3", "OGG", "FLAC"])
_MPEG_STARTS = (b"ID3", b"\xff")
_SPHERE_HEADER_BYTES = 1_024


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


def open_sound(file: BinaryIO, header: Header | None, name: str) -> tuple[int, Iterator[np.ndarray]]:
    """Opens a file whose header libsndfile reads itself.

    Args:
        file: The file.
        header: Its header, if it is in one of the containers that `headers` knows.
        name: What messages call it.

    Returns:
        The sample rate in Hz, and int16 or float32 blocks [frames, channels].

    Raises:
        UnsupportedError: libsndfile does not read it.
        ValueError: While reading: the file is damaged, ends before its header says, or holds no samples.
    """
    file.seek(0)
    if file.read(3).startswith(_MPEG_STARTS):
        raise UnsupportedError(f"{name} cannot be read as audio: MPEG audio is left to FFmpeg")
    if header is None or not header.essentials:
        section = Section(file)
    else:
        section = Section(file, header.start, header.size, header.essentials)
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


# What libsndfile 1.2.2 notes in its log, and nowhere else, of files that end too soon; SPHERE's header is text itself.
_FRAMES = r"(?:Frames|Cols|sample_count -i)[ :]*(\d+)"
_SIZES = r"(?:BODY|Data length)[ :]*(\d+) \(?should be (\d+)"


def _check_length(sound: Any, section: Section, name: str) -> None:
    """Raises a ValueError if a file is shorter than its header declares, which libsndfile corrects in silence."""
    log = sound.extra_info
    if sound.format == "NIST":
        position = section.tell()
        section.seek(0)
        log = section.read(_SPHERE_HEADER_BYTES).decode("latin-1")
        section.seek(position)
    declared = max((int(found[1]) for found in re.finditer(_FRAMES, log)), default=0)
    if declared - sound.frames > MAX_MISSING_FRAMES:
        raise ValueError(f"{name} is truncated: it has {sound.frames} of {declared} samples")
    for found in re.finditer(_SIZES, log):
        if int(found[1]) > int(found[2]):
            raise ValueError(f"{name} is truncated: it has {found[2]} of {found[1]} bytes")
    if "truncated" in log:
        raise ValueError(f"{name} is truncated: it has {sound.frames} samples, fewer than its header declares")


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

"""Plain samples after a header, read by libsndfile."""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from numpy.typing import NDArray

from vggish_keras.decoding.headers import MAX_MISSING_FRAMES, Header
from vggish_keras.decoding.section import Section

BLOCK_FRAMES = 1 << 16

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
        samplerate=1,  # any value: it does not affect the samples
        channels=header.channels,
    )
    return _read(sound, name)


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


def _read(sound: Any, name: str) -> Iterator[NDArray[Any]]:
    import soundfile

    read = 0
    dtype = "int16" if sound.subtype == "PCM_16" else "float32"  # libsndfile scales slowly
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

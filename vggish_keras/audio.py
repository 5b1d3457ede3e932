"""Audio files, file objects and arrays as blocks of mono float32 samples."""

import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

from vggish_keras.resample import check_sample_rate

Source: TypeAlias = str | os.PathLike[str] | BinaryIO | np.ndarray

_BLOCK_FRAMES = 1 << 16
_MAX_CHANNELS = 1024
"""libsndfile's limit; an array with more has its axes swapped."""
_LOUDEST_PEAK = 10.0
"""Decoders overshoot 1 by a little; what goes far beyond was not scaled."""
_PCM_DTYPES = ("uint8", "int8", "int16", "int32")
STREAMED_SIZE = 0x7FFFF000
"""Programs that write to a pipe cannot know the size and put 2^31 or 2^32 less a little."""


class Audio(NamedTuple):
    """A source of samples.

    Attributes:
        sample_rate: Hz.
        blocks: float32 arrays [samples], mono, to be read once.
    """

    sample_rate: int
    blocks: Iterator[np.ndarray]


def open_audio(source: Source, sample_rate: int | None = None) -> Audio:
    """Opens a source, to be read block by block in constant memory.

    Args:
        source: A path or a binary file object of anything that libsndfile reads (WAV, FLAC, Ogg, MP3, ..); or an array
            [samples] or [samples, channels] of floats in [-1, 1] or of uint8, int8, int16 or int32 PCM, scaled here.
        sample_rate: The array's rate in Hz; a file knows its own.

    Returns:
        The rate and the samples: the mean of the channels.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The file cannot be opened.
        ValueError: A file without samples or that is no audio; an array of another shape; no rate for an array, or
            one for a file. While reading: samples that are not finite, or a file that ends before its header says;
            Ogg and MP3 files do not say.
        TypeError: A source or an array dtype that cannot be audio.
    """
    if hasattr(source, "__array__"):
        if sample_rate is None:
            raise ValueError("the sample_rate of an array must be given")
        return Audio(check_sample_rate(sample_rate), mono_blocks(_cut(np.asarray(source))))
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
        raise TypeError(f"expected a path, a binary file object or an array, got {type(source).__name__}")
    if sample_rate is not None:
        raise ValueError(f"a file has its own sample rate, got sample_rate={sample_rate!r}")
    file, name = _open_path(Path(source)) if isinstance(source, (str, os.PathLike)) else _open_stream(source)
    try:
        sample_rate = check_sample_rate(file.samplerate)
    except ValueError as error:
        file.close()
        raise ValueError(f"{name}: {error}") from error
    return Audio(sample_rate, mono_blocks(_read(file, name), name))


def _cut(array: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of an array; of an empty one, or one that is none, the whole, so that its shape is checked."""
    for start in range(0, max(1, array.shape[0] if array.ndim else 0), _BLOCK_FRAMES):
        yield array[start : start + _BLOCK_FRAMES] if array.ndim else array


def mono_blocks(blocks: Iterable[Any], name: str = "waveform") -> Iterator[np.ndarray]:
    """Turns arrays into mono float32 samples in [-1, 1].

    Args:
        blocks: Arrays [samples] or [samples, channels], float or PCM, as `open_audio` takes them.
        name: What messages call the source.

    Yields:
        float32 [samples].

    Raises:
        ValueError: Another shape, or samples that are not finite.
        TypeError: A dtype that cannot be audio.
    """
    start = 0
    loud = False
    for block in blocks:
        samples = _as_float32(np.asarray(block), name)
        if samples.ndim == 2:
            # Over an axis this short, numpy's mean takes forty times as long as the product.
            samples = samples @ np.full(samples.shape[1], 1 / samples.shape[1], np.float32)
        peak = float(np.max(np.abs(samples), initial=0))
        if not np.isfinite(peak):
            first = start + int(np.argmin(np.isfinite(samples)))
            raise ValueError(f"{name}: sample {first} is {samples[first - start]}, not a finite number")
        if peak > _LOUDEST_PEAK and not loud:
            loud = True
            message = f"{name}: float samples should lie in [-1, 1] but reach {peak:.4g}; were they PCM, never scaled?"
            warnings.warn(message, stacklevel=2)
        start += len(samples)
        yield samples


def _as_float32(block: np.ndarray, name: str) -> np.ndarray:
    if block.ndim not in (1, 2):
        raise ValueError(f"{name}: expected shape [samples] or [samples, channels], got {block.shape}")
    if block.ndim == 2 and not 1 <= block.shape[1] <= _MAX_CHANNELS:
        raise ValueError(f"{name}: expected shape [samples, channels], got {block.shape}")
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is told below
            return block.astype(np.float32, copy=False)
    if block.dtype.name not in _PCM_DTYPES:
        raise TypeError(f"{name}: expected floats or PCM of dtype {', '.join(_PCM_DTYPES)}, got {block.dtype}")
    full_scale = np.float32(2.0 ** (8 * block.dtype.itemsize - 1))
    samples = block.astype(np.float32)
    return (samples - full_scale if block.dtype == np.uint8 else samples) / full_scale


# === Files ===


def _open_path(path: Path) -> tuple[Any, str]:
    if not path.exists():
        raise FileNotFoundError(f"no audio file at {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} cannot be read as audio: the file is empty")
    try:
        # As bytes, because a name need not be valid text; absolute, because libsndfile takes - for standard input.
        file = path.absolute()
        return _open_sound(str(file) if os.name == "nt" else os.fsencode(file), str(path)), str(path)
    except ValueError:
        path.open("rb").close()  # says why, where libsndfile speaks of a system error
        raise


def _open_stream(source: Any) -> tuple[Any, str]:
    name = str(getattr(source, "name", "file object"))
    if isinstance(source, io.TextIOBase):
        raise TypeError(f"{name} is open as text: open it in binary mode")
    stream = source
    if not hasattr(source, "seekable") or not source.seekable() or source.tell() != 0:
        # libsndfile needs to seek, and counts from the beginning.
        stream = io.BytesIO(source.read())
    if not stream.seek(0, io.SEEK_END):
        raise ValueError(f"{name} cannot be read as audio: there is nothing left to read")
    stream.seek(0)
    return _open_sound(stream, name), name


def _open_sound(file: Any, name: str) -> Any:
    import soundfile

    try:
        return soundfile.SoundFile(file)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a raw file, which says nothing of itself
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        if "regular file" in reason:  # what libsndfile makes of an MP3 decoder that finds nothing
            reason = "no audio found in it"
        raise ValueError(f"{name} cannot be read as audio: {reason}") from error


def _read(file: Any, name: str) -> Iterator[np.ndarray]:
    import soundfile

    read = 0
    dtype = "int16" if file.subtype == "PCM_16" else "float32"  # libsndfile is slow to scale
    with file:
        _check_size(file, name)
        while True:
            try:
                block = file.read(_BLOCK_FRAMES, dtype=dtype, always_2d=True)
            except soundfile.LibsndfileError as error:
                raise ValueError(f"{name} is damaged after {read} samples: {error.error_string}") from error
            if not len(block):
                break
            read += len(block)
            yield block
        if not read:
            raise ValueError(f"{name} holds no samples")
        # The length of an MP3 file is an estimate.
        if read < file.frames < STREAMED_SIZE and file.format != "MP3":
            raise ValueError(f"{name} is truncated: it has {read} of {file.frames} samples")


# What libsndfile notes in its log, and nowhere else, of a header that promises more than the file has.
_PROMISES = (
    (r"^ *(?:data|SSND|Data Size|riff) *: *(?P<promised>\d+) \(should be (?P<present>\d+)\)", "bytes"),
    (r"frame count (?P<present>\d+) does not match value from 'ds64' chunk of (?P<promised>\d+)", "samples"),
)


def _check_size(file: Any, name: str) -> None:
    """Raise if the header promises more than the file has."""
    for pattern, unit in _PROMISES:
        if found := re.search(pattern, file.extra_info, re.MULTILINE):
            promised, present = int(found["promised"]), int(found["present"])
            if present < promised < STREAMED_SIZE:
                raise ValueError(f"{name} is truncated: it has {present} of {promised} {unit}")

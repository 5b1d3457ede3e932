"""Audio files, file objects and arrays as blocks of mono float32 samples."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias

import numpy as np

from vggish_keras.decoding import MAX_CHANNELS, open_recording
from vggish_keras.decoding.plain import BLOCK_FRAMES

Source: TypeAlias = str | os.PathLike[str] | BinaryIO | np.ndarray
Channels: TypeAlias = int | Literal["mix"]

_LOUDEST_PEAK = 10.0
"""Decoders overshoot 1 by a little; what goes far beyond was not scaled."""
MAX_SAMPLE_RATE = 768_000
"""Hz: the fastest audio converters; the filters of faster rates take gigabytes."""
_PCM_DTYPES = ("uint8", "int8", "int16", "int32")
_MIN_FILE_RATE = 100
"""Hz. Lower rates are found in damaged headers, where a second of samples becomes hours."""
_CANCELED_LEVEL = 0.01
_LEVEL_FRAMES = 4_096
"""Levels are estimated from the first frames of each block, which costs next to nothing."""


class Audio(NamedTuple):
    """A source of samples.

    Attributes:
        sample_rate: Hz.
        blocks: float32 arrays [samples], mono, to be read once.
    """

    sample_rate: int
    blocks: Iterator[np.ndarray]


def open_audio(source: Source, sample_rate: int | None = None, channels: Channels = "mix") -> Audio:
    """Opens a source, to be read block by block in constant memory.

    Args:
        source: A path or a binary file object in any format that libsndfile or FFmpeg reads (WAV, FLAC, MP3, Ogg, M4A,
            WebM, ..), of a video the first audio stream; or an array [samples] or [samples, channels] of floats in
            [-1, 1] or of uint8, int8, int16 or int32 PCM, scaled here.
        sample_rate: The array's rate in Hz; a file has its own.
        channels: "mix" for the mean of the channels, or the index of one.

    Returns:
        The rate and the samples.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be opened.
        ValueError: A file that is not audio, is damaged or has a sample rate below 100 Hz; an array of a different
            shape; an array without a rate, or a file with one. While reading: samples that are not finite, a missing
            channel, a file without samples or that ends before its header says. The documentation lists the formats
            that do not declare their length.
        TypeError: A source or an array dtype that cannot be audio.
    """
    check_channels(channels)
    if hasattr(source, "__array__"):
        if sample_rate is None:
            raise ValueError("the sample_rate of an array must be given")
        return Audio(check_sample_rate(sample_rate), mono_blocks(_cut(np.asarray(source)), channels=channels))
    if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
        raise TypeError(f"expected a path, a binary file object or an array, got {type(source).__name__}")
    if sample_rate is not None:
        raise ValueError(f"a file has its own sample rate, got sample_rate={sample_rate!r}")
    if isinstance(source, (str, os.PathLike)):
        file, name = _open_path(Path(source))
        own = file
    else:
        file, name = _open_stream(source)
        own = None  # a caller's file stays open
    try:
        recording = open_recording(file, name)
        rate = _check_file_rate(recording.sample_rate, name)
    except BaseException:
        if own is not None:
            own.close()
        raise
    return Audio(rate, mono_blocks(_close_after(recording.blocks, own), name, channels))


def _check_file_rate(sample_rate: int, name: str) -> int:
    try:
        check_sample_rate(sample_rate)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if sample_rate < _MIN_FILE_RATE:
        way_out = "if that is right, pass its samples as an array with that sample_rate"
        raise ValueError(
            f"{name}: the header declares a sample rate of {sample_rate} Hz, below {_MIN_FILE_RATE}; {way_out}"
        )
    return sample_rate


def check_sample_rate(sample_rate: Any) -> int:
    """`sample_rate` as an int; raises a ValueError if it is not a whole number from 1 to 768,000."""
    try:
        rate = int(sample_rate)
    except (TypeError, ValueError, OverflowError):
        rate = 0
    if not 1 <= rate <= MAX_SAMPLE_RATE or rate != sample_rate:
        raise ValueError(f"sample_rate must be a whole number of Hz from 1 to {MAX_SAMPLE_RATE:,}, got {sample_rate!r}")
    return rate


def check_channels(channels: Any) -> None:
    """Raises a ValueError if `channels` is neither "mix" nor an index."""
    if channels == "mix" or (isinstance(channels, int) and not isinstance(channels, bool) and channels >= 0):
        return
    raise ValueError(f'channels must be "mix" or the index of a channel, got {channels!r}')


def _cut(array: np.ndarray) -> Iterator[np.ndarray]:
    """Blocks of an array; an empty one, or one without axes, as a whole, so that its shape is checked."""
    for start in range(0, max(1, array.shape[0] if array.ndim else 0), BLOCK_FRAMES):
        yield array[start : start + BLOCK_FRAMES] if array.ndim else array


def mono_blocks(blocks: Iterable[Any], name: str = "waveform", channels: Channels = "mix") -> Iterator[np.ndarray]:
    """Turns arrays into mono float32 samples in [-1, 1].

    Warns of samples far beyond [-1, 1], and of channels whose mean is below a hundredth of each channel's level.

    Args:
        blocks: Arrays [samples] or [samples, channels], float or PCM, as `open_audio` takes them.
        name: What messages call the source.
        channels: As in `open_audio`.

    Yields:
        float32 [samples].

    Raises:
        ValueError: A different shape, a missing channel, or samples that are not finite.
        TypeError: A dtype that cannot be audio.
    """
    start = 0
    loud = False
    levels = _Levels()
    for block in blocks:
        samples, full_scale = _as_float32(np.asarray(block), name, channels)
        if samples.ndim == 2:
            with np.errstate(over="ignore", invalid="ignore"):  # reported below
                # Over an axis this short, numpy's mean takes forty times as long as the product.
                mixed = samples @ np.full(samples.shape[1], 1 / samples.shape[1], np.float32)
                levels.add(samples, mixed)
            samples = mixed
        if full_scale != 1:
            samples /= full_scale  # a power of two, so to the bit it may come after the mean
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
    if levels.cancel():
        message = f"{name}: the channels cancel each other in the mean (inverted stereo?): choose one with channels=0"
        warnings.warn(message, stacklevel=2)


class _Levels:
    """The power of each channel and of their mean."""

    def __init__(self) -> None:
        self._channels = np.zeros(0)
        self._mean = 0.0

    def add(self, samples: np.ndarray, mixed: np.ndarray) -> None:
        if len(self._channels) != samples.shape[1]:
            self._channels, self._mean = np.zeros(samples.shape[1]), 0.0
        some, mean = samples[:_LEVEL_FRAMES], mixed[:_LEVEL_FRAMES]
        self._channels += np.einsum("ij,ij->j", some, some)
        self._mean += float(mean @ mean)

    def cancel(self) -> bool:
        return len(self._channels) > 0 and self._mean < _CANCELED_LEVEL**2 * float(self._channels.min())


def _as_float32(block: np.ndarray, name: str, channels: Channels) -> tuple[np.ndarray, float]:
    """The chosen channels as float32, and the value that stands for 1."""
    if block.ndim not in (1, 2):
        raise ValueError(f"{name}: expected shape [samples] or [samples, channels], got {block.shape}")
    if block.ndim == 2 and not 1 <= block.shape[1] <= MAX_CHANNELS:  # more: its axes are swapped
        raise ValueError(f"{name}: expected shape [samples, channels], got {block.shape}")
    if channels != "mix":
        count = block.shape[1] if block.ndim == 2 else 1
        if channels >= count:
            raise ValueError(f"{name}: channel {channels} is missing: it has {count}, counted from 0")
        block = block[:, channels] if block.ndim == 2 else block
    elif block.ndim == 2 and block.shape[1] == 1:
        block = block[:, 0]
    if block.dtype.kind == "f":
        with np.errstate(over="ignore"):  # reported as infinity by the caller
            return block.astype(np.float32, copy=False), 1
    if block.dtype.name not in _PCM_DTYPES:
        raise TypeError(f"{name}: expected floats or PCM of dtype {', '.join(_PCM_DTYPES)}, got {block.dtype}")
    full_scale = 2.0 ** (8 * block.dtype.itemsize - 1)
    samples = block.astype(np.float32)
    if block.dtype == np.uint8:
        samples -= full_scale
    return samples, full_scale


# === Files ===


def _open_path(path: Path) -> tuple[BinaryIO, str]:
    if not path.exists():
        raise FileNotFoundError(f"no audio file at {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} cannot be read as audio: the file is empty")
    return path.open("rb"), str(path)


def _open_stream(source: Any) -> tuple[BinaryIO, str]:
    name = str(getattr(source, "name", "file object"))
    if isinstance(source, io.TextIOBase):
        raise TypeError(f"{name} is open as text: open it in binary mode")
    stream = source
    if not hasattr(source, "seekable") or not source.seekable() or source.tell() != 0:
        # Decoders need to seek, and count from the beginning.
        stream = io.BytesIO(source.read())
    if not stream.seek(0, io.SEEK_END):
        raise ValueError(f"{name} cannot be read as audio: there is nothing left to read")
    return stream, name


def _close_after(blocks: Iterator[np.ndarray], file: BinaryIO | None) -> Iterator[np.ndarray]:
    with contextlib.nullcontext() if file is None else file:
        yield from blocks

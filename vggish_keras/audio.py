"""Audio files, file objects and arrays as blocks of mono float32 samples."""

import contextlib
import io
import numbers
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vggish_keras._errors import warn_caller
from vggish_keras.decoding import BLOCK_FRAMES, MAX_CHANNELS, open_recording

Source: TypeAlias = str | os.PathLike[str] | BinaryIO | NDArray[Any] | Mapping[str, Any]
Channels: TypeAlias = Literal["mix"] | int

MAX_SAMPLE_RATE = 768_000
"""Hz, of the fastest audio converters; the filters of higher rates take gigabytes."""

_MAX_PEAK = 10.0
"""Decoders overshoot 1 slightly; samples far beyond were not scaled."""
_PCM_DTYPES = ("uint8", "int8", "int16", "int32")
_MIN_FILE_RATE = 100
"""Hz. Lower rates come from damaged headers, and turn a second of samples into hours."""
_BYTES = (bytes, bytearray, memoryview)
"""NumPy would take most of them for 8-bit samples."""
_CANCELED_LEVEL = 0.01
"""Level of the mean, relative to the quietest channel, below which channels cancel each other."""
_LEVEL_FRAMES = 1_024
"""Levels are estimated from this many frames at the start of each block, at almost no cost."""


class Audio(NamedTuple):
    """An open source of samples.

    Attributes:
        sample_rate: Hz.
        blocks: Mono float32 arrays [samples], which can be read once.
    """

    sample_rate: int
    blocks: Iterator[NDArray[np.float32]]


def open_audio(source: Source, sample_rate: int | None = None, channels: Channels = "mix") -> Audio:
    """Opens a source to read it block by block, in constant memory.

    Args:
        source: A path or a binary file object in any format that libsndfile or FFmpeg reads (WAV, FLAC, MP3, Ogg, M4A,
            WebM, ...), or a video, whose first audio stream is read; or an array [samples] or [samples, channels] of
            floats in [-1, 1], or of uint8, int8, int16 or int32 PCM, which is scaled to [-1, 1]; or a dictionary with
            the keys "array", whose shape is [samples] or [channels, samples], and "sampling_rate", as in the audio
            columns of Hugging Face's datasets.
        sample_rate: The array's sample rate in Hz; files and dictionaries have their own.
        channels: "mix" for the mean of the channels, or the index of a channel.

    Returns:
        The sample rate and the samples.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be opened.
        ValueError: The file is not audio, is damaged or has a sample rate below 100 Hz; the array has an unsupported
            shape; `sample_rate` is missing for an array or given for a different source; a dictionary lacks a key; or
            the path is a URL. While reading: samples are not finite, the channel does not exist, or the file has no
            samples or ends before its header says. docs/formats.md lists the formats that do not declare
            their length.
        TypeError: The source is not a path, file, array or dictionary, or the array's dtype is not supported.
    """
    channels = check_channels(channels)
    if is_array(source):
        if sample_rate is None:
            raise ValueError("an array needs a sample_rate")
        return Audio(check_sample_rate(sample_rate), mono_blocks(_split(np.asarray(source)), channels=channels))
    kind = _kind(source)
    if sample_rate is not None:
        raise ValueError(f"sample_rate must be None for a {kind}, which has its own, got {sample_rate!r}")
    if kind == "dictionary":
        return open_audio(*_unpack(source), channels)
    if isinstance(source, (str, os.PathLike)):
        file, name = _open_path(source)
        to_close = file
    else:
        file, name = _open_stream(source)
        to_close = None  # the caller's file stays open
    try:
        recording = open_recording(file, name)
        rate = _check_file_rate(recording.sample_rate, name)
    except BaseException:
        if to_close is not None:
            to_close.close()
        raise
    return Audio(rate, mono_blocks(_close_after(recording.blocks, to_close), name, channels))


def _kind(source: Any) -> Literal["file", "dictionary"]:
    if isinstance(source, (str, os.PathLike)) or hasattr(source, "read"):
        return "file"
    # The decoders that newer versions of datasets return have the keys of a dictionary, but are not mappings.
    if isinstance(source, Mapping) or hasattr(source, "get_all_samples"):
        return "dictionary"
    hint = ""
    if isinstance(source, _BYTES):
        hint = ": pass io.BytesIO(source) if it is a file, or np.frombuffer(source, np.int16) if it is 16-bit samples"
    raise TypeError(f"expected a path, a binary file object or an array, got {type(source).__name__}{hint}")


def _unpack(source: Any) -> tuple[NDArray[Any], int]:
    """The samples of a dictionary [samples] or [samples, channels], and their rate."""
    try:
        array, sample_rate = np.asarray(source["array"]), source["sampling_rate"]
    except KeyError as error:
        raise ValueError(f'a dictionary needs the keys "array" and "sampling_rate", got {list(source)}') from error
    return array.T if array.ndim == 2 else array, sample_rate


def _check_file_rate(sample_rate: int, name: str) -> int:
    try:
        check_sample_rate(sample_rate)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if sample_rate < _MIN_FILE_RATE:
        raise ValueError(
            f"{name}: the header declares a sample rate of {sample_rate} Hz, below {_MIN_FILE_RATE}; if this is "
            "correct, pass the samples as an array with this sample_rate"
        )
    return sample_rate


def check_sample_rate(sample_rate: Any) -> int:
    """Returns `sample_rate` as an int; raises ValueError unless it is a whole number from 1 to 768,000."""
    try:
        rate = int(sample_rate)
    except (TypeError, ValueError, OverflowError):
        rate = 0
    if not 1 <= rate <= MAX_SAMPLE_RATE or rate != sample_rate:
        raise ValueError(f"sample_rate must be a whole number of Hz from 1 to {MAX_SAMPLE_RATE:,}, got {sample_rate!r}")
    return rate


def is_array(source: Any) -> bool:
    """Returns whether a source is an array or a tensor."""
    return hasattr(source, "__array__") and not isinstance(source, str)  # NumPy's strings are both


def check_channels(channels: Any) -> Channels:
    """Returns `channels` with an index as an int; raises ValueError unless it is "mix" or an index."""
    if isinstance(channels, str) and channels == "mix":
        return "mix"
    if isinstance(channels, numbers.Integral) and not isinstance(channels, bool) and int(channels) >= 0:
        return int(channels)
    raise ValueError(f'channels must be "mix" or the index of a channel, got {channels!r}')


def _split(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Splits an array into blocks; empty and 0-d arrays are yielded whole, so that their shape is still checked."""
    for start in range(0, max(1, array.shape[0] if array.ndim else 0), BLOCK_FRAMES):
        yield array[start : start + BLOCK_FRAMES] if array.ndim else array


def mono_blocks(
    blocks: Iterable[NDArray[Any]], name: str = "waveform", channels: Channels = "mix"
) -> Iterator[NDArray[np.float32]]:
    """Turns arrays into mono float32 samples in [-1, 1].

    Warns of samples far beyond [-1, 1], and of channels whose mean is below a hundredth of each channel's level.

    Args:
        blocks: Arrays [samples] or [samples, channels], float or PCM, as `open_audio` accepts them.
        name: The source's name in messages.
        channels: As in `open_audio`.

    Yields:
        float32 [samples].

    Raises:
        ValueError: The shape is not supported, the channel does not exist, or samples are not finite.
        TypeError: The dtype is not supported.
    """
    start = 0
    loud = False
    levels = _ChannelLevels()
    for block in blocks:
        if isinstance(block, _BYTES):
            raise TypeError(f"{name}: got {type(block).__name__}: convert it, such as np.frombuffer(block, np.int16)")
        samples, full_scale = _to_float32(_select_channels(np.asarray(block), name, channels), name)
        if samples.ndim == 2:
            with np.errstate(over="ignore", invalid="ignore"):  # reported below
                mixed = _mean(samples)
                levels.add(samples, mixed)
            samples = mixed
        if full_scale != 1:
            samples *= 1 / full_scale  # after the mean, with equal bits, because it is a power of two
        elif (peak := _finite_peak(samples, name, start)) > _MAX_PEAK and not loud:
            loud = True
            message = f"{name}: float samples should be in [-1, 1] but reach {peak:.4g}; is this unscaled integer PCM?"
            warn_caller(message)
        start += len(samples)
        yield samples
    if levels.channels_cancel():
        warn_caller(
            f"{name}: the channels cancel each other in the mean (inverted stereo?): select one with channels=0 "
            "(--channels 0)"
        )


class _ChannelLevels:
    """The power of each channel, and of their mean."""

    def __init__(self) -> None:
        self._channels = np.zeros(0)
        self._mean = 0.0

    def add(self, samples: NDArray[np.float32], mixed: NDArray[np.float32]) -> None:
        if len(self._channels) != samples.shape[1]:
            self._channels, self._mean = np.zeros(samples.shape[1]), 0.0
        start, mean = samples[:_LEVEL_FRAMES], mixed[:_LEVEL_FRAMES]
        self._channels += np.einsum("ij,ij->j", start, start)
        self._mean += float(mean @ mean)

    def channels_cancel(self) -> bool:
        return len(self._channels) > 0 and self._mean < _CANCELED_LEVEL**2 * float(self._channels.min())


def _select_channels(block: NDArray[Any], name: str, channels: Channels) -> NDArray[Any]:
    """[samples], or [samples, channels] if there are several channels to mix."""
    if block.ndim not in (1, 2):
        raise ValueError(f"{name}: expected shape [samples] or [samples, channels], got {block.shape}")
    if block.ndim == 2 and not 1 <= block.shape[1] <= MAX_CHANNELS:  # more: its axes are swapped
        raise ValueError(f"{name}: expected shape [samples, channels], got {block.shape}")
    if channels != "mix":
        count = block.shape[1] if block.ndim == 2 else 1
        if channels >= count:
            raise ValueError(f"{name}: expected a channel index below {count}, the number of channels, got {channels}")
        return block[:, channels] if block.ndim == 2 else block
    return block[:, 0] if block.shape[1:] == (1,) else block


def _to_float32(block: NDArray[Any], name: str) -> tuple[NDArray[np.float32], float]:
    """The samples as float32, and the value that stands for 1."""
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


def _finite_peak(samples: NDArray[np.float32], name: str, start: int) -> float:
    """The largest absolute value; raises ValueError if a sample is not finite."""
    peak = float(np.max(np.abs(samples), initial=0))
    if not np.isfinite(peak):
        first = int(np.argmin(np.isfinite(samples)))
        raise ValueError(f"{name}: sample {start + first} is {samples[first]}, not a finite number")
    return peak


def _mean(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels; NumPy's own over such a short axis takes forty times as long."""
    channels = samples.shape[1]
    if channels == 2:
        mixed = samples[:, 0] + samples[:, 1]
        mixed *= 0.5
        return mixed
    return samples @ np.full(channels, 1 / channels, np.float32)


# === Files ===


def _open_path(source: str | os.PathLike[str]) -> tuple[BinaryIO, str]:
    path = Path(source)
    if not path.exists():
        if re.match(r"\w{2,}:/", str(path)):  # pathlib removes the second slash
            raise ValueError(f"expected a file, got the URL {source}: download it first")
        raise FileNotFoundError(f"no audio file at {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} cannot be read as audio: the file is empty")
    return path.open("rb"), str(path)


def _open_stream(source: Any) -> tuple[BinaryIO, str]:
    name = str(getattr(source, "name", "file object"))
    if isinstance(source, io.TextIOBase):
        raise TypeError(f"{name} is open in text mode: open it in binary mode")
    stream = source
    if not hasattr(source, "seekable") or not source.seekable() or source.tell() != 0 or source.seek(0) != 0:
        # Decoders need to seek, count from the beginning, and rely on the position that `seek` returns.
        stream = io.BytesIO(source.read())
    if not stream.seek(0, io.SEEK_END):
        raise ValueError(f"{name} cannot be read as audio: no bytes are left to read")
    return stream, name


def _close_after(blocks: Iterator[NDArray[Any]], file: BinaryIO | None) -> Iterator[NDArray[Any]]:
    with contextlib.nullcontext() if file is None else file:
        yield from blocks

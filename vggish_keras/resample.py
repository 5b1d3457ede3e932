"""Resample any sample rate to 16 kHz with a polyphase filter bank that reproduces resampy's kaiser_best.

Output sample i lies between the input samples p and p + 1, where p = floor(i * sample_rate / 16000), at a fraction of
the way from one to the other. It is the weighted sum of the input samples from p - wing + 1 to p + wing. Its weights,
the 2 * wing taps of its filter, depend only on the fraction: they are resampy's windowed sinc, interpolated from the
table `resampy_table`.

The fractions repeat after 16000 / gcd(sample_rate, 16000) output samples, the phases of the rate. So the filters of
successive output samples are the columns of a matrix, each shifted down by its p, and a block of output samples is one
row of a matrix product: [blocks, span] @ [span, columns], where the span is the input samples that all columns need.
More columns make a faster product, and a matrix with more zeros in it. Rates with thousands of phases need a
different compromise:

- Here, all filters are computed once per rate and cached, in several matrices of few columns each.
- In `exporting.graph_resample`, whose rates are known only at run time and which must stay small, the filters become
  polynomials in the fraction.

Both modules use the same names for the same things.
"""

import functools
import importlib.metadata
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggish_keras import params
from vggish_keras.audio import Channels, Source, check_sample_rate, open_audio

__all__ = ["load_audio", "read_waveform", "resample", "resample_blocks"]

TARGET_COLUMNS = 128
"""Output samples per matrix: fewer make the product slow, more fill the matrix with zeros."""
# Rates with more phases than this have fewer columns per matrix, because all their matrices take memory together: fewer
# columns leave fewer zeros. (The graph's single matrix affords more.)
_MAX_PHASES, _MANY_PHASES_COLUMNS = 4_096, 16
_OUTPUTS_PER_STEP = 32_768
"""Enough rows for a fast product."""


class FilterBank(NamedTuple):
    """The filters of a sample rate, which repeat every `advance` input samples and `columns` output samples.

    Attributes:
        matrices: A float32 [span, columns] matrix for each group of successive output samples.
        starts: For each matrix, the input sample at which its span starts, counted from the block's first.
        advance: Input samples from block to block.
        columns: Output samples per block: the columns of all matrices.
        reach: Input samples that the filters reach back before the block's first.
    """

    matrices: tuple[NDArray[np.float32], ...]
    starts: tuple[int, ...]
    advance: int
    columns: int
    reach: int

    @property
    def span(self) -> int:
        """Input samples that a block needs."""
        return max(start + len(matrix) for start, matrix in zip(self.starts, self.matrices, strict=True))


def resample(waveform: ArrayLike, sample_rate: int) -> NDArray[np.float32]:
    """Resamples to 16 kHz.

    Args:
        waveform: Float array [..., samples].
        sample_rate: Its rate in Hz.

    Returns:
        float32 [..., samples * 16000 // sample_rate], for samples in [-1, 1] within 5e-6 of `resampy.resample` with its
        default filter, kaiser_best.

    Raises:
        ValueError: `sample_rate` is not a whole number from 1 to 768,000, or the waveform is a single number.
        TypeError: The waveform does not hold floats.

    Example:
        >>> second = np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100)
        >>> vk.resample.resample(second, 44_100).shape
        (16000,)
        >>> vk.resample.resample(np.stack([second, -second]), 44_100).shape
        (2, 16000)
    """
    waveform = np.asarray(waveform)
    if waveform.ndim == 0:
        raise ValueError("expected a waveform of shape [..., samples], got a single number")
    channels = waveform.reshape(math.prod(waveform.shape[:-1]), waveform.shape[-1])
    length = waveform.shape[-1] * params.SAMPLE_RATE // check_sample_rate(sample_rate)
    output = np.empty((len(channels), length), np.float32)
    for channel, row in zip(channels, output, strict=True):
        row[:] = np.concatenate([*resample_blocks([channel], sample_rate), np.empty(0, np.float32)])
    return output.reshape(*waveform.shape[:-1], length)


def resample_blocks(blocks: Iterable[NDArray[np.floating]], sample_rate: int) -> Iterator[NDArray[np.float32]]:
    """Resamples a stream to 16 kHz; the output does not depend on how the stream is cut into blocks.

    Args:
        blocks: Float arrays [samples] of any lengths.
        sample_rate: Their rate in Hz.

    Yields:
        float32 arrays [samples], which together equal what `resample` returns for the whole stream.

    Raises:
        ValueError: `sample_rate` is not a whole number from 1 to 768,000.
        TypeError: A block does not hold floats.

    Example:
        >>> stream = (np.zeros(1_000, np.float32) for _ in range(44))
        >>> sum(len(block) for block in vk.resample.resample_blocks(stream, 44_000))
        16000
    """
    sample_rate = check_sample_rate(sample_rate)
    if sample_rate == params.SAMPLE_RATE:
        yield from map(_check_floats, blocks)
        return
    bank = filter_bank(sample_rate)
    # Every product has the same shape, the last one padded with silence, so that its rounding is also the same.
    rows = max(1, _OUTPUTS_PER_STEP // bank.columns)
    needed = (rows - 1) * bank.advance + bank.span
    pending, waiting = [np.zeros(bank.reach, np.float32)], bank.reach
    received = produced = 0

    for block in blocks:
        pending.append(_check_floats(block))
        waiting += len(block)
        received += len(block)
        if waiting < needed:
            continue
        buffer, start = np.concatenate(pending), 0
        while len(buffer) - start >= needed:
            yield _filter(buffer[start:], bank, rows)
            produced += rows * bank.columns
            start += rows * bank.advance
        pending, waiting = [buffer[start:]], len(buffer) - start

    length = received * params.SAMPLE_RATE // sample_rate
    buffer = np.concatenate(pending)
    while produced < length:
        step = np.zeros(needed, np.float32)
        step[: len(buffer)] = buffer[:needed]
        yield _filter(step, bank, rows)[: length - produced]
        produced += rows * bank.columns
        buffer = buffer[rows * bank.advance :]


def load_audio(source: Source, sample_rate: int | None = None, channels: Channels = "mix") -> NDArray[np.float32]:
    """Loads a recording as a mono waveform at 16 kHz, exactly as `Embedder` reads it.

    Example:
        >>> waveform = vk.load_audio("recording.wav")
        >>> waveform.shape, waveform.dtype  # 2.5 s
        ((40000,), dtype('float32'))

    Args:
        source: A path or a binary file object in any format that libsndfile or FFmpeg reads, and the first audio
            stream of a video; an array [samples] or [samples, channels] of floats in [-1, 1] or integer PCM; or a
            dictionary with the keys "array", whose shape is [samples] or [channels, samples], and "sampling_rate".
        sample_rate: The rate of an array in Hz. Files and dictionaries have their own.
        channels: "mix" for the mean of the channels, or the index of one.

    Returns:
        float32 [samples], in [-1, 1] for integer PCM and most files.

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be opened.
        ValueError: Not audio, a damaged file, an invalid array, an array without a sample rate, a URL, or samples that
            are not finite.
        TypeError: A source or an array dtype that cannot be audio.
    """
    blocks = read_waveform(source, channels, sample_rate=sample_rate)
    return np.concatenate([np.zeros(0, np.float32), *blocks])


def read_waveform(
    source: Source,
    channels: Channels = "mix",
    on_audio: Callable[[float], object] | None = None,
    *,
    sample_rate: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Reads a recording at 16 kHz, in constant memory.

    Args:
        source: A file, an array or a dictionary, as in `load_audio`.
        channels: "mix" for the mean of the channels, or the index of one.
        on_audio: Called after each block that was read, with its length in seconds.
        sample_rate: The rate of an array in Hz. Files and dictionaries have their own.

    Yields:
        float32 [samples].

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be opened.
        ValueError: As in `load_audio`, at the start or while reading.
        TypeError: As in `load_audio`, at the start or while reading.

    Example:
        >>> blocks = list(vk.resample.read_waveform("recording.wav"))
        >>> np.concatenate(blocks).shape  # 2.5 s
        (40000,)
    """
    opened = open_audio(source, sample_rate, channels)
    blocks = opened.blocks if on_audio is None else _report(opened.blocks, opened.sample_rate, on_audio)
    yield from resample_blocks(blocks, opened.sample_rate)


def _report(
    blocks: Iterator[NDArray[np.float32]], sample_rate: int, on_audio: Callable[[float], object]
) -> Iterator[NDArray[np.float32]]:
    for block in blocks:
        yield block
        on_audio(len(block) / sample_rate)


def _check_floats(block: ArrayLike) -> NDArray[np.float32]:
    block = np.asarray(block)
    if block.dtype.kind != "f":
        raise TypeError(f"expected float samples in [-1, 1], got {block.dtype}: divide PCM by its full scale")
    return block.astype(np.float32, copy=False)


def _filter(samples: NDArray[np.float32], bank: FilterBank, rows: int) -> NDArray[np.float32]:
    output = np.empty((rows, bank.columns), np.float32)
    column = 0
    for start, matrix in zip(bank.starts, bank.matrices, strict=True):
        span, columns = matrix.shape
        blocks = np.lib.stride_tricks.sliding_window_view(samples[start:], span)[:: bank.advance][:rows]
        # BLAS does not accept overlapping rows, and NumPy's own product without it is slow: copy them.
        np.matmul(np.ascontiguousarray(blocks), matrix, out=output[:, column : column + columns])
        column += columns
    return output.reshape(-1)


@functools.lru_cache(maxsize=4)
def filter_bank(sample_rate: int) -> FilterBank:
    """The filters that convert `sample_rate` to 16 kHz."""
    phases = params.SAMPLE_RATE // math.gcd(sample_rate, params.SAMPLE_RATE)
    columns = phases * max(1, TARGET_COLUMNS // phases)
    index = np.arange(columns)
    positions, fractions = index * sample_rate // params.SAMPLE_RATE, index * sample_rate % params.SAMPLE_RATE
    filters = _interpolated_filters(sample_rate, fractions / params.SAMPLE_RATE)
    taps = filters.shape[1]

    matrices, starts = [], []
    target = TARGET_COLUMNS if phases <= _MAX_PHASES else _MANY_PHASES_COLUMNS
    for group in np.array_split(index, max(1, round(columns / target))):
        start = positions[group[0]]
        matrices.append(_band_matrix(filters[group], positions[group] - start))
        starts.append(int(start))
    advance = columns * sample_rate // params.SAMPLE_RATE
    return FilterBank(tuple(matrices), tuple(starts), advance, columns, taps // 2 - 1)


def _band_matrix(filters: NDArray[np.float64], offsets: NDArray[np.int_]) -> NDArray[np.float32]:
    """Filters [columns, taps] as columns [span, columns], each shifted down by its offset [columns]."""
    columns, taps = filters.shape
    matrix = np.zeros((offsets[-1] + taps, columns), np.float32)
    matrix[offsets + np.arange(taps)[:, np.newaxis], np.arange(columns)] = filters.T
    return matrix


def _interpolated_filters(sample_rate: int, fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """resampy's filters of output samples at these fractions, float64 [len(fractions), 2 * wing]."""
    half_window, precision = resampy_table()
    scale = min(1.0, params.SAMPLE_RATE / sample_rate)
    half_window = half_window * scale
    slope = np.diff(half_window, append=half_window[-1])
    step = int(scale * precision)  # resampy truncates too
    wing = len(half_window) // step

    def one_wing(distances: NDArray[np.float64]) -> NDArray[np.float64]:
        offsets = (scale * distances * precision)[:, np.newaxis]
        whole = offsets.astype(int)
        taps = np.arange(wing)
        inside = taps < (len(half_window) - whole) // step
        entries = np.where(inside, whole + taps * step, 0)
        return np.where(inside, half_window[entries] + (offsets - whole) * slope[entries], 0)

    return np.concatenate([one_wing(fractions)[:, ::-1], one_wing(1 - fractions)], axis=1)


@functools.cache
def resampy_table() -> tuple[NDArray[np.float64], int]:
    """The right half of kaiser_best and its entries per zero crossing."""
    # Read from the installed files: importing resampy would compile its numba code, which takes half a second.
    path = importlib.metadata.distribution("resampy").locate_file("resampy/data/kaiser_best.npz")
    with np.load(str(path)) as table:
        return table["half_window"], int(table["precision"])

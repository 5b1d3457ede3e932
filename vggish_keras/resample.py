"""Resample any sample rate to 16 kHz with a polyphase filter bank that reproduces resampy's kaiser_best.

Output sample i lies between the input samples p and p + 1, where p = floor(i * sample_rate / 16000), at a fraction of
the way from one to the other. It is the weighted sum of the input samples from p - wing + 1 to p + wing. Its weights,
the 2 * wing taps of its filter, depend only on the fraction: they are resampy's windowed sinc, interpolated from the
table `resampy_table`.

The fractions repeat after 16000 / gcd(sample_rate, 16000) output samples, the phases of the rate. So the filters of
successive output samples are the columns of a matrix, each shifted down by its p, and a block of output samples is one
row of a matrix product: [blocks, span] @ [span, columns], where the span is the input samples that all columns need.
More columns make a faster product, and a matrix with more zeros in it. The two modules that resample compromise
differently:

- Here, all filters are computed once per rate and cached, in many matrices of few columns each. Blocks are so long that
  their spans do not overlap: BLAS then reads the rows of the product from the waveform itself.
- In `exporting.graph_resample`, whose rates are known only at run time and which must stay small, there is a single
  matrix; for rates with thousands of phases, the filters become polynomials in the fraction.

Both modules use the same names for the same things.
"""

import functools
import importlib.metadata
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggish_keras import params
from vggish_keras.audio import Channels, Source, check_sample_rate, open_audio

__all__ = ["load_audio", "read_waveform", "resample", "resample_blocks"]

_GROUP_COLUMNS = 16
"""Output samples per matrix: fewer make the product slow, more fill the matrix with zeros."""
_PART_COLUMNS = 10 * _GROUP_COLUMNS
"""Output samples, 10 ms, that are returned at a time with low latency."""
_MAX_COLUMNS = 16_000
"""Limit of the output samples per block, whose matrices take memory together; no rate needs more."""
_OUTPUTS_PER_STEP, _MIN_ROWS = 32_768, 8
"""Enough rows for fast products."""
_MAX_PRODUCT = 1 << 18
"""Multiplications per product: OpenBLAS would divide larger ones among threads, which costs more than it saves."""


class Part(NamedTuple):
    """The filters of some successive output samples.

    Attributes:
        matrices: A float32 [span, columns] matrix for each group of successive output samples, [groups, span, columns].
        start: The input sample at which the first group's span starts, counted from the block's first.
        end: The input sample at which the last group's span ends.
    """

    matrices: NDArray[np.float32]
    start: int
    end: int

    @property
    def columns(self) -> int:
        """Output samples: the columns of all matrices."""
        return len(self.matrices) * len(self.matrices[0, 0])


class FilterBank(NamedTuple):
    """The filters of a sample rate, which repeat every `advance` input samples and `columns` output samples.

    Attributes:
        parts: All filters, in order.
        stride: Input samples from group to group in a part, the same for all: spans that start a little earlier than
            they need to are the rows of a single array.
        advance: Input samples from block to block.
        columns: Output samples per block: the columns of all matrices.
        reach: Input samples that the filters reach back before the block's first.
    """

    parts: tuple[Part, ...]
    stride: int
    advance: int
    columns: int
    reach: int

    @property
    def max_rows(self) -> int:
        """Blocks per product."""
        matrices = self.parts[0].matrices
        per_row = matrices.size // len(matrices)
        return max(4, _MAX_PRODUCT // per_row // 4 * 4)  # BLAS takes four at a time


def resample(waveform: ArrayLike, sample_rate: int) -> NDArray[np.float32]:
    """Resamples to 16 kHz.

    Args:
        waveform: Float array [..., samples].
        sample_rate: Its rate in Hz.

    Returns:
        float32 [..., samples * 16000 // sample_rate], for samples in [-1, 1] and common rates within 5e-6 of
        `resampy.resample` with its default filter, kaiser_best.

    Raises:
        ValueError: `sample_rate` is not a whole number from 1 to 768,000, or the waveform is a single number.
        TypeError: The waveform does not hold floats.

    Examples:
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


def resample_blocks(
    blocks: Iterable[NDArray[np.floating]], sample_rate: int, *, low_latency: bool = False
) -> Iterator[NDArray[np.float32]]:
    """Resamples a stream to 16 kHz; the output does not depend on how the stream is cut into blocks.

    Args:
        blocks: Float arrays [samples] of any lengths.
        sample_rate: Their rate in Hz.
        low_latency: Whether to return at most 10 ms at a time, as soon as the filters permit: when 50 more samples, of
            the lower of both rates, were received. This takes about four times as long as steps of 2 s.

    Yields:
        float32 arrays [samples], which together equal what `resample` returns for the whole stream. With low latency
        they differ by rounding.

    Raises:
        ValueError: `sample_rate` is not a whole number from 1 to 768,000.
        TypeError: A block does not hold floats.

    Examples:
        >>> stream = (np.zeros(1_000, np.float32) for _ in range(44))
        >>> sum(len(block) for block in vk.resample.resample_blocks(stream, 44_000))
        16000
    """
    sample_rate = check_sample_rate(sample_rate)
    if sample_rate == params.SAMPLE_RATE:
        yield from map(_check_floats, blocks)
        return
    bank = filter_bank(sample_rate)
    # The shapes of the products do not depend on the blocks, so neither does their rounding.
    products = rows = 1
    steps: list[tuple[Part, ...]] = [(part,) for part in bank.parts]
    if not low_latency:
        rows = min(bank.max_rows, max(_MIN_ROWS, _OUTPUTS_PER_STEP // bank.columns))
        products, steps = max(1, _OUTPUTS_PER_STEP // (bank.columns * rows)), [bank.parts]
    window = _Window(map(_check_floats, blocks), bank.reach)
    produced = 0
    for parts in itertools.cycle(steps):
        window.fill((products * rows - 1) * bank.advance + parts[-1].end)
        left = window.received * params.SAMPLE_RATE // sample_rate - produced
        if window.ended:
            if left <= 0:
                return
            blocks_left = math.ceil(left / bank.columns)
            products = min(products, math.ceil(blocks_left / rows))
            rows = min(rows, math.ceil(blocks_left / products))
        output = _filter(window.samples, bank, parts, products, rows)
        yield output[:left] if window.ended else output
        produced += len(output)
        if parts[-1] is bank.parts[-1]:
            window.drop(products * rows * bank.advance)


class _Window:
    """The samples of a stream from a position on.

    Args:
        blocks: float32 [samples] each.
        silence: Samples of silence before the first block.
    """

    def __init__(self, blocks: Iterator[NDArray[np.float32]], silence: int) -> None:
        self._blocks = blocks
        self.samples = np.zeros(silence, np.float32)
        self.received = 0
        self.ended = False

    def fill(self, size: int) -> None:
        """Reads blocks until there are `size` samples; adds silence if the stream ends before."""
        pending, missing = [self.samples], size - len(self.samples)
        while missing > 0:
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
                block = np.zeros(missing, np.float32)
            else:
                self.received += len(block)
            pending.append(block)
            missing -= len(block)
        if len(pending) > 1:
            self.samples = np.concatenate(pending)

    def drop(self, count: int) -> None:
        """Moves the position forward."""
        self.samples = self.samples[count:]


def load_audio(source: Source, sample_rate: int | None = None, channels: Channels = "mix") -> NDArray[np.float32]:
    """Loads a recording as a mono waveform at 16 kHz, exactly as `Embedder` reads it.

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

    Examples:
        >>> waveform = vk.load_audio("recording.wav")
        >>> waveform.shape, waveform.dtype  # 3 s
        ((48000,), dtype('float32'))
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

    Examples:
        >>> blocks = list(vk.resample.read_waveform("recording.wav"))
        >>> np.concatenate(blocks).shape  # 3 s
        (48000,)
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


def _filter(
    samples: NDArray[np.float32], bank: FilterBank, parts: tuple[Part, ...], products: int, rows: int
) -> NDArray[np.float32]:
    """The output of some parts of `products * rows` blocks; each matrix is multiplied by `rows` of them at a time."""
    output = np.empty((products, rows, sum(part.columns for part in parts)), np.float32)
    column = 0
    for part in parts:
        groups, span, columns = part.matrices.shape
        strides = 4 * bank.stride, 4 * bank.advance * rows, 4 * bank.advance, 4
        spans = np.ndarray((groups, products, rows, span), np.float32, samples, 4 * part.start, strides)
        if bank.advance < span:
            # BLAS does not accept overlapping rows, and NumPy's own product without it is slow: copy them.
            spans = np.ascontiguousarray(spans)
        outputs = output[..., column : column + part.columns].reshape(products, rows, groups, columns)
        np.matmul(spans, part.matrices[:, np.newaxis], out=outputs.transpose(2, 0, 1, 3))
        column += part.columns
    return output.reshape(-1)


@functools.lru_cache(maxsize=4)
def filter_bank(sample_rate: int) -> FilterBank:
    """The filters that convert `sample_rate` to 16 kHz."""
    taps = _interpolated_filters(sample_rate, np.zeros(1)).shape[1]
    columns = _block_columns(sample_rate, taps)
    index = np.arange(columns)
    positions, fractions = index * sample_rate // params.SAMPLE_RATE, index * sample_rate % params.SAMPLE_RATE
    filters = _interpolated_filters(sample_rate, fractions / params.SAMPLE_RATE)
    stride = _GROUP_COLUMNS * sample_rate // params.SAMPLE_RATE

    parts = []
    for first in range(0, columns, _PART_COLUMNS):
        part = index[first : first + _PART_COLUMNS]
        start = int(positions[first])
        offsets = positions[part] - start - stride * ((part - first) // _GROUP_COLUMNS)
        matrices = _band_matrices(filters[part], offsets)
        parts.append(Part(matrices, start, start + stride * (len(matrices) - 1) + matrices.shape[1]))
    return FilterBank(tuple(parts), stride, columns * sample_rate // params.SAMPLE_RATE, columns, taps // 2 - 1)


def _block_columns(sample_rate: int, taps: int) -> int:
    """Output samples after which the filters repeat, enough that the spans of successive blocks do not overlap."""
    phases = params.SAMPLE_RATE // math.gcd(sample_rate, params.SAMPLE_RATE)
    unit = math.lcm(phases, _GROUP_COLUMNS)
    apart = math.ceil(taps * params.SAMPLE_RATE / sample_rate) + 2 * _GROUP_COLUMNS
    return unit * min(math.ceil(apart / unit), _MAX_COLUMNS // unit)


def _band_matrices(filters: NDArray[np.float64], offsets: NDArray[np.int_]) -> NDArray[np.float32]:
    """Filters [groups * 16, taps] as columns [groups, span, 16], each shifted down by its offset [groups * 16]."""
    count, taps = filters.shape
    matrices = np.zeros((count // _GROUP_COLUMNS, offsets.max() + taps, _GROUP_COLUMNS), np.float32)
    group, column = np.divmod(np.arange(count)[:, np.newaxis], _GROUP_COLUMNS)
    matrices[group, offsets[:, np.newaxis] + np.arange(taps), column] = filters
    return matrices


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

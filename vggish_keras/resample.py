"""Any sample rate to 16 kHz, numerically resampy's kaiser_best, as a polyphase filter bank.

resampy interpolates its filter anew for every output sample. The interpolated filters repeat with the ratio of the two
rates, so here they are the columns of a matrix, and a block of output samples is one row of a matrix product.
"""

import functools
import importlib.metadata
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vggish_keras import params
from vggish_keras.audio import Channels, Source, check_sample_rate, open_audio

# Output samples per matrix product: fewer make it slow, more fill the matrix with zeros.
_TARGET_COLUMNS = 128
# The same where nearly every output sample has a filter of its own, and memory counts.
_COLUMNS_OF_ODD_RATES = 16
_ODD_RATE_PHASES = 4_096
# Output samples per step: enough rows for a fast product.
_TARGET_STEP = 32_768


class FilterBank(NamedTuple):
    """The filters of one sample rate, which repeat every `advance` input samples and `outputs` output samples.

    Attributes:
        filters: One float32 [window, columns] matrix for each group of successive output samples.
        starts: For each matrix, the input sample at which its window starts, counted from the block's first.
        advance: Input samples from block to block.
        outputs: Output samples of a block: the columns of all matrices.
        reach: Input samples that the filters reach back beyond a block's first.
    """

    filters: tuple[np.ndarray, ...]
    starts: tuple[int, ...]
    advance: int
    outputs: int
    reach: int

    @property
    def window(self) -> int:
        """Input samples that one block needs."""
        return max(start + len(matrix) for start, matrix in zip(self.starts, self.filters, strict=True))


def resample(waveform: Any, sample_rate: int) -> np.ndarray:
    """Resamples to 16 kHz.

    Args:
        waveform: Float array [.., samples].
        sample_rate: Its rate in Hz.

    Returns:
        float32 [.., samples * 16000 // sample_rate], within 5e-6 of `resampy.resample` with its default kaiser_best
        filter for samples in [-1, 1].

    Raises:
        ValueError: `sample_rate` is not a whole number from 1 to 768,000, or the array has no axis.
        TypeError: The array does not hold floats.
    """
    waveform = np.asarray(waveform)
    if waveform.ndim == 0:
        raise ValueError("expected a waveform of shape [.., samples], got a single number")
    channels = waveform.reshape(math.prod(waveform.shape[:-1]), waveform.shape[-1])
    length = waveform.shape[-1] * params.SAMPLE_RATE // check_sample_rate(sample_rate)
    output = np.empty((len(channels), length), np.float32)
    for channel, row in zip(channels, output, strict=True):
        row[:] = np.concatenate([*resample_blocks([channel], sample_rate), np.empty(0, np.float32)])
    return output.reshape(*waveform.shape[:-1], length)


def resample_blocks(blocks: Iterable[np.ndarray], sample_rate: int) -> Iterator[np.ndarray]:
    """Resamples a stream to 16 kHz; the output does not depend on how the stream is cut into blocks.

    Args:
        blocks: Float arrays [samples] of any lengths.
        sample_rate: Their rate in Hz.

    Yields:
        float32 arrays [samples], together as long as `resample` gives for the whole.

    Raises:
        ValueError: `sample_rate` is not a whole number from 1 to 768,000.
        TypeError: A block does not hold floats.
    """
    sample_rate = check_sample_rate(sample_rate)
    if sample_rate == params.SAMPLE_RATE:
        yield from map(_as_float32, blocks)
        return
    bank = filter_bank(sample_rate)
    # Every product has the same shape, the last one filled up with silence, so its rounding is the same too.
    rows = max(1, _TARGET_STEP // bank.outputs)
    needed = (rows - 1) * bank.advance + bank.window
    pending, waiting = [np.zeros(bank.reach, np.float32)], bank.reach
    received = produced = 0

    for block in blocks:
        pending.append(_as_float32(block))
        waiting += len(block)
        received += len(block)
        if waiting < needed:
            continue
        buffer, start = np.concatenate(pending), 0
        while len(buffer) - start >= needed:
            yield _filter(buffer[start:], bank, rows)
            produced += rows * bank.outputs
            start += rows * bank.advance
        pending, waiting = [buffer[start:]], len(buffer) - start

    length = received * params.SAMPLE_RATE // sample_rate
    buffer = np.concatenate(pending)
    while produced < length:
        step = np.zeros(needed, np.float32)
        step[: len(buffer)] = buffer[:needed]
        yield _filter(step, bank, rows)[: length - produced]
        produced += rows * bank.outputs
        buffer = buffer[rows * bank.advance :]


def read_waveform(
    source: Source, channels: Channels = "mix", on_audio: Callable[[float], object] | None = None
) -> Iterator[np.ndarray]:
    """Reads a recording at 16 kHz, in constant memory.

    Args:
        source: A path or a binary file object, as in `audio.open_audio`.
        channels: "mix" for the mean of the channels, or the index of one.
        on_audio: Called with the seconds of audio that were read.

    Yields:
        float32 [samples].

    Raises:
        FileNotFoundError: The file does not exist.
        OSError: The file cannot be opened.
        ValueError: As in `audio.open_audio`, at the start or while reading.
    """
    opened = open_audio(source, channels=channels)
    blocks = opened.blocks if on_audio is None else _report(opened.blocks, opened.sample_rate, on_audio)
    yield from resample_blocks(blocks, opened.sample_rate)


def _report(
    blocks: Iterator[np.ndarray], sample_rate: int, on_audio: Callable[[float], object]
) -> Iterator[np.ndarray]:
    for block in blocks:
        yield block
        on_audio(len(block) / sample_rate)


def _as_float32(block: Any) -> np.ndarray:
    block = np.asarray(block)
    if block.dtype.kind != "f":
        raise TypeError(f"expected float samples in [-1, 1], got {block.dtype}: divide PCM by its full scale")
    return block.astype(np.float32, copy=False)


def _filter(samples: np.ndarray, bank: FilterBank, rows: int) -> np.ndarray:
    output = np.empty((rows, bank.outputs), np.float32)
    column = 0
    for start, matrix in zip(bank.starts, bank.filters, strict=True):
        window, columns = matrix.shape
        blocks = np.lib.stride_tricks.sliding_window_view(samples[start:], window)[:: bank.advance][:rows]
        # BLAS takes no overlapping rows, and numpy's own product without it is slow: copy them.
        np.matmul(np.ascontiguousarray(blocks), matrix, out=output[:, column : column + columns])
        column += columns
    return output.reshape(-1)


@functools.lru_cache(maxsize=4)
def filter_bank(sample_rate: int) -> FilterBank:
    """The filters that take `sample_rate` to 16 kHz, from resampy's table."""
    common = math.gcd(sample_rate, params.SAMPLE_RATE)
    phases, period = params.SAMPLE_RATE // common, sample_rate // common
    repeats = max(1, _TARGET_COLUMNS // phases)
    outputs = phases * repeats
    index = np.arange(outputs)
    # Output sample i lies between input samples positions[i] and positions[i] + 1.
    positions = index * period // phases
    taps = _interpolated_filters(sample_rate, (index * period % phases) / phases)
    reach = taps.shape[1] // 2 - 1

    filters, starts = [], []
    columns = _TARGET_COLUMNS if phases <= _ODD_RATE_PHASES else _COLUMNS_OF_ODD_RATES
    for group in np.array_split(index, max(1, round(outputs / columns))):
        first, last = positions[group[0]], positions[group[-1]]
        matrix = np.zeros((last - first + taps.shape[1], len(group)), np.float32)
        for column, output in enumerate(group):
            offset = positions[output] - first
            matrix[offset : offset + taps.shape[1], column] = taps[output]
        filters.append(matrix)
        starts.append(int(first))
    return FilterBank(tuple(filters), tuple(starts), period * repeats, outputs, reach)


def _interpolated_filters(sample_rate: int, fractions: np.ndarray) -> np.ndarray:
    """resampy's filters for output samples that lie `fractions` of an input sample after one.

    Returns:
        float64 [len(fractions), 2 * wing]: weights of the input samples from wing - 1 before that one to wing after.
    """
    half_window, precision = resampy_table()
    scale = min(1.0, params.SAMPLE_RATE / sample_rate)
    half_window = half_window * scale
    slope = np.diff(half_window, append=half_window[-1])
    step = int(scale * precision)  # resampy truncates too
    wing = len(half_window) // step

    def one_wing(distances: np.ndarray) -> np.ndarray:
        offsets = (scale * distances * precision)[:, np.newaxis]
        whole = offsets.astype(int)
        taps = np.arange(wing)
        inside = taps < (len(half_window) - whole) // step
        entries = np.where(inside, whole + taps * step, 0)
        return np.where(inside, half_window[entries] + (offsets - whole) * slope[entries], 0)

    return np.concatenate([one_wing(fractions)[:, ::-1], one_wing(1 - fractions)], axis=1)


@functools.cache
def resampy_table() -> tuple[np.ndarray, int]:
    """The right half of kaiser_best and its entries per zero crossing."""
    # Read from where it is installed, because importing resampy compiles its numba code: half a second for nothing.
    path = importlib.metadata.distribution("resampy").locate_file("resampy/data/kaiser_best.npz")
    with np.load(str(path)) as table:
        return table["half_window"], int(table["precision"])

"""resample.py inside a TensorFlow graph, for rates that are known only when it runs.

A block of output samples is one row of a matrix product. For usual rates the filters repeat after a few hundred output
samples, and a matrix holds them all. Other rates have thousands: there the filter is a polynomial in the position of
the output sample between two input samples, so that a small matrix, quickly made, serves every rate.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vggish_keras import params
from vggish_keras.resample import resampy_table

# Output samples of a block: fewer make the product slow, more fill the matrix with zeros.
_REPEATING_COLUMNS, _POLYNOMIAL_COLUMNS = 128, 32
# A matrix of all filters is made only if it is this small, by itself and for each output sample.
_MAX_ENTRIES, _MAX_ENTRIES_PER_OUTPUT = 1 << 19, 8
# Input samples that are copied at a time.
_STEP = 1 << 20
_RATE = np.int64(params.SAMPLE_RATE)
_ONE, _TWO = np.int64(1), np.int64(2)
_DIVISORS = np.array([d for d in range(1, params.SAMPLE_RATE + 1) if params.SAMPLE_RATE % d == 0], np.int64)


class FilterBank(NamedTuple):
    """The filters of one sample rate.

    Attributes:
        sample_rate: Hz, int64.
        matrix: float32 [window, columns]; or, if the filters are polynomials, [window, columns * 2 * terms]: the
            Chebyshev coefficients for an output sample that follows the same input sample as in the first block, and
            for one that follows the next input sample.
        columns: Output samples of a block, int64.
        terms: Coefficients of a polynomial, int64; 0 for filters that repeat from block to block.
        reach: Input samples that the filters reach back beyond a block's first, int64.
    """

    sample_rate: tf.Tensor
    matrix: tf.Tensor
    columns: tf.Tensor
    terms: tf.Tensor
    reach: tf.Tensor


def filter_bank(sample_rate: tf.Tensor, outputs: tf.Tensor) -> FilterBank:
    """Makes the filters that take a rate to 16 kHz.

    Args:
        sample_rate: Hz, int64 scalar.
        outputs: How many output samples they are for, int64 scalar: for a few, small matrices do.

    Returns:
        The filters, at most 4 MB.
    """
    common = tf.reduce_max(tf.where(sample_rate % _DIVISORS == 0, _DIVISORS, _ONE))
    phases = _RATE // common
    columns = phases * tf.maximum(_REPEATING_COLUMNS // phases, 1)
    taps = 2 * _wing(sample_rate)
    entries = columns * (_position(columns, sample_rate) + taps)
    repeating = entries <= tf.minimum(outputs * _MAX_ENTRIES_PER_OUTPUT, _MAX_ENTRIES)
    few = tf.clip_by_value(outputs, 1, _POLYNOMIAL_COLUMNS)
    matrix, columns, terms = tf.cond(
        repeating, lambda: _repeating_filters(sample_rate, columns), lambda: _polynomial_filters(sample_rate, few)
    )
    return FilterBank(sample_rate, matrix, columns, terms, taps // 2 - 1)


def _repeating_filters(sample_rate: tf.Tensor, columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    index = tf.range(columns)
    filters = _interpolated_filters(sample_rate, _fraction(index, sample_rate))
    taps = tf.shape(filters, tf.int64)[1]
    table = tf.reshape(filters, [-1, 1])
    return _band_matrix(table, taps, _position(index, sample_rate), index * taps), columns, tf.zeros_like(columns)


def _polynomial_filters(sample_rate: tf.Tensor, columns: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    # The faster the rate, the smoother the filter from one input sample to the next; the error stays below 1e-6.
    terms = 4 + tf.cast(tf.math.ceil(6 * _scale(sample_rate)), tf.int64)
    angles = np.pi * (tf.range(tf.cast(terms, tf.float64)) + 0.5) / tf.cast(terms, tf.float64)
    filters = _interpolated_filters(sample_rate, (tf.cos(angles) + 1) / 2)
    interpolation = tf.cast(tf.cos(angles[:, tf.newaxis] * tf.range(tf.cast(terms, tf.float64))), tf.float32)
    interpolation *= tf.concat([[1.0], tf.fill([terms - 1], 2.0)], 0) / tf.cast(terms, tf.float32)
    table = tf.matmul(filters, interpolation, transpose_a=True)
    offsets = _position(tf.range(columns), sample_rate)[:, tf.newaxis] + tf.range(_TWO)
    return _band_matrix(table, tf.shape(table, tf.int64)[0], tf.reshape(offsets, [-1]), _ONE * 0), columns, terms


def _band_matrix(table: tf.Tensor, taps: tf.Tensor, offsets: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Filters, each moved down by its offset.

    Args:
        table: float32 [rows, terms].
        taps: Rows of a filter.
        offsets: int64 [filters].
        rows: The first row of each filter, int64 [filters] or one for all.

    Returns:
        float32 [window, filters * terms].
    """
    moved = tf.range(offsets[-1] + taps)[:, tf.newaxis] - offsets
    inside = (moved >= 0) & (moved < taps)
    nothing = tf.shape(table, tf.int64)[0]
    entries = tf.gather(tf.pad(table, [[0, 1], [0, 0]]), tf.where(inside, rows + moved, nothing))
    return tf.reshape(entries, [tf.shape(moved)[0], -1])


def resample(waveform: tf.Tensor, bank: FilterBank) -> tf.Tensor:
    """Resamples a clip to 16 kHz; autograph must have converted the caller.

    Args:
        waveform: float32 [samples].
        bank: The filters of its rate.

    Returns:
        float32 [samples * 16000 // sample_rate], as `vggish_keras.resample.resample` gives it.
    """
    if bank.sample_rate == params.SAMPLE_RATE:
        return waveform
    length = tf.size(waveform, tf.int64) * _RATE // bank.sample_rate
    blocks = -(-length // bank.columns)
    window = tf.shape(bank.matrix, tf.int64)[0]
    padded = tf.pad(waveform, [[bank.reach, window]])
    step = tf.maximum(_STEP // window, 1)
    parts = tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=[None])
    for first in tf.range(0, blocks, step):
        tf.autograph.experimental.set_loop_options(parallel_iterations=1)
        part = _resample_blocks(padded, bank, tf.range(first, tf.minimum(first + step, blocks)))
        parts = parts.write(tf.cast(first // step, tf.int32), part)
    return parts.concat()[:length]


def _resample_blocks(padded: tf.Tensor, bank: FilterBank, blocks: tf.Tensor) -> tf.Tensor:
    """Output samples of the given successive blocks, float32 [blocks * columns]."""
    starts = _position(blocks * bank.columns, bank.sample_rate)
    outputs = tf.cond(
        bank.terms == 0,
        lambda: _equidistant_windows(padded[starts[0] :], bank, tf.size(blocks)) @ bank.matrix,
        lambda: _evaluate(_windows(padded, bank, starts) @ bank.matrix, bank, blocks, starts),
    )
    return tf.reshape(outputs, [-1])


def _windows(padded: tf.Tensor, bank: FilterBank, starts: tf.Tensor) -> tf.Tensor:
    # int32 halves the cost of the indices.
    return tf.gather(padded, tf.cast(starts, tf.int32)[:, tf.newaxis] + tf.range(tf.shape(bank.matrix)[0]))


def _equidistant_windows(padded: tf.Tensor, bank: FilterBank, blocks: tf.Tensor) -> tf.Tensor:
    """The same for filters that repeat, whose windows are cut faster: each spans a few whole rows of `advance`."""
    advance, window = tf.cast(_position(bank.columns, bank.sample_rate), tf.int32), tf.shape(bank.matrix)[0]
    rows_of_block = -(-window // advance)
    samples = (blocks + rows_of_block - 1) * advance
    padded = padded[:samples]
    rows = tf.reshape(tf.pad(padded, [[0, samples - tf.size(padded)]]), [-1, advance])
    windows = tf.gather(rows, tf.range(blocks)[:, tf.newaxis] + tf.range(rows_of_block))
    return tf.reshape(windows, [blocks, rows_of_block * advance])[:, :window]


def _evaluate(coefficients: tf.Tensor, bank: FilterBank, blocks: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
    """Chebyshev polynomials [blocks, columns * 2 * terms] at the positions of the output samples [blocks, columns]."""
    columns = tf.range(bank.columns)
    index = blocks[:, tf.newaxis] * bank.columns + columns
    follows_next = _position(index, bank.sample_rate) > starts[:, tf.newaxis] + _position(columns, bank.sample_rate)
    coefficients = tf.reshape(coefficients, [-1, bank.columns, 2, bank.terms])
    coefficients = tf.where(follows_next[..., tf.newaxis], coefficients[:, :, 1], coefficients[:, :, 0])
    angles = tf.acos(tf.cast(2 * _fraction(index, bank.sample_rate) - 1, tf.float32))
    polynomials = tf.cos(angles[..., tf.newaxis] * tf.range(tf.cast(bank.terms, tf.float32)))
    return tf.reduce_sum(coefficients * polynomials, axis=-1)


def _position(index: tf.Tensor, sample_rate: tf.Tensor) -> tf.Tensor:
    """The input sample that output sample `index` follows, or is."""
    return index * sample_rate // _RATE


def _fraction(index: tf.Tensor, sample_rate: tf.Tensor) -> tf.Tensor:
    """How far it lies on the way to the next input sample, float64."""
    return tf.cast(index * sample_rate % _RATE, tf.float64) / params.SAMPLE_RATE


# === resampy's filters ===


def _scale(sample_rate: tf.Tensor) -> tf.Tensor:
    return tf.minimum(params.SAMPLE_RATE / tf.cast(sample_rate, tf.float64), 1)


def _tap_step(sample_rate: tf.Tensor) -> tf.Tensor:
    """Entries of the table from tap to tap."""
    return tf.cast(_scale(sample_rate) * resampy_table()[1], tf.int64)  # resampy truncates too


def _wing(sample_rate: tf.Tensor) -> tf.Tensor:
    """Taps on each side of an output sample."""
    return len(resampy_table()[0]) // _tap_step(sample_rate)


def _interpolated_filters(sample_rate: tf.Tensor, fractions: tf.Tensor) -> tf.Tensor:
    """resampy's filters, float32 [len(fractions), 2 * wing], as in `vggish_keras.resample`."""
    half_window, precision = resampy_table()
    table, last = tf.constant(half_window), len(half_window) - 1
    scale, step = _scale(sample_rate), _tap_step(sample_rate)
    taps = tf.range(_wing(sample_rate))

    def one_wing(distances: tf.Tensor) -> tf.Tensor:
        offsets = (scale * distances * precision)[:, tf.newaxis]
        whole = tf.cast(offsets, tf.int64)
        inside = taps < (len(half_window) - whole) // step
        entries = tf.cast(inside, tf.int64) * (whole + taps * step)
        here, after = tf.gather(table, entries), tf.gather(table, tf.minimum(entries + 1, last))
        values = scale * (here + (offsets - tf.cast(whole, tf.float64)) * (after - here))
        return tf.cast(tf.cast(inside, tf.float64) * values, tf.float32)

    return tf.concat([one_wing(fractions)[:, ::-1], one_wing(1 - fractions)], axis=1)

"""Resampling as TensorFlow ops, for sample rates known only at run time.

The algorithm and its names are described in `vggish_keras.resample`. For common rates, a matrix holds the filters of
all phases. For other rates that matrix would be large and slow to build, so each tap is approximated by a polynomial in
the fraction; the matrix of its Chebyshev coefficients is small and quick to build for any rate.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vggish_keras import params
from vggish_keras.resample import resampy_table

_TARGET_COLUMNS = 128
"""Output samples per block where the filters repeat: fewer make the product slow, more fill the matrix with zeros."""
# A matrix of all phases is made only if it is small, both in total and for each output sample: unlike the matrices of
# `vggish_keras.resample`, which are limited by the number of phases, it is made anew in each call.
_MAX_ENTRIES, _MAX_ENTRIES_PER_OUTPUT = 1 << 19, 8
# Otherwise each output sample has two columns per coefficient: few output samples make a wide matrix.
_MANY_PHASES_COLUMNS = 32
_INPUTS_PER_STEP = 1 << 20
"""Input samples copied at a time, which bounds memory whatever the span."""
_RATE = np.int64(params.SAMPLE_RATE)
_ONE, _TWO = np.int64(1), np.int64(2)
_DIVISORS = np.array([d for d in range(1, params.SAMPLE_RATE + 1) if params.SAMPLE_RATE % d == 0], np.int64)


class FilterBank(NamedTuple):
    """The filters of a sample rate.

    Attributes:
        sample_rate: Hz, int64.
        matrix: float32 [span, columns] if the filters repeat from block to block. If they are polynomials, [span,
            columns * 2 * terms]: the Chebyshev coefficients of an output sample that lies after the same input sample
            as in the first block, and of one that lies after the next input sample.
        columns: Output samples per block, int64.
        terms: Coefficients per polynomial, int64; 0 if the filters repeat.
        reach: Input samples that the filters reach back before the block's first, int64.
    """

    sample_rate: tf.Tensor
    matrix: tf.Tensor
    columns: tf.Tensor
    terms: tf.Tensor
    reach: tf.Tensor


def filter_bank(sample_rate: tf.Tensor, outputs: tf.Tensor) -> FilterBank:
    """The filters that convert a sample rate to 16 kHz.

    Args:
        sample_rate: Hz, int64 scalar.
        outputs: Number of output samples to compute with them, int64 scalar; for few, a small matrix is cheaper.

    Returns:
        The filters, at most 4 MB.
    """
    common = tf.reduce_max(tf.where(sample_rate % _DIVISORS == 0, _DIVISORS, _ONE))
    phases = _RATE // common
    columns = phases * tf.maximum(_TARGET_COLUMNS // phases, 1)
    taps = 2 * _wing(sample_rate)
    entries = columns * (_position(columns, sample_rate) + taps)
    repeating = entries <= tf.minimum(outputs * _MAX_ENTRIES_PER_OUTPUT, _MAX_ENTRIES)
    few = tf.clip_by_value(outputs, 1, _MANY_PHASES_COLUMNS)
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
    # The faster the rate, the smoother a tap over the fraction; the error stays below 1e-6.
    terms = 4 + tf.cast(tf.math.ceil(6 * _scale(sample_rate)), tf.int64)
    angles = np.pi * (tf.range(tf.cast(terms, tf.float64)) + 0.5) / tf.cast(terms, tf.float64)
    filters = _interpolated_filters(sample_rate, (tf.cos(angles) + 1) / 2)
    interpolation = tf.cast(tf.cos(angles[:, tf.newaxis] * tf.range(tf.cast(terms, tf.float64))), tf.float32)
    interpolation *= tf.concat([[1.0], tf.fill([terms - 1], 2.0)], 0) / tf.cast(terms, tf.float32)
    table = tf.matmul(filters, interpolation, transpose_a=True)
    offsets = _position(tf.range(columns), sample_rate)[:, tf.newaxis] + tf.range(_TWO)
    return _band_matrix(table, tf.shape(table, tf.int64)[0], tf.reshape(offsets, [-1]), _ONE * 0), columns, terms


def _band_matrix(table: tf.Tensor, taps: tf.Tensor, offsets: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Filters as columns, each shifted down by its offset.

    Args:
        table: float32 [rows, terms].
        taps: Rows per filter.
        offsets: int64 [filters].
        rows: The first row of each filter, int64 [filters], or a single one for all.

    Returns:
        float32 [span, filters * terms].
    """
    shifted = tf.range(offsets[-1] + taps)[:, tf.newaxis] - offsets
    inside = (shifted >= 0) & (shifted < taps)
    nothing = tf.shape(table, tf.int64)[0]
    entries = tf.gather(tf.pad(table, [[0, 1], [0, 0]]), tf.where(inside, rows + shifted, nothing))
    return tf.reshape(entries, [tf.shape(shifted)[0], -1])


def resample(waveform: tf.Tensor, bank: FilterBank) -> tf.Tensor:
    """Resamples a clip to 16 kHz.

    Call it only from code that AutoGraph converts.

    Args:
        waveform: float32 [samples].
        bank: The filters of its rate.

    Returns:
        float32 [samples * 16000 // sample_rate], as `vggish_keras.resample.resample` returns it.
    """
    if bank.sample_rate == params.SAMPLE_RATE:
        return waveform
    length = tf.size(waveform, tf.int64) * _RATE // bank.sample_rate
    blocks = ceil_div(length, bank.columns)
    span = tf.shape(bank.matrix, tf.int64)[0]
    padded = tf.pad(waveform, [[bank.reach, span]])
    step = tf.maximum(_INPUTS_PER_STEP // span, 1)
    parts = tf.TensorArray(tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=[None])
    for first in tf.range(0, blocks, step):
        tf.autograph.experimental.set_loop_options(parallel_iterations=1)
        part = _resample_blocks(padded, bank, tf.range(first, tf.minimum(first + step, blocks)))
        parts = parts.write(tf.cast(first // step, tf.int32), part)
    return parts.concat()[:length]


def _resample_blocks(padded: tf.Tensor, bank: FilterBank, blocks: tf.Tensor) -> tf.Tensor:
    """The output samples of successive blocks, float32 [blocks * columns]."""
    starts = _position(blocks * bank.columns, bank.sample_rate)
    outputs = tf.cond(
        bank.terms == 0,
        lambda: _equidistant_spans(padded[starts[0] :], bank, tf.size(blocks)) @ bank.matrix,
        lambda: _evaluate(_spans(padded, bank, starts) @ bank.matrix, bank, blocks, starts),
    )
    return tf.reshape(outputs, [-1])


def _spans(padded: tf.Tensor, bank: FilterBank, starts: tf.Tensor) -> tf.Tensor:
    """The input samples of each block, float32 [blocks, span]."""
    # int32 halves the cost of the indices.
    return tf.gather(padded, tf.cast(starts, tf.int32)[:, tf.newaxis] + tf.range(tf.shape(bank.matrix)[0]))


def _equidistant_spans(padded: tf.Tensor, bank: FilterBank, blocks: tf.Tensor) -> tf.Tensor:
    """The same for filters that repeat, cut faster: each span consists of a few whole rows of `advance` samples."""
    advance, span = tf.cast(_position(bank.columns, bank.sample_rate), tf.int32), tf.shape(bank.matrix)[0]
    rows_per_block = ceil_div(span, advance)
    samples = (blocks + rows_per_block - 1) * advance
    padded = padded[:samples]
    rows = tf.reshape(tf.pad(padded, [[0, samples - tf.size(padded)]]), [-1, advance])
    spans = tf.gather(rows, tf.range(blocks)[:, tf.newaxis] + tf.range(rows_per_block))
    return tf.reshape(spans, [blocks, rows_per_block * advance])[:, :span]


def _evaluate(coefficients: tf.Tensor, bank: FilterBank, blocks: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
    """Evaluates Chebyshev polynomials [blocks, columns * 2 * terms] at the fractions of the output samples.

    Returns:
        float32 [blocks, columns].
    """
    columns = tf.range(bank.columns)
    index = blocks[:, tf.newaxis] * bank.columns + columns
    after_next = _position(index, bank.sample_rate) > starts[:, tf.newaxis] + _position(columns, bank.sample_rate)
    coefficients = tf.reshape(coefficients, [-1, bank.columns, 2, bank.terms])
    coefficients = tf.where(after_next[..., tf.newaxis], coefficients[:, :, 1], coefficients[:, :, 0])
    angles = tf.acos(tf.cast(2 * _fraction(index, bank.sample_rate) - 1, tf.float32))
    polynomials = tf.cos(angles[..., tf.newaxis] * tf.range(tf.cast(bank.terms, tf.float32)))
    return tf.reduce_sum(coefficients * polynomials, axis=-1)


def _position(index: tf.Tensor, sample_rate: tf.Tensor) -> tf.Tensor:
    """The last input sample at or before output sample `index`."""
    return index * sample_rate // _RATE


def _fraction(index: tf.Tensor, sample_rate: tf.Tensor) -> tf.Tensor:
    """The output sample's distance from there, in input samples, float64."""
    return tf.cast(index * sample_rate % _RATE, tf.float64) / params.SAMPLE_RATE


def ceil_div(dividend: tf.Tensor, divisor: tf.Tensor) -> tf.Tensor:
    """The quotient of integers, rounded up."""
    return -(-dividend // divisor)


# === resampy's filters ===


def _scale(sample_rate: tf.Tensor) -> tf.Tensor:
    return tf.minimum(params.SAMPLE_RATE / tf.cast(sample_rate, tf.float64), 1)


def _tap_step(sample_rate: tf.Tensor) -> tf.Tensor:
    """Table entries from one tap to the next."""
    return tf.cast(_scale(sample_rate) * resampy_table()[1], tf.int64)  # resampy truncates too


def _wing(sample_rate: tf.Tensor) -> tf.Tensor:
    """Taps on either side of an output sample."""
    return len(resampy_table()[0]) // _tap_step(sample_rate)


def _interpolated_filters(sample_rate: tf.Tensor, fractions: tf.Tensor) -> tf.Tensor:
    """resampy's filters of output samples at these fractions, float32 [len(fractions), 2 * wing]."""
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

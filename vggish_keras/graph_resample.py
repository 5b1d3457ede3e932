"""resample.py inside a TensorFlow graph, for rates that are known only when it runs."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from vggish_keras import params
from vggish_keras.resample import resampy_table

# Output samples per matrix product, and the number of phases up to which one matrix serves all.
_TARGET_COLUMNS = 128
_PHASES_OF_ONE_MATRIX = 640
_COLUMNS_OF_MORE = 64
_ONE = np.int64(1)
_DIVISORS = np.array([d for d in range(1, params.SAMPLE_RATE + 1) if params.SAMPLE_RATE % d == 0], np.int64)


class FilterBank(NamedTuple):
    """The filters of one sample rate as tensors; see `vggish_keras.resample.FilterBank`.

    Attributes:
        sample_rate: Hz, int64.
        matrices: float32 [groups, window, columns].
        starts: int64 [groups].
        advance: Input samples from block to block, int64.
        outputs: Output samples of a block, int64.
        reach: Input samples that the filters reach back beyond a block's first, int64.
    """

    sample_rate: tf.Tensor
    matrices: tf.Tensor
    starts: tf.Tensor
    advance: tf.Tensor
    outputs: tf.Tensor
    reach: tf.Tensor


def filter_bank(sample_rate: tf.Tensor) -> FilterBank:
    """The filters that take `sample_rate`, an int64 scalar in Hz, to 16 kHz."""
    common = tf.reduce_max(tf.where(sample_rate % _DIVISORS == 0, _DIVISORS, _ONE))
    phases, period = params.SAMPLE_RATE // common, sample_rate // common
    one_matrix = phases <= _PHASES_OF_ONE_MATRIX
    repeats = tf.where(one_matrix, tf.maximum(_TARGET_COLUMNS // phases, 1), _ONE)
    outputs, advance = phases * repeats, period * repeats
    columns = tf.where(one_matrix, outputs, _COLUMNS_OF_MORE * _ONE)
    groups = -(-outputs // columns)

    # Output sample i lies between input samples positions[i] and positions[i] + 1.
    index = tf.range(groups * columns)
    positions = index * period // phases
    taps = _interpolated_filters(
        sample_rate, tf.cast(index * period % phases, tf.float64) / tf.cast(phases, tf.float64)
    )
    reach = tf.shape(taps, tf.int64)[1] // 2 - 1
    positions = tf.reshape(positions, [groups, columns])
    starts = positions[:, 0]
    matrices = _band_matrices(tf.reshape(taps, [groups, columns, -1]), positions - starts[:, tf.newaxis])
    return FilterBank(sample_rate, tf.transpose(matrices, [0, 2, 1]), starts, advance, outputs, reach)


def resample(waveform: tf.Tensor, bank: FilterBank) -> tf.Tensor:
    """Resamples a clip to 16 kHz.

    Args:
        waveform: float32 [samples].
        bank: The filters of its rate.

    Returns:
        float32 [samples * 16000 // sample_rate], as `vggish_keras.resample.resample` gives it.
    """
    return tf.cond(bank.sample_rate == params.SAMPLE_RATE, lambda: waveform, lambda: _resample(waveform, bank))


def _resample(waveform: tf.Tensor, bank: FilterBank) -> tf.Tensor:
    samples = tf.size(waveform, tf.int64)
    length = samples * params.SAMPLE_RATE // bank.sample_rate
    blocks = -(-length // bank.outputs)
    window = tf.shape(bank.matrices, tf.int64)[1]
    # Rows of `advance` samples: a block's windows lie in its own row and the next few.
    rows_of_block = -(-(bank.starts[-1] + window) // bank.advance)
    rows = blocks + rows_of_block - 1
    behind = tf.maximum(rows * bank.advance - bank.reach - samples, 0)
    padded = tf.pad(waveform, [[bank.reach, behind]])[: rows * bank.advance]
    in_rows = tf.reshape(padded, [rows, bank.advance])
    inputs = tf.gather(in_rows, tf.range(blocks)[:, tf.newaxis] + tf.range(rows_of_block))
    inputs = tf.reshape(inputs, [blocks, rows_of_block * bank.advance])
    resampled = tf.cond(
        tf.size(bank.starts) == 1,
        lambda: inputs[:, :window] @ bank.matrices[0],
        lambda: _filter_groups(inputs, bank),
    )
    return tf.reshape(resampled[:, : bank.outputs], [blocks * bank.outputs])[:length]


def _filter_groups(inputs: tf.Tensor, bank: FilterBank) -> tf.Tensor:
    """Inputs of blocks [blocks, samples] -> [blocks, groups * columns]."""
    groups, window, columns = tf.unstack(tf.shape(bank.matrices, tf.int64))
    windows = tf.gather(inputs, bank.starts[:, tf.newaxis] + tf.range(window), axis=1)
    resampled = tf.einsum("bgw,gwc->bgc", windows, bank.matrices)
    return tf.reshape(resampled, [tf.shape(inputs, tf.int64)[0], groups * columns])


def _band_matrices(taps: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """Filters [groups, columns, taps], each moved by its offset [groups, columns] -> [groups, columns, window]."""
    size = tf.shape(taps, tf.int64)[2]
    moved = tf.range(tf.reduce_max(offsets) + size) - offsets[..., tf.newaxis]
    inside = (moved >= 0) & (moved < size)
    return tf.cast(inside, tf.float32) * tf.gather(taps, tf.clip_by_value(moved, 0, size - 1), batch_dims=2)


def _interpolated_filters(sample_rate: tf.Tensor, fractions: tf.Tensor) -> tf.Tensor:
    """resampy's filters, float32 [len(fractions), 2 * wing], as in `vggish_keras.resample`."""
    half_window, precision = resampy_table()
    table, last = tf.constant(half_window), len(half_window) - 1
    scale = tf.minimum(params.SAMPLE_RATE / tf.cast(sample_rate, tf.float64), 1)
    step = tf.cast(scale * precision, tf.int64)  # resampy truncates too
    taps = tf.range(len(half_window) // step)

    def one_wing(distances: tf.Tensor) -> tf.Tensor:
        offsets = (scale * distances * precision)[:, tf.newaxis]
        whole = tf.cast(offsets, tf.int64)
        inside = taps < (len(half_window) - whole) // step
        entries = tf.cast(inside, tf.int64) * (whole + taps * step)
        here, after = tf.gather(table, entries), tf.gather(table, tf.minimum(entries + 1, last))
        values = scale * (here + (offsets - tf.cast(whole, tf.float64)) * (after - here))
        return tf.cast(tf.cast(inside, tf.float64) * values, tf.float32)

    return tf.concat([one_wing(fractions)[:, ::-1], one_wing(1 - fractions)], axis=1)

"""resample.py inside a TensorFlow graph, for rates that are known only when it runs."""

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


def resample(waveforms: tf.Tensor, sample_rate: tf.Tensor) -> tf.Tensor:
    """Resamples clips of one rate to 16 kHz.

    Args:
        waveforms: float32 [clips, samples].
        sample_rate: int64 scalar, Hz.

    Returns:
        float32 [clips, samples * 16000 // sample_rate], as `vggish_keras.resample.resample` gives it.
    """
    return tf.cond(sample_rate == params.SAMPLE_RATE, lambda: waveforms, lambda: _resample(waveforms, sample_rate))


def _resample(waveforms: tf.Tensor, sample_rate: tf.Tensor) -> tf.Tensor:
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

    length = tf.shape(waveforms, tf.int64)[1] * params.SAMPLE_RATE // sample_rate
    blocks = -(-length // outputs)
    window = tf.shape(matrices, tf.int64)[2]
    behind = tf.maximum((blocks - 1) * advance + starts[-1] + window - reach - tf.shape(waveforms, tf.int64)[1], 0)
    padded = tf.pad(waveforms, [[0, 0], [reach, behind]])
    first = tf.range(blocks)[:, tf.newaxis] * advance + starts
    windows = tf.gather(padded, first[..., tf.newaxis] + tf.range(window), axis=1)
    resampled = tf.einsum("nbgw,gcw->nbgc", windows, matrices)
    clips = tf.shape(waveforms, tf.int64)[0]
    in_blocks = tf.reshape(resampled, [clips, blocks, groups * columns])[:, :, :outputs]
    return tf.reshape(in_blocks, [clips, blocks * outputs])[:, :length]


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

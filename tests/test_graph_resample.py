import numpy as np
import pytest
import resampy
import tensorflow as tf

from vggish_keras import resample as numpy_resample
from vggish_keras.exporting import graph_resample


@pytest.fixture(scope="module")
def resample():
    """One trace for all rates and lengths."""

    @tf.function(input_signature=[tf.TensorSpec([None]), tf.TensorSpec([], tf.int64)])
    def function(waveform, sample_rate):
        outputs = tf.size(waveform, tf.int64) * 16_000 // sample_rate
        return graph_resample.resample(waveform, graph_resample.filter_bank(sample_rate, outputs))

    yield function
    assert function.experimental_get_tracing_count() == 1


RATES = [4_000, 8_000, 11_025, 12_000, 15_999, 16_000, 22_050, 32_000, 44_100, 44_101, 48_000, 96_000, 192_000]


@pytest.mark.parametrize("sample_rate", RATES)
def test_equals_resampy(resample, sample_rate):
    waveform = np.random.default_rng(0).uniform(-1, 1, 2 * sample_rate + 13).astype(np.float32)
    expected = resampy.resample(waveform, sample_rate, 16_000, filter="kaiser_best")
    got = resample(waveform, sample_rate)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize("sample_rate", RATES)
@pytest.mark.parametrize("samples", [0, 1, 10, 1_000])
def test_short_clips(resample, sample_rate, samples):
    """Their filters differ from those of long clips."""
    waveform = np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)
    got = resample(waveform, sample_rate)
    assert got.shape == (samples * 16_000 // sample_rate,)
    if len(got):
        expected = resampy.resample(waveform, sample_rate, 16_000, filter="kaiser_best")
        np.testing.assert_allclose(got, expected, atol=5e-6, rtol=0)


def test_long_clips_are_resampled_in_steps(resample):
    """The longest step of a rate whose filters repeat, and of one whose filters do not."""
    for sample_rate in (44_100, 44_101):
        waveform = np.random.default_rng(0).uniform(-1, 1, 40 * sample_rate).astype(np.float32)
        got = resample(waveform, sample_rate)
        last = 4 * sample_rate
        expected = resampy.resample(waveform[-last:], sample_rate, 16_000, filter="kaiser_best")
        np.testing.assert_allclose(got[-len(expected) + 1_000 :], expected[1_000:], atol=5e-6, rtol=0)


# === The filters, against those of vggish_keras.resample ===


@pytest.fixture(scope="module")
def filter_bank():
    return tf.function(graph_resample.filter_bank, [tf.TensorSpec([], tf.int64)] * 2)


def cut_taps(column, offset, taps):
    """The taps of a filter, cut from a matrix column that holds zeros above and below."""
    inside = column[offset : offset + taps]
    assert np.count_nonzero(inside) == np.count_nonzero(column)
    return inside


def numpy_filters(sample_rate, count):
    """The filters of the first output samples, [count, taps]."""
    bank = numpy_resample.filter_bank(sample_rate)
    columns = [
        (part.start + bank.stride * group, column)
        for part in bank.parts
        for group, matrix in enumerate(part.matrices)
        for column in matrix.T
    ]
    filters = []
    for output in range(count):
        start, column = columns[output % bank.columns]
        offset = output % bank.columns * sample_rate // 16_000 - start
        filters.append(cut_taps(column, offset, 2 * bank.reach + 2))
    return np.array(filters)


def graph_filters(bank, count):
    """The filters of the first output samples, [count, taps]."""
    sample_rate, per_block = int(bank.sample_rate), int(bank.columns)
    filters = []
    for output in range(count):
        block, column = divmod(output, per_block)
        start = block * per_block * sample_rate // 16_000
        if column == 0:
            columns = matrix_of_block(bank, block, start)
        offset = output * sample_rate // 16_000 - start
        filters.append(cut_taps(columns[:, column], offset, 2 * int(bank.reach) + 2))
    return np.array(filters)


def matrix_of_block(bank, block, start):
    """The matrix by which the span of a block is multiplied, [span, columns]."""
    if bank.terms == 0:
        return bank.matrix.numpy()
    span = len(bank.matrix)
    blocks, starts = tf.fill([span], np.int64(block)), tf.fill([span], np.int64(start))
    return graph_resample._evaluate(bank.matrix, bank, blocks, starts).numpy()


@pytest.mark.parametrize("sample_rate", [rate for rate in RATES if rate != 16_000] + [16_001, 44_056, 127_975])
def test_both_filter_banks_are_equal(filter_bank, sample_rate):
    """To the bit where the filters of the graph repeat; closely where they are polynomials."""
    bank = filter_bank(sample_rate, 10**9)
    expected = numpy_filters(sample_rate, 1_000)
    difference = np.abs(graph_filters(bank, 1_000) - expected).max()
    assert difference <= (0 if bank.terms == 0 else 5e-7 * np.abs(expected).max())


def test_filters_cost_no_more_than_their_samples(filter_bank):
    """They take at most 4 MB, however odd the rate, and little for a few samples."""
    for sample_rate in (4_001, 15_999, 44_100, 44_101, 127_975, 191_975, 191_999, 192_000):
        for outputs, bound in ((0, 100_000), (1, 100_000), (1_000, 4e6), (10**9, 4e6)):
            assert filter_bank(sample_rate, outputs).matrix.numpy().nbytes < bound
    assert filter_bank(44_100, 10**9).terms == 0
    assert filter_bank(44_100, 1_000).terms > 0

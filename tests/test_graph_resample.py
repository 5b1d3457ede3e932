import numpy as np
import pytest
import resampy
import tensorflow as tf

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
    """Their filters are others than those of long clips."""
    waveform = np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)
    got = resample(waveform, sample_rate)
    assert got.shape == (samples * 16_000 // sample_rate,)
    if len(got):
        expected = resampy.resample(waveform, sample_rate, 16_000, filter="kaiser_best")
        np.testing.assert_allclose(got, expected, atol=5e-6, rtol=0)


def test_long_clips_are_resampled_in_parts(resample):
    """The longest step of a rate whose filters repeat, and of one whose filters do not."""
    for sample_rate in (44_100, 44_101):
        waveform = np.random.default_rng(0).uniform(-1, 1, 40 * sample_rate).astype(np.float32)
        got = resample(waveform, sample_rate)
        last = 4 * sample_rate
        expected = resampy.resample(waveform[-last:], sample_rate, 16_000, filter="kaiser_best")
        np.testing.assert_allclose(got[-len(expected) + 1_000 :], expected[1_000:], atol=5e-6, rtol=0)


def test_filters_cost_no_more_than_their_samples():
    """However odd the rate, they take 4 MB at most, and little for a few samples."""
    bank = tf.function(graph_resample.filter_bank, [tf.TensorSpec([], tf.int64)] * 2)
    for sample_rate in (4_001, 15_999, 44_100, 44_101, 127_975, 191_975, 191_999, 192_000):
        for outputs, bound in ((0, 100_000), (1, 100_000), (1_000, 4e6), (10**9, 4e6)):
            assert bank(sample_rate, outputs).matrix.numpy().nbytes < bound
    assert bank(44_100, 10**9).terms == 0
    assert bank(44_100, 1_000).terms > 0

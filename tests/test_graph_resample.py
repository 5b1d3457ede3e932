import numpy as np
import pytest
import resampy
import tensorflow as tf

from vggish_keras import graph_resample


@pytest.fixture(scope="module")
def resample():
    """One trace for all rates and lengths."""

    @tf.function(input_signature=[tf.TensorSpec([None]), tf.TensorSpec([], tf.int64)])
    def function(waveform, sample_rate):
        return graph_resample.resample(waveform, graph_resample.filter_bank(sample_rate))

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


@pytest.mark.parametrize("sample_rate", [16_000, 44_100, 44_101])
@pytest.mark.parametrize("samples", [0, 1, 10])
def test_next_to_nothing(resample, sample_rate, samples):
    assert resample(np.ones(samples, np.float32), sample_rate).shape == (samples * 16_000 // sample_rate,)

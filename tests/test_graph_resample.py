import numpy as np
import pytest
import resampy
import tensorflow as tf

from vggish_keras import graph_resample


@pytest.fixture(scope="module")
def resample():
    """One trace for all rates and shapes."""
    signature = [tf.TensorSpec([None, None]), tf.TensorSpec([], tf.int64)]
    function = tf.function(graph_resample.resample, signature)
    yield function
    assert function.experimental_get_tracing_count() == 1


RATES = [4_000, 8_000, 11_025, 12_000, 15_999, 16_000, 22_050, 32_000, 44_100, 44_101, 48_000, 96_000, 192_000]


@pytest.mark.parametrize("sample_rate", RATES)
def test_equals_resampy(resample, sample_rate):
    waveforms = np.random.default_rng(0).uniform(-1, 1, (2, sample_rate + 13)).astype(np.float32)
    expected = resampy.resample(waveforms, sample_rate, 16_000, filter="kaiser_best")
    got = resample(waveforms, sample_rate)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    ("shape", "expected"), [((0, 100), (0, 36)), ((2, 0), (2, 0)), ((1, 1), (1, 0)), ((3, 10), (3, 3))]
)
def test_next_to_nothing(resample, shape, expected):
    assert resample(np.zeros(shape, np.float32), 44_100).shape == expected


def test_nan_stays_in_its_clip(resample):
    waveforms = np.random.default_rng(0).uniform(-1, 1, (2, 9_000)).astype(np.float32)
    expected = resample(waveforms, 48_000)[1]
    waveforms[0, 100] = np.nan
    np.testing.assert_allclose(resample(waveforms, 48_000)[1], expected, atol=1e-6)

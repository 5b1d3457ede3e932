import numpy as np
import pytest

from vggish_keras.frontend import LogMelExamples
from vggish_keras.spectrogram_overview import SpectrogramOverview


def overview_of(samples, max_columns=4_000, block=None):
    overview = SpectrogramOverview(max_columns)
    for start in range(0, len(samples), block or max(1, len(samples))):
        overview.add(samples[start : start + (block or len(samples))])
    return overview


def test_a_column_per_frame_of_a_short_recording(sounds):
    samples = sounds["noise"][:16_000]
    overview = overview_of(samples)
    log_mel, lowest, highest = overview.columns
    assert overview.seconds == 1
    assert log_mel.shape == (100, 64)
    padded = np.pad(samples, (0, 240))[np.newaxis]
    np.testing.assert_allclose(log_mel, LogMelExamples().log_mel(padded)[0], atol=1e-5)
    np.testing.assert_array_equal(lowest, samples.reshape(100, 160).min(axis=1))
    np.testing.assert_array_equal(highest, samples.reshape(100, 160).max(axis=1))


@pytest.mark.parametrize(("samples", "frames"), [(0, 1), (1, 1), (160, 1), (161, 2)])
def test_the_end_is_padded_to_a_frame(samples, frames):
    overview = overview_of(np.full(samples, 0.5, np.float32))
    assert len(overview.columns.log_mel) == frames
    assert overview.seconds == frames / 100
    assert overview.columns.highest[0] == (0.5 if samples else 0)


@pytest.mark.parametrize("max_columns", [64, 65, 1_000])
def test_neighbors_are_joined_beyond_the_maximum(max_columns):
    """Two minutes, which are analyzed in two blocks."""
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 120 * 16_000).astype(np.float32)
    samples[16_000 * 60] = 0.9
    overview = overview_of(samples, max_columns, block=100_000)
    log_mel, lowest, highest = overview.columns
    assert max_columns / 2 - 1 <= len(log_mel) <= max_columns
    assert overview.seconds == 120
    assert (lowest.min(), highest.max()) == (samples.min(), np.float32(0.9))
    assert np.argmax(highest) / len(highest) == pytest.approx(0.5, abs=1.5 / len(highest))
    # Each column is the mean of the columns of a finer overview that it covers.
    fine = overview_of(samples, 12_000).columns.log_mel
    size = 2 ** round(np.log2(len(fine) / len(log_mel)))
    whole = len(fine) // size
    expected = fine[: whole * size].reshape(whole, size, 64).mean(axis=1)
    np.testing.assert_allclose(log_mel[:whole], expected, atol=1e-4)


def test_the_columns_do_not_depend_on_how_the_samples_are_added(sounds):
    samples = np.tile(sounds["sweep"], 25)
    expected = overview_of(samples, 500).columns
    for block in (999, 160_000):
        for got, wanted in zip(overview_of(samples, 500, block).columns, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_samples_can_be_added_after_looking_at_the_columns(sounds):
    samples = sounds["rumble"]
    overview = SpectrogramOverview(100)
    overview.add(samples[:10_001])
    assert len(overview.columns.log_mel) == 63
    overview.add(samples[10_001:])
    for got, wanted in zip(overview.columns, overview_of(samples, 100).columns, strict=True):
        np.testing.assert_array_equal(got, wanted)

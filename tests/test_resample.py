import numpy as np
import pytest
import resampy
import soundfile

import vggish_keras as vk
from vggish_keras.resample import filter_bank, resample, resample_blocks

# Few phases (48, 32, 8 kHz), many (44.1 kHz and its fractions), far from 16 kHz, close to it, and an odd rate.
RATES = [48_000, 32_000, 8_000, 24_000, 12_000, 44_100, 22_050, 11_025, 96_000, 192_000, 4_000, 15_999, 16_001, 44_056]


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


@pytest.mark.parametrize("sample_rate", RATES)
def test_equals_resampy(sample_rate):
    waveform = noise(sample_rate * 3 + 17)
    expected = resampy.resample(waveform, sample_rate, 16_000, filter="kaiser_best")
    got = resample(waveform, sample_rate)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, atol=5e-6, rtol=0)


@pytest.mark.reference
def test_equals_the_reference_data(reference):
    data = np.load(reference / "resample.npz")
    rates = {key.split("/")[0] for key in data.files}
    assert len(rates) == 4
    for rate in rates:
        np.testing.assert_allclose(
            resample(data[f"{rate}/input"], int(rate)), data[f"{rate}/output"], atol=5e-6, rtol=0
        )


@pytest.mark.parametrize("sample_rate", [8_000, 44_100, 48_000, 16_001])
def test_short_waveforms(sample_rate):
    for samples in (1, 2, 7, 100, 1_000):
        waveform = noise(samples)
        got = resample(waveform, sample_rate)
        assert got.shape == (samples * 16_000 // sample_rate,)
        if len(got):
            expected = resampy.resample(waveform, sample_rate, 16_000, filter="kaiser_best")
            np.testing.assert_allclose(got, expected, atol=5e-6, rtol=0)
    assert resample(np.zeros(0, "f"), sample_rate).shape == (0,)


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 44_100, 48_000, 44_056, 16_000])
def test_stream_does_not_depend_on_its_blocks(sample_rate):
    waveform = noise(sample_rate * 6)
    whole = resample(waveform, sample_rate)
    rng = np.random.default_rng(1)
    for cuts in ([], [1], sorted(rng.integers(0, len(waveform), 40)), range(0, len(waveform), 1_000)):
        blocks = np.split(waveform, cuts)
        np.testing.assert_array_equal(np.concatenate(list(resample_blocks(blocks, sample_rate))), whole)


def test_stream_is_lazy_and_bounded():
    """Samples that are no longer needed are released, and output is produced before the stream ends."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield noise(4_410)

    stream = resample_blocks(endless(), 44_100)
    produced = sum(len(next(stream)) for _ in range(20))
    assert produced <= taken * 1_600 < produced + 80_000


def test_16_khz_is_unchanged():
    waveform = noise(1_000)
    np.testing.assert_array_equal(resample(waveform, 16_000), waveform)


def test_leading_axes_and_other_floats():
    stereo = noise(44_100).reshape(2, 1, 22_050)
    got = resample(stereo, 44_100)
    assert got.shape == (2, 1, 8_000)
    np.testing.assert_array_equal(got[1, 0], resample(stereo[1, 0], 44_100))
    doubles = resample(stereo[0, 0].astype(np.float64), 44_100)
    assert doubles.dtype == np.float32
    np.testing.assert_allclose(doubles, got[0, 0], atol=1e-6)
    assert resample(np.zeros((0, 100), "f"), 44_100).shape == (0, 36)


def test_filter_banks_stay_small():
    """Those of usual rates fit into the processor's cache; even the oddest leave memory for the network."""
    for sample_rate, bound in ((8_000, 1), (44_100, 1), (48_000, 1), (192_000, 2), (44_056, 8), (191_999, 100)):
        assert sum(part.matrices.nbytes for part in filter_bank(sample_rate).parts) < bound * 2**20


@pytest.mark.parametrize("sample_rate", [0, -16_000, 44_100.5, 10**6, float("nan"), float("inf"), None, "44100"])
def test_invalid_sample_rates_raise(sample_rate):
    with pytest.raises(ValueError, match="sample_rate must be a whole number of Hz from 1 to 768,000, got"):
        resample(noise(100), sample_rate)


def test_invalid_waveforms_raise():
    with pytest.raises(TypeError, match=r"expected float samples .* got int16"):
        resample(np.zeros(100, np.int16), 44_100)
    with pytest.raises(ValueError, match="got a single number"):
        resample(np.float32(3), 44_100)


# === Recordings ===


def test_load_audio_returns_the_whole_recording_at_16_khz(tmp_path):
    stereo = np.stack([noise(100_000, seed) for seed in (1, 2)], axis=1)
    soundfile.write(tmp_path / "x.wav", stereo, 44_100, "FLOAT")
    mean, right = (resample(samples, 44_100) for samples in (stereo.mean(axis=1), stereo[:, 1]))
    dictionary = {"array": stereo.T, "sampling_rate": 44_100}
    for source, sample_rate in ((tmp_path / "x.wav", None), (stereo, 44_100), (dictionary, None)):
        got = vk.load_audio(source, sample_rate)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, mean, atol=1e-6)
        np.testing.assert_allclose(vk.load_audio(source, sample_rate, channels=1), right, atol=1e-6)
    with (tmp_path / "x.wav").open("rb") as file:
        np.testing.assert_array_equal(vk.load_audio(file), vk.load_audio(str(tmp_path / "x.wav")))
    assert vk.load_audio(np.zeros(0), 16_000).shape == (0,)
    with pytest.raises(ValueError, match="an array needs a sample_rate"):
        vk.load_audio(stereo)

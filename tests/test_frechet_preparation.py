"""What other tools do to the samples of a recording."""

import numpy as np
import pytest

from vggish_keras import framing
from vggish_keras.frechet.preparation import TOOLS, Preparation


def prepared(preparation, waveform, cuts=(100, 5_000)):
    blocks = list(preparation.apply(lambda: iter(np.split(waveform, cuts))))
    assert all(block.dtype == np.float32 for block in blocks)
    return np.concatenate(blocks)


def noise(samples):
    return (0.1 * np.random.default_rng(0).normal(size=samples) + 0.01).astype(np.float32)


def test_level():
    waveform = noise(20_000)
    np.testing.assert_array_equal(prepared(Preparation(), waveform), waveform)
    np.testing.assert_allclose(prepared(Preparation("peak"), waveform), waveform / waveform.max(), rtol=1e-6)
    centered = prepared(Preparation("centered"), waveform)
    np.testing.assert_allclose(centered, waveform - waveform.mean(dtype=float), atol=1e-7)
    for level in ("peak", "centered"):
        assert not prepared(Preparation(level), np.zeros(6_000, np.float32)).any()


@pytest.mark.parametrize("samples", [6_000, 15_999, 16_000, 23_599, 23_600, 23_999, 24_000, 24_500, 160_000])
def test_as_many_examples_as_the_windows_of_google_research(samples):
    waveform = noise(samples)
    got = prepared(TOOLS["google"].preparation, waveform)
    np.testing.assert_allclose(got, waveform[: len(got)] / waveform.max(), rtol=1e-6)
    hop = framing.hop_to_samples(TOOLS["google"].embedder_options["hop_seconds"])
    assert framing.count_examples(len(got), hop, "valid") == len(range(0, samples - 16_000 + 1, 8_000))


def test_audioldm_pads_to_two_seconds():
    waveform = noise(10_000)
    got = prepared(TOOLS["audioldm"].preparation, waveform)
    assert len(got) == 32_000
    assert not got[10_000:].any()
    np.testing.assert_allclose(got[:10_000], waveform - waveform.mean(dtype=float), atol=1e-7)
    assert len(prepared(TOOLS["audioldm"].preparation, noise(40_000))) == 40_000

import numpy as np
import pytest
import soundfile

from vggish_keras.embedder import Embeddings
from vggish_keras.plot import plot_recording


@pytest.fixture
def figure(monkeypatch):
    """The figure that was drawn last, with its axes: waveform, log-mel spectrogram, embeddings, two colour bars."""
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig

    def keep(self, *arguments, **options):
        drawn.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return drawn


def embeddings_of(count):
    return Embeddings(0.96 * np.arange(count), np.random.default_rng(0).normal(size=(count, 128)).astype(np.float32))


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_one_time_axis(tmp_path, figure, suffix):
    """A tone that starts after a second stands at its time and pitch in each panel."""
    time = np.arange(3 * 44_100) / 44_100
    soundfile.write(tmp_path / "tone.wav", np.where(time < 1, 0, np.sin(2 * np.pi * 1_000 * time)), 44_100)
    embeddings = embeddings_of(4)
    plot_recording(tmp_path / f"x.{suffix}", tmp_path / "tone.wav", embeddings, "a tone", "untrained")
    assert (tmp_path / f"x.{suffix}").stat().st_size > 10_000

    wave, mel, heat, *_ = figure[0].axes
    assert figure[0].get_suptitle() == "a tone"
    assert wave.get_title() == "untrained"
    assert wave.get_xlim() == mel.get_xlim() == heat.get_xlim()
    assert heat.get_xlim() == pytest.approx((0, 3), abs=1e-3)

    seconds, samples = wave.lines[0].get_data()
    assert seconds[np.argmax(np.abs(samples) > 0.1)] == pytest.approx(1, abs=0.01)
    image = mel.images[0]
    left, right, _, _ = image.get_extent()
    spectrogram = image.get_array()
    frame = np.argmax(spectrogram.max(axis=0) > 0)
    assert left + (right - left) * frame / spectrogram.shape[1] == pytest.approx(1, abs=0.04)
    # 1 kHz is 1000 mel, a third of the way from 185 to 2773 mel.
    assert np.argmax(spectrogram[:, 200]) == pytest.approx((1000 - 185) / (2773 - 185) * 65 - 1, abs=1)
    np.testing.assert_array_equal(heat.collections[0].get_array(), embeddings.values.T)


def test_no_embeddings(tmp_path, figure):
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    plot_recording(tmp_path / "x.png", tmp_path / "short.wav", embeddings_of(0), "nothing")
    assert not figure[0].axes[2].collections

import numpy as np
import pytest
import soundfile

from vggish_keras.embeddings import Embeddings
from vggish_keras.plot import plot_embeddings, plot_recording


@pytest.fixture
def figure(monkeypatch):
    """The figures that were drawn, each with its axes: waveform, log-mel spectrogram, embeddings, two color bars."""
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
def test_all_panels_share_one_time_axis(tmp_path, figure, suffix, assert_durable):
    """A tone that starts after one second appears at its time and pitch in each panel."""
    time = np.arange(3 * 44_100) / 44_100
    soundfile.write(tmp_path / "tone.wav", np.where(time < 1, 0, np.sin(2 * np.pi * 1_000 * time)), 44_100)
    embeddings = embeddings_of(4)
    plot_recording(tmp_path / f"x.{suffix}", tmp_path / "tone.wav", embeddings, "a tone", "untrained")
    assert (tmp_path / f"x.{suffix}").stat().st_size > 10_000
    assert_durable(tmp_path / f"x.{suffix}")

    wave, mel, heat, *_ = figure[0].axes
    assert figure[0].get_suptitle() == "a tone"
    assert wave.get_title() == "untrained"
    assert wave.get_xlim() == mel.get_xlim() == heat.get_xlim()
    assert heat.get_xlim() == pytest.approx((0, 3), abs=1e-3)

    highest, edges, lowest = wave.patches[0].get_data()
    assert edges[np.argmax(highest > 0.1)] == pytest.approx(1, abs=0.02)
    assert (lowest.min(), highest.max()) == pytest.approx((-1, 1), abs=0.01)
    image = mel.images[0]
    left, right, _, _ = image.get_extent()
    spectrogram = image.get_array()
    frame = np.argmax(spectrogram.max(axis=0) > 0)
    assert left + (right - left) * frame / spectrogram.shape[1] == pytest.approx(1, abs=0.04)
    # 1 kHz is 1000 mel, a third of the way from 185 to 2773 mel.
    assert np.argmax(spectrogram[:, 200]) == pytest.approx((1000 - 185) / (2773 - 185) * 65 - 1, abs=1)
    np.testing.assert_array_equal(heat.collections[0].get_array(), embeddings.values.T)


def test_recording_without_embeddings(tmp_path, figure):
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    plot_recording(tmp_path / "x.png", tmp_path / "short.wav", embeddings_of(0), "nothing")
    assert not figure[0].axes[2].collections


def test_long_recordings_are_reduced_to_what_an_image_shows(tmp_path, figure):
    """Ten minutes with one second of clicks in the middle and noise at the end."""
    waveform = np.zeros(600 * 16_000)
    waveform[300 * 16_000 : 301 * 16_000 : 100] = 0.5
    waveform[-10 * 16_000 :] = np.random.default_rng(0).uniform(-0.3, 0.3, 10 * 16_000)
    soundfile.write(tmp_path / "long.wav", waveform, 16_000)
    plot_recording(tmp_path / "x.png", tmp_path / "long.wav", embeddings_of(625), "long", similarity=True)
    wave, mel, heat, matrix, *_ = figure[0].axes
    highest, edges, _ = wave.patches[0].get_data()
    assert len(highest) <= 4_000
    assert edges[-1] == pytest.approx(600, abs=0.02)
    loud = edges[:-1][highest > 0.4]
    assert 299.5 < loud.min() < loud.max() < 301.1
    spectrogram = mel.images[0].get_array()
    assert spectrogram.shape == (64, len(highest))
    band = spectrogram.mean(axis=0)
    assert edges[:-1][band > band.mean()].max() > 599
    assert heat.collections[0].get_array().shape == (128, 625)
    assert matrix.collections[0].get_array().shape == (625, 625)


def test_saved_embeddings_and_their_similarity(tmp_path, figure):
    embeddings = Embeddings(0.5 * np.arange(3), np.zeros((3, 128), np.float32))
    embeddings.values[0, :2] = embeddings.values[2, :2] = 1, 2
    embeddings.values[1, 0] = 200
    plot_embeddings(tmp_path / "x.svg", embeddings, "saved", similarity=True)
    heat, matrix, *_ = figure[0].axes
    assert heat.get_xlim() == (0, 1.5)
    np.testing.assert_array_equal(heat.collections[0].get_array(), embeddings.values.T)
    between = 1 / np.sqrt(5)
    np.testing.assert_allclose(
        matrix.collections[0].get_array(), [[1, between, 1], [between, 1, between], [1, between, 1]], rtol=1e-6
    )
    many = Embeddings(0.96 * np.arange(5_000), np.repeat(np.arange(5_000.0)[:, np.newaxis], 128, axis=1))
    plot_embeddings(tmp_path / "many.png", many, "many")
    drawn = figure[1].axes[0].collections[0]
    np.testing.assert_allclose(drawn.get_array()[0], 2 + 5 * np.arange(1_000))
    assert figure[1].axes[0].get_xlim() == pytest.approx((0, 4_800))


def test_similarity_of_8_bit_embeddings_is_that_of_their_values(tmp_path, figure):
    rows = np.random.default_rng(0).integers(0, 256, 128).astype(np.uint8)
    plot_embeddings(tmp_path / "x.svg", Embeddings(np.arange(2.0), np.stack([rows, 255 - rows])), "saved", True)
    np.testing.assert_allclose(figure[0].axes[1].collections[0].get_array(), [[1, -1], [-1, 1]], atol=1e-5)


@pytest.mark.parametrize("count", [0, 1])
def test_zero_or_one_embedding(tmp_path, count):
    plot_embeddings(tmp_path / "x.png", embeddings_of(count), "few", similarity=True)
    assert (tmp_path / "x.png").stat().st_size > 1_000

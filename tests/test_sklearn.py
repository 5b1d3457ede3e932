"""VGGish as a scikit-learn transformer."""

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vggish_keras import embedder as embedder_module
from vggish_keras.sklearn import VGGishTransformer

CLASSES = 2


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Paths, waveforms and labels of twelve low or high tones of different lengths and phases."""
    folder, rng = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0)
    paths, waveforms, labels = [], [], []
    for index in range(12):
        hz = (300, 3_000)[index % CLASSES] * rng.uniform(0.9, 1.1)
        time = np.arange(20_000 + 3_000 * index) / 16_000
        waveforms.append((0.5 * np.sin(2 * np.pi * hz * time + rng.uniform(0, 6))).astype(np.float32))
        paths.append(str(folder / f"{index}.wav"))
        soundfile.write(paths[-1], waveforms[-1], 16_000, subtype="FLOAT")
        labels.append(("low", "high")[index % CLASSES])
    return paths, waveforms, labels


@pytest.fixture
def transformer(slim):
    return VGGishTransformer(weights=str(slim.v2), batch_size=4)


@pytest.mark.parametrize(("pooling", "pool"), [("avg", np.mean), ("max", np.max)])
def test_a_row_is_a_pooled_recording(transformer, embedder, sounds, pooling, pool):
    paths, waveforms, _ = sounds
    expected = np.stack([pool(embedder.embed(waveform, 16_000).values, axis=0) for waveform in waveforms[:3]])
    scale = np.abs(expected).max()
    transformer.set_params(pooling=pooling)
    for recordings in (paths[:3], np.array(paths[:3]), waveforms[:3]):
        rows = transformer.fit_transform(recordings)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected, atol=1e-4 * scale)
    matrix = np.stack([waveform[:20_000] for waveform in waveforms[:2]])
    np.testing.assert_array_equal(transformer.transform(matrix), transformer.transform(list(matrix)))
    audio = [{"array": waveform, "sampling_rate": 16_000} for waveform in waveforms[:3]]
    np.testing.assert_allclose(transformer.transform(audio), expected, atol=1e-4 * scale)
    assert transformer.transform([]).shape == (0, 128)


def test_sample_rate_is_that_of_arrays(transformer, sounds):
    paths, waveforms, _ = sounds
    transformer.set_params(sample_rate=8_000)
    slow = transformer.transform([waveforms[0]])
    (from_file,) = transformer.transform(paths[:1])
    assert not np.allclose(slow, from_file, rtol=0.1)


def test_tensors_are_arrays(transformer, sounds):
    waveforms = sounds[1][:2]
    rows = transformer.transform([tf.constant(waveform) for waveform in waveforms])
    np.testing.assert_array_equal(rows, transformer.transform(waveforms))


def test_arrays_and_names_of_numpy_can_be_mixed(transformer, sounds):
    paths, waveforms, _ = sounds
    rows = transformer.transform([waveforms[0], np.str_(paths[1])])
    np.testing.assert_allclose(rows, transformer.transform(waveforms[:2]), atol=1e-4 * np.abs(rows).max())


@pytest.mark.slow
def test_pipeline_is_cross_validated_with_one_network(transformer, sounds, monkeypatch):
    paths, waveforms, labels = sounds
    transformer.transform(paths[:1])
    monkeypatch.setattr(embedder_module, "Embedder", None)  # a second one would fail
    pipeline = make_pipeline(transformer, StandardScaler(), LogisticRegression())
    assert cross_val_score(pipeline, paths, labels, cv=3).mean() == 1
    search = GridSearchCV(pipeline, {"vggishtransformer__pooling": ["avg", "max"]}, cv=2, error_score="raise")
    search.fit(waveforms, labels)
    assert search.best_score_ == 1
    assert search.predict(paths).tolist() == labels


def test_clone_and_parameters(transformer):
    transformer.set_params(hop_seconds=0.5, pooling="max")
    copy = clone(transformer)
    assert copy is not transformer
    assert copy.get_params() == transformer.get_params()
    assert "hop_seconds=0.5" in repr(copy)


def test_data_frames(transformer, sounds):
    frame = transformer.set_output(transform="pandas").transform(sounds[0][:2])
    assert frame.shape == (2, 128)
    assert list(frame.columns) == [f"embedding_{index}" for index in range(128)]


def test_bad_input(transformer, sounds, tmp_path):
    (tmp_path / "bad.wav").write_text("no audio")
    with pytest.raises(ValueError, match=r"bad\.wav cannot be read as audio"):
        transformer.transform([sounds[0][0], str(tmp_path / "bad.wav")])
    with pytest.raises(FileNotFoundError, match=r"no audio file at nowhere\.wav"):
        transformer.transform(["nowhere.wav"])
    with pytest.raises(TypeError, match=r"expected a sequence of recordings, got the single path a\.wav"):
        transformer.transform("a.wav")
    with pytest.raises(ValueError, match="pooling must be one of"):
        VGGishTransformer("mean").transform([])
    transformer.set_params(padding="valid")
    with pytest.raises(ValueError, match=r'recording 1 is shorter than an example .* use padding "short"'):
        transformer.transform([np.zeros(16_000, np.float32), np.zeros(8_000, np.float32)])

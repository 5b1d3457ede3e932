"""What a set of embeddings may be, and which sets are refused or compared with a warning."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import vggish_keras as vk
from tests.fakes import FakeEngine, fake_embeddings
from vggish_keras import embedding_files
from vggish_keras.frechet import OpenSet, SetReader, compare_sets

OPTIONS = {"weights": "sha256:0", "hop_seconds": 0.96, "padding": "short", "postprocess": None, "channels": "mix"}


def rows_of(seed, count=40, mean=0.0):
    """Recordings of 10 embeddings."""
    rng = np.random.default_rng(seed)
    values = rng.normal(mean, np.exp(-np.arange(128) / 20), (10 * count, 128)).astype(np.float32)
    return {f"{seed}/{index}.wav": rows for index, rows in enumerate(np.split(values, count))}


BASELINE, EVALUATED = rows_of(0), rows_of(1, 30, 0.1)
EXPECTED = vk.fad(BASELINE, EVALUATED)


def embeddings_of(recordings):
    return [(name, vk.Embeddings(0.96 * np.arange(len(rows)), rows)) for name, rows in recordings.items()]


def joined(recordings):
    return np.concatenate(list(recordings.values()))


def write_folder(folder, recordings, options=None):
    for name, embeddings in embeddings_of(recordings):
        file = folder / f"{name}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        embedding_files.write(file, [(name, embeddings)])
    if options is not None:
        (folder / "vggish.json").write_text(json.dumps({**options, "recordings": "/audio"}))
    return folder


# === Embeddings and statistics ===


@pytest.mark.parametrize("suffix", embedding_files.SUFFIXES)
def test_saved_embeddings(tmp_path, suffix):
    embedding_files.write(tmp_path / f"a{suffix}", embeddings_of(BASELINE), OPTIONS)
    embedding_files.write(tmp_path / f"b{suffix}", embeddings_of(EVALUATED), {**OPTIONS, "hop_seconds": 0.5})
    result = vk.fad(tmp_path / f"a{suffix}", str(tmp_path / f"b{suffix}"))
    assert result.value == pytest.approx(EXPECTED.value, rel=1e-12)
    assert result.corrected == pytest.approx(EXPECTED.corrected, rel=1e-9)
    assert (result.baseline.n, result.baseline.recordings, result.baseline.options) == (400, 40, OPTIONS)
    assert "the baseline was made with hop_seconds 0.96, the evaluated set with hop_seconds 0.5" in result.warnings


def test_folders_of_embeddings(tmp_path):
    first = write_folder(tmp_path / "a", BASELINE, OPTIONS)
    second = write_folder(tmp_path / "b", EVALUATED)
    (second / "broken.npz").write_bytes(b"PK")
    (first / ".vggish.unfinished").mkdir()
    (first / ".vggish.unfinished" / "late.npz").write_bytes(b"PK")  # of a killed run
    result = vk.fad(first, second)
    assert not any("late.npz" in text for text in result.warnings)
    assert result.value == pytest.approx(EXPECTED.value, rel=1e-12)
    assert result.corrected == pytest.approx(EXPECTED.corrected, rel=1e-9)  # the groups are those of the names
    assert result.baseline.options == OPTIONS
    assert any("1 recording of" in text and "broken.npz is not an .npz file" in text for text in result.warnings)
    assert any("unknown how the embeddings of the evaluated set" in text for text in result.warnings)


def test_statistics_replace_embeddings(tmp_path):
    reader = SetReader()
    saved = reader.open(BASELINE).statistics()
    saved.save(tmp_path / "a.npz")
    for baseline in (saved, tmp_path / "a.npz"):
        result = vk.fad(baseline, EVALUATED)
        assert (result.value, result.corrected) == (EXPECTED.value, EXPECTED.corrected)
    with pytest.raises(ValueError, match=r"a\.npz holds statistics, expected embeddings or recordings"):
        vk.fad_per_recording(BASELINE, tmp_path / "a.npz")


def test_arrays():
    arrays = joined(BASELINE), joined(EVALUATED)
    for sides in (arrays, [vk.Embeddings(np.zeros(len(rows)), rows) for rows in arrays], [a.tolist() for a in arrays]):
        assert vk.fad(*sides).value == pytest.approx(EXPECTED.value, rel=1e-12)
    with pytest.raises(ValueError, match="the evaluated set has no names of recordings"):
        vk.fad_per_recording(*arrays)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing", FileNotFoundError, "no file or folder at missing"),
        ("missing.npz", FileNotFoundError, r"no \.npz file at missing\.npz"),
        ("missing.npy", FileNotFoundError, r"no \.npy file at missing\.npy"),
        ("missing.csv", FileNotFoundError, r"missing\.csv does not exist"),
        ("*.wav", ValueError, r"no file matches \*\.wav"),
        ("empty", ValueError, "no audio files in empty"),
        ({}, ValueError, "the baseline has no embeddings"),
        ({"a.wav": np.zeros((0, 128))}, ValueError, "the baseline has no embeddings; 1 recording of the baseline"),
        ({"a.wav": np.zeros((3, 12))}, ValueError, r"a\.wav: expected embeddings \[n, 128\]"),
        (np.zeros((3, 12)), ValueError, r"expected embeddings \[n, 128\]"),
        ({"a.wav": np.zeros((3, 128), np.uint8), "b.wav": np.zeros((3, 128))}, ValueError, "the baseline: 8-bit PCA"),
        (None, ValueError, "expected embeddings"),
    ],
)
def test_sets_that_are_none(tmp_path, monkeypatch, source, error, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        vk.fad(source, EVALUATED)


def test_relu_of_saved_embeddings(tmp_path):
    embedding_files.write(tmp_path / "a.npz", embeddings_of(BASELINE), OPTIONS)
    expected = vk.fad(*(np.maximum(joined(rows), 0) for rows in (BASELINE, EVALUATED))).value
    result = vk.fad(tmp_path / "a.npz", EVALUATED, relu=True)
    assert result.value == pytest.approx(expected, rel=1e-12)
    assert result.baseline.options["relu"] is True
    assert vk.fad(result.baseline, EVALUATED, relu=True).value == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="baseline was made with relu True, the evaluated set with relu False"):
        compare_sets(SetReader().open(result.baseline), SetReader().open(tmp_path / "a.npz"))
    raw = SetReader().open(tmp_path / "a.npz").statistics()
    with pytest.raises(ValueError, match="holds statistics of embeddings without ReLU"):
        vk.fad(raw, EVALUATED, relu=True)
    embedding_files.write(tmp_path / "a.npz", embeddings_of(BASELINE), {**OPTIONS, "postprocess": "pca"})
    with pytest.raises(ValueError, match=r"relu requires raw embeddings: .*a\.npz holds pca ones"):
        vk.fad(tmp_path / "a.npz", EVALUATED, relu=True)
    with pytest.raises(ValueError, match="relu requires raw embeddings: postprocess must be None"):
        SetReader(relu=True, postprocess="pca")


def test_different_weights_are_refused_before_anything_is_read():
    def never():
        raise AssertionError("the set was read")

    sides = OpenSet("a", OPTIONS, never), OpenSet("b", {**OPTIONS, "weights": "sha256:1"}, never)
    with pytest.raises(
        ValueError, match="baseline was made with weights sha256:0, the evaluated set with weights sha256:1"
    ):
        compare_sets(*sides)


def test_ranking_of_saved_embeddings(tmp_path):
    embedding_files.write(
        tmp_path / "b.npz", [*embeddings_of(EVALUATED), *embeddings_of({"bad.wav": rows_of(9, 1, 3)["9/0.wav"]})]
    )
    ranking = vk.fad_per_recording(BASELINE, tmp_path / "b.npz")
    assert len(ranking) == 31
    assert ranking[0].recording == "bad.wav"
    assert all(row.examples == 10 for row in ranking)


# === Other tools ===


def test_frechet_audio_distance_and_audioldm_eval(tmp_path):
    np.save(tmp_path / "a.npy", joined(BASELINE))
    np.save(tmp_path / "b_fad_feature_cache.npy", joined(EVALUATED))
    result = vk.fad(tmp_path / "a.npy", tmp_path / "b_fad_feature_cache.npy")
    assert result.value == pytest.approx(EXPECTED.value, rel=1e-12)


@pytest.mark.parametrize("name", ["features.npy", "labels.npy", "mu.npy"])
def test_arrays_beside_recordings_are_not_embeddings(tmp_path, engine, name):
    for index in range(3):
        soundfile.write(tmp_path / f"{index}.wav", np.random.default_rng(index).uniform(-1, 1, 160_000), 16_000)
    expected = vk.fad(tmp_path, EVALUATED, weights=engine)
    np.save(tmp_path / name, np.ones((10, 128)))
    np.save(tmp_path / "cov.npy", np.eye(128))
    assert vk.fad(tmp_path, EVALUATED, weights=engine).value == expected.value


def test_fadtk_embeddings(tmp_path):
    folder = tmp_path / "audio" / "embeddings" / "vggish"
    folder.mkdir(parents=True)
    for index, rows in enumerate(BASELINE.values()):
        np.save(folder / f"{index}.npy", rows.astype(np.float16))
    soundfile.write(tmp_path / "audio" / "0.wav", np.zeros(100), 16_000)
    (folder / "bad.npy").write_bytes(b"no array")
    for path in (tmp_path / "audio", folder):
        result = vk.fad(path, EVALUATED)
        assert result.value == pytest.approx(EXPECTED.value, abs=1e-3)
        assert result.baseline.recordings == 40
        assert any("bad.npy is not an .npy file of a plain array" in text for text in result.warnings)
    assert any("also contains recordings" in text for text in vk.fad(tmp_path / "audio", EVALUATED).warnings)


@pytest.mark.parametrize("below", ["stats/vggish", "fad_stats/vggish", "."])
def test_fadtk_statistics(tmp_path, below):
    folder = tmp_path / "corpus" / below
    folder.mkdir(parents=True)
    np.save(folder / "mu.npy", joined(BASELINE).astype(float).mean(axis=0))
    np.save(folder / "cov.npy", np.cov(joined(BASELINE).astype(float).T))
    result = vk.fad(tmp_path / "corpus", EVALUATED)
    assert result.value == pytest.approx(EXPECTED.value, rel=1e-9)
    assert result.corrected is None
    np.save(folder / "cov.npy", np.eye(3))
    with pytest.raises(ValueError, match=r"expected a mean \[128\] and a covariance \[128, 128\], got"):
        vk.fad(tmp_path / "corpus", EVALUATED)


def pickled(path):
    np.save(path, np.array([{}], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickled, "contains pickled objects"),
        (lambda path: path.write_bytes(b"\x93NUMPY"), "is not an .npy file of a plain array"),
        (lambda path: np.save(path, np.zeros((3, 128))) or os.truncate(path, 2_000), "but has 1872"),
        (lambda path: np.save(path, np.zeros((3, 127))), r"got float64 \[3, 127\]"),
        (lambda path: np.save(path, np.full((3, 128), np.nan)), "NaN or infinity in row 0"),
    ],
)
def test_damaged_npy_files(tmp_path, content, message):
    content(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=message):
        vk.fad(tmp_path / "a.npy", EVALUATED)


def write_google_record(path, count=400, **changes):
    import tensorflow as tf

    rows = joined(BASELINE).astype(float)
    values = {"mu": rows.mean(axis=0), "sigma": np.cov(rows.T).ravel(), **changes}
    features = {name: tf.train.Feature(float_list=tf.train.FloatList(value=value)) for name, value in values.items()}
    for name, value in (("embedding_count", count), ("embedding_length", 128)):
        features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(example.SerializeToString())


@pytest.mark.parametrize("name", ["stats.tfrecord", "background_stats"])
def test_google_statistics(tmp_path, name):
    write_google_record(tmp_path / name)
    result = vk.fad(tmp_path / name, EVALUATED)
    assert result.value == pytest.approx(EXPECTED.value, abs=1e-6)
    assert result.baseline.n == 400
    content = bytearray((tmp_path / name).read_bytes())
    content[-100] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="is not a TFRecord file"):
        vk.fad(tmp_path / name, EVALUATED)
    write_google_record(tmp_path / name, sigma=np.zeros(9))
    with pytest.raises(ValueError, match="holds damaged statistics: 128 means and 9 covariances"):
        vk.fad(tmp_path / name, EVALUATED)


@pytest.mark.parametrize("count", [60, 400])
def test_statistics_for_google_research(tmp_path, count):
    """As its `read_mean_and_covariances` parses them, and as read back: full and deficient ranks."""
    import tensorflow as tf

    rows = joined(BASELINE)[:count].astype(float)
    statistics = vk.Statistics({"hop_seconds": 0.96})
    statistics.add(rows, "a.wav")
    statistics.save(tmp_path / "stats.tfrecord")
    (serialized,) = tf.data.TFRecordDataset(str(tmp_path / "stats.tfrecord")).as_numpy_iterator()
    features = {
        "mu": tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True),
        "sigma": tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True),
        "embedding_length": tf.io.FixedLenFeature([], tf.int64),
        "embedding_count": tf.io.FixedLenFeature([], tf.int64),
    }
    parsed = tf.io.parse_single_example(serialized, features)
    assert (parsed["embedding_length"], parsed["embedding_count"]) == (128, count)
    np.testing.assert_array_equal(parsed["mu"], rows.mean(axis=0).astype(np.float32))
    np.testing.assert_allclose(tf.reshape(parsed["sigma"], (128, 128)), np.cov(rows.T), rtol=1e-6, atol=1e-9)
    loaded = vk.Statistics.load(tmp_path / "stats.tfrecord")
    assert vk.fad(loaded, EVALUATED).value == pytest.approx(vk.fad(statistics, EVALUATED).value, abs=1e-6)


def test_audioset_records(tmp_path):
    rng = np.random.default_rng(0)
    clips = {f"{index}": rng.integers(0, 256, (10, 128), np.uint8) for index in range(30)}
    records = [vk.records.Record(name, 0.0, 9.6, (), rows) for name, rows in clips.items()]
    vk.records.write(tmp_path / "a-00000-of-00002.tfrecord", records[:20])
    vk.records.write(tmp_path / "a-00001-of-00002.tfrecord", records[20:])
    other = rng.integers(0, 256, (300, 128), np.uint8)
    result = vk.fad(tmp_path / "a.tfrecord", other)
    assert result.value == vk.fad(clips, other).value
    assert (result.baseline.n, result.baseline.recordings) == (300, 30)
    with pytest.raises(ValueError, match="8-bit PCA embeddings and floats are in different spaces"):
        vk.fad(tmp_path / "a.tfrecord", EVALUATED)


# === Recordings ===


@pytest.fixture(scope="module")
def engine():
    return FakeEngine()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """30 recordings of 2 s, one below an example, one damaged, and other files."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "more").mkdir()
    rng = np.random.default_rng(0)
    for index in range(30):
        noise = 0.1 * rng.normal(size=32_000) * rng.uniform(0.1, 1)
        soundfile.write(folder / "more" / f"{index}.wav", noise, 16_000, subtype="FLOAT")
    soundfile.write(folder / "short.wav", rng.normal(size=1_000), 16_000)
    (folder / "bad.wav").write_text("no audio")
    (folder / "README.txt").write_text("not audio")
    (folder / ".DS_Store").write_text("not audio")
    return folder


def waveforms(folder):
    return [soundfile.read(file, dtype="float32")[0] for file in sorted((folder / "more").glob("*.wav"))]


def test_recordings_are_embedded_straight_into_statistics(corpus, engine):
    rows = np.concatenate([fake_embeddings(waveform) for waveform in waveforms(corpus)])
    expected = vk.fad(rows, joined(EVALUATED)).value
    result = vk.fad(corpus, EVALUATED, weights=engine, padding="valid")
    assert result.value == pytest.approx(expected, rel=1e-4)
    assert result.baseline.n == len(rows)
    assert result.baseline.options["weights"] == "fake"
    assert any("1 recording of" in text and "bad.wav cannot be read as audio" in text for text in result.warnings)
    assert any("shorter than an example (0.975 s)" in text for text in result.warnings)
    files = sorted((corpus / "more").glob("*.wav"))
    for source in (corpus / "more", files, str(corpus / "more" / "*.wav")):
        assert vk.fad(source, EVALUATED, weights=engine).value == pytest.approx(expected, rel=1e-4)


def test_recordings_at_peak(corpus, engine):
    rows = np.concatenate([fake_embeddings(waveform / waveform.max()) for waveform in waveforms(corpus)])
    expected = vk.fad(rows, joined(EVALUATED)).value
    result = vk.fad(corpus, EVALUATED, weights=engine, padding="valid", level="peak")
    assert result.value == pytest.approx(expected, rel=1e-4)
    assert result.baseline.options["level"] == "peak"
    assert any("bad.wav cannot be read as audio" in text for text in result.warnings)
    with pytest.raises(ValueError, match="baseline was made with level peak, the evaluated set with level none"):
        vk.fad(result.baseline, corpus, weights=engine)


@pytest.mark.parametrize("level", [None, "peak"])
def test_a_decoder_that_crashes_fails_only_its_recording(tmp_path, engine, left_to_libsndfile, broken_decoder, level):
    broken_decoder("ctypes.string_at(0)")
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 160_000), 16_000)
    result = vk.fad(tmp_path, EVALUATED, weights=engine, level=level)
    assert result.baseline.recordings == 1
    assert any(f"{left_to_libsndfile} cannot be read as audio: its decoder crashed" in text for text in result.warnings)


def test_recordings_that_all_fail(tmp_path, engine):
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(
        ValueError, match=r"has no embeddings; 1 recording of .* could not be read: .*a\.wav cannot be read"
    ):
        vk.fad(tmp_path, EVALUATED, weights=engine)


def test_ranking_of_recordings(corpus, engine):
    with pytest.warns(UserWarning, match="recording") as warned:
        ranking = vk.fad_per_recording(EVALUATED, corpus, weights=engine, padding="valid")
    messages = "; ".join(sorted(str(warning.message) for warning in warned))
    assert re.search(r"could not be read: .*bad.*shorter than an example \(0\.975 s\)", messages)
    assert len(warned) == 2
    assert {row.recording for row in ranking} == {f"more/{index}.wav" for index in range(30)}


def test_embeddings_are_compared_without_tensorflow(tmp_path):
    embedding_files.write(tmp_path / "a.npz", embeddings_of(BASELINE), OPTIONS)
    SetReader().open(EVALUATED).statistics().save(tmp_path / "b.npz")
    script = (
        "import sys; sys.modules['tensorflow'] = None\nimport vggish_keras as vk; print(vk.fad('a.npz', 'b.npz').value)"
    )
    output = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert float(output.stdout) == pytest.approx(EXPECTED.value, rel=1e-12)


def test_kinds_of_embeddings_cannot_be_ranked_together():
    levels = np.zeros((20, 128), np.uint8)
    floats = np.random.default_rng(0).normal(size=(300, 128))
    for baseline, evaluated in ((floats, {"a": levels}), (floats.astype(np.uint8), {"a": floats})):
        with pytest.raises(ValueError, match="8-bit PCA embeddings and floats are in different spaces"):
            vk.fad_per_recording(baseline, evaluated)


@pytest.mark.slow
@pytest.mark.reference
def test_spoiled_recordings_lead_the_ranking(reference, vggish):
    """Noise, tones and silence among 300 recordings of speech, with random weights."""
    digits = [soundfile.read(path, dtype="float32")[0] for path in sorted((reference / "spoken_digits").rglob("*.wav"))]
    rng = np.random.default_rng(0)

    def speech():
        spoken = np.concatenate([digits[index] for index in rng.integers(0, len(digits), 4)])
        return vk.resample.resample(spoken[:8_000], 8_000)[:15_600]

    time = np.arange(15_600) / 16_000
    spoiled = {
        **{f"noise {index}": rng.uniform(-0.5, 0.5, 15_600) for index in range(4)},
        **{f"tone {hz}": 0.5 * np.sin(2 * np.pi * hz * time) for hz in (500, 1_000, 2_000)},
        **{f"silence {index}": np.zeros(15_600) for index in range(3)},
    }
    waveforms = np.stack([*(speech() for _ in range(600)), *spoiled.values()]).astype(np.float32)
    embeddings = vggish.predict(waveforms, batch_size=64, verbose=0)
    names = [*(f"speech {index}" for index in range(300)), *spoiled]
    ranking = vk.fad_per_recording(embeddings[:300, 0], dict(zip(names, embeddings[300:], strict=True)))
    assert {row.recording for row in ranking[:15]} >= set(spoiled)

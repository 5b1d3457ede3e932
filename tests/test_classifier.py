"""Classifiers built on VGGish, run on recordings."""

import gc
import itertools

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from tensorflow import keras

import vggish_keras as vk
from tests.conftest import make_network_narrow
from tests.fakes import FakeClassifier, FakeEngine, fake_embeddings
from tests.published import assert_close
from tests.test_classifier_head import functional, nested, sequential
from vggish_keras.embedder import Embedder
from vggish_keras.engines import open_classifier

RNG = np.random.default_rng(0)
SEGMENTS = (np.float32([[0.01], [0.1], [0.5]]) * RNG.uniform(-1, 1, (3, 15_600))).astype(np.float32)
NAMES = ("rain", "Vögel", "wind, gale")


def per_example(**arguments):
    vggish = vk.VGGish(None, **arguments)
    return keras.Model(vggish.input, keras.layers.Dense(3, activation="softmax")(vggish.output))


def pooled(**arguments):
    vggish = vk.VGGish(None, pooling="avg", **arguments)
    hidden = keras.layers.Dropout(0.5)(keras.layers.Dense(8, activation="relu")(vggish.output))
    return keras.Model(vggish.input, keras.layers.Dense(3, activation="sigmoid")(hidden))


def randomized(model):
    """Sets weights with which the scores of different segments differ."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        scale = np.sqrt(2 / np.prod(variable.shape[:-1])) if len(variable.shape) > 1 else 0.1
        variable.assign(scale * rng.standard_normal(variable.shape))
    return model


def own_scores(model, segments):
    """What the Keras model computes for segments as clips: [n, classes]."""
    lengths = {"waveform": segments, "num_samples": np.full(len(segments), 15_600, np.int32)}
    scores = model.predict(lengths if len(model.inputs) == 2 else segments, verbose=0)
    assert np.ptp(scores, axis=0).max() > 0.01  # the segments differ
    return scores.reshape(len(segments), -1)


# === A Keras model ===


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network")
@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (functional, {"pooling": "avg"}),
        (functional, {"lengths": True}),
        (sequential, {}),
        (nested, {"padding": "same", "hop_seconds": 0.1}),
        (nested, {"lengths": True, "pooling": "max"}),
        (per_example, {}),
        (per_example, {"lengths": True, "padding": "valid"}),
        (pooled, {"dtype": "mixed_bfloat16"}),
    ],
)
def test_scores_of_a_keras_model_are_its_own(tmp_path, build, arguments):
    model = randomized(build(**arguments))
    expected = own_scores(model, SEGMENTS)
    model.save(tmp_path / "x.keras")
    engine = open_classifier(tmp_path / "x.keras")
    got = engine(SEGMENTS, "scores")
    assert got.dtype == np.float32
    assert_close(got, expected, 0.01 if "dtype" in arguments else 1e-4)
    assert engine.outputs == ("scores",)
    assert engine.class_names == tuple(str(index) for index in range(expected.shape[1]))


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network")
def test_identity_of_a_classifier_is_that_of_all_its_weights(tmp_path):
    model = randomized(pooled())
    identities = []
    for name in ("a.keras", "b.keras", "c.keras"):
        model.save(tmp_path / name)
        identities.append(open_classifier(tmp_path / name).identity("scores"))
        if name == "b.keras":
            model.layers[-1].bias.assign([1, 2, 3])
    assert identities[0].startswith("sha256:")
    assert identities[0] == identities[1] != identities[2]


def vggish_alone(**arguments):
    return vk.VGGish(None, **arguments)


def vggish_in_a_model():
    return keras.Sequential([keras.Input((None,)), vk.VGGish(None, pooling="avg")])


def without_vggish():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])


def of_examples():
    vggish = vk.VGGish(None, input="examples")
    return keras.Model(vggish.input, keras.layers.Dense(5)(vggish.output))


def two_outputs():
    vggish = vk.VGGish(None, pooling="avg")
    return keras.Model(vggish.input, [keras.layers.Dense(5)(vggish.output), vggish.output])


def decision():
    vggish = vk.VGGish(None, pooling="avg")
    scores = keras.layers.Dense(5)(vggish.output)
    return keras.Model(vggish.input, keras.layers.Reshape((5, 1, 1))(scores))


def infinite():
    model = pooled()
    model.layers[-1].bias.assign([0, np.inf, 0])
    return model


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (vggish_alone, r"x\.keras is only VGGish, expected a classifier"),
        (lambda: vggish_alone(pooling="max", lengths=True), r"x\.keras is only VGGish"),
        (lambda: vggish_alone(postprocess="pca"), r"x\.keras is only VGGish"),
        (vggish_in_a_model, r"x\.keras is only VGGish"),
        (without_vggish, r"x\.keras is not a classifier built on VGGish: .* contains 0 VGGish networks"),
        (of_examples, r"x\.keras does not accept waveforms \[batch, samples\]: "),
        (two_outputs, r"x\.keras computes \['float32 \(None, 5\)', .*\], expected scores \[batch, classes\] or"),
        (decision, r"x\.keras computes float32 \(None, 5, 1, 1\), expected scores"),
        (infinite, r"x\.keras: weights must be finite numbers, got NaN or infinity in .*bias"),
    ],
)
def test_other_keras_models_raise(tmp_path, pca_in_cache, build, message):
    build().save(tmp_path / "x.keras")
    with pytest.raises(ValueError, match=message):
        open_classifier(tmp_path / "x.keras")


@pytest.mark.parametrize("name", ["vggish_model.ckpt", "x.weights.h5", "x.wav", "folder"])
def test_paths_that_are_no_classifier_raise(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(
        FileNotFoundError, match=rf"no classifier at .*{name}: expected a \.keras model built on VGGish"
    ):
        open_classifier(path)
    path.mkdir() if name == "folder" else path.touch()
    with pytest.raises(ValueError, match=rf"{name} is not a classifier: expected a .*, or a model exported"):
        open_classifier(path)


def test_damaged_keras_model_raises(tmp_path):
    (tmp_path / "x.keras").write_text("no model")
    with pytest.raises(ValueError, match=r"x\.keras cannot be loaded as a Keras model .*pass what export_saved_model"):
        open_classifier(tmp_path / "x.keras")


# === A SavedModel ===


@pytest.fixture(scope="module", params=[pooled, pytest.param(per_example, marks=pytest.mark.slow)])
def exported(request, tmp_path_factory):
    """A narrow classifier and its export."""
    with pytest.MonkeyPatch.context() as patch:
        make_network_narrow(patch)
        model = randomized(request.param(hop_seconds=0.5, padding="same"))
    return model, vk.export_saved_model(model, tmp_path_factory.mktemp("classifier") / "1", class_names=NAMES)


@pytest.mark.keras
def test_scores_of_a_saved_model_are_those_of_the_exported_model(exported):
    model, path = exported
    engine = open_classifier(path)
    gc.collect()
    got = engine(SEGMENTS, "scores")
    assert got.dtype == np.float32
    assert_close(got, own_scores(model, SEGMENTS))
    assert engine.class_names == NAMES
    assert vk.Embedder(path).embed(SEGMENTS[0], 16_000).values.shape == (1, 128)  # the embeddings, as before


def test_hop_padding_and_names_of_a_saved_model_are_the_defaults(exported, sounds):
    model, path = exported
    waveform = sounds["noise"][:40_000]
    got = vk.Classifier(path).predict(waveform, 16_000)
    np.testing.assert_allclose(got.times, 0.5 * np.arange(5))
    segments = [
        np.pad(waveform[start : start + 15_600], (0, max(0, start - 24_400))) for start in range(0, 40_000, 8_000)
    ]
    assert_close(got.scores, own_scores(model, np.stack(segments[:5])))
    assert got.class_names == NAMES
    assert len(vk.Classifier(path, hop_seconds=0.96, padding="valid").predict(waveform, 16_000)) == 2


def test_saved_model_without_scores_raises(exported_narrow):
    message = r"has no output scores \(outputs: embedding, quantized\): export the classifier with class_names"
    with pytest.raises(ValueError, match=message):
        open_classifier(exported_narrow)


@pytest.fixture
def foreign(tmp_path):
    """Saves a function of waveforms as a SavedModel whose only output is `scores`."""

    def save(function, variable=None):
        module = tf.Module()
        module.variable = variable
        module.serve = tf.function(
            lambda waveform: {"scores": function(waveform)}, [tf.TensorSpec([None, None], tf.float32, "waveform")]
        )
        tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.serve)
        return tmp_path / "1"

    return save


def test_saved_models_of_others_are_used(foreign):
    """Also with variables of other types than a network's."""
    steps = tf.Variable(3)
    engine = open_classifier(foreign(lambda waveform: waveform[:, :2] * tf.cast(steps, tf.float32), steps))
    np.testing.assert_array_equal(engine(SEGMENTS, "scores"), 3 * SEGMENTS[:, :2])
    assert engine.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda waveform: tf.argmax(waveform, axis=1)[:, tf.newaxis], r"computes int64 \(None, 1\), expected scores"),
        (lambda waveform: waveform[:, : tf.shape(waveform)[0]], r"computes float32 \(None, None\), expected scores"),
        (lambda waveform: waveform[0, 0], r"computes float32 \(\), expected scores"),
    ],
)
def test_saved_models_without_a_score_per_class_raise(foreign, function, message):
    with pytest.raises(ValueError, match=message):
        open_classifier(foreign(function))


def test_saved_model_with_wrong_class_names_raises(foreign):
    path = foreign(lambda waveform: waveform[:, :2])
    (path / "assets" / "class_names.txt").write_text("rain\nwind\nbirds\n")
    with pytest.raises(
        ValueError, match=r"1: expected 2 distinct class names, one per score of the model, got \['rain'"
    ):
        open_classifier(path)


# === Recordings ===


@pytest.fixture
def classifier():
    return vk.Classifier(FakeClassifier(*NAMES), batch_size=3)


def test_each_example_is_scored_on_its_own(classifier, sounds):
    waveform = np.concatenate([sounds["noise"], sounds["rumble"]])
    got = classifier.predict(waveform, 16_000)
    np.testing.assert_allclose(got.times, 0.96 * np.arange(6))
    assert_close(got.scores, fake_embeddings(waveform)[:, :3])
    assert got.class_names == classifier.class_names == NAMES
    assert repr(got) == "Predictions(6 examples, scores float32 [6, 3])"
    hops = vk.Classifier(FakeClassifier("a"), hop_seconds=0.5).predict(waveform, 16_000)
    np.testing.assert_allclose(hops.times, 0.5 * np.arange(11))
    assert_close(hops.scores, fake_embeddings(waveform, 0.5)[:, :1])


def test_recording_without_examples():
    got = vk.Classifier(FakeClassifier(*NAMES), padding="valid").predict(np.zeros(100), 16_000)
    assert (got.times.shape, got.scores.shape, list(got.top())) == ((0,), (0, 3), [])


def test_stream_equals_whole(classifier, sounds):
    whole = classifier.predict(sounds["noise"], 16_000)
    parts = list(classifier.stream(np.split(sounds["noise"], [1, 700, 20_000, 47_000]), 16_000))
    assert all(len(part) <= 3 for part in parts)
    assert_close(np.concatenate([part.scores for part in parts]), whole.scores)
    np.testing.assert_array_equal(np.concatenate([part.times for part in parts]), whole.times)


def test_class_names_are_replaced():
    assert vk.Classifier(FakeClassifier("0", "1"), ["rain", "wind"]).class_names == ("rain", "wind")
    for names in (["rain"], ["rain", "wind", "birds"], ["rain", "rain"], []):
        with pytest.raises(ValueError, match=r"expected 2 distinct class names, one per score of the model, got \["):
            vk.Classifier(FakeClassifier("0", "1"), names)
    with pytest.raises(TypeError, match="classifier must be a path, or an engine with class names, got <"):
        vk.Classifier(FakeEngine())


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(0.0, "wind", 0.5), (0.96, "rain", 0.4)]),
        (2, [(0.0, "wind", 0.5), (0.0, "birds", 0.3), (0.96, "rain", 0.4), (0.96, "birds", 0.4)]),
        (9, [(0.0, "wind", 0.5), (0.0, "birds", 0.3), (0.0, "rain", 0.2)]),
    ],
)
def test_top_labels_of_each_example(count, expected):
    """Best first; equal scores in the order of the classes."""
    scores = np.float32([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]])
    rows = vk.Predictions(np.array([0, 0.96]), scores, ("rain", "wind", "birds")).top(count)
    assert list(itertools.islice(rows, len(expected))) == [
        (t, label, np.float32(score)) for t, label, score in expected
    ]
    assert len(list(rows)) == (3 if count == 9 else 0)


# === Many recordings ===


@pytest.fixture
def folder(tmp_path, sounds):
    """Recordings of 1 to 50 examples; one ends early, and one is no audio."""
    soundfile.write(tmp_path / "short.wav", sounds["noise"].clip(-1, 1)[:16_000], 16_000)
    soundfile.write(tmp_path / "long.wav", np.tile(sounds["rumble"], 16), 16_000, "FLOAT")
    soundfile.write(tmp_path / "cut.flac", np.tile(sounds["noise"].clip(-1, 1), 10), 16_000)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.wav").write_text("no audio")
    return tmp_path


def test_parts_of_many_recordings_equal_each_alone(classifier, folder):
    paths = [folder / name for name in ("short.wav", "text.wav", "long.wav", "cut.flac", "short.wav", "long.wav")]
    results = list(classifier.stream_many(paths))
    ends = [index for index, (_, result) in enumerate(results) if not isinstance(result, vk.Predictions)]
    assert [results[index][0] for index in ends] == paths
    assert ends[-1] == len(results) - 1
    for path, first, end in zip(paths, [0, *(index + 1 for index in ends)], ends, strict=False):
        parts = [part for _, part in results[first:end]]
        assert {other for other, _ in results[first:end]} <= {path}
        assert all(1 <= len(part) <= 3 for part in parts)
        if path.suffix == ".flac":
            assert "cut.flac is damaged after" in str(results[end][1])
            assert len(parts) > 1  # what could be read
        elif path.name == "text.wav":
            assert isinstance(results[end][1], ValueError)
            assert not parts
        else:
            assert results[end][1] is None
            expected = classifier.predict(path)
            np.testing.assert_array_equal(np.concatenate([part.times for part in parts]), expected.times)
            assert_close(np.concatenate([part.scores for part in parts]), expected.scores)


def test_batches_are_filled_across_recordings(folder):
    engine = FakeClassifier(*NAMES)
    classifier = vk.Classifier(engine, batch_size=4)
    results = list(classifier.stream_many([folder / "short.wav"] * 7 + [folder / "long.wav"]))
    examples = sum(len(result) for _, result in results if result is not None)
    assert engine.batch_sizes == [4] * -(-examples // 4)


def test_long_recording_is_scored_while_it_is_read(classifier, folder, sounds):
    samples = np.tile(sounds["rumble"], 200)  # ten minutes
    soundfile.write(folder / "long.wav", samples, 16_000, "FLOAT")
    read = []
    results = classifier.stream_many([folder / "long.wav"], lambda _, seconds: read.append(seconds))
    _, first = next(results)
    assert len(first) == 3
    assert sum(read) < 100
    parts = [first, *(result for _, result in results if result is not None)]
    assert sum(read) == pytest.approx(600)
    assert_close(np.concatenate([part.scores for part in parts]), fake_embeddings(samples)[:, :3])


def test_parts_of_embeddings_are_joined_to_the_bit(folder):
    embedder = Embedder(FakeEngine(), batch_size=3)
    paths = [folder / "short.wav", folder / "long.wav"]
    parts = {path: [] for path in paths}
    for path, result in embedder.stream_many(paths):
        if result is not None:
            parts[path].append(result)
    for path, result in embedder.embed_many(paths):
        np.testing.assert_array_equal(np.concatenate([part.values for part in parts[path]]), result.values)
        np.testing.assert_array_equal(np.concatenate([part.times for part in parts[path]]), result.times)

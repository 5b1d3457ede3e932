import contextlib
import gc
import importlib.util
import io
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import tensorflow as tf
from click import ClickException
from click.testing import CliRunner
from tensorflow import keras

import vggish_keras as vk
from tests.conftest import make_network_narrow, quickest
from tests.published import assert_close
from vggish_keras import exported_options
from vggish_keras.exported_options import ExportedOptions
from vggish_keras.exporting import saved_model
from vggish_keras.exporting.signatures import ServedModel

EXPORT = Path(__file__).parent.parent / "export"
RNG = np.random.default_rng(0)


def wav(samples, sample_rate=16_000, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="WAV", subtype=subtype)
    return file.getvalue()


def noise(*shape):
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


@pytest.fixture(scope="module")
def module(exported):
    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def valid_module(tmp_path_factory):
    """A SavedModel with a narrow network, in which clips shorter than an example have none."""
    with pytest.MonkeyPatch.context() as patch:
        make_network_narrow(patch)
        model = vk.VGGish(None, padding="valid")
    return tf.saved_model.load(str(vk.export_saved_model(model, tmp_path_factory.mktemp("valid") / "vggish")))


def load_script(name):
    spec = importlib.util.spec_from_file_location(f"export_{name}", EXPORT / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture(scope="module")
def verify():
    return load_script("verify")


# === The contract ===


@pytest.mark.keras
def test_reusable(module, vggish):
    assert len(module.trainable_variables) == 18
    assert len(module.variables) == 20  # and the two of the PCA
    assert list(module.regularization_losses) == []
    batch = noise(3, 40_000)
    expected = vggish(batch)
    for training in (False, True):
        assert_close(module(batch, training=training), expected)
        assert_close(module(batch[0], training=training), expected[0])
    assert_close(module(batch), expected)


def test_only_the_needed_traces_are_saved(module):
    """Rank one and two, with and without training; and one per signature."""
    assert len(module.__call__.concrete_functions) == 4
    assert sorted(module.signatures) == ["examples", "padded", "serving_default", "wav"]


def test_signatures_are_named_and_batch_first(module):
    def described(specs):
        return {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in specs.items()}

    embedding = {"embedding": ("float32", [None, None, 128]), "quantized": ("uint8", [None, None, 128])}
    several = {**embedding, "num_examples": ("int32", [None]), "times": ("float32", [None, None])}
    waveform = {"waveform": ("float32", [None, None])}
    contract = {
        "serving_default": (waveform, embedding),
        "padded": ({**waveform, "num_samples": ("int32", [None])}, several),
        "wav": ({"audio": ("string", [None])}, several),
        "examples": ({"examples": ("float32", [None, 96, 64])}, {"embedding": ("float32", [None, 128])}),
    }
    for name, (inputs, outputs) in contract.items():
        signature = module.signatures[name]
        assert described(signature.structured_input_signature[1]) == inputs
        assert described(signature.structured_outputs) == outputs


def test_no_python_op(exported):
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    ops = {node.op for function in graph.library.function for node in function.node_def}
    assert "Conv2D" in ops
    assert not [op for op in ops if "Py" in op]


def test_options_survive_copying_and_loading(exported, tmp_path):
    assert exported_options.read_options(exported) == ExportedOptions(0.96, "short")
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    assert tf.saved_model.load(str(copy)).signatures
    assert exported_options.read_options(copy) == ExportedOptions(0.96, "short")


def test_size(exported):
    assert sum(file.stat().st_size for file in exported.rglob("*") if file.is_file()) < 300e6


# === Signatures ===


def test_padded_clips_equal_single_clips(module, vggish):
    batch = np.full((4, 40_000), np.nan, np.float32)
    lengths = [40_000, 16_000, 0, 15_599]
    for clip, length in zip(batch, lengths, strict=True):
        clip[:length] = noise(length)
    got = module.signatures["padded"](waveform=tf.constant(batch), num_samples=tf.constant(lengths))
    assert got["num_examples"].numpy().tolist() == [2, 1, 1, 1]
    np.testing.assert_array_equal(got["times"], np.float32([[0, 0.96], [0, 0], [0, 0], [0, 0]]))
    for clip, length, embedding, quantized in zip(batch, lengths, got["embedding"], got["quantized"], strict=True):
        single = vggish(clip[np.newaxis, :length])[0]
        assert_close(embedding[: len(single)], single)
        assert not np.any(embedding[len(single) :])
        assert not np.any(quantized[len(single) :])


def test_wav_clips_of_any_rate_and_channels(module, embedder):
    wavs = [
        wav(noise(60_000, 2), 44_100),
        wav(noise(20_000)),
        wav(noise(1_000, 2), 44_100),
        wav(noise(110_000, 3), 48_000),
        wav(noise(5_000), 4_000),
        wav(noise(200_000), 192_000),
    ]
    got = module.signatures["wav"](audio=tf.constant(wavs))
    assert got["num_examples"].numpy().tolist() == [1, 1, 1, 2, 1, 1]
    assert got["times"].numpy().tolist() == [[0, 0]] * 3 + [[0, np.float32(0.96)]] + [[0, 0]] * 2
    for content, embedding, count in zip(wavs, got["embedding"], got["num_examples"], strict=True):
        assert_close(embedding[:count], embedder.embed(io.BytesIO(content)).values)
        assert not np.any(embedding[count:])


def test_wav_clips_of_every_encoding(module, embedder):
    """In one batch, each clip as by itself."""
    samples = noise(40_000)
    subtypes = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW"]
    wavs = [wav(samples, subtype=subtype) for subtype in subtypes]
    got = module.signatures["wav"](audio=tf.constant(wavs))
    assert got["num_examples"].numpy().tolist() == [2] * len(wavs)
    for content, embedding in zip(wavs, got["embedding"], strict=True):
        assert_close(embedding, embedder.embed(io.BytesIO(content)).values)


def test_signatures_use_the_front_end_of_the_model(slim):
    """Even if it is not in the same nested model as the network."""
    waveform = keras.Input((None,))
    first = vk.LogMelExamples(hop_seconds=0.24, padding="same")(waveform)[:, 0]
    model = keras.Model(waveform, vk.VGGish(slim.v2, input="examples")(first))
    served = ServedModel(model)
    assert served.options == ExportedOptions(0.24, "same")
    embedder = vk.Embedder(slim.v2, hop_seconds=0.24, padding="same")
    clips = [noise(samples) for samples in (40_000, 15_601, 10, 0, 23_000)]
    lengths = [len(clip) for clip in clips]
    batch = np.stack([np.pad(clip, (0, 40_000 - len(clip)), constant_values=np.nan) for clip in clips])
    padded = tf.function(served.padded)(tf.constant(batch), tf.constant(lengths))
    not_empty = [clip for clip in clips if len(clip)]
    from_wav = tf.function(served.wav)(tf.constant([wav(clip, subtype="FLOAT") for clip in not_empty]))
    for answer, sources, counts in ((padded, clips, [8, 2, 1, 1, 3]), (from_wav, not_empty, [8, 2, 1, 3])):
        assert answer["num_examples"].numpy().tolist() == counts
        for clip, embedding, count in zip(sources, answer["embedding"], counts, strict=True):
            assert_close(embedding[:count], embedder.embed(clip, 16_000).values)
            assert not np.any(embedding[count:])
        for times, count in zip(answer["times"], counts, strict=True):
            expected = np.arange(8) * 0.24 * (np.arange(8) < count)
            np.testing.assert_array_equal(times, expected.astype(np.float32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="waveform must have samples, got none"):
        tf.function(served.padded)(tf.zeros((10**6, 0)), tf.zeros(10**6, tf.int32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="waveform must have samples, got none"):
        tf.function(served.serving_default)(tf.zeros((10**6, 0)))
    assert tf.function(served.padded)(tf.zeros((0, 0)), tf.zeros(0, tf.int32))["embedding"].shape == (0, 1, 128)


def test_nan_stays_in_its_clip(module):
    batch = noise(2, 20_000)
    batch[0, 5] = np.nan
    got = module.signatures["serving_default"](waveform=tf.constant(batch))["embedding"]
    assert_close(got[1], module(batch[1]))


def rejection(module, wavs):
    """The error message of a request to the signature `wav`."""
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        module.signatures["wav"](audio=tf.constant(wavs))
    return caught.value.message


ODD_RATES = range(191_601, 192_000, 2)


def test_odd_rates_need_little_memory(valid_module):
    """200 different rates, in clips with 20 samples and with 1,000."""
    valid_module.signatures["wav"](audio=tf.constant([wav(noise(20))]))
    for samples in (20, 1_000):
        wavs = tf.constant([wav(noise(samples), rate) for rate in ODD_RATES])
        before = psutil.Process().memory_info().rss
        assert not valid_module.signatures["wav"](audio=wavs)["num_examples"].numpy().any()
        assert psutil.Process().memory_info().rss - before < 50e6


def test_a_long_clip_among_many_short_ones_is_rejected(valid_module):
    long, short = wav(noise(10 * 16_000)), wav(noise(1))
    got = valid_module.signatures["wav"](audio=tf.constant([long] + [short] * 63))
    assert got["num_examples"].numpy().tolist() == [10] + [0] * 63
    assert got["embedding"].shape == (64, 10, 128)
    message = rejection(valid_module, [long] + [short] * 64)
    assert "embedding of this audio would have 650 rows for 10 examples, more than 64 times as many: send at" in message
    got = valid_module.signatures["wav"](audio=tf.constant([long] * 2 + [short] * 64))
    assert got["embedding"].shape == (66, 10, 128)


def test_memory_of_long_clips(exported_narrow):
    """Half an hour takes little more than its samples: the spectrogram is computed for a few examples at a time."""
    signature = tf.saved_model.load(str(exported_narrow)).signatures["wav"]
    signature(audio=tf.constant([wav(noise(70 * 15_600))]))
    content = tf.constant([wav(np.zeros(1_800 * 16_000))])
    with peak_memory() as peak:
        assert signature(audio=content)["num_examples"].numpy().tolist() == [1_874]
    assert peak() < 600e6


@contextlib.contextmanager
def peak_memory():
    """Yields a function that returns the largest growth of this process so far, in bytes."""
    process, stop = psutil.Process(), threading.Event()
    before = process.memory_info().rss
    seen = [before]

    def watch():
        while not stop.wait(0.01):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    yield lambda: max(seen) - before
    stop.set()
    thread.join()


EMPTY_WAVEFORMS = {"waveform": tf.zeros((2, 0)), "num_samples": tf.constant([0, 0])}


@pytest.mark.parametrize(
    ("signature", "inputs", "shape"),
    [
        ("serving_default", {"waveform": tf.zeros((0, 20_000))}, (0, 1, 128)),
        ("serving_default", {"waveform": tf.zeros((2, 0))}, (2, 0, 128)),
        ("padded", {"waveform": tf.zeros((0, 100)), "num_samples": tf.zeros([0], tf.int32)}, (0, 0, 128)),
        ("padded", EMPTY_WAVEFORMS, (2, 0, 128)),
        ("wav", {"audio": tf.constant([], tf.string)}, (0, 0, 128)),
        ("wav", {"audio": tf.constant([wav(np.zeros(15_599))])}, (1, 0, 128)),
        ("examples", {"examples": tf.zeros((0, 96, 64))}, (0, 128)),
    ],
)
def test_empty_inputs(valid_module, signature, inputs, shape):
    got = valid_module.signatures[signature](**inputs)
    assert got["embedding"].shape == shape
    if "num_examples" in got:
        assert got["num_examples"].numpy().tolist() == [0] * shape[0]
        assert got["times"].shape == shape[:2]


def padded(*num_samples):
    return {"waveform": tf.zeros((2, 20_000)), "num_samples": tf.constant(num_samples)}


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("padded", padded(-1, 5), "num_samples must lie between 0 and the length of the waveform"),
        ("padded", padded(5, 20_001), "num_samples must lie between 0 and the length of the waveform"),
        ("padded", padded(2**31 - 1, 5), "num_samples must lie between 0 and the length of the waveform"),
        ("padded", padded(5, -(2**31)), "num_samples must lie between 0 and the length of the waveform"),
        ("padded", padded(5), "num_samples must hold one length per clip"),
        (
            "wav",
            {"audio": tf.constant([wav(noise(100)), b"no WAV at all"])},
            r"audio\[1\] must be the bytes of a WAV file with 8-, .* or mu-law samples: it has no RIFF WAVE header",
        ),
        ("wav", {"audio": tf.constant([wav(np.zeros(0))])}, "it holds no samples"),
        (
            "wav",
            {"audio": tf.constant([wav(noise(100)), wav(np.array([0, np.nan]), subtype="FLOAT")])},
            r"\[audio\[1\] has samples that are not finite\]",
        ),
    ],
)
def test_invalid_inputs_raise(module, signature, inputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        module.signatures[signature](**inputs)


def test_calls_from_several_threads(module):
    batch = tf.constant(noise(2, 16_000))
    expected = module(batch)
    results = [None] * 8

    def work(index):
        results[index] = [module.signatures["serving_default"](waveform=batch)["embedding"] for _ in range(3)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        for embedding in result:
            assert_close(embedding, expected)


@pytest.mark.slow
def test_memory_does_not_grow(module):
    def calls(count):
        for _ in range(count):
            samples = int(RNG.integers(0, 20_000))
            waveform = tf.zeros((int(RNG.integers(0, 3)), samples))
            lengths = tf.fill([waveform.shape[0]], samples // 2)
            module.signatures["padded"](waveform=waveform, num_samples=lengths)
        gc.collect()
        return psutil.Process().memory_info().rss

    warm = calls(60)
    assert calls(150) - warm < 30e6


# === Wall clock ===


@pytest.mark.timing
def test_loading_is_quick(exported):
    assert quickest(lambda: tf.saved_model.load(str(exported)), times=3) < 3


@pytest.mark.timing
def test_padding_costs_nothing(module):
    """One long clip and seven short ones have 15 examples, not 64."""
    batch = tf.constant(noise(8, 8 * 15_600))
    lengths = tf.constant([8 * 15_600] + [15_600] * 7)
    everything = quickest(lambda: module.signatures["serving_default"](waveform=batch))
    existing = quickest(lambda: module.signatures["padded"](waveform=batch, num_samples=lengths))
    assert existing < 0.5 * everything


@pytest.mark.timing
def test_clips_of_unequal_length_cost_no_more_together(module):
    """A batch of a 30 s clip with 31 clips of 1 s, against both in requests of their own."""
    signature = module.signatures["wav"]
    long, short = tf.constant([wav(noise(30 * 44_100), 44_100)]), tf.constant([wav(noise(44_100), 44_100)] * 31)
    together = quickest(lambda: signature(audio=tf.concat([long, short], 0)))
    apart = quickest(lambda: (signature(audio=long), signature(audio=short)))
    assert together < 1.3 * apart


@pytest.mark.timing
def test_odd_rates_are_quick(module):
    """200 different rates, in clips without samples, with 20 samples and with 1,000, beyond the time of the network."""

    def without_samples():
        assert "it holds no samples" in rejection(module, [wav(np.zeros(0), rate) for rate in ODD_RATES])

    assert quickest(without_samples, times=1) < 1
    for samples, bound in ((20, 1), (1_000, 3)):
        odd, usual = (
            tf.constant([wav(noise(samples), rate) for rate in rates])
            for rates in (ODD_RATES, [16_000] * len(ODD_RATES))
        )
        seconds = [quickest(lambda wavs=wavs: module.signatures["wav"](audio=wavs), times=1) for wavs in (odd, usual)]
        assert seconds[0] - seconds[1] < bound


@pytest.mark.timing
def test_many_chunks_are_quick(module):
    """5 MB of empty chunks in one clip, and the maximum number of chunks in each of 2,000 clips."""

    def too_many():
        message = rejection(module, [b"RIFF\0\0\0\0WAVE" + bytes(5_000_000)])
        assert "it has more than 128 chunks" in message

    def in_many_clips():
        message = rejection(module, [b"RIFF\0\0\0\0WAVE" + b"JUNK\0\0\0\0" * 120] * 2_000)
        assert "it has no fmt chunk followed by a data chunk" in message

    assert quickest(too_many, times=1) < 1
    assert quickest(in_many_clips, times=1) < 1


# === Fine-tuning ===


def fine_tune(exported, trainable):
    """Fine-tunes a Keras 2 classifier: its losses, the model, and how many of the layer's variables changed."""
    import tensorflow_hub as hub
    import tf_keras

    layer = hub.KerasLayer(str(exported), trainable=trainable)
    model = tf_keras.Sequential(
        [tf_keras.Input((None,)), layer, tf_keras.layers.GlobalAveragePooling1D(), tf_keras.layers.Dense(1)]
    )
    model.compile(tf_keras.optimizers.legacy.Adam(1e-7 if trainable else 1e-3), "mse")
    before = [variable.numpy() for variable in layer.variables]
    losses = model.fit(noise(4, 16_000), np.arange(4.0), batch_size=4, epochs=3, verbose=0).history["loss"]
    changed = sum(np.any(old != new.numpy()) for old, new in zip(before, layer.variables, strict=True))
    return losses, model, changed


@pytest.mark.slow
def test_hub_keras_layer_can_be_fine_tuned_saved_and_loaded(exported, tmp_path):
    import tf_keras

    losses, model, changed = fine_tune(exported, trainable=True)
    assert losses[-1] < losses[0]
    assert changed == 18
    model.save(tmp_path / "classifier")
    batch = noise(2, 16_000)
    again = tf_keras.models.load_model(tmp_path / "classifier")
    assert_close(again.predict(batch, verbose=0), model.predict(batch, verbose=0))


@pytest.mark.slow
def test_hub_keras_layer_is_frozen_by_default(exported):
    losses, model, changed = fine_tune(exported, trainable=False)
    assert losses[-1] < losses[0]
    assert len(model.trainable_variables) == 2
    assert changed == 0


# === A classifier ===


@pytest.fixture(scope="module")
def classifier(vggish):
    """A classifier on top of the session's VGGish, built without lengths."""
    layers = keras.layers
    pooled = layers.Dropout(0.5)(layers.GlobalAveragePooling1D()(vggish.output))
    small = keras.initializers.RandomNormal(stddev=0.01, seed=0)  # larger weights saturate the softmax
    top = layers.Dense(3, activation="softmax", kernel_initializer=small, name="top")
    return keras.Model(vggish.input, top(pooled))


@pytest.fixture(scope="module")
def exported_classifier(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "1"
    return vk.export_saved_model(classifier, path, class_names=["rain", "Vögel", "wind, gale"])


@pytest.mark.keras
def test_a_classifier_returns_scores(exported_classifier, classifier, embedder):
    module = tf.saved_model.load(str(exported_classifier))
    batch = noise(2, 40_000)
    expected = classifier(batch)
    assert_close(module(batch), expected)
    assert_close(module(batch[0]), expected[0])
    assert not np.allclose(module(batch, training=True), expected)  # the dropout
    assert_close(module.signatures["serving_default"](waveform=tf.constant(batch))["scores"], expected)
    assert len(module.trainable_variables) == 20

    # Padding is ignored.
    clips = [batch[0], batch[1, :17_000]]
    expected = [classifier(clip[np.newaxis])[0] for clip in clips]
    padded = np.stack([np.pad(clip, (0, 50_000 - len(clip)), constant_values=np.nan) for clip in clips])
    outputs = module.signatures["padded"](waveform=tf.constant(padded), num_samples=tf.constant([40_000, 17_000]))
    assert_close(outputs["scores"], expected)
    outputs = module.signatures["wav"](audio=tf.constant([wav(clip) for clip in clips]))
    assert_close(outputs["scores"], expected, 1e-3)  # 16 bits
    assert_close(outputs["embedding"][0], classifier_embeddings(classifier, clips[0]), 1e-3)


def classifier_embeddings(classifier, clip):
    return keras.Model(classifier.input, classifier.get_layer("unfold").output)(clip[np.newaxis])[0]


def test_class_names_are_an_asset(exported_classifier):
    path = exported_classifier / saved_model.CLASS_NAMES
    assert path.read_text(encoding="utf-8") == "rain\nVögel\nwind, gale\n"
    asset = tf.saved_model.load(str(exported_classifier)).class_names.asset_path
    assert asset.numpy().decode() == str(path)


@pytest.mark.usefixtures("untraced")
@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_layer_that_ignores_padding_is_warned_of(vggish, tmp_path):
    outputs = keras.layers.GlobalMaxPooling1D()(vggish.output)
    model = keras.Model(vggish.input, keras.layers.Dense(3)(outputs), name="loudest")
    with pytest.warns(UserWarning, match="padding changes the scores of model 'loudest'") as warned:
        vk.export_saved_model(model, tmp_path / "1", class_names=list("abc"))
    assert Path(__file__).name in {Path(warning.filename).name for warning in warned}


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        (["a", "b"], r"expected 3 distinct class names, one per score of the model, got \['a', 'b'\]"),
        (["a", "b", "a"], "expected 3 distinct class names"),
        (["a", "b", "c\nd"], r"a single line of text, got 'c\\nd'"),
        (["a", "b", ""], "a single line of text, got ''"),
        (["a", "b", 3], "a single line of text, got 3"),
    ],
)
def test_invalid_class_names_raise(tmp_path, classifier, class_names, message):
    with pytest.raises(ValueError, match=message):
        vk.export_saved_model(classifier, tmp_path / "1", class_names=class_names)
    assert not list(tmp_path.iterdir())


# === Writing ===


@pytest.fixture
def untraced(monkeypatch):
    """Makes exporting quick: the SavedModel is an empty module."""
    monkeypatch.setattr(ServedModel, "reusable", lambda self: tf.train.Checkpoint())
    monkeypatch.setattr(ServedModel, "signatures", lambda self: None)


@pytest.mark.usefixtures("untraced")
def test_an_existing_path_is_kept_by_default(tmp_path, vggish, assert_durable):
    path = tmp_path / "vggish" / "1"
    assert vk.export_saved_model(vggish, path) == path
    assert_durable(path)
    (path / "mark").touch()
    with pytest.raises(FileExistsError, match="exists: choose a different path, or pass overwrite=True"):
        vk.export_saved_model(vggish, path)
    assert (path / "mark").exists()
    vk.export_saved_model(vggish, path, overwrite=True)
    assert_durable(path)
    assert not (path / "mark").exists()
    assert [file.name for file in path.parent.iterdir()] == ["1"]


@pytest.mark.usefixtures("untraced")
def test_an_interrupted_export_leaves_nothing(tmp_path, vggish, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_model, "_write_warmup", interrupt)
    with pytest.raises(KeyboardInterrupt):
        vk.export_saved_model(vggish, tmp_path / "1")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("untraced")
def test_an_interrupted_overwrite_restores_the_existing_path(tmp_path, vggish, monkeypatch):
    vk.export_saved_model(vggish, tmp_path / "1")
    (tmp_path / "1" / "mark").touch()
    rename = Path.rename

    def interrupted(self, target):
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vk.export_saved_model(vggish, tmp_path / "1", overwrite=True)
    assert (tmp_path / "1" / "mark").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["1"]


def test_invalid_arguments_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights found at"):
        vk.export_saved_model(tmp_path / "nothing.ckpt", tmp_path / "1")
    with pytest.raises(ValueError, match="contains 0 VGGish networks"):
        vk.export_saved_model(keras.Sequential([keras.layers.Dense(3)]), tmp_path / "1")
    assert not list(tmp_path.iterdir())


def test_warmup_requests_are_valid(exported, module):
    prediction_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    records = list(tf.data.TFRecordDataset(str(exported / saved_model.WARMUP_REQUESTS)).as_numpy_iterator())
    requests = [prediction_log.PredictionLog.FromString(record).predict_log.request for record in records]
    assert {request.model_spec.signature_name for request in requests} == set(module.signatures)
    for request in requests:
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
        answer = module.signatures[request.model_spec.signature_name](**inputs)
        assert answer["embedding"].numpy().size >= 128


@pytest.mark.usefixtures("untraced")
def test_missing_serving_api_is_warned_of(tmp_path, vggish, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.warns(UserWarning, match=r'no warm-up requests for TF Serving: .* pip install "vggish\[serving\]"'):
        vk.export_saved_model(vggish, tmp_path / "1")
    assert not (tmp_path / "1" / saved_model.WARMUP_REQUESTS).exists()


# === Scripts ===


@pytest.mark.slow
def test_export_script_writes_and_verifies(tmp_path, slim, pca_params, monkeypatch, capfd):
    """With every loader, each in a fresh process."""
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    np.savez(tmp_path / "pca.npz", **pca_params)
    options = ["--weights", slim.v2, "--pca", tmp_path / "pca.npz", "--output", tmp_path / "vggish"]
    options += ["--hop", 0.72, "--padding", "same"]
    result = CliRunner().invoke(load_script("saved_model").main, list(map(str, options)))
    table, errors = capfd.readouterr()
    assert result.exit_code == 0, result.output + table + errors
    assert (tmp_path / "vggish" / "1" / "saved_model.pb").exists()
    for loader in ("tf.saved_model.load", "hub.load", "TF1 Session", "hub.KerasLayer", "TFSMLayer"):
        rows = [line for line in table.splitlines() if line.startswith(f"│ {loader} ")]
        assert rows
        assert all("│ yes" in row for row in rows)


@pytest.mark.usefixtures("untraced")
def test_nothing_is_written_if_the_verification_fails(tmp_path, slim, monkeypatch):
    script = load_script("saved_model")
    failing = tmp_path / "verify.py"
    failing.write_text("raise SystemExit(1)")
    monkeypatch.setattr(script, "VERIFY", failing)
    options = ["--weights", slim.v2, "--postprocess", "none", "--output", str(tmp_path / "vggish")]
    result = CliRunner().invoke(script.main, options)
    assert result.exit_code == 1
    assert f"Error: nothing was written to {tmp_path / 'vggish' / '1'}: the verification failed" in result.output
    assert not list((tmp_path / "vggish").iterdir())


def test_verification_needs_the_options(verify, tmp_path):
    with pytest.raises(ClickException, match=r"has no assets\.extra/vggish\.json: export it with this version"):
        verify.read_options(tmp_path)
    (tmp_path / exported_options.OPTIONS_FILE).parent.mkdir()
    (tmp_path / exported_options.OPTIONS_FILE).write_text("{}")
    with pytest.raises(ClickException, match=r"vggish\.json does not hold the options of an exported model"):
        verify.read_options(tmp_path)


def test_verification_reports_mismatches(verify):
    good = {"a/embedding": np.ones((2, 3)), "a/num_examples": np.array([1, 2]), "a/quantized": np.full((40, 50), 7)}
    assert all(agrees for _, _, agrees in verify.compare(good, good))
    assert verify.compare({"a/embedding": np.ones((2, 3))}, good)[0] == ("a/num_examples", "missing", False)
    for name, value in (
        ("a/embedding", np.full((2, 3), 1.001)),
        ("a/embedding", np.ones((2, 4))),
        ("a/num_examples", np.array([1, 3])),
        ("a/quantized", np.full((40, 50), 8)),
        ("a/other", np.ones(1)),
    ):
        assert not all(agrees for _, _, agrees in verify.compare({**good, name: value}, good))

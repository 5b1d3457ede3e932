import json
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from click.testing import CliRunner
from tensorflow import keras

import vggish_keras as vk
from tests import published
from tests.conftest import make_network_narrow
from tests.published import assert_close
from tests.without_tensorflow import run_without_tensorflow
from vggish_keras import _litert_file, exported_options, params
from vggish_keras.cli import main
from vggish_keras.exported_options import ExportedOptions
from vggish_keras.exporting import litert

CLASSES = ["bird", "café", "car"]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def randomized(model):
    """Draws weights under which signals keep their size, unlike the initial ones, from layer to layer."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        shape = tuple(weight.shape)
        weight.assign(rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1])))
    return model


def narrow_vggish(*arguments, **options):
    with pytest.MonkeyPatch.context() as patch:
        make_network_narrow(patch)
        return randomized(vk.VGGish(None, *arguments, **options))


def after_vggish(vggish, *layers):
    outputs = vggish.output
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(vggish.input, outputs)


def run(path, waveform):
    return Interpreter(os.fspath(path)).get_signature_runner()(waveform=waveform)


def cosines(got, expected):
    products = np.sum(got * expected, axis=-1)
    return products / np.linalg.norm(got, axis=-1) / np.linalg.norm(expected, axis=-1)


@pytest.fixture(scope="module")
def model():
    return narrow_vggish()


@pytest.fixture(scope="module")
def classifier(model):
    layers = (keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, "softmax", name="top"))
    return after_vggish(model, *layers)


@pytest.fixture(scope="module", params=[None, "int8"], ids=["float32", "int8"])
def file(request, classifier, pca_params, tmp_path_factory):
    """A classifier with all outputs."""
    path = tmp_path_factory.mktemp("litert") / "x.tflite"
    options = {"class_names": CLASSES, "pca_params": pca_params}
    return vk.export_litert(classifier, path, request.param, "quantized", **options)


@pytest.fixture(scope="module")
def float32_file(model, tmp_path_factory):
    return vk.export_litert(model, tmp_path_factory.mktemp("litert") / "x.tflite")


# === Conversion by TensorFlow's own converter ===


@pytest.mark.keras
@pytest.mark.parametrize("classify", [False, True])
def test_tensorflow_converts_the_keras_model(classify):
    """With built-in operators only. Those of the front end, in float64, are TensorFlow's."""
    model = narrow_vggish("examples")
    if classify:
        model = after_vggish(model, keras.layers.Dense(5, "softmax"))
    interpreter = Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
    (details,) = interpreter.get_input_details()
    inputs = noise(3, 96, 64)
    interpreter.resize_tensor_input(details["index"], inputs.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], inputs)
    interpreter.invoke()
    assert_close(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), model(inputs))


# === The file ===


def test_contract(file):
    interpreter = Interpreter(os.fspath(file))
    outputs = ["embedding", "quantized", "scores"]
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["waveform"], "outputs": outputs}}
    runner = interpreter.get_signature_runner()
    described = {
        name: (details["dtype"], list(details["shape_signature"]))
        for name, details in {**runner.get_input_details(), **runner.get_output_details()}.items()
    }
    assert described == {
        "waveform": (np.float32, [-1, 15_600]),
        "embedding": (np.float32, [-1, 128]),
        "quantized": (np.uint8, [-1, 128]),
        "scores": (np.float32, [-1, 3]),
    }
    operators = {details["op_name"] for details in interpreter._get_ops_details()}
    assert not {name for name in operators if name.startswith("Flex") or name == "CUSTOM"}


def test_any_program_reads_the_metadata(file):
    with zipfile.ZipFile(file) as archive:
        metadata = json.loads(archive.read("vggish.json"))
    assert (metadata["hop_seconds"], metadata["padding"]) == (0.96, "short")
    assert (metadata["version"], metadata["class_names"]) == (vk.__version__, CLASSES)
    assert "16 kHz" in metadata["description"]


def test_only_the_kernels_of_the_network_are_quantized(model, classifier, tmp_path):
    interpreter = Interpreter(
        os.fspath(vk.export_litert(classifier, tmp_path / "x.tflite", "int8", class_names=CLASSES))
    )
    scales = [
        len(details["quantization_parameters"]["scales"])
        for details in interpreter.get_tensor_details()
        if details["dtype"] == np.int8
    ]
    assert sorted(scales) == sorted(model.get_layer(name).bias.shape[0] for name in params.SLIM_SCOPES)


# === What it computes ===


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_any_batch(file, model, classifier, pca_params, batch):
    waveform = noise(batch, 15_600)
    got = run(file, waveform)
    expected = np.asarray(model(waveform))[:, 0]
    if exported_options.read_description(file)["dtype"] == "float32":
        assert_close(got["embedding"], expected)
        assert_close(got["scores"], classifier(waveform))
    else:
        assert cosines(got["embedding"], expected).min() >= 0.999
    # What follows the embedding is float32 in any file.
    head = keras.Model(classifier.get_layer("top").input, classifier.output)
    assert_close(got["scores"], head(got["embedding"]))
    published.assert_same_bytes(got["quantized"], published.postprocess(got["embedding"], *pca_params.values()))


def test_pca(model, pca_params, tmp_path):
    got = run(vk.export_litert(model, tmp_path / "x.tflite", None, "pca", pca_params=pca_params), noise(2, 15_600))
    expected = (got["embedding"] - pca_params["pca_means"][:, 0]) @ pca_params["pca_eigen_vectors"].T
    assert_close(got["pca"], expected)


def test_log_mel(sounds, tmp_path):
    waveform = np.stack([sound[:15_600] for sound in sounds.values()])
    signature = [tf.TensorSpec([None, 15_600], tf.float32, "waveform")]
    function = tf.function(lambda waveform: {"examples": litert._log_mel(waveform)}, signature)
    tf.saved_model.save(tf.Module(), str(tmp_path / "x"), signatures=function)
    path = tmp_path / "x.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "x")).convert())
    expected = np.concatenate([published.log_mel_examples(clip) for clip in waveform])
    np.testing.assert_allclose(run(path, waveform)["examples"], expected, rtol=0, atol=3e-4)


def test_reduced_precision_is_exported_in_float32(tmp_path):
    path = vk.export_litert(narrow_vggish(dtype="mixed_bfloat16"), tmp_path / "x.tflite")
    assert_close(run(path, noise(2, 15_600))["embedding"], narrow_vggish()(noise(2, 15_600))[:, 0])


@pytest.fixture(scope="module")
def whole_files(vggish, tmp_path_factory):
    folder = tmp_path_factory.mktemp("litert")
    return {quantize: vk.export_litert(vggish, folder / f"{quantize}.tflite", quantize) for quantize in (None, "int8")}


@pytest.mark.slow
def test_whole_network(slim, whole_files):
    assert whole_files[None].stat().st_size <= 290e6
    assert whole_files["int8"].stat().st_size <= 75e6
    waveform = noise(3, 15_600)
    expected = published.run_slim(slim.v1, np.concatenate([published.log_mel_examples(clip) for clip in waveform]))
    assert_close(run(whole_files[None], waveform)["embedding"], expected)
    assert cosines(run(whole_files["int8"], waveform)["embedding"], expected).min() >= 0.999


@pytest.mark.slow
@pytest.mark.reference
def test_recordings(reference, embedder, whole_files):
    exact, quantized = (vk.Embedder(whole_files[quantize], batch_size=4) for quantize in (None, "int8"))
    for path in sorted((reference / "audio").iterdir()):
        waveform = vk.load_audio(path)[: 12 * 16_000]
        expected = embedder.embed(waveform, 16_000).values
        assert_close(exact.embed(waveform, 16_000).values, expected)
        assert cosines(quantized.embed(waveform, 16_000).values, expected).min() >= 0.999


# === Exporting ===


def test_existing_file_is_kept(model, tmp_path):
    path = tmp_path / "x.tflite"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        vk.export_litert(model, path)
    assert path.read_text() == "precious"
    assert vk.export_litert(model, path, overwrite=True) == path
    assert os.listdir(tmp_path) == ["x.tflite"]


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_nothing_is_written_if_the_file_differs_from_the_model(quantize, model, tmp_path, monkeypatch):
    path = tmp_path / "x.tflite"
    path.write_text("precious")
    # As the converter does with variables that it does not find
    zeros = {id(variable): tf.Variable(tf.zeros(variable.shape)) for variable in model.variables}
    monkeypatch.setattr(litert, "plain_variable", lambda variable: zeros[id(variable)])
    with pytest.raises(ValueError, match=r"x\.tflite was not written: its output embedding would differ"):
        vk.export_litert(model, path, quantize, overwrite=True)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["x.tflite"]


@pytest.mark.parametrize(
    ("name", "quantize", "message"),
    [("x.onnx", None, r"suffix \.tflite, got .*x\.onnx"), ("x.tflite", "int4", r"quantize must be one of .*'int4'")],
)
def test_invalid_arguments_raise(name, quantize, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        vk.export_litert(tmp_path / "unread.ckpt", tmp_path / name, quantize)


def test_missing_packages_are_named(float32_file, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_quantizer", None)
    vk.open_engine(float32_file)
    with pytest.raises(ImportError, match=r'pip install "vggish\[litert\]"'):
        vk.export_litert(model, tmp_path / "x.tflite")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(ImportError, match=r'tflite requires ai-edge-litert: pip install "vggish\[litert\]"'):
        vk.open_engine(float32_file)


# === Classifiers ===


@pytest.mark.keras
@pytest.mark.parametrize(
    "layers",
    [
        lambda: [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3)],
        lambda: [
            keras.layers.BatchNormalization(),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(3, "sigmoid"),
        ],
    ],
    ids=["per example", "per clip"],
)
def test_classifier(layers, tmp_path):
    model = after_vggish(narrow_vggish(), *layers())
    path = vk.export_litert(model, tmp_path / "x.tflite", class_names=CLASSES)
    waveform = noise(4, 15_600)
    assert_close(run(path, waveform)["scores"], np.reshape(model(waveform), (4, 3)))


@pytest.mark.keras
@pytest.mark.parametrize("lengths", [False, True])
def test_classifier_of_pooled_examples(lengths, tmp_path):
    model = after_vggish(narrow_vggish(pooling="avg", lengths=lengths), keras.layers.Dense(3))
    path = vk.export_litert(model, tmp_path / "x.tflite", class_names=CLASSES)
    waveform = noise(4, 15_600)
    inputs = {"waveform": waveform, "num_samples": np.full(4, 15_600, np.int32)} if lengths else waveform
    assert_close(run(path, waveform)["scores"], model(inputs))


@pytest.mark.keras
def test_classifier_may_need_a_single_example(tmp_path):
    """As the file computes one at a time."""
    waveform = keras.Input((15_600,))
    model = keras.Model(waveform, keras.layers.Dense(3)(keras.layers.Flatten()(narrow_vggish()(waveform))))
    path = vk.export_litert(model, tmp_path / "x.tflite", class_names=CLASSES)
    assert_close(run(path, noise(4, 15_600))["scores"], model(noise(4, 15_600)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (tf.math.bessel_i0e, "LiteRT cannot compute the classifier's layers: .* built-in operator for BesselI0e$"),
        (tf.math.lgamma, r"LiteRT cannot (run it|compute the classifier's layers)"),  # by version of TensorFlow
    ],
)
def test_classifier_without_operators_raises(function, message, model, tmp_path):
    layers = (keras.layers.Dense(3), keras.layers.Lambda(function))
    with pytest.raises(ValueError, match=message):
        vk.export_litert(after_vggish(model, *layers), tmp_path / "x.tflite", class_names=CLASSES)
    assert os.listdir(tmp_path) == []


# === The engine ===


def test_embedder(pca_params, tmp_path):
    model = narrow_vggish(hop_seconds=0.48, padding="same")
    path = vk.export_litert(model, tmp_path / "x.tflite", None, "quantized", pca_params=pca_params)
    assert exported_options.read_options(path) == ExportedOptions(0.48, "same")
    embedder = vk.Embedder(path, batch_size=4)
    options = embedder.options
    assert (options["hop_seconds"], options["padding"], options["dtype"]) == (0.48, "same", "float32")
    for samples in (100, 50_000):
        expected = np.asarray(model(noise(1, samples)))[0]
        assert_close(embedder.embed(noise(samples), 16_000).values, expected)
    # Segments are cut outside, so that any hop and padding can be chosen.
    chosen = vk.Embedder(path, hop_seconds=0.25, padding="short", postprocess="quantized").embed(noise(50_000), 16_000)
    assert chosen.values.dtype == np.uint8
    np.testing.assert_allclose(chosen.times, 0.25 * np.arange(9))


def test_engine(file, model):
    engine = vk.open_engine(file, "quantized")
    assert set(engine.outputs) >= {"embedding", "quantized"}
    assert engine.dtype == exported_options.read_description(file)["dtype"]
    assert engine(np.zeros((0, 15_600), np.float32), "quantized").shape == (0, 128)
    # Calls from several threads, with batches of several sizes
    batches = [noise(size, 15_600, seed=size) for size in (1, 3, 2, 3, 1, 2)]
    expected = [engine(batch, "embedding") for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        for got, alone in zip(threads.map(lambda batch: engine(batch, "embedding"), batches), expected, strict=True):
            assert_close(got, alone, 1e-6)


def test_each_result_depends_only_on_its_own_segment(file):
    engine = vk.open_engine(file)
    batch = noise(4, 15_600)
    louder = batch * np.array([[1], [30], [1], [0]], np.float32)
    np.testing.assert_array_equal(engine(louder, "embedding")[::2], engine(batch, "embedding")[::2])


def test_identity(file, model, pca_params, tmp_path):
    engine = vk.open_engine(file, "quantized")
    saved = vk.open_engine(vk.export_saved_model(model, tmp_path / "x", "quantized", pca_params=pca_params))
    for output in ("embedding", "quantized"):
        # Quantized weights are different weights.
        assert (engine.identity(output) == saved.identity(output)) == (engine.dtype == "float32")


def test_unsupported_options_raise(file):
    with pytest.raises(ValueError, match=r"does not compute 'pca', only embedding, quantized"):
        vk.Embedder(file, postprocess="pca")
    with pytest.raises(ValueError, match="keeps its own PCA parameters"):
        vk.Embedder(file, postprocess="quantized", pca_params="x.npz")
    with pytest.raises(ValueError, match="dtype of an exported model cannot be changed, got 'float16'"):
        vk.Embedder(file, dtype="float16")


def flipped(content):
    """The content with a different bit in the middle of the model."""
    content = bytearray(content)
    content[len(content) // 2] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "is not a LiteRT model"),
        (lambda content: b"text, not a model", "is not a LiteRT model"),
        (lambda content: content[:1_000], "was not written by export_litert, or is damaged or incomplete"),
        (lambda content: content[:-1], "was not written by export_litert, or is damaged or incomplete"),
        (lambda content: content[:8] + content[-900:], "is damaged"),
        (flipped, "is damaged: its model does not have the checksum it was written with"),
    ],
)
def test_damaged_file_raises(float32_file, tmp_path, damage, message):
    path = tmp_path / "x.tflite"
    path.write_bytes(damage(float32_file.read_bytes()))
    with pytest.raises(ValueError, match=rf"x\.tflite {message}"):
        vk.Embedder(path)


def test_no_damage_reaches_the_interpreter(float32_file, tmp_path):
    """The interpreter may crash the process."""
    content = float32_file.read_bytes()
    path = tmp_path / "x.tflite"
    rng = np.random.default_rng(0)
    ends = len(content) - 1 - rng.integers(0, 1_200, 100)  # the metadata
    for position in [*ends, *rng.integers(0, len(content), 100)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        if (size := verified_bytes(path)) is not None:
            assert damaged[:size] == content[:size]


def verified_bytes(path):
    """The size of the model in a file; None if the file is rejected."""
    try:
        description = exported_options.read_description(path)
        _litert_file.check_model(path, description)
    except ValueError:
        return None
    return description["model_bytes"]


def test_model_of_other_programs_raises(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    path = tmp_path / "x.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    with pytest.raises(ValueError, match=r"x\.tflite was not written by export_litert"):
        vk.Embedder(path)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no LiteRT model at .*x\.tflite"):
        vk.Embedder(tmp_path / "x.tflite")


# === The command line ===


def test_embed_runs_without_tensorflow(file, tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(40_000), 16_000)
    run_without_tensorflow("embed", "x.wav", "-o", "y.npz", "--weights", file, folder=tmp_path)
    with np.load(tmp_path / "y.npz") as embeddings:
        assert_close(embeddings["values"], vk.Embedder(file).embed(tmp_path / "x.wav").values, 1e-5)


@pytest.mark.usefixtures("narrow_network")
def test_export_command(exported_narrow, tmp_path):
    path = tmp_path / "x.tflite"
    arguments = ["export", str(path), "--weights", str(exported_narrow), "--hop", "0.48", "--quantize", "int8"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, f"{path}\n")
    assert exported_options.read_options(path).hop_seconds == 0.48
    assert vk.open_engine(path).dtype == "int8"

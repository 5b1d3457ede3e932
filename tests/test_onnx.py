import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from click.testing import CliRunner
from tensorflow import keras

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import vggish_keras as vk
from tests import published
from tests.conftest import make_network_narrow
from tests.published import assert_close
from tests.without_tensorflow import run_without_tensorflow
from vggish_keras import _onnx_file, exported_options
from vggish_keras.cli import main
from vggish_keras.exported_options import ExportedOptions
from vggish_keras.exporting import onnx as onnx_module

LENGTHS = (0, 1, 399, 15_599, 15_600, 15_601, 31_000, 63_120, 80_001)
CLASSES = ["bird", "café", "car"]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype(np.float32)


def run(path, waveform):
    session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"waveform": waveform}), strict=True))


def run_openvino(path, waveforms):
    openvino = pytest.importorskip("openvino")
    in_float32 = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors compute in bfloat16 by default
    compiled = openvino.Core().compile_model(os.fspath(path), "CPU", in_float32)
    for waveform in waveforms:
        outputs = compiled({"waveform": waveform})
        yield {output.any_name: values for output, values in outputs.items()}


@pytest.fixture(scope="module")
def narrow_models():
    """A narrow network with embeddings of order one, for each padding with a different hop."""
    with pytest.MonkeyPatch.context() as patch:
        make_network_narrow(patch)
        keras.utils.set_random_seed(0)
        models = [
            vk.VGGish(None, hop_seconds=hop, padding=padding)
            for padding, hop in (("short", 0.96), ("valid", 0.5), ("same", 0.07), ("same", 2.5))
        ]
    for model in models:
        model.set_weights([8 * weights for weights in model.get_weights()])
    return models


@pytest.fixture(scope="module")
def narrow_files(narrow_models, pca_params, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    return [
        vk.export_onnx(model, folder / f"{index}.onnx", "quantized", pca_params=pca_params)
        for index, model in enumerate(narrow_models)
    ]


@pytest.fixture(scope="module")
def narrow(narrow_models, narrow_files):
    return narrow_models[0], narrow_files[0]


# === The file ===


def test_contract(narrow):
    model = onnx.load(narrow[1])
    onnx.checker.check_model(model, full_check=True)
    described = {
        value.name: (
            value.type.tensor_type.elem_type,
            [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim],
        )
        for value in [*model.graph.input, *model.graph.output]
    }
    assert described == {
        "waveform": (onnx.TensorProto.FLOAT, ["batch", "samples"]),
        "embedding": (onnx.TensorProto.FLOAT, ["batch", "n", 128]),
        "quantized": (onnx.TensorProto.UINT8, ["batch", "n", 128]),
    }
    assert {node.domain for node in model.graph.node} == {""}
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert (model.producer_name, model.producer_version) == ("vggish", vk.__version__)
    assert "16 kHz" in model.doc_string


def test_holds_its_options_and_weights(narrow_models, narrow_files):
    for model, file in zip(narrow_models, narrow_files, strict=True):
        front_end = model.get_layer("log_mel")
        assert exported_options.read_options(file) == ExportedOptions(front_end.hop_seconds, front_end.padding)
        (description,) = _onnx_file.read_metadata(file).values()
        assert json.loads(description)["version"] == vk.__version__
        tensors = _onnx_file.read_tensors(file)
        for scope, layer in zip(vk_scopes(), model.get_weights()[::2], strict=False):
            np.testing.assert_array_equal(tensors[f"{scope}/weights"], layer)


def vk_scopes():
    from vggish_keras import params

    return params.SLIM_SCOPES.values()


def test_reader_agrees_with_onnx(narrow):
    model = onnx.load(narrow[1])
    expected = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    expected = {name: values for name, values in expected.items() if values.dtype == np.float32}
    got = _onnx_file.read_tensors(narrow[1])
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name].transpose(3, 2, 0, 1) if values.ndim == 4 else got[name], values)
    assert _onnx_file.read_metadata(narrow[1]) == {entry.key: entry.value for entry in model.metadata_props}


# === What it computes ===


def test_any_batch_and_length(narrow_models, narrow_files):
    for model, file in zip(narrow_models, narrow_files, strict=True):
        for samples in LENGTHS:
            for batch in (0, 2):
                waveform = noise(batch, samples)
                got = run(file, waveform)
                expected = np.asarray(model(waveform))
                assert got["embedding"].shape == got["quantized"].shape == expected.shape
                assert_close(got["embedding"], expected, 1e-5)


def test_openvino(narrow_models, narrow_files):
    waveforms = [noise(batch, samples) for samples in LENGTHS for batch in (0, 2)]
    for model, file in zip(narrow_models, narrow_files, strict=True):
        for waveform, got in zip(waveforms, run_openvino(file, waveforms), strict=True):
            expected = np.asarray(model(waveform))
            assert got["embedding"].shape == got["quantized"].shape == expected.shape
            assert_close(got["embedding"], expected)


def test_quantized_truncates(narrow, pca_params):
    waveform = noise(4, 80_000)
    got = run(narrow[1], waveform)
    components = (got["embedding"] - pca_params["pca_means"][:, 0]) @ pca_params["pca_eigen_vectors"].T
    exact = (np.clip(components, -2, 2) + 2) * 255 / 4
    off = got["quantized"] != np.floor(exact)
    assert len(np.unique(got["quantized"])) > 20
    assert np.all(np.abs(exact - np.round(exact))[off] < 1e-3)
    assert np.mean(off) < 0.02


def test_pca(narrow, pca_params, tmp_path):
    path = vk.export_onnx(narrow[0], tmp_path / "pca.onnx", "pca", pca_params=pca_params)
    waveform = noise(2, 40_000)
    got = run(path, waveform)
    assert list(got) == ["embedding", "pca"]
    expected = (got["embedding"] - pca_params["pca_means"][:, 0]) @ pca_params["pca_eigen_vectors"].T
    assert_close(got["pca"], expected, 1e-4)


@pytest.mark.reference
def test_log_mel_is_exact(reference, narrow, tmp_path):
    model = onnx.load(narrow[1])
    gathered = [node for node in model.graph.node if node.op_type == "Gather"][-1].output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(gathered, onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "with_examples.onnx")
    with np.load(reference / "log_mel.npz") as file:
        for name in [name for name in file if name.endswith("/waveform") and "short" not in name]:
            got = run(tmp_path / "with_examples.onnx", file[name][np.newaxis])[gathered][0]
            np.testing.assert_allclose(got, file[name.replace("waveform", "examples")], rtol=0, atol=2e-6)


@pytest.mark.slow
def test_whole_network(slim, vggish, sounds, tmp_path):
    path = vk.export_onnx(vggish, tmp_path / "vggish.onnx")
    assert path.stat().st_size < 290e6
    for name, waveform in sounds.items():
        expected = published.run_slim(slim.v1, published.log_mel_examples(waveform))
        got = run(path, waveform[np.newaxis])["embedding"][0][: len(expected)]
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max(), name
    embedder = vk.Embedder(path)
    assert embedder.options["weights"] == vk.Embedder(slim.v2).options["weights"]


@pytest.mark.slow
def test_verification_script(slim, vggish, pca_params, tmp_path):
    path = vk.export_onnx(vggish, tmp_path / "vggish.onnx", "quantized", pca_params=pca_params)
    np.savez(tmp_path / "pca.npz", **pca_params)
    script = Path(__file__).parent.parent / "export" / "verify.py"
    command = [sys.executable, script, path, "--pca", tmp_path / "pca.npz", "--weights"]
    result = subprocess.run([*command, slim.v2], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "ONNX Runtime" in result.stdout


# === Exporting ===


def test_existing_file_is_kept(narrow, tmp_path):
    path = tmp_path / "x.onnx"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        vk.export_onnx(narrow[0], path)
    assert path.read_text() == "precious"
    assert vk.export_onnx(narrow[0], path, overwrite=True) == path
    assert os.listdir(tmp_path) == ["x.onnx"]


def test_suffix_is_required(narrow, tmp_path):
    with pytest.raises(ValueError, match=r"suffix \.onnx, got .*model"):
        vk.export_onnx(narrow[0], tmp_path / "model")


def test_nothing_is_written_if_the_file_differs_from_the_model(narrow, tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    path.write_text("precious")
    network = onnx_module.add_network
    monkeypatch.setattr(
        onnx_module,
        "add_network",
        lambda graph, examples, total, weights: network(
            graph, examples, total, {name: 1.01 * values for name, values in weights.items()}
        ),
    )
    with pytest.raises(ValueError, match=r"x\.onnx was not written: its output embedding would differ"):
        vk.export_onnx(narrow[0], path, overwrite=True)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["x.onnx"]


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_missing_packages_are_named(name, narrow, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "vggish\[onnx\]"'):
        vk.export_onnx(narrow[0], tmp_path / "x.onnx")
    if name == "onnxruntime":
        with pytest.raises(ImportError, match=r'onnx requires onnxruntime: pip install "vggish\[onnx\]"'):
            vk.open_engine(narrow[1])
    else:
        vk.open_engine(narrow[1])


# === Classifiers ===


def after_vggish(vggish, *layers):
    x = vggish.output
    for layer in layers:
        x = layer(x)
    return keras.Model(vggish.input, x)


HEADS = {
    "per example": lambda: [keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(3, "softmax")],
    "per clip": lambda: [
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(3, "sigmoid"),
    ],
    "maximum": lambda: [
        keras.layers.LayerNormalization(),
        keras.layers.GlobalMaxPooling1D(),
        keras.layers.Dense(8, use_bias=False),
        keras.layers.Activation("gelu"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(3),
        keras.layers.Softmax(),
    ],
    "without weights": lambda: [
        keras.layers.LayerNormalization(center=False, scale=False),
        keras.layers.Dense(3),
        keras.layers.Softmax([-1]),
    ],
    "activations": lambda: [
        *(keras.layers.Dense(16, name) for name in ("elu", "selu", "tanh", "swish", "softplus", "softsign", "linear")),
        keras.layers.TimeDistributed(keras.layers.Dense(3)),
    ],
}


@pytest.mark.keras
@pytest.mark.parametrize("padding", ["short", "valid"])
@pytest.mark.parametrize("head", HEADS)
def test_classifier(head, padding, narrow_network, tmp_path):
    keras.utils.set_random_seed(0)
    vggish = vk.VGGish(None, padding=padding)
    model = after_vggish(vggish, *HEADS[head]())
    model.set_weights([weights + 0.05 * noise(*weights.shape) for weights in model.get_weights()])
    path = vk.export_onnx(model, tmp_path / "x.onnx", class_names=CLASSES)
    (description,) = _onnx_file.read_metadata(path).values()
    assert json.loads(description)["class_names"] == CLASSES
    for samples in (15_600, 50_000):
        expected = np.asarray(model(noise(2, samples)))
        got = run(path, noise(2, samples))
        assert_close(got["scores"], expected, 1e-5)
        assert got["embedding"].shape == (2, 1 + samples // 30_960 * 2, 128)


def test_classifiers_differ_in_what_identifies_them(narrow_network, tmp_path):
    """Two classifiers on the same VGGish; the embedding is that of the same weights."""
    model = after_vggish(vk.VGGish(None), keras.layers.Dense(3))
    engines = []
    for name in ("x.onnx", "y.onnx"):
        engines.append(vk.open_engine(vk.export_onnx(model, tmp_path / name, class_names=CLASSES)))
        model.layers[-1].set_weights([weights + 1 for weights in model.layers[-1].get_weights()])
    first, second = engines
    assert first.outputs == second.outputs == ("embedding", "scores")
    assert first.identity("embedding") == second.identity("embedding")
    assert first.identity("scores") != second.identity("scores")


@pytest.mark.keras
@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("lengths", [False, True])
def test_classifier_of_pooled_examples(pooling, lengths, narrow_network, tmp_path):
    keras.utils.set_random_seed(0)
    vggish = vk.VGGish(None, padding="valid", pooling=pooling, lengths=lengths)
    model = after_vggish(vggish, keras.layers.Dense(3))
    model.set_weights([weights + 0.05 * noise(*weights.shape) for weights in model.get_weights()])
    path = vk.export_onnx(model, tmp_path / "x.onnx", class_names=CLASSES)
    for samples in (0, 15_599, 50_000):
        waveform = noise(2, samples)
        lengthy = {"waveform": waveform, "num_samples": np.full(2, samples, np.int32)}
        expected = np.asarray(model(lengthy if lengths else waveform))
        assert_close(run(path, waveform)["scores"], expected, 1e-5)


@pytest.mark.keras
@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: keras.layers.GRU(3, name="memory"), r"layer 'memory' \(GRU\) cannot be exported to ONNX"),
        (lambda: keras.layers.ReLU(6, name="limited"), r"layer 'limited' cannot be exported to ONNX: a ReLU must"),
        (lambda: keras.layers.Softmax([1, 2], name="all"), r"layer 'all' cannot be exported to ONNX: a softmax must"),
        (lambda: keras.layers.Dense(3, tf.abs, name="odd"), "layer 'odd' has the activation 'abs'"),
        (lambda: keras.layers.TimeDistributed(keras.layers.Flatten()), "a layer of the classifier cannot be exported"),
    ],
)
def test_other_layers_are_named(layer, message, narrow_network, tmp_path):
    model = after_vggish(vk.VGGish(None), layer(), keras.layers.Dense(3))
    with pytest.raises(ValueError, match=message):
        vk.export_onnx(model, tmp_path / "x.onnx", class_names=CLASSES)
    assert os.listdir(tmp_path) == []


@pytest.mark.keras
@pytest.mark.skipif(os.environ.get("TF_USE_LEGACY_KERAS") == "1", reason="only Keras 3 has LoRA")
def test_lora_is_merged(narrow_network, tmp_path):
    model = vk.VGGish(None)
    layer = model.get_layer("fc1_1")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(0.01 * np.ones(layer.lora_kernel_b.shape))
    path = vk.export_onnx(model, tmp_path / "x.onnx")
    assert_close(run(path, noise(2, 20_000))["embedding"], model(noise(2, 20_000)), 1e-5)


# === The engine ===


@pytest.mark.parametrize("index", range(4))
def test_embedder(index, narrow_models, narrow_files):
    model, file = narrow_models[index], narrow_files[index]
    front_end = model.get_layer("log_mel")
    embedder = vk.Embedder(file)
    assert embedder.options["hop_seconds"] == front_end.hop_seconds
    assert embedder.options["padding"] == front_end.padding
    assert embedder.options["dtype"] == "float32"
    for samples in (100, 50_000):
        waveform = noise(samples)
        expected = np.asarray(model(waveform[np.newaxis]))[0]
        assert_close(embedder.embed(waveform, 16_000).values, expected, 1e-5)
    # Segments are cut outside, so that any hop and padding can be chosen.
    chosen = vk.Embedder(file, hop_seconds=0.25, padding="short", postprocess="quantized").embed(noise(50_000), 16_000)
    assert chosen.values.dtype == np.uint8
    np.testing.assert_allclose(chosen.times, 0.25 * np.arange(9))


def test_identity_is_that_of_the_weights(narrow, pca_params, tmp_path):
    model, file = narrow
    engine = vk.open_engine(file, "quantized")
    assert engine.outputs == ("embedding", "quantized")
    saved_model = vk.open_engine(vk.export_saved_model(model, tmp_path / "x", "quantized", pca_params=pca_params))
    for output in engine.outputs:
        assert engine.identity(output) == saved_model.identity(output)
    assert engine.identity("embedding") != engine.identity("quantized")


def test_missing_output_is_named(narrow):
    with pytest.raises(ValueError, match=r"does not compute 'pca', only embedding, quantized"):
        vk.Embedder(narrow[1], postprocess="pca")
    with pytest.raises(ValueError, match="keeps its own PCA parameters"):
        vk.Embedder(narrow[1], postprocess="quantized", pca_params="x.npz")
    with pytest.raises(ValueError, match="dtype of an exported model cannot be changed, got 'float16'"):
        vk.Embedder(narrow[1], dtype="float16")


def test_weights_can_be_loaded_back(narrow, narrow_network):
    loaded = vk.VGGish(narrow[1])
    for got, expected in zip(loaded.get_weights(), narrow[0].get_weights(), strict=True):
        np.testing.assert_array_equal(got, expected)


def flipped(content):
    """The content with a different bit in the last weights."""
    content = bytearray(content)
    content[content.rindex(b"vggish/fc2/biases") - 2_000] ^= 0x40
    return bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "damaged or incomplete"),
        (lambda content: b"text, not a model", "is not an ONNX model"),
        (lambda content: content[:1_000], "damaged or incomplete"),
        (lambda content: content[: len(content) // 2], "its end is missing"),
        (lambda content: content[:-1], "its end is missing"),
        (flipped, "is damaged: its weights are not those that were exported"),
    ],
)
def test_damaged_file_raises(narrow, tmp_path, damage, message):
    path = tmp_path / "x.onnx"
    path.write_bytes(damage(narrow[1].read_bytes()))
    with pytest.raises(ValueError, match=rf"x\.onnx.*{message}"):
        vk.Embedder(path)


def test_hostile_metadata_raises(tmp_path):
    """A number in place of a text would be a size in bytes."""
    number = b"\x08\xff\xff\xff\xff\x07"
    (tmp_path / "x.onnx").write_bytes(b"\x3a\x00" + b"\x72" + bytes([len(number)]) + number)
    with pytest.raises(
        ValueError, match=r"x\.onnx is not an ONNX model, or is damaged .*expected text, got 2147483647"
    ):
        vk.Embedder(tmp_path / "x.onnx")


def test_model_of_other_programs_raises(tmp_path):
    helper = onnx.helper
    info = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [info], [other])
    path = tmp_path / "x.onnx"
    onnx.save(helper.make_model(graph), path)
    with pytest.raises(ValueError, match=r"x\.onnx was not written by export_onnx"):
        vk.Embedder(path)
    model = helper.make_model(graph)
    helper.set_model_props(model, {"vggish": '{"hop_seconds": 0.96, "padding": "short"}'})
    onnx.save(model, path)
    with pytest.raises(ValueError, match=r"x\.onnx does not hold the options of an exported model: expected outputs"):
        vk.Embedder(path)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no ONNX model at .*x\.onnx"):
        vk.Embedder(tmp_path / "x.onnx")


# === The command line ===


@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "x.wav"],
        ["embed", "x.wav", "-o", "y.npz", "--postprocess", "quantized"],
        ["plot", "x.wav", "-o", "y.png"],
        ["fad", "x.wav", "--save", "y.npz", "--quiet"],
        ["explore", "x.wav", "-o", "y.html", "--quiet"],
        ["search", "x.wav", "saved.npz"],
    ],
)
def test_commands_run_without_tensorflow(arguments, narrow, tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(40_000), 16_000)
    if arguments[0] == "search":
        run_without_tensorflow("embed", "x.wav", "-o", "saved.npz", "--weights", narrow[1], folder=tmp_path)
    run_without_tensorflow(*arguments, "--weights", narrow[1], folder=tmp_path)
    if arguments[0] == "embed" and "-o" in arguments:
        with np.load(tmp_path / "y.npz") as file:
            values = file["values"]
        expected = vk.Embedder(narrow[1], postprocess="quantized").embed(tmp_path / "x.wav").values
        assert np.abs(values.astype(int) - expected).max() <= 1


def test_export_command(slim, narrow_network, exported_narrow, tmp_path):
    path = tmp_path / "x.onnx"
    arguments = ["export", str(path), "--weights", str(exported_narrow), "--hop", "0.48"]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert (result.exit_code, result.output) == (0, f"{path}\n")
    assert exported_options.read_options(path).hop_seconds == 0.48
    assert Path(path).stat().st_size < 10e6
    result = CliRunner().invoke(main, [*arguments, "--quantize", "int8"])
    assert result.exit_code == 2
    assert "--quantize requires a .tflite file" in result.output

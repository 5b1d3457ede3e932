"""Loads an exported model with every supported loader, each in a fresh process, and compares it with the model.

    python export/verify.py vggish/1 [--weights audioset] [--postprocess quantized] [--pca audioset]
    python export/verify.py vggish.onnx

A SavedModel is loaded in five ways; an .onnx file with ONNX Runtime, and with OpenVINO if it is installed.

Prints a table and exits with 1 on a mismatch. The expected values come from the Keras model and from `Embedder`, which
share neither the exported graph nor its resampler.
"""

import importlib.util
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray

from vggish_keras import exported_options
from vggish_keras.exported_options import ExportedOptions

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

Arrays = dict[str, NDArray[Any]]

_PROCESSES = 2
"""Processes at a time: each holds the model."""
RATES = (44_100, 16_000, 48_000, 8_000)
BOUND = 1e-4
"""Largest difference, relative to the largest value."""
INTEGER_OUTPUTS = ("num_examples", "quantized")
"""Outputs compared as integers; quantized values may differ by 1 on a truncation edge."""


# === Inputs and expected outputs ===


def make_inputs() -> Arrays:
    """The inputs of all signatures: four clips of different lengths and rates, in stereo and mono."""
    import soundfile

    rng = np.random.default_rng(0)
    waveform = rng.uniform(-0.5, 0.5, (4, 48_000)).astype(np.float32)
    num_samples = np.array([48_000, 20_000, 3_000, 31_000], np.int32)
    wavs = []
    for rate, seconds in zip(RATES, (2.5, 1.0, 0.3, 3.1), strict=True):
        file = io.BytesIO()
        soundfile.write(file, rng.uniform(-0.5, 0.5, (int(rate * seconds), 1 + rate % 3)), rate, format="WAV")
        wavs.append(file.getvalue())
    examples = rng.normal(-1, 2, (3, 96, 64)).astype(np.float32)
    return {"waveform": waveform, "num_samples": num_samples, "audio": np.array(wavs, object), "examples": examples}


def expected_outputs(
    inputs: Arrays, weights: str, options: ExportedOptions, postprocess: str | None, pca: str
) -> Arrays:
    """The expected outputs of each signature, by signature/output."""
    import vggish_keras as vk

    embedder = vk.Embedder(weights, options.hop_seconds, options.padding)
    layer = None if postprocess is None else vk.Postprocess(pca, quantize=postprocess == "quantized")
    clips = {
        "serving_default": [embedder.embed(clip, 16_000) for clip in inputs["waveform"]],
        "padded": [
            embedder.embed(clip[:length], 16_000)
            for clip, length in zip(inputs["waveform"], inputs["num_samples"], strict=True)
        ],
        "wav": [embedder.embed(io.BytesIO(wav)) for wav in inputs["audio"]],
    }
    outputs: Arrays = {"examples/embedding": np.asarray(vk.VGGish(weights, input="examples")(inputs["examples"]))}
    for signature, embeddings in clips.items():
        counts = np.array([len(times) for times, _ in embeddings], np.int32)
        longest = counts.max()
        embedding = np.stack([np.pad(values, ((0, longest - len(values)), (0, 0))) for _, values in embeddings])
        outputs[f"{signature}/embedding"] = embedding
        if signature != "serving_default":
            times = np.stack([np.pad(times, (0, longest - len(times))) for times, _ in embeddings])
            outputs[f"{signature}/times"] = times.astype(np.float32)
            outputs[f"{signature}/num_examples"] = counts
        if layer is not None:
            exists = np.arange(longest) < counts[:, np.newaxis]
            outputs[f"{signature}/{postprocess}"] = np.where(exists[..., np.newaxis], np.asarray(layer(embedding)), 0)
    outputs["call/embedding"] = outputs["serving_default/embedding"]
    return outputs


# === Loaders, each run in its own process ===

SIGNATURES = {
    "serving_default": ("waveform",),
    "padded": ("waveform", "num_samples"),
    "wav": ("audio",),
    "examples": ("examples",),
}


class _Blocked:
    """Makes the import of Keras and of this package fail."""

    NAMES = ("keras", "tf_keras", "vggish_keras")

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in self.NAMES:
            raise ImportError(f"loading the SavedModel must not import {name}")

    def install(self) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in self.NAMES]:
            del sys.modules[name]
        sys.meta_path.insert(0, self)


def plain_tensorflow(path: str, inputs: Arrays) -> Arrays:
    """tf.saved_model.load without any Keras."""
    import tensorflow as tf

    _Blocked().install()
    return _call_all(tf.saved_model.load(path), inputs)


def tensorflow_hub(path: str, inputs: Arrays) -> Arrays:
    """hub.load; Keras, which tensorflow_hub itself imports, is removed before the SavedModel is loaded."""
    import tensorflow_hub as hub

    _Blocked().install()
    return _call_all(hub.load(path), inputs)


def _call_all(module: Any, inputs: Arrays) -> Arrays:
    import tensorflow as tf

    waveform = tf.constant(inputs["waveform"])
    single = module(waveform[0], training=False)
    batch = module(waveform, training=True)
    outputs = {"call/embedding": np.concatenate([single[tf.newaxis], batch[1:]])}
    for signature, names in SIGNATURES.items():
        results = module.signatures[signature](**{name: tf.constant(inputs[name]) for name in names})
        outputs |= {f"{signature}/{name}": value.numpy() for name, value in results.items()}
    return outputs


def session(path: str, inputs: Arrays) -> Arrays:
    """TensorFlow 1's Session loader, which is how TF Serving runs it."""
    import tensorflow.compat.v1 as tf

    outputs: Arrays = {}
    with tf.Graph().as_default(), tf.Session() as loaded:
        signatures = tf.saved_model.load(loaded, ["serve"], path).signature_def
        for signature, names in SIGNATURES.items():
            definition = signatures[signature]
            fetches = {name: info.name for name, info in definition.outputs.items()}
            feeds = {definition.inputs[name].name: inputs[name] for name in names}
            results = loaded.run(fetches, feeds)
            outputs |= {f"{signature}/{name}": value for name, value in results.items()}
    return outputs


def hub_keras_layer(path: str, inputs: Arrays) -> Arrays:
    """hub.KerasLayer in a Keras 2 model."""
    import tensorflow_hub as hub
    import tf_keras

    layer = hub.KerasLayer(path, trainable=True)
    model = tf_keras.Sequential([tf_keras.Input((None,)), layer])
    if len(layer.trainable_weights) != 18:
        raise ValueError(f"hub.KerasLayer finds {len(layer.trainable_weights)} trainable weights, expected 18")
    return {"call/embedding": model.predict(inputs["waveform"], verbose=0)}


def tfsm_layer(path: str, inputs: Arrays) -> Arrays:
    """keras.layers.TFSMLayer in a Keras 3 model."""
    import keras

    waveform = keras.Input((None,))
    model = keras.Model(waveform, keras.layers.TFSMLayer(path, call_endpoint="serving_default")(waveform))
    results = model.predict(inputs["waveform"], verbose=0)
    return {f"serving_default/{name}": value for name, value in results.items()}


def onnx_runtime(path: str, inputs: Arrays) -> Arrays:
    """ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, {"waveform": inputs["waveform"]})
    return {f"serving_default/{name}": value for name, value in zip(names, results, strict=True)}


def openvino(path: str, inputs: Arrays) -> Arrays:
    """OpenVINO on the CPU, in float32 where its default is bfloat16."""
    from openvino import Core

    model = Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = model({"waveform": inputs["waveform"]})
    return {f"serving_default/{output.any_name}": value for output, value in results.items()}


LOADERS: dict[str, Callable[[str, Arrays], Arrays]] = {
    "tf.saved_model.load": plain_tensorflow,
    "hub.load": tensorflow_hub,
    "TF1 Session": session,
    "hub.KerasLayer": hub_keras_layer,
    "TFSMLayer": tfsm_layer,
}
ONNX_LOADERS = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}


def loaders_of(path: Path) -> list[str]:
    """The names of the loaders of an exported model."""
    if not exported_options.is_onnx(path):
        return list(LOADERS)
    return [name for name in ONNX_LOADERS if name != "OpenVINO" or importlib.util.find_spec("openvino")]


# === Main ===


class Comparison(NamedTuple):
    """An output compared with the expected one; the difference in words."""

    output: str
    difference: str
    agrees: bool


def compare(got: Arrays, expected: Arrays) -> list[Comparison]:
    """Compares all outputs of the signatures that were called."""
    called = {name.split("/")[0] for name in got}
    missing = [name for name in expected if name.split("/")[0] in called and name not in got]
    return [Comparison(name, "missing", False) for name in missing] + [
        _compare_output(name, value, expected.get(name)) for name, value in sorted(got.items())
    ]


def _compare_output(name: str, value: NDArray[Any], expected: NDArray[Any] | None) -> Comparison:
    if expected is None:
        return Comparison(name, "not expected", False)
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return Comparison(name, f"{value.dtype} {value.shape}", False)
    if name.endswith(INTEGER_OUTPUTS):
        difference = np.abs(value.astype(int) - expected)
        count, levels = np.count_nonzero(difference), 1 if name.endswith("quantized") else 0
        agrees = bool(difference.max() <= levels and count <= 0.001 * difference.size)
        return Comparison(name, f"{count} of {difference.size}", agrees)
    share = float(np.abs(value - expected).max() / (np.abs(expected).max() or 1))
    return Comparison(name, f"{share:.1e}", share <= BOUND)


def run_loader(loader: str, path: Path, folder: Path) -> Arrays:
    """Runs a loader in a fresh process, on the inputs in `folder`."""
    command = [sys.executable, __file__, str(path), "--loader", loader, "--folder", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError((result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1])
    with np.load(folder / f"{loader}.npz") as outputs:
        return dict(outputs)


def write_inputs(inputs: Arrays, folder: Path) -> None:
    """Writes inputs where `read_inputs` finds them; NumPy would need pickle for the strings."""
    _save(folder / "inputs.npz", {name: value for name, value in inputs.items() if name != "audio"})
    for index, wav in enumerate(inputs["audio"]):
        (folder / f"{index}.wav").write_bytes(wav)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    np.savez(path, **arrays)


def read_inputs(folder: Path) -> Arrays:
    """Reads what `write_inputs` wrote."""
    with np.load(folder / "inputs.npz") as file:
        inputs = dict(file)
    inputs["audio"] = np.array([(folder / f"{index}.wav").read_bytes() for index in range(len(RATES))], object)
    return inputs


def read_options(path: Path) -> ExportedOptions:
    """The exported hop and padding."""
    try:
        options = exported_options.read_options(path)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if options is None:
        file = exported_options.OPTIONS_FILE
        raise click.ClickException(f"{path} has no {file}: export it with this version of vggish")
    return options


def run_all(path: Path, inputs: Arrays, expected: Arrays) -> dict[str, list[Comparison]]:
    """Runs all loaders, and compares what each returns."""
    comparisons = {}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(_PROCESSES) as pool:
        write_inputs(inputs, Path(folder))
        running = {loader: pool.submit(run_loader, loader, path, Path(folder)) for loader in loaders_of(path)}
        for loader, outputs in running.items():
            try:
                comparisons[loader] = compare(outputs.result(), expected)
            except RuntimeError as error:
                comparisons[loader] = [Comparison(str(error), "", False)]
    return comparisons


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--weights", default="audioset", show_default=True, help="Weights the model was exported with.")
@click.option(
    "--postprocess",
    type=click.Choice(["quantized", "pca", "none"]),
    default="quantized",
    show_default=True,
    help="The output that was added.",
)
@click.option("--pca", default="audioset", show_default=True, help="Its PCA parameters.")
@click.option("--loader", type=click.Choice([*LOADERS, *ONNX_LOADERS]), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(path: Path, weights: str, postprocess: str, pca: str, loader: str | None, folder: Path | None) -> None:
    """Compare the SavedModel or ONNX file at PATH with the model that it was exported from."""
    if loader and folder:
        _save(folder / f"{loader}.npz", {**LOADERS, **ONNX_LOADERS}[loader](str(path), read_inputs(folder)))
        return
    from rich.console import Console
    from rich.table import Table

    options, inputs = read_options(path), make_inputs()
    expected = expected_outputs(inputs, weights, options, None if postprocess == "none" else postprocess, pca)
    comparisons = run_all(path, inputs, expected)
    table = Table("loader", "output", "difference", "agrees")
    for loader, rows in comparisons.items():
        for row in rows:
            table.add_row(loader, row.output, row.difference, "yes" if row.agrees else "NO")
    Console(width=100, highlight=False).print(table)
    if not all(row.agrees for rows in comparisons.values() for row in rows):
        raise click.ClickException(f"{path} differs from the model that it was exported from")


if __name__ == "__main__":
    main()

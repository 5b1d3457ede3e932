"""Loads an exported SavedModel in every way that users do, each in a fresh process, and compares it with the model.

    python export/verify.py vggish/1 [--weights audioset] [--hop 0.96] [--padding valid] [--postprocess audioset]

Prints a table and exits with 1 on a mismatch. The expected values come from the Keras model and from `Embedder`, which
share neither the SavedModel's graph nor its resampler.
"""

import io
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

Arrays = dict[str, Any]

_PROCESSES = 2
"""At a time: each holds the model."""
RATES = (44_100, 16_000, 48_000, 8_000)
BOUND = 1e-4
"""Of the largest value."""
NUMBERED = ("num_examples", "quantized")
"""Outputs of whole numbers; quantized ones may differ by a level on a truncation edge."""


# === What goes in, and what must come out ===


def make_inputs() -> Arrays:
    """Inputs of all signatures: four clips of different lengths and rates, in stereo and mono."""
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


def expected_outputs(inputs: Arrays, weights: str, hop: float, padding: str, postprocess: str | None) -> Arrays:
    """What each signature must give, by signature/output."""
    import vggish_keras as vk

    embedder = vk.Embedder(weights, hop, padding)
    quantize = None if postprocess is None else vk.Postprocess(postprocess)
    clips = {
        "serving_default": [embedder.embed(clip, 16_000).values for clip in inputs["waveform"]],
        "padded": [
            embedder.embed(clip[:length], 16_000).values
            for clip, length in zip(inputs["waveform"], inputs["num_samples"], strict=True)
        ],
        "wav": [embedder.embed(io.BytesIO(wav)).values for wav in inputs["audio"]],
    }
    outputs: Arrays = {"examples/embedding": np.asarray(vk.VGGish(weights, input="examples")(inputs["examples"]))}
    for signature, embeddings in clips.items():
        longest = max(len(values) for values in embeddings)
        numbers = np.array([len(values) for values in embeddings], np.int32)
        outputs[f"{signature}/embedding"] = np.stack(
            [np.pad(values, ((0, longest - len(values)), (0, 0))) for values in embeddings]
        )
        if signature != "serving_default":
            outputs[f"{signature}/num_examples"] = numbers
        if quantize is not None:
            exists = np.arange(longest) < numbers[:, np.newaxis]
            values = np.asarray(quantize(outputs[f"{signature}/embedding"]))
            outputs[f"{signature}/quantized"] = values * exists[..., np.newaxis].astype(np.uint8)
    outputs["call/embedding"] = outputs["serving_default/embedding"]
    return outputs


# === The ways to load it, each run in a process of its own ===

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
            raise ImportError(f"{name} must not be needed")

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
    """hub.load; tensorflow_hub itself imports Keras, which is taken away from it before the module is loaded."""
    import tensorflow_hub as hub

    _Blocked().install()
    return _call_all(hub.load(path), inputs)


def _call_all(module: Any, inputs: Arrays) -> Arrays:
    import tensorflow as tf

    waveform = tf.constant(inputs["waveform"])
    alone = module(waveform[0], training=False)
    batch = module(waveform, training=True)
    outputs = {"call/embedding": np.concatenate([alone[tf.newaxis], batch[1:]])}
    for signature, names in SIGNATURES.items():
        answer = module.signatures[signature](**{name: tf.constant(inputs[name]) for name in names})
        outputs |= {f"{signature}/{name}": value.numpy() for name, value in answer.items()}
    return outputs


def session(path: str, inputs: Arrays) -> Arrays:
    """TensorFlow 1's Session loader, which is how TF Serving runs it."""
    import tensorflow.compat.v1 as tf

    outputs = {}
    with tf.Graph().as_default(), tf.Session() as loaded:
        signatures = tf.saved_model.load(loaded, ["serve"], path).signature_def
        for signature, names in SIGNATURES.items():
            definition = signatures[signature]
            fetches = {name: info.name for name, info in definition.outputs.items()}
            feeds = {definition.inputs[name].name: inputs[name] for name in names}
            answer = loaded.run(fetches, feeds)
            outputs |= {f"{signature}/{name}": value for name, value in answer.items()}
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
    answer = model.predict(inputs["waveform"], verbose=0)
    return {f"serving_default/{name}": value for name, value in answer.items()}


WAYS = {
    "tf.saved_model.load": plain_tensorflow,
    "hub.load": tensorflow_hub,
    "TF1 Session": session,
    "hub.KerasLayer": hub_keras_layer,
    "TFSMLayer": tfsm_layer,
}


# === Main ===


def compare(got: Arrays, expected: Arrays) -> list[tuple[str, str, bool]]:
    """Rows of output, largest difference and whether it agrees, of every output of the signatures that were called."""
    called = {name.split("/")[0] for name in got}
    rows = [(name, "missing", False) for name in expected if name.split("/")[0] in called and name not in got]
    for name, value in sorted(got.items()):
        if name not in expected:
            rows.append((name, "not expected", False))
        elif value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            rows.append((name, f"{value.dtype} {value.shape}", False))
        elif name.endswith(NUMBERED):
            difference = np.abs(value.astype(int) - expected[name])
            levels = 1 if name.endswith("quantized") else 0
            agrees = difference.max() <= levels and np.count_nonzero(difference) <= 0.001 * difference.size
            rows.append((name, f"{np.count_nonzero(difference)} of {difference.size}", agrees))
        else:
            share = float(np.abs(value - expected[name]).max() / np.abs(expected[name]).max())
            rows.append((name, f"{share:.1e}", share <= BOUND))
    return rows


def run_way(way: str, path: Path, folder: Path) -> Arrays:
    """Runs one way in a fresh process."""
    command = [sys.executable, __file__, str(path), "--way", way, "--folder", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError((result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1])
    with np.load(folder / f"{way}.npz") as got:
        return dict(got)


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--weights", default="audioset", show_default=True, help="What the artefact was made of.")
@click.option("--hop", default=0.96, show_default=True, help="Its seconds from example to example.")
@click.option("--padding", type=click.Choice(["valid", "same"]), default="valid", show_default=True)
@click.option("--postprocess", default="audioset", show_default=True, help="Its PCA parameters, or none.")
@click.option("--way", type=click.Choice(list(WAYS)), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    path: Path, weights: str, hop: float, padding: str, postprocess: str, way: str | None, folder: Path | None
) -> None:
    """Compare the SavedModel at PATH with the model that it was made from."""
    if way and folder:
        with np.load(folder / "inputs.npz") as file:
            inputs = dict(file)
        inputs["audio"] = np.array([(folder / f"{index}.wav").read_bytes() for index in range(len(RATES))], object)
        np.savez(folder / f"{way}.npz", **WAYS[way](str(path), inputs))
        return
    from rich.console import Console
    from rich.table import Table

    inputs = make_inputs()
    expected = expected_outputs(inputs, weights, hop, padding, None if postprocess == "none" else postprocess)
    table = Table("way", "output", "difference", "agrees")
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.savez(folder / "inputs.npz", **{name: value for name, value in inputs.items() if name != "audio"})
        for index, wav in enumerate(inputs["audio"]):
            (folder / f"{index}.wav").write_bytes(wav)
        with ThreadPoolExecutor(_PROCESSES) as pool:
            running = {name: pool.submit(run_way, name, path, folder) for name in WAYS}
        for name, got in running.items():
            try:
                rows = compare(got.result(), expected)
            except RuntimeError as error:
                rows = [(str(error), "", False)]
            for row in rows:
                table.add_row(name, *row[:2], "yes" if row[2] else "NO")
            good = good and all(row[2] for row in rows)
    Console(width=100, highlight=False).print(table)
    if not good:
        raise click.ClickException(f"{path} does not give what the model gives")


if __name__ == "__main__":
    main()

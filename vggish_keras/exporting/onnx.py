"""ONNX: one file that ONNX Runtime, OpenVINO and other engines run without TensorFlow."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from vggish_keras import __version__, exported_options, params
from vggish_keras._atomic import atomic_write
from vggish_keras._errors import error_message
from vggish_keras._hashing import checksum
from vggish_keras._keras import keras
from vggish_keras._validation import PathLike, PcaParams, Postprocessing
from vggish_keras.exporting.onnx_graph import Graph, add_front_end, add_network, add_postprocess, ints, reshaped
from vggish_keras.exporting.onnx_head import add_head
from vggish_keras.exporting.preparation import check_target, take_apart
from vggish_keras.exporting.signatures import ServedModel

_DESCRIPTION = (
    "VGGish audio embeddings of waveforms at 16 kHz, mono, float32 in [-1, 1]: {seconds} s per example, "
    "{hop_seconds} s from one to the next, padding {padding}."
)
_BOUND = 1e-4
"""Largest difference from the model, relative to the largest value."""


def export_onnx(
    model: keras.Model | PathLike,
    path: PathLike,
    postprocess: Postprocessing | None = None,
    overwrite: bool = False,
    *,
    class_names: Sequence[str] | None = None,
    pca_params: PcaParams = params.AUDIOSET,
) -> Path:
    """Writes an ONNX file that needs neither TensorFlow nor this package.

    Its input `waveform` is float32 [batch, samples] of any size, and its output `embedding` float32 [batch, n, 128]. It
    consists of standard operators (opset 18), and carries its hop and padding. All examples of a call are computed at
    once, in about 2.5 MB each; `Embedder` runs it in bounded memory. The file appears at `path` once ONNX Runtime has
    computed what the model computes.

    Args:
        model: A Keras model that contains a VGGish, whose hop and padding are exported; or weights as `VGGish` accepts
            them, for a model with its defaults.
        path: The file to write, with the suffix .onnx.
        postprocess: "pca" or "quantized" adds an output of this name, computed as in `VGGish`; None adds none.
        overwrite: Whether to replace what exists at `path`.
        class_names: The classes of the model's scores, in their order, which adds the output `scores`. None exports
            only the embeddings.
        pca_params: The parameters of `postprocess`, as in `Postprocess`; "audioset" for those that the model has, or
            else for the published ones.

    Returns:
        `path`.

    Raises:
        ImportError: onnx or onnxruntime is not installed.
        FileExistsError: `path` exists, and `overwrite` is False; or it is a folder with files other than a SavedModel.
        FileNotFoundError: The weights or the PCA parameters do not exist, or the published ones are not available.
        ValueError: As in `export_saved_model`; a path without the suffix; a layer of the classifier that cannot be
            exported; or a file that does not compute what the model computes.

    Examples:
        >>> path = vk.export_onnx(model, "vggish.onnx")
        >>> vk.Embedder(path).embed("recording.wav").values.shape
        (3, 128)
    """
    _check_installed()
    path = check_target(path, overwrite)
    if not exported_options.is_onnx(path):
        raise ValueError(f"expected a path with the suffix .onnx, got {path}")
    served = take_apart(model, postprocess, class_names, pca_params)
    content = _build(served, class_names).SerializeToString()
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_bytes(content)
        _check_outputs(partial, path, served)
    return path


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise ImportError('exporting to ONNX requires onnx and onnxruntime: pip install "vggish[onnx]"') from error


def _build(served: ServedModel, class_names: Sequence[str] | None) -> Any:
    import onnx

    graph = Graph()
    examples, batch, count = add_front_end(graph, "waveform", served.options)
    weights = {name: np.asarray(variable, np.float32) for name, variable in served.network.items()}
    rows = add_network(graph, examples, graph("Mul", batch, count), weights)
    size = params.EMBEDDING_SIZE
    embedding = reshaped(graph, rows, batch, count, ints(size), name="embedding")
    outputs: dict[str, Any] = {embedding: (np.float32, ["batch", "n", size])}
    if served.postprocess is not None:
        eigen_vectors, means = (np.asarray(variable, np.float32) for variable in served.postprocess.weights)
        quantize = served.postprocess.quantize
        values = add_postprocess(graph, rows, eigen_vectors, means, quantize)
        name = reshaped(graph, values, batch, count, ints(size), name="quantized" if quantize else "pca")
        outputs[name] = (np.uint8 if quantize else np.float32, ["batch", "n", size])
    if served.head is not None:
        scores = graph("Identity", add_head(graph, embedding, count, served.head), name="scores")
        outputs[scores] = (np.float32, ["batch", *["n"] * (served.head.rank - 2), served.head.size])
    description = {"producer_name": "vggish", "producer_version": __version__, "doc_string": _describe(served)}
    model = graph.model({"waveform": (np.float32, ["batch", "samples"])}, outputs, **description)
    more = {} if class_names is None else {"class_names": list(class_names)}
    constants = checksum(constant.raw_data for constant in graph.constants)
    text = exported_options.format_options(served.options, outputs=served.identities(), constants=constants, **more)
    onnx.helper.set_model_props(model, {exported_options.ONNX_METADATA: text})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        if served.head is None:
            raise
        raise ValueError(
            f"a layer of the classifier cannot be exported to ONNX: {error_message(error)}; export_saved_model accepts "
            "any layer"
        ) from error
    return model


def _describe(served: ServedModel) -> str:
    return _DESCRIPTION.format(seconds=params.EXAMPLE_SAMPLES / params.SAMPLE_RATE, **served.options._asdict())


def _check_outputs(file: Path, path: Path, served: ServedModel) -> None:
    """Compares what ONNX Runtime computes with what the model computes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(os.fspath(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    rng = np.random.default_rng(0)
    sine = np.sin(np.arange(params.EXAMPLE_SAMPLES) * (2 * np.pi * 1_000 / params.SAMPLE_RATE))
    noise = [rng.uniform(-0.5, 0.5, shape) for shape in ((2, 40_000), (1, params.EXAMPLE_SAMPLES))]
    for values in (*noise, np.stack([sine, 0 * sine])):
        waveform = values.astype(np.float32)
        expected = served.serving_default(tf.constant(waveform))
        for name, computed in zip(names, session.run(names, {"waveform": waveform}), strict=True):
            if not _is_close(computed, expected[name].numpy()):
                raise ValueError(
                    f"{path} was not written: its output {name} would differ from the model's (the model must compute "
                    "in float32, and a classifier must apply its layers in a row)"
                )


def _is_close(values: Any, expected: Any) -> bool:
    if values.shape != expected.shape or values.dtype != expected.dtype:
        return False
    if values.dtype == np.uint8:  # truncated, so a small difference may be a level
        return int(np.abs(values.astype(int) - expected).max(initial=0)) <= 1
    scale = np.abs(expected).max(initial=0) or 1
    return bool(np.all(np.abs(values - expected) <= _BOUND * scale))

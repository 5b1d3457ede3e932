"""LiteRT: one file for phones, small computers and servers, also with 8-bit weights, which are computed in integers."""

import contextlib
import io
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from vggish_keras import __version__, exported_options, params
from vggish_keras._atomic import atomic_write
from vggish_keras._errors import error_message
from vggish_keras._hashing import checksum
from vggish_keras._keras import keras
from vggish_keras._litert_file import open_model, write_model
from vggish_keras._validation import PathLike, PcaParams, Postprocessing, check_choice
from vggish_keras.exporting.preparation import check_target, take_apart
from vggish_keras.exporting.signatures import ServedModel, plain_variable
from vggish_keras.mel import hann_window, mel_matrix

Quantization = Literal["int8"]
_DESCRIPTION = (
    "VGGish audio embeddings: waveform float32 [batch, 15600], 0.975 s at 16 kHz, mono, in [-1, 1] -> embedding "
    "float32 [batch, 128]"
)
_POOLED = ("conv1", "conv2", "conv3_2", "conv4_2")
_FLOAT32_BOUND = 1e-4
"""Largest difference from the model, relative to the largest value."""
_REDUCED_BOUND = 0.1
"""Largest distance from the model's embedding, relative to its length, with fewer than 32 bits in either."""


def export_litert(
    model: keras.Model | PathLike,
    path: PathLike,
    quantize: Quantization | None = None,
    postprocess: Postprocessing | None = None,
    overwrite: bool = False,
    *,
    class_names: Sequence[str] | None = None,
    pca_params: PcaParams = params.AUDIOSET,
) -> Path:
    """Writes a LiteRT (TensorFlow Lite) file that needs neither TensorFlow nor this package.

    Its signature `serving_default` takes `waveform`, float32 [batch, 15600] of any batch size, and returns `embedding`,
    float32 [batch, 128]. It consists of built-in operators. A ZIP archive with `vggish.json`, which holds the hop,
    the padding and the class names, is appended to the model. The file appears at `path` once LiteRT has computed what
    the model computes.

    Args:
        model: A Keras model that contains a VGGish, whose hop and padding are exported; or weights as `VGGish` accepts
            them, for a model with its defaults.
        path: The file to write, with the suffix .tflite.
        quantize: "int8" for 8-bit weights of the network, a quarter of the size, that are multiplied in integers; the
            log-mel front end, the post-processing and a classifier's layers stay float32. None for float32.
        postprocess: "pca" or "quantized" adds an output of this name, computed as in `VGGish`; None adds none.
        overwrite: Whether to replace what exists at `path`.
        class_names: The classes of the model's scores, in their order, which adds the output `scores`, float32
            [batch, classes]. None exports only the embeddings.
        pca_params: The parameters of `postprocess`, as in `Postprocess`; "audioset" for those that the model has, or
            else for the published ones.

    Returns:
        `path`.

    Raises:
        ImportError: ai-edge-litert or ai-edge-quantizer is not installed.
        FileExistsError: `path` exists, and `overwrite` is False; or it is a folder with files other than a SavedModel.
        FileNotFoundError: The weights or the PCA parameters do not exist, or the published ones are not available.
        ValueError: As in `export_saved_model`; a path without the suffix; a layer of the classifier that LiteRT's
            built-in operators cannot compute; or a file that does not compute what the model computes.

    Examples:
        >>> path = vk.export_litert(model, "vggish_int8.tflite", "int8")
        >>> vk.Embedder(path).embed("recording.wav").values.shape
        (3, 128)
    """
    check_choice("quantize", quantize, (None, *get_args(Quantization)))
    _check_installed()
    path = check_target(path, overwrite)
    if not exported_options.is_litert(path):
        raise ValueError(f"expected a path with the suffix .tflite, got {path}")
    served = take_apart(model, postprocess, class_names, pca_params, examples=1)
    content = _convert(served)
    if quantize:
        content = _quantize(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        write_model(partial, content, _metadata(served, content, quantize, class_names))
        _check_outputs(partial, path, served, quantize)
    return path


def _check_installed() -> None:
    try:
        import ai_edge_litert  # noqa: F401
        import ai_edge_quantizer  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'exporting to LiteRT requires ai-edge-litert and ai-edge-quantizer: pip install "vggish[litert]"'
        ) from error


def _metadata(
    served: ServedModel, content: bytes, quantize: Quantization | None, class_names: Sequence[str] | None
) -> dict[str, Any]:
    """What the file holds beside the model; each output has the digest that identifies its weights."""
    identities = served.identities()
    if quantize:
        identities = dict.fromkeys(identities, checksum([content]))
    return {
        "description": _DESCRIPTION,
        **served.options._asdict(),
        "version": __version__,
        "dtype": quantize or "float32",
        "outputs": identities,
        **({} if class_names is None else {"class_names": list(class_names)}),
    }


# === Conversion ===


def _convert(served: ServedModel) -> bytes:
    module = tf.Module()
    # Variables that the saved module does not list would be converted to zeros.
    module.listed = [plain_variable(variable) for variable in served.all_variables]
    waveform = tf.TensorSpec([None, params.EXAMPLE_SAMPLES], tf.float32, "waveform")
    function = tf.function(lambda waveform: _compute(served, waveform), [waveform])
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures={"serving_default": function})
        try:
            content: bytes = tf.lite.TFLiteConverter.from_saved_model(folder).convert()
        except Exception as error:  # the converter raises arbitrary exceptions
            if served.head is None:
                raise
            raise ValueError(f"LiteRT cannot compute the classifier's layers: {_reason(error)}") from error
    return content


def _reason(error: Exception) -> str:
    missing = re.search(r"\b(?:Select|Flex|Custom) ops: (.+)", str(error))
    return f"it has no built-in operator for {missing[1].strip()}" if missing else error_message(error)


def _compute(served: ServedModel, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
    with tf.name_scope("front_end"):
        examples = _log_mel(waveform)
    embedding = _embed(examples, served.network)
    outputs = served.outputs(embedding[:, tf.newaxis])
    return {name: values[:, 0] if values.shape.rank == 3 else values for name, values in outputs.items()}


def _log_mel(waveform: tf.Tensor) -> tf.Tensor:
    """float32 [batch, 15600] -> [batch, 96, 64], with shapes that are known but for the batch's.

    The spectrum is a product with a windowed Fourier matrix: LiteRT's FFT is closer to the published front end (log-mel
    within 7e-5 instead of 1.4e-4), but slower, and runs on one thread.
    """
    step = params.STFT_WINDOW_SAMPLES // 5
    blocks = tf.reshape(waveform, [-1, params.EXAMPLE_SAMPLES // step, step])
    hop = params.STFT_HOP_SAMPLES // step
    frames = tf.concat([blocks[:, first : first + hop * params.EXAMPLE_FRAMES : hop] for first in range(5)], axis=2)
    mel = mel_matrix()
    bins = np.flatnonzero(mel.any(axis=1))
    real, imaginary = (tf.matmul(frames, matrix) for matrix in _fourier_matrices(bins))
    magnitudes = tf.sqrt(real * real + imaginary * imaginary)
    return tf.math.log(tf.matmul(magnitudes, mel[bins].astype(np.float32)) + params.LOG_OFFSET)


def _fourier_matrices(bins: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """The windowed cosines and sines of frequencies, float32 [400, bins] each."""
    angles = 2 * np.pi * np.outer(np.arange(params.STFT_WINDOW_SAMPLES), bins) / params.FFT_SIZE
    return [(hann_window()[:, np.newaxis] * wave(angles)).astype(np.float32) for wave in (np.cos, np.sin)]


def _embed(examples: tf.Tensor, network: Mapping[str, Any]) -> tf.Tensor:
    """float32 [batch, 96, 64] -> [batch, 128], in float32 under any dtype policy of the model."""
    x = tf.reshape(examples, [-1, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS, 1])
    for layer, scope in params.SLIM_SCOPES.items():
        with tf.name_scope(layer):
            kernel, bias = (
                tf.cast(plain_variable(network[f"{scope}/{part}"]), tf.float32) for part in ("weights", "biases")
            )
            if kernel.shape.rank == 4:
                x = tf.nn.conv2d(x, kernel, 1, "SAME")
            else:
                x = tf.matmul(tf.reshape(x, [-1, kernel.shape[0]]), kernel)
            x = x + bias if layer == "fc2" else tf.nn.relu(x + bias)
            if layer in _POOLED:
                x = tf.nn.max_pool2d(x, 2, 2, "SAME")
    return x


def _quantize(content: bytes) -> bytes:
    """Quantizes the kernels of the network per channel, for products in integers; everything else stays float32."""
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.qtyping import TFLOperationName

    tool = quantizer.Quantizer(bytearray(content))
    for operator in (TFLOperationName.CONV_2D, TFLOperationName.FULLY_CONNECTED):
        tool.add_dynamic_config(rf"(.*/)?({'|'.join(params.SLIM_SCOPES)})/.*", operator, num_bits=8)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # a report
        return bytes(tool.quantize().quantized_model)


# === Check ===


def _check_outputs(file: Path, path: Path, served: ServedModel, quantize: Quantization | None) -> None:
    """Compares what LiteRT computes with what the model computes."""
    rng = np.random.default_rng(0)
    loudness = np.array([[0.5], [0.05], [0]])
    waveform = (loudness * rng.uniform(-1, 1, (3, params.EXAMPLE_SAMPLES))).astype(np.float32)
    try:
        outputs = open_model(file)(waveform=waveform)
    except Exception as error:  # the interpreter raises arbitrary exceptions
        raise ValueError(f"{path} was not written: LiteRT cannot run it: {error_message(error)}") from error
    # What follows the embedding is float32 in any file, so it is compared for the same embedding.
    expected = served.outputs(tf.constant(outputs["embedding"])[:, tf.newaxis])
    expected["embedding"] = served.serving_default(tf.constant(waveform))["embedding"]
    for name, values in outputs.items():
        reduced = name == "embedding" and (quantize is not None or served.dtype != "float32")
        if not _is_close(values, expected[name].numpy().reshape(values.shape), reduced):
            raise ValueError(f"{path} was not written: its output {name} would differ from the model's")


def _is_close(values: NDArray[Any], expected: NDArray[Any], reduced: bool) -> bool:
    differences = values.astype(np.float64) - expected
    if reduced:
        distances, norms = np.linalg.norm(differences, axis=1), np.linalg.norm(expected, axis=1)
        return bool(np.all(distances <= _REDUCED_BOUND * norms))
    # Bytes are truncated, so a small difference may be a level.
    bound = 1 if values.dtype == np.uint8 else _FLOAT32_BOUND * np.abs(expected).max()
    return bool(np.all(np.abs(differences) <= bound))

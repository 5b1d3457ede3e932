"""What every export does first: check its arguments, and take the model apart."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from vggish_keras import exported_options, params
from vggish_keras._keras import keras
from vggish_keras._validation import PathLike, PcaParams, Postprocessing, check_postprocess, is_published
from vggish_keras.class_names import check_class_names
from vggish_keras.exporting.classifier_head import ClassifierHead
from vggish_keras.exporting.signatures import ServedModel
from vggish_keras.model import VGGish
from vggish_keras.postprocess import Postprocess
from vggish_keras.weights import own_pca_params


def check_target(path: PathLike, overwrite: bool) -> Path:
    """Returns the path to write; a FileExistsError if it exists and may not be replaced."""
    path = Path(path)
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists: choose a different path, or pass overwrite=True (--overwrite)")
    return path


def take_apart(
    model: keras.Model | PathLike,
    postprocess: Postprocessing | None,
    class_names: Sequence[str] | None,
    pca_params: PcaParams,
) -> ServedModel:
    """Takes a model apart into what is exported.

    Args:
        model: A Keras model that contains a VGGish, or weights as `VGGish` accepts them.
        postprocess: None, "pca" or "quantized".
        class_names: The classes of the model's scores; None exports no scores.
        pca_params: The parameters of `postprocess`; "audioset" for the model's own, or else the published ones.

    Raises:
        FileNotFoundError: The weights or the PCA parameters do not exist, or the published ones are not available.
        ValueError: Invalid arguments, no VGGish in the model, or no classifier with these classes.
    """
    check_postprocess(postprocess, pca_params)
    if postprocess is not None and is_published(pca_params):
        pca_params = own_pca_params(model) or pca_params
    if not isinstance(model, keras.Model):
        own = exported_options.resolve_options(model)
        model = VGGish(model, hop_seconds=own.hop_seconds, padding=own.padding)
    head = None
    if class_names is not None:
        head = ClassifierHead(model)
        check_class_names(class_names, head.size)
    layer = None if postprocess is None else Postprocess(pca_params, quantize=postprocess == "quantized")
    if layer is not None:
        layer.build([None, None, params.EMBEDDING_SIZE])  # fetches the published parameters
    served = ServedModel(model, layer, head)
    if head is not None:
        _check_scores(model, served)
    return served


def _check_scores(model: keras.Model, served: ServedModel) -> None:
    """Raises a ValueError if layers before VGGish change the scores: only those after it are exported."""
    shape = next(tensor.shape for tensor in model.inputs if len(tensor.shape) > 1)
    samples = shape[1] or params.EXAMPLE_SAMPLES
    noise = tf.random.stateless_uniform([1, samples], [0, 0], -0.5, 0.5)
    waveform = noise if len(shape) == 2 else tf.repeat(noise[..., tf.newaxis], shape[2] or 1, axis=2)
    has_lengths = len(model.inputs) == 2
    inputs = {"waveform": waveform, "num_samples": tf.constant([samples])} if has_lengths else waveform
    expected = np.asarray(model(inputs, training=False), np.float32)
    scores = np.asarray(served.call(noise), np.float32)
    rounding = 1e-4 if served.dtype == "float32" else 1e-2
    if not np.allclose(scores, expected, rtol=0, atol=rounding * np.max(np.abs(expected)), equal_nan=True):
        raise ValueError(
            f"the scores of model {model.name!r} cannot be exported: layers before VGGish change them, and only those "
            "after VGGish are exported"
        )

"""What every export does first: check its arguments, and take the model apart."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from vggish_keras import exported_options, params
from vggish_keras._errors import counted, error_message, warn_caller
from vggish_keras._keras import keras
from vggish_keras._validation import PathLike, PcaParams, Postprocessing, check_postprocess, is_published
from vggish_keras.class_names import check_class_names
from vggish_keras.exporting.classifier_head import ClassifierHead
from vggish_keras.exporting.signatures import ServedModel
from vggish_keras.model import VGGish
from vggish_keras.postprocess import Postprocess
from vggish_keras.weights import check_finite, own_pca_params


def check_target(path: PathLike, overwrite: bool) -> Path:
    """Returns the path to write; a FileExistsError if it exists and may not be replaced."""
    path = Path(path)
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists: choose a different path, or pass overwrite=True (--overwrite)")
    if path.is_dir() and any(path.iterdir()) and not exported_options.is_saved_model(path):
        raise FileExistsError(f"{path} is a folder with files other than a SavedModel: choose a different path")
    return path


def take_apart(
    model: keras.Model | PathLike,
    postprocess: Postprocessing | None,
    class_names: Sequence[str] | None,
    pca_params: PcaParams,
    examples: int | None = None,
) -> ServedModel:
    """Takes a model apart into what is exported.

    Args:
        model: A Keras model that contains a VGGish, or weights as `VGGish` accepts them.
        postprocess: None, "pca" or "quantized".
        class_names: The classes of the model's scores; None exports no scores.
        pca_params: The parameters of `postprocess`; "audioset" for the model's own, or else the published ones.
        examples: The number of examples that is computed at a time; None for any.

    Raises:
        FileNotFoundError: The weights or the PCA parameters do not exist, or the published ones are not available.
        ValueError: Invalid arguments, no VGGish in the model, no classifier with these classes, or weights that are
            not finite.
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
    _check_finite(model, served)
    if head is not None:
        _check_number_of_examples(head, examples)
        _check_scores(model, served)
    return served


def _check_finite(model: keras.Model, served: ServedModel) -> None:
    """Raises a ValueError if weights of a model that diverged would be exported."""
    after_vggish = served.all_variables[len(served.network) :]
    values = {getattr(variable, "path", variable.name): variable for variable in after_vggish}
    numbers = {name: value for name, value in values.items() if tf.as_dtype(value.dtype).is_floating}
    check_finite(f"model {model.name!r}", {**served.network, **numbers})


def _check_number_of_examples(head: ClassifierHead, examples: int | None) -> None:
    """Raises a ValueError if the layers after VGGish need a different number of examples."""
    number = examples or _unusual_number(head)
    function = tf.function(head, input_signature=[tf.TensorSpec([None, examples, params.EMBEDDING_SIZE])])
    try:
        function(tf.zeros([1, number, params.EMBEDDING_SIZE]))
    except (ValueError, tf.errors.InvalidArgumentError) as error:
        expected = "any number of examples" if examples is None else "a single example"
        raise ValueError(
            f"model {head.name!r} cannot be exported: its layers after VGGish must accept {expected}, but fail for "
            f"{counted(number, 'example')}: {error_message(error)}"
        ) from error


def _unusual_number(head: ClassifierHead) -> int:
    """A number of examples that differs from the model's own even after pooling."""
    return 2 * (head.submodels[0].inputs[0].shape[1] or 1) + 1


def warn_if_padding_counts(served: ServedModel) -> None:
    """Warns if examples that do not exist change the scores, because a layer ignores the mask."""
    head = served.head
    if head is None:
        return
    number = _unusual_number(head)
    noise = tf.abs(tf.random.stateless_normal([4, number, params.EMBEDDING_SIZE], [0, 0]))
    embedding = tf.concat([noise, -noise], 0)
    signature = [tf.TensorSpec([None, None, params.EMBEDDING_SIZE]), tf.TensorSpec([None, None], tf.bool)]
    function = tf.function(head, input_signature=signature)
    exists = tf.ones(tf.shape(embedding)[:2], bool)
    alone = function(embedding, exists)
    padded = function(tf.pad(embedding, [[0, 0], [0, number], [0, 0]]), tf.pad(exists, [[0, 0], [0, number]]))
    if not _is_close(padded[:, : alone.shape[1]], alone, served.dtype):
        warn_caller(
            "in batches of clips of different lengths (signatures padded and wav), padding changes the scores of model "
            f"{head.name!r}, because a layer after VGGish ignores the mask (for GlobalMaxPooling1D, "
            'VGGish(pooling="max") is an alternative)'
        )


def _check_scores(model: keras.Model, served: ServedModel) -> None:
    """Raises a ValueError if layers before VGGish change the scores: only those after it are exported."""
    shape = next(tensor.shape for tensor in model.inputs if len(tensor.shape) > 1)
    samples = shape[1] or params.EXAMPLE_SAMPLES
    noise = tf.random.stateless_uniform([1, samples], [0, 0], -0.5, 0.5)
    waveform = noise if len(shape) == 2 else tf.repeat(noise[..., tf.newaxis], shape[2] or 1, axis=2)
    has_lengths = len(model.inputs) == 2
    inputs = {"waveform": waveform, "num_samples": tf.constant([samples])} if has_lengths else waveform
    if not _is_close(served.call(noise), model(inputs, training=False), served.dtype):
        raise ValueError(
            f"the scores of model {model.name!r} cannot be exported: layers before VGGish change them, and only those "
            "after VGGish are exported"
        )


def _is_close(scores: Any, expected: Any, dtype: str) -> bool:
    scores, expected = np.asarray(scores, np.float32), np.asarray(expected, np.float32)
    rounding = 1e-4 if dtype == "float32" else 1e-2
    return np.allclose(scores, expected, rtol=0, atol=rounding * np.max(np.abs(expected), initial=0), equal_nan=True)

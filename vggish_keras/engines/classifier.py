"""Classifiers built on VGGish: Keras models, and SavedModels written by `export_saved_model` with class names."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import vggish_keras.model  # noqa: F401  registers the layers
from vggish_keras import params
from vggish_keras._errors import error_message
from vggish_keras._fork import check_not_forked
from vggish_keras._hashing import hash_variables
from vggish_keras.class_names import CLASS_NAMES, check_class_names, read_class_names
from vggish_keras.engines.engine import Output
from vggish_keras.engines.saved_model import waveform_signature
from vggish_keras.network import nested_models, slim_variables
from vggish_keras.postprocess import Postprocess
from vggish_keras.weights import check_finite, read_keras_model, read_saved_model


class TensorFlowClassifier:
    """Runs a function that computes scores from waveforms.

    A segment is a waveform of one example under any hop and padding, so a model that pools examples returns the scores
    of this example.

    Args:
        path: What was loaded, for messages.
        compute: float32 [batch, 15600] -> [batch, classes] or [batch, 1, classes].
        variables: Name -> variable of the model.
        dtype: As in `Engine`.
        names: The class names; None names each class by its index.

    Raises:
        ValueError: The function does not compute such scores, or the weights are not finite.
    """

    outputs: tuple[Output, ...] = ("scores",)

    def __init__(
        self,
        path: Path,
        compute: Callable[[tf.Tensor], Any],
        variables: dict[str, Any],
        dtype: str,
        names: Sequence[str] | None = None,
    ) -> None:
        numbers = {name: variable for name, variable in variables.items() if tf.as_dtype(variable.dtype).is_floating}
        check_finite(path, numbers)
        self.dtype = dtype
        self._variables = list(variables.values())
        self._function = tf.function(compute, [tf.TensorSpec([None, params.EXAMPLE_SAMPLES], tf.float32)])
        classes = _count_classes(path, self._function)
        self.class_names = tuple(map(str, range(classes)) if names is None else names)
        try:
            check_class_names(self.class_names, classes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def identity(self, output: Output) -> str:
        return hash_variables(self._variables)

    def __call__(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        check_not_forked()
        scores: NDArray[Any] = self._function(segments).numpy()
        return scores.astype(np.float32, copy=False).reshape(len(segments), len(self.class_names))


def _count_classes(path: Path, function: Any) -> int:
    try:
        scores = function.get_concrete_function().structured_outputs
    except Exception as error:  # Keras raises arbitrary exceptions for inputs that do not fit
        raise ValueError(f"{path} does not accept waveforms [batch, samples]: {error_message(error)}") from error
    expected = [tf.TensorShape([None, None]), tf.TensorShape([None, 1, None])]
    if isinstance(scores, (tf.Tensor, tf.TensorSpec)) and scores.dtype.is_floating:
        shape = scores.shape
        if shape.rank and shape[-1] is not None and any(shape.is_compatible_with(fits) for fits in expected):
            return int(shape[-1])
    found = tf.nest.map_structure(lambda output: f"{output.dtype.name} {output.shape}", scores)
    raise ValueError(f"{path} computes {found}, expected scores [batch, classes] or [batch, n, classes]")


# === A Keras model ===


def keras_classifier(path: Path) -> TensorFlowClassifier:
    """Opens a Keras model (.keras) that contains VGGish and layers of its own.

    Raises:
        ValueError: It cannot be loaded, contains no VGGish or nothing else, does not compute scores from waveforms, or
            has weights that are not finite.
        RuntimeError: This process was forked after TensorFlow ran, and would hang.
    """
    check_not_forked()
    model = read_keras_model(path, "export_saved_model")
    try:
        slim_variables(model)
    except ValueError as error:
        raise ValueError(f"{path} is not a classifier built on VGGish: {error}") from error
    if not any(map(_is_own_layer, (layer for nested in nested_models(model) for layer in nested.layers))):
        raise ValueError(f"{path} is only VGGish, expected a classifier: a model with layers of its own after VGGish")
    has_lengths = len(getattr(model, "inputs", None) or ()) == 2

    def compute(segments: tf.Tensor) -> Any:
        lengths = tf.fill(tf.shape(segments)[:1], params.EXAMPLE_SAMPLES)
        inputs = {"waveform": segments, "num_samples": lengths} if has_lengths else segments
        return model(inputs, training=False)

    # The names of Keras 3 are not unique, but its paths are.
    variables = {getattr(variable, "path", variable.name): variable for variable in model.weights}
    return TensorFlowClassifier(path, compute, variables, "as saved")


def _is_own_layer(layer: Any) -> bool:
    is_vggish = layer.name in params.SLIM_SCOPES or isinstance(layer, Postprocess) or hasattr(layer, "layers")
    return bool(layer.weights) and not is_vggish


# === A SavedModel ===


def saved_model_classifier(path: Path) -> TensorFlowClassifier:
    """Opens a SavedModel that `export_saved_model` wrote with class names.

    Raises:
        ValueError: It is malformed, has no output `scores`, or has weights that are not finite.
        RuntimeError: This process was forked after TensorFlow ran, and would hang.
    """
    check_not_forked()
    loaded = read_saved_model(path)
    signature = waveform_signature(path, loaded.signatures)
    if "scores" not in signature.structured_outputs:
        found = ", ".join(sorted(signature.structured_outputs))
        raise ValueError(
            f"{path} has no output scores (outputs: {found}): export the classifier with class_names, which adds it"
        )

    def compute(segments: tf.Tensor) -> Any:
        # Not `signature` itself: its variables live as long as what was loaded.
        return loaded.signatures["serving_default"](waveform=segments)["scores"]

    variables = {variable.name: variable for variable in signature.variables}
    names_file = path / CLASS_NAMES
    names = read_class_names(names_file) if names_file.exists() else None
    return TensorFlowClassifier(path, compute, variables, "as exported", names)

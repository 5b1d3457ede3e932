"""The layers of a classifier that follow VGGish, callable on the embeddings of any number of examples."""

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from vggish_keras._keras import keras
from vggish_keras.network import UnfoldExamples, nested_models


class ClassifierHead:
    """The layers of a functional or sequential model that follow VGGish.

    Args:
        model: A Keras model with one output, built on VGGish's output or with VGGish as a layer, at any depth.

    Attributes:
        name: The model's name.
        size: Number of values in an output.
        rank: Number of axes of the output: 2 for a score per clip, 3 for a score per example.
        submodels: The layers as models, each applied to the output of the one before.

    Raises:
        ValueError: The model has more than one output, or depends on more than embeddings [batch, n, 128].
    """

    def __init__(self, model: keras.Model) -> None:
        try:
            submodels = _layers_after_vggish(model)
            (output,) = model.outputs
            fits = bool(submodels) and len(submodels[0].inputs[0].shape) == 3
        except (AttributeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                f"model {model.name!r} must be functional or sequential, with one output that depends on waveforms "
                "only through VGGish's embeddings"
            )
        self.name = model.name
        self.submodels = submodels
        self.size, self.rank = int(output.shape[-1]), len(output.shape)

    def __call__(self, embedding: tf.Tensor, mask: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """Applies the layers to embeddings [batch, n, 128]; examples where `mask` [batch, n] is False are ignored."""
        outputs = tf.identity(embedding)  # Keras attaches the mask to the tensor that it receives
        for submodel in self.submodels:
            has_example_axis = len(submodel.inputs[0].shape) == 3
            if len(submodel.inputs) == 2:
                exists = tf.ones(tf.shape(embedding)[:2], bool) if mask is None else mask
                outputs = submodel([outputs, exists], mask=[exists, None], training=training)
            else:
                outputs = submodel(outputs, mask=mask if has_example_axis else None, training=training)
        return outputs


def _layers_after_vggish(model: keras.Model) -> list[keras.Model]:
    """The layers after VGGish as submodels: first of the innermost model that contains it, then of the one around."""
    for layer in model.layers:
        if isinstance(layer, UnfoldExamples):
            return _submodel_from(layer.output, model)
        if any(isinstance(inner, UnfoldExamples) for nested in _nested(layer) for inner in nested.layers):
            inputs = (tensor for other in model.layers for tensor in tf.nest.flatten(other.input))
            outside = next((tensor for tensor in inputs if _source_layer(tensor) is layer), None)
            return _layers_after_vggish(layer) + ([] if outside is None else _submodel_from(outside, model))
    return []


def _nested(layer: keras.layers.Layer) -> Iterator[Any]:
    return nested_models(layer) if hasattr(layer, "layers") else iter(())


def _submodel_from(tensor: Any, model: keras.Model) -> list[keras.Model]:
    """The model from one of its tensors to its output; none if the tensor is the output."""
    if tensor is model.outputs[0]:
        return []
    try:
        submodel = keras.Model(tensor, model.outputs[0])
    except ValueError:
        # In Keras 3 the mask is a tensor of the graph; Keras 2 passes it separately.
        submodel = keras.Model([tensor, _mask(tensor)], model.outputs[0])
    submodel.supports_masking = True
    submodel.input_spec = None  # accepts any number of examples, although the model's may be fixed
    return [submodel]


# === Private attributes of Keras, seen in Keras 3.15 and tf_keras 2.21 ===


def _source_layer(tensor: Any) -> Any:
    return tensor._keras_history[0]


def _mask(tensor: Any) -> Any:
    return tensor._keras_mask

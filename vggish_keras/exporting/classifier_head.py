"""What a model computes from VGGish's embeddings, so that it can be given those of clips of any length."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from vggish_keras.network import UnfoldExamples, nested_models


class Head:
    """The layers of a functional or sequential model that follow VGGish.

    Args:
        model: A Keras model with one output, that is built on VGGish's output or has VGGish as a layer, at any depth.

    Attributes:
        size: Values of an output.

    Raises:
        ValueError: There is more than one output, or it needs more than embeddings [batch, n, 128].
    """

    def __init__(self, model: Any) -> None:
        try:
            parts = _parts(model)
            (output,) = model.outputs
            fits = bool(parts) and len(parts[0].inputs[0].shape) == 3
        except (AttributeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                f"model {model.name!r} must be functional or sequential, with one output that depends on waveforms "
                "through VGGish's embeddings alone"
            )
        self._parts = parts
        self.size = int(output.shape[-1])

    def __call__(self, embedding: tf.Tensor, mask: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        """Embeddings [batch, n, 128], of which those count that the mask [batch, n] has -> the model's output."""
        outputs = tf.identity(embedding)  # Keras leaves the mask on the tensor that it is given
        for part in self._parts:
            of_examples = len(part.inputs[0].shape) == 3
            if len(part.inputs) == 2:
                exists = tf.ones(tf.shape(embedding)[:2], bool) if mask is None else mask
                outputs = part([outputs, exists], training=training)
            else:
                outputs = part(outputs, mask=mask if of_examples else None, training=training)
        return outputs


def _parts(model: Any) -> list[Any]:
    """What follows VGGish in the innermost model that contains it, in the one around that, and so on."""
    for layer in model.layers:
        if isinstance(layer, UnfoldExamples):
            return _part(layer.output, model)
        if any(isinstance(inner, UnfoldExamples) for nested in _nested(layer) for inner in nested.layers):
            taken = (tensor for other in model.layers for tensor in tf.nest.flatten(other.input))
            outside = next((tensor for tensor in taken if tensor._keras_history[0] is layer), None)
            return _parts(layer) + ([] if outside is None else _part(outside, model))
    return []


def _nested(layer: Any) -> Any:
    return nested_models(layer) if hasattr(layer, "layers") else ()


def _part(embedding: Any, model: Any) -> list[Any]:
    """The model from a tensor in it to its output; none if that is the output."""
    if embedding is model.outputs[0]:
        return []
    try:
        part = keras.Model(embedding, model.outputs[0])
    except ValueError:
        # In Keras 3 the mask is a tensor of the graph; Keras 2 hands it on beside.
        part = keras.Model([embedding, embedding._keras_mask], model.outputs[0])
    part.supports_masking = True
    return [part]

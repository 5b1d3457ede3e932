"""The published network: log-mel examples to embeddings."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import tensorflow as tf
from tensorflow import keras

from vggish_keras import params


@keras.utils.register_keras_serializable(package="vggish_keras")
class FoldExamples(keras.layers.Layer):
    """Joins all leading axes to one batch of images: [.., 96, 64] -> [examples, 96, 64, 1].

    Where there is no example it makes one of zeros, because TensorFlow's convolution fails on none on processors;
    `UnfoldExamples` drops it.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        images = tf.reshape(inputs, [-1, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS, 1])
        missing = tf.cast(tf.equal(tf.shape(images)[0], 0), tf.int32)
        return tf.pad(images, [[0, missing], [0, 0], [0, 0], [0, 0]])

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """No image is masked: `UnfoldExamples` takes the mask up again."""
        return None


@keras.utils.register_keras_serializable(package="vggish_keras")
class UnfoldExamples(keras.layers.Layer):
    """Gives embeddings the leading axes that the examples had, and zeros where an example is masked.

    Call it on [embeddings, examples]: [examples, 128] and [.., 96, 64] -> [.., 128], with the examples' mask.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, inputs: list[tf.Tensor], mask: Any = None) -> tf.Tensor:
        embeddings, examples = inputs
        leading = tf.shape(examples)[:-2]
        embeddings = embeddings[: tf.reduce_prod(leading)]
        embeddings = tf.reshape(embeddings, tf.concat([leading, [params.EMBEDDING_SIZE]], 0))
        embeddings.set_shape([*examples.shape[:-2], params.EMBEDDING_SIZE])
        return zero_masked(embeddings, self.compute_mask(inputs, mask))

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return None if mask is None else mask[1]


def zero_masked(values: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """`values` [.., size] with zeros where `mask` [..] is False, even in place of NaN."""
    return values if mask is None else tf.where(mask[..., tf.newaxis], values, tf.zeros([], values.dtype))


def _initializer() -> Any:
    return keras.initializers.TruncatedNormal(stddev=params.INIT_STDDEV)


def embed_examples(examples: Any, dtype: Any = None, initialize: bool = True) -> Any:
    """Puts the network on top of examples, layer by layer.

    Args:
        examples: Keras tensor [.., 96, 64].
        dtype: Dtype policy of the layers up to the embedding, which is float32; None takes the global policy.
        initialize: False leaves zeros where values are loaded at once: drawing 72 million numbers takes 2 s.
            Then `restore_initializers` tells the layers what they would have started from.

    Returns:
        Keras tensor, float32 [.., 128]: the embedding before any activation.
    """
    initializer = _initializer if initialize else keras.initializers.Zeros
    images: dict[str, Any] = {"padding": "same", "data_format": "channels_last", "dtype": dtype}
    pool = partial(keras.layers.MaxPooling2D, pool_size=2, strides=2, **images)

    def conv(filters: int, name: str) -> Any:
        return keras.layers.Conv2D(
            filters, kernel_size=3, activation="relu", kernel_initializer=initializer(), name=name, **images
        )

    def dense(units: int, name: str, activation: str | None = "relu", dtype: Any = dtype) -> Any:
        return keras.layers.Dense(units, activation, kernel_initializer=initializer(), dtype=dtype, name=name)

    x = FoldExamples(dtype="float32", name="fold")(examples)
    x = conv(64, name="conv1")(x)
    x = pool(name="pool1")(x)
    x = conv(128, name="conv2")(x)
    x = pool(name="pool2")(x)
    x = conv(256, name="conv3_1")(x)
    x = conv(256, name="conv3_2")(x)
    x = pool(name="pool3")(x)
    x = conv(512, name="conv4_1")(x)
    x = conv(512, name="conv4_2")(x)
    x = pool(name="pool4")(x)
    x = keras.layers.Flatten(data_format="channels_last", dtype=dtype, name="flatten")(x)
    x = dense(4096, name="fc1_1")(x)
    x = dense(4096, name="fc1_2")(x)
    x = dense(params.EMBEDDING_SIZE, name="fc2", activation=None, dtype="float32")(x)
    return UnfoldExamples(name="unfold")([x, examples])


def restore_initializers(model: Any) -> None:
    """Lets clones of a model that was built with `initialize=False` start from random weights, not from zeros."""
    for layer in model.layers:
        if hasattr(layer, "kernel_initializer"):
            layer.kernel_initializer = _initializer()


# === The network in a model ===


def slim_variables(model: Any) -> dict[str, Any]:
    """TF-Slim's name of each of the network's 18 variables.

    Args:
        model: A Keras model with the layers conv1 .. fc2, at any depth.

    Returns:
        Name -> variable of the model.

    Raises:
        ValueError: The model contains no VGGish, or more than one.
    """
    layers = network_layers(model)
    variables = {}
    for layer, scope in params.SLIM_SCOPES.items():
        variables[f"{scope}/weights"] = layers[layer].kernel
        variables[f"{scope}/biases"] = layers[layer].bias
    return variables


def network_layers(model: Any) -> dict[str, Any]:
    """The layers by name of the VGGish, at any depth, in a Keras model.

    Raises:
        ValueError: The model contains no VGGish, or more than one.
    """
    found = list(_networks(model))
    if len(found) != 1:
        layers = ", ".join(params.SLIM_SCOPES)
        raise ValueError(f"model {model.name!r} contains {len(found)} VGGish, expected one (layers {layers})")
    return found[0]


def _networks(model: Any) -> Iterator[dict[str, Any]]:
    """The layers by name of each model, at any depth, whose own layers are VGGish's."""
    for nested in nested_models(model):
        layers = {layer.name: layer for layer in nested.layers}
        if layers.keys() >= params.SLIM_SCOPES.keys():
            yield layers


def nested_models(model: Any) -> Iterator[Any]:
    """A Keras model and the models in it, at any depth."""
    yield model
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from nested_models(layer)

"""The published network: log-mel examples to embeddings."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, get_args

import tensorflow as tf

from vggish_keras import params
from vggish_keras._keras import keras
from vggish_keras._validation import check_choice

Pooling = Literal["avg", "max"]


@keras.utils.register_keras_serializable(package="vggish_keras")
class FoldExamples(keras.layers.Layer):
    """Joins all leading axes into one batch of images: [..., 96, 64] -> [examples, 96, 64, 1].

    An empty batch becomes one image of zeros, because TensorFlow's convolution rejects empty batches on CPUs;
    `UnfoldExamples` drops it.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        examples = tf.reshape(inputs, [-1, params.EXAMPLE_FRAMES * params.NUM_MEL_BANDS])
        missing = tf.cast(tf.equal(tf.shape(examples)[0], 0), tf.int32)
        examples = tf.pad(examples, [[0, missing], [0, 0]])
        # Reshaped last: padding loses the static shape, without which LiteRT converts no convolution.
        return tf.reshape(examples, [-1, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS, 1])

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Returns None: images are not masked, and `UnfoldExamples` restores the mask."""
        return None


@keras.utils.register_keras_serializable(package="vggish_keras")
class UnfoldExamples(keras.layers.Layer):
    """Restores the leading axes of the examples, and replaces the embeddings of masked examples by zeros.

    Call it on [embeddings, examples]: [examples, 128] and [..., 96, 64] -> [..., 128], with the mask of the examples.
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
    """Returns `values` [..., size] with zeros where `mask` [...] is False, even in place of NaN."""
    return values if mask is None else tf.where(tf.expand_dims(mask, -1), values, tf.zeros([], values.dtype))


@keras.utils.register_keras_serializable(package="vggish_keras")
class PoolExamples(keras.layers.Layer):
    """Mean or maximum over the examples that are not masked: [batch, n, 128] -> [batch, 128].

    The result for a clip without examples is zero.
    """

    def __init__(self, pooling: Pooling, **kwargs: Any) -> None:
        check_choice("pooling", pooling, get_args(Pooling))
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.pooling = pooling

    def call(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor:
        exists = tf.ones(tf.shape(inputs)[:2], bool) if mask is None else mask
        if self.pooling == "max":
            lowest = tf.where(tf.expand_dims(exists, -1), inputs, inputs.dtype.min)
            return zero_masked(tf.reduce_max(lowest, axis=1), tf.reduce_any(exists, axis=1))
        total = tf.reduce_sum(zero_masked(inputs, exists), axis=1)
        count = tf.reduce_sum(tf.cast(exists, inputs.dtype), axis=1, keepdims=True)
        return tf.math.divide_no_nan(total, count)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Returns None: the masked axis is reduced."""
        return None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pooling": self.pooling}


def _initializer() -> Any:
    return keras.initializers.TruncatedNormal(stddev=params.INIT_STDDEV)


def embed_examples(examples: Any, dtype: Any = None, initialize: bool = True) -> Any:
    """Applies the network to examples, layer by layer.

    Args:
        examples: Keras tensor [..., 96, 64].
        dtype: Dtype policy of the layers up to the embedding, which is float32; None uses the global policy.
        initialize: False starts from zeros, for weights that are about to be loaded: random initialization takes 2 s.

    Returns:
        Keras tensor, float32 [..., 128]: the embedding before any activation.
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
    """Restores the random initializers of a model that was built with `initialize=False`, for its clones."""
    for layer in model.layers:
        if hasattr(layer, "kernel_initializer"):
            layer.kernel_initializer = _initializer()


# === The network in a model ===


def slim_variables(model: Any) -> dict[str, Any]:
    """Returns the network's 18 variables by their names in TF-Slim.

    Args:
        model: A Keras model with the layers conv1 to fc2, at any depth.

    Returns:
        Name -> variable of the model.

    Raises:
        ValueError: The model does not contain exactly one VGGish.
    """
    layers = network_layers(model)
    variables = {}
    for layer, scope in params.SLIM_SCOPES.items():
        variables[f"{scope}/weights"] = layers[layer].kernel
        variables[f"{scope}/biases"] = layers[layer].bias
    return variables


def unquantized_variables(model: Any) -> dict[str, Any]:
    """Returns the variables as `slim_variables` does; raises a ValueError if a layer is quantized."""
    variables = slim_variables(model)
    for layer, scope in params.SLIM_SCOPES.items():
        if not tf.as_dtype(variables[f"{scope}/weights"].dtype).is_floating:
            raise ValueError(f"layer {layer!r} is quantized: load, save or export the model before model.quantize")
    return variables


def network_layers(model: Any) -> dict[str, Any]:
    """Returns the layers of the VGGish in a Keras model, at any depth, by name.

    Raises:
        ValueError: The model does not contain exactly one VGGish.
    """
    found = list(_networks(model))
    if len(found) != 1:
        layers = ", ".join(params.SLIM_SCOPES)
        raise ValueError(
            f"model {model.name!r} contains {len(found)} VGGish networks, expected exactly one "
            f"(with the layers {layers})"
        )
    return found[0]


def _networks(model: Any) -> Iterator[dict[str, Any]]:
    """Yields the layers by name of each nested model that has all layers of VGGish."""
    for nested in nested_models(model):
        layers = {layer.name: layer for layer in nested.layers}
        if layers.keys() >= params.SLIM_SCOPES.keys():
            yield layers


def nested_models(model: Any) -> Iterator[Any]:
    """Yields a Keras model and the models in it, at any depth."""
    yield model
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from nested_models(layer)

"""The layers of a classifier that follow VGGish, as nodes of an ONNX graph."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vggish_keras.exporting.classifier_head import ClassifierHead
from vggish_keras.exporting.onnx_graph import Graph, ints

_LOWEST = np.float32(np.finfo(np.float32).min)


def add_head(graph: Graph, embedding: str, count: str, head: ClassifierHead) -> str:
    """Applies the layers of a classifier to embeddings.

    Args:
        graph: The graph.
        embedding: float32 [batch, n, 128].
        count: n, int64 [1].
        head: The layers: in a row, each with one input. What is left out here, such as a layer that is called twice,
            is found when the written file is compared with the model.

    Returns:
        The scores, float32 [batch, .., classes].

    Raises:
        ValueError: A layer or an activation that has no counterpart here.
    """
    for submodel in head.submodels:
        embedding = _add_layers(graph, embedding, count, submodel)
    return embedding


def _add_layers(graph: Graph, x: str, count: str, model: Any) -> str:
    for layer in model.layers:
        x = _add_layer(graph, x, count, layer)
    return x


def _add_layer(graph: Graph, x: str, count: str, layer: Any) -> str:
    if hasattr(layer, "layers"):
        return _add_layers(graph, x, count, layer)
    if type(layer).__name__ == "TimeDistributed":
        return _add_layer(graph, x, count, layer.layer)
    try:
        add = _LAYERS[type(layer).__name__]
    except KeyError:
        raise ValueError(
            f"layer {layer.name!r} ({type(layer).__name__}) cannot be exported to ONNX: supported layers are "
            f"{', '.join(sorted(_LAYERS))}, in a row; export_saved_model accepts any layer"
        ) from None
    return add(graph, x, count, layer)


def _constant(graph: Graph, variable: Any) -> str:
    return graph.constant(np.asarray(variable, np.float32))


def _identity(graph: Graph, x: str, count: str, layer: Any) -> str:
    return x


def _dense(graph: Graph, x: str, count: str, layer: Any) -> str:
    x = graph("MatMul", x, _constant(graph, layer.kernel))
    if layer.use_bias:
        x = graph("Add", x, _constant(graph, layer.bias))
    return _activation(graph, x, count, layer)


def _batch_normalization(graph: Graph, x: str, count: str, layer: Any) -> str:
    scale = 1 / np.sqrt(np.asarray(layer.moving_variance, np.float64) + layer.epsilon)
    if layer.scale:
        scale = scale * np.asarray(layer.gamma)
    offset = -np.asarray(layer.moving_mean) * scale
    if layer.center:
        offset = offset + np.asarray(layer.beta)
    return graph("Add", graph("Mul", x, scale.astype(np.float32)), offset.astype(np.float32))


def _layer_normalization(graph: Graph, x: str, count: str, layer: Any) -> str:
    if layer.scale:
        scale = _constant(graph, layer.gamma)
    else:
        scale = graph("Expand", np.float32(1), graph("Shape", x, start=-1))
    offset = [_constant(graph, layer.beta)] if layer.center else []
    return graph("LayerNormalization", x, scale, *offset, axis=-1, epsilon=float(layer.epsilon))


def _average(graph: Graph, x: str, count: str, layer: Any) -> str:
    """The mean over examples; without an example NaN, as in Keras."""
    total = graph("ReduceSum", x, ints(1), keepdims=int(getattr(layer, "keepdims", False)))
    return graph("Div", total, graph("Cast", count, to=1))


def _maximum(graph: Graph, x: str, count: str, layer: Any) -> str:
    """The maximum over examples; one more, of the lowest values, because engines cannot reduce an empty axis."""
    extended = graph("Pad", x, ints(0, 0, 0, 0, 1, 0), _LOWEST)
    return graph("ReduceMax", extended, ints(1), keepdims=int(getattr(layer, "keepdims", False)))


def _pool_examples(graph: Graph, x: str, count: str, layer: Any) -> str:
    if layer.pooling == "avg":
        return _average(graph, x, graph("Max", count, ints(1)), layer)
    return graph("Where", graph("Greater", count, ints(0)), _maximum(graph, x, count, layer), np.float32(0))


def _relu(graph: Graph, x: str, count: str, layer: Any) -> str:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise ValueError(f"layer {layer.name!r} cannot be exported to ONNX: a ReLU must have its default arguments")
    return graph("Relu", x)


def _softmax(graph: Graph, x: str, count: str, layer: Any) -> str:
    axes = np.ravel(layer.axis)
    if len(axes) != 1:
        raise ValueError(f"layer {layer.name!r} cannot be exported to ONNX: a softmax must have one axis")
    return graph("Softmax", x, axis=int(axes[0]))


def _flatten(graph: Graph, x: str, count: str, layer: Any) -> str:
    return graph("Flatten", x, axis=1)


_LAYERS: dict[str, Callable[[Graph, str, str, Any], str]] = {
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "InputLayer"), _identity),
    "Activation": lambda *arguments: _activation(*arguments),
    "BatchNormalization": _batch_normalization,
    "Dense": _dense,
    "Flatten": _flatten,
    "GlobalAveragePooling1D": _average,
    "GlobalMaxPooling1D": _maximum,
    "LayerNormalization": _layer_normalization,
    "PoolExamples": _pool_examples,
    "ReLU": _relu,
    "Softmax": _softmax,
}


# === Activations ===


def _activation(graph: Graph, x: str, count: str, layer: Any) -> str:
    name = getattr(layer.activation, "__name__", str(layer.activation))
    if name == "linear":
        return x
    if name in ("silu", "swish"):
        return graph("Mul", x, graph("Sigmoid", x))
    if name == "gelu":
        phi = graph("Add", graph("Erf", graph("Mul", x, np.float32(math.sqrt(0.5)))), np.float32(1))
        return graph("Mul", graph("Mul", x, phi), np.float32(0.5))
    if name not in _ACTIVATIONS:
        supported = ", ".join(sorted([*_ACTIVATIONS, "gelu", "linear", "silu"]))
        raise ValueError(
            f"layer {layer.name!r} has the activation {name!r}, which cannot be exported to ONNX: supported "
            f"activations are {supported}"
        )
    return graph(_ACTIVATIONS[name], x)


_ACTIVATIONS = {
    "elu": "Elu",
    "exponential": "Exp",
    "log_softmax": "LogSoftmax",
    "relu": "Relu",
    "selu": "Selu",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "tanh": "Tanh",
}
"""Keras's name -> operator, whose defaults are Keras's."""

"""The graph of an ONNX model, written node by node: waveforms to embeddings.

The spectrogram is a product with a windowed Fourier matrix, in float64 like the published front end. That is faster
than ONNX Runtime's STFT, and OpenVINO accepts STFT only for waveforms of a fixed length.

Sizes that are known only at run time, such as the number of examples, are computed by nodes, as int64 [1].
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_keras import params
from vggish_keras._onnx_file import KERNEL_AXES
from vggish_keras.exported_options import ExportedOptions
from vggish_keras.framing import Padding, hop_to_samples
from vggish_keras.mel import hann_window, mel_matrix

OPSET = 18
_IR_VERSION = 8
"""The versions of ONNX 1.13, which engines of 2023 and later run."""
_BLOCK = math.gcd(params.STFT_WINDOW_SAMPLES, params.STFT_HOP_SAMPLES)
"""Samples; windows and hops consist of whole blocks."""
_POOLED = ("conv1", "conv2", "conv3_2", "conv4_2")


class Graph:
    """Collects nodes. The functions that add to a graph accept and return the names of values."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, name: str = "") -> str:
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def __call__(self, operator: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """Adds a node with one output, which has the node's name; an input that is not a name is a constant."""
        from onnx import helper

        name = name or f"{operator}_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], name, **attributes))
        return name

    def model(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], **attributes: Any) -> Any:
        """Returns the model; inputs and outputs are given as name -> (dtype, shape)."""
        from onnx import helper

        def described(values: Mapping[str, Any]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
                for name, (dtype, shape) in values.items()
            ]

        graph = helper.make_graph(self.nodes, "vggish", described(inputs), described(outputs), self.constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION, **attributes
        )


def ints(*values: int) -> NDArray[np.int64]:
    """Returns int64 [len(values)], a size or a shape."""
    return np.array(values, np.int64)


def joined(graph: Graph, *sizes: Any) -> str:
    """Joins sizes to a shape."""
    return graph("Concat", *sizes, axis=0)


def reshaped(graph: Graph, value: str, *sizes: Any, name: str = "") -> str:
    """Reshapes a value, which may be empty."""
    return graph("Reshape", value, joined(graph, *sizes), name=name, allowzero=1)


def _range(graph: Graph, size: str, step: int) -> str:
    """The first multiples of `step`, as a column: int64 [size, 1]."""
    numbers = graph("Range", np.int64(0), graph("Squeeze", size), np.int64(1))
    return graph("Unsqueeze", graph("Mul", numbers, np.int64(step)), ints(1))


# === Front end ===


def add_front_end(graph: Graph, waveform: str, options: ExportedOptions) -> tuple[str, str, str]:
    """Cuts waveforms into log-mel examples.

    Args:
        graph: The graph.
        waveform: float32 [batch, samples].
        options: Hop and padding.

    Returns:
        The examples, float32 [batch, n, 96, 64], and the sizes batch and n.
    """
    hop_samples = hop_to_samples(options.hop_seconds)
    shape = graph("Shape", waveform)
    batch, samples = graph("Gather", shape, ints(0)), graph("Gather", shape, ints(1))
    count = _count_examples(graph, samples, hop_samples, options.padding)
    beyond_first = graph("Mul", graph("Max", graph("Sub", count, ints(1)), ints(0)), ints(hop_samples))
    covered = graph("Add", beyond_first, ints(params.EXAMPLE_SAMPLES))
    missing = graph("Max", graph("Sub", covered, samples), ints(0))
    padded = graph("Pad", graph("Cast", waveform, to=_tensor_dtype(np.float64)), joined(graph, ints(0, 0, 0), missing))
    log_mel = _add_log_mel(graph, graph("Slice", padded, ints(0), covered, ints(1)), batch, covered)
    starts = _range(graph, count, hop_samples // params.STFT_HOP_SAMPLES)
    examples = graph("Gather", log_mel, graph("Add", starts, np.arange(params.EXAMPLE_FRAMES)), axis=1)
    return examples, batch, count


def _count_examples(graph: Graph, samples: str, hop_samples: int, padding: Padding) -> str:
    """Counts as `framing.count_examples` does, with the division of ONNX, which rounds towards zero."""
    size = params.EXAMPLE_SAMPLES
    added, fewest = {
        "valid": (hop_samples - size, 0),
        "short": (-size, 1),
        "same": (hop_samples - 1 - max(size, hop_samples), 1),
    }[padding]
    numerator = graph("Max", graph("Add", samples, ints(added)), ints(0))
    return graph("Add", graph("Div", numerator, ints(hop_samples)), ints(fewest))


def _add_log_mel(graph: Graph, waveform: str, batch: str, samples: str) -> str:
    """float64 [batch, samples], a multiple of a block -> float32 [batch, frames, 64]."""
    window_blocks, hop_blocks = params.STFT_WINDOW_SAMPLES // _BLOCK, params.STFT_HOP_SAMPLES // _BLOCK
    blocks = graph("Div", samples, ints(_BLOCK))
    frames = graph("Div", graph("Sub", blocks, ints(window_blocks - hop_blocks)), ints(hop_blocks))
    index = graph("Add", _range(graph, frames, hop_blocks), np.arange(window_blocks))
    windows = graph("Gather", reshaped(graph, waveform, batch, blocks, ints(_BLOCK)), index, axis=1)
    windows = reshaped(graph, windows, graph("Mul", batch, frames), ints(params.STFT_WINDOW_SAMPLES))
    mel = mel_matrix()
    bins = np.flatnonzero(mel.any(axis=1))
    spectrum = graph("MatMul", windows, _fourier_matrix(graph, bins))
    parts = reshaped(graph, spectrum, graph("Mul", batch, frames), ints(2, len(bins)))
    magnitudes = graph("ReduceL2", parts, ints(1), keepdims=0)
    bands = graph("Add", graph("MatMul", magnitudes, mel[bins]), np.float64(params.LOG_OFFSET))
    log_mel = graph("Cast", graph("Log", bands), to=_tensor_dtype(np.float32))
    return reshaped(graph, log_mel, batch, frames, ints(params.NUM_MEL_BANDS))


def _fourier_matrix(graph: Graph, bins: NDArray[np.int64]) -> str:
    """The windowed cosines, and then the sines, of frequencies: float64 [400, 2 * bins].

    Engines compute this constant from a small table when they load the file, which would be 1.5 MB larger with it.
    """
    period = np.arange(params.FFT_SIZE)
    cosines = np.cos(2 * np.pi * period / params.FFT_SIZE)
    quarters = np.array([[0], [3 * params.FFT_SIZE // 4]])  # a sine is a cosine three quarters of a period later
    samples = np.arange(params.STFT_WINDOW_SAMPLES)[:, np.newaxis, np.newaxis]
    index = graph("Mod", graph("Add", graph("Mul", samples, bins), quarters), np.int64(params.FFT_SIZE))
    windowed = graph("Mul", graph("Gather", cosines, index), hann_window()[:, np.newaxis, np.newaxis])
    return graph("Reshape", windowed, ints(params.STFT_WINDOW_SAMPLES, 2 * len(bins)))


def _tensor_dtype(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


# === Network ===


def add_network(graph: Graph, examples: str, total: str, weights: Mapping[str, NDArray[np.float32]]) -> str:
    """Embeds examples.

    Args:
        graph: The graph.
        examples: float32 [.., 96, 64].
        total: Their number.
        weights: The tensors by their names in TF-Slim, which the file holds under these names.

    Returns:
        float32 [total, 128].
    """
    x = reshaped(graph, examples, total, ints(1, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS))
    # An empty batch becomes one image of zeros: OpenVINO rejects empty batches.
    missing = graph("Max", graph("Sub", ints(1), total), ints(0))
    x = graph("Pad", x, joined(graph, ints(0, 0, 0, 0), missing, ints(0, 0, 0)))
    for layer, scope in params.SLIM_SCOPES.items():
        kernel = weights[f"{scope}/weights"]
        bias = graph.constant(weights[f"{scope}/biases"], f"{scope}/biases")
        if kernel.ndim == len(KERNEL_AXES):
            transposed = graph.constant(kernel.transpose(KERNEL_AXES), f"{scope}/weights")
            x = graph("Conv", x, transposed, bias, pads=[1, 1, 1, 1])
        else:
            x = graph("Gemm", x, graph.constant(kernel, f"{scope}/weights"), bias)
        if layer != "fc2":
            x = graph("Relu", x)
        if layer in _POOLED:
            x = graph("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        if layer == "conv4_2":
            x = graph("Flatten", graph("Transpose", x, perm=[0, 2, 3, 1]))
    return graph("Slice", x, ints(0), total, ints(0))


def add_postprocess(
    graph: Graph, embedding: str, eigen_vectors: NDArray[np.float32], means: NDArray[np.float32], quantize: bool
) -> str:
    """Applies `Postprocess` to embeddings [n, 128]."""
    centered = graph("Sub", embedding, graph.constant(means, params.PCA_MEANS))
    components = graph("Gemm", centered, graph.constant(eigen_vectors, params.PCA_EIGEN_VECTORS), transB=1)
    if not quantize:
        return components
    low, high = np.float32(params.QUANTIZE_MIN), np.float32(params.QUANTIZE_MAX)
    scale = np.float32(255 / (params.QUANTIZE_MAX - params.QUANTIZE_MIN))
    levels = graph("Mul", graph("Sub", graph("Clip", components, low, high), low), scale)
    return graph("Cast", levels, to=_tensor_dtype(np.uint8))  # truncates

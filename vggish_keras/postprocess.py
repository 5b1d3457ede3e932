"""The post-processing of the released AudioSet embeddings: PCA, whitening, 8 bits."""

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray
from tensorflow import keras

from vggish_keras import params
from vggish_keras._npz import read_npz
from vggish_keras._validation import PathLike
from vggish_keras.network import zero_masked
from vggish_keras.published_files import fetch

PcaParams: TypeAlias = PathLike | Mapping[str, Any] | Sequence[Any]

_PCA_SHAPES: dict[str, list[tuple[int, ...]]] = {
    params.PCA_EIGEN_VECTORS: [(params.EMBEDDING_SIZE, params.EMBEDDING_SIZE)],
    params.PCA_MEANS: [(params.EMBEDDING_SIZE,), (params.EMBEDDING_SIZE, 1)],
}


def read_pca_params(source: PcaParams) -> tuple[np.ndarray, np.ndarray]:
    """The parameters of the published post-processing.

    Args:
        source: "audioset" for the published file; or the path of an .npz file with the published keys; or
            arrays, as a mapping of "pca_eigen_vectors" [128, 128] and "pca_means" [128] or [128, 1], or in this order.

    Returns:
        float32 arrays: eigen vectors [128, 128], one component per row, and means [128].

    Raises:
        FileNotFoundError: There is no such file, or the published one cannot be had.
        ValueError: Not an .npz file of plain arrays with these keys and shapes, or numbers that are not finite. Pickled
            objects are never loaded.
    """
    if isinstance(source, (str, os.PathLike)):
        path = fetch(params.PCA_PARAMS) if source == params.AUDIOSET else Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no PCA parameters at {path}")
        origin = str(path)
        arrays = read_npz(path, _PCA_SHAPES, functools.partial(_check_pca_headers, origin=origin))
    else:
        origin = "PCA parameters"
        if not isinstance(source, Mapping):
            source = dict(zip(_PCA_SHAPES, source, strict=False))
        # Others are named, but may be anything.
        arrays = {key: np.asarray(source[key] if key in _PCA_SHAPES else 0) for key in source}
        _check_pca_headers(arrays, origin)
    with np.errstate(over="ignore"):
        eigen_vectors, means = (arrays[key].astype(np.float32) for key in _PCA_SHAPES)
    for key, array in zip(_PCA_SHAPES, (eigen_vectors, means), strict=True):
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{origin}: {key} must hold finite numbers, got NaN or infinity")
    return eigen_vectors, means.reshape(params.EMBEDDING_SIZE)


def _check_pca_headers(arrays: Mapping[str, Any], origin: str) -> None:
    """Checks what has a shape and a dtype: arrays, or the headers of arrays."""
    problems = []
    for key, shapes in _PCA_SHAPES.items():
        if key not in arrays:
            problems.append(f"{key} is missing (keys: {', '.join(sorted(arrays)) or 'none'})")
        elif arrays[key].shape not in shapes:
            problems.append(f"{key} has shape {arrays[key].shape}, expected {shapes[0]}")
        elif arrays[key].dtype.kind not in "fiu":
            problems.append(f"{key} must hold finite numbers, got dtype {arrays[key].dtype}")
    if problems:
        raise ValueError(f"{origin}: {'; '.join(problems)}")


# === Layer ===


@keras.utils.register_keras_serializable(package="vggish_keras")
class Postprocess(keras.layers.Layer):
    """Projects embeddings on their whitened principal components and, if asked, quantizes them to 8 bits.

    Quantization clips to [-2, 2], scales to [0, 255] and truncates, as the published code does. Without it the
    components are neither clipped nor scaled. The two weights are frozen. Masked embeddings give zeros.

    Args:
        pca_params: "audioset" for the published file; the path of an .npz file; or arrays, as a mapping of
            "pca_eigen_vectors" [128, 128] and "pca_means" [128], or in this order.
        quantize: True for uint8, False for float32.

    Input shape:
        float32 [.., 128].

    Output shape:
        uint8 or float32 [.., 128].

    Raises:
        FileNotFoundError: There is no such file, or the published one cannot be had.
        ValueError: Parameters of other names or shapes; or an input whose last axis is not 128.
    """

    def __init__(
        self,
        pca_params: PcaParams = params.AUDIOSET,
        quantize: bool = True,
        **kwargs: Any,
    ) -> None:
        eigen_vectors, means = read_pca_params(pca_params)
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.supports_masking = True
        self.quantize = bool(quantize)
        self._eigen_vectors = self._frozen(params.PCA_EIGEN_VECTORS, eigen_vectors)
        self._means = self._frozen(params.PCA_MEANS, means)

    def _frozen(self, name: str, value: np.ndarray) -> Any:
        initializer = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=value.shape, initializer=initializer, trainable=False)

    def call(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor:
        if inputs.shape.rank is not None and inputs.shape[-1] != params.EMBEDDING_SIZE:
            raise ValueError(f"expected embeddings of shape [.., {params.EMBEDDING_SIZE}], got {inputs.shape}")
        means, eigen_vectors = tf.convert_to_tensor(self._means), tf.convert_to_tensor(self._eigen_vectors)
        outputs = tf.linalg.matvec(eigen_vectors, inputs - means)
        if self.quantize:
            low, high = params.QUANTIZE_MIN, params.QUANTIZE_MAX
            outputs = (tf.clip_by_value(outputs, low, high) - low) * (255.0 / (high - low))
            outputs = tf.cast(outputs, tf.uint8)  # truncates
        return zero_masked(outputs, mask)

    def get_config(self) -> dict[str, Any]:
        """The parameters go along as lists, so that a layer made from its configuration needs no file."""
        names = (params.PCA_EIGEN_VECTORS, params.PCA_MEANS)
        pca_params = {name: np.asarray(value).tolist() for name, value in zip(names, self.weights, strict=True)}
        return {**super().get_config(), "pca_params": pca_params, "quantize": self.quantize}


# === Inverse ===


def dequantize(quantized: ArrayLike | tf.Tensor) -> NDArray[np.float32] | tf.Tensor:
    """Inverts the 8-bit quantization of `Postprocess` to within one level, 4 / 255.

    Values that were clipped to [-2, 2] are not restored.

    Args:
        quantized: uint8 array or tensor of any shape.

    Returns:
        float32 of the same shape in [-2, 2], an array or a tensor like `quantized`.

    Example:
        >>> vk.records.dequantize(np.array([0, 255], np.uint8))
        array([-2.,  2.], dtype=float32)
    """
    scale = (params.QUANTIZE_MAX - params.QUANTIZE_MIN) / 255
    if tf.is_tensor(quantized):
        return tf.cast(quantized, tf.float32) * scale + params.QUANTIZE_MIN
    return np.asarray(quantized, np.float32) * np.float32(scale) + np.float32(params.QUANTIZE_MIN)

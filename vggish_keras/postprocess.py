"""The post-processing of the released AudioSet embeddings: PCA, whitening, 8 bits."""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

from vggish_keras import params
from vggish_keras._keras import keras
from vggish_keras._npz import read_npz
from vggish_keras._validation import PcaParams, is_published
from vggish_keras.network import zero_masked
from vggish_keras.published_files import fetch

_PCA_SHAPES: dict[str, list[tuple[int, ...]]] = {
    params.PCA_EIGEN_VECTORS: [(params.EMBEDDING_SIZE, params.EMBEDDING_SIZE)],
    params.PCA_MEANS: [(params.EMBEDDING_SIZE,), (params.EMBEDDING_SIZE, 1)],
}


def read_pca_params(source: PcaParams) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Reads the parameters of the published post-processing.

    Args:
        source: "audioset" for the published file; the path of an .npz file with the published keys; or arrays, as a
            mapping of "pca_eigen_vectors" [128, 128] and "pca_means" [128] or [128, 1], or in this order.

    Returns:
        float32 arrays: eigenvectors [128, 128], one component per row, and means [128].

    Raises:
        FileNotFoundError: The file does not exist, or the published one is not available.
        ValueError: Not an .npz file of plain arrays with these keys and shapes, or numbers that are not finite. Pickled
            objects are never loaded.
    """
    if isinstance(source, (str, os.PathLike)):
        path = fetch(params.PCA_PARAMS) if is_published(source) else Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"no PCA parameters at {path}")
        origin = str(path)
        arrays = read_npz(path, _PCA_SHAPES, functools.partial(_check_headers, origin=origin))
    else:
        origin = "PCA parameters"
        if not isinstance(source, Mapping):
            source = dict(zip(_PCA_SHAPES, source, strict=False))
        # Unknown keys appear in messages, but their values may be anything.
        arrays = {key: np.asarray(source[key] if key in _PCA_SHAPES else 0) for key in source}
        _check_headers(arrays, origin)
    with np.errstate(over="ignore"):
        eigen_vectors, means = (arrays[key].astype(np.float32) for key in _PCA_SHAPES)
    for key, array in zip(_PCA_SHAPES, (eigen_vectors, means), strict=True):
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{origin}: {key} must hold finite numbers, got NaN or infinity")
    return eigen_vectors, means.reshape(params.EMBEDDING_SIZE)


def _check_headers(arrays: Mapping[str, Any], origin: str) -> None:
    """Checks shapes and dtypes of arrays, or of the headers of arrays."""
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


def _zeros() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.zeros((params.EMBEDDING_SIZE, params.EMBEDDING_SIZE), np.float32), np.zeros(
        params.EMBEDDING_SIZE, np.float32
    )


# === Layer ===


@keras.utils.register_keras_serializable(package="vggish_keras")
class Postprocess(keras.layers.Layer):
    """Projects embeddings onto their whitened principal components and optionally quantizes them to 8 bits.

    Quantization clips to [-2, 2], scales to [0, 255] and truncates, as the published code does. Without it the
    components are neither clipped nor scaled. The two weights are frozen. Masked embeddings become zeros.

    Args:
        pca_params: "audioset" for the published file, which is fetched when the layer is first called; the path of an
            .npz file; or arrays, as a mapping of "pca_eigen_vectors" [128, 128] and "pca_means" [128], or in this
            order. None starts from zeros, for a layer whose weights are about to be loaded.
        quantize: True for uint8, False for float32.

    Input shape:
        float32 [..., 128].

    Output shape:
        uint8 or float32 [..., 128].

    Raises:
        FileNotFoundError: The file does not exist; or, when the layer is first called, the published file is not
            available.
        ValueError: Parameters with unexpected names or shapes; or an input whose last axis is not 128.

    Examples:
        >>> postprocess = vk.Postprocess({"pca_eigen_vectors": np.eye(128), "pca_means": np.zeros(128)})
        >>> np.asarray(postprocess(np.linspace(-2, 2, 128, dtype=np.float32)[np.newaxis]))[0, [0, 63, 127]]
        array([  0, 126, 255], dtype=uint8)
    """

    def __init__(self, pca_params: PcaParams | None, quantize: bool = True, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.supports_masking = True
        self.quantize = bool(quantize)
        # A constructor downloads nothing: the published parameters are fetched when the layer is built.
        self._is_published = is_published(pca_params)
        if not self._is_published:
            self._add_weights(*(_zeros() if pca_params is None else read_pca_params(pca_params)))

    def build(self, input_shape: Any) -> None:
        if self._is_published:
            self._add_weights(*read_pca_params(params.AUDIOSET))
        super().build(input_shape)

    def _add_weights(self, eigen_vectors: NDArray[np.float32], means: NDArray[np.float32]) -> None:
        self._eigen_vectors = self._add_frozen(params.PCA_EIGEN_VECTORS, eigen_vectors)
        self._means = self._add_frozen(params.PCA_MEANS, means)

    def _add_frozen(self, name: str, value: NDArray[np.float32]) -> Any:
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
        # The parameters are weights: a saved model contains them anyway, and a clone starts without its original's.
        return {**super().get_config(), "pca_params": None, "quantize": self.quantize}


# === Inverse ===


def dequantize(quantized: ArrayLike | tf.Tensor) -> NDArray[np.float32] | tf.Tensor:
    """Inverts the 8-bit quantization of `Postprocess` to within one level, 4 / 255.

    Values that were clipped to [-2, 2] are not restored.

    Args:
        quantized: uint8 array or tensor of any shape.

    Returns:
        float32 of the same shape in [-2, 2], an array or a tensor like `quantized`.

    Examples:
        >>> vk.records.dequantize(np.array([0, 255], np.uint8))
        array([-2.,  2.], dtype=float32)
    """
    scale = (params.QUANTIZE_MAX - params.QUANTIZE_MIN) / 255
    if tf.is_tensor(quantized):
        return tf.cast(quantized, tf.float32) * scale + params.QUANTIZE_MIN
    return np.asarray(quantized, np.float32) * np.float32(scale) + np.float32(params.QUANTIZE_MIN)

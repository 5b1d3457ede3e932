"""The post-processing of the released AudioSet embeddings: PCA, whitening, 8 bits."""

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from vggish_keras import params, weights
from vggish_keras.network import zero_masked


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
        pca_params: weights.PcaParams = weights.AUDIOSET,
        quantize: bool = True,
        **kwargs: Any,
    ) -> None:
        eigen_vectors, means = weights.read_pca_params(pca_params)
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

"""VGGish as a Keras model that is only run, not trained."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from vggish_keras import params
from vggish_keras._fork import check_not_forked
from vggish_keras._hashing import hash_variables
from vggish_keras._validation import PathLike, PcaParams, Postprocessing
from vggish_keras.engines.engine import Dtype, Output
from vggish_keras.model import VGGish
from vggish_keras.network import slim_variables
from vggish_keras.postprocess import Postprocess


class KerasModel:
    """Runs `VGGish` with any of its weights.

    Args:
        weights: As in `VGGish`.
        postprocess: None, "pca" or "quantized".
        dtype: What the network computes in.
        pca_params: The parameters of `postprocess`, as in `Postprocess`.

    Raises:
        ValueError: The weights do not fit or are not finite.
        FileNotFoundError: The weights do not exist, or a published file is not available.
        RuntimeError: This process was forked after TensorFlow ran, and would hang.
    """

    def __init__(
        self, weights: PathLike | None, postprocess: Postprocessing | None, dtype: Dtype, pca_params: PcaParams
    ) -> None:
        # Not a mixed policy, under which each call would convert the weights anew.
        self._model = VGGish(weights, dtype=dtype)
        self.dtype = dtype
        self._postprocess: dict[Output, Any] = {}
        if postprocess is not None:
            self._postprocess[postprocess] = Postprocess(pca_params, quantize=postprocess == "quantized")
            self._postprocess[postprocess].build([None, None, params.EMBEDDING_SIZE])
        self.outputs: tuple[Output, ...] = ("embedding", *self._postprocess)
        # One trace per output: only the number of segments varies.
        signature = [tf.TensorSpec([None, params.EXAMPLE_SAMPLES], tf.float32)]
        self._functions = {
            output: tf.function(functools.partial(self._compute, output), signature) for output in self.outputs
        }

    def identity(self, output: Output) -> str:
        pca = self._postprocess[output].weights if output in self._postprocess else []
        return hash_variables([*slim_variables(self._model).values(), *pca])

    def __call__(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        check_not_forked()
        embeddings: NDArray[Any] = self._functions[output](segments).numpy()
        return embeddings

    def _compute(self, output: Output, segments: tf.Tensor) -> tf.Tensor:
        embeddings = self._model(segments, training=False)
        if output in self._postprocess:
            embeddings = self._postprocess[output](embeddings)
        return embeddings[:, 0]

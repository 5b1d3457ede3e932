"""VGGish as a functional Keras model: front end, network and post-processing joined."""

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from vggish_keras import network, params, weights as weights_lib
from vggish_keras._fork import check_process
from vggish_keras._validation import PathLike, check_choice
from vggish_keras.framing import PADDINGS, hop_frames
from vggish_keras.frontend import LogMelExamples
from vggish_keras.postprocess import Postprocess

INPUTS = ("waveform", "examples")
POOLINGS = (None, "avg", "max")
POSTPROCESSES = (None, "pca", "quantized")


@keras.utils.register_keras_serializable(package="vggish_keras")
class PoolExamples(keras.layers.Layer):
    """Mean or maximum over the examples that are not masked: [batch, n, 128] -> [batch, 128].

    A clip without examples gives zeros.
    """

    def __init__(self, pooling: str, **kwargs: Any) -> None:
        check_choice("pooling", pooling, ("avg", "max"))
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.pooling = pooling

    def call(self, inputs: tf.Tensor, mask: Any = None) -> tf.Tensor:
        exists = tf.ones(tf.shape(inputs)[:2], bool) if mask is None else mask
        if self.pooling == "max":
            lowest = tf.where(exists[..., tf.newaxis], inputs, inputs.dtype.min)
            return network.zero_masked(tf.reduce_max(lowest, axis=1), tf.reduce_any(exists, axis=1))
        total = tf.reduce_sum(network.zero_masked(inputs, exists), axis=1)
        count = tf.reduce_sum(tf.cast(exists, inputs.dtype), axis=1, keepdims=True)
        return tf.math.divide_no_nan(total, count)

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """The masked axis is gone."""
        return None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pooling": self.pooling}


@keras.utils.register_keras_serializable(package="vggish_keras")
class MixChannels(keras.layers.Layer):
    """The mean of the channels: [batch, samples, channels] -> [batch, samples]."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(inputs, axis=-1)


@keras.utils.register_keras_serializable(package="vggish_keras")
class WaveformModel(keras.Model):
    """A functional model of waveforms [batch, samples] that can be called on [batch, samples, channels], too.

    So it takes what `keras.utils.audio_dataset_from_directory` yields, which a functional model alone refuses.
    """

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(inputs, dict) and "waveform" in inputs:
            inputs = {**inputs, "waveform": _mono(inputs["waveform"])}
        return super().__call__(_mono(inputs), *args, **kwargs)


def _mono(waveform: Any) -> Any:
    if len(getattr(waveform, "shape", ())) != 3:
        return waveform
    # Keras takes no dictionary of arrays and tensors.
    return waveform.mean(axis=-1) if isinstance(waveform, np.ndarray) else MixChannels()(waveform)


def VGGish(
    weights: PathLike | None = params.AUDIOSET,
    input: str = "waveform",
    hop_seconds: float = params.EXAMPLE_HOP_SECONDS,
    padding: str = "valid",
    pooling: str | None = None,
    postprocess: str | None = None,
    lengths: bool = False,
    name: str = "vggish",
    *,
    dtype: str | None = None,
) -> Any:
    """Builds VGGish as a functional Keras model.

    Args:
        weights: "audioset" for the published weights, taken from the cache or downloaded and verified; None for
            random ones; or the path of a TF-Slim checkpoint (V1 or V2) or a Keras weights file (.weights.h5).
        input: "waveform" for float32 [batch, samples], 16 kHz mono in [-1, 1] (Keras casts integers but does not
            scale them), or [batch, samples, channels], which are averaged; "examples" for float32 [batch, 96, 64]
            log-mel examples.
        hop_seconds: Distance of examples, any multiple of 10 ms.
        padding: "valid" takes whole examples only, so a clip under 15,600 samples gives none; "same" pads the end with
            zeros so that every sample is covered and there is at least one example.
        pooling: None, or "avg" or "max" over a clip's examples; a clip without any gives zeros.
        postprocess: None; "pca" for float32 whitened principal components; "quantized" for these clipped to [-2, 2]
            and cut to uint8, as in the released AudioSet embeddings. It comes after the pooling.
        lengths: True makes the inputs a dictionary of "waveform" and "num_samples", int32 [batch]: examples beyond
            a clip's own length are zero and masked, so later layers and the pooling ignore them.
        name: The model's name.
        dtype: Dtype policy of the network, such as "mixed_bfloat16"; None takes Keras' global policy. Front end,
            embedding and post-processing are float32 under any.

    Returns:
        A Keras model whose output is [batch, n, 128], or [batch, 128] with `pooling` or for "examples": float32
        before any activation, or uint8 if quantized. A process that loads it from a `.keras` file must have imported
        `vggish_keras.model`, which registers the layers.

    Raises:
        ValueError: A bad argument, or weights that do not fit or are not finite.
        TypeError: `hop_seconds` is not a number, or `weights` no path.
        FileNotFoundError: There are no such weights, or the published ones cannot be had. Random weights are never
            used instead.
        RuntimeError: This process was forked after TensorFlow ran, and would hang.
    """
    check_choice("input", input, INPUTS)
    check_choice("pooling", pooling, POOLINGS)
    check_choice("postprocess", postprocess, POSTPROCESSES)
    check_choice("padding", padding, PADDINGS)
    hop_frames(hop_seconds)
    check_process()
    if input == "examples" and (pooling or lengths):
        raise ValueError('pooling and lengths need input="waveform": examples do not say which clip they are from')
    checkpoint = None if weights is None else weights_lib.locate(weights)

    if input == "examples":
        inputs = examples = keras.Input((params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS), dtype="float32", name="examples")
    else:
        inputs = keras.Input((None,), dtype="float32", name="waveform")
        if lengths:
            inputs = {"waveform": inputs, "num_samples": keras.Input((), dtype="int32", name="num_samples")}
        examples = LogMelExamples(hop_seconds, padding, name="log_mel")(inputs)
    outputs = network.embed_examples(examples, dtype, initialize=checkpoint is None)
    if pooling:
        outputs = PoolExamples(pooling, name="pool_examples")(outputs)
    if postprocess:
        outputs = Postprocess(quantize=postprocess == "quantized", name="postprocess")(outputs)
    model = (WaveformModel if input == "waveform" else keras.Model)(inputs, outputs, name=name)
    if checkpoint is not None:
        weights_lib.load(model, checkpoint)
        network.restore_initializers(model)
    return model

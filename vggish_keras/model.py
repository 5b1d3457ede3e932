"""VGGish as a functional Keras model: front end, network and post-processing joined."""

from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf

from vggish_keras import network, params, weights as weight_files
from vggish_keras._fork import check_not_forked
from vggish_keras._keras import keras
from vggish_keras._validation import PathLike, PcaParams, Postprocessing, check_choice, check_postprocess
from vggish_keras.framing import PADDINGS, Padding, hop_to_frames
from vggish_keras.frontend import LogMelExamples
from vggish_keras.network import PoolExamples, Pooling
from vggish_keras.postprocess import Postprocess

Input = Literal["waveform", "examples"]
INPUTS: tuple[Input, ...] = get_args(Input)
POOLINGS: tuple[Pooling | None, ...] = (None, *get_args(Pooling))


@keras.utils.register_keras_serializable(package="vggish_keras")
class MixChannels(keras.layers.Layer):
    """Averages channels: [batch, samples, channels] -> [batch, samples]."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(inputs, axis=-1)


@keras.utils.register_keras_serializable(package="vggish_keras")
class WaveformModel(keras.Model):
    """A functional model of waveforms [batch, samples] that also accepts [batch, samples, channels].

    That is what `keras.utils.audio_dataset_from_directory` yields, and what a functional model rejects.
    """

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(inputs, dict) and "waveform" in inputs:
            inputs = {**inputs, "waveform": _mono(inputs["waveform"])}
        return super().__call__(_mono(inputs), *args, **kwargs)


# Legacy HDF5 files (.h5) store the class of a model by its bare name.
keras.utils.get_custom_objects()[WaveformModel.__name__] = WaveformModel


def _mono(waveform: Any) -> Any:
    """Averages channels; raises a TypeError for integers, which Keras would cast but not scale."""
    dtype = getattr(waveform, "dtype", None)  # of NumPy, TensorFlow or Keras
    if "int" in str(dtype):
        name = getattr(dtype, "name", dtype)
        raise TypeError(f"expected a waveform of floats in [-1, 1], got {name}: divide int16 samples by 32768")
    rank = tf.TensorShape(getattr(waveform, "shape", ())).rank
    if rank is None:  # `predict` was called with both ranks, and Keras traced it for any
        tf.debugging.assert_rank_in(
            waveform, (2, 3), "expected a waveform [batch, samples] or [batch, samples, channels]"
        )
        shape = tf.shape(waveform)
        return tf.reduce_mean(tf.reshape(waveform, [shape[0], shape[1], tf.reduce_prod(shape[2:])]), axis=-1)
    if rank != 3:
        return waveform
    # Keras accepts no dictionary that mixes arrays and tensors.
    return waveform.mean(axis=-1) if isinstance(waveform, np.ndarray) else MixChannels()(waveform)


def VGGish(
    weights: PathLike | None = params.AUDIOSET,
    input: Input = "waveform",
    hop_seconds: float = params.EXAMPLE_HOP_SECONDS,
    padding: Padding = "short",
    pooling: Pooling | None = None,
    postprocess: Postprocessing | None = None,
    lengths: bool = False,
    name: str = "vggish",
    *,
    pca_params: PcaParams = params.AUDIOSET,
    dtype: str | None = None,
) -> keras.Model:
    """Builds VGGish as a functional Keras model.

    Args:
        weights: "audioset" for the published weights, from the cache or downloaded and verified; the path of a TF-Slim
            checkpoint (V1 or V2), a Keras model (.keras) that contains VGGish, a Keras weights file (.weights.h5), an
            exported SavedModel or an ONNX file; or None for random weights.
        input: "waveform" for float32 [batch, samples], 16 kHz mono in [-1, 1], or [batch, samples, channels], whose
            channels are averaged; integers are rejected, because Keras casts them and does not scale them. "examples"
            for float32 [batch, 96, 64] log-mel examples.
        hop_seconds: Distance between examples, any multiple of 10 ms.
        padding: "short" uses whole examples, and pads a clip shorter than one (15,600 samples) to one; "valid" uses
            whole examples only, so a shorter clip has none; "same" pads the end with zeros so that every sample is
            covered and there is at least one example.
        pooling: None, or "avg" or "max" over a clip's examples. The result for a clip without examples is zero.
        postprocess: None; "pca" for float32 whitened principal components; "quantized" for components clipped to
            [-2, 2] and truncated to uint8, as in the released AudioSet embeddings. It follows the pooling.
        lengths: True makes the inputs a dictionary of "waveform" and "num_samples", int32 [batch]: examples beyond
            a clip's own length are zero and masked, so later layers and the pooling ignore them.
        name: The model's name.
        pca_params: The parameters of `postprocess`, as in `Postprocess`; "audioset" for the published ones.
        dtype: Dtype policy of the network, such as "mixed_bfloat16"; None uses Keras's global policy. Front end,
            embedding and post-processing are float32 under any policy.

    Returns:
        A Keras model whose output is [batch, n, 128], or [batch, 128] with `pooling` or for "examples": float32
        before any activation, or uint8 if quantized. A process that loads it from a `.keras` file must import
        `vggish_keras`, which registers the layers.

    Raises:
        ValueError: An invalid argument, or weights that do not fit or are not finite.
        TypeError: `hop_seconds` is not a number, or `weights` is not a path; or the model is called with integers.
        FileNotFoundError: The weights do not exist, or the published ones are not available. Random weights are never
            used instead.
        RuntimeError: This process was forked after TensorFlow ran, and would hang.

    Examples:
        >>> vggish = vk.VGGish(weights=None, padding="same", pooling="avg")  # random weights, to be quick
        >>> vggish(np.zeros((2, 32_000), np.float32)).shape
        TensorShape([2, 128])
    """
    _check_arguments(input, hop_seconds, padding, pooling, postprocess, lengths, pca_params)
    check_not_forked()
    weights_file = None if weights is None else weight_files.locate(weights)

    if input == "examples":
        inputs = examples = keras.Input((params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS), dtype="float32", name="examples")
    else:
        inputs = keras.Input((None,), dtype="float32", name="waveform")
        if lengths:
            inputs = {"waveform": inputs, "num_samples": keras.Input((), dtype="int32", name="num_samples")}
        examples = LogMelExamples(hop_seconds, padding, name="log_mel")(inputs)
    outputs = network.embed_examples(examples, dtype, initialize=weights_file is None)
    if pooling:
        outputs = PoolExamples(pooling, name="pool_examples")(outputs)
    if postprocess:
        outputs = Postprocess(pca_params, quantize=postprocess == "quantized", name="postprocess")(outputs)
    model = (WaveformModel if input == "waveform" else keras.Model)(inputs, outputs, name=name)
    if weights_file is not None:
        weight_files.load(model, weights_file)
    return model


def _check_arguments(
    input: Input,
    hop_seconds: float,
    padding: Padding,
    pooling: Pooling | None,
    postprocess: Postprocessing | None,
    lengths: bool,
    pca_params: PcaParams,
) -> None:
    check_choice("input", input, INPUTS)
    check_choice("pooling", pooling, POOLINGS)
    check_postprocess(postprocess, pca_params)
    check_choice("padding", padding, PADDINGS)
    hop_to_frames(hop_seconds)
    if input == "examples" and (pooling or lengths):
        raise ValueError('pooling and lengths require input="waveform": log-mel examples are not grouped by clip')

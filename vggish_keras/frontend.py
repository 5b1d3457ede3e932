"""The published front end inside the graph: waveforms to log-mel examples."""

from typing import Any

import numpy as np
import tensorflow as tf

from vggish_keras import params
from vggish_keras._keras import keras
from vggish_keras._validation import check_choice
from vggish_keras.framing import PADDINGS, Padding, count_examples, hop_to_frames, hop_to_samples
from vggish_keras.mel import hann_window, mel_matrix

_MIN_POWER = 1e-30
"""Keeps the gradient of the magnitude finite in silence, and is far too small to change a result."""


@keras.utils.register_keras_serializable(package="vggish_keras")
class LogMelExamples(keras.layers.Layer):
    """Cuts 16 kHz waveforms into the log-mel examples that VGGish was trained on.

    Like the published NumPy front end, the spectrogram is neither centered nor padded: an example of 96 frames needs
    15,600 samples. Values are within 2e-6 of the published ones under any dtype policy.

    Args:
        hop_seconds: Distance between examples in seconds, any multiple of 10 ms.
        padding: "short" returns whole examples, and pads a clip shorter than one (15,600 samples) to one; "valid"
            returns whole examples only; "same" pads the end with zeros so that every sample is covered and there is
            at least one example.

    Input shape:
        float32 [batch, samples] in [-1, 1]; or a dictionary of these as "waveform" and int32 [batch] as "num_samples",
        each clip's own length, between 0 and `samples`.

    Output shape:
        float32 [batch, examples, 96, 64]. With "num_samples", samples beyond a clip's length count as padding, and the
        output has a Keras mask [batch, examples] of the examples within each clip's length.

    Raises:
        ValueError: An invalid argument, or an input that is not [batch, samples].
        TypeError: Integer input: samples must be scaled to floats first.

    Examples:
        >>> waveforms = np.random.default_rng(0).uniform(-1, 1, (2, 32_000)).astype("float32")
        >>> vk.LogMelExamples(hop_seconds=0.5)(waveforms).shape
        TensorShape([2, 3, 96, 64])
    """

    def __init__(
        self, hop_seconds: float = params.EXAMPLE_HOP_SECONDS, padding: Padding = "short", **kwargs: Any
    ) -> None:
        check_choice("padding", padding, PADDINGS)
        frames = hop_to_frames(hop_seconds)
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.hop_seconds = float(hop_seconds)
        self.padding = padding
        self.hop_frames = frames
        self.hop_samples = frames * params.STFT_HOP_SAMPLES
        self._window = hann_window()
        self._mel_matrix = mel_matrix().astype(np.float32)
        self._mask = ExampleMask(hop_seconds, padding)

    def build(self, input_shape: Any) -> None:
        self._mask.build(input_shape)
        super().build(input_shape)

    def call(self, inputs: Any) -> tf.Tensor:
        waveform, num_samples = _split(inputs)
        _check_waveform(waveform)
        samples = _length(waveform)
        if num_samples is not None:
            waveform = silence_beyond(waveform, num_samples)
        if self.padding != "valid":
            examples = count_examples(samples, self.hop_samples, self.padding)
            covered = (examples - 1) * self.hop_samples + params.EXAMPLE_SAMPLES
            missing = tf.maximum(0, covered - samples)
            static_samples = None if tf.is_tensor(samples) else max(samples, covered)
            waveform = tf.pad(waveform, [[0, 0], [0, missing]])
            waveform.set_shape([None, static_samples])
        return tf.signal.frame(self.log_mel(waveform), params.EXAMPLE_FRAMES, self.hop_frames, axis=1)

    def log_mel(self, waveform: tf.Tensor) -> tf.Tensor:
        """Computes the spectrogram: float32 [batch, samples] -> [batch, (samples - 240) // 160, 64]."""
        frames = tf.signal.frame(waveform, params.STFT_WINDOW_SAMPLES, params.STFT_HOP_SAMPLES)
        # In float32, the rounding errors of loud sounds exceed what is in quiet mel bands.
        frames = tf.cast(frames, tf.float64) * self._window
        # Not tf.signal.stft: its rfft does not pad empty batches.
        frames = tf.pad(frames, [[0, 0], [0, 0], [0, params.FFT_SIZE - params.STFT_WINDOW_SAMPLES]])
        spectrum = tf.cast(tf.signal.rfft(frames), tf.complex64)
        # Not tf.abs: it is slower.
        power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
        magnitude = tf.sqrt(tf.maximum(power, _MIN_POWER))
        # Not tf.matmul: it multiplies each clip separately.
        return tf.math.log(tf.tensordot(magnitude, self._mel_matrix, 1) + params.LOG_OFFSET)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        # A layer, because Keras 3 also calls compute_mask with symbolic tensors.
        return self._mask(inputs) if isinstance(inputs, dict) else None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hop_seconds": self.hop_seconds, "padding": self.padding}


@keras.utils.register_keras_serializable(package="vggish_keras")
class ExampleMask(keras.layers.Layer):
    """Computes the mask of the examples within each clip's length.

    Call it on inputs of `LogMelExamples` with "num_samples". The result is bool [batch, examples].
    """

    def __init__(self, hop_seconds: float, padding: Padding, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hop_seconds = hop_seconds
        self.padding = padding

    def call(self, inputs: dict[str, tf.Tensor]) -> tf.Tensor:
        waveform, num_samples = _split(inputs)
        hop_samples = hop_to_samples(self.hop_seconds)
        num_examples = count_examples(num_samples, hop_samples, self.padding)
        return tf.sequence_mask(num_examples, count_examples(_length(waveform), hop_samples, self.padding))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "hop_seconds": self.hop_seconds, "padding": self.padding}


def _split(inputs: Any) -> tuple[Any, Any]:
    """Returns the waveform and, if the input has it, num_samples."""
    if isinstance(inputs, dict):
        if set(inputs) != {"waveform", "num_samples"}:
            raise ValueError(f'expected "waveform" and "num_samples", got {sorted(inputs)}')
        return inputs["waveform"], inputs["num_samples"]
    return inputs, None


def _check_waveform(waveform: tf.Tensor) -> None:
    if waveform.shape.rank != 2:
        raise ValueError(f"expected waveforms of shape [batch, samples], got {waveform.shape}")
    if not waveform.dtype.is_floating:
        raise TypeError(f"expected float samples in [-1, 1], got {waveform.dtype.name}: divide PCM by its full scale")


def _length(waveform: tf.Tensor) -> Any:
    """Returns the samples per clip: an int if it is known while tracing."""
    static = waveform.shape[1]
    return tf.shape(waveform)[1] if static is None else int(static)


def silence_beyond(waveform: tf.Tensor, num_samples: tf.Tensor) -> tf.Tensor:
    """Replaces samples beyond each clip's own length by zeros, even NaN.

    Args:
        waveform: float32 [batch, samples].
        num_samples: Integers [batch].

    Returns:
        float32 [batch, samples].

    Raises:
        tf.errors.InvalidArgumentError: `num_samples` has an unexpected length, or a value is negative or beyond
            `samples`.
    """
    clips, samples = tf.unstack(tf.shape(waveform, num_samples.dtype))
    one_per_clip = "num_samples must hold one length per clip"
    outside = "num_samples must lie between 0 and the length of the waveform"
    checks = [
        tf.debugging.assert_equal(tf.size(num_samples, num_samples.dtype), clips, one_per_clip),
        tf.debugging.assert_non_negative(num_samples, outside),
        tf.debugging.assert_less_equal(num_samples, samples, outside),
    ]
    with tf.control_dependencies(checks):
        inside = tf.sequence_mask(num_samples, samples)
    return tf.where(inside, waveform, 0.0)

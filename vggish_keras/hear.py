"""The API of HEAR 2021, the Holistic Evaluation of Audio Representations.

Validate it with `hear-validator vggish_keras.hear [--model WEIGHTS]`.
"""

import tensorflow as tf
from numpy.typing import ArrayLike

from vggish_keras import params
from vggish_keras._fork import check_not_forked
from vggish_keras._validation import PathLike
from vggish_keras.frontend import LogMelExamples
from vggish_keras.model import VGGish

TIMESTAMP_HOP_MS = 50.0
"""The longest hop that HEAR recommends, because of the tolerance of its transcription tasks."""

_BATCH_SIZE = 64


class HearModel(tf.Module):
    """VGGish with the attributes that HEAR requires, as returned by `load_model`.

    Args:
        weights: As in `VGGish`; None for random weights.

    Attributes:
        sample_rate: The sample rate of its input in Hz.
        scene_embedding_size: The size of a scene embedding.
        timestamp_embedding_size: The size of a timestamp embedding.

    Examples:
        >>> from vggish_keras import hear
        >>> hear.HearModel.sample_rate, hear.HearModel.scene_embedding_size
        (16000, 128)
    """

    sample_rate: int = params.SAMPLE_RATE
    scene_embedding_size: int = params.EMBEDDING_SIZE
    timestamp_embedding_size: int = params.EMBEDDING_SIZE

    def __init__(self, weights: PathLike | None) -> None:
        super().__init__(name="vggish")
        self._network = VGGish(weights, input="examples")
        signature = [tf.TensorSpec([None, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS], tf.float32)]
        self._embed_batch = tf.function(lambda examples: self._network(examples, training=False), signature)

    def embed_examples(self, examples: tf.Tensor) -> tf.Tensor:
        """Embeds log-mel examples [n, 96, 64] in batches: float32 [n, 128]."""
        batches = range(0, int(examples.shape[0]), _BATCH_SIZE)
        return tf.concat([self._embed_batch(examples[start : start + _BATCH_SIZE]) for start in batches], axis=0)


def load_model(model_file_path: str = "") -> HearModel:
    """Loads the model.

    Args:
        model_file_path: Weights as `VGGish` accepts them. Defaults to the published ones.

    Returns:
        The model, for the other functions of this module.

    Raises:
        FileNotFoundError: The file does not exist, or the published weights are not available.
        ValueError: The weights do not fit the model.

    Examples:
        >>> from vggish_keras import hear
        >>> vk.save_slim_checkpoint(model, "vggish.ckpt")
        >>> hear_model = hear.load_model("vggish.ckpt")
        >>> embeddings, timestamps = hear.get_timestamp_embeddings(np.zeros((2, 16_000)), hear_model)
        >>> embeddings.shape
        TensorShape([2, 21, 128])
    """
    return HearModel(model_file_path or params.AUDIOSET)


def get_timestamp_embeddings(
    audio: ArrayLike | tf.Tensor, model: HearModel, hop_size: float = TIMESTAMP_HOP_MS
) -> tuple[tf.Tensor, tf.Tensor]:
    """Embeds sounds at regular timestamps.

    Each embedding covers the 0.975 s around its timestamp. Sounds are padded with silence at both ends.

    Args:
        audio: Floats [n_sounds, n_samples] in [-1, 1] at 16 kHz.
        model: As returned by `load_model`.
        hop_size: Milliseconds between timestamps, a multiple of 10.

    Returns:
        Embeddings, float32 [n_sounds, n_timestamps, 128], and timestamps, float32 [n_sounds, n_timestamps], the
        centers of what each embedding covers, in milliseconds. The first is 0, the last is not beyond the end.

    Raises:
        ValueError: The shape of `audio` is invalid, or `hop_size` is not a multiple of 10.
        TypeError: `audio` does not hold floats.

    Examples:
        >>> from vggish_keras import hear
        >>> hear_model = hear.HearModel(weights=None)  # random weights, to be quick
        >>> embeddings, timestamps = hear.get_timestamp_embeddings(np.zeros((1, 16_000)), hear_model, hop_size=500)
        >>> embeddings.shape
        TensorShape([1, 3, 128])
        >>> timestamps.numpy().tolist()
        [[0.0, 500.0, 1000.0]]
    """
    half = params.EXAMPLE_SAMPLES // 2
    front_end = LogMelExamples(hop_size / 1_000)
    padded = tf.pad(_check_audio(audio), [[0, 0], [half, half]])
    embeddings = tf.stack([model.embed_examples(front_end(sound[tf.newaxis])[0]) for sound in padded])
    timestamps = hop_size * tf.range(embeddings.shape[1], dtype=tf.float32)
    return embeddings, tf.repeat(timestamps[tf.newaxis], embeddings.shape[0], axis=0)


def get_scene_embeddings(audio: ArrayLike | tf.Tensor, model: HearModel) -> tf.Tensor:
    """Embeds whole sounds: the mean over consecutive examples.

    Args:
        audio: Floats [n_sounds, n_samples] in [-1, 1] at 16 kHz.
        model: As returned by `load_model`.

    Returns:
        float32 [n_sounds, 128].

    Raises:
        ValueError: The shape of `audio` is invalid.
        TypeError: `audio` does not hold floats.

    Examples:
        >>> from vggish_keras import hear
        >>> hear_model = hear.HearModel(weights=None)  # random weights, to be quick
        >>> hear.get_scene_embeddings(np.zeros((2, 16_000)), hear_model).shape
        TensorShape([2, 128])
    """
    front_end = LogMelExamples()
    sounds = [model.embed_examples(front_end(sound[tf.newaxis])[0]) for sound in _check_audio(audio)]
    return tf.stack([tf.reduce_mean(embeddings, axis=0) for embeddings in sounds])


def _check_audio(audio: ArrayLike | tf.Tensor) -> tf.Tensor:
    check_not_forked()
    audio = tf.convert_to_tensor(audio)
    if not audio.dtype.is_floating:
        raise TypeError(f"expected float samples in [-1, 1], got {audio.dtype.name}: divide PCM by its full scale")
    if audio.shape.rank != 2 or not audio.shape[0]:
        raise ValueError(f"expected audio of shape [n_sounds, n_samples] with at least one sound, got {audio.shape}")
    return tf.cast(audio, tf.float32)

"""The common API of HEAR 2021, Holistic Evaluation of Audio Representations.

`hear-validator vggish_keras.hear [--model WEIGHTS]` checks it.
"""

from typing import Any

import tensorflow as tf

from vggish_keras import params
from vggish_keras._fork import check_process
from vggish_keras._validation import PathLike
from vggish_keras.frontend import LogMelExamples
from vggish_keras.model import VGGish

TIMESTAMP_HOP_MS = 50.0
"""The longest that HEAR advises, for the tolerance of its transcription tasks."""

_BATCH_SIZE = 64


class HearModel(tf.Module):
    """VGGish with the attributes that HEAR asks for; `load_model` makes it.

    Attributes:
        sample_rate: Hz, of the audio that it takes.
        scene_embedding_size: Values of a scene embedding.
        timestamp_embedding_size: Values of a timestamp embedding.
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
        """[n, 96, 64] -> [n, 128], batch by batch."""
        batches = range(0, int(examples.shape[0]), _BATCH_SIZE)
        return tf.concat([self._embed_batch(examples[start : start + _BATCH_SIZE]) for start in batches], axis=0)


def load_model(model_file_path: str = "") -> HearModel:
    """Loads the model.

    Args:
        model_file_path: A TF-Slim checkpoint or Keras weights file; by default the published weights.

    Raises:
        FileNotFoundError: There are no such weights, or the published ones cannot be had.
        ValueError: They do not fit.
    """
    return HearModel(model_file_path or params.AUDIOSET)


def get_timestamp_embeddings(
    audio: Any, model: HearModel, hop_size: float = TIMESTAMP_HOP_MS
) -> tuple[tf.Tensor, tf.Tensor]:
    """Embeds sounds at regular times.

    Each embedding hears 0.975 s around its timestamp; beyond the ends of a sound there is silence.

    Args:
        audio: float32 [sounds, samples] in [-1, 1] at 16 kHz.
        model: Of `load_model`.
        hop_size: Milliseconds between timestamps, a multiple of 10.

    Returns:
        Embeddings, float32 [sounds, timestamps, 128]; and the timestamps, float32 [sounds, timestamps]: the centres of
        what was heard, in milliseconds, the first at 0 and the last not beyond the end.

    Raises:
        ValueError: `audio` has another shape, or `hop_size` is no multiple of 10.
    """
    half = params.EXAMPLE_SAMPLES // 2
    front_end = LogMelExamples(hop_size / 1_000)
    padded = tf.pad(_checked(audio), [[0, 0], [half, half]])
    embeddings = tf.stack([model.embed_examples(front_end(sound[tf.newaxis])[0]) for sound in padded])
    timestamps = hop_size * tf.range(embeddings.shape[1], dtype=tf.float32)
    return embeddings, tf.repeat(timestamps[tf.newaxis], embeddings.shape[0], axis=0)


def get_scene_embeddings(audio: Any, model: HearModel) -> tf.Tensor:
    """Embeds whole sounds: the mean over examples that follow each other.

    Args:
        audio: float32 [sounds, samples] in [-1, 1] at 16 kHz.
        model: Of `load_model`.

    Returns:
        float32 [sounds, 128].

    Raises:
        ValueError: `audio` has another shape.
    """
    front_end = LogMelExamples(padding="same")
    sounds = [model.embed_examples(front_end(sound[tf.newaxis])[0]) for sound in _checked(audio)]
    return tf.stack([tf.reduce_mean(embeddings, axis=0) for embeddings in sounds])


def _checked(audio: Any) -> tf.Tensor:
    check_process()
    audio = tf.convert_to_tensor(audio, tf.float32)
    if audio.shape.rank != 2 or not audio.shape[0]:
        raise ValueError(f"expected audio of shape [sounds, samples], with at least one sound, got {audio.shape}")
    return audio

"""What the SavedModel computes: the call of the reusable module, and its signatures."""

from typing import Any

import tensorflow as tf
from tensorflow import keras

from vggish_keras import params
from vggish_keras.exporting import graph_resample, graph_wav
from vggish_keras.exporting.classifier_head import Head
from vggish_keras.framing import count_examples
from vggish_keras.frontend import LogMelExamples, silence_beyond
from vggish_keras.network import FoldExamples, UnfoldExamples, nested_models, network_layers, slim_variables
from vggish_keras.postprocess import Postprocess

_BATCH_SIZE = 64
# Clips are laid end to end in steps of the spectrogram; an example takes as many as its last frame reaches into.
_STEP = params.STFT_HOP_SAMPLES
_STEPS_OF_EXAMPLE = -(-params.EXAMPLE_SAMPLES // _STEP)
# The output of `wav` has a row for each clip and each example of the longest one. Bounded by the examples that exist,
# it cannot grow far beyond the request; up to this many clips never reach the bound.
_MAX_ROWS_PER_EXAMPLE = 64


class ServedModel:
    """What the SavedModel computes."""

    def __init__(self, model: Any, postprocess: Postprocess | None, head: Head | None = None) -> None:
        layers = network_layers(model)
        every = (layer for nested in nested_models(model) for layer in nested.layers)
        self._front_end = next((layer for layer in every if isinstance(layer, LogMelExamples)), LogMelExamples())
        self._network = keras.Model(layers["conv1"].input, layers["fc2"].output)
        self._fold, self._unfold = FoldExamples(dtype="float32"), UnfoldExamples()
        self._postprocess = postprocess
        self._head = head
        self._trainable = list(slim_variables(model).values())
        self._frozen = [] if postprocess is None else list(postprocess.weights)
        if head is not None:
            for variable in model.variables:
                if not any(variable is known for known in self._trainable):
                    (self._trainable if variable.trainable else self._frozen).append(variable)

    def reusable(self) -> tf.train.Checkpoint:
        """What is saved: functions and variables, nothing of Keras."""

        @tf.function
        def call(waveform: tf.Tensor, training: bool = False) -> tf.Tensor:
            if waveform.shape.rank == 1:
                return self.call(waveform[tf.newaxis], training)[0]
            return self.call(waveform, training)

        for shape in ([None], [None, None]):
            for training in (False, True):
                call.get_concrete_function(tf.TensorSpec(shape, tf.float32, "waveform"), training=training)
        module = tf.train.Checkpoint()
        # hub.KerasLayer finds variables in these lists alone; Keras 3 wraps its own.
        module.trainable_variables = [_plain(variable) for variable in self._trainable]
        module.variables = [_plain(variable) for variable in [*self._trainable, *self._frozen]]
        module.regularization_losses = []
        module.__call__ = call
        return module

    def signatures(self) -> dict[str, Any]:
        waveform = tf.TensorSpec([None, None], tf.float32, "waveform")
        num_samples = tf.TensorSpec([None], tf.int32, "num_samples")
        examples = tf.TensorSpec([None, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS], tf.float32, "examples")
        return {
            "serving_default": tf.function(self.serving_default, [waveform]),
            "padded": tf.function(self.padded, [waveform, num_samples]),
            "wav": tf.function(self.wav, [tf.TensorSpec([None], tf.string, "audio")]),
            "examples": tf.function(self.examples, [examples]),
        }

    def call(self, waveform: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[batch, samples] -> [batch, n, 128], or the scores."""
        embedding = self.embed_waveforms(waveform, training)
        return embedding if self._head is None else self._head(embedding, training=training)

    def embed_waveforms(self, waveform: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[batch, samples] -> [batch, n, 128]."""
        return self._embed_examples(self._front_end(waveform), training)

    def _embed_examples(self, examples: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._unfold([self._network(self._fold(examples), training=training), examples])

    def _embed_in_batches(self, steps: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
        """Embeds examples in bounded memory: the activations of one take megabytes.

        Args:
            steps: float32 [steps, 160], clips one after the other.
            starts: int64 [n], the first step of each example.
            ends: int64 [n], the end of each example's clip; silence stands in for what is beyond.

        Returns:
            float32 [n, 128].
        """
        batches = tf.TensorArray(
            tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=[None, params.EMBEDDING_SIZE]
        )
        for first in tf.range(0, tf.size(starts), _BATCH_SIZE):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            batch = slice(first, first + _BATCH_SIZE)
            index = starts[batch, tf.newaxis] + tf.range(_STEPS_OF_EXAMPLE, dtype=tf.int64)
            inside = index < ends[batch, tf.newaxis]
            segments = tf.where(inside[..., tf.newaxis], tf.gather(steps, tf.where(inside, index, 0)), 0.0)
            segments = tf.reshape(segments, [-1, _STEPS_OF_EXAMPLE * _STEP])
            embedding = self._embed_examples(self._front_end.log_mel(segments))
            batches = batches.write(first // _BATCH_SIZE, embedding)
        return batches.concat()

    # === Signatures ===

    def serving_default(self, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        # A server hands on tensors of any rank.
        waveform = self._require_samples(tf.ensure_shape(waveform, [None, None]))
        return self._outputs(self.embed_waveforms(waveform))

    def examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        examples = tf.ensure_shape(examples, [None, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS])
        return {"embedding": self._embed_examples(examples)}

    def padded(self, waveform: tf.Tensor, num_samples: tf.Tensor) -> dict[str, tf.Tensor]:
        waveform = self._require_samples(tf.ensure_shape(waveform, [None, None]))
        num_samples = tf.ensure_shape(num_samples, [None])
        clips, samples = tf.unstack(tf.shape(waveform))
        waveform = silence_beyond(waveform, num_samples)
        steps_of_clip = _count_steps(samples)
        padded = tf.pad(waveform, [[0, 0], [0, steps_of_clip * _STEP - samples]])
        starts = tf.range(tf.cast(clips, tf.int64)) * tf.cast(steps_of_clip, tf.int64)
        return self._embed_clips(tf.reshape(padded, [-1, _STEP]), starts, num_samples, self._count_examples(samples))

    def wav(self, audio: tf.Tensor) -> dict[str, tf.Tensor]:
        audio = tf.ensure_shape(audio, [None])
        headers = graph_wav.read_headers(audio)
        num_samples = tf.cast(headers.frames * params.SAMPLE_RATE // headers.sample_rate, tf.int32)
        num_examples = self._count_examples(num_samples)
        most = tf.reduce_max(tf.concat([[0], num_examples], 0))
        with tf.control_dependencies([_check_rows(num_examples, most)]):
            rates, rate_of_clip = tf.unique(headers.sample_rate)
        steps = tf.TensorArray(tf.float32, tf.size(audio), infer_shape=False, element_shape=[None, _STEP])
        outputs = tf.cast(num_samples, tf.int64)
        for index in tf.range(tf.size(rates)):
            # The filters of a rate are made once for all its clips.
            clips = tf.where(rate_of_clip == index)[:, 0]
            bank = graph_resample.filter_bank(rates[index], tf.reduce_sum(tf.gather(outputs, clips)))
            for clip in clips:
                samples = graph_wav.read_samples(audio, headers, clip)
                waveform = graph_resample.resample(samples, bank)
                padded = tf.pad(waveform, [[0, _count_steps(num_samples[clip]) * _STEP - num_samples[clip]]])
                steps = steps.write(tf.cast(clip, tf.int32), tf.reshape(padded, [-1, _STEP]))
        starts = tf.cumsum(tf.cast(_count_steps(num_samples), tf.int64), exclusive=True)
        return self._embed_clips(steps.concat(), starts, num_samples, most)

    def _embed_clips(
        self, steps: tf.Tensor, starts: tf.Tensor, num_samples: tf.Tensor, most: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Embeds clips so that nothing is computed for padding.

        Args:
            steps: float32 [steps, 160], the clips one after the other, each filled up with silence.
            starts: int64 [clips], the first step of each.
            num_samples: int32 [clips].
            most: The number of examples that the output has room for, int32.
        """
        num_examples = self._count_examples(num_samples)
        mask = tf.sequence_mask(num_examples, most)
        where = tf.where(mask)
        clips, examples = where[:, 0], where[:, 1]
        example_starts = tf.gather(starts, clips) + examples * self._front_end.hop_frames
        ends = tf.gather(starts + tf.cast(_count_steps(num_samples), tf.int64), clips)
        existing = self._embed_in_batches(steps, example_starts, ends)
        shape = tf.concat([tf.shape(mask, tf.int64), [params.EMBEDDING_SIZE]], 0)
        embedding = tf.scatter_nd(where, existing, shape)
        return {**self._outputs(embedding, mask), "num_examples": num_examples}

    def _require_samples(self, waveform: tf.Tensor) -> tf.Tensor:
        """Refuses clips that cost an example each and their sender nothing: padding makes examples of no samples."""
        if self._front_end.padding == "valid":
            return waveform
        clips, samples = tf.unstack(tf.shape(waveform))
        has_samples = tf.debugging.Assert((clips == 0) | (samples > 0), ["waveform must have samples, got none"])
        with tf.control_dependencies([has_samples]):
            return tf.identity(waveform)

    def _count_examples(self, num_samples: tf.Tensor) -> tf.Tensor:
        return count_examples(num_samples, self._front_end.hop_samples, self._front_end.padding)

    def _outputs(self, embedding: tf.Tensor, mask: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        outputs = {"embedding": embedding}
        if self._postprocess is not None:
            outputs["quantized"] = self._postprocess(embedding, mask=mask)
        if self._head is not None:
            outputs["scores"] = self._head(embedding, mask)
        return outputs


def _count_steps(num_samples: tf.Tensor) -> tf.Tensor:
    return -(-num_samples // _STEP)


def _check_rows(num_examples: tf.Tensor, most: tf.Tensor) -> tf.Operation:
    """An assertion that the rows of the output are not many more than the examples [clips] that exist."""
    existing = tf.reduce_sum(tf.cast(num_examples, tf.int64))
    rows = tf.size(num_examples, tf.int64) * tf.cast(most, tf.int64)
    message = tf.strings.format(
        "audio would make an embedding of {} rows for {} examples, more than "
        f"{_MAX_ROWS_PER_EXAMPLE} times as many: send at most {_MAX_ROWS_PER_EXAMPLE} clips at a time, or long clips "
        "apart from short ones",
        (rows, existing),
    )
    return tf.debugging.Assert(rows <= _MAX_ROWS_PER_EXAMPLE * existing, [message])


def _plain(variable: Any) -> tf.Variable:
    """The variable that a Keras 3 variable wraps; one of Keras 2 is itself."""
    return variable if isinstance(variable, tf.Variable) else variable.value

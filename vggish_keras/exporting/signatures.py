"""The computations of an exported SavedModel: its call and its signatures.

`padded` and `wav` accept clips of different lengths, and run the network only on examples that exist. Clips are laid
end to end in one tensor of 10 ms steps, with silence up to the end of each clip's last step. Every example is gathered
from this tensor:

    steps     A A A A A A A B B B C C C C
    examples  [ A0  ]       [ B0  ]
                    [ A1  ]       [ C0  ]

So a batch of examples may come from several clips, and none is computed for padding. (Here an example spans 4 steps and
the hop is 3; in fact an example spans 97.5 steps, so 98 are gathered.) An example never reads the clip after its own:
steps beyond the end of its clip, such as the last step of B0, are replaced with silence. The embeddings are then
scattered to their rows of [clips, n, 128].
"""

import math
from typing import Any

import tensorflow as tf

from vggish_keras import params
from vggish_keras._hashing import hash_variables
from vggish_keras._keras import keras
from vggish_keras.exported_options import ExportedOptions
from vggish_keras.exporting import graph_resample, graph_wav
from vggish_keras.exporting.classifier_head import ClassifierHead
from vggish_keras.exporting.graph_resample import ceil_div
from vggish_keras.framing import count_examples
from vggish_keras.frontend import LogMelExamples, silence_beyond
from vggish_keras.network import FoldExamples, UnfoldExamples, nested_models, network_layers, unquantized_variables
from vggish_keras.postprocess import Postprocess

_BATCH_SIZE = 64
_STEP = params.STFT_HOP_SAMPLES
_STEPS_PER_EXAMPLE = math.ceil(params.EXAMPLE_SAMPLES / _STEP)
# The output of `wav` has a row for each clip and each example of the longest one. Bounded by the examples that exist,
# it cannot grow far beyond the request; batches of at most this many clips never reach the bound.
_MAX_ROWS_PER_EXAMPLE = 64


class ServedModel:
    """The functions of a SavedModel, and what other exports take from the model.

    Args:
        model: A Keras model that contains a VGGish.
        postprocess: The layer that computes the output `quantized` or `pca`.
        head: The layers that compute the output `scores`.

    Attributes:
        options: How recordings are cut into examples.
        network: The network's variables by their names in TF-Slim.
        dtype: What the network computes in.
        postprocess: As passed.
        head: As passed.
    """

    def __init__(
        self, model: keras.Model, postprocess: Postprocess | None = None, head: ClassifierHead | None = None
    ) -> None:
        layers = network_layers(model)
        all_layers = (layer for nested in nested_models(model) for layer in nested.layers)
        self._front_end = next((layer for layer in all_layers if isinstance(layer, LogMelExamples)), LogMelExamples())
        self._network = keras.Model(layers["conv1"].input, layers["fc2"].output)
        self._fold, self._unfold = FoldExamples(dtype="float32"), UnfoldExamples()
        self.postprocess = postprocess
        self.head = head
        padding = self._front_end.padding
        self.options = ExportedOptions(self._front_end.hop_samples / params.SAMPLE_RATE, padding)
        self.network = unquantized_variables(model)
        self.dtype: str = layers["conv1"].compute_dtype
        self._trainable = list(self.network.values())
        self._frozen = [] if postprocess is None else list(postprocess.weights)
        if head is not None:
            for variable in model.variables:
                if not any(variable is known for known in self._trainable):
                    (self._trainable if variable.trainable else self._frozen).append(variable)

    @property
    def all_variables(self) -> list[Any]:
        return [*self._trainable, *self._frozen]

    def identities(self) -> dict[str, str]:
        """Output name -> what identifies the weights that it depends on."""
        network = list(self.network.values())
        variables = {"embedding": network}
        if self.postprocess is not None:
            variables["quantized" if self.postprocess.quantize else "pca"] = [*network, *self.postprocess.weights]
        if self.head is not None:
            variables["scores"] = self.all_variables
        return {name: hash_variables(used) for name, used in variables.items()}

    def reusable(self) -> tf.train.Checkpoint:
        """The object to save: functions and variables, without any Keras object."""

        def call(waveform: tf.Tensor, training: bool = False) -> tf.Tensor:
            if waveform.shape.rank == 1:
                return self.call(waveform[tf.newaxis], training)[0]
            return self.call(waveform, training)

        traced = tf.function(call)
        for shape in ([None], [None, None]):
            for training in (False, True):
                traced.get_concrete_function(tf.TensorSpec(shape, tf.float32, "waveform"), training=training)
        module = tf.train.Checkpoint()
        # hub.KerasLayer finds variables only in these lists, and not those that Keras 3 wraps.
        module.trainable_variables = [plain_variable(variable) for variable in self._trainable]
        module.variables = [plain_variable(variable) for variable in self.all_variables]
        module.regularization_losses = []
        module.__call__ = traced
        return module

    def signatures(self) -> dict[str, Any]:
        """Signature name -> `tf.function`."""
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
        """[batch, samples] -> [batch, n, 128], or the scores of a classifier."""
        embedding = self.embed_waveforms(waveform, training)
        return embedding if self.head is None else self.head(embedding, training=training)

    def embed_waveforms(self, waveform: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[batch, samples] -> [batch, n, 128]."""
        return self._embed_examples(self._front_end(waveform), training)

    def _embed_examples(self, examples: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._unfold([self._network(self._fold(examples), training=training), examples])

    def _embed_in_batches(self, steps: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
        """Embeds examples in bounded memory: the activations of a single example take megabytes.

        Args:
            steps: float32 [steps, 160], clips end to end.
            starts: int64 [n], the first step of each example.
            ends: int64 [n], the end of each example's clip; steps beyond it are read as silence.

        Returns:
            float32 [n, 128].
        """
        batches = tf.TensorArray(
            tf.float32, 0, dynamic_size=True, infer_shape=False, element_shape=[None, params.EMBEDDING_SIZE]
        )
        for first in tf.range(0, tf.size(starts), _BATCH_SIZE):
            tf.autograph.experimental.set_loop_options(parallel_iterations=1)
            batch = slice(first, first + _BATCH_SIZE)
            index = starts[batch, tf.newaxis] + tf.range(_STEPS_PER_EXAMPLE, dtype=tf.int64)
            inside = index < ends[batch, tf.newaxis]
            segments = tf.where(inside[..., tf.newaxis], tf.gather(steps, tf.where(inside, index, 0)), 0.0)
            segments = tf.reshape(segments, [-1, _STEPS_PER_EXAMPLE * _STEP])
            embedding = self._embed_examples(self._front_end.log_mel(segments))
            batches = batches.write(first // _BATCH_SIZE, embedding)
        return batches.concat()

    # === Signatures ===

    def serving_default(self, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        # A server passes on tensors of any rank.
        waveform = self._require_samples(tf.ensure_shape(waveform, [None, None]))
        return self.outputs(self.embed_waveforms(waveform))

    def examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        examples = tf.ensure_shape(examples, [None, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS])
        return {"embedding": self._embed_examples(examples)}

    def padded(self, waveform: tf.Tensor, num_samples: tf.Tensor) -> dict[str, tf.Tensor]:
        waveform = self._require_samples(tf.ensure_shape(waveform, [None, None]))
        num_samples = tf.ensure_shape(num_samples, [None])
        clips, samples = tf.unstack(tf.shape(waveform))
        waveform = silence_beyond(waveform, num_samples)
        steps_per_clip = _count_steps(samples)
        padded = tf.pad(waveform, [[0, 0], [0, steps_per_clip * _STEP - samples]])
        starts = tf.range(tf.cast(clips, tf.int64)) * tf.cast(steps_per_clip, tf.int64)
        return self._embed_clips(tf.reshape(padded, [-1, _STEP]), starts, num_samples, self._count_examples(samples))

    def wav(self, audio: tf.Tensor) -> dict[str, tf.Tensor]:
        audio = tf.ensure_shape(audio, [None])
        headers = graph_wav.read_headers(audio)
        num_samples = tf.cast(headers.frames * params.SAMPLE_RATE // headers.sample_rate, tf.int32)
        num_examples = self._count_examples(num_samples)
        max_examples = tf.reduce_max(tf.concat([[0], num_examples], 0))
        with tf.control_dependencies([_check_rows(num_examples, max_examples)]):
            rates, rate_of_clip = tf.unique(headers.sample_rate)
        steps = tf.TensorArray(tf.float32, tf.size(audio), infer_shape=False, element_shape=[None, _STEP])
        outputs = tf.cast(num_samples, tf.int64)
        for index in tf.range(tf.size(rates)):
            # All clips of a sample rate share its filters.
            clips = tf.where(rate_of_clip == index)[:, 0]
            bank = graph_resample.filter_bank(rates[index], tf.reduce_sum(tf.gather(outputs, clips)))
            for clip in clips:
                samples = graph_wav.read_samples(audio, headers, clip)
                waveform = graph_resample.resample(samples, bank)
                padded = tf.pad(waveform, [[0, _count_steps(num_samples[clip]) * _STEP - num_samples[clip]]])
                steps = steps.write(tf.cast(clip, tf.int32), tf.reshape(padded, [-1, _STEP]))
        starts = tf.cumsum(tf.cast(_count_steps(num_samples), tf.int64), exclusive=True)
        return self._embed_clips(steps.concat(), starts, num_samples, max_examples)

    def _embed_clips(
        self, steps: tf.Tensor, starts: tf.Tensor, num_samples: tf.Tensor, max_examples: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Embeds the examples that exist, as the module docstring describes.

        Args:
            steps: float32 [steps, 160], the clips end to end, each padded with silence.
            starts: int64 [clips], the first step of each clip.
            num_samples: int32 [clips].
            max_examples: Examples per clip in the outputs, int32.
        """
        num_examples = self._count_examples(num_samples)
        mask = tf.sequence_mask(num_examples, max_examples)
        where = tf.where(mask)
        clips, examples = where[:, 0], where[:, 1]
        example_starts = tf.gather(starts, clips) + examples * self._front_end.hop_frames
        ends = tf.gather(starts + tf.cast(_count_steps(num_samples), tf.int64), clips)
        existing = self._embed_in_batches(steps, example_starts, ends)
        shape = tf.concat([tf.shape(mask, tf.int64), [params.EMBEDDING_SIZE]], 0)
        embedding = tf.scatter_nd(where, existing, shape)
        return {**self.outputs(embedding, mask), "num_examples": num_examples, "times": self._times(mask)}

    def _times(self, mask: tf.Tensor) -> tf.Tensor:
        """The start of each example in seconds, float32 [clips, n], zero where `mask` is False."""
        index = tf.range(tf.cast(tf.shape(mask)[1], tf.float64))
        times = tf.cast(index * self._front_end.hop_samples / params.SAMPLE_RATE, tf.float32)
        return tf.where(mask, times, 0.0)

    def _require_samples(self, waveform: tf.Tensor) -> tf.Tensor:
        """Rejects clips without samples if padding makes them examples: they would cost the server, not the sender."""
        if self._front_end.padding == "valid":
            return waveform
        clips, samples = tf.unstack(tf.shape(waveform))
        has_samples = tf.debugging.Assert((clips == 0) | (samples > 0), ["waveform must have samples, got none"])
        with tf.control_dependencies([has_samples]):
            return tf.identity(waveform)

    def _count_examples(self, num_samples: tf.Tensor) -> tf.Tensor:
        return count_examples(num_samples, self._front_end.hop_samples, self._front_end.padding)

    def outputs(self, embedding: tf.Tensor, mask: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """[batch, n, 128] -> the outputs of the waveform signatures; examples where `mask` is False are ignored."""
        outputs = {"embedding": embedding}
        if self.postprocess is not None:
            outputs["quantized" if self.postprocess.quantize else "pca"] = self.postprocess(embedding, mask=mask)
        if self.head is not None:
            outputs["scores"] = self.head(embedding, mask)
        return outputs


def _count_steps(num_samples: tf.Tensor) -> tf.Tensor:
    return ceil_div(num_samples, _STEP)


def _check_rows(num_examples: tf.Tensor, max_examples: tf.Tensor) -> tf.Operation:
    """Asserts that the rows of the output do not far outnumber the examples [clips]."""
    existing = tf.reduce_sum(tf.cast(num_examples, tf.int64))
    rows = tf.size(num_examples, tf.int64) * tf.cast(max_examples, tf.int64)
    message = tf.strings.format(
        "the embedding of this audio would have {} rows for {} examples, more than "
        f"{_MAX_ROWS_PER_EXAMPLE} times as many: send at most {_MAX_ROWS_PER_EXAMPLE} clips per request, or send long "
        "and short clips separately",
        (rows, existing),
    )
    return tf.debugging.Assert(rows <= _MAX_ROWS_PER_EXAMPLE * existing, [message])


def plain_variable(variable: Any) -> tf.Variable:
    """Returns the `tf.Variable` that a Keras 3 variable wraps; variables of Keras 2 are `tf.Variable`s already.

    Raises:
        ValueError: It is no variable: LoRA computes the kernels of a layer.
    """
    if isinstance(variable, tf.Tensor):
        raise ValueError(
            "a layer of VGGish uses LoRA, which cannot be exported: write the merged weights with "
            "save_slim_checkpoint, and export a model without LoRA that loads them"
        )
    return variable if isinstance(variable, tf.Variable) else variable.value

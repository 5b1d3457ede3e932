"""The reusable SavedModel: one artefact for TF Hub, hub.KerasLayer, TF Serving and plain TensorFlow."""

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow import keras

from vggish_keras import graph_resample, params, weights as weights_lib
from vggish_keras.frontend import ExampleMask, LogMelExamples
from vggish_keras.model import VGGish
from vggish_keras.network import FoldExamples, UnfoldExamples
from vggish_keras.postprocess import Postprocess

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 4_000, 192_000
"""Hz, of the WAV bytes that the `wav` signature takes."""
WARMUP_REQUESTS = Path("assets.extra") / "tf_serving_warmup_requests"


def export_saved_model(
    model: Any,
    path: weights_lib.PathLike,
    postprocess: weights_lib.PcaParams | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a SavedModel that needs TensorFlow alone.

    It is callable on waveforms, can be fine-tuned through `hub.KerasLayer`, and has the signatures serving_default,
    padded, wav and examples. It appears at `path` when it is complete, with warm-up requests for TF Serving if
    tensorflow-serving-api is installed.

    Args:
        model: A Keras model that contains a VGGish; or weights as `VGGish` takes them, for one with its defaults. The
            distance of examples and the padding are the model's.
        path: The folder to write. For TF Serving its last part is a version number.
        postprocess: PCA parameters as `Postprocess` takes them, for the output `quantized`; None for none.
        overwrite: True replaces what is at `path`.

    Returns:
        `path`.

    Raises:
        FileExistsError: There is something at `path`, and `overwrite` is False.
        FileNotFoundError: No such weights or PCA parameters, or the published ones cannot be had.
        ValueError: Weights or PCA parameters that do not fit, or a model without VGGish.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: give another path, or overwrite it")
    if not isinstance(model, keras.Model):
        model = VGGish(model)
    functions = _Functions(model, None if postprocess is None else Postprocess(postprocess))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / "new"
        tf.saved_model.save(functions.reusable(), str(written), signatures=functions.signatures())
        _write_warmup(written)
        old = Path(folder) / "old"
        if path.exists():
            path.rename(old)
        try:
            written.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    return path


class _Functions:
    """What the SavedModel computes."""

    def __init__(self, model: Any, postprocess: Postprocess | None) -> None:
        layers = weights_lib.network_layers(model)
        front_ends = [layer for layer in layers.values() if isinstance(layer, LogMelExamples)]
        self._front_end = front_ends[0] if front_ends else LogMelExamples()
        self._mask = ExampleMask(self._front_end.hop_seconds, self._front_end.padding)
        self._network = keras.Model(layers["conv1"].input, layers["fc2"].output)
        self._fold, self._unfold = FoldExamples(dtype="float32"), UnfoldExamples()
        self._postprocess = postprocess
        self._trainable = list(weights_lib.slim_variables(model).values())

    def reusable(self) -> tf.train.Checkpoint:
        """What is saved: functions and variables, nothing of Keras."""

        @tf.function
        def call(waveform: tf.Tensor, training: bool = False) -> tf.Tensor:
            if waveform.shape.rank == 1:
                return self.embed_waveforms(waveform[tf.newaxis], training)[0]
            return self.embed_waveforms(waveform, training)

        for shape in ([None], [None, None]):
            for training in (False, True):
                call.get_concrete_function(tf.TensorSpec(shape, tf.float32, "waveform"), training=training)
        module = tf.train.Checkpoint()
        # hub.KerasLayer finds variables in these lists alone; Keras 3 wraps its own.
        frozen = [] if self._postprocess is None else self._postprocess.weights
        module.trainable_variables = [_plain(variable) for variable in self._trainable]
        module.variables = [_plain(variable) for variable in [*self._trainable, *frozen]]
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

    def embed_waveforms(self, waveform: tf.Tensor, training: bool = False) -> tf.Tensor:
        """[batch, samples] -> [batch, n, 128]."""
        return self._embed_examples(self._front_end(waveform), training)

    def _embed_examples(self, examples: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self._unfold([self._network(self._fold(examples), training=training), examples])

    # === Signatures ===

    def serving_default(self, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        # A server hands on tensors of any rank.
        waveform = tf.ensure_shape(waveform, [None, None])
        return self._outputs(self.embed_waveforms(waveform))

    def examples(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        examples = tf.ensure_shape(examples, [None, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS])
        return {"embedding": self._embed_examples(examples)}

    def padded(self, waveform: tf.Tensor, num_samples: tf.Tensor) -> dict[str, tf.Tensor]:
        inputs = {
            "waveform": tf.ensure_shape(waveform, [None, None]),
            "num_samples": tf.ensure_shape(num_samples, [None]),
        }
        examples, mask = self._front_end(inputs), self._mask(inputs)
        # The network sees only the examples that exist.
        where = tf.where(mask)
        embedding = tf.scatter_nd(
            where,
            self._embed_examples(tf.gather_nd(examples, where)),
            tf.concat([tf.shape(mask, tf.int64), [params.EMBEDDING_SIZE]], 0),
        )
        num_examples = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
        return {**self._outputs(embedding, mask), "num_examples": num_examples}

    def wav(self, audio: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.padded(*_decode_batch(tf.ensure_shape(audio, [None])))

    def _outputs(self, embedding: tf.Tensor, mask: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        if self._postprocess is None:
            return {"embedding": embedding}
        return {"embedding": embedding, "quantized": self._postprocess(embedding, mask=mask)}


def _plain(variable: Any) -> tf.Variable:
    """The variable that a Keras 3 variable wraps; one of Keras 2 is itself."""
    return variable if isinstance(variable, tf.Variable) else variable.value


# === WAV bytes to waveforms ===


def _decode_batch(audio: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """WAV bytes, string [batch] -> waveforms at 16 kHz [batch, samples], num_samples int32 [batch]."""
    signature = (tf.RaggedTensorSpec([None], tf.float32, ragged_rank=0), tf.TensorSpec([], tf.int64))
    clips, rates = tf.map_fn(_decode, audio, fn_output_signature=signature)
    lengths = clips.row_lengths() * params.SAMPLE_RATE // rates
    # At least a sample, because TensorFlow scatters into nothing with an error.
    longest = tf.reduce_max(tf.concat([[1], lengths], 0))
    waveforms = tf.zeros([tf.size(rates, tf.int64), longest])
    for rate in tf.unique(rates).y:
        rows = tf.where(rates == rate)
        # The filters of a rate are made once for all its clips.
        resampled = graph_resample.resample(tf.gather(clips, rows[:, 0]).to_tensor(), rate)
        missing = tf.shape(waveforms)[1] - tf.shape(resampled)[1]
        waveforms = tf.tensor_scatter_nd_update(waveforms, rows, tf.pad(resampled, [[0, 0], [0, missing]]))
    return waveforms, tf.cast(lengths, tf.int32)


def _decode(content: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The bytes of one WAV file -> mono waveform [samples], sample rate."""
    start = tf.strings.substr(content, 0, tf.minimum(tf.strings.length(content), 12))
    is_wav = tf.strings.regex_full_match(start, rb"RIFF\C{4}WAVE")
    with tf.control_dependencies([tf.debugging.Assert(is_wav, ["audio must be the bytes of a 16-bit PCM WAV file"])]):
        samples, rate = tf.audio.decode_wav(content)
    message = f"the sample rate must lie between {MIN_SAMPLE_RATE} and {MAX_SAMPLE_RATE} Hz"
    checks = [
        tf.debugging.assert_greater_equal(rate, MIN_SAMPLE_RATE, message),
        tf.debugging.assert_less_equal(rate, MAX_SAMPLE_RATE, message),
    ]
    with tf.control_dependencies(checks):
        return tf.reduce_mean(samples, axis=1), tf.cast(rate, tf.int64)


# === Warm-up ===


def _write_warmup(path: Path) -> None:
    """One request per signature, which TF Serving sends itself before it answers others."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        warnings.warn("no warm-up requests: they need pip install vggish-keras[serving]", stacklevel=3)
        return
    waveform = tf.zeros([1, params.EXAMPLE_SAMPLES])
    requests = {
        "serving_default": {"waveform": waveform},
        "padded": {"waveform": waveform, "num_samples": tf.constant([params.EXAMPLE_SAMPLES])},
        "wav": {"audio": tf.audio.encode_wav(tf.zeros([44_100, 1]), 44_100)[tf.newaxis]},
        "examples": {"examples": tf.zeros([1, params.EXAMPLE_FRAMES, params.NUM_MEL_BANDS])},
    }
    (path / WARMUP_REQUESTS).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(os.fspath(path / WARMUP_REQUESTS)) as writer:
        for signature, inputs in requests.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.name = "vggish"
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value.numpy(), value.dtype, value.shape))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())

"""The exported SavedModel: one artifact for TF Hub, hub.KerasLayer, TF Serving and plain TensorFlow."""

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from vggish_keras import exported_options, params
from vggish_keras._atomic import replace
from vggish_keras._keras import keras
from vggish_keras._validation import PathLike, PcaParams, Postprocessing
from vggish_keras.class_names import CLASS_NAMES
from vggish_keras.exporting.preparation import check_target, take_apart, warn_if_padding_counts
from vggish_keras.exporting.signatures import ServedModel

WARMUP_REQUESTS = Path("assets.extra") / "tf_serving_warmup_requests"


def export_saved_model(
    model: keras.Model | PathLike,
    path: PathLike,
    postprocess: Postprocessing | None = None,
    overwrite: bool = False,
    *,
    class_names: Sequence[str] | None = None,
    pca_params: PcaParams = params.AUDIOSET,
) -> Path:
    """Writes a SavedModel that needs only TensorFlow.

    It is callable on waveforms, can be fine-tuned through `hub.KerasLayer`, and has the signatures serving_default,
    padded, wav and examples. It carries its hop and padding, and warm-up requests for TF Serving if
    tensorflow-serving-api is installed. The folder appears at `path` once it is complete.

    With `class_names` the model's own output is also exported: a call returns it instead of the embeddings, and the
    waveform signatures return it as `scores`. In `padded` and `wav`, padding does not affect the scores, whether or not
    the model was built with `lengths`, unless a layer, such as GlobalMaxPooling1D, ignores masks; a warning
    then says so.

    Args:
        model: A Keras model that contains a VGGish, whose hop and padding are exported; or weights as `VGGish` accepts
            them, for a model with its defaults.
        path: The folder to write. For TF Serving its last part is a version number.
        postprocess: "pca" or "quantized" adds an output of this name, computed as in `VGGish`; None adds none.
        overwrite: Whether to replace what exists at `path`.
        class_names: The classes of the model's scores, in their order; written to `assets/class_names.txt`, one per
            line. None exports only the embeddings.
        pca_params: The parameters of `postprocess`, as in `Postprocess`; "audioset" for those that the model has, or
            else for the published ones.

    Returns:
        `path`.

    Raises:
        FileExistsError: `path` exists, and `overwrite` is False; or it is a folder with files other than a SavedModel.
        FileNotFoundError: The weights or the PCA parameters do not exist, or the published ones are not available.
        ValueError: The weights or the PCA parameters do not fit or are not finite, the model contains no VGGish, its
            network is quantized or uses LoRA, or it is not a classifier on top of VGGish with as many scores as there
            are class names, for any number of examples.

    Examples:
        >>> path = vk.export_saved_model(model, "vggish/1")
        >>> vggish = tf.saved_model.load(str(path))
        >>> vggish(np.zeros(32_000, np.float32)).shape
        TensorShape([2, 128])
        >>> sorted(vggish.signatures)
        ['examples', 'padded', 'serving_default', 'wav']
    """
    path = check_target(path, overwrite)
    served = take_apart(model, postprocess, class_names, pca_params)
    warn_if_padding_counts(served)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        new = Path(folder) / "new"
        _write(new, served, class_names)
        replace({new: path})
    return path


def _write(path: Path, served: ServedModel, class_names: Sequence[str] | None) -> None:
    reusable = served.reusable()
    if class_names is not None:
        names = path.with_name(CLASS_NAMES.name)
        names.write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
        reusable.class_names = tf.saved_model.Asset(str(names))
    tf.saved_model.save(reusable, str(path), signatures=served.signatures())
    exported_options.write_options(path, served.options)
    _write_warmup(path)


# === Warm-up ===


def _write_warmup(path: Path) -> None:
    """Writes a request per signature, which TF Serving sends to itself before it accepts requests of clients."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        warnings.warn(
            "the SavedModel contains no warm-up requests for TF Serving: to include them, "
            'pip install "vggish[serving]" and export again',
            stacklevel=4,
        )
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

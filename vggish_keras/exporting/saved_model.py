"""The reusable SavedModel: one artefact for TF Hub, hub.KerasLayer, TF Serving and plain TensorFlow."""

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow import keras

from vggish_keras import params
from vggish_keras._validation import PathLike
from vggish_keras.exporting.classifier_head import Head
from vggish_keras.exporting.signatures import ServedModel
from vggish_keras.model import VGGish
from vggish_keras.postprocess import PcaParams, Postprocess

WARMUP_REQUESTS = Path("assets.extra") / "tf_serving_warmup_requests"
CLASS_NAMES = Path("assets") / "class_names.txt"


def export_saved_model(
    model: Any,
    path: PathLike,
    postprocess: PcaParams | None = None,
    overwrite: bool = False,
    *,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Writes a SavedModel that needs TensorFlow alone.

    It is callable on waveforms, can be fine-tuned through `hub.KerasLayer`, and has the signatures serving_default,
    padded, wav and examples. It appears at `path` when it is complete, with warm-up requests for TF Serving if
    tensorflow-serving-api is installed.

    With `class_names` the model's own output is exported, too: a call gives it in place of the embeddings, and the
    signatures of sounds have it as `scores`. Each clip counts with its own examples alone, whether or not the model
    was built with `lengths`.

    Args:
        model: A Keras model that contains a VGGish; or weights as `VGGish` takes them, for one with its defaults. The
            distance of examples and the padding are the model's.
        path: The folder to write. For TF Serving its last part is a version number.
        postprocess: PCA parameters as `Postprocess` takes them, for the output `quantized`; None for none.
        overwrite: True replaces what is at `path`.
        class_names: What a classifier's scores stand for, in their order; written to `assets/class_names.txt`, a name
            on each line. None exports VGGish alone.

    Returns:
        `path`.

    Raises:
        FileExistsError: There is something at `path`, and `overwrite` is False.
        FileNotFoundError: No such weights or PCA parameters, or the published ones cannot be had.
        ValueError: Weights or PCA parameters that do not fit, a model without VGGish, or class names for one that is
            no classifier of so many classes on top of VGGish.
    """
    path = Path(path)
    if os.path.lexists(path) and not overwrite:
        raise FileExistsError(f"{path} exists: give another path, or overwrite it")
    if not isinstance(model, keras.Model):
        model = VGGish(model)
    head = None
    if class_names is not None:
        head = Head(model)
        _check_class_names(class_names, head.size)
    layer = None if postprocess is None else Postprocess(postprocess)
    if layer is not None:
        layer.build([None, None, params.EMBEDDING_SIZE])  # fetches the published parameters
    functions = ServedModel(model, layer, head)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / "new"
        reusable = functions.reusable()
        if class_names is not None:
            names = Path(folder) / CLASS_NAMES.name
            names.write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
            reusable.class_names = tf.saved_model.Asset(str(names))
        tf.saved_model.save(reusable, str(written), signatures=functions.signatures())
        _write_warmup(written)
        old = Path(folder) / "old"
        if os.path.lexists(path):
            path.rename(old)
        try:
            written.rename(path)
        except BaseException:
            if os.path.lexists(old):
                old.rename(path)
            raise
    return path


def _check_class_names(names: Sequence[str], count: int) -> None:
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"the model has {count} scores, which need as many different class names, got {list(names)}")
    for name in names:
        if not isinstance(name, str) or name.splitlines() != [name]:
            raise ValueError(f"a class name must be a line of text, got {name!r}")


# === Warm-up ===


def _write_warmup(path: Path) -> None:
    """One request per signature, which TF Serving sends itself before it answers others."""
    try:
        from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
    except ImportError:
        warnings.warn('no warm-up requests: they need pip install "vggish[serving]"', stacklevel=3)
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

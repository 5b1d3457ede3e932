"""Engines compute embeddings from segments: one protocol, and one file for each engine.

An engine is loaded when it is opened: importing this package loads no TensorFlow.
"""

from pathlib import Path

from vggish_keras import exported_options, params
from vggish_keras._validation import (
    PathLike,
    PcaParams,
    Postprocessing,
    check_choice,
    check_postprocess,
    file_suffix,
    is_published,
)
from vggish_keras.engines.engine import DTYPES, ClassifierEngine, Dtype, Engine, Output, default_output

__all__ = [
    "DTYPES",
    "ClassifierEngine",
    "Dtype",
    "Engine",
    "Output",
    "check_classifier",
    "check_keeps_pca_params",
    "check_output",
    "default_output",
    "open_classifier",
    "open_engine",
]


def open_engine(
    weights: PathLike | None,
    postprocess: Postprocessing | None = None,
    dtype: Dtype = "float32",
    pca_params: PcaParams = params.AUDIOSET,
) -> Engine:
    """Opens the engine that runs `weights`.

    Args:
        weights: "audioset", the path of a TF-Slim checkpoint, a Keras model (.keras) that contains VGGish or a Keras
            weights file, or None for random weights, as in `VGGish`; a folder written by `export_saved_model`; or
            an .onnx file written by `export_onnx` or a .tflite file written by `export_litert`, which run without
            TensorFlow.
        postprocess: None, "pca" or "quantized": an output that the engine must have.
        dtype: What the network computes in. Must be "float32", the default, for an exported model, which keeps its own
            dtype.
        pca_params: The parameters of `postprocess`, as in `Postprocess`. An exported model keeps its own.

    Returns:
        The engine, whose `outputs` include the requested one.

    Raises:
        ValueError: An invalid argument; weights that do not fit or are not finite; or an exported model that
            lacks the output, is damaged or was not written by this package.
        FileNotFoundError: The weights do not exist, or the published ones are not available.
        ImportError: The package that runs the file is not installed.
        RuntimeError: This process was forked after the network ran, and would hang.

    Examples:
        >>> engine = vk.open_engine(weights=None)  # random weights, to be quick
        >>> engine(np.zeros((2, 15_600), np.float32), "embedding").shape
        (2, 128)
    """
    check_postprocess(postprocess, pca_params)
    check_choice("dtype", dtype, DTYPES)
    engine: Engine
    if weights is not None and exported_options.is_onnx(weights):
        from vggish_keras.engines.onnx import OnnxModel

        check_keeps_pca_params(pca_params, str(weights))
        engine = OnnxModel(Path(weights), dtype)
    elif weights is not None and exported_options.is_litert(weights):
        from vggish_keras.engines.litert import LiteRTModel

        check_keeps_pca_params(pca_params, str(weights))
        engine = LiteRTModel(Path(weights), dtype)
    elif weights is not None and exported_options.is_saved_model(weights):
        from vggish_keras.engines.saved_model import SavedModel

        check_keeps_pca_params(pca_params, str(weights))
        engine = SavedModel(Path(weights), dtype)
    else:
        from vggish_keras.engines.keras_model import KerasModel

        engine = KerasModel(weights, postprocess, dtype, pca_params)
    check_output(engine, postprocess or "embedding", str(weights))
    return engine


def open_classifier(path: PathLike) -> ClassifierEngine:
    """Opens the engine that runs a classifier.

    Args:
        path: A Keras model (.keras) built on VGGish; or a folder written by `export_saved_model`, or a file written by
            `export_onnx` or `export_litert`, with class names.

    Raises:
        ValueError: The path is not a classifier, or its weights are not finite.
        FileNotFoundError: The path does not exist.
        ImportError: The package that runs the file is not installed.
        RuntimeError: This process was forked after the network ran, and would hang.
    """
    check_classifier(path)
    if not exported_options.needs_tensorflow(path):
        from vggish_keras.engines.exported_classifier import ExportedClassifier

        return ExportedClassifier(Path(path), open_engine(path))
    from vggish_keras.engines.classifier import keras_classifier, saved_model_classifier

    return (saved_model_classifier if exported_options.is_saved_model(path) else keras_classifier)(Path(path))


def check_classifier(path: PathLike) -> None:
    """Raises a ValueError or a FileNotFoundError, without loading TensorFlow, if a path cannot be a classifier."""
    expected = "expected a .keras model built on VGGish, or a model exported with class_names"
    if not Path(path).exists():
        raise FileNotFoundError(f"no classifier at {path}: {expected}")
    is_exported = exported_options.is_saved_model(path) or not exported_options.needs_tensorflow(path)
    if not is_exported and file_suffix(path) != ".keras":
        raise ValueError(f"{path} is not a classifier: {expected}")


def check_output(engine: Engine, output: Output, name: str) -> None:
    """Raises a ValueError unless an engine, which the message calls by `name`, has an output."""
    if output not in engine.outputs:
        raise ValueError(
            f"{name} does not compute {output!r}, only {', '.join(engine.outputs)} (an exported model computes what "
            f"it was exported with, as in postprocess={output!r})"
        )


def check_keeps_pca_params(pca_params: PcaParams, name: str) -> None:
    """Raises a ValueError for PCA parameters other than those of an engine, which the message calls by `name`."""
    if not is_published(pca_params):
        raise ValueError(f"{name} keeps its own PCA parameters: pca_params (--pca) is for checkpoints and Keras files")

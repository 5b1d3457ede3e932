"""Engines compute embeddings from segments: one protocol, and one file for each engine.

An engine is loaded when it is opened: importing this package loads no TensorFlow.
"""

from pathlib import Path

from vggish_keras import saved_model_options
from vggish_keras._validation import POSTPROCESSINGS, PathLike, Postprocessing, check_choice
from vggish_keras.engines.engine import DTYPES, Dtype, Engine, Output

__all__ = ["DTYPES", "Dtype", "Engine", "Output", "check_output", "open_engine"]


def open_engine(
    weights: PathLike | None, postprocess: Postprocessing | None = None, dtype: Dtype = "float32"
) -> Engine:
    """Opens the engine that runs `weights`.

    Args:
        weights: "audioset", the path of a TF-Slim checkpoint, a Keras model (.keras) that contains VGGish or a Keras
            weights file, or None for random weights, as in `VGGish`; or a folder written by `export_saved_model`.
        postprocess: None, "pca" or "quantized": an output that the engine must have.
        dtype: What the network computes in. A SavedModel has the dtype of its export, so that "float32" is required.

    Returns:
        The engine, whose `outputs` include the requested one.

    Raises:
        ValueError: An invalid argument; weights that do not fit or are not finite; or a SavedModel that lacks the
            output or was not written by `export_saved_model`.
        FileNotFoundError: The weights do not exist, or the published ones are not available.
        RuntimeError: This process was forked after TensorFlow ran, and would hang.

    Example:
        >>> engine = vk.open_engine(weights=None)  # random weights, to be quick
        >>> engine(np.zeros((2, 15_600), np.float32), "embedding").shape
        (2, 128)
    """
    check_choice("postprocess", postprocess, POSTPROCESSINGS)
    check_choice("dtype", dtype, DTYPES)
    engine: Engine
    if weights is not None and saved_model_options.is_saved_model(weights):
        from vggish_keras.engines.saved_model import SavedModel

        engine = SavedModel(Path(weights), dtype)
    else:
        from vggish_keras.engines.keras_model import KerasModel

        engine = KerasModel(weights, postprocess, dtype)
    check_output(engine, postprocess or "embedding", str(weights))
    return engine


def check_output(engine: Engine, output: Output, name: str) -> None:
    """Raises a ValueError unless an engine, which the message calls by `name`, has an output."""
    if output not in engine.outputs:
        hint = ' (an exported model computes "quantized" if it was exported with PCA parameters)'
        message = f"{name} does not compute {output!r}, only {', '.join(engine.outputs)}"
        raise ValueError(message + hint if output == "quantized" else message)

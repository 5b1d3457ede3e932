"""Engines compute embeddings from segments: one protocol, and one file for each engine.

An engine is loaded when it is opened: importing this package loads no TensorFlow.
"""

from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from vggish_keras._validation import POSTPROCESSINGS, PathLike, Postprocessing, check_choice

Output = Literal["embedding", "pca", "quantized"]
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


class Engine(Protocol):
    """Computes embeddings from segments, the 15,600 samples of an example.

    Any object with these members can be handed to `Embedder`.

    Attributes:
        outputs: What the engine can compute: "embedding" and, with PCA parameters, "pca" or "quantized".
        identity: What identifies the weights, such as "sha256:" and a digest.

    Example:
        >>> class Mean:
        ...     outputs, identity = ("embedding",), "mean"
        ...
        ...     def __call__(self, segments, output):
        ...         return np.repeat(segments.mean(axis=1, keepdims=True), 128, axis=1)
        >>> vk.Embedder(Mean()).embed(wav).values.shape
        (3, 128)
    """

    @property
    def outputs(self) -> tuple[Output, ...]: ...

    @property
    def identity(self) -> str: ...

    def __call__(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        """Computes one output.

        Args:
            segments: float32 [batch, 15600] at 16 kHz in [-1, 1].
            output: One of `outputs`.

        Returns:
            [batch, 128]: float32 or, for "quantized", uint8.
        """


def open_engine(
    weights: PathLike | None, postprocess: Postprocessing | None = None, dtype: Dtype = "float32"
) -> Engine:
    """Opens the engine that runs `weights`.

    Args:
        weights: "audioset", the path of a TF-Slim checkpoint or a Keras weights file, or None for random weights, as
            in `VGGish`; or a folder written by `export_saved_model`.
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
        >>> engine = vk.open_engine(weights=None)
        >>> engine(np.zeros((2, 15_600), np.float32), "embedding").shape
        (2, 128)
    """
    check_choice("postprocess", postprocess, POSTPROCESSINGS)
    check_choice("dtype", dtype, DTYPES)
    engine: Engine
    if weights is not None and Path(weights, "saved_model.pb").is_file():
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
        raise ValueError(f"{name} has the outputs {', '.join(engine.outputs)} but not {output}")

"""A LiteRT file written by `export_litert`, run without TensorFlow."""

import threading
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from vggish_keras import params
from vggish_keras._fork import check_not_forked
from vggish_keras._litert_file import check_model, open_model
from vggish_keras.engines.engine import Dtype, Output
from vggish_keras.exported_options import read_description


class LiteRTModel:
    """Runs the file's signature, on all cores.

    Args:
        path: The file.
        dtype: "float32": what the network computes in was chosen when it was exported.

    Raises:
        ImportError: ai-edge-litert is not installed.
        FileNotFoundError: The file does not exist.
        ValueError: A different dtype; or a file that is not a LiteRT model, is damaged or was not written by
            `export_litert`.
        RuntimeError: This process was forked after the network ran, and would hang.
    """

    def __init__(self, path: Path, dtype: Dtype) -> None:
        if dtype != "float32":
            raise ValueError(f"{path}: the dtype of an exported model cannot be changed, got {dtype!r}")
        check_not_forked()
        description = read_description(path)
        check_model(path, description)
        self.outputs: tuple[Output, ...] = tuple(
            output for output in get_args(Output) if output in description["outputs"]
        )
        self.dtype: str = description["dtype"]
        self._identities: dict[str, str] = description["outputs"]
        self._runner = open_model(path)
        self._lock = threading.Lock()  # an interpreter has one set of tensors

    def identity(self, output: Output) -> str:
        return self._identities[output]

    def __call__(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        check_not_forked()
        # The interpreter rejects empty batches.
        batch = segments if len(segments) else np.zeros((1, params.EXAMPLE_SAMPLES), np.float32)
        with self._lock:
            values: NDArray[Any] = self._runner(waveform=batch)[output]
        return values[: len(segments)]

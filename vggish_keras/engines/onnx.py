"""An ONNX file written by `export_onnx`, run by ONNX Runtime: nothing here loads TensorFlow."""

import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from vggish_keras._errors import error_message
from vggish_keras._fork import check_not_forked
from vggish_keras._onnx_file import check_constants
from vggish_keras.engines.engine import Dtype, Output
from vggish_keras.exported_options import read_description


class OnnxModel:
    """Runs an ONNX file on the CPU.

    Args:
        path: The file.
        dtype: "float32", which the network computes in.

    Raises:
        ImportError: onnxruntime is not installed.
        FileNotFoundError: The file does not exist.
        ValueError: A different dtype; or a file that is not an ONNX model, is damaged or was not written by
            `export_onnx`.
        RuntimeError: This process was forked after the network ran, and would hang.
    """

    dtype = "float32"

    def __init__(self, path: Path, dtype: Dtype) -> None:
        if dtype != "float32":
            raise ValueError(f"{path}: the dtype of an exported model cannot be changed, got {dtype!r}")
        check_not_forked()
        description = read_description(path)
        self._session = _open_session(path)
        check_constants(path, description.get("constants"))
        self._identities: dict[str, str] = description["outputs"]
        self.outputs: tuple[Output, ...] = tuple(output for output in get_args(Output) if output in self._identities)

    def identity(self, output: Output) -> str:
        return self._identities[output]

    def __call__(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        check_not_forked()
        (values,) = self._session.run([output], {"waveform": segments})
        # An example has one embedding, and one row of scores, whether or not the classifier pools examples.
        return np.asarray(values).reshape(len(segments), values.shape[-1])


def _open_session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f'{path} requires onnxruntime: pip install "vggish[onnx]"') from error
    options = onnxruntime.SessionOptions()
    # A number, because by default each thread is bound to a core, even if the core is busy.
    options.intra_op_num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # Threads that wait would take the cores from the processes that read recordings.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises several kinds of exceptions for malformed files
        raise ValueError(f"{path} cannot be run by ONNX Runtime: {error_message(error)}") from error

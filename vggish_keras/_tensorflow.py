"""Import TensorFlow without its start-up messages."""

import os
import sys

from vggish_keras._stderr import silent_stderr


def load_tensorflow(dtype: str = "float32") -> None:
    """Imports TensorFlow and drops what it prints meanwhile, some of it at any log level.

    The import takes seconds, so call this, and import modules that need TensorFlow, inside functions: `--help` and
    usage errors then appear at once. During the import, file descriptor 2 of the whole process is redirected.

    Args:
        dtype: What networks compute in. A process with "bfloat16" must not change their weights after it used them.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if dtype == "bfloat16":
        # oneDNN lays out the 100 MB of fc1 once, instead of in each call. In float32 its layout is slower.
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    with silent_stderr():
        try:
            import tensorflow  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != "tensorflow":
                raise
            message = "TensorFlow is not installed: pip install vggish, or pass an exported file (--weights x.onnx)"
            raise ImportError(message) from error

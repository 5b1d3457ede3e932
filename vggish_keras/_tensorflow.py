"""Import TensorFlow without its start-up messages."""

import os
import sys
import tempfile


def load_tensorflow() -> None:
    """Imports TensorFlow and drops what it prints meanwhile, some of it at any log level.

    The import takes seconds, so call this, and import modules that need TensorFlow, inside functions: `--help` and
    usage errors then appear at once. During the import, file descriptor 2 of the whole process is redirected.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.stderr is None:  # closed
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except ModuleNotFoundError as error:
            if error.name != "tensorflow":
                raise
            message = "TensorFlow is not installed: pip install vggish, or pass an exported file (--weights x.onnx)"
            raise ImportError(message) from error
        except Exception:
            messages.seek(0)
            os.write(terminal, messages.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)

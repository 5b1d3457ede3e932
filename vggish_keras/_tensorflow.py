"""TensorFlow imported in silence."""

import os
import sys
import tempfile


def load_tensorflow() -> None:
    """Imports TensorFlow without the messages that it prints at each start, some whatever the log level.

    It is slow to import: call this, and import what needs it, where it is used, so that --help answers at once.
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
        except Exception:
            messages.seek(0)
            os.write(terminal, messages.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)

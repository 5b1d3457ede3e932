"""Forked processes, in which TensorFlow does not run."""

import os

_process: int | None = None


def check_process() -> None:
    """Raises a RuntimeError in a child that was forked after TensorFlow ran: it would wait forever for threads.

    The first call says that TensorFlow runs in this process from now on.
    """
    global _process
    _process = _process or os.getpid()
    if _process != os.getpid():
        raise RuntimeError(
            f"TensorFlow ran in process {_process} before process {os.getpid()} was forked from it, and would hang "
            "here: start workers with the 'spawn' method, or fork before the first model is made"
        )

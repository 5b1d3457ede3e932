"""Detect forked processes, in which TensorFlow and ONNX Runtime would hang."""

import os

_process: int | None = None


def check_not_forked() -> None:
    """Raises a RuntimeError in a process that was forked after the network ran: it would wait forever for threads.

    The first call marks the process in which the network runs from now on.
    """
    global _process
    _process = _process or os.getpid()
    if _process != os.getpid():
        raise RuntimeError(
            f"the network ran in process {_process} before process {os.getpid()} was forked from it, and would hang "
            "here: start workers with the 'spawn' method, or fork before creating the first model"
        )

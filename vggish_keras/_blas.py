"""NumPy's matrix products in one thread, beside a network that uses all processors."""

import contextlib
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_users = 0
_limits = contextlib.ExitStack()


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """While any thread is in here, products of NumPy run in the thread that asks for them, in the whole process.

    The threads of OpenBLAS wait for the next product by spinning, which takes processors from the network.
    """
    global _users
    with _lock:
        _users += 1
        if _users == 1:
            from threadpoolctl import threadpool_limits

            _limits.enter_context(threadpool_limits(1, user_api="blas"))
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limits.close()

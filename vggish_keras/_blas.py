"""Keep NumPy's matrix products to one thread, beside a network that uses all processors."""

import contextlib
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_users = 0
_limits = contextlib.ExitStack()


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Makes NumPy matrix products use a single thread, in the whole process, while any thread is in this block.

    OpenBLAS's threads spin while they wait for the next product, which slows the network down.
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

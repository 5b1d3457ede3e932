"""Read recordings in child processes, where a decoder that crashes or never returns affects only one recording.

The child processes communicate through pipes, without `multiprocessing`, which would import the caller's main module.
"""

import contextlib
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_keras.audio import Channels
from vggish_keras.resample import read_waveform

_logger = logging.getLogger(__name__)

_MAX_CPU_SECONDS = 3.0
"""Limit per block of samples, which normally takes milliseconds."""
MAX_READERS = min(os.cpu_count() or 1, 8)
"""Recordings that are read at the same time; eight processes decode fast enough for any accelerator."""

_START = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from vggish_keras._reader_process import serve
serve()
"""
# Matrix products of NumPy in one thread, because the network needs the processors.
_ENVIRONMENT = dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"], "1")


class ReaderProcesses:
    """Child processes that read recordings, one per thread that is reading.

    They are started on demand and reused.
    """

    def __init__(self) -> None:
        self._idle: queue.SimpleQueue[_Reader] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._all: set[_Reader] = set()
        self._closed = False

    def read(
        self,
        path: str | os.PathLike[str],
        channels: Channels = "mix",
        on_audio: Callable[[float], object] | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """Reads a recording as `resample.read_waveform` does, from any thread.

        Args:
            path: The file.
            channels: As in `audio.open_audio`.
            on_audio: Called with the seconds of audio read since the last call.

        Yields:
            float32 [samples] at 16 kHz.

        Raises:
            ValueError: As in `audio.open_audio`; or the decoder crashed, or used 3 s of processor time for one block.
            OSError: As in `audio.open_audio`.
        """
        reader = self._acquire()
        try:
            yield from reader.read(path, channels, on_audio)
        except _ReaderDiedError as error:
            if not self._closed:
                _logger.info("replacing the process that read %s: %s", path, error)
            raise ValueError(f"{path} cannot be read as audio: {error}") from error
        finally:
            if reader.is_ready:
                self._idle.put(reader)
            else:
                self._discard(reader)

    def close(self) -> None:
        """Ends all processes, whatever they are doing. Recordings that other threads are reading fail."""
        with self._lock:
            self._closed = True
            readers = list(self._all)
        for reader in readers:
            self._discard(reader)

    def _acquire(self) -> "_Reader":
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            if self._closed:
                raise RuntimeError("the reader processes are closed")
            reader = _Reader()
            self._all.add(reader)
        return reader

    def _discard(self, reader: "_Reader") -> None:
        reader.close()
        with self._lock:
            self._all.discard(reader)


class _ReaderDiedError(Exception):
    """The process of a reader ended in the middle of a recording."""


class _Reader:
    """One child process.

    Attributes:
        is_ready: Whether everything about the last recording was received, so that the next one can be read.
    """

    def __init__(self) -> None:
        self.is_ready = True
        # -P, so that no module is imported from the current folder; a new session, so that Ctrl-C in a terminal reaches
        # only the parent.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,
        )
        self._jobs: Any = self._process.stdin
        self._answers: Any = self._process.stdout
        self._send([path or os.getcwd() for path in sys.path])

    def read(
        self, path: str | os.PathLike[str], channels: Channels, on_audio: Callable[[float], object] | None
    ) -> Iterator[NDArray[np.float32]]:
        self.is_ready = False
        self._send((os.fspath(path), os.getcwd(), channels))
        while True:
            kind, value = self._receive()
            self.is_ready = kind in ("error", "end")
            if kind == "block":
                yield value
            elif kind == "seconds":
                if on_audio is not None:
                    on_audio(value)
            elif kind == "warning":
                warnings.warn(value, stacklevel=2)
            elif kind == "error":
                raise value
            else:
                return

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._jobs, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()

    def _send(self, value: Any) -> None:
        try:
            pickle.dump(value, self._jobs)
            self._jobs.flush()
        except (OSError, ValueError) as error:
            raise self._died() from error

    def _receive(self) -> tuple[str, Any]:
        try:
            kind, value = pickle.load(self._answers)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise self._died() from error
        return kind, value

    def _died(self) -> _ReaderDiedError:
        self._process.kill()
        status = self._process.wait()
        if hasattr(signal, "SIGPROF") and status == -signal.SIGPROF:
            return _ReaderDiedError(f"its decoder returned nothing for {_MAX_CPU_SECONDS:.0f} s")
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return _ReaderDiedError(f"its decoder crashed ({name})")


# === In the child process ===


def serve() -> None:
    """Reads recordings for the parent process until it closes the pipe."""
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # Keeps the output of libraries out of the pipe and the terminal.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.dup2(devnull, 2)

    def send(kind: str, value: Any = None) -> None:
        pickle.dump((kind, value), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()

    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_: send("warning", str(message))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            path, folder, channels = pickle.load(jobs)
            try:
                os.chdir(folder)
                for block in _with_cpu_limit(read_waveform(path, channels, lambda seconds: send("seconds", seconds))):
                    send("block", block)
            except (BrokenPipeError, KeyboardInterrupt):
                return
            except Exception as error:
                send("error", _as_picklable(error))
            else:
                send("end")


def _with_cpu_limit(blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Ends the process when a block needs too much processor time, whichever library is running."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield from blocks
        return
    while True:
        signal.setitimer(signal.ITIMER_PROF, _MAX_CPU_SECONDS)
        block = next(blocks, None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if block is None:
            return
        yield block


def _as_picklable(error: Exception) -> Exception:
    """The error in a form that can be sent: without its causes, and as a ValueError if it does not survive pickling."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever the error's class raises
        copy = None
    if type(copy) is type(error) and str(copy) == str(error):
        return copy
    return ValueError(f"{type(error).__name__}: {error}")

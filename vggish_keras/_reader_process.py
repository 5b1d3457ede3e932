"""Recordings read in other processes, where a decoder that crashes or never returns harms one recording alone.

A child process is started with pipes and not by `multiprocessing`, which would import the caller's main module in it.
"""

import contextlib
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

from vggish_keras.audio import Channels
from vggish_keras.resample import read_waveform

_MAX_CPU_SECONDS = 3.0
"""For a block of samples, which takes milliseconds."""

_START = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from vggish_keras._reader_process import serve
serve()
"""
# NumPy's products in one thread: the network needs the processors.
_ENVIRONMENT = dict.fromkeys(["OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"], "1")


class ReaderProcesses:
    """Child processes that read recordings, one for each thread that reads at a time.

    They are started when they are needed, and used again.
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
    ) -> Iterator[np.ndarray]:
        """Reads a recording as `resample.read_waveform` does, from any thread.

        Args:
            path: The file.
            channels: As in `audio.open_audio`.
            on_audio: Called with the seconds of audio that were read.

        Yields:
            float32 [samples] at 16 kHz.

        Raises:
            ValueError: As in `audio.open_audio`; or the decoder crashed, or took 3 s of processor time for a block.
            OSError: As in `audio.open_audio`.
        """
        reader = self._take()
        finished = False
        try:
            yield from reader.read(path, channels, on_audio)
            finished = True
        except _ReaderDiedError as error:
            raise ValueError(f"{path} cannot be read as audio: {error}") from error
        except Exception:
            finished = True  # the recording's own error, after which the process waits for the next
            raise
        finally:
            if finished:
                self._idle.put(reader)
            else:
                self._discard(reader)

    def close(self) -> None:
        """Ends all processes, whatever they do; what is being read elsewhere fails."""
        with self._lock:
            self._closed = True
            readers = list(self._all)
        for reader in readers:
            self._discard(reader)

    def _take(self) -> "_Reader":
        with contextlib.suppress(queue.Empty):
            return self._idle.get_nowait()
        with self._lock:
            if self._closed:
                raise RuntimeError("the processes that read recordings were closed")
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
    """One child process."""

    def __init__(self) -> None:
        # A session of its own, so that Ctrl-C in a terminal reaches the parent alone.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START],
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
    ) -> Iterator[np.ndarray]:
        self._send((os.fspath(path), os.getcwd(), channels))
        while True:
            kind, value = self._receive()
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
            return pickle.load(self._answers)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise self._died() from error

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
    # From here on what libraries print reaches neither the pipe nor the terminal.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

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
                for block in _limited(read_waveform(path, channels, lambda seconds: send("seconds", seconds))):
                    send("block", block)
            except (BrokenPipeError, KeyboardInterrupt):
                return
            except Exception as error:
                send("error", _portable(error))
            else:
                send("end")


def _limited(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Ends the process when a block takes too much processor time, whatever library it is in."""
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


def _portable(error: Exception) -> Exception:
    """The error as it can be sent: without its causes, and as a ValueError if it does not survive pickling."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class raises
        copy = None
    if type(copy) is type(error) and str(copy) == str(error):
        return copy
    return ValueError(f"{type(error).__name__}: {error}")

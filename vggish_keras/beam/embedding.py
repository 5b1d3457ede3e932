"""Embed lists of recordings in a worker, with one network for all workers of a machine."""

import contextlib
import functools
import io
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.utils.multi_process_shared import MultiProcessShared
from numpy.typing import NDArray

from vggish_keras import audio, exported_options, params
from vggish_keras._blas import single_threaded_blas
from vggish_keras._errors import error_message
from vggish_keras._reader_process import ReaderProcesses
from vggish_keras._validation import (
    PathLike,
    PcaParams,
    Postprocessing,
    check_batch_size,
    check_choice,
    check_postprocess,
)
from vggish_keras.beam.files import is_remote
from vggish_keras.embedder import Embedder
from vggish_keras.embeddings import Embeddings
from vggish_keras.engines import DTYPES, Dtype, Output, open_engine
from vggish_keras.framing import PADDINGS, Padding, hop_to_samples
from vggish_keras.resample import read_waveform
from vggish_keras.segments import Segment

NAMESPACE = "vggish_keras"
"""Namespace of the counters `recordings`, `failures` and `audio_milliseconds`."""

Recording: TypeAlias = tuple[bytes, Segment | None]
"""The path of a recording, and its line of an AudioSet segment list."""


class EmbedderOptions(NamedTuple):
    """The arguments of `Embedder`, checked on the machine that submits a pipeline."""

    weights: PathLike | None
    hop_seconds: float
    padding: Padding
    postprocess: Postprocessing | None
    batch_size: int
    dtype: Dtype
    channels: audio.Channels
    pca_params: PcaParams


def embedder_options(
    weights: PathLike | None,
    hop_seconds: float | None,
    padding: Padding | None,
    postprocess: Postprocessing | None,
    batch_size: int,
    dtype: Dtype,
    channels: audio.Channels,
    pca_params: PcaParams,
) -> EmbedderOptions:
    """Checks the arguments of `Embedder` and reads the hop and the padding of an exported model, without loading it.

    Raises:
        ValueError: An argument is invalid.
        FileNotFoundError: The weights do not exist on this machine, and the hop or the padding is None.
    """
    if None in (hop_seconds, padding) and weights not in (None, params.AUDIOSET):
        _check_is_local(weights)
    hop_seconds, padding = exported_options.resolve_options(weights, hop_seconds, padding)
    hop_to_samples(hop_seconds)
    check_choice("padding", padding, PADDINGS)
    check_choice("dtype", dtype, DTYPES)
    check_postprocess(postprocess, pca_params)
    batch_size, channels = check_batch_size(batch_size), audio.check_channels(channels)
    return EmbedderOptions(weights, hop_seconds, padding, postprocess, batch_size, dtype, channels, pca_params)


def _check_is_local(weights: PathLike | None) -> None:
    """Raises a FileNotFoundError for weights that may be a SavedModel with a hop and a padding of its own."""
    if weights is not None and not os.path.exists(weights) and not os.path.exists(f"{os.fspath(weights)}.index"):
        raise FileNotFoundError(
            f"no weights found at {os.fspath(weights)}: if only the workers have them, pass the hop and the padding "
            "(--hop, --padding)"
        )


class Result(NamedTuple):
    """What became of a recording.

    Attributes:
        recording: The recording.
        embeddings: Its embeddings, or the reason why it has none.
        seconds: Seconds of its audio that were read.
    """

    recording: Recording
    embeddings: Embeddings | str
    seconds: float


class EmbedFn(beam.DoFn):
    """A function that embeds lists of recordings."""

    def __init__(self, options: EmbedderOptions) -> None:
        self._options = options
        # The network of a different pipeline may have different weights.
        self._tag = f"vggish-{secrets.token_hex(8)}"
        self._counters = {name: Metrics.counter(NAMESPACE, name) for name in ("recordings", "failures")}
        self._milliseconds = Metrics.counter(NAMESPACE, "audio_milliseconds")

    def setup(self) -> None:
        weights, hop_seconds, padding, postprocess, batch_size, dtype, channels, pca_params = self._options
        self._shared = MultiProcessShared(
            functools.partial(_Network, weights, postprocess, dtype, pca_params), self._tag
        )
        self._network = self._shared.acquire()
        engine = _SharedEngine(self._network)
        self._embedder = _WorkerEmbedder(engine, hop_seconds, padding, postprocess, batch_size, channels=channels)
        self.made_with = {**self._embedder.options, "engine": engine.name}

    def teardown(self) -> None:
        # The network is freed when all workers have released it: a process may run many pipelines.
        del self._embedder
        with contextlib.suppress(OSError, EOFError):  # the process with the network has died
            self._shared.release(self._network)

    def embed(self, recordings: Sequence[Recording]) -> Iterator[Result]:
        """Embeds and counts recordings, in order."""
        paths = [os.fsdecode(path) for path, _ in recordings]
        seconds: Counter[str] = Counter()

        def on_audio(path: str, new: float) -> None:
            seconds[path] += new  # type: ignore[assignment]

        with contextlib.closing(self._embedder.embed_many(paths, on_audio)) as results:
            for recording, (path, result) in zip(recordings, results, strict=True):
                embeddings = error_message(result) if isinstance(result, Exception) else result
                read = seconds.pop(path, 0.0)
                self.count(failed=isinstance(result, Exception), seconds=read)
                yield Result(recording, embeddings, read)

    def count(self, *, failed: bool, seconds: float) -> None:
        """Counts a recording."""
        self._counters["failures" if failed else "recordings"].inc()
        self._milliseconds.inc(round(1_000 * seconds))


class _Network:
    """The network of a machine. Other processes call its methods."""

    def __init__(self, *arguments: Any) -> None:
        self._engine = open_engine(*arguments)

    def describe(self) -> tuple[tuple[Output, ...], str, str]:
        return self._engine.outputs, self._engine.dtype, type(self._engine).__name__

    def identity(self, output: Output) -> str:
        return self._engine.identity(output)

    def compute(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        return self._engine(segments, output)


class _SharedEngine:
    """The network of a machine as the engine of one of its processes."""

    def __init__(self, network: _Network) -> None:
        self._network = network
        self.outputs, self.dtype, self.name = network.describe()

    def identity(self, output: Output) -> str:
        return self._network.identity(output)

    def __call__(self, segments: NDArray[np.float32], output: Output) -> NDArray[Any]:
        return self._network.compute(segments, output)


class _WorkerEmbedder(Embedder):
    """Reads a single recording at a time, because a machine has a worker for each processor."""

    _max_readers = 1

    def _open_readers(self) -> ReaderProcesses:
        return _Readers()


class _Readers(ReaderProcesses):
    """Also reads recordings from Beam's file systems, in this process."""

    def read(
        self,
        path: str | os.PathLike[str],
        channels: audio.Channels = "mix",
        on_audio: Callable[[float], object] | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        name = os.fspath(path)
        if not is_remote(name):
            yield from super().read(name, channels, on_audio)
            return
        opened: Any = FileSystems.open(name, compression_type=CompressionTypes.UNCOMPRESSED)
        with _NamedFile(opened) as file, single_threaded_blas():
            file.name = name
            yield from read_waveform(file, channels, on_audio)


class _NamedFile(io.BufferedReader):
    """A file whose name appears in error messages."""

    name = ""

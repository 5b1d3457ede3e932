"""Embed recordings of any length with any engine, in full batches and bounded memory."""

import collections
import contextlib
import dataclasses
import functools
import glob
import itertools
import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Sized
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from vggish_keras import __version__, audio, exported_options, params
from vggish_keras._errors import counted
from vggish_keras._fork import check_not_forked
from vggish_keras._read_ahead import read_ahead
from vggish_keras._reader_process import MAX_READERS, ReaderProcesses
from vggish_keras._validation import (
    PathLike,
    PcaParams,
    Postprocessing,
    check_batch_size,
    check_choice,
    check_postprocess,
    check_several,
)
from vggish_keras.embeddings import Embeddings, embedding_dtype
from vggish_keras.engines import (
    ClassifierEngine,
    Dtype,
    Engine,
    Output,
    check_keeps_pca_params,
    check_output,
    default_output,
    open_engine,
)
from vggish_keras.framing import PADDINGS, Padding, cut_segments, hop_to_samples, start_times
from vggish_keras.resample import read_waveform, resample_blocks

_logger = logging.getLogger(__name__)

_BATCHES_AHEAD = 4
"""Batches of segments that wait for the network, so that it never waits for them."""
T = TypeVar("T")
PathT = TypeVar("PathT", bound=str | os.PathLike[str])
Segments = NDArray[np.float32]


class Embedder:
    """Embeds files, arrays and streams of any length and sample rate.

    Each example is cut out and embedded on its own, so memory does not grow with the recording, and the values are
    those of `VGGish` on the whole waveform.

    Args:
        weights: "audioset", the path of a TF-Slim checkpoint, a Keras model (.keras) that contains VGGish or a Keras
            weights file, or None for random weights, as in `VGGish`; a folder written by `export_saved_model`; an
            .onnx file written by `export_onnx` or a .tflite file written by `export_litert`, which run without
            TensorFlow; or an engine, such as one that `open_engine` returns.
        hop_seconds: Distance between examples, any multiple of 10 ms. None uses that of an exported model, and
            0.96 s for other weights.
        padding: "short" uses whole examples, and pads a recording shorter than one (0.975 s) to one; "valid" uses
            whole examples only; "same" pads the end with zeros so that every sample is covered. None uses that of an
            exported model, and "short" for other weights.
        postprocess: None, "pca" or "quantized", as in `VGGish`. An exported model has what it was exported with.
        batch_size: Examples per call of the network. `stream` returns results batch by batch, so live audio needs a
            small one.
        dtype: What the network computes in: "float32", "bfloat16" or "float16". The results have the same type in any
            case. An exported model or an engine keeps its own dtype: pass "float32".
        channels: "mix" for the mean of a recording's channels, as in the published code, or the index of a channel.
        pca_params: The parameters of `postprocess`, as in `Postprocess`; "audioset" for the published ones. An
            exported model or an engine keeps its own.

    Attributes:
        options: What determines the embeddings, as plain values that JSON can hold.

    Raises:
        ValueError: An invalid argument; weights that do not fit or are not finite; or an exported model or an
            engine that lacks the output.
        TypeError: `weights` is neither a path nor None nor an engine.
        FileNotFoundError: The weights do not exist, or the published ones are not available.
        ImportError: The package that runs an .onnx or .tflite file is not installed.
        RuntimeError: Here or while embedding: this process was forked after TensorFlow ran, and would hang.

    Examples:
        >>> embedder = vk.Embedder(weights=None, hop_seconds=0.5)  # random weights, to be quick
        >>> embeddings = embedder.embed(np.zeros(40_000, np.float32), sample_rate=16_000)
        >>> embeddings.values.shape
        (4, 128)
    """

    _max_readers = MAX_READERS

    def __init__(
        self,
        weights: PathLike | Engine | None = params.AUDIOSET,
        hop_seconds: float | None = None,
        padding: Padding | None = None,
        postprocess: Postprocessing | None = None,
        batch_size: int = 64,
        dtype: Dtype = "float32",
        channels: audio.Channels = "mix",
        pca_params: PcaParams = params.AUDIOSET,
    ) -> None:
        hop_seconds, padding = exported_options.resolve_options(weights, hop_seconds, padding)
        check_choice("padding", padding, PADDINGS)
        check_postprocess(postprocess, pca_params)
        self.padding = padding
        self.batch_size = check_batch_size(batch_size)
        self.channels = audio.check_channels(channels)
        self._hop_samples = hop_to_samples(hop_seconds)
        self._engine = _open(weights, postprocess, dtype, pca_params)
        self._output: Output = postprocess or default_output(self._engine)
        if _logger.isEnabledFor(logging.INFO):  # the identity takes a moment
            shown = (self.options[name] for name in ("engine", "dtype", "weights"))
            _logger.info("engine %s, dtype %s, identity %s", *shown)

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        return {
            "weights": self._engine.identity(self._output),
            "hop_seconds": self._hop_samples / params.SAMPLE_RATE,
            "padding": self.padding,
            "postprocess": None if self._output == "embedding" else self._output,
            "dtype": self._engine.dtype,
            "channels": self.channels,
            "engine": type(self._engine).__name__,
            "version": __version__,
        }

    def embed(self, source: audio.Source, sample_rate: int | None = None) -> Embeddings:
        """Embeds a recording.

        Args:
            source: A path or a binary file object in any format that libsndfile or FFmpeg reads, and the first audio
                stream of a video; an array [samples] or [samples, channels] of floats in [-1, 1] or integer PCM; or a
                dictionary with the keys "array", whose shape is [samples] or [channels, samples], and "sampling_rate",
                as in the audio columns of Hugging Face's datasets.
            sample_rate: The rate of an array in Hz. Files and dictionaries have their own.

        Returns:
            The embeddings of all examples. Under "valid" padding a recording shorter than 0.975 s has none.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: Not audio, a damaged file, an invalid array, an array without a sample rate, a URL, or samples
                that are not finite.
            TypeError: A source or an array dtype that cannot be audio.
        """
        return self._join(self._embed_waveform(read_waveform(source, self.channels, sample_rate=sample_rate)))

    def stream(self, blocks: Iterable[Any], sample_rate: int) -> Iterator[Embeddings]:
        """Embeds a stream in constant memory.

        Args:
            blocks: Arrays as `embed` accepts them, of any lengths. Convert bytes first, such as those of 16-bit samples
                with `np.frombuffer(block, np.int16)`.
            sample_rate: Their rate in Hz.

        Returns:
            The embeddings batch by batch, as soon as each is complete, and the rest at the end of the stream. Together
            they equal what `embed` returns for the whole. With `batch_size=1`, each arrives with the block that
            completes its example at 16 kHz, and at most 50 ms of audio later at other rates from 8 kHz; larger batches
            wait for all of their examples, and are resampled in steps of 2 s.

        Raises:
            ValueError: An invalid sample rate; or, while reading, an invalid block.
            TypeError: While reading, bytes or a dtype that cannot be audio.

        Examples:
            >>> blocks = (np.zeros(4_410, np.int16) for _ in range(30))
            >>> for part in embedder.stream(blocks, sample_rate=44_100):
            ...     print(part.times, part.values.shape)
            [0.   0.96 1.92] (3, 128)
        """
        # Copies, because the caller may reuse an array for the next block.
        blocks = map(np.copy, audio.mono_blocks(blocks, "stream", self.channels))
        sample_rate = audio.check_sample_rate(sample_rate)
        return self._embed_waveform(resample_blocks(blocks, sample_rate, low_latency=self.batch_size == 1))

    def embed_many(
        self,
        paths: Iterable[PathT],
        on_audio: Callable[[PathT, float], object] | None = None,
        *,
        progress: bool = False,
    ) -> Generator[tuple[PathT, "Embeddings | Exception"], None, None]:
        """Embeds many recordings at the speed of the network.

        Files are read, decoded and resampled in other processes, and their examples share batches. The last batch is
        padded to full size, so the embeddings of a recording are bit-identical whatever the other recordings are. A
        file on which a decoder crashes or never returns fails like any other bad file.

        Args:
            paths: Files as `embed` accepts them. The iterable is advanced in the calling thread, only when there is
                room for more.
            on_audio: Called with each path and the seconds of audio that were read since the last call for it, in a
                background thread.
            progress: True shows a progress bar on standard error if it is a terminal, and in a notebook.

        Yields:
            Each path, in order, with its embeddings or with the exception that explains their absence.

        Raises:
            TypeError: `paths` is a single path.

        Examples:
            >>> for path, result in embedder.embed_many(["recording.wav", "missing.wav"]):
            ...     print(path, result if isinstance(result, Exception) else result.values.shape)
            recording.wav (3, 128)
            missing.wav no audio file at missing.wav
        """
        results = self._embed_all(paths, on_audio)
        with contextlib.closing(results):
            yield from _show_progress(results, paths) if progress else results

    def _embed_all(
        self, paths: Iterable[PathT], on_audio: Callable[[PathT, float], object] | None
    ) -> Generator[tuple[PathT, Embeddings | Exception], None, None]:
        parts = []
        with contextlib.closing(self.stream_many(paths, on_audio)) as results:
            for path, result in results:
                if isinstance(result, Embeddings):
                    parts.append(result)
                else:
                    whole = result or self._join(parts)
                    parts = []
                    yield path, whole

    def stream_many(
        self, paths: Iterable[PathT], on_audio: Callable[[PathT, float], object] | None = None
    ) -> Generator[tuple[PathT, Embeddings | Exception | None], None, None]:
        """Embeds many recordings like `embed_many`, in memory that does not grow with their length.

        Args:
            paths: As in `embed_many`.
            on_audio: As in `embed_many`.

        Yields:
            Each path, in order: with parts of its embeddings, as soon as a batch is complete; and then once with None,
            or with the exception that explains why the recording ends early or has no embeddings.

        Raises:
            TypeError: `paths` is a single path.

        Examples:
            >>> for path, result in embedder.stream_many(["recording.wav"]):
            ...     print(path, None if result is None else result.times)
            recording.wav [0.   0.96 1.92]
            recording.wav None
        """
        check_several("paths", paths)
        check_not_forked()
        recordings: collections.deque[_Recording[PathT]] = collections.deque()
        batch: list[Segments] = []

        def results(values: Any) -> Iterator[tuple[PathT, Embeddings | Exception | None]]:
            """Yields values, which belong to the first recordings, and the ends of recordings that lack no more."""
            while recordings:
                first = recordings[0]
                part, values = values[: first.waiting], values[first.waiting :]
                if len(part):
                    times = start_times(len(part), self._hop_samples, first.yielded)
                    first.waiting -= len(part)
                    first.yielded += len(part)
                    # A copy, so that no result keeps those of other recordings alive.
                    yield first.path, Embeddings(times, part.copy())
                    check_not_forked()  # the threads that read ahead do not exist in a forked process
                if first.waiting or not first.ended:
                    return
                recordings.popleft()
                _logger.debug("%s: %s", first.path, first.error or counted(first.yielded, "example"))
                yield first.path, first.error
                check_not_forked()

        with contextlib.closing(self._read_all(paths, on_audio)) as items:
            for recording, segment in items:
                if not recordings or recordings[-1] is not recording:
                    recordings.append(recording)
                if segment is not None:
                    recording.waiting += 1
                    batch.append(segment)
                values: Any = ()
                if len(batch) == self.batch_size:
                    values, batch = self.embed_full_batch(batch), []
                yield from results(values)
            if batch:
                values, batch = self.embed_full_batch(batch), []
                yield from results(values)

    def embed_full_batch(self, segments: Sequence[Segments] | Segments) -> NDArray[Any]:
        """Embeds segments in one zero-padded batch of `batch_size`.

        So each result depends only on its own segment, bit for bit: the network's rounding depends on the batch size.

        Args:
            segments: float32 [n, 15600], or as many arrays; at most `batch_size`.

        Returns:
            [n, 128], float32 or, if quantized, uint8.
        """
        batch = np.zeros((self.batch_size, params.EXAMPLE_SAMPLES), np.float32)
        np.stack(list(segments), out=batch[: len(segments)])
        return self._engine(batch, self._output)[: len(segments)]

    def _open_readers(self) -> ReaderProcesses:
        return ReaderProcesses()

    def _read_all(
        self, paths: Iterable[PathT], on_audio: Callable[[PathT, float], object] | None
    ) -> "Generator[tuple[_Recording[PathT], Segments | None], None, None]":
        """Yields the segments of all recordings in order, and None after the last segment of each."""
        readers = self._open_readers()

        def read(path: PathT) -> Iterator[Segments]:
            report = None if on_audio is None else functools.partial(on_audio, path)
            return cut_segments(readers.read(path, self.channels, report), self._hop_samples, self.padding)

        max_segments = _BATCHES_AHEAD * self.batch_size
        # The processes end first: a thread may wait for one that never answers.
        ahead = read_ahead(paths, read, self._max_readers, max_segments)
        with contextlib.closing(ahead) as files, contextlib.closing(readers):
            for path, segments in files:
                recording = _Recording(path)
                try:
                    for segment in segments:
                        yield recording, segment
                except Exception as error:
                    recording.error = _drop_tracebacks(error)
                recording.ended = True
                yield recording, None

    def _embed_waveform(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[Embeddings]:
        segments = cut_segments(blocks, self._hop_samples, self.padding)
        start = 0
        while batch := list(itertools.islice(segments, self.batch_size)):
            values = self._engine(np.stack(batch), self._output)
            yield Embeddings(start_times(len(batch), self._hop_samples, start), values)
            start += len(batch)

    def _join(self, parts: Iterable[Embeddings]) -> Embeddings:
        engine = self._engine
        size = len(engine.class_names) if isinstance(engine, ClassifierEngine) else params.EMBEDDING_SIZE
        empty = np.zeros((0, size), embedding_dtype(self._output))
        times, values = zip(Embeddings(np.zeros(0), empty), *parts, strict=True)
        return Embeddings(np.concatenate(times), np.concatenate(values))


def _open(
    weights: PathLike | Engine | None, postprocess: Postprocessing | None, dtype: Dtype, pca_params: PcaParams
) -> Engine:
    if weights is None or isinstance(weights, (str, os.PathLike)):
        return open_engine(weights, postprocess, dtype, pca_params)
    if not (callable(weights) and callable(getattr(weights, "identity", None)) and hasattr(weights, "outputs")):
        got = "a Keras model: save it and pass its path" if hasattr(weights, "layers") else repr(weights)
        raise TypeError(f"weights must be {params.AUDIOSET!r}, a path, None or an engine, got {got}")
    if dtype != "float32":
        raise ValueError(f"the dtype of an engine cannot be changed, got {dtype!r}: choose it in open_engine")
    check_keeps_pca_params(pca_params, "the engine")
    check_output(weights, postprocess or default_output(weights), "the engine")
    return weights


def _show_progress(results: Iterable[T], paths: Iterable[Any]) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    hidden = not (console.is_terminal or console.is_jupyter)
    total = len(paths) if isinstance(paths, Sized) else None
    return iter(track(results, "", total, console=console, transient=True, disable=hidden))


@dataclasses.dataclass(eq=False)
class _Recording(Generic[PathT]):
    """A recording that is being read: how many of its examples were yielded and how many are waiting for that."""

    path: PathT
    yielded: int = 0
    waiting: int = 0
    ended: bool = False
    error: Exception | None = None


def _drop_tracebacks(error: Exception) -> Exception:
    """Removes the tracebacks of an error, whose frames hold blocks of samples."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return error


def embed(
    source: audio.Source,
    sample_rate: int | None = None,
    *,
    weights: PathLike | Engine | None = params.AUDIOSET,
    hop_seconds: float | None = None,
    padding: Padding | None = None,
    postprocess: Postprocessing | None = None,
    batch_size: int = 64,
    dtype: Dtype = "float32",
    channels: audio.Channels = "mix",
    pca_params: PathLike = params.AUDIOSET,
) -> Embeddings:
    """Embeds a recording with an `Embedder` that is kept for the next call with the same options.

    Args:
        source: As in `Embedder.embed`.
        sample_rate: As in `Embedder.embed`.
        weights: As in `Embedder`, and so are the other arguments.
        hop_seconds: Distance between examples.
        padding: What happens at the end of the recording.
        postprocess: None, "pca" or "quantized".
        batch_size: Examples per call of the network.
        dtype: What the network computes in.
        channels: "mix", or the index of a channel.
        pca_params: "audioset" or the path of an .npz file; for arrays, create an `Embedder`.

    Returns:
        The embeddings of all examples.

    Raises:
        FileNotFoundError: The file does not exist, or the published weights are not available.
        ValueError: As in `Embedder` and `Embedder.embed`.
        TypeError: As in `Embedder.embed`, or `pca_params` is not a path.

    Examples:
        >>> embeddings = vk.embed("recording.wav", weights=None)  # random weights, to be quick
        >>> embeddings.times
        array([0.  , 0.96, 1.92])
    """
    if not isinstance(pca_params, (str, os.PathLike)):
        raise TypeError(f"pca_params must be a path, got {type(pca_params).__name__}: for arrays, create an Embedder")
    options: dict[str, Any] = {
        "weights": weights,
        "hop_seconds": hop_seconds,
        "padding": padding,
        "postprocess": postprocess,
        "batch_size": batch_size,
        "dtype": dtype,
        "channels": channels,
        "pca_params": pca_params,
    }
    return shared_embedder(**options).embed(source, sample_rate)


def shared_embedder(**options: Any) -> Embedder:
    """Returns an `Embedder` that is kept for the next call with the same options, unless its files are replaced.

    An `Embedder` of an engine is not kept.
    """
    weights = options.get("weights")
    if weights is not None and not isinstance(weights, (str, os.PathLike)):
        return Embedder(**options)  # an engine, which is loaded and may not be hashable
    files = tuple(_file_states(options.get(name)) for name in ("weights", "pca_params"))
    return _kept_embedder(files, **options)


@functools.lru_cache(maxsize=1)
def _kept_embedder(files: object, **options: Any) -> Embedder:
    return Embedder(**options)


def _file_states(path: object) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of the files at a path: a file, the parts of a V2 checkpoint, or a SavedModel's folder."""
    if not isinstance(path, (str, os.PathLike)) or path == params.AUDIOSET:
        return ()
    start = os.path.abspath(path)
    names = [start, *glob.glob(f"{glob.escape(start)}.*")]
    if exported_options.is_saved_model(start):
        names += glob.glob(f"{glob.escape(start)}/**/*", recursive=True)
    found = [(name, os.stat(name)) for name in sorted(names) if os.path.isfile(name)]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in found)

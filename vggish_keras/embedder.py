"""Recordings of any length through the model, in full batches and bounded memory."""

import collections
import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from vggish_keras import __version__, audio, model, params, weights as weights_lib
from vggish_keras._errors import error_message
from vggish_keras._fork import check_process
from vggish_keras._read_ahead import read_ahead
from vggish_keras._reader_process import ReaderProcesses
from vggish_keras._validation import PathLike, check_choice
from vggish_keras.embeddings import Embeddings, embedding_dtype
from vggish_keras.framing import PADDINGS, cut_windows, hop_frames, start_times
from vggish_keras.resample import resample_blocks

DTYPES = ("float32", "bfloat16", "float16")

_BATCHES_AHEAD = 4
"""Batches of examples that wait for the network, so that it never waits for them."""
_MOST_THREADS = 8
"""Each holds as many batches; eight decode for any accelerator."""

PathT = TypeVar("PathT", bound=str | os.PathLike[str])


class Embedder:
    """Embeds files, arrays and streams of any length and sample rate.

    Each example is cut out on its own, so memory does not grow with the recording, and the values are those of
    `VGGish` on the whole waveform.

    Args:
        weights: "audioset", a path, or None for random ones, as in `VGGish`; or the folder of an exported SavedModel,
            of which only `postprocess` "quantized" may be asked, if it has PCA parameters, and no other `dtype`.
        hop_seconds: Distance of examples, any multiple of 10 ms.
        padding: "same" pads the end with zeros so that every sample is covered and there is at least one example;
            "valid" takes whole examples only.
        postprocess: None, "pca" or "quantized", as in `VGGish`.
        batch_size: Examples per call of the network. `stream` gives results batch by batch.
        dtype: What the network computes in: "float32", "bfloat16" or "float16". Results are float32.
        channels: "mix" for the mean of a recording's channels, as in the published code, or the index of one.

    Attributes:
        options: What the embeddings are made with, as plain values that JSON can hold.

    Raises:
        ValueError: A bad argument; weights that do not fit or are not finite; or a SavedModel with inputs or outputs
            that `export_saved_model` does not write.
        FileNotFoundError: There are no such weights, or the published ones cannot be had.
        RuntimeError: Here or while embedding: this process was forked after TensorFlow ran, and would hang.
    """

    def __init__(
        self,
        weights: PathLike | None = params.AUDIOSET,
        hop_seconds: float = params.EXAMPLE_HOP_SECONDS,
        padding: str = "same",
        postprocess: str | None = None,
        batch_size: int = 32,
        dtype: str = "float32",
        channels: audio.Channels = "mix",
    ) -> None:
        audio.check_channels(channels)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive whole number, got {batch_size!r}")
        check_choice("dtype", dtype, DTYPES)
        check_process()
        self.padding = padding
        self.batch_size = batch_size
        self.channels = channels
        self._hop_samples = hop_frames(hop_seconds) * params.STFT_HOP_SAMPLES
        if weights is not None and Path(weights, "saved_model.pb").is_file():
            check_choice("padding", padding, PADDINGS)
            vggish = _load_saved_model(Path(weights), postprocess, dtype)
        else:
            # Not a mixed policy, under which each call would convert the weights anew.
            built = model.VGGish(
                weights, hop_seconds=hop_seconds, padding=padding, postprocess=postprocess, dtype=dtype
            )
            vggish = functools.partial(built, training=False)
        # One trace: the last batch of a recording is smaller, all else is fixed.
        signature = [tf.TensorSpec([None, params.EXAMPLE_SAMPLES], tf.float32)]
        self._embed_windows = tf.function(lambda windows: vggish(windows)[:, 0], signature)
        self._dtype = embedding_dtype(postprocess)
        self.options: dict[str, Any] = {
            "weights": None if weights is None else os.fspath(weights),
            "hop_seconds": float(hop_seconds),
            "padding": padding,
            "postprocess": postprocess,
            "dtype": dtype,
            "channels": channels,
            "version": __version__,
        }

    def embed(self, source: audio.Source, sample_rate: int | None = None) -> Embeddings:
        """Embeds a recording.

        Args:
            source: A path or a binary file object in any format that libsndfile or FFmpeg reads, of a video the first
                audio stream; or an array [samples] or [samples, channels] of floats in [-1, 1] or of integer PCM.
            sample_rate: The rate of an array in Hz; a file has its own.

        Returns:
            The embeddings of all examples. Under "valid" padding a recording below 0.975 s has none.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: No audio, a damaged file, a bad array, no sample rate for one, samples that are not finite.
            TypeError: A source or an array dtype that cannot be audio.
        """
        opened = audio.open_audio(source, sample_rate, self.channels)
        return self._join(self._embed_blocks(opened.blocks, opened.sample_rate))

    def stream(self, blocks: Iterable[Any], sample_rate: int) -> Iterator[Embeddings]:
        """Embeds a stream in constant memory.

        Args:
            blocks: Arrays as `embed` takes them, of any lengths.
            sample_rate: Their rate in Hz.

        Returns:
            The embeddings batch by batch, as soon as each is complete, and the rest at the end of the stream. Together
            they are what `embed` gives for the whole.

        Raises:
            ValueError: A bad sample rate; or, while reading, a bad block.
            TypeError: While reading, a dtype that cannot be audio.
        """
        blocks = audio.mono_blocks(blocks, "stream", self.channels)
        return self._embed_blocks(blocks, audio.check_sample_rate(sample_rate))

    def embed_many(
        self, paths: Iterable[PathT], on_audio: Callable[[float], object] | None = None
    ) -> Generator[tuple[PathT, "Embeddings | Exception"], None, None]:
        """Embeds many recordings at the speed of the network.

        Files are read, decoded and resampled in other processes, and their examples share batches. The last batch
        is filled up, so what a recording gives does not depend, to the bit, on the others. A file on which a decoder
        crashes or never returns fails like any other bad file.

        Args:
            paths: Files as `embed` takes them. They are taken as there is room, from one thread.
            on_audio: Called with the seconds of audio that were read, in a background thread.

        Yields:
            Each path with its embeddings or with the exception that tells why there are none, in order.
        """
        finished: collections.deque[tuple[PathT, int, Exception | None]] = collections.deque()
        windows = self._windows_of_all(paths, on_audio, finished)
        parts: list[np.ndarray] = [np.zeros((0, params.EMBEDDING_SIZE), self._dtype)]
        batch: list[np.ndarray] = []
        embedded = 0

        def embed_batch() -> None:
            nonlocal embedded
            parts.append(self.embed_full_batch(batch))
            embedded += len(batch)
            batch.clear()

        def hand_out() -> Iterator[tuple[PathT, Embeddings | Exception]]:
            nonlocal parts, embedded
            while finished and finished[0][1] <= embedded:
                path, count, error = finished.popleft()
                joined = np.concatenate(parts)
                # Copies, so that no result keeps the rows of others alive.
                values, parts = joined[:count].copy(), [joined[count:].copy()]
                embedded -= count
                yield path, error or Embeddings(start_times(count, self._hop_samples), values)
                check_process()  # nobody reads ahead in a child

        check_process()
        with contextlib.closing(windows):
            for window in windows:
                if window is not None:
                    batch.append(window)
                if len(batch) == self.batch_size:
                    embed_batch()
                yield from hand_out()
            if batch:
                embed_batch()
            yield from hand_out()

    def embed_full_batch(self, windows: Any) -> np.ndarray:
        """Embeds examples in a batch that is filled up: what one gives does not depend, to the bit, on the others.

        The network's sums go by the number of rows.

        Args:
            windows: Each example's samples, float32 [n, 15600] or as many arrays, `batch_size` or less.

        Returns:
            [n, 128], float32 or, if quantized, uint8.
        """
        batch = np.zeros((self.batch_size, params.EXAMPLE_SAMPLES), np.float32)
        np.stack(windows, out=batch[: len(windows)])
        check_process()
        return self._embed_windows(batch).numpy()[: len(windows)]

    def _windows_of_all(
        self,
        paths: Iterable[PathT],
        on_audio: Callable[[float], object] | None,
        finished: "collections.deque[tuple[PathT, int, Exception | None]]",
    ) -> Generator[np.ndarray | None, None, None]:
        """The windows of one file after the other, and None where one is through.

        Then it is in `finished`, with the number of its windows.
        """
        readers = ReaderProcesses()

        def read(path: PathT) -> Iterator[np.ndarray]:
            return cut_windows(readers.read(path, self.channels, on_audio), self._hop_samples, self.padding)

        threads, most_windows = min(os.cpu_count() or 1, _MOST_THREADS), _BATCHES_AHEAD * self.batch_size
        # The processes end first: a thread may wait for one that never answers.
        with contextlib.closing(read_ahead(paths, read, threads, most_windows)) as files, contextlib.closing(readers):
            for path, windows in files:
                count, error = 0, None
                try:
                    for window in windows:
                        yield window
                        count += 1
                except Exception as caught:
                    error = _without_frames(caught)
                finished.append((path, count, error))
                yield None

    def _embed_blocks(self, blocks: Iterable[np.ndarray], sample_rate: int) -> Iterator[Embeddings]:
        windows = cut_windows(resample_blocks(blocks, sample_rate), self._hop_samples, self.padding)
        start = 0
        while batch := list(itertools.islice(windows, self.batch_size)):
            check_process()
            values = self._embed_windows(np.stack(batch)).numpy()
            yield Embeddings(start_times(len(batch), self._hop_samples, start), values)
            start += len(batch)

    def _join(self, parts: Iterable[Embeddings]) -> Embeddings:
        nothing = Embeddings(np.zeros(0), np.zeros((0, params.EMBEDDING_SIZE), self._dtype))
        return Embeddings(*map(np.concatenate, zip(nothing, *parts, strict=True)))


def _without_frames(error: Exception) -> Exception:
    """The error without tracebacks, whose frames hold blocks of samples."""
    cause: BaseException | None = error
    while cause is not None:
        cause.__traceback__ = None
        cause = cause.__cause__ or cause.__context__
    return error


def _load_saved_model(path: Path, postprocess: str | None, dtype: str) -> Callable[[tf.Tensor], tf.Tensor]:
    """What `export_saved_model` wrote, as a function of waveforms [batch, samples]."""
    if dtype != DTYPES[0]:
        raise ValueError(f"{path} has the dtype of its export, so dtype must be {DTYPES[0]!r}, got {dtype!r}")
    try:
        loaded = tf.saved_model.load(os.fspath(path))
    except Exception as error:  # TensorFlow raises whatever the first oddity leads it to
        raise ValueError(f"{path} is not a readable SavedModel: {error_message(error)}") from error
    output = postprocess or "embedding"
    _check_signature(path, loaded.signatures, output, tf.dtypes.as_dtype(embedding_dtype(postprocess)))
    variables = loaded.signatures["serving_default"].variables
    weights_lib.check_finite(path, {variable.name: variable for variable in variables})
    return functools.partial(_serve, loaded, output)


def _check_signature(path: Path, signatures: Any, output: str, dtype: tf.DType) -> None:
    """Raises a ValueError unless a SavedModel embeds examples as `export_saved_model` has it."""
    expected = "expected what export_saved_model writes"
    if "serving_default" not in signatures:
        found = ", ".join(sorted(signatures)) or "none"
        raise ValueError(f"{path} has no signature serving_default (signatures: {found}), {expected}")
    signature = signatures["serving_default"]
    inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
    examples = tf.TensorShape([None, params.EXAMPLE_SAMPLES])
    taken = [name for name, spec in inputs.items() if spec.dtype == tf.float32 and examples.is_subtype_of(spec.shape)]
    if not list(inputs) == taken == ["waveform"]:
        raise ValueError(f"{path} has the input {_specs(inputs)}, {expected}: waveform float32 [batch, samples]")
    if output not in outputs:
        raise ValueError(f"{path} was exported with the outputs {', '.join(sorted(outputs))}, without {output}")
    embedding = outputs[output]
    embeddings = tf.TensorShape([None, None, params.EMBEDDING_SIZE])
    fits = embedding.shape.is_subtype_of(embeddings) and embedding.shape[1] in (None, 1)
    if embedding.dtype != dtype or not fits:
        found = _specs({output: embedding})
        raise ValueError(f"{path} has the output {found}, {expected}: {output} {dtype.name} [batch, n, 128]")


def _specs(specs: Mapping[str, tf.TensorSpec]) -> str:
    return ", ".join(f"{name} {spec.dtype.name} {spec.shape}" for name, spec in specs.items()) or "nothing"


def _serve(loaded: Any, output: str, waveform: tf.Tensor) -> tf.Tensor:
    return loaded.signatures["serving_default"](waveform=waveform)[output]


def embed(source: audio.Source, sample_rate: int | None = None, **options: Any) -> Embeddings:
    """Embeds a recording with an `Embedder` that is kept for the next call with the same options.

    Args:
        source: As in `Embedder.embed`.
        sample_rate: As in `Embedder.embed`.
        **options: Of `Embedder`.

    Returns:
        The embeddings of all examples.

    Raises:
        FileNotFoundError: There is no such file, or the published weights cannot be had.
        ValueError: As in `Embedder` and `Embedder.embed`.
        TypeError: As in `Embedder.embed`.
    """
    return _embedder(**options).embed(source, sample_rate)


@functools.lru_cache(maxsize=1)
def _embedder(**options: Any) -> Embedder:
    return Embedder(**options)

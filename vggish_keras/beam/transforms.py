"""The transforms of a pipeline."""

import contextlib
import io
import itertools
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.ml.inference.base import ModelHandler, RunInference
from numpy.typing import NDArray

from vggish_keras import audio, corpus as corpus_lib, embedding_files, exported_options, params
from vggish_keras._atomic import sync
from vggish_keras._blas import single_threaded_blas
from vggish_keras._errors import error_message
from vggish_keras._reader_process import ReaderProcesses
from vggish_keras._validation import (
    PathLike,
    PcaParams,
    Postprocessing,
    check_choice,
    check_postprocess,
    file_suffix,
)
from vggish_keras.embedder import Embedder
from vggish_keras.embeddings import Embeddings, embedding_dtype
from vggish_keras.engines import Dtype
from vggish_keras.framing import PADDINGS, Padding, cut_segments, hop_to_samples, start_times
from vggish_keras.frechet import Statistics
from vggish_keras.recordings import find_recordings
from vggish_keras.records import serialize
from vggish_keras.resample import read_waveform
from vggish_keras.segments import Segment, read_segments

NAMESPACE = "vggish_keras"
"""Namespace of the metrics: the counters `recordings`, `failures` and `audio_milliseconds`, and RunInference's own."""
LEFT_OUT = "vggish_keras.left_out"
"""Namespace of the counters of other files in the folders, named like their suffixes."""
NO_SUFFIX = "none"
MADE_WITH = "made_with"
"""Name of the metric that collects the options of the workers' networks, as JSON: more than one if they differ."""

Recording: TypeAlias = tuple[bytes, Segment | None]
"""The path of a recording, and its line of an AudioSet segment list."""
Example: TypeAlias = tuple[bytes, int, NDArray[np.float32]]
"""The path of a recording, the index of an example in it, and the example's samples, float32 [15600]."""
Failure: TypeAlias = tuple[bytes, bytes]
"""The path of a recording, and the reason why it failed, which may contain the path."""

_RECORDINGS_PER_TABLE = 512


class DecodedRecording(NamedTuple):
    """A recording that was read to its end.

    Attributes:
        num_examples: Number of its examples.
        hop_samples: Distance between examples, in samples at 16 kHz.
        segment: Its line of an AudioSet segment list.

    Examples:
        >>> from vggish_keras import beam
        >>> recording = beam.DecodedRecording(num_examples=3, hop_samples=15_360, segment=None)
        >>> recording.hop_samples / 16_000
        0.96
    """

    num_examples: int
    hop_samples: int
    segment: Segment | None


class Embedded(NamedTuple):
    """An embedded recording.

    Attributes:
        embeddings: Its embeddings.
        hop_samples: Distance between examples, in samples at 16 kHz.
        segment: Its line of an AudioSet segment list.

    Examples:
        >>> from vggish_keras import beam
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.zeros((2, 128), np.float32))
        >>> beam.Embedded(embeddings, hop_samples=15_360, segment=None).embeddings.values.shape
        (2, 128)
    """

    embeddings: Embeddings
    hop_samples: int
    segment: Segment | None


# === Files ===


class Matched(NamedTuple):
    """The output of `MatchAudio`.

    Attributes:
        recordings: PCollection of `Recording`, each path once.
        failures: PCollection of `Failure`: recordings that are missing from the segment list.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     recordings, failures = pipeline | beam.MatchAudio(["recording.wav"])
    """

    recordings: Any
    failures: Any


class MatchAudio(beam.PTransform):
    """Finds recordings.

    Args:
        patterns: Files, folders and patterns as in `recordings.find_recordings`; or, with a scheme such as gs://,
            patterns of Beam's file systems, where ** matches any characters.
        segments: Path of an AudioSet segment list, which workers must be able to read. It provides names, times and
            labels for files named YTID or YTID_START. All other files are failures.
        labels: Path of AudioSet's class_labels_indices.csv, required if the list contains label names.

    Output:
        `Matched`. A pattern that matches nothing raises ValueError when the pipeline runs.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     found = pipeline | beam.MatchAudio(["recording.wav", "*.wav"])
        ...     _ = found.recordings | apache_beam.MapTuple(lambda path, segment: print(path))
        b'recording.wav'
    """

    def __init__(self, patterns: Iterable[str], segments: str | None = None, labels: str | None = None) -> None:
        super().__init__()
        self._patterns = list(patterns)
        self._segments, self._labels = segments, labels

    def expand(self, pipeline: Any) -> Matched:
        # Distinct also redistributes the paths over the workers.
        paths = pipeline | beam.Impulse() | beam.FlatMap(_find, self._patterns) | beam.Distinct()
        if self._segments is None:
            return Matched(
                paths | beam.Map(lambda path: (path, None)).with_output_types(Recording),
                pipeline | "None" >> beam.Create([], reshuffle=False).with_output_types(Failure),
            )
        lists = pipeline | "Lists" >> beam.Impulse()
        segments = lists | beam.FlatMap(_read_segments, self._segments, self._labels)
        joined = {"paths": paths | beam.WithKeys(_stem), "segments": segments} | beam.CoGroupByKey()
        found = joined | beam.ParDo(_AddSegments(self._segments)).with_outputs("failures", main="recordings")
        return Matched(found.recordings, found.failures)


def _find(_: bytes, patterns: Sequence[str]) -> Iterator[bytes]:
    local = [pattern for pattern in patterns if not is_remote(pattern)]
    remote = filter(is_remote, patterns)
    return map(os.fsencode, itertools.chain(_find_local(local), *map(_find_remote, remote)))


def _find_local(patterns: Sequence[str]) -> Iterator[str]:
    if not patterns:
        return
    recordings = find_recordings(patterns)
    for suffix, count in recordings.left_out.items():
        Metrics.counter(LEFT_OUT, suffix or NO_SUFFIX).inc(count)
    yield from map(str, recordings.paths)


def _find_remote(pattern: str) -> Iterator[str]:
    (found,) = FileSystems.match([pattern])
    if not found.metadata_list:
        raise ValueError(f"no file matches {pattern}")
    return (metadata.path for metadata in found.metadata_list)


def is_remote(path: str) -> bool:
    return "://" in path


def _stem(path: bytes) -> bytes:
    return os.fsencode(Path(os.fsdecode(path)).stem)


def _read_segments(_: bytes, segments: str, labels: str | None) -> Iterator[tuple[bytes, Segment]]:
    with _local_copy(segments) as local_segments, _local_copy(labels) as local_labels:
        for stem, segment in read_segments(local_segments, local_labels).items():
            yield os.fsencode(stem), segment


@contextlib.contextmanager
def _local_copy(path: str | None) -> Iterator[Any]:
    if path is None or not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder, FileSystems.open(path) as file:
        local = Path(folder, "list.csv")
        local.write_bytes(file.read())
        yield str(local)


class _AddSegments(beam.DoFn):
    def __init__(self, segments: str) -> None:
        self._reason = os.fsencode(f" is not in {segments}")
        self._failures = Metrics.counter(NAMESPACE, "failures")

    def process(self, joined: tuple[bytes, Mapping[str, Iterable[Any]]]) -> Iterator[Any]:
        segment = next(iter(joined[1]["segments"]), None)
        for path in joined[1]["paths"]:
            if segment is not None:
                yield path, segment
            else:
                self._failures.inc()
                yield beam.pvalue.TaggedOutput("failures", (path, path + self._reason))


# === Audio ===


class Decoded(NamedTuple):
    """The output of `DecodeAudio`.

    Attributes:
        examples: PCollection of `Example`, including those of recordings whose end cannot be read.
        recordings: PCollection of (path, `DecodedRecording`): recordings that were read to their ends.
        failures: PCollection of `Failure`: all others.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     found = pipeline | beam.MatchAudio(["recording.wav"])
        ...     examples, recordings, failures = found.recordings | beam.DecodeAudio()
    """

    examples: Any
    recordings: Any
    failures: Any


@beam.typehints.with_input_types(Recording)
class DecodeAudio(beam.PTransform):
    """Decodes recordings, mixes and resamples them to 16 kHz mono, and cuts them into examples, in constant memory.

    Args:
        hop_seconds: Distance between examples, any multiple of 10 ms.
        padding: "short", "valid" or "same", as in `Embedder`.
        channels: "mix" or the index of a channel, as in `Embedder`.

    Input:
        PCollection of `Recording`.

    Output:
        `Decoded`.

    Raises:
        ValueError: An argument is invalid.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     found = pipeline | beam.MatchAudio(["recording.wav"])
        ...     decoded = found.recordings | beam.DecodeAudio(hop_seconds=0.5)
        ...     _ = decoded.recordings | apache_beam.Map(print)
        (b'recording.wav', DecodedRecording(num_examples=5, hop_samples=8000, segment=None))
    """

    def __init__(
        self,
        hop_seconds: float = params.EXAMPLE_HOP_SECONDS,
        padding: Padding = "short",
        channels: audio.Channels = "mix",
    ) -> None:
        super().__init__()
        check_choice("padding", padding, PADDINGS)
        audio.check_channels(channels)
        self._decode = _Decode(hop_to_samples(hop_seconds), padding, channels)

    def expand(self, recordings: Any) -> Decoded:
        decoded = recordings | beam.ParDo(self._decode).with_outputs("recordings", "failures", main="examples")
        return Decoded(decoded.examples, decoded.recordings, decoded.failures)


class _Decode(beam.DoFn):
    def __init__(self, hop_samples: int, padding: Padding, channels: audio.Channels) -> None:
        self._hop_samples, self._padding, self._channels = hop_samples, padding, channels
        self._recordings = Metrics.counter(NAMESPACE, "recordings")
        self._failures = Metrics.counter(NAMESPACE, "failures")
        self._milliseconds = Metrics.counter(NAMESPACE, "audio_milliseconds")

    def setup(self) -> None:
        self._readers = ReaderProcesses()

    def teardown(self) -> None:
        self._readers.close()

    def process(self, recording: Recording) -> Iterator[Any]:
        path, segment = recording
        count = 0
        seconds: list[float] = []
        try:
            blocks = self._read(os.fsdecode(path), seconds.append)
            for samples in cut_segments(blocks, self._hop_samples, self._padding):
                yield path, count, samples
                count += 1
        except Exception as error:  # any error is attributed to this file, as in Embedder.embed_many
            self._failures.inc()
            yield beam.pvalue.TaggedOutput("failures", (path, os.fsencode(error_message(error))))
        else:
            self._recordings.inc()
            decoded = DecodedRecording(count, self._hop_samples, segment)
            yield beam.pvalue.TaggedOutput("recordings", (path, decoded))
        self._milliseconds.inc(round(1_000 * sum(seconds)))

    def _read(self, path: str, on_audio: Callable[[float], object]) -> Iterator[NDArray[np.float32]]:
        if not is_remote(path):
            yield from self._readers.read(path, self._channels, on_audio)
            return
        opened: Any = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        with _NamedFile(opened) as file, single_threaded_blas():
            file.name = path
            yield from read_waveform(file, self._channels, on_audio)


class _NamedFile(io.BufferedReader):
    """A file whose name appears in error messages."""

    name = ""


# === Embeddings ===


class EmbedAudio(beam.PTransform):
    """Embeds examples with Beam's RunInference, in full batches across recordings, with one network per machine.

    Args:
        weights: As in `Embedder`. Workers must be able to read a path.
        postprocess: None, "pca" or "quantized", as in `Embedder`.
        batch_size: Examples per call of the network. The last batch of a bundle is padded, so that a recording's
            embeddings are identical to the bit however the recordings are distributed.
        dtype: As in `Embedder`.
        pca_params: As in `Embedder`. Workers must be able to read a path.

    Input:
        A pair of PCollections: `examples` and `recordings` of `Decoded`.

    Output:
        PCollection of (path, `Embedded`).

    Examples:
        >>> from vggish_keras import beam
        >>> embed = beam.EmbedAudio("vggish/1", postprocess="quantized")
    """

    def __init__(
        self,
        weights: PathLike | None = params.AUDIOSET,
        postprocess: Postprocessing | None = None,
        batch_size: int = 64,
        dtype: Dtype = "float32",
        pca_params: PcaParams = params.AUDIOSET,
    ) -> None:
        super().__init__()
        check_postprocess(postprocess, pca_params)
        options = {
            "weights": weights,
            "postprocess": postprocess,
            "batch_size": batch_size,
            "dtype": dtype,
            "pca_params": pca_params,
        }
        self._handler = _EmbedderHandler(options)
        self._dtype = embedding_dtype(postprocess)

    def expand(self, decoded: tuple[Any, Any]) -> Any:
        examples, recordings = decoded
        rows = examples | RunInference(self._handler)
        return {"rows": rows, "recordings": recordings} | beam.CoGroupByKey() | beam.FlatMap(_assemble, self._dtype)


_Row: TypeAlias = tuple[bytes, tuple[int, NDArray[Any]]]
"""The path of a recording, and the index and the embedding of an example."""


class _Network:
    """The network of a machine. Other processes call its methods."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._embedder = Embedder(**options)

    def embed(self, segments: NDArray[np.float32]) -> NDArray[Any]:
        return self._embedder.embed_full_batch(segments)

    def made_with(self) -> str:
        names = ("weights", "postprocess", "dtype", "engine", "version")
        return json.dumps({name: self._embedder.options[name] for name in names})


class _EmbedderHandler(ModelHandler[Example, _Row, _Network]):
    def __init__(self, options: dict[str, Any]) -> None:
        # Only one process per machine loads a large model, and serves the others.
        super().__init__(min_batch_size=options["batch_size"], max_batch_size=options["batch_size"], large_model=True)
        self._options = options
        self._made_with = Metrics.string_set(NAMESPACE, MADE_WITH)

    def load_model(self) -> _Network:
        return _Network(self._options)

    def run_inference(self, batch: Sequence[Example], model: _Network, inference_args: Any = None) -> Iterable[_Row]:
        rows = model.embed(np.stack([samples for _, _, samples in batch]))
        self._made_with.add(model.made_with())
        return [(path, (index, row)) for (path, index, _), row in zip(batch, rows, strict=True)]

    def get_num_bytes(self, batch: Sequence[Example]) -> int:
        return sum(samples.nbytes for _, _, samples in batch)

    def get_metrics_namespace(self) -> str:
        return NAMESPACE


def _assemble(joined: tuple[bytes, Mapping[str, Iterable[Any]]], dtype: str) -> Iterator[tuple[bytes, Embedded]]:
    """Puts the rows of a recording in order, unless it was not read to its end."""
    path, parts = joined
    for recording in itertools.starmap(DecodedRecording, parts["recordings"]):
        rows = [row for _, row in sorted(parts["rows"], key=lambda row: row[0])]
        values = np.stack(rows) if rows else np.zeros((0, params.EMBEDDING_SIZE), dtype)
        embeddings = Embeddings(start_times(recording.num_examples, recording.hop_samples), values)
        yield path, Embedded(embeddings, recording.hop_samples, recording.segment)


# === Writing ===


def _check_prefix(prefix: str) -> str:
    """Returns `prefix`, unless Beam's writers would treat it as a pattern after everything is computed."""
    path = prefix if is_remote(prefix) else os.path.abspath(prefix)
    if re.search(r"[*?[]", path):
        raise ValueError(f"the output path must not contain *, ? or [, which Beam treats as a pattern, got {path}")
    return prefix


@beam.typehints.with_input_types(tuple[bytes, Embedded])
class WriteAudioSetRecords(beam.PTransform):
    """Writes AudioSet records to PREFIX-00000-of-00004.tfrecord and so on, which appear when all are complete.

    Args:
        prefix: PREFIX, a local path or one of a Beam file system.
        shards: Number of files. 0 lets the runner choose.

    Input:
        PCollection of (path, `Embedded`) with quantized embeddings.

    Output:
        PCollection of the paths of the files.

    Raises:
        ValueError: The prefix or, if it is relative, the working folder contains *, ? or [.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> embeddings = vk.Embeddings(np.array([0.0]), np.zeros((1, 128), np.uint8))
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     embedded = pipeline | apache_beam.Create([(b"a.wav", beam.Embedded(embeddings, 15_360, None))])
        ...     _ = embedded | beam.WriteAudioSetRecords("corpus", shards=1)
        >>> [record.video_id for record in vk.records.read("corpus-00000-of-00001.tfrecord")]
        ['a.wav']
    """

    def __init__(self, prefix: str, shards: int = 0) -> None:
        super().__init__()
        self._write = beam.io.WriteToTFRecord(
            _check_prefix(prefix), file_name_suffix=corpus_lib.RECORDS_SUFFIX, num_shards=shards
        )

    def expand(self, embedded: Any) -> Any:
        return embedded | beam.MapTuple(_serialize) | self._write | beam.Map(_sync)


def _serialize(path: bytes, embedded: Embedded) -> bytes:
    hop_seconds = embedded.hop_samples / params.SAMPLE_RATE
    return serialize(corpus_lib.make_record(os.fsdecode(path), embedded.embeddings, hop_seconds, embedded.segment))


@beam.typehints.with_input_types(tuple[bytes, Embedded])
class WriteParquet(beam.PTransform):
    """Writes the columns file, time and embedding to PREFIX-00000-of-00004.parquet and so on.

    Args:
        prefix: PREFIX, a local path or one of a Beam file system.
        postprocess: As in `EmbedAudio`: embeddings are uint8 if it is "quantized", else float32.
        shards: Number of files. 0 lets the runner choose.
        options: How the embeddings are made, such as {"weights": "vggish/1"}, stored in each file.

    Input:
        PCollection of (path, `Embedded`).

    Output:
        PCollection of the paths of the files.

    Raises:
        ValueError: The prefix or, if it is relative, the working folder contains *, ? or [.
        ImportError: pyarrow is missing.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> embeddings = vk.Embeddings(np.array([0.0]), np.zeros((1, 128), np.float32))
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     embedded = pipeline | apache_beam.Create([(b"a.wav", beam.Embedded(embeddings, 15_360, None))])
        ...     _ = embedded | beam.WriteParquet("corpus", shards=1)
        >>> Path("corpus-00000-of-00001.parquet").exists()
        True
    """

    def __init__(
        self,
        prefix: str,
        postprocess: Postprocessing | None = None,
        shards: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._schema = embedding_files.parquet_schema(embedding_dtype(postprocess), options)
        self._write = beam.io.WriteToParquetBatched(
            _check_prefix(prefix), self._schema, file_name_suffix=".parquet", num_shards=shards
        )

    def expand(self, embedded: Any) -> Any:
        # Each table becomes a row group.
        batches = embedded | beam.BatchElements(_RECORDINGS_PER_TABLE, _RECORDINGS_PER_TABLE)
        return batches | beam.Map(_table, self._schema) | self._write | beam.Map(_sync)


def _table(batch: Sequence[tuple[bytes, Embedded]], schema: Any) -> Any:
    return embedding_files.parquet_table([(os.fsdecode(path), embedded.embeddings) for path, embedded in batch], schema)


class WriteFailures(beam.PTransform):
    """Writes the columns file and reason to PREFIX-failures.csv, unless there are no failures.

    Args:
        prefix: PREFIX, a local path or one of a Beam file system.

    Input:
        A tuple of PCollections of `Failure`.

    Output:
        PCollection of the path of the file.

    Raises:
        ValueError: The prefix or, if it is relative, the working folder contains *, ? or [.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> Path("text.wav").write_text("no audio")
        8
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     found = pipeline | beam.MatchAudio(["text.wav"])
        ...     decoded = found.recordings | beam.DecodeAudio()
        ...     _ = (found.failures, decoded.failures) | beam.WriteFailures("corpus")
        >>> print(Path("corpus-failures.csv").read_text())
        file,reason
        text.wav,"text.wav cannot be read as audio: ..."
        <BLANKLINE>
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._write = beam.io.WriteToText(
            f"{_check_prefix(prefix)}-{corpus_lib.FAILURES}",
            shard_name_template="",
            header=corpus_lib.FAILURES_HEADER.decode(),
            append_trailing_newlines=False,
            coder=beam.coders.BytesCoder(),
            skip_if_empty=True,
        )

    def expand(self, failures: Any) -> Any:
        return failures | beam.Flatten() | beam.Map(_failures_row) | self._write | beam.Map(_sync)


def _failures_row(failure: Failure) -> bytes:
    return corpus_lib.failures_row(*map(os.fsdecode, failure))


@beam.typehints.with_input_types(tuple[bytes, Embedded])
class WriteStatistics(beam.PTransform):
    """Writes the statistics of all embeddings to an .npz file, for the Fréchet audio distance (`fad`).

    The file has the same size for any number of embeddings, apart from 8 bytes for each recording. Without embeddings,
    nothing is written.

    Args:
        path: The .npz file, a local path or one of a Beam file system.
        options: How the embeddings are made, as in `Statistics`.

    Input:
        PCollection of (path, `Embedded`).

    Output:
        PCollection of the path of the file.

    Raises:
        ValueError: The suffix is not .npz.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.random.default_rng(0).normal(size=(2, 128)))
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     embedded = pipeline | apache_beam.Create([(b"a.wav", beam.Embedded(embeddings, 15_360, None))])
        ...     _ = embedded | beam.WriteStatistics("corpus.npz")
        >>> vk.Statistics.load("corpus.npz")
        Statistics(2 embeddings of 1 recording)
    """

    def __init__(self, path: str, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if file_suffix(path) != ".npz":
            raise ValueError(f"expected an .npz file, got {path}")
        self._path = path
        self._combine = _CombineStatistics(dict(options or {}))

    def expand(self, embedded: Any) -> Any:
        statistics = embedded | beam.CombineGlobally(self._combine)
        return statistics | beam.Filter(lambda statistics: statistics.n) | beam.Map(_save_statistics, self._path)


class _CombineStatistics(beam.CombineFn):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self._options = options

    def create_accumulator(self) -> Statistics:
        return Statistics(self._options)

    def add_input(self, statistics: Statistics, element: tuple[bytes, Embedded]) -> Statistics:
        path, embedded = element
        statistics.add(embedded.embeddings.values, os.fsdecode(path))
        return statistics

    def merge_accumulators(self, parts: Iterable[Statistics]) -> Statistics:
        whole = self.create_accumulator()
        for part in parts:
            whole += part
        return whole

    def extract_output(self, statistics: Statistics) -> Statistics:
        return statistics


def _save_statistics(statistics: Statistics, path: str) -> str:
    if not is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        statistics.save(path)
        return path
    with tempfile.TemporaryDirectory() as folder:
        statistics.save(Path(folder, "x.npz"))
        with FileSystems.create(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(Path(folder, "x.npz").read_bytes())
    return path


def _sync(path: str) -> str:
    """Waits until a local file is on the disk; returns its path. Beam moves files to their final paths earlier."""
    if not is_remote(path):
        with contextlib.suppress(FileNotFoundError):  # written on a different machine of a cluster
            sync(Path(path))
    return path


# === All of it ===


def _check_is_local(weights: PathLike) -> None:
    """Raises a FileNotFoundError for weights that may be a SavedModel with a hop and a padding of its own."""
    if not os.path.exists(weights) and not os.path.exists(f"{os.fspath(weights)}.index"):
        raise FileNotFoundError(
            f"no weights found at {os.fspath(weights)}: if only the workers have them, pass the hop and the padding "
            "(--hop, --padding)"
        )


class EmbedCorpus(beam.PTransform):
    """Embeds recordings into AudioSet records at PREFIX-*-of-*.tfrecord, and lists failures in PREFIX-failures.csv.

    The whole pipeline as one transform, for `run`.

    Args:
        patterns: As in `MatchAudio`.
        prefix: PREFIX, a local path or one of a Beam file system.
        weights: As in `EmbedAudio`. A SavedModel must have the output `quantized`.
        hop_seconds: As in `Embedder`; the options of a SavedModel are read when the transform is made.
        padding: As in `Embedder`.
        batch_size: As in `EmbedAudio`.
        dtype: As in `EmbedAudio`.
        channels: As in `DecodeAudio`.
        segments: As in `MatchAudio`.
        labels: As in `MatchAudio`.
        shards: As in `WriteAudioSetRecords`.
        pca_params: As in `EmbedAudio`.

    Attributes:
        options: The hop, the padding and the channels, as in `Embedder.options`.

    Raises:
        ValueError: An argument is invalid.
        FileNotFoundError: The weights do not exist on this machine, and the hop or the padding is None.

    Examples:
        >>> from vggish_keras import beam
        >>> files = ["recording.wav"]
        >>> corpus = beam.EmbedCorpus(files, "x/corpus", weights="/vggish/1", hop_seconds=0.96, padding="valid")
    """

    def __init__(
        self,
        patterns: Iterable[str],
        prefix: str,
        *,
        weights: PathLike | None = params.AUDIOSET,
        hop_seconds: float | None = None,
        padding: Padding | None = None,
        batch_size: int = 64,
        dtype: Dtype = "float32",
        channels: audio.Channels = "mix",
        segments: str | None = None,
        labels: str | None = None,
        shards: int = 0,
        pca_params: PcaParams = params.AUDIOSET,
    ) -> None:
        super().__init__()
        self.prefix = prefix
        self._match = MatchAudio(patterns, segments, labels)
        self._write = WriteAudioSetRecords(prefix, shards)
        self._write_failures = WriteFailures(prefix)
        if None in (hop_seconds, padding) and weights not in (None, params.AUDIOSET):
            _check_is_local(weights)
        hop_seconds, padding = exported_options.resolve_options(weights, hop_seconds, padding)
        self.options = {"hop_seconds": hop_seconds, "padding": padding, "channels": channels}
        self._decode = DecodeAudio(hop_seconds, padding, channels)
        self._embed = EmbedAudio(weights, "quantized", batch_size, dtype, pca_params)

    def expand(self, pipeline: Any) -> tuple[Any, Any]:
        found = pipeline | self._match
        decoded = found.recordings | self._decode
        written = (decoded.examples, decoded.recordings) | self._embed | self._write
        return written, (found.failures, decoded.failures) | self._write_failures

"""The transforms of a pipeline."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from vggish_keras import audio, corpus as corpus_lib, embedding_files, params
from vggish_keras._atomic import sync
from vggish_keras._validation import PathLike, PcaParams, Postprocessing, check_several, file_suffix
from vggish_keras.beam.embedding import NAMESPACE, EmbedFn, Recording, embedder_options
from vggish_keras.beam.files import is_remote, local_copy, local_output
from vggish_keras.embeddings import Embeddings, embedding_dtype
from vggish_keras.engines import Dtype
from vggish_keras.framing import Padding
from vggish_keras.frechet import Statistics
from vggish_keras.recordings import find_recordings
from vggish_keras.segments import Segment, read_segments

LEFT_OUT = "vggish_keras.left_out"
"""Namespace of the counters of other files in the folders, named like their suffixes."""
NO_SUFFIX = "none"

Failure: TypeAlias = tuple[bytes, bytes]
"""The path of a recording, and the reason why it failed, which may contain the path."""

_RECORDINGS_PER_BATCH = 512


# === Matching ===


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

    Raises:
        TypeError: `patterns` is a single pattern.

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
        check_several("patterns", patterns)
        self._patterns = list(patterns)
        self._segments, self._labels = segments, labels

    def expand(self, pipeline: Any) -> Any:
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


def _stem(path: bytes) -> bytes:
    return os.fsencode(Path(os.fsdecode(path)).stem)


def _read_segments(_: bytes, segments: str, labels: str | None) -> Iterator[tuple[bytes, Segment]]:
    with local_copy(segments) as local_segments, local_copy(labels or segments) as local_labels:
        for stem, segment in read_segments(local_segments, local_labels if labels else None).items():
            yield os.fsencode(stem), segment


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


# === Embedding ===


class Embedded(NamedTuple):
    """The output of `EmbedAudio`.

    Attributes:
        embeddings: PCollection of (path, `Embeddings`): recordings that were read to their ends.
        failures: PCollection of `Failure`: all others.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     found = pipeline | beam.MatchAudio(["recording.wav"])
        ...     embeddings, failures = found.recordings | beam.EmbedAudio(weights=None)  # random weights, to be quick
    """

    embeddings: Any
    failures: Any


@beam.typehints.with_input_types(Recording)
class EmbedAudio(beam.PTransform):
    """Embeds recordings, in full batches across recordings, with one network per machine.

    Recordings are decoded where they are embedded, so their samples never travel between machines. Memory does not
    depend on their length.

    Args:
        weights: As in `Embedder`. Workers must be able to read a path.
        hop_seconds: As in `Embedder`; the options of an exported model are read when the transform is made.
        padding: As in `Embedder`.
        postprocess: None, "pca" or "quantized", as in `Embedder`.
        batch_size: Examples per call of the network. The last batch of 512 recordings is padded, so that a recording's
            embeddings are bit-identical however the recordings are distributed.
        dtype: As in `Embedder`.
        channels: As in `Embedder`.
        pca_params: As in `Embedder`. Workers must be able to read a path.

    Input:
        PCollection of `Recording`.

    Output:
        `Embedded`.

    Raises:
        ValueError: An argument is invalid.
        FileNotFoundError: The weights do not exist on this machine, and the hop or the padding is None.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     found = pipeline | beam.MatchAudio(["recording.wav"])
        ...     embedded = found.recordings | beam.EmbedAudio(weights=None, hop_seconds=0.5)
        ...     _ = embedded.embeddings | apache_beam.MapTuple(lambda path, result: print(path, result.values.shape))
        b'recording.wav' (5, 128)
    """

    def __init__(
        self,
        weights: PathLike | None = params.AUDIOSET,
        hop_seconds: float | None = None,
        padding: Padding | None = None,
        postprocess: Postprocessing | None = None,
        batch_size: int = 64,
        dtype: Dtype = "float32",
        channels: audio.Channels = "mix",
        pca_params: PcaParams = params.AUDIOSET,
    ) -> None:
        super().__init__()
        options = embedder_options(weights, hop_seconds, padding, postprocess, batch_size, dtype, channels, pca_params)
        self._embed = _EmbedBatch(options)

    def expand(self, recordings: Any) -> Any:
        batches = recordings | beam.BatchElements(_RECORDINGS_PER_BATCH, _RECORDINGS_PER_BATCH)
        embedded = batches | beam.ParDo(self._embed).with_outputs("failures", main="embeddings")
        return Embedded(embedded.embeddings, embedded.failures)


class _EmbedBatch(EmbedFn):
    def process(self, recordings: list[Recording]) -> Iterator[Any]:
        for (path, _), result, _ in self.embed(recordings):
            if isinstance(result, str):
                yield beam.pvalue.TaggedOutput("failures", (path, os.fsencode(result)))
            else:
                yield path, result


# === Writing ===


def check_prefix(prefix: str) -> str:
    """Returns `prefix`, unless Beam's writers would treat it as a pattern after everything is computed."""
    path = prefix if is_remote(prefix) else os.path.abspath(prefix)
    if re.search(r"[*?[]", path):
        raise ValueError(f"the output path must not contain *, ? or [, which Beam treats as a pattern, got {path}")
    return prefix


@beam.typehints.with_input_types(tuple[bytes, Embeddings])
class WriteParquet(beam.PTransform):
    """Writes the columns file, time and embedding to PREFIX-00000-of-00004.parquet and so on.

    Args:
        prefix: PREFIX, a local path or one of a Beam file system.
        postprocess: As in `EmbedAudio`: embeddings are uint8 if it is "quantized", else float32.
        shards: Number of files. 0 lets the runner choose.
        options: How the embeddings are made, such as {"weights": "vggish/1"}, stored in each file.

    Input:
        PCollection of (path, `Embeddings`).

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
        ...     embedded = pipeline | apache_beam.Create([(b"a.wav", embeddings)])
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
            check_prefix(prefix), self._schema, file_name_suffix=".parquet", num_shards=shards
        )

    def expand(self, embedded: Any) -> Any:
        # Each table becomes a row group.
        batches = embedded | beam.BatchElements(_RECORDINGS_PER_BATCH, _RECORDINGS_PER_BATCH)
        return batches | beam.Map(_table, self._schema) | self._write | beam.Map(_sync)


def _table(batch: Sequence[tuple[bytes, Embeddings]], schema: Any) -> Any:
    return embedding_files.parquet_table([(os.fsdecode(path), embeddings) for path, embeddings in batch], schema)


class WriteFailures(beam.PTransform):
    """Writes the columns file and reason to PREFIX-failures.csv, unless there are no failures.

    Args:
        prefix: PREFIX, a local path or one of a Beam file system.

    Input:
        A tuple of PCollections of `Failure`.

    Output:
        PCollection of the path of the file.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> Path("text.wav").write_text("no audio")
        8
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     found = pipeline | beam.MatchAudio(["text.wav"])
        ...     embedded = found.recordings | beam.EmbedAudio(weights=None)
        ...     _ = (found.failures, embedded.failures) | beam.WriteFailures("corpus")
        >>> print(Path("corpus-failures.csv").read_text())
        file,reason
        text.wav,"text.wav cannot be read as audio: ..."
        <BLANKLINE>
    """

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self._path = f"{prefix}-{corpus_lib.FAILURES}"

    def expand(self, failures: Any) -> Any:
        grouped = failures | beam.Flatten() | beam.WithKeys(None) | beam.GroupByKey()
        return grouped | beam.Map(_write_failures, self._path)


def _write_failures(grouped: tuple[None, Iterable[Failure]], path: str) -> str:
    _, failures = grouped
    with local_output(path) as local:
        corpus_lib.write_failures(local, ((os.fsdecode(file), os.fsdecode(reason)) for file, reason in failures))
    return path


@beam.typehints.with_input_types(tuple[bytes, Embeddings])
class WriteStatistics(beam.PTransform):
    """Writes the statistics of all embeddings to an .npz file, for the Fréchet audio distance (`fad`).

    The file has the same size for any number of embeddings, apart from 8 bytes for each recording. Without embeddings,
    nothing is written.

    Args:
        path: The .npz file, a local path or one of a Beam file system.
        options: How the embeddings are made, as in `Statistics`.

    Input:
        PCollection of (path, `Embeddings`).

    Output:
        PCollection of the path of the file.

    Raises:
        ValueError: The suffix is not .npz.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.random.default_rng(0).normal(size=(2, 128)))
        >>> with apache_beam.Pipeline(beam.LOCAL_RUNNER) as pipeline:
        ...     embedded = pipeline | apache_beam.Create([(b"a.wav", embeddings)])
        ...     _ = embedded | beam.WriteStatistics("corpus.npz")
        >>> vk.Statistics.load("corpus.npz")
        Statistics(2 embeddings of 1 recording)
    """

    def __init__(self, path: str, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._combine = _CombineStatistics(dict(options or {}))
        self._save = SaveStatistics(path)

    def expand(self, embedded: Any) -> Any:
        return embedded | beam.CombineGlobally(self._combine) | self._save


class SaveStatistics(beam.PTransform):
    """Writes a PCollection of one `Statistics` to a file, as `WriteStatistics` does."""

    def __init__(self, path: str) -> None:
        super().__init__()
        if file_suffix(path) != ".npz":
            raise ValueError(f"expected an .npz file, got {path}")
        self._path = path

    def expand(self, statistics: Any) -> Any:
        filled = statistics | beam.Filter(lambda statistics: statistics.n)
        return filled | beam.Map(_save_statistics, self._path)


def merge_statistics(parts: Iterable[Statistics]) -> Statistics:
    """Merges statistics that were made with the same options."""
    whole = Statistics()
    for part in parts:
        whole.options = whole.options or part.options
        whole += part
    return whole


class _CombineStatistics(beam.CombineFn):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self._options = options

    def create_accumulator(self) -> Statistics:
        return Statistics(self._options)

    def add_input(self, statistics: Statistics, element: tuple[bytes, Embeddings]) -> Statistics:
        path, embeddings = element
        statistics.add(embeddings.values, os.fsdecode(path))
        return statistics

    def merge_accumulators(self, parts: Iterable[Statistics]) -> Statistics:
        return merge_statistics(parts)

    def extract_output(self, statistics: Statistics) -> Statistics:
        return statistics


def _save_statistics(statistics: Statistics, path: str) -> str:
    with local_output(path) as local:
        statistics.save(local)
    return path


def _sync(path: str) -> str:
    """Waits until a local file is on the disk; returns its path. Beam moves files to their final paths earlier."""
    if not is_remote(path):
        with contextlib.suppress(FileNotFoundError):  # written on a different machine of a cluster
            sync(Path(path))
    return path

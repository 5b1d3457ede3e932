"""The steps of a pipeline."""

import contextlib
import io
import itertools
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

from vggish_keras import audio, corpus as corpus_lib, embedding_files, params
from vggish_keras._blas import single_threaded_blas
from vggish_keras._errors import error_message
from vggish_keras._reader_process import ReaderProcesses
from vggish_keras._validation import PathLike, check_choice
from vggish_keras.embedder import Embedder
from vggish_keras.embeddings import Embeddings, embedding_dtype
from vggish_keras.framing import PADDINGS, cut_windows, hop_frames, start_times
from vggish_keras.recordings import find_recordings
from vggish_keras.records import serialize
from vggish_keras.resample import read_waveform
from vggish_keras.segments import Segment, read_segments

NAMESPACE = "vggish_keras"
"""Of the metrics: counters `clips`, `failures` and `audio_milliseconds`, and those of RunInference."""
LEFT_OUT = "vggish_keras.left_out"
"""Namespace of counters that bear the suffixes of other files in the folders."""
NO_SUFFIX = "none"

Clip: TypeAlias = tuple[bytes, Segment | None]
"""The path of a recording, and its line of AudioSet's list."""
Example: TypeAlias = tuple[bytes, int, np.ndarray]
"""The path of a recording, an example's index in it, and the example's samples, float32 [15600]."""
Failure: TypeAlias = tuple[bytes, bytes]
"""The path of a recording, and what is wrong with it, in which the path may occur."""

_CLIPS_OF_A_TABLE = 512


class DecodedClip(NamedTuple):
    """A recording that was read to its end.

    Attributes:
        num_examples: How many examples it has.
        hop_samples: Their distance at 16 kHz, in samples.
        segment: Its line of AudioSet's list.
    """

    num_examples: int
    hop_samples: int
    segment: Segment | None


class Embedded(NamedTuple):
    """The embeddings of a recording, the distance of its examples, and its line of AudioSet's list."""

    embeddings: Embeddings
    hop_samples: int
    segment: Segment | None


# === Files ===


class Matched(NamedTuple):
    """What `MatchAudio` finds.

    Attributes:
        clips: PCollection of `Clip`, each path once.
        failures: PCollection of `Failure`: clips that the list of segments does not have.
    """

    clips: Any
    failures: Any


class MatchAudio(beam.PTransform):
    """Finds recordings.

    Args:
        patterns: Files, folders and patterns as `recordings.find_recordings` takes them; or, with a scheme such as gs://,
            patterns of Beam's file systems, where ** stands for any characters.
        segments: AudioSet's list of segments, of a path that workers can read. It gives names, times and labels to
            files named YTID or YTID_START; others are failures.
        labels: AudioSet's class_labels_indices.csv, for the names of labels.

    Returns:
        `Matched`. When it runs, a pattern that matches nothing is a ValueError.
    """

    def __init__(self, patterns: Iterable[str], segments: str | None = None, labels: str | None = None) -> None:
        super().__init__()
        self._patterns = [os.fsencode(pattern) for pattern in patterns]
        self._segments, self._labels = segments, labels

    def expand(self, pipeline: Any) -> Any:
        # Going by distinct paths spreads them over the workers, too.
        paths = pipeline | beam.Create([self._patterns]) | beam.FlatMap(_find) | beam.Distinct()
        if self._segments is None:
            return Matched(
                paths | beam.Map(lambda path: (path, None)).with_output_types(Clip),
                pipeline | "None" >> beam.Create([], reshuffle=False).with_output_types(Failure),
            )
        known = pipeline | "Lists" >> beam.Create([(self._segments, self._labels)]) | beam.FlatMapTuple(_read_segments)
        named = paths | "Name" >> beam.Map(lambda path: (os.fsencode(Path(os.fsdecode(path)).stem), path))
        joined = {"paths": named, "segments": known} | beam.CoGroupByKey()
        found = joined | beam.ParDo(_NameClips(self._segments)).with_outputs("failures", main="clips")
        return Matched(found.clips, found.failures)


def _find(patterns: Sequence[bytes]) -> Iterator[bytes]:
    names = list(map(os.fsdecode, patterns))
    if local := [name for name in names if not is_remote(name)]:
        recordings = find_recordings(local)
        for suffix, count in recordings.left_out.items():
            Metrics.counter(LEFT_OUT, suffix or NO_SUFFIX).inc(count)
        yield from map(os.fsencode, recordings.paths)
    for pattern in filter(is_remote, names):
        (found,) = FileSystems.match([pattern])
        if not found.metadata_list:
            raise ValueError(f"no file matches {pattern}")
        yield from (os.fsencode(metadata.path) for metadata in found.metadata_list)


def is_remote(path: str) -> bool:
    return "://" in path


def _read_segments(segments: str, labels: str | None) -> Iterator[tuple[bytes, Segment]]:
    with _local_copy(segments) as list_of_segments, _local_copy(labels) as list_of_labels:
        for stem, segment in read_segments(list_of_segments, list_of_labels).items():
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


class _NameClips(beam.DoFn):
    def __init__(self, segments: str) -> None:
        self._segments = segments
        self._failed = Metrics.counter(NAMESPACE, "failures")

    def process(self, joined: tuple[bytes, Mapping[str, Iterable[Any]]]) -> Iterator[Any]:
        segment = next(iter(joined[1]["segments"]), None)
        for path in joined[1]["paths"]:
            if segment is not None:
                yield path, segment
            else:
                self._failed.inc()
                reason = path + f" is not in {self._segments}".encode()
                yield beam.pvalue.TaggedOutput("failures", (path, reason))


# === Audio ===


class Decoded(NamedTuple):
    """What `DecodeAudio` reads.

    Attributes:
        examples: PCollection of `Example`, with those of recordings whose end cannot be read.
        clips: PCollection of (path, `DecodedClip`) of recordings that were read to their ends.
        failures: PCollection of `Failure`: the others.
    """

    examples: Any
    clips: Any
    failures: Any


@beam.typehints.with_input_types(Clip)
class DecodeAudio(beam.PTransform):
    """Reads recordings as the examples that the network takes: decoded, mono, at 16 kHz, in constant memory.

    Args:
        hop_seconds: Distance of examples, any multiple of 10 ms.
        padding: "same" or "valid", as in `Embedder`.
        channels: "mix" or the index of a channel, as in `Embedder`.

    Returns:
        Of a PCollection of `Clip`, `Decoded`.

    Raises:
        ValueError: A bad argument.
    """

    def __init__(
        self,
        hop_seconds: float = params.EXAMPLE_HOP_SECONDS,
        padding: str = "same",
        channels: audio.Channels = "mix",
    ) -> None:
        super().__init__()
        check_choice("padding", padding, PADDINGS)
        audio.check_channels(channels)
        self._decode = _Decode(hop_frames(hop_seconds) * params.STFT_HOP_SAMPLES, padding, channels)

    def expand(self, clips: Any) -> Any:
        decoded = clips | beam.ParDo(self._decode).with_outputs("clips", "failures", main="examples")
        return Decoded(decoded.examples, decoded.clips, decoded.failures)


class _Decode(beam.DoFn):
    def __init__(self, hop_samples: int, padding: str, channels: audio.Channels) -> None:
        self._hop_samples, self._padding, self._channels = hop_samples, padding, channels
        self._done, self._failed = Metrics.counter(NAMESPACE, "clips"), Metrics.counter(NAMESPACE, "failures")
        self._milliseconds = Metrics.counter(NAMESPACE, "audio_milliseconds")

    def setup(self) -> None:
        self._readers = ReaderProcesses()

    def teardown(self) -> None:
        self._readers.close()

    def process(self, clip: Clip) -> Iterator[Any]:
        path, segment = clip
        count = 0
        seconds: list[float] = []
        try:
            for window in cut_windows(self._read(os.fsdecode(path), seconds.append), self._hop_samples, self._padding):
                yield path, count, window
                count += 1
        except Exception as error:  # as in Embedder.embed_many, whatever it is, it is this file's
            self._failed.inc()
            yield beam.pvalue.TaggedOutput("failures", (path, os.fsencode(error_message(error))))
        else:
            self._done.inc()
            yield beam.pvalue.TaggedOutput("clips", (path, DecodedClip(count, self._hop_samples, segment)))
        self._milliseconds.inc(round(1_000 * sum(seconds)))

    def _read(self, path: str, on_audio: Callable[[float], object]) -> Iterator[np.ndarray]:
        if not is_remote(path):
            yield from self._readers.read(path, self._channels, on_audio)
            return
        opened: Any = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
        with _NamedFile(opened) as file, single_threaded_blas():
            file.name = path
            yield from read_waveform(file, self._channels, on_audio)


class _NamedFile(io.BufferedReader):
    """A file whose name is told where it cannot be read."""

    name = ""


# === Embeddings ===


class EmbedAudio(beam.PTransform):
    """Embeds examples with Beam's RunInference, in full batches across clips, with one network for each machine.

    Args:
        weights: As in `Embedder`; a path must be one that workers can read.
        postprocess: None, "pca" or "quantized".
        batch_size: Examples for each call of the network. The last batch of a bundle is filled up, so that what a clip
            gives does not depend, to the bit, on how clips are spread.
        dtype: As in `Embedder`.

    Returns:
        Of a pair, the PCollections `examples` and `clips` of `Decoded`, a PCollection of (path, `Embedded`).
    """

    def __init__(
        self,
        weights: PathLike | None = params.AUDIOSET,
        postprocess: str | None = None,
        batch_size: int = 32,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        options = {"weights": weights, "postprocess": postprocess, "batch_size": batch_size, "dtype": dtype}
        self._network = _Network(options)
        self._dtype = embedding_dtype(postprocess)

    def expand(self, decoded: Any) -> Any:
        examples, clips = decoded
        rows = examples | RunInference(self._network)
        return {"rows": rows, "clips": clips} | beam.CoGroupByKey() | beam.FlatMap(_join, self._dtype)


class _Network(ModelHandler[Example, tuple[bytes, tuple[int, np.ndarray]], Embedder]):
    def __init__(self, options: dict[str, Any]) -> None:
        # A large model is loaded by one process of a machine, which answers the others.
        super().__init__(min_batch_size=options["batch_size"], max_batch_size=options["batch_size"], large_model=True)
        self._options = options

    def load_model(self) -> Embedder:
        return Embedder(**self._options)

    def run_inference(
        self, batch: Sequence[Example], model: Embedder, inference_args: Any = None
    ) -> Iterable[tuple[bytes, tuple[int, np.ndarray]]]:
        rows = model.embed_full_batch(np.stack([window for _, _, window in batch]))
        return [(path, (index, row)) for (path, index, _), row in zip(batch, rows, strict=True)]

    def get_num_bytes(self, batch: Sequence[Example]) -> int:
        return sum(window.nbytes for _, _, window in batch)

    def get_metrics_namespace(self) -> str:
        return NAMESPACE


def _join(joined: tuple[bytes, Mapping[str, Iterable[Any]]], dtype: str) -> Iterator[tuple[bytes, Embedded]]:
    """Puts the rows of a clip in order; one that was not read to the end is left out."""
    path, parts = joined
    for clip in itertools.starmap(DecodedClip, parts["clips"]):
        rows = [row for _, row in sorted(parts["rows"], key=lambda row: row[0])]
        values = np.stack(rows) if rows else np.zeros((0, params.EMBEDDING_SIZE), dtype)
        embeddings = Embeddings(start_times(clip.num_examples, clip.hop_samples), values)
        yield path, Embedded(embeddings, clip.hop_samples, clip.segment)


# === Writing ===


def _check_prefix(prefix: str) -> str:
    """`prefix`, or a ValueError for one that Beam's writers, when all is computed, take for a pattern."""
    path = prefix if is_remote(prefix) else os.path.abspath(prefix)
    if re.search(r"[*?[]", path):
        raise ValueError(f"got the output {path}, expected a path without * ? [, which Beam takes for a pattern")
    return prefix


@beam.typehints.with_input_types(tuple[bytes, Embedded])
class WriteAudioSetRecords(beam.PTransform):
    """Writes AudioSet's records to PREFIX-00000-of-00004.tfrecord and so on, which appear when all are complete.

    Args:
        prefix: PREFIX, local or of a Beam file system.
        shards: The number of files; 0 leaves it to the runner.

    Returns:
        Of a PCollection of (path, `Embedded`), quantized, the paths of the files.

    Raises:
        ValueError: The prefix or, if it is relative, the working folder has one of the characters * ? [.
    """

    def __init__(self, prefix: str, shards: int = 0) -> None:
        super().__init__()
        self._write = beam.io.WriteToTFRecord(
            _check_prefix(prefix), file_name_suffix=corpus_lib.RECORDS_SUFFIX, num_shards=shards
        )

    def expand(self, embedded: Any) -> Any:
        return embedded | beam.Map(_serialize) | self._write


def _serialize(clip: tuple[bytes, Embedded]) -> bytes:
    path, embedded = clip
    hop_seconds = embedded.hop_samples / params.SAMPLE_RATE
    return serialize(corpus_lib.make_record(os.fsdecode(path), embedded.embeddings, hop_seconds, embedded.segment))


@beam.typehints.with_input_types(tuple[bytes, Embedded])
class WriteParquet(beam.PTransform):
    """Writes the columns file, time and embedding to PREFIX-00000-of-00004.parquet and so on.

    Args:
        prefix: PREFIX, local or of a Beam file system.
        postprocess: As in `EmbedAudio`: "quantized" makes them uint8, else they are float32.
        shards: The number of files; 0 leaves it to the runner.

    Returns:
        Of a PCollection of (path, `Embedded`), the paths of the files.

    Raises:
        ValueError: The prefix or, if it is relative, the working folder has one of the characters * ? [.
        ImportError: There is no pyarrow.
    """

    def __init__(self, prefix: str, postprocess: str | None = None, shards: int = 0) -> None:
        super().__init__()
        self._schema = embedding_files.parquet_schema(embedding_dtype(postprocess))
        self._write = beam.io.WriteToParquetBatched(
            _check_prefix(prefix), self._schema, file_name_suffix=".parquet", num_shards=shards
        )

    def expand(self, embedded: Any) -> Any:
        # A table becomes a group of rows.
        clips = beam.BatchElements(_CLIPS_OF_A_TABLE, _CLIPS_OF_A_TABLE)
        return embedded | clips | beam.Map(_table, self._schema) | self._write


def _table(clips: Sequence[tuple[bytes, Embedded]], schema: Any) -> Any:
    return embedding_files.parquet_table([(os.fsdecode(path), embedded.embeddings) for path, embedded in clips], schema)


class WriteFailures(beam.PTransform):
    """Writes the columns file and reason to PREFIX-failures.csv; without failures there is no such file.

    Args:
        prefix: PREFIX, local or of a Beam file system.

    Returns:
        Of PCollections of `Failure`, the path of the file.

    Raises:
        ValueError: The prefix or, if it is relative, the working folder has one of the characters * ? [.
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
        rows = failures | beam.Flatten() | beam.MapTuple(_failures_row)
        return rows | self._write


def _failures_row(path: bytes, reason: bytes) -> bytes:
    return corpus_lib.failures_row(os.fsdecode(path), os.fsdecode(reason))


# === All of it ===


class EmbedCorpus(beam.PTransform):
    """From recordings to AudioSet's records at PREFIX-*-of-*.tfrecord and to the bad ones at PREFIX-failures.csv.

    Args:
        patterns: As in `MatchAudio`.
        prefix: PREFIX, local or of a Beam file system.
        weights: As in `EmbedAudio`; a SavedModel must have PCA parameters.
        segments: As in `MatchAudio`.
        labels: As in `MatchAudio`.
        hop_seconds: As in `DecodeAudio`.
        padding: As in `DecodeAudio`.
        batch_size: As in `EmbedAudio`.
        dtype: As in `EmbedAudio`.
        shards: As in `WriteAudioSetRecords`.
        channels: As in `DecodeAudio`.

    Raises:
        ValueError: A bad argument.
    """

    def __init__(
        self,
        patterns: Iterable[str],
        prefix: str,
        weights: PathLike | None = params.AUDIOSET,
        segments: str | None = None,
        labels: str | None = None,
        hop_seconds: float = params.EXAMPLE_HOP_SECONDS,
        padding: str = "same",
        batch_size: int = 32,
        dtype: str = "float32",
        shards: int = 0,
        channels: audio.Channels = "mix",
    ) -> None:
        super().__init__()
        self.prefix = prefix
        self._match = MatchAudio(patterns, segments, labels)
        self._decode = DecodeAudio(hop_seconds, padding, channels)
        self._embed = EmbedAudio(weights, "quantized", batch_size, dtype)
        self._write = WriteAudioSetRecords(prefix, shards)
        self._write_failures = WriteFailures(prefix)

    def expand(self, pipeline: Any) -> Any:
        found = pipeline | self._match
        decoded = found.clips | self._decode
        written = (decoded.examples, decoded.clips) | self._embed | self._write
        return written, (found.failures, decoded.failures) | self._write_failures

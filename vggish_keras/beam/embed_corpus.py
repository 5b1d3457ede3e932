"""Embed a corpus into AudioSet records, part by part, so that nothing that is complete is computed again."""

import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from vggish_keras import audio, corpus as corpus_lib, params, records
from vggish_keras._atomic import atomic_write, remove_leftovers
from vggish_keras._validation import PathLike, PcaParams
from vggish_keras.beam.embedding import NAMESPACE, EmbedderOptions, EmbedFn, Recording, embedder_options
from vggish_keras.beam.files import exists, is_remote, local_copy, local_output
from vggish_keras.beam.transforms import MatchAudio, SaveStatistics, WriteFailures, check_prefix, merge_statistics
from vggish_keras.engines import Dtype
from vggish_keras.framing import Padding
from vggish_keras.frechet import Statistics

MADE_WITH = "made_with"
"""Name of the metric that collects the options of the workers' networks, as JSON: more than one if they differ."""
_MANIFESTS = "-manifests"
_RECORDINGS_PER_SHARD = 500
_MIN_SHARDS, _MAX_SHARDS = 4, 99_999  # which their names have room for
_PART = re.compile(r"(?P<index>\d{5})-of-(?P<count>\d{5})")


class EmbedCorpus(beam.PTransform):
    """Embeds recordings into AudioSet records at PREFIX-*-of-*.tfrecord, and lists failures in PREFIX-failures.csv.

    The whole pipeline as one transform, for `run`. Each file appears when its recordings are embedded. What it contains
    is then recorded in PREFIX-manifests/, so that neither a repeated attempt nor a resumed run embeds them again.

    Args:
        patterns: As in `MatchAudio`.
        prefix: PREFIX, a local path or one of a Beam file system.
        weights: As in `EmbedAudio`. A SavedModel must have the output `quantized`.
        hop_seconds: As in `EmbedAudio`.
        padding: As in `EmbedAudio`.
        batch_size: As in `EmbedAudio`.
        dtype: As in `EmbedAudio`.
        channels: As in `EmbedAudio`.
        segments: As in `MatchAudio`.
        labels: As in `MatchAudio`.
        shards: Number of .tfrecord files, at most 99,999, each the work of one worker at a time. 0 makes one for every
            500 recordings, but at least 4.
        pca_params: As in `EmbedAudio`.
        resume: True keeps the recordings of an earlier run with the same options and embeds all others, such as those
            that failed. An earlier run determines the number of files.
        statistics: An .npz file for the statistics of all embeddings, as in `WriteStatistics`.

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
        resume: bool = False,
        statistics: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= shards <= _MAX_SHARDS:
            raise ValueError(f"shards must be between 0 and {_MAX_SHARDS}, got {shards}")
        self.prefix = check_prefix(prefix) if is_remote(prefix) else prefix
        self.resume = resume
        options = embedder_options(weights, hop_seconds, padding, "quantized", batch_size, dtype, channels, pca_params)
        self.options = {"hop_seconds": options.hop_seconds, "padding": options.padding, "channels": options.channels}
        self._match = MatchAudio(patterns, segments, labels)
        self._shards = _resumed_shards(prefix, shards) if resume else shards
        self._embed = _EmbedShard(options, prefix, {"segments": segments, "labels": labels}, statistics is not None)
        self._write_failures = WriteFailures(prefix)
        self._save_statistics = None if statistics is None else SaveStatistics(statistics)

    def expand(self, pipeline: Any) -> Any:
        found = pipeline | self._match
        shards: Any = self._shards
        if not shards:
            count = found.recordings | beam.combiners.Count.Globally()
            shards = beam.pvalue.AsSingleton(count | beam.Map(_default_shards))
        # Every shard has a file, also one without recordings.
        every = pipeline | beam.Impulse() | beam.FlatMap(_empty_parts, shards)
        assigned = found.recordings | beam.Map(_assign_shard, shards)
        parts = (every, assigned) | beam.Flatten() | beam.GroupByKey().with_input_types(tuple[int, Any])
        # Reshuffle balances the parts, which are few, better than the hashes of their keys do.
        parts = parts | beam.MapTuple(_sort_part) | beam.Reshuffle()
        done = parts | beam.ParDo(self._embed, shards).with_outputs("failures", main="statistics")
        if self._save_statistics is not None:
            done.statistics | beam.CombineGlobally(merge_statistics) | self._save_statistics
        return (found.failures, done.failures) | self._write_failures


def _default_shards(recordings: int) -> int:
    return min(max(-(-recordings // _RECORDINGS_PER_SHARD), _MIN_SHARDS), _MAX_SHARDS)


def _empty_parts(_: bytes, shards: int) -> Iterator[tuple[int, None]]:
    return ((index, None) for index in range(shards))


def _assign_shard(recording: Recording, shards: int) -> tuple[int, Recording]:
    return zlib.crc32(recording[0]) % shards, recording


def _sort_part(shard: int, recordings: Iterable[Recording | None]) -> tuple[int, list[Recording]]:
    """Sorts the recordings of a shard, so that its file does not depend on how the work was distributed."""
    return shard, sorted(recording for recording in recordings if recording is not None)


class _Part(NamedTuple):
    """The files of one shard."""

    records: str
    manifest: str


def _part(prefix: str, index: int, count: int) -> _Part:
    name = f"{index:05}-of-{count:05}"
    return _Part(f"{prefix}-{name}{corpus_lib.RECORDS_SUFFIX}", f"{prefix}{_MANIFESTS}/{name}.json")


class _Manifest(NamedTuple):
    """What the file of a shard contains.

    Attributes:
        options: How the embeddings were made.
        recordings: Seconds of audio of each recording, in the order of the records.
    """

    options: Mapping[str, Any]
    recordings: Mapping[str, float]

    @classmethod
    def read(cls, part: _Part) -> "_Manifest | None":
        """Reads the manifest of a shard; None if one of its files does not exist."""
        if not (exists(part.records) and exists(part.manifest)):
            return None
        try:
            with local_copy(part.manifest) as local:
                content = json.loads(local.read_bytes())
            return cls(content["options"], content["recordings"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{part.manifest} is damaged: delete it, and its recordings are embedded again") from error

    def write(self, path: str) -> None:
        with local_output(path) as local, atomic_write(local) as partial:
            partial.write_text(json.dumps(self._asdict()))

    def check(self, path: str, options: Mapping[str, Any], names: Iterable[str]) -> None:
        """Raises a ValueError if a run with these options and recordings cannot keep what the file contains."""
        if not self.recordings:
            return
        if difference := corpus_lib.describe_difference(self.options, options):
            raise ValueError(f"{path} was made with {difference}: choose a different output prefix")
        if others := self.recordings.keys() - set(names):
            raise ValueError(
                f"{path} contains recordings that are not among the inputs ({len(others)}), such as {min(others)}: "
                "include them, or choose a different output prefix"
            )


class _EmbedShard(EmbedFn):
    """Writes the records of a shard, unless they exist."""

    def __init__(
        self, options: EmbedderOptions, prefix: str, lists: Mapping[str, str | None], with_statistics: bool
    ) -> None:
        super().__init__(options)
        self._hop_seconds = options.hop_seconds
        self._prefix = prefix
        self._lists = lists
        self._with_statistics = with_statistics
        self._made_with = Metrics.string_set(NAMESPACE, MADE_WITH)

    def process(self, shard: tuple[int, list[Recording]], shards: int) -> Iterator[Any]:
        index, recordings = shard
        part = _part(self._prefix, index, shards)
        options = {**self.made_with, **self._lists}
        found = _Manifest.read(part)
        manifest = found or _Manifest({}, {})
        manifest.check(part.records, options, [os.fsdecode(path) for path, _ in recordings])
        seconds = dict(manifest.recordings)
        new: dict[str, records.Record] = {}
        for recording, result, read in self.embed([one for one in recordings if os.fsdecode(one[0]) not in seconds]):
            path, segment = recording
            if isinstance(result, str):
                yield beam.pvalue.TaggedOutput("failures", (path, os.fsencode(result)))
            else:
                name = os.fsdecode(path)
                new[name] = corpus_lib.make_record(name, result, self._hop_seconds, segment)
                seconds[name] = read
        for read in manifest.recordings.values():
            self.count(failed=False, seconds=read)
        is_complete = found is not None and not new
        old = {}
        if manifest.recordings and (self._with_statistics or not is_complete):
            old = _read_records(part, manifest)
        whole = dict(sorted({**old, **new}.items(), key=lambda item: os.fsencode(item[0])))
        if not is_complete:
            _write_records(part, whole, _Manifest(options, {name: seconds[name] for name in whole}))
        self._made_with.add(json.dumps(self.made_with))
        if self._with_statistics:
            statistics = Statistics(self.made_with)
            for name, record in whole.items():
                statistics.add(record.embedding, name)
            yield statistics


def _read_records(part: _Part, manifest: _Manifest) -> dict[str, records.Record]:
    """Reads the records of a shard, by the name of their recording."""
    with local_copy(part.records) as local:
        found = list(records.read(local))
    if len(found) != len(manifest.recordings):
        raise ValueError(f"{part.records} does not have the recordings of {part.manifest}: delete both")
    return dict(zip(manifest.recordings, found, strict=True))


def _write_records(part: _Part, whole: Mapping[str, records.Record], manifest: _Manifest) -> None:
    """Writes the files of a shard."""
    if not is_remote(part.records):
        remove_leftovers(map(Path, part))
    # A manifest never promises recordings that its file lacks, whenever this process is killed.
    manifest._replace(recordings={}).write(part.manifest)
    with local_output(part.records) as local:
        records.write(local, whole.values())
    manifest.write(part.manifest)


# === Earlier runs ===


def has_output(prefix: str) -> bool:
    """Whether files exist that a run would replace."""
    return bool(_find_parts(prefix, corpus_lib.RECORDS_SUFFIX, "-") or _find_parts(prefix, ".json", f"{_MANIFESTS}/"))


def _resumed_shards(prefix: str, shards: int) -> int:
    """The number of shards of an earlier run, or else the given one.

    Raises:
        ValueError: The earlier run had a different number of shards.
        FileExistsError: Records exist that the earlier run did not write.
    """
    parts = _find_parts(prefix, ".json", f"{_MANIFESTS}/")
    others = _find_parts(prefix, corpus_lib.RECORDS_SUFFIX, "-")
    counts = {count for _, count in parts}
    if others and not counts:
        raise FileExistsError(
            f"{prefix}-*{corpus_lib.RECORDS_SUFFIX} was not written by this version of vggish beam, and cannot be "
            "continued: choose a different output prefix"
        )
    if len(counts) > 1 or (shards and counts - {shards}):
        found = " and ".join(map(str, sorted(counts)))
        raise ValueError(f"{prefix}-*{corpus_lib.RECORDS_SUFFIX} has {found} shards, not {shards}")
    return counts.pop() if counts else shards


def _find_parts(prefix: str, suffix: str, separator: str) -> set[tuple[int, int]]:
    """The indices and numbers of shards of the files PREFIX, separator, 00000-of-00004, suffix."""
    if is_remote(prefix):
        found = FileSystems.match([f"{prefix}{separator}*-of-*{suffix}"])[0].metadata_list
        names = [metadata.path.rpartition("/")[2] for metadata in found]
    else:
        folder = Path(os.path.dirname(f"{prefix}{separator}x"))
        names = os.listdir(folder) if folder.is_dir() else []
    start = f"{prefix}{separator}".rpartition("/")[2]
    inside = [name[len(start) : -len(suffix)] for name in names if name.startswith(start) and name.endswith(suffix)]
    return {(int(match["index"]), int(match["count"])) for match in map(_PART.fullmatch, inside) if match}

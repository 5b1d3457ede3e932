"""Run a pipeline: on this machine, restarted when a worker process dies, or on a cluster."""

import contextlib
import copy
import itertools
import json
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult

from vggish_keras import corpus as corpus_lib
from vggish_keras.beam.local_workers import lost_workers
from vggish_keras.beam.transforms import LEFT_OUT, MADE_WITH, NAMESPACE, NO_SUFFIX, EmbedCorpus, is_remote
from vggish_keras.embedding_files import OPTIONS_SUFFIX, write_options

LOCAL_RUNNER = "FnApiRunner"
"""Beam's DirectRunner would download a separate program."""
_MAX_ATTEMPTS = 3


def run(corpus: EmbedCorpus, options: PipelineOptions) -> PipelineResult:
    """Runs a pipeline of one transform to its end.

    A run in local processes restarts, twice at most, when a worker process dies. If the run fails, the temporary files
    of a local prefix are removed. At its end, how the embeddings were made is written to PREFIX.tfrecord.vggish.json.

    Args:
        corpus: The transform.
        options: Beam's options. Without a runner, the pipeline runs in this process.

    Returns:
        Beam's PipelineResult, whose counters `summarize` returns.

    Raises:
        FileExistsError: Records exist at the prefix.
        RuntimeError: The run failed.

    Examples:
        >>> from apache_beam.options.pipeline_options import PipelineOptions
        >>> from vggish_keras import beam
        >>> options = PipelineOptions(["--direct_num_workers=2", "--direct_running_mode=multi_processing"])
        >>> files = ["recording.wav"]
        >>> corpus = beam.EmbedCorpus(files, "x/corpus", weights="/vggish/1", hop_seconds=0.96, padding="valid")
        >>> beam.summarize(beam.run(corpus, options))  # doctest: +SKIP
        Summary(recordings=1, failures=0, seconds=3.0, left_out={})
    """
    if _has_records(corpus.prefix):
        suffix = corpus_lib.RECORDS_SUFFIX
        raise FileExistsError(f"{corpus.prefix}-*{suffix} already exists: choose a different output prefix")
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or LOCAL_RUNNER
    with _temporary_folders_removed(corpus.prefix):
        for attempt in itertools.count(1):
            pipeline = beam.Pipeline(options=options)
            pipeline | copy.deepcopy(corpus)  # a transform keeps the pipeline that it was applied to
            with lost_workers() as lost:
                try:
                    result = pipeline.run()
                    result.wait_until_finish()
                    break
                except RuntimeError:
                    # The local runner, unlike those of clusters, cannot replace a worker.
                    if not lost or attempt == _MAX_ATTEMPTS:
                        raise
    _write_options(corpus, result)
    return result


def _write_options(corpus: EmbedCorpus, result: PipelineResult) -> None:
    """Writes how the embeddings were made beside the records, with what all workers' networks have in common."""
    metrics = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE).with_name(MADE_WITH))
    networks = [json.loads(text) for metric in metrics["string_sets"] for text in metric.result]
    shared = dict(set.intersection(*(set(network.items()) for network in networks))) if networks else {}
    if differing := sorted({name for network in networks for name in network} - shared.keys()):
        warnings.warn(f"the workers' networks differ in: {', '.join(differing)}", stacklevel=3)
    options = {**shared, **corpus.options}
    records = f"{corpus.prefix}{corpus_lib.RECORDS_SUFFIX}"
    if not is_remote(corpus.prefix):
        write_options(Path(records), options)
        return
    with FileSystems.create(f"{records}{OPTIONS_SUFFIX}") as file:
        file.write(json.dumps(options).encode())


def _has_records(prefix: str) -> bool:
    """Whether files exist that Beam would replace, which include those of a longer prefix."""
    suffix = corpus_lib.RECORDS_SUFFIX
    if is_remote(prefix):
        return bool(FileSystems.match([f"{prefix}-*-of-*{suffix}"])[0].metadata_list)
    # Beam's match finds nothing for a prefix without a folder.
    return any(_siblings(prefix, rf"{re.escape(os.path.basename(prefix))}-.*-of-.*{re.escape(suffix)}"))


def _siblings(prefix: str, pattern: str) -> Iterator[Path]:
    """Yields the paths in the folder of a local prefix whose names match a regular expression."""
    folder = Path(os.path.dirname(prefix))
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if re.fullmatch(pattern, path.name, re.DOTALL))


@contextlib.contextmanager
def _temporary_folders_removed(prefix: str) -> Iterator[None]:
    """Removes the new folders beside a local prefix that Beam's writers leave behind when they fail."""
    if is_remote(prefix):
        yield
        return
    name = re.escape(os.path.basename(prefix))
    pattern = rf"beam-temp-{name}(-{re.escape(corpus_lib.FAILURES)})?-[0-9a-f]{{32}}"
    before = set(_siblings(prefix, pattern))
    try:
        yield
    finally:
        for folder in set(_siblings(prefix, pattern)) - before:
            shutil.rmtree(folder, ignore_errors=True)


class Summary(NamedTuple):
    """What a run counted.

    Attributes:
        recordings: Number of recordings read.
        failures: Number of recordings that could not be read.
        seconds: Seconds of audio read.
        left_out: Number of other files in the folders, by suffix.

    Examples:
        >>> from vggish_keras import beam
        >>> summary = beam.Summary(recordings=2, failures=1, seconds=5.0, left_out={".txt": 1})
        >>> f"{summary.failures} of {summary.recordings + summary.failures} failed"
        '1 of 3 failed'
    """

    recordings: int
    failures: int
    seconds: float
    left_out: Mapping[str, int]


def summarize(result: PipelineResult) -> Summary:
    """Returns the counters of a finished pipeline.

    Examples:
        >>> import apache_beam
        >>> from vggish_keras import beam
        >>> pipeline = apache_beam.Pipeline(beam.LOCAL_RUNNER)
        >>> decoded = (pipeline | beam.MatchAudio(["recording.wav"])).recordings | beam.DecodeAudio()
        >>> beam.summarize(pipeline.run())
        Summary(recordings=1, failures=0, seconds=3.0, left_out={})
    """

    def count(namespace: str) -> Mapping[str, int]:
        metrics = result.metrics().query(MetricsFilter().with_namespace(namespace))
        counts: Counter[str] = Counter()
        for counter in metrics["counters"]:
            counts[counter.key.metric.name] += counter.result
        return counts

    counts = count(NAMESPACE)
    left_out = {suffix.removeprefix(NO_SUFFIX): number for suffix, number in count(LEFT_OUT).items()}
    return Summary(counts["recordings"], counts["failures"], counts["audio_milliseconds"] / 1_000, left_out)

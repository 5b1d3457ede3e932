"""Run a pipeline: on this machine, restarted when a worker process dies, or on a cluster."""

import copy
import itertools
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult

from vggish_keras import corpus as corpus_lib
from vggish_keras.beam.embed_corpus import MADE_WITH, EmbedCorpus, has_output
from vggish_keras.beam.embedding import NAMESPACE
from vggish_keras.beam.files import local_output, remove
from vggish_keras.beam.local_workers import lost_workers
from vggish_keras.beam.transforms import LEFT_OUT, NO_SUFFIX
from vggish_keras.embedding_files import OPTIONS_SUFFIX, write_options

LOCAL_RUNNER = "FnApiRunner"
"""Beam's DirectRunner would download a separate program."""
_MAX_ATTEMPTS = 3


def run(corpus: EmbedCorpus, options: PipelineOptions) -> PipelineResult:
    """Runs a pipeline of one transform to its end.

    A run in local processes restarts, twice at most, when a worker process dies. If the run fails, the files that are
    complete are kept. At its end, how the embeddings were made is written to PREFIX.tfrecord.vggish.json.

    Args:
        corpus: The transform.
        options: Beam's options. Without a runner, the pipeline runs in this process.

    Returns:
        Beam's PipelineResult, whose counters `summarize` returns.

    Raises:
        FileExistsError: Records exist at the prefix, and `corpus.resume` is False.
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
    if not corpus.resume and has_output(corpus.prefix):
        raise FileExistsError(
            f"{corpus.prefix}-*{corpus_lib.RECORDS_SUFFIX} already exists: continue with --resume, or choose a "
            "different output prefix"
        )
    if corpus.resume:
        remove(f"{corpus.prefix}-{corpus_lib.FAILURES}")  # nothing may fail this time
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or LOCAL_RUNNER
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
    networks = [json.loads(text) for metric in metrics["string_sets"] for text in sorted(metric.result)]
    first = networks[0] if networks else {}
    shared = {name: first[name] for name in first if all(network.get(name) == first[name] for network in networks)}
    if differing := sorted(first.keys() - shared.keys()):
        warnings.warn(f"the workers' networks differ in: {', '.join(differing)}", stacklevel=3)
    records = f"{corpus.prefix}{corpus_lib.RECORDS_SUFFIX}"
    with local_output(f"{records}{OPTIONS_SUFFIX}") as local:
        write_options(local.with_name(local.name.removesuffix(OPTIONS_SUFFIX)), {**shared, **corpus.options})


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
        >>> embedded = (pipeline | beam.MatchAudio(["recording.wav"])).recordings | beam.EmbedAudio(weights=None)
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

"""Running a pipeline: on this machine, anew when a worker process dies, or on a cluster."""

import contextlib
import copy
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from vggish_keras import corpus as corpus_lib
from vggish_keras.beam.transforms import LEFT_OUT, NAMESPACE, NO_SUFFIX, EmbedCorpus, is_remote

LOCAL_RUNNER = "FnApiRunner"
"""Beam's DirectRunner would download another program."""
_ATTEMPTS = 3
_LOST_WORKER = "Worker subprocess exited with return code"


def run(corpus: EmbedCorpus, options: PipelineOptions) -> Any:
    """Runs a pipeline of one transform to the end; in processes of this machine, anew when one of them dies.

    When it fails, the temporary files of a local prefix are removed.

    Args:
        corpus: The transform.
        options: Beam's. Without a runner it runs in this process.

    Returns:
        Beam's PipelineResult, of which `summarize` tells the counters.

    Raises:
        FileExistsError: There are records at the prefix.
        RuntimeError: The run failed.
    """
    if _has_records(corpus.prefix):
        raise FileExistsError(f"there are records at {corpus.prefix}-*{corpus_lib.RECORDS_SUFFIX}: give another output")
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or LOCAL_RUNNER
    with _temporary_folders_removed(corpus.prefix):
        for attempts_left in reversed(range(_ATTEMPTS)):
            pipeline = beam.Pipeline(options=options)
            pipeline | copy.deepcopy(corpus)  # a transform keeps the pipeline that it was applied to
            with _lost_workers() as lost:
                try:
                    result = pipeline.run()
                    result.wait_until_finish()
                    break
                except RuntimeError:
                    # The local runner, unlike those of clusters, cannot go on without a worker.
                    if not lost or not attempts_left:
                        raise
    return result


def _has_records(prefix: str) -> bool:
    """Whether there are files that Beam would replace, which include those of a longer prefix."""
    suffix = corpus_lib.RECORDS_SUFFIX
    if is_remote(prefix):
        return bool(FileSystems.match([f"{prefix}-*-of-*{suffix}"])[0].metadata_list)
    # Beam's match finds nothing for a prefix without a folder.
    return any(_beside(prefix, rf"{re.escape(os.path.basename(prefix))}-.*-of-.*{re.escape(suffix)}"))


def _beside(prefix: str, pattern: str) -> Iterator[Path]:
    """What lies in the folder of a local prefix and has a name that a regular expression matches."""
    folder = Path(os.path.dirname(prefix))
    if folder.is_dir():
        yield from (path for path in folder.iterdir() if re.fullmatch(pattern, path.name, re.DOTALL))


@contextlib.contextmanager
def _temporary_folders_removed(prefix: str) -> Iterator[None]:
    """Removes what Beam's writers, when they fail, leave in new folders beside a local prefix."""
    if is_remote(prefix):
        yield
        return
    name = re.escape(os.path.basename(prefix))
    pattern = rf"beam-temp-{name}(-{re.escape(corpus_lib.FAILURES)})?-[0-9a-f]{{32}}"
    before = set(_beside(prefix, pattern))
    try:
        yield
    finally:
        for folder in set(_beside(prefix, pattern)) - before:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lost_workers() -> Iterator[list[str]]:
    """Collects what the local runner's threads say of worker processes that died.

    What the pipeline fails with says less: a survivor may be the first to miss the network.
    """
    lost: list[str] = []
    otherwise = threading.excepthook

    def collect(raised: Any) -> None:
        if _LOST_WORKER in str(raised.exc_value):
            lost.append(str(raised.exc_value))
        else:
            otherwise(raised)

    threading.excepthook = collect
    try:
        yield lost
    finally:
        threading.excepthook = otherwise


class Summary(NamedTuple):
    """How many recordings a run read, how many failed, the seconds of audio, and other files by suffix."""

    clips: int
    failures: int
    seconds: float
    left_out: Mapping[str, int]


def summarize(result: Any) -> Summary:
    """What a finished pipeline counted."""

    def count(namespace: str) -> Mapping[str, int]:
        metrics = result.metrics().query(MetricsFilter().with_namespace(namespace))
        counts: Counter[str] = Counter()
        for counter in metrics["counters"]:
            counts[counter.key.metric.name] += counter.result
        return counts

    counts = count(NAMESPACE)
    left_out = {suffix.removeprefix(NO_SUFFIX): number for suffix, number in count(LEFT_OUT).items()}
    return Summary(counts["clips"], counts["failures"], counts["audio_milliseconds"] / 1_000, left_out)

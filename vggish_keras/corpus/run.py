"""Embed a corpus: skip what is done, record failures, keep partial results."""

import contextlib
import errno
import logging
import os
from collections.abc import Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vggish_keras._errors import error_message
from vggish_keras._validation import PathLike, Postprocessing, file_suffix
from vggish_keras.corpus.audioset import RecordWriter
from vggish_keras.corpus.output import (
    EmbeddingsWriter,
    OldResults,
    Output,
    Target,
    Writer,
    accept_failures,
    check_complete,
    check_results,
    check_writable,
    describe_results,
    is_complete,
    open_output,
    parse_target,
)
from vggish_keras.embedding_files import RECORDS_SUFFIX
from vggish_keras.embeddings import Embeddings
from vggish_keras.recordings import Recordings, find_recordings
from vggish_keras.segments import read_segments

_logger = logging.getLogger(__name__)

_NAME_ERRORS = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL, errno.EILSEQ}
"""Errors caused by a file name that the output's file system rejects, or that conflicts with a different file."""


class CorpusEmbedder(Protocol):
    """The part of `Embedder` that embeds a corpus."""

    @property
    def options(self) -> dict[str, Any]:
        """As in `Embedder`."""

    def embed_many(
        self, paths: Iterable[Path], on_audio: Callable[[Path, float], object]
    ) -> Generator[tuple[Path, Embeddings | Exception], None, None]:
        """As in `Embedder`."""


class Plan(NamedTuple):
    """What a run will do.

    Attributes:
        recordings: The inputs.
        target: Where the embeddings are written; None only passes them to the caller.
        writer: Writes a target that is a file.
        postprocess: The post-processing that the embedder must apply.
        options: Options of the output, in addition to those of the embedder.
        refused: Recordings that will not be embedded, and why; they count as failures.
        old_results: Whether to refuse, keep or replace embeddings that the output already has.
        accept_failures: True completes a single-file output without the recordings that failed.
    """

    recordings: Recordings
    target: Target | None
    writer: Writer
    postprocess: Postprocessing | None
    options: dict[str, str | None]
    refused: dict[Path, str]
    old_results: OldResults
    accept_failures: bool

    def check_output(self) -> None:
        """Checks that results can be written, without writing any.

        Raises:
            FileExistsError: The output has results, which are refused.
            ValueError: The results to keep are in a different number of shards.
            OSError: The output cannot be written.
        """
        if self.target is not None:
            check_results(self.target, self.writer, self.recordings, self.old_results)
            check_writable(self.target)

    def is_complete(self) -> bool:
        """Whether a resumed run has nothing to do, because its single-file output is complete."""
        return self.old_results == "keep" and self.target is not None and is_complete(self.target, self.writer)

    def check_complete(self, options: Mapping[str, Any]) -> None:
        """Checks that a complete output was made from the inputs of this run and with these options.

        Raises:
            ValueError: It lacks recordings, or was made with different options.
        """
        if self.target is not None:
            check_complete(self.target, self.writer, self.recordings, {**options, "postprocess": self.postprocess})

    def complete_without_failures(self) -> int:
        """Completes a single-file output that lacks only failed recordings, if they are accepted; returns their number.

        Returns 0 if there is more to do.
        """
        if self.target is None or self.old_results != "keep" or not self.accept_failures:
            return 0
        return accept_failures(self.target, self.writer, self.recordings)

    def missing_inputs(self) -> list[Path]:
        """All inputs if none of them exists and the output has no results that a resumed run keeps; otherwise none."""
        paths = self.recordings.paths
        if any(map(os.path.exists, paths)):
            return []
        if self.target is None or self.old_results != "keep":
            return paths
        return [] if describe_results(self.target, self.writer, self.recordings) else paths


def plan(
    inputs: Iterable[PathLike] | Recordings,
    output: str | None = None,
    listed: Iterable[PathLike] = (),
    resume: bool = False,
    postprocess: Postprocessing | None = None,
    shards: int = 1,
    segments: str | None = None,
    labels: str | None = None,
    overwrite: bool = False,
    accept_failures: bool = False,
) -> Plan:
    """Plans a run without loading TensorFlow.

    Args:
        inputs: As in `find_recordings`, or its result.
        output: A folder, or an .npz, .csv, .parquet or .tfrecord file; None only passes embeddings to the caller.
        listed: As in `find_recordings`.
        resume: True continues an interrupted run.
        postprocess: None, "pca" or "quantized"; .tfrecord output is always quantized.
        shards: Number of files of a .tfrecord output.
        segments: An AudioSet segment list, for .tfrecord output; recordings that are not in it are refused.
        labels: AudioSet's class_labels_indices.csv, for `segments`.
        overwrite: True replaces embeddings that the output already has. By default they are refused.
        accept_failures: True completes a single-file output without the recordings that failed.

    Raises:
        ValueError: The options contradict each other, no recordings are found, or a list is malformed. Messages name
            the options of `vggish embed`.
        OSError: A folder or a list cannot be read.
    """
    recordings = inputs if isinstance(inputs, Recordings) else find_recordings(inputs, listed, output)
    target = None if output is None else parse_target(output)
    as_records = target is not None and not target.is_folder and file_suffix(target.path) == RECORDS_SUFFIX
    if as_records and postprocess == "pca":
        raise ValueError(f"{RECORDS_SUFFIX} output stores 8-bit embeddings: use --postprocess quantized")
    if not as_records and (shards > 1 or segments):
        raise ValueError(f"--shards and --segments require {RECORDS_SUFFIX} output")
    if labels and not segments:
        raise ValueError("--labels requires --segments")
    for option, given in (("--resume", resume), ("--overwrite", overwrite), ("--accept-failures", accept_failures)):
        if given and target is None:
            raise ValueError(f"{option} requires an output file or folder (-o)")
    if resume and overwrite:
        raise ValueError("--resume keeps existing embeddings and --overwrite replaces them: choose one")
    old_results: OldResults = "keep" if resume else "replace" if overwrite else "refuse"
    if not as_records:
        return Plan(recordings, target, EmbeddingsWriter(), postprocess, {}, {}, old_results, accept_failures)
    known = read_segments(segments, labels) if segments else None
    unknown = [] if known is None else [path for path in recordings.paths if path.stem not in known]
    refused = {path: f"{path} is not in {segments}" for path in unknown}
    options = {"segments": segments, "labels": labels}
    writer = RecordWriter(shards, known)
    return Plan(recordings, target, writer, "quantized", options, refused, old_results, accept_failures)


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        skipped: Number of recordings that the output already had.
        embedded: Number of recordings that were embedded.
        embeddings: Number of their embeddings.
        failures: Recordings that failed, and why.
        unfinished: The database that is kept beside a complete file, because recordings failed.
    """

    skipped: int
    embedded: int
    embeddings: int
    failures: list[tuple[Path, str]]
    unfinished: Path | None


def embed_corpus(
    embedder: CorpusEmbedder,
    plan: Plan,
    on_audio: Callable[[Path, float], object],
    on_result: Callable[[Path, Embeddings | Exception | None], object],
) -> Summary:
    """Embeds the recordings that the output does not have yet.

    Args:
        embedder: Computes the embeddings, with `plan.postprocess`.
        plan: What to do.
        on_audio: As in `Embedder.embed_many`.
        on_result: Called with each recording and its result; None if the output already had it.

    Returns:
        What was done. The output also lists the failures.

    Raises:
        FileExistsError: The output has embeddings, which are refused.
        ValueError: The output was started with different recordings or options.
        OSError: The output cannot be written.
    """
    paths, failures = plan.recordings.paths, dict(plan.refused)
    embedded = embeddings = 0
    options = {} if plan.target is None else {**embedder.options, **plan.options}
    opened = open_output(plan.target, plan.writer, plan.recordings, options, plan.old_results, plan.accept_failures)
    with contextlib.closing(opened) as output:
        missing = []
        for path in paths:
            if path in failures:
                on_result(path, ValueError(failures[path]))
            elif output.has(path):
                on_result(path, None)
            else:
                missing.append(path)
        done = len(paths) - len(missing) - len(failures)
        _logger.info("recordings: %d to embed, %d already done, %d refused", len(missing), done, len(failures))
        adding = None
        try:
            with contextlib.closing(embedder.embed_many(missing, on_audio)) as results:
                for path, result in results:
                    adding = path, result
                    result = _add(output, path, result)
                    adding = None
                    if isinstance(result, Exception):
                        failures[path] = error_message(result)
                    else:
                        embedded += 1
                        embeddings += len(result.times)
                    on_result(path, result)
        except BaseException:
            with contextlib.suppress(OSError):
                _finish(output, paths, failures)
                if adding is not None and output.has(adding[0]):  # interrupted after it was saved
                    on_result(*adding)
            raise
        unfinished = _finish(output, paths, failures)
    skipped = len(paths) - len(failures) - embedded
    return Summary(skipped, embedded, embeddings, _in_order(failures, paths), unfinished)


def _add(output: Output, path: Path, result: Embeddings | Exception) -> Embeddings | Exception:
    """Adds embeddings to the output; a name that its file system rejects fails only this recording."""
    if isinstance(result, Exception):
        return result
    try:
        output.add(path, result)
    except OSError as error:
        if error.errno not in _NAME_ERRORS:
            raise
        return error
    return result


def _finish(output: Output, paths: list[Path], failures: dict[Path, str]) -> Path | None:
    return output.finish([path for path in paths if path not in failures], _in_order(failures, paths))


def _in_order(failures: dict[Path, str], paths: list[Path]) -> list[tuple[Path, str]]:
    return [(path, failures[path]) for path in paths if path in failures]

"""Embed a corpus: skip what is done, record failures, keep partial results."""

import contextlib
import errno
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vggish_keras._errors import error_message
from vggish_keras._validation import PathLike, Postprocessing
from vggish_keras.corpus.audioset import RECORDS_SUFFIX, RecordWriter
from vggish_keras.corpus.output import EmbeddingsWriter, Output, Target, Writer, is_complete, open_output, parse_target
from vggish_keras.embeddings import Embeddings
from vggish_keras.recordings import Recordings, find_recordings
from vggish_keras.segments import read_segments

if TYPE_CHECKING:
    from vggish_keras.embedder import Embedder

_NAME_ERRORS = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL, errno.EILSEQ}
"""Errors caused by a file name that the output's file system rejects, or that conflicts with a different file."""


class Plan(NamedTuple):
    """What a run will do.

    Attributes:
        recordings: The inputs.
        target: Where the embeddings are written; None only passes them to the caller.
        writer: Writes a target that is a file.
        postprocess: The post-processing that the embedder must apply.
        options: Options of the output, in addition to those of the embedder.
        refused: Recordings that will not be embedded, and why; they count as failures.
        resume: True keeps the results of an interrupted run.
    """

    recordings: Recordings
    target: Target | None
    writer: Writer
    postprocess: Postprocessing | None
    options: dict[str, str | None]
    refused: dict[Path, str]
    resume: bool

    def is_complete(self) -> bool:
        """Whether a resumed run has nothing to do, because its single-file output is complete."""
        return self.resume and self.target is not None and is_complete(self.target, self.writer)


def plan(
    inputs: Iterable[PathLike],
    output: str | None = None,
    listed: Iterable[PathLike] = (),
    resume: bool = False,
    postprocess: Postprocessing | None = None,
    shards: int = 1,
    segments: str | None = None,
    labels: str | None = None,
) -> Plan:
    """Plans a run without loading TensorFlow.

    Args:
        inputs: As in `find_recordings`.
        output: A folder, or an .npz, .csv, .parquet or .tfrecord file; None only passes embeddings to the caller.
        listed: As in `find_recordings`.
        resume: True continues an interrupted run.
        postprocess: None, "pca" or "quantized"; .tfrecord output is always quantized.
        shards: Number of files of a .tfrecord output.
        segments: An AudioSet segment list, for .tfrecord output; recordings that are not in it are refused.
        labels: AudioSet's class_labels_indices.csv, for `segments`.

    Raises:
        ValueError: The options contradict each other, no recordings are found, or a list is malformed. Messages name
            the options of `vggish embed`.
        OSError: A folder or a list cannot be read.
    """
    recordings = find_recordings(inputs, listed, output)
    target = None if output is None else parse_target(output)
    as_records = target is not None and not target.is_folder and target.path.suffix == RECORDS_SUFFIX
    if as_records and postprocess == "pca":
        raise ValueError(f"{RECORDS_SUFFIX} output stores 8-bit embeddings: use --postprocess quantized")
    if not as_records and (shards > 1 or segments):
        raise ValueError(f"--shards and --segments require {RECORDS_SUFFIX} output")
    if labels and not segments:
        raise ValueError("--labels requires --segments")
    if resume and target is None:
        raise ValueError("--resume requires --output (-o)")
    if not as_records:
        return Plan(recordings, target, EmbeddingsWriter(), postprocess, {}, {}, resume)
    known = read_segments(segments, labels) if segments else None
    unknown = [] if known is None else [path for path in recordings.paths if path.stem not in known]
    refused = {path: f"{path} is not in {segments}" for path in unknown}
    options = {"segments": segments, "labels": labels}
    return Plan(recordings, target, RecordWriter(shards, known), "quantized", options, refused, resume)


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        skipped: Number of recordings that the output already had.
        embedded: Number of recordings that were embedded.
        embeddings: Number of their embeddings.
        failures: Recordings that failed, and why.
    """

    skipped: int
    embedded: int
    embeddings: int
    failures: list[tuple[Path, str]]


def embed_corpus(
    embedder: "Embedder",
    plan: Plan,
    on_audio: Callable[[float], object],
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
        ValueError: The output was started with different recordings or options.
        OSError: The output cannot be written.
    """
    paths, failures = plan.recordings.paths, dict(plan.refused)
    embedded = embeddings = 0
    options = {} if plan.target is None else {**embedder.options, **plan.options}
    with contextlib.closing(open_output(plan.target, plan.writer, plan.recordings, options, plan.resume)) as output:
        missing = []
        for path in paths:
            if path in failures:
                on_result(path, ValueError(failures[path]))
            elif output.has(path):
                on_result(path, None)
            else:
                missing.append(path)
        try:
            with contextlib.closing(embedder.embed_many(missing, on_audio)) as results:
                for path, result in results:
                    result = _add(output, path, result)
                    if isinstance(result, Exception):
                        failures[path] = error_message(result)
                    else:
                        embedded += 1
                        embeddings += len(result.times)
                    on_result(path, result)
        except BaseException:
            with contextlib.suppress(OSError):
                _finish(output, paths, failures)
            raise
        listed = _finish(output, paths, failures)
    return Summary(len(paths) - len(failures) - embedded, embedded, embeddings, listed)


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


def _finish(output: Output, paths: list[Path], failures: dict[Path, str]) -> list[tuple[Path, str]]:
    """Finishes the output and returns the failures in the order of the inputs."""
    listed = [(path, failures[path]) for path in paths if path in failures]
    output.finish([path for path in paths if path not in failures], listed)
    return listed

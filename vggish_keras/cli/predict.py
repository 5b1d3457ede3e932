"""The command `predict`."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import click

from vggish_keras._atomic import atomic_write
from vggish_keras._errors import counted
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras._text import csv_lines
from vggish_keras.cli.errors import describe_error, exit_if_missing
from vggish_keras.cli.options import batch_size_option, channels_option, check_csv_output, hop_option, padding_option
from vggish_keras.cli.streams import DASH, standard_output
from vggish_keras.cli.tables import print_scores

if TYPE_CHECKING:
    from vggish_keras.classifier import Classifier, Predictions
    from vggish_keras.cli.progress import Progress
    from vggish_keras.recordings import Recordings


@click.command(short_help="Label recordings with your own classifier.")
@click.argument("classifier", type=click.Path())
@click.argument("inputs", nargs=-1, type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="A .csv file for the labels of each example, or - for standard output.  [default: print tables]",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option(
    "--top",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Number of labels to output, highest scores first; all labels if there are fewer.",
)
@click.option(
    "--class-names",
    "names_file",
    type=click.Path(exists=True, dir_okay=False),
    help="A text file with one class name per line, in the order of the scores.  [default: as exported, or indices]",
)
@hop_option
@padding_option
@channels_option
@batch_size_option
@click.option("-q", "--quiet", is_flag=True, help="Show neither progress nor the summary.")
def predict(
    classifier: str,
    inputs: tuple[str, ...],
    output: str | None,
    overwrite: bool,
    top: int,
    names_file: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Label INPUTS with CLASSIFIER and print tables, or write the labels of each example to the output given by -o.

    CLASSIFIER is a Keras model (.keras) built on VGGish, or a SavedModel, .onnx or .tflite file exported with class
    names. INPUTS are recordings, folders or patterns as in vggish embed.

    The table of a recording shows the labels with the highest mean scores over all of its examples. A .csv file has the
    columns file, time, label and score, and a row for each of the best labels of each example.

    Unreadable files are reported and skipped; the exit status is then 1.
    """
    from vggish_keras.class_names import read_class_names
    from vggish_keras.engines import check_classifier
    from vggish_keras.exported_options import needs_tensorflow

    recordings = _find_recordings(inputs)
    _check_output(output, overwrite)
    check_classifier(classifier)
    names = None if names_file is None else read_class_names(names_file)
    with _open_output(output) as file:
        if needs_tensorflow(classifier):
            load_tensorflow()
        from vggish_keras.classifier import Classifier
        from vggish_keras.cli.progress import Progress

        opened = Classifier(classifier, names, **options)
        results = _Tables(top) if file is None else _Rows(top, file, may_drop=output != DASH)
        with Progress(len(recordings.paths), quiet or output in (None, DASH)) as progress:
            failed = _predict(opened, recordings.paths, results, progress)
        if failed == len(recordings.paths):
            sys.exit(1)  # before a file is replaced
    if not quiet:
        _show_summary(output, recordings, failed, progress)
    if failed:
        sys.exit(1)


def _find_recordings(inputs: tuple[str, ...]) -> "Recordings":
    """Finds the recordings; if none of them exists, reports them and exits."""
    from vggish_keras import corpus

    try:
        plan = corpus.plan(inputs)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    exit_if_missing(plan.missing_inputs())
    return plan.recordings


def _check_output(output: str | None, overwrite: bool) -> None:
    check_csv_output(output)
    if output not in (None, DASH) and os.path.lexists(str(output)) and not overwrite:
        raise FileExistsError(f"{output} already exists: use --overwrite to replace it")


def _predict(classifier: "Classifier", paths: list[Path], results: "_Results", progress: "Progress") -> int:
    """Passes the scores of all recordings to `results`, and returns the number of recordings that failed."""
    failed = examples = 0
    with contextlib.closing(classifier.stream_many(paths, progress.audio)) as stream:
        for path, result in stream:
            if result is not None and not isinstance(result, Exception):
                results.add(path, result)
                examples += len(result)
                continue
            results.end(path, failed=result is not None)
            if result is not None:
                click.echo(f"Error: {describe_error(result, path)}", err=True)
                failed += 1
            elif not examples:
                click.echo(f"{path}: shorter than an example (0.975 s), no labels; use --padding short", err=True)
            progress.file(path, "saved" if result is None else "failed")
            examples = 0
    return failed


def _show_summary(output: str | None, recordings: "Recordings", failed: int, progress: "Progress") -> None:
    from vggish_keras.recordings import describe_left_out

    left_out = describe_left_out(recordings.left_out)
    if output in (None, DASH):
        if left_out:
            click.echo(left_out, err=True)
        return
    done = len(recordings.paths) - failed
    parts = [
        f"labels of {counted(done, 'file')}",
        progress.describe(),
        f"{failed} failed" if failed else "",
        left_out,
    ]
    click.echo(f"{output}: {', '.join(filter(None, parts))}")


@contextlib.contextmanager
def _open_output(output: str | None) -> Iterator[IO[bytes] | None]:
    """Yields the file to write; None without an output."""
    if output is None:
        yield None
    elif output == DASH:
        yield standard_output()
    else:
        with atomic_write(Path(output)) as partial, partial.open("wb") as file:
            yield file


# === Results ===


class _Results(Protocol):
    """Receives the predictions of one recording after the other."""

    def add(self, path: Path, part: "Predictions") -> None:
        """Adds a part of the recording's predictions."""

    def end(self, path: Path, failed: bool) -> None:
        """Ends the recording; if it failed, drops its parts as far as possible."""


class _Tables:
    """Prints the labels with the highest mean scores of each recording."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._examples = 0
        self._total: Any = 0
        self._class_names: tuple[str, ...] = ()

    def add(self, path: Path, part: "Predictions") -> None:
        self._examples += len(part)
        self._total = self._total + part.scores.sum(axis=0, dtype="float64")
        self._class_names = part.class_names

    def end(self, path: Path, failed: bool) -> None:
        if self._examples and not failed:
            mean = zip(self._class_names, self._total / self._examples, strict=True)
            print_scores(str(path), self._examples, sorted(mean, key=lambda row: -row[1])[: self._top])
        self._examples, self._total = 0, 0


class _Rows:
    """Writes the labels of each example as CSV as soon as they are known.

    Args:
        top: Number of labels.
        file: Where to write.
        may_drop: Whether to remove the rows of a recording that fails after some of its examples were read.
    """

    def __init__(self, top: int, file: IO[bytes], may_drop: bool) -> None:
        self._top = top
        self._file = file
        self._write([("file", "time", "label", "score")])
        self._end = file.tell() if may_drop else None

    def add(self, path: Path, part: "Predictions") -> None:
        # str writes the fewest digits that read back as the same float32.
        self._write((path, f"{time:.2f}", label, str(score)) for time, label, score in part.top(self._top))

    def end(self, path: Path, failed: bool) -> None:
        if self._end is None:
            return
        if failed:
            self._file.seek(self._end)
            self._file.truncate()
        self._end = self._file.tell()

    def _write(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._file.write(csv_lines(rows))
        self._file.flush()

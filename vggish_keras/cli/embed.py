"""The command `embed`."""

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.errors import describe_error
from vggish_keras.cli.options import embedder_options
from vggish_keras.cli.tables import print_embeddings

if TYPE_CHECKING:
    from vggish_keras import corpus
    from vggish_keras._validation import Postprocessing
    from vggish_keras.cli.progress import Progress
    from vggish_keras.embeddings import Embeddings


@click.command(short_help="Embed recordings.")
@click.argument("inputs", nargs=-1, type=click.Path())
@click.option(
    "--list",
    "listed",
    type=click.File("rb"),
    help="Also embed the files listed in this file (- for standard input), one per line or NUL-separated.",
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="A folder of .npz files (an existing folder, or a name that ends with / or has no suffix), or a single .npz, "
    ".csv, .parquet or .tfrecord file.  [default: print tables]",
)
@click.option("--resume", is_flag=True, help="Keep the embeddings that the output has, and add those that it lacks.")
@click.option("--overwrite", is_flag=True, help="Replace the embeddings that the output has.")
@click.option(
    "--accept-failures",
    is_flag=True,
    help="Complete the output without the recordings that fail, and exit with status 0.",
)
@click.option(
    "--shards",
    type=click.IntRange(1, 99_999),
    default=1,
    show_default=True,
    help="Number of files of a .tfrecord output.",
)
@click.option(
    "--segments",
    type=click.Path(exists=True, dir_okay=False),
    help="Take names, times and labels of a .tfrecord output from this AudioSet segment list.",
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False),
    help="AudioSet's class_labels_indices.csv, for --segments.",
)
@click.option(
    "--postprocess",
    type=click.Choice(["pca", "quantized"]),
    help='"pca" applies PCA and whitening; "quantized" also quantizes to 8 bits.',
)
@embedder_options
@click.option("--quiet", is_flag=True, help="Show neither progress nor the summary.")
def embed(
    inputs: tuple[str, ...],
    listed: Any,
    output: str | None,
    resume: bool,
    overwrite: bool,
    accept_failures: bool,
    shards: int,
    segments: str | None,
    labels: str | None,
    postprocess: "Postprocessing | None",
    quiet: bool,
    **embedder_options: Any,
) -> None:
    """Embed INPUTS and print tables, or write the embeddings to the output given by -o.

    INPUTS are recordings, folders to search for recordings, or patterns such as 'audio/**/*.wav'. For a file named -,
    use ./-.

    Unreadable files are reported and skipped; the exit status is then 1. With -o they are also listed in failures.csv
    in the output folder, or in OUTPUT.failures.csv beside the output file.

    An output that already has embeddings is only written with --resume or --overwrite. --resume continues an
    interrupted run and retries files that failed. Until a single-file output is complete, without a failure or with
    --accept-failures, results are also kept in OUTPUT.unfinished.
    """
    from vggish_keras import corpus
    from vggish_keras.cli.progress import Progress
    from vggish_keras.recordings import read_list

    try:
        names = read_list(listed) if listed else []
        plan = corpus.plan(
            inputs, output, names, resume, postprocess, shards, segments, labels, overwrite, accept_failures
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if done := _already_done(plan, output):
        if not quiet:
            click.echo(done)
        return
    _check_inputs(plan)
    plan.check_output()
    load_tensorflow()
    from vggish_keras.embedder import Embedder

    embedder = Embedder(postprocess=plan.postprocess, **embedder_options)
    with Progress(len(plan.recordings.paths), quiet or output is None) as progress:
        show = functools.partial(_show_result, progress, output is None)
        try:
            summary = corpus.embed_corpus(embedder, plan, progress.audio, show)
        except KeyboardInterrupt:
            if output is not None:
                click.echo(f"Interrupted: {progress.describe_saved()}; continue with --resume.", err=True)
            raise
    if not quiet:
        _show_summary(plan, summary, progress.describe())
    if summary.failures and not accept_failures:
        sys.exit(1)


def _already_done(plan: "corpus.Plan", output: str | None) -> str:
    """Describes the output if there is nothing to do; otherwise empty."""
    if plan.is_complete():
        return f"{output} is already complete"
    if failed := plan.complete_without_failures():
        return f"{output} is complete without the {_count(failed, 'recording')} that failed"
    return ""


def _check_inputs(plan: "corpus.Plan") -> None:
    """Reports the inputs and exits, if none of them exists and nothing else can be done."""
    missing = plan.missing_inputs()
    for path in missing:
        click.echo(f"Error: no audio file at {path}", err=True)
    if missing:
        sys.exit(1)


def _show_result(progress: "Progress", as_table: bool, path: Path, result: "Embeddings | Exception | None") -> None:
    if isinstance(result, Exception):
        click.echo(f"Error: {describe_error(result, path)}", err=True)
    elif result is not None:
        if as_table:
            print_embeddings(str(path), result)
        if not len(result.times):
            click.echo(f"{path}: shorter than an example (0.975 s), no embeddings; use --padding same", err=True)
    progress.file(path, "skipped" if result is None else "failed" if isinstance(result, Exception) else "saved")


def _show_summary(plan: "corpus.Plan", summary: "corpus.Summary", speed: str) -> None:
    from vggish_keras.recordings import describe_left_out

    left_out = describe_left_out(plan.recordings.left_out)
    if plan.target is None:
        if left_out:
            click.echo(left_out, err=True)
        return
    parts = [
        f"{_count(summary.embeddings, 'embedding')} of {_count(summary.embedded, 'file')}",
        speed,
        f"{summary.skipped} already done" if summary.skipped else "",
        f"{len(summary.failures)} failed" if summary.failures else "",
        left_out,
    ]
    click.echo(f"{plan.target.path}: {', '.join(filter(None, parts))}")
    if summary.unfinished is not None:
        click.echo(
            f"{summary.unfinished} is kept because {_count(len(summary.failures), 'recording')} failed: retry them "
            "with --resume, or finish without them with --resume --accept-failures"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"

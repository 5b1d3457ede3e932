"""The command `embed`."""

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vggish_keras._errors import counted
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras._validation import file_suffix
from vggish_keras.cli.errors import describe_error, exit_if_missing
from vggish_keras.cli.options import check_pca, embedder_options, open_embedder, postprocess_option
from vggish_keras.cli.streams import (
    DASH,
    StandardInput,
    StandardOutput,
    copy_standard_input,
    read_paths,
    standard_input,
)
from vggish_keras.cli.tables import print_embeddings

if TYPE_CHECKING:
    from vggish_keras import corpus
    from vggish_keras._validation import Postprocessing
    from vggish_keras.cli.progress import Progress
    from vggish_keras.embeddings import Embeddings
    from vggish_keras.framing import Padding
    from vggish_keras.recordings import Recordings


def _parse_format(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    from vggish_keras.recordings import AUDIO_SUFFIXES

    suffix = None if name is None else f".{name.lower().removeprefix('.')}"
    if suffix is not None and suffix not in AUDIO_SUFFIXES:
        raise click.BadParameter(f"expected the suffix of audio or video files, such as wav or mp3, got {name!r}")
    return suffix


@click.command(short_help="Embed recordings.")
@click.argument("inputs", nargs=-1, type=click.Path())
@click.option(
    "--list",
    "listed",
    type=click.File("rb"),
    help="Also embed the files listed in this file (- for standard input), one per line or NUL-separated.",
)
@click.option(
    "--format",
    "suffix",
    metavar="SUFFIX",
    callback=_parse_format,
    help="Read one recording with this suffix from standard input, as in vggish embed - --format wav.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="A folder of .npz files (an existing folder, or a name that ends with / or has no suffix), or a single .npz, "
    ".csv, .parquet or .tfrecord file, or - for CSV on standard output.  [default: print tables]",
)
@click.option("--json", "as_json", is_flag=True, help="With -o -, write JSON lines instead of CSV.")
@click.option("--resume", is_flag=True, help="Keep the embeddings that the output has, and add those that it lacks.")
@click.option("--overwrite", is_flag=True, help="Replace the embeddings that the output has.")
@click.option(
    "--accept-failures",
    is_flag=True,
    help="Complete the output without the recordings that fail, and exit with status 0 unless all of them fail.",
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
@postprocess_option
@embedder_options
@click.option("-q", "--quiet", is_flag=True, help="Show neither progress nor the summary.")
def embed(
    inputs: tuple[str, ...],
    listed: Any,
    suffix: str | None,
    output: str | None,
    as_json: bool,
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

    INPUTS are recordings, folders to search for recordings, patterns such as 'audio/**/*.wav', or - for a list of paths
    on standard input; with --format, - is a recording on standard input. For a file named -, use ./-.

    Unreadable files are reported and skipped; the exit status is then 1. With -o they are also listed in failures.csv
    in the output folder, or in OUTPUT.failures.csv beside the output file.

    An output that already has embeddings is only written with --resume or --overwrite. --resume continues an
    interrupted run and retries files that failed. A single-file output is complete when no recording has failed, or
    with --accept-failures; until then, results are also kept in OUTPUT.unfinished.
    """
    from vggish_keras import corpus
    from vggish_keras.cli.progress import Progress

    _check_streams(inputs, listed, suffix, output, as_json, resume)
    target = None if output == DASH else output
    try:
        found, names = _read_lists(inputs, listed, suffix)
        plan = corpus.plan(
            found, target, names, resume, postprocess, shards, segments, labels, overwrite, accept_failures
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if done := _already_done(plan, target, embedder_options):
        if not quiet:
            click.echo(done)
        return
    check_pca(embedder_options["pca_params"], plan.postprocess)
    if suffix is None:
        exit_if_missing(plan.missing_inputs())
    plan.check_output()
    embedder = _open_embedder(plan, suffix, embedder_options)
    write = _open_writer(output, as_json)
    with Progress(len(plan.recordings.paths), quiet or _is_shown(output)) as progress:
        show = functools.partial(_show_result, progress, write)
        try:
            summary = corpus.embed_corpus(embedder, plan, progress.audio, show)
        except KeyboardInterrupt:
            if target is not None and suffix is None:
                click.echo(f"Interrupted: {progress.describe_saved()}; continue with --resume.", err=True)
            raise
    if not quiet:
        _show_summary(plan, summary, output, progress.describe())
    nothing = summary.embedded + summary.skipped == 0
    if summary.failures and (nothing or not accept_failures):
        sys.exit(1)


def _check_streams(
    inputs: tuple[str, ...], listed: Any, suffix: str | None, output: str | None, as_json: bool, resume: bool
) -> None:
    """Raises a usage error if the options for standard input and output do not fit the others."""
    if suffix is not None and (inputs != (DASH,) or listed):
        raise click.UsageError("--format requires - as the only input, for a recording on standard input")
    if suffix is not None and resume:
        raise click.UsageError("--resume cannot be used with --format: standard input is read only once")
    if as_json and output != DASH:
        raise click.UsageError("--json requires -o - (standard output)")


def _read_lists(
    inputs: tuple[str, ...], listed: Any, suffix: str | None
) -> "tuple[tuple[str, ...] | Recordings, list[str]]":
    """The inputs, or the recording on standard input if this has a suffix; and the paths in lists."""
    from vggish_keras.recordings import Recordings

    if suffix is not None:
        return Recordings([Path(DASH)], Path.cwd()), []
    names = read_paths(listed) if listed else []
    if DASH in inputs:
        names += read_paths(standard_input())
        inputs = tuple(name for name in inputs if name != DASH)
        if not inputs and not names:
            raise click.UsageError("standard input lists no files")
    return inputs, names


def _open_embedder(plan: "corpus.Plan", suffix: str | None, options: dict[str, Any]) -> "corpus.CorpusEmbedder":
    """Opens the embedder, of the recording on standard input if this has a suffix."""
    from vggish_keras import corpus

    file = None
    if suffix is not None:
        folder = click.get_current_context().with_resource(tempfile.TemporaryDirectory(prefix="vggish-"))
        file = Path(folder, f"recording{suffix}")
        copy_standard_input(file)
    if plan.target and file_suffix(plan.target.path) == corpus.RECORDS_SUFFIX:
        load_tensorflow(options["dtype"])
    embedder = open_embedder(postprocess=plan.postprocess, **options)
    return embedder if file is None else StandardInput(embedder, file)


def _open_writer(output: str | None, as_json: bool) -> Callable[[str, "Embeddings"], object] | None:
    """What shows the embeddings of a recording on standard output, if anything."""
    if output is None:
        return print_embeddings
    return StandardOutput(as_json).add if output == DASH else None


def _is_shown(output: str | None) -> bool:
    """Whether the embeddings appear where a progress bar would disturb them."""
    return output is None or (output == DASH and sys.stdout.isatty())


def _already_done(plan: "corpus.Plan", output: str | None, embedder_options: dict[str, Any]) -> str:
    """Describes the output if there is nothing to do; otherwise empty."""
    if plan.is_complete():
        plan.check_complete(_known_options(**embedder_options))
        return f"{output} is complete and was left unchanged; --overwrite embeds the inputs again"
    if failed := plan.complete_without_failures():
        return f"{output} is complete without the {counted(failed, 'recording')} that failed"
    return ""


def _known_options(
    weights: str, hop_seconds: float | None, padding: "Padding | None", channels: str | int, dtype: str, **_: Any
) -> dict[str, Any]:
    """The options of the output that are known before the weights are loaded."""
    from vggish_keras.exported_options import is_saved_model, needs_tensorflow, resolve_options

    options = {**resolve_options(weights, hop_seconds, padding)._asdict(), "channels": channels}
    has_own_dtype = is_saved_model(weights) or not needs_tensorflow(weights)
    return options if has_own_dtype else {**options, "dtype": dtype}


def _show_result(
    progress: "Progress",
    write: Callable[[str, "Embeddings"], object] | None,
    path: Path,
    result: "Embeddings | Exception | None",
) -> None:
    if isinstance(result, Exception):
        click.echo(f"Error: {describe_error(result, path)}", err=True)
    elif result is not None:
        if write is not None:
            write(str(path), result)
        if not len(result.times):
            click.echo(f"{path}: shorter than an example (0.975 s), no embeddings; use --padding short", err=True)
    progress.file(path, "skipped" if result is None else "failed" if isinstance(result, Exception) else "saved")


def _show_summary(plan: "corpus.Plan", summary: "corpus.Summary", output: str | None, speed: str) -> None:
    from vggish_keras.recordings import describe_left_out

    left_out = describe_left_out(plan.recordings.left_out)
    if output is None:
        if left_out:
            click.echo(left_out, err=True)
        return
    name = "standard output" if plan.target is None else plan.target.path
    parts = [
        f"{counted(summary.embeddings, 'embedding')} of {counted(summary.embedded, 'file')}",
        speed,
        f"{summary.skipped} already done" if summary.skipped else "",
        f"{len(summary.failures)} failed" if summary.failures else "",
        left_out,
    ]
    click.echo(f"{name}: {', '.join(filter(None, parts))}", err=plan.target is None)
    if summary.unfinished is not None:
        click.echo(
            f"{summary.unfinished} is kept because {counted(len(summary.failures), 'recording')} failed: retry with "
            "--resume, or finish without the failed recordings with --resume --accept-failures"
        )

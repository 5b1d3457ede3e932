"""The command `embed`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vggish_keras._errors import error_message
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.options import (
    batch_size_option,
    channels_option,
    dtype_option,
    hop_option,
    padding_option,
    weights_option,
)
from vggish_keras.cli.tables import print_embeddings

if TYPE_CHECKING:
    from vggish_keras.embeddings import Embeddings


@click.command()
@click.argument("inputs", nargs=-1, type=click.Path())
@click.option("--list", "listed", type=click.File("rb"), help="Embed the files of this list, too; - is standard input.")
@click.option(
    "-o", "--output", help="Write a folder of .npz files, or one .npz, .csv, .parquet or .tfrecord file, by the suffix."
)
@click.option("--resume", is_flag=True, help="Go on with what a stopped run left.")
@click.option("--shards", type=click.IntRange(1, 99_999), default=1, show_default=True, help="Of a .tfrecord output.")
@click.option(
    "--segments",
    type=click.Path(exists=True, dir_okay=False),
    help="AudioSet's list of segments, for a .tfrecord output.",
)
@click.option(
    "--labels",
    type=click.Path(exists=True, dir_okay=False),
    help="AudioSet's class_labels_indices.csv, for --segments.",
)
@hop_option
@padding_option
@click.option("--postprocess", type=click.Choice(["pca", "quantized"]), help="PCA and whitening, and 8 bits.")
@weights_option
@dtype_option
@channels_option
@batch_size_option
@click.option("--quiet", is_flag=True, help="Show neither progress nor totals.")
def embed(
    inputs: tuple[str, ...],
    listed: Any,
    output: str | None,
    resume: bool,
    shards: int,
    segments: str | None,
    labels: str | None,
    hop: float,
    padding: str,
    postprocess: str | None,
    weights: str,
    dtype: str,
    channels: Any,
    batch_size: int,
    quiet: bool,
) -> None:
    """Embed INPUTS and print tables, or write the embeddings with -o.

    INPUTS are recordings, folders that are searched for them, or patterns like 'audio/**/*.wav'. A file named - is ./-.

    A file that cannot be read is named, the others are embedded all the same, and the exit status is 1. With -o the
    bad files are listed in failures.csv in the output folder, or in OUTPUT.failures.csv beside the output file.

    --resume goes on with a run that was stopped, and tries bad files again. Until a single file is complete, what is
    finished is in OUTPUT.unfinished.
    """
    from vggish_keras import corpus, recordings as recordings_lib, segments as segments_lib
    from vggish_keras.cli.progress import Progress

    try:
        listed_paths = recordings_lib.read_list(listed) if listed else []
        recordings = recordings_lib.find_recordings(inputs, listed_paths, output)
        target = None if output is None else corpus.check_target(output)
        options: dict[str, Any] = {
            "weights": weights,
            "hop": hop,
            "padding": padding,
            "dtype": dtype,
            "channels": channels,
        }
        if target is not None and target.is_records:
            if postprocess == "pca":
                raise ValueError("a .tfrecord output holds 8 bits: --postprocess quantized")
            postprocess = "quantized"
            options |= {"segments": segments, "labels": labels}
        elif shards > 1 or segments:
            raise ValueError("--shards and --segments are for a .tfrecord output")
        options["postprocess"] = postprocess
        if labels and not segments:
            raise ValueError("--labels is for --segments")
        if resume and target is None:
            raise ValueError("--resume needs an output: -o")
        known = segments_lib.read_segments(segments, labels) if segments else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    write_records = corpus.RecordWriter(hop, shards, known)
    if resume and target is not None and corpus.is_complete(target, write_records):
        if not quiet:
            click.echo(f"{target.path} is complete: there is nothing to resume")
        return
    load_tensorflow()
    from vggish_keras.embedder import Embedder

    embedder = Embedder(weights, hop, padding, postprocess, batch_size, dtype, channels)
    opened: corpus.Output = _Tables()
    if target is not None:
        opened = corpus.open_output(target, recordings, options, resume, write_records)
    unknown = [] if known is None else [path for path in recordings.paths if path.stem not in known]
    refused = {path: f"{path} is not in {segments}" for path in unknown}

    with Progress(len(recordings.paths), quiet or target is None) as progress:

        def show(path: Path, result: "Embeddings | Exception | None") -> None:
            if isinstance(result, Exception):
                click.echo(f"Error: {error_message(result)}", err=True)
            elif result is not None and not len(result.times):
                click.echo(f"{path}: shorter than an example (0.975 s), no embeddings; use --padding same", err=True)
            progress.file(was_there=result is None)

        try:
            summary = corpus.embed_corpus(embedder, recordings, opened, refused, progress.audio, show)
        except KeyboardInterrupt:
            if target is not None:
                click.echo(f"Stopped after {progress.describe()}; --resume goes on.", err=True)
            raise
    left_out = recordings_lib.describe_left_out(recordings.left_out)
    if target is not None and not quiet:
        there = f", {summary.skipped} were there" if summary.skipped else ""
        failed = f", {len(summary.failures)} failed" if summary.failures else ""
        files = f"{summary.embeddings} embeddings of {summary.embedded} files"
        others = f", {left_out}" if left_out else ""
        click.echo(f"{target.path}: {files}, {progress.describe()}{there}{failed}{others}")
    elif left_out and not quiet:
        click.echo(left_out, err=True)
    if summary.failures:
        sys.exit(1)


class _Tables:
    """An output that prints."""

    def has(self, path: Path) -> bool:
        return False

    def add(self, path: Path, embeddings: "Embeddings") -> None:
        print_embeddings(str(path), embeddings)

    def finish(self, paths: Sequence[Path], failures: Sequence[tuple[Path, str]]) -> None:
        pass

    def close(self) -> None:
        pass

"""The command `plot`."""

import tempfile
from pathlib import Path
from typing import Any

import click

from vggish_keras._validation import file_suffix
from vggish_keras.cli.options import (
    OutputPath,
    channels_option,
    check_not_input,
    check_pca,
    hop_option,
    open_embedder,
    pca_option,
    postprocess_option,
    weights_option,
)

_UNSUPPORTED = (".csv", ".parquet", ".tfrecord")
"""Suffixes of other outputs of `embed`."""


@click.command(short_help="Plot a recording or saved embeddings.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=OutputPath(),
    help="The .png or .svg file to write.  [default: FILE's name with .png, in the current folder]",
)
@click.option("--similarity", is_flag=True, help="Add a matrix of cosine similarities between embeddings.")
@click.option("--recording", help="Name of the recording to plot, for an .npz file that contains several.")
@channels_option
@hop_option
@postprocess_option
@pca_option
@weights_option
def plot(file: Path, output: Path | None, similarity: bool, recording: str | None, **embedder_options: Any) -> None:
    """Plot FILE: a recording and its embeddings, or saved embeddings (.npz).

    --weights, --hop, --channels, --postprocess and --pca have no effect on saved embeddings.
    """
    output = output or Path(f"{file.name}.png")
    saved = file_suffix(file) == ".npz"
    if recording is not None and not saved:
        raise click.UsageError("--recording requires an .npz file")
    if file_suffix(file) in _UNSUPPORTED:
        raise click.UsageError(f"plot reads recordings and .npz files, got {file}")
    check_pca(embedder_options["pca_params"], embedder_options["postprocess"])
    _check_output(output)
    check_not_input(output, file)
    title = f"VGGish embeddings of {recording or file.name}"
    if saved:
        from vggish_keras import embedding_files
        from vggish_keras.plot import plot_embeddings

        plot_embeddings(output, embedding_files.read_npz(file, recording), title, similarity)
    else:
        from vggish_keras.plot import check_matplotlib, plot_recording

        _check_recording(file)
        check_matplotlib()
        embeddings = open_embedder(**embedder_options).embed(file)
        plot_recording(output, file, embeddings, title, similarity=similarity, channels=embedder_options["channels"])
    click.echo(f"wrote {output}")


def _check_output(output: Path) -> None:
    if file_suffix(output) not in (".png", ".svg") or not output.parent.is_dir() or output.is_dir():
        raise click.UsageError(f"expected a .png or .svg file in an existing folder, got {output}")
    try:
        tempfile.TemporaryFile(dir=output.parent).close()
    except OSError as error:
        raise click.ClickException(f"cannot write {output}: {error.strerror}") from error


def _check_recording(file: Path) -> None:
    """Reads the start of a recording, so that a wrong file is reported before TensorFlow or weights are loaded."""
    from vggish_keras.audio import open_audio

    next(open_audio(file).blocks, None)

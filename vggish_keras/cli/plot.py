"""The command `plot`."""

from pathlib import Path

import click

from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.options import (
    hop_option,
    weights_option,
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The picture, .png or .svg.  [default: FILE's name and .png, here]",
)
@click.option("--similarity", is_flag=True, help="Add the matrix of the embeddings' cosine similarities.")
@click.option("--recording", help="Which recording of an .npz file that holds several.")
@hop_option
@weights_option
def plot(file: Path, output: Path | None, similarity: bool, recording: str | None, hop: float, weights: str) -> None:
    """Draw FILE: a recording with its embeddings, or saved embeddings (.npz)."""
    output = output or Path(f"{file.name}.png")
    if output.suffix not in (".png", ".svg") or not output.parent.is_dir():
        raise click.UsageError(f"a picture is a .png or .svg file in a folder that is there, got {output}")
    if recording is not None and file.suffix != ".npz":
        raise click.UsageError("--recording is for an .npz file")
    from vggish_keras import embedding_files
    from vggish_keras.plot import plot_embeddings, plot_recording

    title = f"VGGish embeddings of {recording or file.name}"
    if file.suffix == ".npz":
        plot_embeddings(output, embedding_files.read_npz(file, recording), title, similarity)
    else:
        load_tensorflow()
        from vggish_keras.embedder import Embedder

        plot_recording(output, file, Embedder(weights, hop).embed(file), title, similarity=similarity)
    click.echo(f"wrote {output}")

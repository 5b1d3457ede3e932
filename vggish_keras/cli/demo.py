"""The command `demo`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli import demo_recording
from vggish_keras.cli.options import OutputPath, weights_option
from vggish_keras.cli.tables import print_embeddings

if TYPE_CHECKING:
    from vggish_keras.embedder import Embedder

_UNTRAINED = "the published weights are unavailable: these embeddings come from random, untrained weights"


@click.command(short_help="Embed and plot a sample recording.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=OutputPath(file_okay=False, exists=True),
    default=".",
    help="Folder of the output files.  [default: the current folder]",
)
@weights_option
def demo(file: Path | None, output: Path, weights: str) -> None:
    """Embed FILE, or a synthesized recording, and plot the result.

    Writes vggish_demo.npz and vggish_demo.png and, without FILE, the recording as vggish_demo.wav.
    """
    load_tensorflow()
    from vggish_keras import embedding_files
    from vggish_keras._atomic import atomic_write
    from vggish_keras.plot import plot_recording

    if file is None:
        import soundfile

        file = output / "vggish_demo.wav"
        with atomic_write(file) as partial:
            soundfile.write(partial, demo_recording.synthesize(), demo_recording.SAMPLE_RATE, format="WAV")
    embedder, note = _open_embedder(weights)
    embeddings = embedder.embed(file)
    print_embeddings(str(file), embeddings)
    embedding_files.write(output / "vggish_demo.npz", [(str(file), embeddings)], embedder.options)
    click.echo(f"wrote {output / 'vggish_demo.npz'}")
    try:
        plot_recording(output / "vggish_demo.png", file, embeddings, f"VGGish embeddings of {file.name}", note)
        click.echo(f"wrote {output / 'vggish_demo.png'}")
    except ImportError as error:
        click.echo(f"no plot: {error}")
    if note:
        click.secho(f"NOTE: {note}", fg="yellow", bold=True)


def _open_embedder(weights: str) -> "tuple[Embedder, str]":
    """Returns an embedder and a note about its weights, which is empty unless they are random."""
    from vggish_keras import params
    from vggish_keras.embedder import Embedder

    try:
        return Embedder(weights), ""
    except FileNotFoundError:
        if weights != params.AUDIOSET:
            raise
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    return Embedder(weights=None), _UNTRAINED

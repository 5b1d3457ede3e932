"""The command `export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vggish_keras import params
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.options import hop_option, weights_option

if TYPE_CHECKING:
    from vggish_keras.framing import Padding


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
@weights_option
@hop_option
@click.option(
    "--padding",
    type=click.Choice(["valid", "same"]),
    default="valid",
    show_default=True,
    help='"valid" uses whole examples only; "same" pads the end so that every sample is covered.',
)
@click.option(
    "--postprocess",
    help='"audioset" (published) or an .npz file of PCA parameters; adds the 8-bit output "quantized".',
)
@click.option("--overwrite", is_flag=True, help="Replace an existing OUTPUT.")
def export(
    output: Path,
    weights: str,
    hop_seconds: float | None,
    padding: "Padding",
    postprocess: str | None,
    overwrite: bool,
) -> None:
    """Write a SavedModel to the folder OUTPUT, for TensorFlow Hub, TF Serving and plain TensorFlow.

    TF Serving expects a version number as the last part of OUTPUT, as in vggish/1.
    """
    load_tensorflow()
    from vggish_keras.exporting import export_saved_model
    from vggish_keras.model import VGGish

    model = VGGish(
        weights, hop_seconds=params.EXAMPLE_HOP_SECONDS if hop_seconds is None else hop_seconds, padding=padding
    )
    click.echo(export_saved_model(model, output, postprocess, overwrite))

"""The command `export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vggish_keras import saved_model_options
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.options import hop_option, weights_option

if TYPE_CHECKING:
    from vggish_keras.framing import Padding


@click.command(short_help="Export a SavedModel.")
@click.argument("output", type=click.Path(path_type=Path))
@weights_option
@hop_option
@click.option(
    "--padding",
    type=click.Choice(["valid", "same"]),
    help='"valid" uses whole examples only; "same" pads the end so that every sample is covered.  '
    "[default: valid, or as exported]",
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
    padding: "Padding | None",
    postprocess: str | None,
    overwrite: bool,
) -> None:
    """Write a SavedModel to the folder OUTPUT, for TensorFlow Hub, TF Serving and plain TensorFlow.

    TF Serving expects a version number as the last part of OUTPUT, as in vggish/1.
    """
    load_tensorflow()
    from vggish_keras.exporting import export_saved_model
    from vggish_keras.model import VGGish

    options = saved_model_options.resolve_options(weights, hop_seconds, padding, default_padding="valid")
    model = VGGish(weights, **options._asdict())
    click.echo(export_saved_model(model, output, postprocess, overwrite))

"""The command `export`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vggish_keras import saved_model_options
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras.cli.options import (
    check_pca,
    hop_option,
    padding_option,
    pca_option,
    postprocess_option,
    weights_option,
)

if TYPE_CHECKING:
    from vggish_keras._validation import Postprocessing
    from vggish_keras.framing import Padding


@click.command(short_help="Export a SavedModel.")
@click.argument("output", type=click.Path(path_type=Path))
@weights_option
@hop_option
@padding_option
@postprocess_option
@pca_option
@click.option("--overwrite", is_flag=True, help="Replace an existing OUTPUT.")
def export(
    output: Path,
    weights: str,
    hop_seconds: float | None,
    padding: "Padding | None",
    postprocess: "Postprocessing | None",
    pca_params: str,
    overwrite: bool,
) -> None:
    """Write a SavedModel to the folder OUTPUT, for TensorFlow Hub, TF Serving and plain TensorFlow.

    TF Serving expects a version number as the last part of OUTPUT, as in vggish/1.
    """
    check_pca(pca_params, postprocess)
    load_tensorflow()
    from vggish_keras.exporting import export_saved_model
    from vggish_keras.model import VGGish

    options = saved_model_options.resolve_options(weights, hop_seconds, padding)
    model = VGGish(weights, **options._asdict())
    click.echo(export_saved_model(model, output, postprocess, overwrite, pca_params=pca_params))

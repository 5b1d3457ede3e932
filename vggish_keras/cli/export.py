"""The command `export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from vggish_keras import exported_options
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras._validation import file_suffix
from vggish_keras.cli.options import (
    OutputPath,
    check_pca,
    hop_option,
    padding_option,
    pca_option,
    trainable_weights_option,
)

if TYPE_CHECKING:
    from vggish_keras._validation import Postprocessing
    from vggish_keras.framing import Padding


@click.command(short_help="Export a SavedModel, or an ONNX or LiteRT file.")
@click.argument("output", type=OutputPath())
@trainable_weights_option
@hop_option
@padding_option
@click.option(
    "--postprocess",
    type=click.Choice(["pca", "quantized"]),
    help='Add the output "pca" (PCA and whitening) or "quantized" (also quantized to 8 bits) beside "embedding".',
)
@pca_option
@click.option("--quantize", type=click.Choice(["int8"]), help="Store the weights of a .tflite file in 8 bits.")
@click.option("--overwrite", is_flag=True, help="Replace an existing OUTPUT.")
def export(
    output: Path,
    weights: str,
    hop_seconds: float | None,
    padding: "Padding | None",
    postprocess: "Postprocessing | None",
    pca_params: str,
    quantize: "Literal['int8'] | None",
    overwrite: bool,
) -> None:
    """Write the model to OUTPUT, in the format of its suffix.

    .onnx is a file for ONNX Runtime and OpenVINO, .tflite a file for LiteRT. Any other OUTPUT is the folder of a
    SavedModel, for TensorFlow Hub, TF Serving and plain TensorFlow; TF Serving expects a version number as its last
    part, as in vggish/1.
    """
    check_pca(pca_params, postprocess)
    if quantize and file_suffix(output) != ".tflite":
        raise click.UsageError(f"--quantize requires a .tflite file, got {output}")
    load_tensorflow()
    from vggish_keras import exporting
    from vggish_keras.model import VGGish

    options = exported_options.resolve_options(weights, hop_seconds, padding)
    model = VGGish(weights, **options._asdict())
    arguments: dict[str, Any] = {"postprocess": postprocess, "overwrite": overwrite, "pca_params": pca_params}
    if file_suffix(output) == ".onnx":
        click.echo(exporting.export_onnx(model, output, **arguments))
    elif file_suffix(output) == ".tflite":
        click.echo(exporting.export_litert(model, output, quantize, **arguments))
    else:
        click.echo(exporting.export_saved_model(model, output, **arguments))

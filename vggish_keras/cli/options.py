"""Options shared by several commands."""

import glob
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from vggish_keras import params
from vggish_keras._tensorflow import load_tensorflow
from vggish_keras._validation import file_suffix

if TYPE_CHECKING:
    from vggish_keras.embedder import Embedder

Command = TypeVar("Command", bound=Callable[..., Any])


class OutputPath(click.Path):
    """A path to write, which must not be the - that stands for standard output elsewhere."""

    def __init__(self, path_type: type[str] | type[Path] = Path, **options: Any) -> None:
        super().__init__(path_type=path_type, **options)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value == "-":
            self.fail("this command cannot write to standard output; for a file named -, use ./-", parameter, context)
        return super().convert(value, parameter, context)


def check_not_input(output: str | Path | None, *inputs: str | Path) -> None:
    """Raises a usage error for an output file that is also an input."""
    if output in (None, "-"):
        return
    path = str(output)
    for name in inputs:
        exist = os.path.exists(path) and os.path.exists(name)  # the name of a V2 checkpoint is no file
        if os.path.samefile(path, name) if exist else os.path.abspath(path) == os.path.abspath(name):
            raise click.UsageError(f"{output} is an input: choose a different output")


def check_csv_output(output: str | None) -> None:
    """Raises a usage error unless an output is None, standard output, or a .csv file in an existing folder."""
    if output in (None, "-"):
        return
    path = Path(str(output))
    if file_suffix(path) != ".csv" or path.is_dir() or not path.parent.is_dir():
        raise click.UsageError(f"expected a .csv file in an existing folder, or - for standard output, got {output}")


class PublishedOrPath(click.Path):
    """A path or the word "audioset", which shells complete as well."""

    def shell_complete(
        self, context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        if not params.AUDIOSET.startswith(incomplete):
            return super().shell_complete(context, parameter, incomplete)
        # Shells that receive a word do not look for files.
        return [CompletionItem(name) for name in (params.AUDIOSET, *sorted(glob.glob(f"{glob.escape(incomplete)}*")))]


def _weights_option(exported: str) -> Callable[[Command], Command]:
    return click.option(
        "--weights",
        type=PublishedOrPath(),
        default="audioset",
        show_default=True,
        help='"audioset" (the published weights), or the path of a TF-Slim checkpoint, a Keras model or weights file, '
        f"an exported SavedModel, or an exported {exported} file.",
    )


weights_option = _weights_option(".onnx or .tflite")
trainable_weights_option = _weights_option(".onnx")
"""For commands that build the Keras model."""


def _check_hop(_context: click.Context, _parameter: click.Parameter, hop: float | None) -> float | None:
    from vggish_keras.framing import hop_to_frames

    try:
        if hop is not None:
            hop_to_frames(hop)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return hop


hop_option = click.option(
    "--hop",
    "hop_seconds",
    type=float,
    callback=_check_hop,
    help="Seconds between the starts of consecutive examples, a multiple of 0.01.  [default: 0.96, or as exported]",
)
padding_option = click.option(
    "--padding",
    type=click.Choice(["short", "valid", "same"]),
    help='"short" uses whole examples, and pads a recording shorter than one (0.975 s) to one; "valid" uses whole '
    'examples only; "same" pads the end so that every sample is covered.  [default: short, or as exported]',
)
postprocess_option = click.option(
    "--postprocess",
    type=click.Choice(["pca", "quantized"]),
    help='"pca" applies PCA and whitening; "quantized" also quantizes to 8 bits.',
)


def _check_pca(_context: click.Context, _parameter: click.Parameter, pca: str) -> str:
    from vggish_keras import params

    if pca != params.AUDIOSET and not os.path.isfile(pca):
        raise click.BadParameter(f"no file at {pca}")
    return pca


pca_option = click.option(
    "--pca",
    "pca_params",
    type=PublishedOrPath(),
    default="audioset",
    show_default=True,
    callback=_check_pca,
    help='Parameters of the PCA post-processing: "audioset" (the published ones), or an .npz file.',
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Data type in which the network computes; it does not change the type of the embeddings.",
)


def check_pca(pca_params: str, postprocess: str | None) -> None:
    """Raises a usage error for PCA parameters that nothing would use."""
    if pca_params != "audioset" and postprocess is None:
        raise click.UsageError("--pca requires --postprocess")


def _parse_channels(_context: click.Context, _parameter: click.Parameter, channels: str) -> str | int:
    if channels != "mix" and not channels.isdecimal():
        raise click.BadParameter(f'expected "mix" or the index of a channel, got {channels!r}')
    return channels if channels == "mix" else int(channels)


channels_option = click.option(
    "--channels",
    metavar="mix|INDEX",
    default="mix",
    show_default=True,
    callback=_parse_channels,
    help='"mix" for the mean of all channels, or the index of a single channel, starting at 0.',
)
batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Number of examples that the network processes at a time.",
)


def embedder_options(command: Command) -> Command:
    """Adds the options of `Embedder`, other than `postprocess`, under the names of its arguments."""
    for option in (
        batch_size_option,
        channels_option,
        dtype_option,
        pca_option,
        padding_option,
        hop_option,
        weights_option,
    ):
        command = option(command)
    return command


def open_embedder(**options: Any) -> "Embedder":
    """Opens an `Embedder` with these options; without TensorFlow if the weights do not need it."""
    from vggish_keras.exported_options import needs_tensorflow

    if needs_tensorflow(options["weights"]):
        load_tensorflow(options.get("dtype", "float32"))
    from vggish_keras.embedder import Embedder

    return Embedder(**options)

"""Options shared by several commands."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

weights_option = click.option(
    "--weights",
    default="audioset",
    show_default=True,
    help='"audioset" (the published weights), or the path of a TF-Slim checkpoint, a Keras model or weights file or an '
    "exported SavedModel.",
)


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
    type=click.Choice(["same", "valid"]),
    help='"same" pads the end so that every sample is covered; "valid" uses whole examples only.  '
    "[default: same, or as exported]",
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Data type in which the network computes; it does not change the type of the embeddings.",
)


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
    default=32,
    show_default=True,
    help="Number of examples that the network processes at a time.",
)


def embedder_options(command: Command) -> Command:
    """Adds the options of `Embedder`, other than `postprocess`, under the names of its arguments."""
    for option in (batch_size_option, channels_option, dtype_option, padding_option, hop_option, weights_option):
        command = option(command)
    return command

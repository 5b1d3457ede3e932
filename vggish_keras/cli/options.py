"""Options that several commands share."""

from typing import Any

import click

weights_option = click.option(
    "--weights",
    default="audioset",
    show_default=True,
    help="audioset (published), or the path of a TF-Slim checkpoint, a Keras weights file or an exported SavedModel.",
)


def _check_hop(_context: click.Context, _parameter: click.Parameter, hop: float) -> float:
    from vggish_keras.framing import hop_frames

    try:
        hop_frames(hop)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return hop


hop_option = click.option(
    "--hop", default=0.96, show_default=True, callback=_check_hop, help="Seconds from example to example."
)
padding_option = click.option("--padding", type=click.Choice(["same", "valid"]), default="same", show_default=True)
dtype_option = click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True
)


class _Channels(click.ParamType):
    name = "mix|INDEX"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if value != "mix" and not str(value).isdecimal():
            self.fail(f'expected "mix" or the index of a channel, got {value!r}', parameter, context)
        return value if value == "mix" else int(value)


channels_option = click.option(
    "--channels",
    type=_Channels(),
    default="mix",
    show_default=True,
    help="The mean of a recording's channels, or the channel of that index, from 0.",
)
batch_size_option = click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)

"""The command `vggish` and its error handling."""

import io
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import click

from vggish_keras import __version__
from vggish_keras.cli import beam, check, demo, embed, explore, export, fad, plot, predict, search, show, weights
from vggish_keras.cli.errors import describe_error
from vggish_keras.cli.log import verbose_option

_INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells."""


class _Commands(click.Group):
    """Reports errors on one line, and with --debug with their traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
            try:
                return super().invoke(ctx)
            except (click.exceptions.Exit, click.Abort, BrokenPipeError):
                raise
            except KeyboardInterrupt:
                sys.exit(_INTERRUPTED)
            except Exception as error:
                if ctx.params["debug"]:
                    click.echo(traceback.format_exc(), err=True, nl=False)
                    sys.exit(1)
                if isinstance(error, click.ClickException):
                    raise
                raise click.ClickException(describe_error(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vggish")
@click.option("--debug", is_flag=True, help="Show the traceback of any error.")
def main(debug: bool) -> None:
    """Compute VGGish audio embeddings of recordings."""


for _command in (
    demo.demo,
    check.check,
    embed.embed,
    predict.predict,
    show.show,
    export.export,
    weights.weights,
    plot.plot,
    fad.fad,
    search.search,
    explore.explore,
    beam.beam,
):
    main.add_command(_command)


def _all_commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for subcommand in getattr(command, "commands", {}).values():
        yield from _all_commands(subcommand)


for _command in _all_commands(main):
    _command.params.append(verbose_option)


def run() -> None:
    """Runs the command and exits."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be valid text
    try:
        main()
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would interrupt the exit
        raise

"""The command `vggish`: what its subcommands have in common."""

import signal
import sys
import warnings
from typing import Any

import click

from vggish_keras import __version__
from vggish_keras._errors import error_message
from vggish_keras.cli import beam, check, demo, embed, export, plot, weights

_INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


class _Commands(click.Group):
    """Tells what went wrong in one line, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(f"Warning: {message}", err=True)
            try:
                return super().invoke(ctx)
            except BrokenPipeError:
                raise
            except KeyboardInterrupt:
                sys.exit(_INTERRUPTED)
            except (ValueError, TypeError, OSError, ImportError) as error:
                raise click.ClickException(error_message(error)) from error


@click.group(cls=_Commands)
@click.version_option(__version__, prog_name="vggish")
def main() -> None:
    """VGGish audio embeddings of recordings."""


for _command in (demo.demo, check.check, embed.embed, export.export, weights.weights, plot.plot, beam.beam):
    main.add_command(_command)


def run() -> None:
    """Runs the command and ends the process."""
    try:
        main()
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would interrupt the exit
        raise

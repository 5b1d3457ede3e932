"""The option `--verbose`: the package's log on standard error."""

import contextlib
import logging
from collections.abc import Iterator

import click

_LEVELS = {1: logging.INFO, 2: logging.DEBUG}


class _StandardError(logging.Handler):
    """Prints records like other messages, so that they appear above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"{record.levelname.capitalize()}: {record.getMessage()}", err=True)


@contextlib.contextmanager
def _show_log(level: int) -> Iterator[None]:
    logger = logging.getLogger("vggish_keras")
    handlers, old_level = logger.handlers, logger.level
    # Replaces that of an option before the command.
    logger.handlers = [_StandardError()]
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(old_level)


def _set_verbosity(context: click.Context, _parameter: click.Parameter, verbosity: int) -> None:
    if verbosity:
        context.with_resource(_show_log(_LEVELS[min(verbosity, 2)]))


verbose_option = click.Option(
    ["-v", "--verbose"],
    count=True,
    expose_value=False,
    callback=_set_verbosity,
    help="Show what the command does on standard error; -vv shows more.",
)

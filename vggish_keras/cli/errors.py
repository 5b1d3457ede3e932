"""Error messages of the command line."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from vggish_keras._errors import error_message

_EXPECTED = (ValueError, OSError, ImportError, MemoryError)
"""Raised for invalid inputs, full disks or memory, and missing packages; anything else is a bug."""
_BUG = "this is a bug in vggish"


def describe_error(error: Exception, recording: Path | None = None) -> str:
    """The message of an error on one line; for an unexpected error, with its type and how to report it.

    Args:
        error: The error.
        recording: The recording that it concerns, if it was caught for this recording only, without its traceback.
    """
    if isinstance(error, _EXPECTED):
        return error_message(error)
    described = " ".join(traceback.format_exception_only(error)[0].split())
    if recording is not None:
        return f"{recording}: {described} ({_BUG}: report it with the recording to the project's issue tracker)"
    advice = "rerun it as `vggish --debug COMMAND` and report the traceback to the project's issue tracker"
    return f"{described} ({_BUG}: {advice})"


def exit_if_missing(paths: Sequence[Path]) -> None:
    """Reports recordings that do not exist and exits, if there are any."""
    for path in paths:
        click.echo(f"Error: no audio file at {path}", err=True)
    if paths:
        sys.exit(1)

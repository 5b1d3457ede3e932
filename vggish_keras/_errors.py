"""Messages: errors on one line, warnings at the caller's line, and numbers with nouns."""

import itertools
import os
import sys
import traceback
import warnings


def error_message(error: BaseException) -> str:
    """The error's message on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def warn_caller(message: str) -> None:
    """Warns at the line that called this package."""
    package, stack = os.path.join(os.path.dirname(__file__), ""), traceback.walk_stack(sys._getframe())
    own = itertools.takewhile(lambda frame: frame[0].f_code.co_filename.startswith(package), stack)
    warnings.warn(message, stacklevel=1 + sum(1 for _ in own))


def counted(number: int, noun: str) -> str:
    """A number and its noun, as in "1 file" and "2 files"."""
    return f"{number} {noun}{'s' * (number != 1)}"

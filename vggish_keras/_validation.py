"""Checks and types that arguments share."""

import os
from typing import Any, TypeAlias

PathLike: TypeAlias = str | os.PathLike[str]


def check_choice(argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises ValueError unless the value of an argument is one of its choices."""
    if value not in choices:
        raise ValueError(f"{argument} must be one of {choices}, got {value!r}")

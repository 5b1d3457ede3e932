"""Checks and types that arguments share."""

import os
from typing import Any, Literal, TypeAlias, get_args

PathLike: TypeAlias = str | os.PathLike[str]
Postprocessing = Literal["pca", "quantized"]
POSTPROCESSINGS: tuple[Postprocessing | None, ...] = (None, *get_args(Postprocessing))


def check_choice(argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises a ValueError unless the value of an argument is one of its choices."""
    if value not in choices:
        raise ValueError(f"{argument} must be one of {choices}, got {value!r}")

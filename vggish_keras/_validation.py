"""Checks and types that arguments share."""

import numbers
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from vggish_keras import params

PathLike: TypeAlias = str | os.PathLike[str]
Postprocessing = Literal["pca", "quantized"]
POSTPROCESSINGS: tuple[Postprocessing | None, ...] = (None, *get_args(Postprocessing))
PcaParams: TypeAlias = PathLike | Mapping[str, Any] | Sequence[Any]


def check_choice(argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises a ValueError unless the value of an argument is one of its choices."""
    if value not in choices:
        raise ValueError(f"{argument} must be one of {choices}, got {value!r}")


def check_batch_size(batch_size: Any) -> int:
    """Returns `batch_size` as an int; raises a ValueError unless it is a positive whole number."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive whole number, got {batch_size!r}")
    return int(batch_size)


def check_several(argument: str, paths: Any) -> None:
    """Raises a TypeError for a single path in place of a sequence, because its characters would be the paths."""
    if isinstance(paths, (str, bytes, os.PathLike)):
        raise TypeError(f"{argument} must be a sequence of paths, got the single path {os.fsdecode(paths)}")


def is_published(pca_params: Any) -> bool:
    """Returns whether PCA parameters are the published ones."""
    return isinstance(pca_params, str) and pca_params == params.AUDIOSET


def check_postprocess(postprocess: Postprocessing | None, pca_params: PcaParams) -> None:
    """Raises a ValueError for an unknown post-processing, or for PCA parameters that it would not use."""
    check_choice("postprocess", postprocess, POSTPROCESSINGS)
    if postprocess is None and not is_published(pca_params):
        raise ValueError('pca_params requires postprocess="pca" or "quantized"')


def file_suffix(path: PathLike) -> str:
    """The suffix that names a file's format, in lower case: ".npz" for X.NPZ."""
    return Path(path).suffix.lower()

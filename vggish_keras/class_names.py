"""The names of a classifier's classes: in a text file, one per line."""

from collections.abc import Sequence
from pathlib import Path

from vggish_keras._validation import PathLike

CLASS_NAMES = Path("assets") / "class_names.txt"
"""Path in a SavedModel written by `export_saved_model`."""


def read_class_names(path: PathLike) -> tuple[str, ...]:
    """Reads the names; raises a ValueError if the file is not a text in UTF-8."""
    try:
        return tuple(Path(path).read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8, expected one class name per line") from error


def check_class_names(names: Sequence[str], count: int) -> None:
    """Raises a ValueError unless the names are distinct lines of text, `count` of them."""
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"expected {count} distinct class names, one per score of the model, got {list(names)}")
    for name in names:
        if not isinstance(name, str) or name.splitlines() != [name]:
            raise ValueError(f"a class name must be a single line of text, got {name!r}")

"""The options that an exported SavedModel carries, in a file that is read without TensorFlow."""

import json
import os
from pathlib import Path
from typing import NamedTuple, cast

from vggish_keras import __version__, params
from vggish_keras._validation import PathLike, check_choice
from vggish_keras.framing import PADDINGS, Padding, hop_to_frames

__all__ = ["SavedModelOptions", "read_options"]

OPTIONS_FILE = Path("assets.extra") / "vggish.json"
"""Path in the SavedModel; TensorFlow copies and ignores `assets.extra`."""


class SavedModelOptions(NamedTuple):
    """How an exported SavedModel cuts a recording into examples.

    Attributes:
        hop_seconds: Seconds from the start of an example to the start of the next.
        padding: "valid" or "same", as in `VGGish`.

    Example:
        >>> from vggish_keras.saved_model_options import SavedModelOptions
        >>> SavedModelOptions(hop_seconds=0.48, padding="same").hop_seconds
        0.48
    """

    hop_seconds: float
    padding: Padding


def is_saved_model(path: PathLike) -> bool:
    """Returns whether a path is the folder of a SavedModel."""
    return Path(path, "saved_model.pb").is_file()


def resolve_options(
    weights: object,
    hop_seconds: float | None = None,
    padding: Padding | None = None,
    default_padding: Padding = "same",
) -> SavedModelOptions:
    """Returns the given options; where they are None, those of the SavedModel at `weights`, or else the defaults."""
    own = read_options(weights) if isinstance(weights, (str, os.PathLike)) else None
    own = own or SavedModelOptions(params.EXAMPLE_HOP_SECONDS, default_padding)
    return SavedModelOptions(
        own.hop_seconds if hop_seconds is None else hop_seconds, own.padding if padding is None else padding
    )


def read_options(path: PathLike) -> SavedModelOptions | None:
    """Reads the options of a SavedModel.

    Args:
        path: The SavedModel's folder.

    Returns:
        Its options; None if it has none, like SavedModels of other programs or of earlier versions.

    Raises:
        ValueError: The file with the options is damaged.
        OSError: The file cannot be read.

    Example:
        >>> from vggish_keras.saved_model_options import read_options
        >>> path = vk.export_saved_model(model, "vggish/1")
        >>> read_options(path)
        SavedModelOptions(hop_seconds=0.96, padding='valid')
    """
    file = Path(path) / OPTIONS_FILE
    if not file.exists():
        return None
    try:
        options = json.loads(file.read_bytes())
        hop_seconds, padding = options["hop_seconds"], options["padding"]
        hop_to_frames(hop_seconds)
        check_choice("padding", padding, PADDINGS)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file} does not hold the options of a SavedModel: {_describe(error)}") from error
    return SavedModelOptions(float(hop_seconds), cast(Padding, padding))


def _describe(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def write_options(path: PathLike, options: SavedModelOptions) -> None:
    """Writes the options, and this package's version, into the folder of a SavedModel."""
    file = Path(path) / OPTIONS_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**options._asdict(), "version": __version__}) + "\n", encoding="utf-8")

"""The options that an exported model carries, read without TensorFlow."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from vggish_keras import __version__, _litert_file, params
from vggish_keras._onnx_file import read_metadata
from vggish_keras._validation import PathLike, check_choice, file_suffix
from vggish_keras.framing import PADDINGS, Padding, hop_to_frames

__all__ = ["ExportedOptions", "read_options"]

OPTIONS_FILE = Path("assets.extra") / "vggish.json"
"""Path in the SavedModel; TensorFlow copies and ignores `assets.extra`."""
ONNX_METADATA = "vggish"
"""Key of the options in the metadata of an ONNX file."""
_ONNX_SUFFIX = ".onnx"
_LITERT_SUFFIX = ".tflite"
_ONNX_TYPES = {"outputs": dict}
_LITERT_TYPES = {"outputs": dict, "dtype": str, "model_bytes": int, "model_checksum": str}


class ExportedOptions(NamedTuple):
    """How an exported model cuts a recording into examples.

    Attributes:
        hop_seconds: Seconds from the start of an example to the start of the next.
        padding: "short", "valid" or "same", as in `VGGish`.

    Examples:
        >>> from vggish_keras.exported_options import ExportedOptions
        >>> ExportedOptions(hop_seconds=0.48, padding="same").hop_seconds
        0.48
    """

    hop_seconds: float
    padding: Padding


def is_saved_model(path: PathLike) -> bool:
    """Returns whether a path is the folder of a SavedModel."""
    return Path(path, "saved_model.pb").is_file()


def is_onnx(weights: object) -> bool:
    """Returns whether weights are the path of an ONNX file."""
    return isinstance(weights, (str, os.PathLike)) and file_suffix(weights) == _ONNX_SUFFIX


def is_litert(weights: object) -> bool:
    """Returns whether weights are the path of a LiteRT file."""
    return isinstance(weights, (str, os.PathLike)) and file_suffix(weights) == _LITERT_SUFFIX


def needs_tensorflow(weights: object) -> bool:
    """Returns whether weights run in TensorFlow."""
    return not is_onnx(weights) and not is_litert(weights)


def resolve_options(
    weights: object, hop_seconds: float | None = None, padding: Padding | None = None
) -> ExportedOptions:
    """Returns the given options; where they are None, those of an exported model, or else the defaults."""
    own = read_options(weights) if isinstance(weights, (str, os.PathLike)) else None
    own = own or ExportedOptions(params.EXAMPLE_HOP_SECONDS, "short")
    return ExportedOptions(
        own.hop_seconds if hop_seconds is None else hop_seconds, own.padding if padding is None else padding
    )


def read_options(path: PathLike) -> ExportedOptions | None:
    """Reads the options of an exported model.

    Args:
        path: A SavedModel's folder, or an ONNX or LiteRT file.

    Returns:
        Its options; None if it has none, like SavedModels of other programs or of earlier versions.

    Raises:
        ValueError: The options are damaged, or an ONNX or LiteRT file has none.
        FileNotFoundError: The ONNX or LiteRT file does not exist.
        OSError: The file cannot be read.

    Examples:
        >>> from vggish_keras.exported_options import read_options
        >>> path = vk.export_saved_model(model, "vggish/1")
        >>> read_options(path)
        ExportedOptions(hop_seconds=0.96, padding='short')
    """
    path = Path(path)
    if is_onnx(path) or is_litert(path):
        return _parse(path, read_description(path))
    file = path / OPTIONS_FILE
    return _parse(file, _load(file, file.read_bytes())) if file.exists() else None


def read_description(path: PathLike) -> dict[str, Any]:
    """Returns what the export wrote into the metadata of an ONNX or LiteRT file; raises as `read_options`."""
    path = Path(path)
    if is_litert(path):
        return _check_types(path, _load(path, _litert_file.read_metadata(path)), _LITERT_TYPES)
    metadata = read_metadata(path)
    if ONNX_METADATA not in metadata:
        raise ValueError(f"{path} was not written by export_onnx, as expected of an .onnx file")
    return _check_types(path, _load(path, metadata[ONNX_METADATA]), _ONNX_TYPES)


def _check_types(file: Path, description: Any, types: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(description, dict) or not all(isinstance(description.get(name), types[name]) for name in types):
        raise ValueError(f"{file} does not hold the options of an exported model: expected {', '.join(types)}")
    return description


def _load(file: Path, text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, error) from error


def _parse(file: Path, options: Any) -> ExportedOptions:
    try:
        hop_seconds, padding = options["hop_seconds"], options["padding"]
        hop_to_frames(hop_seconds)
        check_choice("padding", padding, PADDINGS)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise _damaged(file, error) from error
    return ExportedOptions(float(hop_seconds), cast(Padding, padding))


def _damaged(file: Path, error: Exception) -> ValueError:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return ValueError(f"{file} does not hold the options of an exported model: {reason}")


def format_options(options: ExportedOptions, **more: Any) -> str:
    """Returns the options, this package's version and more values as JSON, as exported models hold them."""
    return json.dumps({**options._asdict(), "version": __version__, **more})


def write_options(path: PathLike, options: ExportedOptions) -> None:
    """Writes the options into the folder of a SavedModel."""
    file = Path(path) / OPTIONS_FILE
    file.parent.mkdir(exist_ok=True)
    file.write_text(format_options(options) + "\n", encoding="utf-8")

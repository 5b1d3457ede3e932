"""Write, read and run LiteRT files: a model, to which a ZIP archive of metadata is appended.

Interpreters ignore the archive. Labels travel with models of other tools in the same way, and any program that opens
ZIP archives reads them. The metadata is JSON. It includes the checksum of the model, because the interpreter may crash
on a damaged one.
"""

import json
import mmap
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vggish_keras._hashing import checksum
from vggish_keras._stderr import silent_stderr

METADATA = "vggish.json"
"""The file in the archive."""
_IDENTIFIER = b"TFL3"
_IDENTIFIER_START = 4
_MAX_METADATA_BYTES = 10_000_000


def write_model(path: Path, model: bytes, metadata: Mapping[str, Any]) -> None:
    """Writes a model, its metadata and its checksum."""
    text = json.dumps({**metadata, "model_bytes": len(model), "model_checksum": checksum([model])}, indent=1)
    with path.open("wb") as file:
        file.write(model)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo(METADATA), text)


def read_metadata(path: Path) -> str:
    """Reads the metadata, as JSON.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: Not a file that `write_model` wrote, or an incomplete one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no LiteRT model at {path}")
    with path.open("rb") as file:
        start = file.read(_IDENTIFIER_START + len(_IDENTIFIER))
        if start[_IDENTIFIER_START:] != _IDENTIFIER:
            raise ValueError(f"{path} is not a LiteRT model")
        try:
            with zipfile.ZipFile(file) as archive:
                if archive.getinfo(METADATA).file_size > _MAX_METADATA_BYTES:
                    raise ValueError(f"{METADATA} is too large")
                return archive.read(METADATA).decode()
        except Exception as error:  # zipfile raises arbitrary exceptions for malformed files
            raise ValueError(f"{path} was not written by export_litert, or is damaged or incomplete") from error


def check_model(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raises a ValueError unless the model of a file is as it was written."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content)[: metadata["model_bytes"]] as model,
    ):
        found = checksum([model])
    if found != metadata["model_checksum"]:
        raise ValueError(f"{path} is damaged: its model does not have the checksum it was written with")


def open_model(path: Path) -> Any:
    """Opens a model with an interpreter that uses all cores.

    Returns:
        The model's signature as a function of `waveform`, an array of any batch size: its outputs by name.

    Raises:
        ImportError: ai-edge-litert is not installed.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(f'{path} requires ai-edge-litert: pip install "vggish[litert]"') from error
    with silent_stderr():  # it reports how it will compute
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        interpreter = Interpreter(os.fspath(path), num_threads=threads)
        interpreter.allocate_tensors()
    return interpreter.get_signature_runner()

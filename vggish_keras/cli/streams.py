"""Standard input and standard output, as the input and the output of `embed`."""

import contextlib
import functools
import json
import math
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import click

from vggish_keras import embedding_files
from vggish_keras._errors import error_message
from vggish_keras.recordings import read_list

if TYPE_CHECKING:
    from vggish_keras.embedder import Embedder
    from vggish_keras.embeddings import Embeddings

DASH = "-"
"""Stands for standard input or standard output."""
_CONTROL_CHARACTERS = re.compile(r"[\x01-\x08\x0e-\x1f]")


def _binary(stream: TextIO | None, name: str) -> BinaryIO:
    if stream is None:
        raise click.ClickException(f"{name} is closed")
    return stream.buffer


# === Input ===


def standard_input() -> BinaryIO:
    return _binary(sys.stdin, "standard input")


def read_paths(file: BinaryIO) -> list[str]:
    """Reads a list of paths; raises a usage error for binary data, such as a recording."""
    names = read_list(file)
    if any(map(_CONTROL_CHARACTERS.search, names)) and not any(map(_exists, names)):
        raise click.UsageError(
            "expected a list of paths, got binary data: for a recording, add --format, as in - --format wav"
        )
    return names


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # the name is too long
        return False


def copy_standard_input(file: Path) -> None:
    """Copies the bytes of a recording to a file."""
    with file.open("wb") as copy:
        shutil.copyfileobj(standard_input(), copy)
    if not file.stat().st_size:
        raise click.ClickException("standard input is empty, expected the bytes of a recording")


class StandardInput:
    """Embeds the recording -, whose bytes are in a file.

    Args:
        embedder: The embedder.
        file: The file, which no message names.
    """

    def __init__(self, embedder: "Embedder", file: Path) -> None:
        self._embedder = embedder
        self._file = file

    @property
    def options(self) -> dict[str, Any]:
        return self._embedder.options

    def embed_many(
        self, paths: Iterable[Path], on_audio: Callable[[Path, float], object]
    ) -> Generator[tuple[Path, "Embeddings | Exception"], None, None]:
        show = warnings.showwarning
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *rest: show(self._rename(message), *rest)
            for path in paths:
                report = functools.partial(_report, on_audio, path)
                with contextlib.closing(self._embedder.embed_many([self._file], report)) as results:
                    for _, result in results:
                        expected = isinstance(result, (ValueError, OSError))
                        yield path, ValueError(self._rename(result)) if expected else result

    def _rename(self, message: Any) -> str:
        return error_message(message).replace(str(self._file), DASH)


def _report(on_audio: Callable[[Path, float], object], path: Path, _file: Path, seconds: float) -> None:
    on_audio(path, seconds)


# === Output ===


def standard_output() -> BinaryIO:
    return _binary(sys.stdout, "standard output")


class StandardOutput:
    """Writes embeddings to standard output, each recording as soon as it is embedded.

    Args:
        as_json: True writes JSON lines, an object per example; False the rows of a .csv file.
    """

    def __init__(self, as_json: bool) -> None:
        self._file = standard_output()
        self._as_json = as_json
        if not as_json:
            embedding_files.write_csv_rows(self._file, [])

    def add(self, name: str, embeddings: "Embeddings") -> None:
        if self._as_json:
            for line in _json_lines(name, embeddings):
                self._file.write(line)
        else:
            embedding_files.write_csv_rows(self._file, [(name, embeddings)], header=False)
        self._file.flush()


def _json_lines(name: str, embeddings: "Embeddings") -> Iterable[bytes]:
    for time, values in zip(*embeddings, strict=True):
        row = {"file": name, "time": float(time), "embedding": [_json_number(value) for value in values]}
        yield f"{json.dumps(row)}\n".encode()


def _json_number(value: Any) -> int | float | None:
    """A number that JSON can represent, with the fewest digits that are read back as the same float32."""
    if not math.isfinite(value):
        return None
    return int(value) if value.dtype.kind == "u" else float(str(value))

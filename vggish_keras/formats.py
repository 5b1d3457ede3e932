"""Embeddings written to files."""

import csv
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from vggish_keras.embedder import Embeddings

SUFFIXES = (".npz", ".csv")


def check_path(path: str | os.PathLike[str]) -> Path:
    """`path` as a Path, or a ValueError if its suffix is no format or its folder does not exist."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the format goes by the suffix, one of {', '.join(SUFFIXES)}: got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}")
    return path


def write(path: str | os.PathLike[str], recordings: Sequence[tuple[str, Embeddings]]) -> None:
    """Writes the embeddings of one or more recordings to one file, which appears when it is complete.

    `.npz` holds `times` [n] and `values` [n, 128] of all recordings, and `files` [n], each row's recording. `.csv` has
    the columns file, time and embedding_0 .. embedding_127.

    Args:
        path: The file, .npz or .csv. It is replaced if it exists.
        recordings: Names and embeddings, at least one.

    Raises:
        ValueError: Another suffix, or no such folder.
    """
    path = check_path(path)
    write_format = _write_npz if path.suffix == ".npz" else _write_csv
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        aside = Path(folder) / path.name
        with aside.open("wb") as file:
            write_format(file, recordings)
        aside.replace(path)


def _write_npz(file: IO[bytes], recordings: Sequence[tuple[str, Embeddings]]) -> None:
    np.savez(
        file,
        times=np.concatenate([embeddings.times for _, embeddings in recordings]),
        values=np.concatenate([embeddings.values for _, embeddings in recordings]),
        files=np.repeat([name for name, _ in recordings], [len(embeddings.times) for _, embeddings in recordings]),
    )


def _write_csv(file: IO[bytes], recordings: Sequence[tuple[str, Embeddings]]) -> None:
    # A file name need not be valid UTF-8.
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    rows = csv.writer(text)
    rows.writerow(["file", "time", *(f"embedding_{i}" for i in range(recordings[0][1].values.shape[1]))])
    for name, embeddings in recordings:
        for time, values in zip(embeddings.times, embeddings.values, strict=True):
            # The shortest digits that give the same float32 again.
            rows.writerow([name, f"{time:.2f}", *map(str, values)])
    text.detach()

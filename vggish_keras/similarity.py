"""Search saved embeddings for the recordings that are most similar to a sound."""

import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggish_keras import corpus, embedding_files, params
from vggish_keras._atomic import atomic_write
from vggish_keras._errors import error_message
from vggish_keras._hashing import checksum
from vggish_keras._validation import PathLike, file_suffix
from vggish_keras.embedding_files import Chunk
from vggish_keras.embeddings import Embeddings, check_kind, to_floats

_INDEX_SUFFIX = ".usearch"
_ROW_BITS = 2**32 - 1
_FILE_BITS = (2**31 - 1) << 32
"""The bits of a key that are the number of a row, and those that identify the file."""
_ROWS_PER_MATCH = 20
"""Rows that are looked up in an index for each recording, because a recording has several."""
_ROWS_PER_BLOCK = 32_768
"""Rows that are compared at a time: 16 MB."""


_BYTES_OF_ENDS = 2**16
"""The checksums at the end of .npz files, the statistics in Parquet's, or hundreds of numbers of .csv files."""


class Match(NamedTuple):
    """A recording that a search found.

    Attributes:
        recording: Its name.
        time: The start of its most similar example in seconds.
        similarity: The cosine of the angle between this example's embedding and the query, at most 1.

    Examples:
        >>> embeddings = vk.Embeddings(np.array([0.0, 0.96]), np.eye(2, 128, dtype=np.float32))
        >>> vk.search(np.eye(1, 128, k=1), [("a.wav", embeddings)])
        [Match(recording='a.wav', time=0.96, similarity=1.0)]
    """

    recording: str
    time: float
    similarity: float


def search(
    query: Embeddings | ArrayLike,
    embeddings: PathLike | Iterable[tuple[str, Embeddings]],
    n: int = 20,
    index: PathLike | None = None,
) -> list[Match]:
    """Finds the recordings with the examples that are most similar to a sound.

    Without an index, all embeddings are compared, in blocks. .csv and .parquet files and folders are searched in
    bounded memory; an .npz file is loaded.

    Args:
        query: The embeddings of the sound [m, 128], whose mean is compared.
        embeddings: A folder or file that `vggish embed` wrote, or pairs of a name and embeddings, of the same kind as
            the query: floats, or 8 bits.
        n: Number of recordings to return.
        index: A .usearch file for searches in more embeddings than can be compared in a moment, which is made when it
            does not exist. It needs usearch and a single file of embeddings, and may miss some recordings.

    Returns:
        The recordings, most similar first. Embeddings that are zero or not finite match nothing.

    Raises:
        FileNotFoundError: The folder or file does not exist.
        ValueError: The query is not a finite set of embeddings or its mean is zero, it is of a different kind, `n` is
            not positive, a file is damaged or contains no embeddings, or the index is not one of this file.
        ImportError: A .parquet file without pyarrow, or an index without usearch.

    Examples:
        >>> from vggish_keras import embedding_files
        >>> tone = vk.embed("recording.wav", weights=None)  # random weights, to be quick
        >>> noise = vk.embed(np.random.default_rng(0).uniform(-1, 1, 32_000), 16_000, weights=None)
        >>> embedding_files.write("corpus.npz", [("tone.wav", tone), ("noise.wav", noise)])
        >>> [match.recording for match in vk.search(noise, "corpus.npz")]
        ['noise.wav', 'tone.wav']
    """
    if n < 1:
        raise ValueError(f"n must be a positive number of recordings, got {n}")
    values = query.values if isinstance(query, Embeddings) else np.asarray(query)
    direction, is_quantized = _direction(values), values.dtype == np.uint8
    if index is not None:
        return _search_index(direction, is_quantized, embeddings, n, Path(index))
    best: dict[str, Match] = {}
    for chunk in _chunks(embeddings, is_quantized):
        for match in _best_of_chunk(chunk, direction, n):
            if match.recording not in best or match.similarity > best[match.recording].similarity:
                best[match.recording] = match
        best = {match.recording: match for match in _top(best.values(), n)}
    return list(best.values())


def _top(matches: Iterable[Match], n: int) -> list[Match]:
    return sorted(matches, key=lambda match: (-match.similarity, match.recording))[:n]


def _direction(query: NDArray[Any]) -> NDArray[np.float32]:
    if query.ndim != 2 or query.shape[1] != params.EMBEDDING_SIZE or len(query) == 0:
        raise ValueError(f"expected embeddings [n, {params.EMBEDDING_SIZE}] of a query, got {list(query.shape)}")
    mean = to_floats(query).mean(axis=0, dtype=np.float64)
    length = np.linalg.norm(mean)
    if not np.isfinite(length) or length == 0:
        raise ValueError("the mean of the query's embeddings must be finite and not zero")
    direction: NDArray[np.float32] = (mean / length).astype(np.float32)
    return direction


def _chunks(embeddings: PathLike | Iterable[tuple[str, Embeddings]], is_quantized: bool) -> Iterator[Chunk]:
    """Reads embeddings; raises a ValueError for those of the other kind."""
    if not isinstance(embeddings, (str, os.PathLike)):
        yield from _join(embeddings, is_quantized)
        return
    for file in corpus.saved_files(Path(embeddings)):
        for chunk in embedding_files.read_chunks(file):
            if len(chunk.names):
                check_kind(chunk.values.dtype, is_quantized, chunk.names[0])
                yield chunk


def _join(recordings: Iterable[tuple[str, Embeddings]], is_quantized: bool) -> Iterator[Chunk]:
    """Joins recordings, because a call of NumPy takes as long for one row as for a hundred."""
    parts: list[tuple[str, Embeddings]] = []
    rows = 0
    for recording in itertools.chain(recordings, [None]):
        if parts and (recording is None or rows >= _ROWS_PER_BLOCK):
            lengths = [len(embeddings) for _, embeddings in parts]
            times, values = (np.concatenate(arrays) for arrays in zip(*(part for _, part in parts), strict=True))
            yield Chunk(np.repeat([name for name, _ in parts], lengths).tolist(), times, values)
            parts, rows = [], 0
        if recording is not None:
            check_kind(recording[1].values.dtype, is_quantized, recording[0])
            if len(recording[1].times):
                parts.append(recording)
                rows += len(recording[1])


def _best_of_chunk(chunk: Chunk, direction: NDArray[np.float32], n: int) -> Iterator[Match]:
    """The best example of each of the `n` best recordings."""
    similarities = np.concatenate(
        [
            _similarities(chunk.values[start : start + _ROWS_PER_BLOCK], direction)
            for start in range(0, len(chunk.values), _ROWS_PER_BLOCK)
        ]
    )
    names = np.asarray(chunk.names)
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    highest = np.maximum.reduceat(similarities, starts)
    ends = np.append(starts[1:], len(names))
    found: set[str] = set()  # the rows of a recording need not follow each other
    for run in np.argsort(-highest, kind="stable"):
        name = str(chunk.names[starts[run]])
        if len(found) == n or highest[run] == -np.inf:
            return
        if name not in found:
            found.add(name)
            row = starts[run] + int(np.argmax(similarities[starts[run] : ends[run]]))
            yield Match(name, float(chunk.times[row]), min(float(highest[run]), 1.0))


def _similarities(values: NDArray[Any], direction: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cosine of each row; -inf for rows that are zero or not finite."""
    rows = to_floats(values)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        similarities: NDArray[np.float32] = (rows @ direction) / np.sqrt(np.einsum("ij,ij->i", rows, rows))
    similarities[~np.isfinite(similarities)] = -np.inf
    return similarities


# === Index ===


def _search_index(
    direction: NDArray[np.float32], is_quantized: bool, embeddings: Any, n: int, path: Path
) -> list[Match]:
    """Searches an index whose keys are the numbers of the rows of a file, with a part that identifies the file."""
    if not isinstance(embeddings, (str, os.PathLike)) or Path(embeddings).is_dir():
        raise ValueError(f"an index needs a single file of embeddings, got {embeddings}")
    if file_suffix(path) != _INDEX_SUFFIX:
        raise ValueError(f"expected a {_INDEX_SUFFIX} file, got {path}")
    rows = embedding_files.read_rows(embeddings)
    # Only .npz files, which are read as a whole, say what they contain.
    dtype = rows.dtype or next((chunk.values.dtype for chunk in embedding_files.read_chunks(embeddings)), None)
    if dtype is None:
        raise ValueError(f"{embeddings} contains no embeddings")
    check_kind(dtype, is_quantized, str(embeddings))
    index, file_key = _open_index(path, Path(embeddings)), _file_key(Path(embeddings))
    if not len(index):
        return []
    count, best = n * _ROWS_PER_MATCH, dict[str, Match]()
    while True:
        found = index.search(direction, min(count, len(index)))
        for key, distance in zip(found.keys.tolist(), found.distances.tolist(), strict=True):
            if key & _FILE_BITS != file_key:
                raise ValueError(f"{path} is not an index of {embeddings}: delete it, and the next search builds one")
            row = key & _ROW_BITS
            match = Match(str(rows.files[row]), float(rows.times[row]), min(1 - distance, 1.0))
            best.setdefault(match.recording, match)
        if len(best) >= n or count >= len(index):
            return _top(best.values(), n)
        count *= 4  # the rows found are those of few long recordings


def _open_index(path: Path, embeddings: Path) -> Any:
    try:
        from usearch.index import Index
    except ModuleNotFoundError as error:
        raise ImportError('an index requires usearch: pip install "vggish[index]"') from error
    if not path.exists():
        _make_index(Index(ndim=params.EMBEDDING_SIZE, metric="cos", dtype="f32"), path, embeddings)
    try:
        index = Index.restore(path, view=True)
    except Exception as error:  # usearch raises its own
        raise ValueError(f"{path} is not an index: {error_message(error)}") from error
    if index is None or index.ndim != params.EMBEDDING_SIZE:
        raise ValueError(f"{path} is not an index of embeddings")
    return index


def _file_key(embeddings: Path) -> int:
    """What identifies a file of embeddings in the keys of its index, from its size, start and end."""
    with embeddings.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        ends = []
        for start in (0, max(0, size - _BYTES_OF_ENDS)):
            file.seek(start)
            ends.append(file.read(_BYTES_OF_ENDS))
    return int(checksum([size.to_bytes(8), *ends])[-16:], 16) & _FILE_BITS


def _make_index(index: Any, path: Path, embeddings: Path) -> None:
    first_key = _file_key(embeddings)
    for chunk in embedding_files.read_chunks(embeddings):
        for start in range(0, len(chunk.values), _ROWS_PER_BLOCK):
            rows = to_floats(chunk.values[start : start + _ROWS_PER_BLOCK])
            matching = np.flatnonzero(np.isfinite(rows).all(axis=1) & rows.any(axis=1))
            # In several threads, usearch loses about a row in a thousand: searches for these do not find them.
            index.add(first_key + matching, rows[matching], threads=1)
            first_key += len(rows)
    with atomic_write(path) as partial:
        index.save(partial)

"""The points of a map: a vector for each recording, or for each example."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vggish_keras import params
from vggish_keras.embeddings import Embeddings, check_kind, to_floats


class Points(NamedTuple):
    """What a map shows.

    Attributes:
        names: The recording of each point.
        times: float64 [n]: the start of its first example in seconds.
        vectors: float32 [n, 128]: the mean embedding of the recording, or the embedding of the example.
    """

    names: list[str]
    times: NDArray[np.float64]
    vectors: NDArray[np.float32]


def collect_points(recordings: Iterable[tuple[str, Embeddings]], examples: bool) -> Points:
    """Collects the points of recordings with finite embeddings.

    Raises:
        ValueError: No recording has embeddings, one has embeddings that are not finite, or they are of different kinds.
    """
    names: list[str] = []
    times: list[NDArray[np.float64]] = []
    vectors: list[NDArray[np.float32]] = []
    kind = None
    for name, embeddings in recordings:
        if len(embeddings) == 0:
            continue
        kind = check_kind(embeddings.values.dtype, kind, name)
        rows = to_floats(embeddings.values)
        if rows.ndim != 2 or rows.shape[1] != params.EMBEDDING_SIZE:
            raise ValueError(f"{name}: expected embeddings [n, {params.EMBEDDING_SIZE}], got {list(rows.shape)}")
        if not np.isfinite(rows).all():
            raise ValueError(f"{name}: embeddings must be finite, got NaN or infinity")
        if examples:
            names += [name] * len(rows)
            times.append(np.asarray(embeddings.times, np.float64))
            vectors.append(rows)
        else:
            names.append(name)
            times.append(np.asarray(embeddings.times[:1], np.float64))
            vectors.append(rows.mean(axis=0, dtype=np.float64, keepdims=True).astype(np.float32))
    if not names:
        raise ValueError("no embeddings to explore")
    return Points(names, np.concatenate(times), np.concatenate(vectors))

"""The nearest points of each point by cosine, and what they say about the quality of a corpus."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEIGHBORS = 10
NEAR_DUPLICATE = 0.999
"""The cosine from which on two recordings count as near-duplicates."""
_VALUES_PER_BLOCK = 2**22
"""Cosines that are computed at a time: 16 MB."""
_MIN_POINTS = 30
"""Fewer points have no usual distance that an outlier could exceed."""
_MANY_SPREADS = 6.0


class Neighbors(NamedTuple):
    """The nearest points of each point.

    Attributes:
        indices: int64 [n, k], nearest first, without the point itself.
        similarities: float32 [n, k]: their cosines.
    """

    indices: NDArray[np.int64]
    similarities: NDArray[np.float32]


def nearest(vectors: NDArray[np.float32]) -> Neighbors:
    """Finds the nearest points exactly, in blocks. Zero vectors have the cosine 0 with all others."""
    n = len(vectors)
    k = min(NEIGHBORS, n - 1)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths == 0, 1, lengths)
    indices, similarities = np.zeros((n, k), np.int64), np.zeros((n, k), np.float32)
    block = max(1, _VALUES_PER_BLOCK // n)
    for start in range(0, n if k else 0, block):
        rows = slice(start, min(start + block, n))
        cosines = directions[rows] @ directions.T
        own = np.arange(rows.start, rows.stop)
        cosines[own - start, own] = -np.inf
        found = np.argpartition(cosines, n - k, axis=1)[:, n - k :]
        values = np.take_along_axis(cosines, found, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        indices[rows] = np.take_along_axis(found, order, axis=1)
        similarities[rows] = np.take_along_axis(values, order, axis=1)
    return Neighbors(indices, similarities.clip(-1, 1))


def near_duplicates(neighbors: Neighbors) -> list[tuple[int, int, float]]:
    """Pairs of points with a cosine above 0.999, most similar first, each once."""
    pairs = {}
    for point, rank in zip(*np.nonzero(neighbors.similarities > NEAR_DUPLICATE), strict=True):
        other = int(neighbors.indices[point, rank])
        pairs[min(int(point), other), max(int(point), other)] = float(neighbors.similarities[point, rank])
    return sorted(((a, b, cosine) for (a, b), cosine in pairs.items()), key=lambda pair: (-pair[2], pair[:2]))


def outliers(neighbors: Neighbors) -> list[int]:
    """Points whose distance to the tenth neighbor is far beyond that of the others, farthest first.

    The distance is the angle. Far is six spreads above the median, where the spread is the difference of the median and
    the upper quartile or of the lower quartile and the median, whichever is larger.
    """
    if len(neighbors.indices) < _MIN_POINTS:
        return []
    distances = np.arccos(neighbors.similarities[:, -1].astype(np.float64))
    low, middle, high = np.quantile(distances, [0.25, 0.5, 0.75])
    spread = max(high - middle, middle - low, 1e-3)
    far = np.flatnonzero(distances > middle + _MANY_SPREADS * spread)
    return [int(index) for index in far[np.argsort(-distances[far], kind="stable")]]

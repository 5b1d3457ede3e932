"""Positions of points on a map, and clusters."""

import importlib.util
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["umap", "pca"]
_FEW = 50
"""Points below which UMAP shows no more than PCA."""


def arrange(vectors: NDArray[np.float32], layout: Layout | None, seed: int) -> NDArray[np.float32]:
    """Positions [n, 2] in [-1, 1].

    Args:
        vectors: [n, 128].
        layout: "umap" or "pca"; None is "umap" from 50 points on.
        seed: Seed of UMAP.
    """
    distinct = len({row.tobytes() for row in vectors})
    if layout is None:
        layout = "umap" if distinct >= _FEW else "pca"
    positions = _umap(vectors, seed) if layout == "umap" and distinct > 3 else _pca(vectors)
    center = (positions.max(axis=0) + positions.min(axis=0)) / 2
    scale = np.abs(positions - center).max()
    scaled: NDArray[np.float32] = ((positions - center) / (scale or 1)).astype(np.float32)
    return scaled


def _pca(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    centered = vectors.astype(np.float64)
    centered -= centered.mean(axis=0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    axes = axes[:, :-3:-1]
    # The sign of an axis is arbitrary; make it the same everywhere.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    positions: NDArray[np.float64] = centered @ axes
    return positions


def _umap(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own optional dependencies, and that a seed excludes threads
        import umap

        reducer: Any = umap.UMAP(
            metric="cosine", random_state=seed, n_neighbors=min(15, len(vectors) - 1), init="pca", n_jobs=1
        )
        positions: NDArray[np.float64] = reducer.fit_transform(vectors).astype(np.float64)
    return positions


def check_packages(layout: Layout | None) -> None:
    """Raises an ImportError if a package that a map may need is not installed, before it is needed."""
    for package, name in (("sklearn", "scikit-learn"), ("umap", "umap-learn"), ("PIL", "Pillow")):
        if importlib.util.find_spec(package) is None and (package != "umap" or layout != "pca"):
            raise ImportError(f'explore requires {name}: pip install "vggish[explore]"')


def clusters(positions: NDArray[np.float32]) -> list[str]:
    """Names the cluster of each point on the map, by HDBSCAN; "none" for points in no cluster."""
    from sklearn.cluster import HDBSCAN

    size = max(5, len(positions) // 100)
    if len(positions) < 2 * size:
        return ["none"] * len(positions)
    numbers = HDBSCAN(min_cluster_size=size, min_samples=min(size, 10), copy=True).fit_predict(positions)
    return ["none" if number < 0 else f"cluster {number + 1}" for number in numbers]

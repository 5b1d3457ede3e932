"""A picture of the distance between two sets: its dependence on size, the sets, and the worst recordings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggish_keras._atomic import atomic_write
from vggish_keras._text import printable
from vggish_keras._validation import PathLike
from vggish_keras.frechet.distance import FadResult, RecordingFad, frechet_distance
from vggish_keras.frechet.statistics import Gaussian, Moments, Rows, merge, moments

_SIZES = 12
_LEAST_EMBEDDINGS = 129
_MAX_POINTS = 2_000
_WORST = 20

Recordings = Sequence[tuple[str | None, Rows]]


def plot_fad(
    path: PathLike, result: FadResult, baseline: Recordings, evaluated: Recordings, ranking: Sequence[RecordingFad]
) -> None:
    """Plots a distance.

    The panels are the distance of subsets of recordings, drawn without replacement, over 1 / n, with a line that
    extrapolates it to infinite sets, the plain value and the corrected one with its interval; both sets on the first
    two principal axes of the baseline, with ellipses of two standard deviations; and the recordings of the largest
    influence.

    Args:
        path: The .png or .svg file to write.
        result: The distance.
        baseline: Recordings and embeddings of the baseline; empty if only statistics are known.
        evaluated: Those of the evaluated set.
        ranking: The recordings of the evaluated set, worst first; may be empty.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    from vggish_keras.plot import check_matplotlib  # loads all that reads recordings

    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5), layout="constrained")
    figure.suptitle(str(result))
    sizes, axes, bars = figure.subplots(1, 3)
    _draw_sizes(sizes, result, evaluated)
    _draw_sets(axes, result, baseline, evaluated)
    _draw_worst(bars, ranking[:_WORST])
    path = Path(path)
    with atomic_write(path) as partial:
        figure.savefig(partial, format=path.suffix[1:])


def subset_distances(baseline: Gaussian, evaluated: Recordings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The distance of the baseline from subsets of recordings, drawn without replacement.

    Returns:
        The number of embeddings of each subset, and its distance; empty if the set is too small.
    """
    parts = [moments(rows) for _, rows in evaluated]
    order = np.random.default_rng(0).permutation(len(parts))
    wanted = np.linspace(len(parts) / 4, len(parts), _SIZES).round().astype(int)
    subsets: list[Moments] = [merge(parts[index] for index in order[:count]) for count in np.unique(wanted) if count]
    subsets = [subset for subset in subsets if subset.n >= _LEAST_EMBEDDINGS]
    values = [frechet_distance(baseline, subset.gaussian()) for subset in subsets]
    return np.array([subset.n for subset in subsets], float), np.array(values)


def _draw_sizes(axes: Any, result: FadResult, evaluated: Recordings) -> None:
    n, values = subset_distances(result.baseline.gaussian(), evaluated)
    axes.plot(1 / n, values, "o", color="tab:blue", label="subsets of recordings")
    if len(n) > 1:
        line = np.polynomial.Polynomial.fit(1 / n, values, 1)
        ends = np.array([0, 1 / n.min()])
        axes.plot(ends, line(ends), color="tab:blue")
    axes.axhline(result.value, color="tab:gray", linestyle="--", label="value")
    if result.corrected is not None and result.interval is not None:
        low, high = result.interval
        errors = [[result.corrected - low], [high - result.corrected]]
        axes.errorbar([0], [result.corrected], errors, fmt="s", color="tab:red", capsize=4, label="corrected, 95%")
    axes.set(xlabel="1 / number of evaluated embeddings", ylabel="FAD (VGGish)")
    axes.legend()


def _draw_sets(axes: Any, result: FadResult, baseline: Recordings, evaluated: Recordings) -> None:
    from matplotlib.patches import Ellipse

    center = result.baseline.gaussian()
    plane = np.linalg.eigh(center.covariance)[1][:, :-3:-1]
    sides = (
        ("baseline", "tab:gray", result.baseline, baseline),
        ("evaluated", "tab:orange", result.evaluated, evaluated),
    )
    for name, color, statistics, recordings in sides:
        gaussian = statistics.gaussian()
        rows = np.concatenate([rows for _, rows in recordings]) if recordings else np.zeros((0, len(plane)))
        shown = rows[:: max(1, len(rows) // _MAX_POINTS)]
        axes.plot(*((shown - center.mean) @ plane).T, ".", markersize=2, color=color, alpha=0.5, rasterized=True)
        spread, turn = np.linalg.eigh(plane.T @ gaussian.covariance @ plane)
        width, height = 4 * np.sqrt(spread.clip(0))
        angle = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
        middle = (gaussian.mean - center.mean) @ plane
        axes.add_patch(Ellipse(tuple(middle), width, height, angle=angle, fill=False, color=color, label=name, lw=2))
    axes.autoscale_view()
    axes.set(xlabel="first principal axis of the baseline", ylabel="second principal axis")
    axes.legend()


def _draw_worst(axes: Any, ranking: Sequence[RecordingFad]) -> None:
    shown = [row for row in ranking if row.influence is not None][::-1]
    axes.barh(range(len(shown)), [row.influence for row in shown], color="tab:orange")
    # A file name may contain `$` or bytes that are not valid text.
    names = [printable(row.recording) for row in shown]
    axes.set_yticks(range(len(shown)), [name[-30:] for name in names], parse_math=False)
    axes.set(xlabel="influence on the distance", title="" if shown else "no named recordings")

"""The Fréchet distance of two sets of embeddings, its bias and standard error, and the kernel distance."""

import itertools
import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggish_keras import params
from vggish_keras._blas import single_threaded_blas
from vggish_keras._errors import counted
from vggish_keras.frechet.statistics import Gaussian, Moments, Rows, Statistics, check_rows, moments

_SIZE = params.EMBEDDING_SIZE
_MIN_ROWS = _SIZE + 1
"""With fewer, the covariance is singular, and the jackknife underestimates the bias."""
_MIN_GROUPS = 5
_FEW_RECORDINGS = 100
_SAME = "the two sets are the same"
_STUDENT_95 = (2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101,
               2.093)  # fmt: skip
"""The 97.5 % quantiles of Student's t distribution for 4 to 19 degrees of freedom."""

# === The distance ===


class _Root(NamedTuple):
    """Mean, and a factor F with F'F = covariance, of a Gaussian."""

    mean: NDArray[np.float64]
    factor: NDArray[np.float64]


def _root(gaussian: Gaussian) -> _Root:
    eigenvalues, vectors = np.linalg.eigh(gaussian.covariance)
    rank = _SIZE if gaussian.n is None else min(_SIZE, gaussian.n - 1)
    # Rounding errors in place of zeros cost eight digits of a distance, because their roots are taken.
    eigenvalues[: _SIZE - rank] = 0
    eigenvalues[eigenvalues < _SIZE * np.finfo(np.float64).eps * eigenvalues[-1]] = 0
    return _Root(gaussian.mean, np.sqrt(np.maximum(eigenvalues, 0))[:, np.newaxis] * vectors.T)


def _distance(first: _Root, second: _Root) -> float:
    """The Fréchet distance as a sum of squares.

    With U s V' = svd(F1 F2'), it is |m1 - m2|^2 + |U'F1 - V'F2|^2 (orthogonal Procrustes): never negative, without a
    matrix square root, and nothing cancels.
    """
    left, _, right = np.linalg.svd(first.factor @ second.factor.T)
    means = first.mean - second.mean
    spread = left.T @ first.factor - right @ second.factor
    return float(means @ means + np.vdot(spread, spread))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Computes the Fréchet distance of two Gaussians, alone."""
    return _distance(_root(first), _root(second))


def _bias(first: Gaussian, second: Gaussian) -> float | None:
    """How much sampling adds to the distance of two Gaussians, to first order in 1 / n: a lower bound."""
    if first.n is None or second.n is None or min(first.n, second.n) < 2:
        return None
    s = np.linalg.svd(_root(first).factor @ _root(second).factor.T, compute_uv=False)
    s = s[s > 0]
    curvature = (s[:, np.newaxis] * s / (s[:, np.newaxis] + s)).sum() + s.sum() / 2
    sides = ((first.n, first.covariance), (second.n, second.covariance))
    return float(sum(np.trace(covariance) / n + curvature / (2 * (n - 1)) for n, covariance in sides))


# === The corrected distance ===


class _Jackknife(NamedTuple):
    correction: float
    variance: float


def _trace_distance(root: _Root, other: Gaussian) -> float:
    """The distance as a difference of traces: a tenth of the time, and 1e-7 of the traces off where they cancel."""
    eigenvalues = np.linalg.eigvalsh(root.factor @ other.covariance @ root.factor.T)
    means = root.mean - other.mean
    traces = np.vdot(root.factor, root.factor) + np.trace(other.covariance)
    return float(means @ means + traces - 2 * np.sqrt(eigenvalues.clip(0)).sum())


def _jackknife(statistics: Statistics, value: float, other: _Root) -> _Jackknife:
    """The delete-a-group jackknife of one side with unequal groups: Busing, Meijer and van der Leeden, 1999."""
    total = statistics.n or 0
    sizes, moments_without = zip(*statistics.without_groups(), strict=True)
    n = np.array(sizes)
    values = np.array([_trace_distance(other, without.gaussian()) for without in moments_without])
    groups, h = len(n), total / n
    correction = (groups - 1) * value - ((1 - n / total) * values).sum()
    deviations = h * value - (h - 1) * values - value - correction
    return _Jackknife(float(correction), float((deviations**2 / (h - 1)).sum() / groups))


@dataclass(frozen=True)
class FadResult:
    """The Fréchet audio distance between two sets, and what is needed to judge it.

    `print` shows the line that `vggish fad` prints first.

    Attributes:
        value: The distance. It depends on the sizes of the sets: smaller sets have larger distances.
        corrected: The distance without the part that the sizes add, by the jackknife over groups of recordings. It may
            be negative if the distributions are alike. None if a set is too small or its recordings are unknown.
        standard_error: Standard error of `corrected`, if its recordings are independent.
        interval: The 95% confidence interval of `corrected`.
        bias: At least this much of `value` is due to the sizes of the sets; None if they are unknown.
        baseline: The statistics of the baseline.
        evaluated: The statistics of the evaluated set.
        warnings: What a reader of the value must know.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> result = vk.fad(rng.normal(size=(1_000, 128)), rng.normal(size=(1_000, 128)))
        >>> result.value > result.bias > 0
        True
    """

    value: float
    corrected: float | None
    standard_error: float | None
    interval: tuple[float, float] | None
    bias: float | None
    baseline: Statistics
    evaluated: Statistics
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        text = f"FAD (VGGish) {self.value:.4g}"
        if self.corrected is not None and self.interval is not None:
            low, high = self.interval
            text += f"   corrected {self.corrected:.4g} +- {self.standard_error:.2g} (95%: {low:.4g} to {high:.4g})"
        return text

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values that JSON can hold, with the sizes and options of both sets."""
        names = ("value", "corrected", "standard_error", "interval", "bias", "warnings")
        return {name: getattr(self, name) for name in names} | {
            side: {"n": statistics.n, "recordings": statistics.recordings, "options": statistics.options}
            for side, statistics in (("baseline", self.baseline), ("evaluated", self.evaluated))
        }


def compare(baseline: Statistics, evaluated: Statistics, warnings: Iterable[str] = ()) -> FadResult:
    """Computes the Fréchet distance between the statistics of two sets.

    Args:
        baseline: Statistics of the baseline.
        evaluated: Statistics of the evaluated set.
        warnings: More warnings for the result.

    Raises:
        ValueError: A set is empty, or the sets were made with different weights or post-processing.
    """
    option_warnings = compare_options(baseline, evaluated)
    for name, statistics in (("baseline", baseline), ("evaluated", evaluated)):
        if statistics.n == 0:
            raise ValueError(f"the {name} set has no embeddings")
    with single_threaded_blas():  # threads only delay products of matrices as small as these
        first, second = baseline.gaussian(), evaluated.gaussian()
        value, bias = frechet_distance(first, second), _bias(first, second)
        same = value <= 1e-20 * (np.trace(first.covariance) + np.trace(second.covariance))
        reason = _SAME if same else _why_uncorrected(baseline, evaluated)
        corrected = _Corrected(None, None, None) if reason else _correct(baseline, evaluated, value)
    found = (*warnings, *option_warnings, *_warnings(baseline, evaluated, value, bias, reason))
    return FadResult(value, *corrected, bias, baseline, evaluated, found)


class _Corrected(NamedTuple):
    value: float | None
    standard_error: float | None
    interval: tuple[float, float] | None


def _correct(baseline: Statistics, evaluated: Statistics, value: float) -> _Corrected:
    sides = (
        _jackknife(baseline, value, _root(evaluated.gaussian())),
        _jackknife(evaluated, value, _root(baseline.gaussian())),
    )
    corrected = value + sum(side.correction for side in sides)
    error = math.sqrt(sum(side.variance for side in sides))
    groups = min(baseline.filled_groups, evaluated.filled_groups)
    margin = _STUDENT_95[groups - _MIN_GROUPS] * error
    return _Corrected(corrected, error, (corrected - margin, corrected + margin))


def _why_uncorrected(*sides: Statistics) -> str:
    """Why the jackknife does not apply; empty if it does."""
    if any(side.n is None for side in sides):
        return "the number of embeddings of a set is unknown"
    if any((side.n or 0) < _MIN_ROWS for side in sides):
        return f"a set has fewer than {_MIN_ROWS} embeddings"
    if any(side.filled_groups < _MIN_GROUPS for side in sides):
        return f"the recordings of a set fill fewer than {_MIN_GROUPS} of the groups that are left out in turn"
    return ""


# === Warnings ===


def _warnings(
    baseline: Statistics, evaluated: Statistics, value: float, bias: float | None, reason: str
) -> Iterable[str]:
    if reason:
        yield f"no corrected value: {reason}"
    if reason == _SAME:
        return
    if shared := evaluated.count_shared(baseline):
        yield (
            f"{shared:,} recording{'s' * (shared != 1)} of the evaluated set {'have' if shared != 1 else 'has'} the "
            "same embeddings as a recording of the baseline: copies lower the distance"
        )
    if bias is not None and bias > value / 10 > 0:
        yield (
            f"at least {min(bias, value):.3g} of the {value:.3g} comes from the sizes of the sets: compare it only "
            "with values for sets of the same sizes"
        )
    for name, side in (("baseline", baseline), ("evaluated set", evaluated)):
        yield from _side_warnings(name, side, not reason)


def _side_warnings(name: str, side: Statistics, is_corrected: bool) -> Iterable[str]:
    if side.n == 1:
        yield f"the {name} has a single embedding, and so no spread"
    elif not side.covariance.any():
        yield f"all embeddings of the {name} are the same: it has no spread"
    if is_corrected and 0 < side.recordings < _FEW_RECORDINGS:
        recordings = counted(side.recordings, "recording")
        yield f"the {name} has {recordings}: below {_FEW_RECORDINGS}, the corrected value is uncertain"
    if side.recordings and side.constant_recordings > side.recordings / 100:
        yield (
            f"{side.constant_recordings:,} of {side.recordings:,} recordings of the {name} have the same embedding "
            "throughout, like silence"
        )


# The identity of the weights includes the post-processing.
_MUST_AGREE = ("postprocess", "weights", "relu", "level")
_SHOULD_AGREE = ("hop_seconds", "padding", "channels", "dtype")
_DEFAULTS = {"relu": False, "level": None, "channels": "mix"}
"""Options that files without them were made with."""


def compare_options(baseline: Statistics, evaluated: Statistics) -> list[str]:
    """Compares how the embeddings of two sets were made.

    Returns:
        Warnings about differences that make the distance hard to interpret.

    Raises:
        ValueError: The embeddings are in different spaces.
    """
    kinds = (baseline.is_quantized, evaluated.is_quantized)
    if None not in kinds and kinds[0] != kinds[1]:
        raise ValueError(
            "8-bit PCA embeddings and floats are in different spaces: the "
            f"{'baseline' if kinds[0] else 'evaluated set'} has 8-bit embeddings, the other set floats"
        )
    return check_options(baseline.options, evaluated.options)


def check_options(baseline: Mapping[str, Any], evaluated: Mapping[str, Any]) -> list[str]:
    """As `compare_options`, for the options alone."""
    sides = (baseline, evaluated)
    differing = {
        name: values
        for name in (*_MUST_AGREE, *_SHOULD_AGREE)
        if all(name in options or (options and name in _DEFAULTS) for options in sides)
        and (values := tuple(options.get(name, _DEFAULTS.get(name)) for options in sides))[0] != values[1]
    }
    for name in _MUST_AGREE:
        if name in differing:
            first, second = differing[name]
            raise ValueError(
                f"the sets cannot be compared: the baseline was made with {name} {_show(first)}, the evaluated set "
                f"with {name} {_show(second)}"
            )
    warnings = [
        f"the baseline was made with {name} {_show(first)}, the evaluated set with {name} {_show(second)}"
        for name, (first, second) in differing.items()
    ]
    if ("weights" in baseline) != ("weights" in evaluated):
        name = "evaluated set" if "weights" in baseline else "baseline"
        warnings.append(f"it is unknown how the embeddings of the {name} were made, so they may differ from the others")
    return warnings


def _show(value: Any) -> str:
    return "none" if value is None else str(value)


# === Recordings ===


class RecordingFad(NamedTuple):
    """How a recording compares with the baseline.

    Attributes:
        recording: Its name.
        examples: Number of its embeddings.
        fad: The Fréchet distance between the baseline and its embeddings alone. Compare it between recordings of the
            same length only: the fewer embeddings, the larger it is.
        influence: The distance of the whole set minus that of the set without the recording: positive if the recording
            makes the set worse. Comparable for recordings of any length. None if the set has no other recording.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> evaluated = {"good.wav": rng.normal(size=(200, 128)), "bad.wav": rng.normal(3, 1, size=(20, 128))}
        >>> ranking = vk.fad_per_recording(rng.normal(size=(1_000, 128)), evaluated)
        >>> ranking[0].recording, ranking[0].influence > 0
        ('bad.wav', True)
    """

    recording: str
    examples: int
    fad: float
    influence: float | None


_MAX_BATCH_SIZE = 32
"""Recordings of one length that are compared at a time, unless they are long."""
_MAX_PRODUCTS = 2**16
"""Products of two rows per batch: its memory is proportional to them."""


def rank_recordings(baseline: Statistics, recordings: Iterable[tuple[str, Rows]]) -> list[RecordingFad]:
    """Compares each recording of a set with the baseline, and ranks them by their influence, worst first.

    Args:
        baseline: Statistics of the baseline.
        recordings: Names and embeddings [n, 128]; a name that occurs several times in succession is one recording.

    Raises:
        ValueError: Not embeddings, numbers that are not finite, or no recordings.
    """
    kept = list(_whole_recordings(recordings))
    if not kept:
        raise ValueError("the evaluated set has no embeddings")
    gaussian = baseline.gaussian()
    root = _root(gaussian)
    influence = _Influence(gaussian, root, moments(np.concatenate([rows for _, rows in kept])))

    def rank(batch: list[tuple[str, Rows]]) -> list[RecordingFad]:
        rows = np.stack([rows for _, rows in batch]).astype(np.float64)
        distances, influences = _small_distances(root, rows), influence(rows)
        return [
            RecordingFad(name, rows.shape[1], float(distance), None if math.isnan(value) else float(value))
            for (name, _), distance, value in zip(batch, distances, influences, strict=True)
        ]

    with single_threaded_blas(), ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        ranking = list(itertools.chain.from_iterable(threads.map(rank, _batches_of_one_length(kept))))
    return sorted(ranking, key=lambda row: -math.inf if row.influence is None else row.influence, reverse=True)


def _whole_recordings(recordings: Iterable[tuple[str, Rows]]) -> Iterator[tuple[str, Rows]]:
    for name, parts in itertools.groupby(recordings, operator.itemgetter(0)):
        rows = np.concatenate([check_rows(rows, name) for _, rows in parts])
        if len(rows):
            yield name, rows


def _batches_of_one_length(recordings: Iterable[tuple[str, Rows]]) -> Iterator[list[tuple[str, Rows]]]:
    """Groups recordings of as many rows, which are computed together in a fraction of the time."""
    by_length: dict[int, list[tuple[str, Rows]]] = {}
    for name, rows in recordings:
        batch = by_length.setdefault(len(rows), [])
        batch.append((name, rows))
        if len(batch) == max(1, min(_MAX_BATCH_SIZE, _MAX_PRODUCTS // min(len(rows), _SIZE + 1) ** 2)):
            yield by_length.pop(len(rows))
    yield from by_length.values()


def _small_distances(baseline: _Root, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distances [b] of b times a few rows [b, k, 128] from a Gaussian.

    The trace term of each is the sum of as many singular values.
    """
    mean = rows.mean(axis=1)
    centered = _condense((rows - mean[:, np.newaxis]) / math.sqrt(max(rows.shape[1] - 1, 1)))
    s = np.linalg.svd(np.linalg.qr((centered @ baseline.factor.T).swapaxes(1, 2)).R, compute_uv=False)
    delta = baseline.mean - mean
    traces = np.vdot(baseline.factor, baseline.factor) + (centered**2).sum(axis=(1, 2))
    distances: NDArray[np.float64] = (delta**2).sum(axis=1) + traces - 2 * s.sum(axis=1)
    return distances


def _condense(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """At most 128 rows R with the same R'R, in place of each of [b, k, 128]."""
    if rows.shape[1] <= _SIZE:
        return rows
    factors: NDArray[np.float64] = np.linalg.qr(rows).R
    return factors


class _Influence:
    """The distance of a set from the baseline, minus that of the set without a recording.

    Without k rows, the sum of squared deviations M2 loses a term of rank k + 1. In the basis in which D = F1 M2 F1' is
    diagonal, that term is Z Z', and the trace term loses

        tr D^1/2 - tr (D - Z Z')^1/2  =  -1 / (2 pi)  integral of  log det(1 - Z'(D + t)^-1 Z)  t^-1/2 dt  over t > 0.

    With t = exp(2u), the trapezoidal rule converges exponentially: 51 small determinants take a fraction of the
    time of an eigendecomposition, and nothing cancels.

    Args:
        baseline: The baseline.
        root: Its root.
        whole: The moments of the set.
    """

    _STEP = 0.5

    def __init__(self, baseline: Gaussian, root: _Root, whole: Moments) -> None:
        self._baseline, self._whole = baseline, whole
        diagonal, vectors = np.linalg.eigh(root.factor @ whole.m2 @ root.factor.T)
        self._basis = root.factor.T @ vectors
        self._trace = np.sqrt(np.maximum(diagonal, 0)).sum()
        highest = max(float(diagonal[-1]), 0) or 1.0
        u = np.arange(math.log(1e-16 * highest) / 2, math.log(1e6 * highest) / 2, self._STEP)
        self._inverse = 1 / (np.maximum(diagonal, 0) + np.exp(2 * u)[:, np.newaxis])
        weights = np.full(len(u), self._STEP / math.pi)
        # Outside, the integrand falls by exp(-step) per step.
        weights[[0, -1]] /= -math.expm1(-self._STEP)
        self._weights = weights * np.exp(u)

    def __call__(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Returns the influences [b] of recordings with as many rows each [b, k, 128]; NaN for the whole set."""
        rest_n = self._whole.n - rows.shape[1]
        if rest_n == 0:
            return np.full(len(rows), np.nan)
        mean = rows.mean(axis=1)
        delta = self._whole.mean - mean
        shift = delta * math.sqrt(rows.shape[1] * self._whole.n / rest_n)
        lost = np.concatenate([rows - mean[:, np.newaxis], shift[:, np.newaxis]], axis=1)
        rest_mean = self._whole.mean + delta * (rows.shape[1] / rest_n)
        trace = np.trace(self._whole.m2)
        with_rows = self._terms(self._whole.n, self._whole.mean, trace, self._trace)
        lost_trace = self._lost_trace(_condense(lost) @ self._basis)
        rest_trace = trace - (lost**2).sum(axis=(1, 2))
        return with_rows - self._terms(rest_n, rest_mean, rest_trace, self._trace - lost_trace)

    def _terms(self, n: int, mean: NDArray[np.float64], trace: Any, root_trace: Any) -> NDArray[np.float64]:
        """The distances without the trace of the baseline."""
        delta = self._baseline.mean - mean
        free = max(n - 1, 1)
        terms: NDArray[np.float64] = (delta**2).sum(axis=-1) + trace / free - 2 * root_trace / math.sqrt(free)
        return terms

    def _lost_trace(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        b, k, _ = z.shape
        rows, columns = np.triu_indices(k)
        upper = (z[:, rows] * z[:, columns]).reshape(-1, _SIZE) @ self._inverse.T
        rest = np.empty((b, len(self._weights), k, k))
        rest[..., rows, columns] = rest[..., columns, rows] = -upper.reshape(b, len(rows), -1).swapaxes(1, 2)
        rest += np.eye(k)
        lost: NDArray[np.float64] = -_log_determinants(rest) @ self._weights
        return lost


def _log_determinants(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithms of the determinants of positive matrices [.., k, k], some of which rounding may have spoiled."""
    logarithms: NDArray[np.float64]
    try:
        diagonals = np.diagonal(np.linalg.cholesky(matrices), axis1=-2, axis2=-1)
        logarithms = 2 * np.log(diagonals).sum(axis=-1)
    except np.linalg.LinAlgError:
        logarithms = np.linalg.slogdet(matrices).logabsdet
    return logarithms


# === Kernel distance ===


class KadResult(NamedTuple):
    """The kernel audio distance and the bandwidth of its kernel.

    Attributes:
        value: 100 times the unbiased squared maximum mean discrepancy. It may be negative.
        bandwidth: The standard deviation of the Gaussian kernel.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> value, bandwidth = vk.kad(rng.normal(size=(100, 128)), rng.normal(1, 1, size=(100, 128)))
        >>> value > 0
        True
    """

    value: float
    bandwidth: float


_KERNEL_BLOCK = 1_024
_MEDIAN_ROWS = 4_000
"""Rows whose distances determine the bandwidth; beyond that, it changes by 1 %."""
Bandwidth: TypeAlias = float | Literal["reference", "evaluated"] | None


def kad(reference: ArrayLike, evaluated: ArrayLike, bandwidth: Bandwidth = None) -> KadResult:
    """Computes the kernel audio distance (Chung et al., 2025): unbiased, and without an assumption of normality.

    Args:
        reference: Embeddings [n, 128], floats or uint8, at least 2.
        evaluated: Embeddings [m, 128] of the same kind, at least 2.
        bandwidth: The standard deviation of the Gaussian kernel. "reference", or None, is the median distance between
            rows of the reference, as published; "evaluated" is that of the evaluated rows, as the program kadtk uses.
            Beyond 4,000 rows, the median is that of 4,000 rows spread evenly.

    Returns:
        The distance and the bandwidth.

    Raises:
        ValueError: Not embeddings, numbers that are not finite, fewer than two rows, or a bandwidth that is not
            positive.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> rows = rng.normal(size=(100, 128))
        >>> vk.kad(rows, rows + 1, bandwidth=16.0).bandwidth
        16.0
    """
    first, second = check_rows(reference), check_rows(evaluated)
    if (first.dtype == np.uint8) != (second.dtype == np.uint8):
        raise ValueError(f"8-bit PCA embeddings and floats are in different spaces: got {first.dtype}, {second.dtype}")
    if min(len(first), len(second)) < 2:
        raise ValueError(f"KAD needs at least 2 embeddings in each set, got {len(first)} and {len(second)}")
    x, y = first.astype(np.float64), second.astype(np.float64)
    center = x.mean(axis=0)
    x, y = x - center, y - center
    if bandwidth is None or isinstance(bandwidth, str):
        rows = {None: x, "reference": x, "evaluated": y}.get(bandwidth)
        if rows is None:
            raise ValueError(f'bandwidth must be a number, "reference" or "evaluated", got {bandwidth!r}')
        bandwidth = _median_distance(rows)
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"the bandwidth must be positive, got {bandwidth}")
    exponent = -1 / (2 * bandwidth**2)
    n, m = len(x), len(y)
    within = _inner_sum(x, exponent) / (n * (n - 1)) + _inner_sum(y, exponent) / (m * (m - 1))
    return KadResult(100 * (within - 2 * _cross_sum(x, y, exponent) / (n * m)), float(bandwidth))


def _squared_distances(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = (x**2).sum(axis=1)[:, np.newaxis] + (y**2).sum(axis=1) - 2 * (x @ y.T)
    return squares.clip(0)


def _median_distance(rows: NDArray[np.float64]) -> float:
    """The median of the distances between rows: the lower one of the two in the middle, as in PyTorch."""
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MEDIAN_ROWS)).round().astype(int)]
    squares = np.concatenate(
        [
            _squared_distances(rows[start : start + _KERNEL_BLOCK], rows[start:])[
                np.triu_indices(min(_KERNEL_BLOCK, len(rows) - start), 1, len(rows) - start)
            ]
            for start in range(0, len(rows), _KERNEL_BLOCK)
        ]
    )
    middle = (len(squares) - 1) // 2
    return math.sqrt(np.partition(squares, middle)[middle])


def _inner_sum(rows: NDArray[np.float64], exponent: float) -> float:
    """The sum of the kernel over all pairs of different rows, each in both orders."""
    total = 0.0
    for start in range(0, len(rows), _KERNEL_BLOCK):
        block = rows[start : start + _KERNEL_BLOCK]
        kernel = np.exp(exponent * _squared_distances(block, block))
        np.fill_diagonal(kernel, 0)
        total += float(kernel.sum()) + 2 * _cross_sum(block, rows[start + _KERNEL_BLOCK :], exponent)
    return total


def _cross_sum(x: NDArray[np.float64], y: NDArray[np.float64], exponent: float) -> float:
    """The sum of the kernel over all pairs of a row of x and a row of y."""
    starts = itertools.product(range(0, len(x), _KERNEL_BLOCK), range(0, len(y), _KERNEL_BLOCK))
    blocks = ((x[i : i + _KERNEL_BLOCK], y[j : j + _KERNEL_BLOCK]) for i, j in starts)
    return sum(float(np.exp(exponent * _squared_distances(*pair)).sum()) for pair in blocks)

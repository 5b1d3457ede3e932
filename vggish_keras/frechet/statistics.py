"""Mean and covariance of a set of embeddings, in groups of recordings: added up, merged, saved and loaded."""

import array
import functools
import hashlib
import itertools
import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggish_keras import _npz, params
from vggish_keras._atomic import atomic_write
from vggish_keras._validation import PathLike, file_suffix
from vggish_keras.embedding_files import parse_options
from vggish_keras.frechet.google_record import SUFFIX as GOOGLE_SUFFIX, GoogleRecord, read_google_record

GROUPS = 20
"""Groups of recordings, each of which the jackknife leaves out once."""
_SIZE = params.EMBEDDING_SIZE
_ROWS_PER_BLOCK = 8_192
"""Rows that are converted to float64 at a time."""
_MAX_PENDING_ROWS = 4_096
"""Rows that are kept until they are merged: 2 MB."""
_UPPER = np.triu_indices(_SIZE)
_KEYS = (("vggish.mu", "vggish.cov"), ("mu", "sigma"), ("mu_ref", "sigma_ref"))
"""Mean and covariance in .npz files: of this package and fadtk, of pytorch-fid, and of stable-audio-metrics."""
_GROUP_SHAPES: dict[str, tuple[int, ...]] = {
    "groups.n": (GROUPS,),
    "groups.mean": (GROUPS, _SIZE),
    "groups.m2": (GROUPS, len(_UPPER[0])),
}
_OTHERS = ("vggish.n", "digests", "about", "options")
_TOLERANCE = 1e-5
"""How far a covariance may be from symmetric and from positive, relative to its largest entry or eigenvalue."""

Rows = NDArray[Any]


class Moments(NamedTuple):
    """Number, mean [128] and sum of squared deviations [128, 128] of rows, in float64."""

    n: int
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    def without(self, part: "Moments") -> "Moments":
        """The moments of the other rows, if `part` are those of some of the rows."""
        n = self.n - part.n
        if n == 0:
            return NOTHING
        delta = self.mean - part.mean
        m2 = self.m2 - part.m2 - np.outer(delta, delta) * (part.n * self.n / n)
        return Moments(n, self.mean + delta * (part.n / n), m2)

    def gaussian(self) -> "Gaussian":
        return Gaussian(self.n, self.mean, self.m2 / max(self.n - 1, 1))


class Gaussian(NamedTuple):
    """Mean [128] and covariance [128, 128] of `n` rows; None if the number is unknown."""

    n: int | None
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


NOTHING = Moments(0, np.zeros(_SIZE), np.zeros((_SIZE, _SIZE)))


def moments(rows: Rows) -> Moments:
    """The moments of rows that `check_rows` accepts."""
    blocks = [rows[start : start + _ROWS_PER_BLOCK] for start in range(0, len(rows), _ROWS_PER_BLOCK)]
    return merge(map(_block_moments, blocks))


def _block_moments(rows: Rows) -> Moments:
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0)
    rows -= mean
    return Moments(len(rows), mean, rows.T @ rows)


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of the rows of all parts together, by the formula of Chan, Golub and LeVeque."""
    parts = [part for part in parts if part.n]
    if len(parts) < 2:
        return parts[0] if parts else NOTHING
    counts = np.array([part.n for part in parts])
    n = int(counts.sum())
    # Relative to one of the means, so that no digits are lost where means are large against the spread.
    means = np.stack([part.mean for part in parts]) - parts[0].mean
    mean = counts @ means / n
    means = (means - mean) * np.sqrt(counts)[:, np.newaxis]
    m2 = functools.reduce(np.add, (part.m2 for part in parts)) + means.T @ means
    return Moments(n, parts[0].mean + mean, m2)


def check_rows(rows: ArrayLike, recording: str | None = None) -> Rows:
    """Returns embeddings as an array; a ValueError that names the recording unless they are [n, 128] and finite."""
    where = "" if recording is None else f"{recording}: "
    try:
        values = np.asarray(rows)
    except ValueError as error:
        raise ValueError(f"{where}expected embeddings [n, {_SIZE}], got rows of different lengths") from error
    if values.ndim != 2 or values.shape[1] != _SIZE or (values.dtype.kind != "f" and values.dtype != np.uint8):
        got = f"{values.dtype} {list(values.shape)}"
        raise ValueError(f"{where}expected embeddings [n, {_SIZE}] of floats or uint8, got {got}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).all(axis=1)))
        raise ValueError(f"{where}embeddings must be finite, got NaN or infinity in row {row}")
    return values


class Statistics:
    """Mean and covariance of a set of embeddings, as the Fréchet audio distance needs them.

    Rows are added in any number of calls, and statistics of parts of a set are merged with `+=`, in any order. The size
    is the same for any number of rows: (n, mean, sum of squared deviations) in float64, for each of 20 groups of
    recordings, and 8 bytes per recording. The groups serve to estimate the standard error of a distance.

    Args:
        options: How the embeddings were made, such as `Embedder.options`; empty if unknown.

    Attributes:
        options: As given. Sets with different options are compared with a warning, or not at all.
        n: Number of embeddings; None if these are statistics of unknown origin.
        recordings: Number of recordings, as far as they were named.
        constant_recordings: Number of recordings with two or more embeddings that are all equal, as in silence.
        is_quantized: Whether the embeddings are 8-bit numbers; None without embeddings.
        mean: float64 [128].
        covariance: float64 [128, 128], divided by n - 1.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> statistics = vk.Statistics()
        >>> statistics.add(rng.normal(size=(10, 128)), recording="a.wav")
        >>> others = vk.Statistics()
        >>> others.add(rng.normal(size=(20, 128)), recording="b.wav")
        >>> statistics += others
        >>> statistics
        Statistics(30 embeddings of 2 recordings)
    """

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options = dict(options or {})
        self.recordings = 0
        self.constant_recordings = 0
        self.is_quantized: bool | None = None
        self._groups = [NOTHING] * GROUPS
        self._pending: list[list[Rows]] = [[] for _ in range(GROUPS)]
        self._pending_rows = 0
        self._digests = array.array("Q")
        self._last: str | None = None
        self._given: Gaussian | None = None

    @classmethod
    def from_moments(
        cls,
        mean: ArrayLike,
        covariance: ArrayLike,
        n: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> "Statistics":
        """Makes statistics from a mean and a covariance that are already known.

        Args:
            mean: [128].
            covariance: [128, 128], divided by n - 1.
            n: Number of embeddings, which bounds the rank of the covariance; None if unknown. Embeddings can only be
                added if it is known.
            options: How the embeddings were made.

        Raises:
            ValueError: Unexpected shapes, numbers that are not finite, or a covariance that is not symmetric or has
                negative eigenvalues.

        Examples:
            >>> vk.Statistics.from_moments(np.zeros(128), np.eye(128), n=1_000)
            Statistics(1,000 embeddings)
        """
        center, spread = _check_moments(np.asarray(mean), np.asarray(covariance))
        statistics = cls(options)
        if n is None:
            statistics._given = Gaussian(None, center, spread)
        elif n < 1:
            raise ValueError(f"n must be a positive number of embeddings, got {n}")
        else:
            statistics._groups[0] = Moments(int(n), center, spread * (n - 1))
        return statistics

    @classmethod
    def from_google_record(cls, record: GoogleRecord, path: PathLike) -> "Statistics":
        """Makes statistics from the content of a file of google-research; an error names the file."""
        try:
            return cls.from_moments(record.mean, record.covariance, record.n)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    # === Adding and merging ===

    def add(self, rows: ArrayLike, recording: str | None = None) -> None:
        """Adds embeddings.

        Args:
            rows: [n, 128], floats or uint8. 8-bit embeddings count as the numbers 0 to 255.
            recording: The name of their recording. A hash of it selects their group, and all parts of a recording that
                are added in succession count as one. Rows without a name are divided into 20 runs of neighbors, one for
                each group: add all of them in one call.

        Raises:
            ValueError: Not embeddings, numbers that are not finite, 8-bit embeddings among others, or statistics of an
                unknown number of embeddings.
        """
        self._check_open()
        values = check_rows(rows, recording)
        if len(values) == 0:
            return
        self._check_kind(values.dtype == np.uint8, recording or "the rows")
        if recording is None:
            parts = list(enumerate(np.array_split(values, GROUPS)))
        else:
            parts = [(_group(recording), values)]
            self.recordings += recording != self._last
        self._last = recording
        for group, part in parts:
            self._add_part(group, part)

    def _add_part(self, group: int, rows: Rows) -> None:
        if len(rows) == 0:
            return
        # Copies: an update takes as long for one row as for a hundred.
        self._pending[group].append(rows.copy())
        self._pending_rows += len(rows)
        if self._pending_rows >= _MAX_PENDING_ROWS:
            self._merge_pending()
        if len(rows) > 1 and (rows == rows[0]).all():
            self.constant_recordings += 1
        else:
            self._digests.append(_digest(rows))

    def _merge_pending(self) -> list[Moments]:
        """Merges the rows that were added last, and returns the moments of the groups."""
        for index, parts in enumerate(self._pending):
            if parts:
                self._groups[index] = merge([self._groups[index], moments(np.concatenate(parts))])
                parts.clear()
        self._pending_rows = 0
        return self._groups

    def __iadd__(self, other: "Statistics") -> "Statistics":
        self._check_open()
        other._check_open()
        if other.is_quantized is not None:
            self._check_kind(other.is_quantized, "the other statistics")
        self._groups = [merge(pair) for pair in zip(self._merge_pending(), other._merge_pending(), strict=True)]
        self._digests.extend(other._digests)
        self.recordings += other.recordings
        self.constant_recordings += other.constant_recordings
        self._last = None
        return self

    def __isub__(self, other: "Statistics") -> "Statistics":
        self._check_open()
        other._check_open()
        pairs = list(zip(self._merge_pending(), other._merge_pending(), strict=True))
        if any(whole.n < part.n for whole, part in pairs):
            raise ValueError("cannot subtract statistics that were not added: a group has fewer embeddings")
        self._groups = [whole.without(part) if part.n else whole for whole, part in pairs]
        removed = Counter(other._digests)
        kept = array.array("Q")
        for digest in self._digests:
            if removed[digest]:
                removed[digest] -= 1
            else:
                kept.append(digest)
        self._digests = kept
        self._last = None
        self.recordings -= other.recordings
        self.constant_recordings -= other.constant_recordings
        return self

    def _check_open(self) -> None:
        if self._given is not None:
            raise ValueError("the number of embeddings behind these statistics is unknown: they cannot be merged")

    def _check_kind(self, is_quantized: bool, name: str) -> None:
        if self.is_quantized is not None and is_quantized != self.is_quantized:
            kinds = ("float", "8-bit")
            raise ValueError(
                f"8-bit PCA embeddings and floats are in different spaces: expected {kinds[self.is_quantized]} "
                f"embeddings as before, got {kinds[is_quantized]} ones from {name}"
            )
        self.is_quantized = is_quantized

    # === What they hold ===

    @property
    def n(self) -> int | None:
        return None if self._given is not None else sum(group.n for group in self._groups) + self._pending_rows

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.gaussian().mean

    @property
    def covariance(self) -> NDArray[np.float64]:
        return self.gaussian().covariance

    def gaussian(self) -> Gaussian:
        """The mean and covariance of all embeddings."""
        return self.moments().gaussian() if self._given is None else self._given

    def moments(self) -> Moments:
        """The moments of all embeddings, whose number must be known."""
        self._check_open()
        return merge(self._merge_pending())

    def without_groups(self) -> Iterator[tuple[int, Moments]]:
        """For each group with embeddings: their number, and the moments of all other groups together."""
        filled = [group for group in self._merge_pending() if group.n]
        for index, group in enumerate(filled):
            yield group.n, merge([*filled[:index], *filled[index + 1 :]])

    @property
    def filled_groups(self) -> int:
        """Number of groups with embeddings."""
        return sum(group.n > 0 for group in self._merge_pending())

    def count_shared(self, other: "Statistics") -> int:
        """How many of these recordings have the same embeddings as a recording of other statistics."""
        return int(np.isin(np.array(self._digests, np.uint64), np.array(other._digests, np.uint64)).sum())

    def __repr__(self) -> str:
        return f"Statistics({self.describe()})"

    def describe(self) -> str:
        """Describes the size, as in "1,000 embeddings of 100 recordings"."""
        if self.n is None:
            return "an unknown number of embeddings"
        embeddings = f"{self.n:,} embedding{'s' * (self.n != 1)}"
        recordings = f" of {self.recordings:,} recording{'s' * (self.recordings != 1)}" if self.recordings else ""
        return embeddings + recordings

    # === Files ===

    def save(self, path: PathLike) -> None:
        """Saves the statistics to a file, which appears once it is complete.

        In an .npz file, `vggish.mu` and `vggish.cov` are the mean and the covariance, under the names that fadtk reads
        as well; `vggish.n` is the number of embeddings, and `options` holds JSON text. A .tfrecord file has the format
        of google-research's frechet_audio_distance: mean and covariance in float32 and the number of embeddings,
        without groups of recordings and options.

        Args:
            path: The .npz or .tfrecord file. An existing file is replaced.

        Raises:
            ValueError: The suffix is neither .npz nor .tfrecord, the folder does not exist, there are no embeddings, or
                their number, which a .tfrecord file contains, is unknown.
            OSError: The file cannot be written.

        Examples:
            >>> statistics = vk.Statistics({"hop_seconds": 0.96})
            >>> statistics.add(np.random.default_rng(0).normal(size=(300, 128)))
            >>> statistics.save("baseline.npz")
            >>> vk.Statistics.load("baseline.npz").options
            {'hop_seconds': 0.96}
        """
        path = check_statistics_path(path)
        if self.n == 0:
            raise ValueError("cannot save statistics without embeddings")
        total = self.gaussian()
        if file_suffix(path) == GOOGLE_SUFFIX:
            if total.n is None:
                raise ValueError(f"{path} would contain the number of embeddings, which is unknown: save an .npz file")
            with atomic_write(path) as partial:
                GoogleRecord(total.n, total.mean, total.covariance).write(partial)
            return
        arrays = {
            "vggish.mu": total.mean,
            "vggish.cov": total.covariance,
            "options": np.array(json.dumps(self.options)),
        }
        if total.n is not None:
            arrays |= self._group_arrays()
        with atomic_write(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # NumPy declares all keywords as bool

    def _group_arrays(self) -> dict[str, NDArray[Any]]:
        about = {
            "recordings": self.recordings,
            "constant_recordings": self.constant_recordings,
            "is_quantized": self.is_quantized,
        }
        groups = self._merge_pending()
        return {
            "vggish.n": np.array(self.n),
            "groups.n": np.array([group.n for group in groups]),
            "groups.mean": np.stack([group.mean for group in groups]),
            "groups.m2": np.stack([group.m2[_UPPER] for group in groups]),
            "digests": np.array(self._digests, np.uint64),
            "about": np.array(json.dumps(about)),
        }

    @classmethod
    def load(cls, path: PathLike) -> "Statistics":
        """Loads statistics from a file.

        Args:
            path: A file written by `save`, or an .npz file by a tool that saves a mean and a covariance: fadtk
                (`vggish.mu`, `vggish.cov`), pytorch-fid (`mu`, `sigma`) or stable-audio-metrics (`mu_ref`,
                `sigma_ref`). The number of their embeddings is unknown, and the dimension must be 128. Or the .tfrecord
                file of google-research's frechet_audio_distance.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is damaged or does not hold statistics, or the covariance is not one.
        """
        path = Path(path)
        if file_suffix(path) == GOOGLE_SUFFIX:
            if not path.is_file():
                raise FileNotFoundError(f"no .tfrecord file at {path}")
            record = read_google_record(path)
            if record is None:
                raise ValueError(f"{path} holds no statistics")
            return cls.from_google_record(record, path)
        names = [*itertools.chain(*_KEYS), *_GROUP_SHAPES, *_OTHERS]
        arrays = _npz.read_npz(path, names, functools.partial(_check_headers, path))
        keys = statistics_keys(arrays)
        assert keys is not None, "checked with the headers"
        options = parse_options(str(arrays["options"]), path) if "options" in arrays else {}
        try:
            statistics = cls.from_moments(arrays[keys[0]], arrays[keys[1]], None, options)
            if "vggish.n" in arrays:
                statistics._restore(arrays, parse_options(str(arrays["about"]), path))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return statistics

    def _restore(self, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
        self._given = None
        counts = arrays["groups.n"].tolist()
        if min(counts) < 0 or sum(counts) < 1:
            raise ValueError(f"groups.n must count embeddings, got {counts}")
        for index, n in enumerate(counts):
            upper = np.zeros((_SIZE, _SIZE))
            upper[_UPPER] = arrays["groups.m2"][index]
            mean, m2 = _check_moments(arrays["groups.mean"][index], upper + np.triu(upper, 1).T)
            self._groups[index] = Moments(n, mean, m2)
        self._digests.extend(arrays["digests"].tolist())
        numbers = about.get("recordings"), about.get("constant_recordings")
        is_quantized = about.get("is_quantized")
        if not all(isinstance(number, int) for number in numbers) or is_quantized not in (True, False, None):
            raise ValueError(f"about must hold numbers of recordings, got {dict(about)}")
        self.recordings, self.constant_recordings = numbers  # type: ignore[assignment]  # checked
        self.is_quantized = is_quantized


def check_statistics_path(path: PathLike) -> Path:
    """Returns a path for statistics as a Path, or raises a ValueError for a wrong suffix or an invalid folder."""
    path = Path(path)
    if file_suffix(path) not in (".npz", GOOGLE_SUFFIX):
        raise ValueError(f"expected an .npz or .tfrecord file for statistics, got {path}")
    if not path.parent.is_dir():
        raise ValueError(f"folder {path.parent} does not exist")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file for statistics")
    return path


def statistics_keys(arrays: Iterable[str]) -> tuple[str, str] | None:
    """The names of mean and covariance among those of the arrays in an .npz file; None if it holds no statistics."""
    names = set(arrays)
    return next((keys for keys in _KEYS if names.issuperset(keys)), None)


def _check_headers(path: Path, headers: Mapping[str, _npz.ArrayHeader]) -> None:
    keys = statistics_keys(headers)
    if keys is None:
        found = ", ".join(sorted(headers)) or "none"
        raise ValueError(f"{path} holds no statistics: expected vggish.mu and vggish.cov (arrays: {found})")
    expected: dict[str, tuple[int, ...]] = {keys[0]: (_SIZE,), keys[1]: (_SIZE, _SIZE)}
    if "vggish.n" in headers:
        expected |= {"vggish.n": (), "about": (), **_GROUP_SHAPES}
    for name, shape in expected.items():
        if name not in headers or headers[name].shape != shape:
            got = f"shape {list(headers[name].shape)}" if name in headers else "no such array"
            raise ValueError(f"{path}: {name} must have shape {list(shape)}, got {got}")
    kinds = {**dict.fromkeys(expected, "f"), "vggish.n": "iu", "groups.n": "iu", "about": "U", "options": "U"}
    for name, kind in kinds.items():
        if name in headers and headers[name].dtype.kind not in kind:
            raise ValueError(f"{path}: {name} has an unexpected dtype, {headers[name].dtype}")
    digests = headers.get("digests")
    if "vggish.n" in headers and (digests is None or len(digests.shape) != 1 or digests.dtype != np.uint64):
        raise ValueError(f"{path}: digests must be uint64 [recordings]")


def _check_moments(mean: Rows, covariance: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if mean.shape != (_SIZE,) or covariance.shape != (_SIZE, _SIZE):
        got = f"{list(mean.shape)} and {list(covariance.shape)}"
        raise ValueError(f"expected a mean [{_SIZE}] and a covariance [{_SIZE}, {_SIZE}], got {got}")
    mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("mean and covariance must be finite, got NaN or infinity")
    if np.abs(covariance - covariance.T).max() > _TOLERANCE * np.abs(covariance).max():
        raise ValueError("the covariance must be symmetric")
    covariance = (covariance + covariance.T) / 2
    eigenvalues = np.linalg.eigvalsh(covariance)
    if eigenvalues[0] < -_TOLERANCE * max(eigenvalues[-1], 0):
        raise ValueError(f"the covariance must not have negative eigenvalues, got {eigenvalues[0]:.3g}")
    return mean, covariance


def _group(recording: str) -> int:
    # Stable, so that shards and machines agree.
    return zlib.crc32(os.fsencode(recording)) % GROUPS


def _digest(rows: Rows) -> int:
    content = np.ascontiguousarray(rows, np.float32).tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")

"""What a set of embeddings may be: recordings, embeddings or statistics, of this package and of other tools."""

import contextlib
import functools
import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vggish_keras import _npz, corpus, embedding_files, params
from vggish_keras._atomic import atomic_write
from vggish_keras._errors import error_message
from vggish_keras._validation import PathLike, PcaParams, Postprocessing, check_choice, file_suffix
from vggish_keras.embeddings import Embeddings, check_kind
from vggish_keras.engines import Dtype, Engine
from vggish_keras.exported_options import needs_tensorflow
from vggish_keras.framing import Padding
from vggish_keras.frechet.distance import FadResult, RecordingFad, check_options, compare, rank_recordings
from vggish_keras.frechet.google_record import is_google_record, read_google_record
from vggish_keras.frechet.preparation import LEVELS, TOOLS, Level, Preparation
from vggish_keras.frechet.statistics import Rows, Statistics, check_rows, statistics_keys
from vggish_keras.recordings import Recordings, find_recordings

if TYPE_CHECKING:
    from vggish_keras._reader_process import ReaderProcesses
    from vggish_keras.audio import Channels
    from vggish_keras.embedder import Embedder

EmbeddingSet: TypeAlias = (
    PathLike | Sequence[PathLike] | Statistics | Embeddings | Mapping[str, ArrayLike] | NDArray[Any]
)
Result: TypeAlias = tuple[str | None, Rows | Exception]

_FADTK_STATISTICS = ("", "stats/vggish", "fad_stats/vggish")
_FADTK_EMBEDDINGS = ("", "embeddings/vggish")
"""Where fadtk stores them, below the folder of the recordings, or in a folder without recordings."""
_NOT_OF_EMBEDDINGS = ("recordings", "segments", "labels")
"""Options of an output that do not determine the embeddings."""
_NAMED_FAILURES = 3
_STATES_FILE = "recordings.json"
"""Size and time of the recordings whose embeddings are in a cache."""
_NO_ROWS = np.zeros((0, params.EMBEDDING_SIZE), np.float32)


@dataclass
class OpenSet:
    """A set whose options are known and whose embeddings can be read.

    Attributes:
        name: What the user called it.
        options: How the embeddings were made; empty if unknown.
        failures: Recordings that could not be read, and why; complete once the set was read.
        too_short: Number of recordings without embeddings.
    """

    name: str
    options: dict[str, Any]
    results: Callable[[], Iterable[Result]] | None
    given: Statistics | None = None
    notes: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    too_short: int = 0

    def rows(self) -> Iterator[tuple[str | None, Rows]]:
        """Reads the embeddings of each recording; None names rows of unknown recordings.

        Raises:
            ValueError: The set holds statistics only, or no recording has embeddings.
        """
        results = self.check_embeddings()
        self.failures, self.too_short = [], 0
        found = False
        for recording, rows in results():
            if isinstance(rows, Exception):
                self.failures.append((str(recording), error_message(rows)))
            elif len(rows):
                found = True
                yield recording, rows
            else:
                self.too_short += 1
        if not found:
            raise ValueError(f"{self.name} has no embeddings" + "".join(f"; {note}" for note in self.warnings()))

    def check_embeddings(self) -> Callable[[], Iterable[Result]]:
        """Returns `results`; raises a ValueError if the set holds statistics only."""
        if self.results is None:
            raise ValueError(f"{self.name} holds statistics, expected embeddings or recordings")
        return self.results

    def keep(self) -> None:
        """Keeps the embeddings in memory when they are first read, so that recordings are embedded once."""
        if self.results is not None:
            results = self.results
            self.results = functools.cache(lambda: list(results()))

    def statistics(self) -> Statistics:
        """Reads the set into statistics."""
        if self.given is None:
            statistics = Statistics(self.options)
            for recording, rows in self.rows():
                try:
                    statistics.add(rows, recording)
                except ValueError as error:
                    raise ValueError(f"{self.name}: {error}") from error
            self.given = statistics
        return self.given

    def warnings(self) -> list[str]:
        """What a user must know about a set that was read."""
        found = list(self.notes)
        if self.failures:
            found.append(self.describe_failures())
        if self.too_short:
            found.append(
                f"{_count(self.too_short)} of {self.name} without embeddings: shorter than an example (0.975 s); "
                'use padding "short"'
            )
        return found

    def describe_failures(self) -> str:
        """Describes the first of the recordings that could not be read."""
        reasons = "; ".join(reason for _, reason in self.failures[:_NAMED_FAILURES])
        more = "; .." if len(self.failures) > _NAMED_FAILURES else ""
        return f"{_count(len(self.failures))} of {self.name} could not be read: {reasons}{more}"


def _count(recordings: int) -> str:
    return f"{recordings:,} recording{'s' * (recordings != 1)}"


class SetReader:
    """Opens sets, and embeds recordings with an `Embedder` that is made when the first recording needs it.

    Args:
        relu: True sets negative values to 0, in raw embeddings of any origin.
        level: As in `fad`.
        like: A tool in `TOOLS`, whose options replace those given here.
        progress: As in `Embedder.embed_many`.
        cache: A folder that keeps the embeddings of recordings until they change, so that an interrupted run resumes.
        load: Called before TensorFlow is needed.
        embedder_options: The arguments of `Embedder`.
    """

    def __init__(
        self,
        relu: bool = False,
        level: Level | None = None,
        like: str | None = None,
        progress: bool = False,
        cache: Path | None = None,
        load: Callable[[], object] = lambda: None,
        **embedder_options: Any,
    ) -> None:
        check_choice("level", level, LEVELS)
        check_choice("like", like, (None, *TOOLS))
        self._preparation = Preparation(level)
        if like is not None:
            embedder_options |= TOOLS[like].embedder_options
            self._preparation = TOOLS[like].preparation
        if cache is not None and self._preparation != Preparation():
            raise ValueError("the cache keeps embeddings of recordings at their own level: it excludes level and like")
        if relu and embedder_options.get("postprocess") is not None:
            raise ValueError("relu requires raw embeddings: postprocess must be None")
        self._relu, self._progress, self._cache, self._load = relu, progress, cache, load
        self._embedder_options = embedder_options

    @functools.cached_property
    def embedder(self) -> "Embedder":
        if needs_tensorflow(self._embedder_options.get("weights")):
            self._load()
        from vggish_keras.embedder import Embedder

        return Embedder(**self._embedder_options)

    def open(self, source: EmbeddingSet, name: str = "the set") -> OpenSet:
        """Opens a set.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: Not a set, a damaged file, or statistics or post-processed embeddings under `relu`.
        """
        opened = self._open(source, name)
        if self._relu:
            self._apply_relu(opened)
        return opened

    def _apply_relu(self, opened: OpenSet) -> None:
        if opened.options.get("relu"):
            return
        if opened.options.get("postprocess") is not None:
            raise ValueError(f"relu requires raw embeddings: {opened.name} holds {opened.options['postprocess']} ones")
        results = opened.results
        if results is None:
            if opened.options:
                raise ValueError(f"{opened.name} holds statistics of embeddings without ReLU, which cannot be applied")
            return
        opened.options = {**opened.options, "relu": True}
        opened.results = lambda: (
            (name, rows if isinstance(rows, Exception) else np.maximum(rows, 0)) for name, rows in results()
        )

    def _open(self, source: EmbeddingSet, name: str) -> OpenSet:
        if isinstance(source, Statistics):
            return OpenSet(name, source.options, None, source)
        if isinstance(source, (str, os.PathLike)):
            return self._open_path(os.fspath(source))
        if isinstance(source, Embeddings):
            return _of_results(name, [(None, source.values)])
        if isinstance(source, Mapping):
            return _of_results(name, [(key, check_rows(rows, str(key))) for key, rows in source.items()])
        if isinstance(source, Sequence) and source and all(isinstance(part, (str, os.PathLike)) for part in source):
            return self._open_recordings(list(source), name)
        return _of_results(name, [(None, check_rows(source))])  # type: ignore[arg-type]  # checked by check_rows

    def _open_path(self, path: str) -> OpenSet:
        file = Path(path)
        if file.is_dir():
            return _open_folder(file) or self._open_recordings([path], path)
        if file_suffix(file) == embedding_files.RECORDS_SUFFIX or _is_google_record(file):
            self._load()
            return _open_records(file)
        if file_suffix(file) == ".npy":
            return _of_results(path, [(None, _read_rows(file))])
        if holds_statistics(file):
            statistics = Statistics.load(file)
            return OpenSet(path, statistics.options, None, statistics)
        if file_suffix(file) in embedding_files.SUFFIXES:
            options = _embedding_options(embedding_files.read_options(file))
            return OpenSet(path, options, lambda: ((name, rows.values) for name, rows in embedding_files.read(file)))
        return self._open_recordings([path], path)

    def _open_recordings(self, sources: list[PathLike], name: str) -> OpenSet:
        recordings = find_recordings(sources)
        if not any(map(os.path.exists, recordings.paths)):
            raise FileNotFoundError(f"no file or folder at {recordings.paths[0]}")
        level = self._preparation.level
        options = self.embedder.options | ({} if level is None else {"level": level})
        if self._cache is not None:
            return OpenSet(name, options, functools.partial(self._embed_to_cache, recordings, sources))

        def results() -> Iterator[Result]:
            for path, result in self._embed(recordings.paths):
                relative = recordings.relative_path(path).as_posix()
                yield relative, result if isinstance(result, Exception) else result.values

        return OpenSet(name, options, results)

    def _embed_to_cache(self, recordings: Recordings, sources: list[PathLike]) -> Iterator[Result]:
        """Embeds the recordings that the cache lacks, and reads all of them from it."""
        assert self._cache is not None
        made_with = {name: value for name, value in self.embedder.options.items() if name != "version"}
        digest = zlib.crc32(os.fsencode(recordings.folder) + json.dumps(made_with).encode())
        folder = self._cache / f"{recordings.folder.name}-{digest:08x}"
        _forget_changed(folder, recordings)
        plan = corpus.plan(
            sources, f"{folder}{os.sep}", resume=True, postprocess=self._embedder_options.get("postprocess")
        )
        summary = corpus.embed_corpus(self.embedder, plan, _ignore, _ignore)
        failures = dict(summary.failures)
        for path in recordings.paths:
            relative = recordings.relative_path(path)
            if path in failures:
                yield relative.as_posix(), ValueError(failures[path])
            else:
                rows = [part.values for _, part in embedding_files.read(folder / f"{relative}.npz")]
                yield relative.as_posix(), np.concatenate(rows) if rows else _NO_ROWS

    def _embed(self, paths: list[Path]) -> Iterator[tuple[Path, Embeddings | Exception]]:
        if self._preparation == Preparation():
            yield from self.embedder.embed_many(paths, progress=self._progress)
            return
        from vggish_keras._reader_process import ReaderProcesses

        with contextlib.closing(ReaderProcesses()) as readers:
            for path in paths:
                try:
                    yield path, self._embed_prepared(readers, path)
                except (OSError, ValueError) as error:
                    yield path, error

    def _embed_prepared(self, readers: "ReaderProcesses", path: Path) -> Embeddings:
        blocks = self._preparation.apply(lambda: readers.read(path, self.embedder.channels))
        parts = list(self.embedder.stream(blocks, params.SAMPLE_RATE))
        empty = Embeddings(np.zeros(0), np.zeros((0, params.EMBEDDING_SIZE), np.float32))
        times, values = zip(*(parts or [empty]), strict=True)
        return Embeddings(np.concatenate(times), np.concatenate(values))


def _forget_changed(folder: Path, recordings: Recordings) -> None:
    """Removes the embeddings of recordings that have changed since they were embedded."""
    file = folder / _STATES_FILE
    found = [path for path in recordings.paths if path.is_file()]
    states = {recordings.relative_path(path).as_posix(): _state(path) for path in found}
    try:
        known = json.loads(file.read_bytes())
    except (OSError, ValueError):
        known = None
    known = known if isinstance(known, dict) else {}
    changed = [name for name, state in states.items() if known.get(name) != state]
    for stored in filter(os.path.isfile, (folder / f"{name}.npz" for name in changed)):
        stored.unlink()
    if changed:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as partial:
            partial.write_text(json.dumps({**known, **states}))


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _ignore(*_: object) -> None:
    pass


def _of_results(name: str, results: list[tuple[str | None, Rows]]) -> OpenSet:
    return OpenSet(name, {}, lambda: iter(results))


def _embedding_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _NOT_OF_EMBEDDINGS}


# === Folders ===


def _open_folder(folder: Path) -> OpenSet | None:
    """Opens a folder of embeddings or statistics; None if it contains neither."""
    if (options := corpus.read_folder_options(folder)) is not None:
        return _open_output(folder, _embedding_options(options))
    has_audio = _has_audio(folder)
    # Beside recordings, arrays may be anything.
    for below in _FADTK_STATISTICS[has_audio:]:
        if (folder / below / "mu.npy").is_file() and (folder / below / "cov.npy").is_file():
            return _open_fadtk_statistics(folder, folder / below)
    for below in _FADTK_EMBEDDINGS[has_audio:]:
        if files := sorted((folder / below).glob("*.npy")):
            results = functools.partial(_read_each, files, _read_rows)
            return OpenSet(str(folder), {}, results, notes=_instead_of_audio(folder, below))
    if not has_audio and corpus.find_embeddings(folder):
        return _open_output(folder, {})
    return None


def _open_output(folder: Path, options: dict[str, Any]) -> OpenSet:
    """A folder that `vggish embed` wrote: one file per recording."""
    files = corpus.find_embeddings(folder)

    def read(file: Path) -> Rows:
        rows = [embeddings.values for _, embeddings in embedding_files.read(file)]
        return np.concatenate(rows) if rows else _NO_ROWS

    return OpenSet(str(folder), options, functools.partial(_read_each, files, read, folder))


def _read_each(files: Iterable[Path], read: Callable[[Path], Rows], folder: Path | None = None) -> Iterator[Result]:
    for file in files:
        name = file.name if folder is None else file.relative_to(folder).as_posix()
        try:
            yield name.removesuffix(file.suffix), read(file)
        except (OSError, ValueError) as error:
            yield name, error


def _open_fadtk_statistics(folder: Path, below: Path) -> OpenSet:
    mean, covariance = (_npz.read_npy(below / name) for name in ("mu.npy", "cov.npy"))
    try:
        statistics = Statistics.from_moments(mean, covariance)
    except ValueError as error:
        raise ValueError(f"{below}: {error}") from error
    notes = _instead_of_audio(folder, str(below.relative_to(folder)))
    return OpenSet(str(folder), {}, None, statistics, notes)


def _instead_of_audio(folder: Path, below: str) -> list[str]:
    if below in ("", ".") or not _has_audio(folder):
        return []
    return [f"{folder} also contains recordings: those in {folder / below}, made by another tool, are used instead"]


def _has_audio(folder: Path) -> bool:
    try:
        return bool(find_recordings([folder]).paths)
    except ValueError:
        return False


# === Files ===


def _read_rows(path: Path) -> Rows:
    return check_rows(_npz.read_npy(path), str(path))


def holds_statistics(path: Path) -> bool:
    """Whether an .npz or .tfrecord file holds statistics, of any tool; a ValueError if it is damaged."""
    if file_suffix(path) == embedding_files.RECORDS_SUFFIX:
        return is_google_record(path) and read_google_record(path) is not None
    if file_suffix(path) != ".npz":
        return False
    found = False

    def check(headers: Mapping[str, _npz.ArrayHeader]) -> None:
        nonlocal found
        found = statistics_keys(headers) is not None

    _npz.read_npz(path, [], check)
    return found


def _is_google_record(path: Path) -> bool:
    """Whether it may be statistics of google-research, which need no suffix."""
    return file_suffix(path) not in (".npz", ".npy", *embedding_files.SUFFIXES) and is_google_record(path)


def _open_records(path: Path) -> OpenSet:
    shards = [path] if path.is_file() else embedding_files.existing_shards(path)
    if len(shards) == 1 and is_google_record(shards[0]) and (record := read_google_record(shards[0])) is not None:
        return OpenSet(str(path), {}, None, Statistics.from_google_record(record, path))
    options = _embedding_options(embedding_files.read_options(shards[0])) if shards else {}

    def results() -> Iterator[Result]:
        from vggish_keras import records  # loads TensorFlow

        for record in records.read(shards or path):
            yield record.video_id, record.embedding

    return OpenSet(str(path), options or {"postprocess": "quantized"}, results)


# === Comparing sets ===


def fad(
    baseline: EmbeddingSet,
    evaluated: EmbeddingSet,
    *,
    relu: bool = False,
    level: Level | None = None,
    weights: PathLike | Engine | None = params.AUDIOSET,
    hop_seconds: float | None = None,
    padding: Padding | None = None,
    postprocess: Postprocessing | None = None,
    batch_size: int = 64,
    dtype: Dtype = "float32",
    channels: "Channels" = "mix",
    pca_params: PcaParams = params.AUDIOSET,
) -> FadResult:
    """Computes the Fréchet audio distance (FAD) between two sets.

    A set is a folder, a file or a pattern of recordings, or a list of files, which are embedded in bounded memory; a
    file or a folder written by `vggish embed`; statistics, as an object or a file; an array [n, 128]; a mapping of
    names of recordings to arrays; or the embeddings or statistics that fadtk, frechet-audio-distance, audioldm_eval and
    google-research's frechet_audio_distance save. 8-bit embeddings count as the numbers 0 to 255.

    Args:
        baseline: The set to compare with.
        evaluated: The set to evaluate.
        relu: True sets negative values of raw embeddings to 0, as versions of VGGish with a final ReLU do.
        level: "peak" scales each recording so that its largest sample is 1, and "centered" subtracts its mean, before
            it is embedded.
        weights: As in `Embedder`, for sets that are recordings, and so are the other arguments.
        hop_seconds: Distance between examples.
        padding: What happens at the end of the recording.
        postprocess: None, "pca" or "quantized".
        batch_size: Examples per call of the network.
        dtype: What the network computes in.
        channels: "mix", or the index of a channel.
        pca_params: "audioset", the path of an .npz file, or arrays.

    Returns:
        The distance, its standard error and what is needed to judge it. Recordings that cannot be read are left out and
        reported in its `warnings`.

    Raises:
        FileNotFoundError: A set does not exist, or the published weights are not available.
        ValueError: A set is empty or not a set, or the sets were made with different weights or post-processing.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> result = vk.fad(rng.normal(size=(500, 128)), rng.normal(0.1, 1, size=(400, 128)))
        >>> low, high = result.interval
        >>> low < result.corrected < high < result.value
        True
    """
    reader = SetReader(
        relu,
        level,
        weights=weights,
        hop_seconds=hop_seconds,
        padding=padding,
        postprocess=postprocess,
        batch_size=batch_size,
        dtype=dtype,
        channels=channels,
        pca_params=pca_params,
    )
    return compare_sets(reader.open(baseline, "the baseline"), reader.open(evaluated, "the evaluated set"))


def compare_sets(baseline: OpenSet, evaluated: OpenSet) -> FadResult:
    """As `fad`, for open sets."""
    check_options(baseline.options, evaluated.options)  # before anything is embedded
    sides = baseline.statistics(), evaluated.statistics()
    return compare(*sides, [*baseline.warnings(), *evaluated.warnings()])


def fad_per_recording(
    baseline: EmbeddingSet,
    evaluated: EmbeddingSet,
    *,
    relu: bool = False,
    level: Level | None = None,
    **embedder_options: Any,
) -> list[RecordingFad]:
    """Ranks the recordings of a set by how much they add to its distance from a baseline.

    The embeddings of the evaluated set are kept in memory: 5 KB for ten examples.

    Args:
        baseline: As in `fad`.
        evaluated: As in `fad`, with named recordings: not statistics or an array.
        relu: As in `fad`.
        level: As in `fad`.
        **embedder_options: The arguments of `Embedder`, for sets that are recordings.

    Returns:
        The recordings, largest influence first. A warning names those that cannot be read.

    Raises:
        FileNotFoundError: As in `fad`.
        ValueError: As in `fad`; or the evaluated set has no named recordings.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> evaluated = {"good.wav": rng.normal(size=(200, 128)), "bad.wav": rng.normal(3, 1, size=(20, 128))}
        >>> for row in vk.fad_per_recording(rng.normal(size=(1_000, 128)), evaluated):
        ...     print(row.recording, row.examples)
        bad.wav 20
        good.wav 200
    """
    reader = SetReader(relu, level, **embedder_options)
    sides = reader.open(baseline, "the baseline"), reader.open(evaluated, "the evaluated set")
    ranking = rank_set(*sides)
    for side in sides:
        for message in side.warnings():
            warnings.warn(message, stacklevel=2)
    return ranking


def rank_set(baseline: OpenSet, evaluated: OpenSet) -> list[RecordingFad]:
    """As `fad_per_recording`, for open sets."""
    check_options(baseline.options, evaluated.options)
    named = []
    for recording, rows in evaluated.rows():
        if recording is None:
            raise ValueError(f"{evaluated.name} has no names of recordings: expected a mapping of names to arrays")
        named.append((recording, rows))
    statistics = baseline.statistics()
    is_quantized = statistics.is_quantized
    for recording, rows in named:
        is_quantized = check_kind(rows.dtype, is_quantized, recording)
    return rank_recordings(statistics, named)

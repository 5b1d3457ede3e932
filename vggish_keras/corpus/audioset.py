"""AudioSet records of a corpus, and lists of the recordings that failed."""

import csv
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vggish_keras._atomic import atomic_write
from vggish_keras._text import csv_lines
from vggish_keras._validation import PathLike
from vggish_keras.embedding_files import existing_shards, options_path, write_options
from vggish_keras.embeddings import Embeddings
from vggish_keras.segments import Segment

if TYPE_CHECKING:
    from vggish_keras.records import Record

FAILURES = "failures.csv"


class RecordWriter(NamedTuple):
    """Writes recordings as AudioSet records, divided evenly among shards.

    Attributes:
        shards: Number of files: OUTPUT.tfrecord, or OUTPUT-00000-of-00004.tfrecord and so on.
        segments: The segment of each recording, by its file name without suffix. None stands for whole recordings
            without labels, identified by their paths.
    """

    shards: int
    segments: Mapping[str, Segment] | None

    def files(self, path: Path) -> list[Path]:
        if self.shards == 1:
            return [path]
        name = f"{path.stem}-{{:05}}-of-{self.shards:05}{path.suffix}"
        return [path.with_name(name.format(index)) for index in range(self.shards)]

    def others(self, path: Path) -> list[Path]:
        return [file for file in existing_shards(path) if file not in self.files(path)]

    def write(self, path: Path, recordings: Collection[tuple[str, Embeddings]], options: Mapping[str, Any]) -> None:
        from vggish_keras import records  # loads TensorFlow

        hop_seconds = options["hop_seconds"]
        options_path(path).unlink(missing_ok=True)  # records never lie beside the options of others
        made = (make_record(name, embeddings, hop_seconds, self._segment(name)) for name, embeddings in recordings)
        for index, shard in enumerate(self.files(path)):
            start, stop = (len(recordings) * part // self.shards for part in (index, index + 1))
            records.write(shard, (next(made) for _ in range(stop - start)))
        for other in self.others(path):
            other.unlink()
        write_options(path, options)

    def _segment(self, name: str) -> Segment | None:
        return None if self.segments is None else self.segments[Path(name).stem]


def make_record(name: str, embeddings: Embeddings, hop_seconds: float, segment: Segment | None) -> "Record":
    """The record of a segment or, without one, of a whole recording: its name, times and labels, and the embeddings."""
    from vggish_keras.records import Record

    if segment is not None:
        return Record(*segment, embeddings.values)
    return Record(name, 0.0, len(embeddings.times) * hop_seconds, (), embeddings.values)


# === Failures ===


def failures_row(file: PathLike, reason: str) -> bytes:
    """A line of a list of failures."""
    return csv_lines([[os.fspath(file), reason]])


def failures_path(output: Path) -> Path:
    """The list of failures beside an output that is a single file."""
    return output.with_name(f"{output.name}.{FAILURES}")


def write_failures(path: Path, failures: Iterable[tuple[PathLike, str]]) -> None:
    """Writes the list of failures, or removes an old list if the failures are an empty list."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as partial, partial.open("wb") as file:
        file.write(failures_row("file", "reason"))
        file.writelines(failures_row(*failure) for failure in failures)


def update_failures(path: Path, failures: Iterable[tuple[PathLike, str]], is_settled: Callable[[Path], bool]) -> None:
    """Writes the failures of a run, and keeps those of earlier runs whose recordings exist and are not settled."""
    new = {os.fspath(file): reason for file, reason in failures}
    old = {
        file: reason
        for file, reason in read_failures(path).items()
        if file not in new and os.path.lexists(file) and not is_settled(Path(file))
    }
    write_failures(path, [*new.items(), *old.items()])


def read_failures(path: Path) -> dict[str, str]:
    """The files in a list of failures, and their reasons; empty if the list does not exist."""
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.reader(file))[1:]
    except FileNotFoundError:
        return {}
    return {row[0]: row[1] for row in rows if len(row) > 1}

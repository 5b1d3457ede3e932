"""AudioSet's forms of a corpus: its records, and the list of recordings that cannot be read."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vggish_keras._atomic import atomic_write
from vggish_keras.embeddings import Embeddings
from vggish_keras.segments import Segment

if TYPE_CHECKING:
    from vggish_keras.records import Record

RECORDS_SUFFIX = ".tfrecord"
FAILURES = "failures.csv"


class RecordWriter(NamedTuple):
    """Writes recordings as AudioSet's records, each shard a file with as many recordings.

    Attributes:
        hop_seconds: Distance of examples.
        shards: The number of files: one is OUTPUT.tfrecord, more are OUTPUT-00000-of-00004.tfrecord and so on.
        segments: Names, times and labels by the recordings' names without suffix; None takes the path as the name and
            all of the recording, without labels.
    """

    hop_seconds: float
    shards: int
    segments: dict[str, Segment] | None

    def write(self, path: Path, recordings: Any) -> None:
        from vggish_keras import records  # which loads TensorFlow

        made = (self._record(Path(name), embeddings) for name, embeddings in recordings)
        for index, shard in enumerate(self.files(path)):
            start, stop = (len(recordings) * part // self.shards for part in (index, index + 1))
            records.write(shard, (next(made) for _ in range(stop - start)))

    def files(self, path: Path) -> list[Path]:
        if self.shards == 1:
            return [path]
        name = f"{path.stem}-{{:05}}-of-{self.shards:05}{path.suffix}"
        return [path.with_name(name.format(index)) for index in range(self.shards)]

    def _record(self, path: Path, embeddings: Embeddings) -> "Record":
        segment = None if self.segments is None else self.segments[path.stem]
        return make_record(str(path), embeddings, self.hop_seconds, segment)


def make_record(name: str, embeddings: Embeddings, hop_seconds: float, segment: Segment | None) -> "Record":
    """The record of a recording: name, times and labels of its segment, or its path and all of it without labels."""
    from vggish_keras.records import Record

    if segment is not None:
        return Record(*segment, embeddings.values)
    return Record(name, 0.0, len(embeddings.times) * hop_seconds, (), embeddings.values)


# === Failures ===


def failures_row(file: str | os.PathLike[str], reason: str) -> bytes:
    """A line of the list of bad recordings."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow([os.fspath(file), reason])
    return text.getvalue().encode(errors="surrogateescape")


FAILURES_HEADER = failures_row("file", "reason")


def write_failures(path: Path, failures: Sequence[tuple[Path, str]]) -> None:
    """Lists bad recordings; of none there is no file, not even an old one."""
    if not failures:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as aside:
        aside.write_bytes(FAILURES_HEADER + b"".join(failures_row(*failure) for failure in failures))

"""AudioSet's segment lists and class list."""

import contextlib
import csv
import math
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from vggish_keras._validation import PathLike

_MAX_LABELS = 2**31
_LABELS_HINT = "; to convert label names to indices, pass AudioSet's class_labels_indices.csv as labels (--labels)"


class Segment(NamedTuple):
    """A line of a segment list: a section of a video, and its labels.

    Examples:
        >>> from vggish_keras.segments import Segment
        >>> segment = Segment("--4gqARaEJE", 0.0, 10.0, labels=(69, 73))
        >>> segment.end_time_seconds - segment.start_time_seconds
        10.0
    """

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    labels: tuple[int, ...]


def read_segments(path: PathLike, labels: PathLike | None = None) -> dict[str, Segment]:
    """Reads an AudioSet segment list, whose lines are YTID, start_seconds, end_seconds, "positive_labels".

    Args:
        path: The list, such as eval_segments.csv.
        labels: AudioSet's class_labels_indices.csv, which maps label names such as /m/09x0r to indices. Without it the
            list must contain indices.

    Returns:
        The segments by the usual file names of clips, without suffix: YTID, or YTID_START with the start in seconds (30
        or 30.000) or milliseconds. A name that several lines have in common is not a key.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A line is malformed or has an unknown label.

    Examples:
        >>> from vggish_keras.segments import read_segments
        >>> _ = Path("segments.csv").write_text('abc, 30.000, 40.000, "0,137"')
        >>> read_segments("segments.csv")["abc_30.000"]
        Segment(video_id='abc', start_time_seconds=30.0, end_time_seconds=40.0, labels=(0, 137))
    """
    indices = {} if labels is None else _read_label_indices(labels)
    segments: dict[str, Segment] = {}
    ambiguous = set()
    with _open_text(path) as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip() and not line.startswith("#"))
        for number, line in lines:
            try:
                (name, start, end, names) = next(csv.reader([line], skipinitialspace=True))
                named = filter(None, names.split(","))
                known = tuple(int(label) if labels is None else indices[label] for label in named)
                segment = Segment(name, float(start), float(end), known)
                milliseconds = round(1_000 * segment.start_time_seconds)
                if not math.isfinite(segment.end_time_seconds) or not all(0 <= label < _MAX_LABELS for label in known):
                    raise ValueError
            except KeyError as error:
                raise ValueError(f"{path}, line {number}: label {error.args[0]} is not in {labels}") from error
            except (ValueError, OverflowError, csv.Error) as error:
                reason = "expected YTID, start_seconds, end_seconds and labels"
                hint = _LABELS_HINT if "/m/" in line and labels is None else ""
                raise ValueError(f"{path}, line {number}: {reason}{hint}") from error
            begin = segment.start_time_seconds
            if f"{name}_{begin:.3f}" in segments:
                raise ValueError(f"{path}, line {number}: {name} at {begin:g} s occurs twice")
            for key in (name, f"{name}_{begin:g}", f"{name}_{begin:.3f}", f"{name}_{milliseconds}"):
                if segments.setdefault(key, segment) is not segment:
                    ambiguous.add(key)
    return {key: segment for key, segment in segments.items() if key not in ambiguous}


def read_class_names(path: PathLike) -> list[str]:
    r"""Reads the names of AudioSet's classes.

    Args:
        path: AudioSet's class_labels_indices.csv, or any list with the columns index and display_name.

    Returns:
        The display names, so that `names[label]` is the name of a record's label.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A column is missing, or the indices are not 0, 1, 2 and so on.

    Examples:
        >>> from vggish_keras.segments import read_class_names
        >>> _ = Path("class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/09x0r,Speech\n")
        >>> read_class_names("class_labels_indices.csv")
        ['Speech']
    """
    classes = sorted(_read_class_list(path, "display_name"))
    if [index for index, _ in classes] != list(range(len(classes))):
        raise ValueError(f"{path}: the indices of the classes must be 0, 1, 2 and so on")
    return [name for _, name in classes]


def _read_label_indices(path: PathLike) -> dict[str, int]:
    return {label: index for index, label in _read_class_list(path, "mid")}


def _read_class_list(path: PathLike, column: str) -> list[tuple[int, str]]:
    """Returns the columns index and `column` of a class list."""
    with _open_text(path) as file:
        try:
            rows = [(int(row["index"]), row[column]) for row in csv.DictReader(file)]
        except (KeyError, ValueError, TypeError, csv.Error) as error:
            raise ValueError(f"{path} is not a class list with the columns index and {column}") from error
    if any(value is None for _, value in rows):
        raise ValueError(f"{path}: a row has no {column}")
    return rows


@contextlib.contextmanager
def _open_text(path: PathLike) -> Iterator[TextIO]:
    """Opens a list, which may start with a byte order mark; an error of its encoding names it."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            yield file
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error}") from error

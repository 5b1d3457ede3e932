"""AudioSet's lists of segments."""

import csv
from typing import NamedTuple

from vggish_keras._validation import PathLike


class Segment(NamedTuple):
    """A line of AudioSet's lists: where a clip lies in its video, and its labels."""

    video_id: str
    start_time_seconds: float
    end_time_seconds: float
    labels: tuple[int, ...]


def read_segments(path: PathLike, labels: PathLike | None = None) -> dict[str, Segment]:
    """Reads a list of AudioSet's segments: lines of YTID, start_seconds, end_seconds, "positive_labels".

    Args:
        path: The list, such as eval_segments.csv.
        labels: AudioSet's class_labels_indices.csv, which gives the index of a label's name, such as /m/09x0r. Without
            it the labels must be indices.

    Returns:
        The segments by the file names, without suffix, that clips commonly have: YTID, and YTID_START with the start in
        seconds (30 or 30.000) or milliseconds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line that does not belong in such a list, or an unknown label.
    """
    indices = {} if labels is None else _read_label_indices(labels)
    segments: dict[str, Segment] = {}
    several = set()
    with open(path, encoding="utf-8", newline="") as file:
        lines = ((number, line) for number, line in enumerate(file, 1) if line.strip() and not line.startswith("#"))
        for number, line in lines:
            try:
                (name, start, end, names) = next(csv.reader([line], skipinitialspace=True))
                named = filter(None, names.split(","))
                known = tuple(int(label) if labels is None else indices[label] for label in named)
                segment = Segment(name, float(start), float(end), known)
            except KeyError as error:
                raise ValueError(f"{path}, line {number}: label {error.args[0]} is not in {labels}") from error
            except ValueError as error:
                reason = "expected YTID, start_seconds, end_seconds and labels"
                needed = ": names of labels need the list of their indices" if "/m/" in line and labels is None else ""
                raise ValueError(f"{path}, line {number}: {reason}{needed}") from error
            if name in segments:
                several.add(name)
            begin = segment.start_time_seconds
            for key in (name, f"{name}_{begin:g}", f"{name}_{begin:.3f}", f"{name}_{round(1_000 * begin)}"):
                segments[key] = segment
    return {key: segment for key, segment in segments.items() if key not in several}


def _read_label_indices(path: PathLike) -> dict[str, int]:
    with open(path, encoding="utf-8", newline="") as file:
        try:
            return {row["mid"]: int(row["index"]) for row in csv.DictReader(file)}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is no list of classes with the columns index and mid") from error

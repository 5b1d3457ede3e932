"""Names of files as text, which may contain bytes that are not UTF-8."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def printable(name: str) -> str:
    """The name as valid text, with escape sequences in place of bytes that are not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as lines of a .csv file, in which names keep their bytes."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")

"""Progress of a long run: a bar on a terminal, periodic lines elsewhere."""

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bar,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from vggish_keras._errors import counted

_SECONDS_BETWEEN_LINES = 10.0


Outcome = Literal["saved", "skipped", "failed"]


class Progress:
    """A context manager that counts files and their audio, and shows the counts on standard error.

    Args:
        files: Total number of files.
        quiet: True shows nothing.

    Attributes:
        seconds: Seconds of audio in files that were saved.
    """

    def __init__(self, files: int, quiet: bool = False) -> None:
        self.seconds = 0.0
        self._files = files
        self._counts: Counter[Outcome] = Counter()
        self._read: dict[Path, float] = {}
        self._lock = threading.Lock()
        self._start = self._last_line = time.monotonic()
        console = Console(stderr=True, markup=False, highlight=False)
        self._lines = not quiet and not console.is_terminal
        options: dict[str, Any] = {"console": console, "disable": quiet or self._lines, "transient": True}
        self._bar = Bar(*_columns(console.width), expand=True, redirect_stdout=False, **options)
        self._task = self._bar.add_task("", total=files, audio="")

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since construction."""
        return time.monotonic() - self._start

    def describe(self) -> str:
        """Describes the audio that this run saved, and its speed."""
        described = f"{_clock(self.seconds)} of audio in {_clock(self.elapsed)}"
        if not self.seconds:
            return described
        speed = self.seconds / max(self.elapsed, 1e-9)
        return f"{described}, {speed:{'#.2g' if speed < 9.95 else '.0f'}} times real time"

    def describe_saved(self) -> str:
        """Describes what a resumed run will find."""
        saved, skipped = self._counts["saved"], self._counts["skipped"]
        audio = f"{_clock(self.seconds)} of audio" + (f" and {skipped} from earlier runs" if skipped else "")
        return f"{saved + skipped} of {counted(self._files, 'file')} saved ({audio})"

    def audio(self, file: Path, seconds: float) -> None:
        """Counts audio that was read from a file. Thread-safe."""
        with self._lock:
            self._read[file] = self._read.get(file, 0.0) + seconds
        self._show()

    def file(self, file: Path, outcome: Outcome) -> None:
        """Counts a finished file, and its audio if it was saved. An earlier run finished a skipped file."""
        with self._lock:
            seconds = self._read.pop(file, 0.0)
        if outcome == "saved":
            self.seconds += seconds
        self._counts[outcome] += 1
        self._show()

    def _show(self) -> None:
        if not self._lines:
            self._bar.update(self._task, completed=self._counts.total(), audio=self._describe_now())
            return
        with self._lock:
            due = time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES
            if due:
                self._last_line = time.monotonic()
        if due:
            done = self._counts.total()
            processed = done - self._counts["skipped"]
            remaining = ""
            if processed:
                seconds = self.elapsed / processed * (self._files - done)
                remaining = f", {_clock(seconds)} left"
            line = f"{done} of {counted(self._files, 'file')}, {self._describe_now()}{remaining}"
            self._bar.console.print(line, soft_wrap=True)

    def _describe_now(self) -> str:
        """Describes the audio that was saved and, so that long recordings show progress, the audio read ahead of it."""
        with self._lock:
            ahead = round(sum(self._read.values()))
        return self.describe() + (f", {_clock(ahead)} read ahead" if ahead else "")


def _columns(width: int) -> list[ProgressColumn]:
    """The number of files, which is never cut, and what fits beside it on a terminal of this width."""
    bar = min(20, width - 70)
    return [
        MofNCompleteColumn(),
        *([BarColumn(bar)] if bar > 0 else []),
        TimeRemainingColumn(),
        TextColumn("{task.fields[audio]}", table_column=Column(ratio=1, no_wrap=True)),
    ]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"

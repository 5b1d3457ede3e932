"""Progress of a long run: a bar on a terminal, periodic lines elsewhere."""

import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A context manager that counts files and audio, and shows the counts on standard error.

    Args:
        files: Total number of files.
        quiet: True shows nothing.
    """

    def __init__(self, files: int, quiet: bool = False) -> None:
        self._files = files
        self._done = self._skipped = 0
        self._lock = threading.Lock()
        self.seconds = 0.0
        """Seconds of audio so far."""
        self._start = self._last_line = time.monotonic()
        console = Console(stderr=True, markup=False, highlight=False)
        self._lines = not quiet and not console.is_terminal
        columns = (MofNCompleteColumn(), BarColumn(), TextColumn("{task.fields[audio]}"), TimeRemainingColumn())
        self._bar = Bar(*columns, console=console, disable=quiet or self._lines, transient=True)
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
        """Describes the audio and the speed so far."""
        speed = self.seconds / max(self.elapsed, 1e-9)
        return f"{self.seconds / 3600:.2f} h of audio in {_clock(self.elapsed)}, {speed:.0f} times real time"

    def audio(self, seconds: float) -> None:
        """Counts audio that was read. Thread-safe."""
        with self._lock:
            self.seconds += seconds
        self._show()

    def file(self, skipped: bool = False) -> None:
        """Counts a finished file; `skipped` if an earlier run finished it."""
        self._done += 1
        self._skipped += skipped
        self._show(advance=1)

    def _show(self, advance: int = 0) -> None:
        if not self._lines:
            self._bar.update(self._task, advance=advance, audio=self.describe())
            return
        with self._lock:
            due = time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES
            if due:
                self._last_line = time.monotonic()
        if due:
            processed = self._done - self._skipped
            remaining = ""
            if processed:
                seconds = self.elapsed / processed * (self._files - self._done)
                remaining = f", {_clock(seconds)} left"
            self._bar.console.print(
                f"{self._done} of {self._files} files, {self.describe()}{remaining}", soft_wrap=True
            )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"

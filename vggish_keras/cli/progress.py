"""How far a long run is: a bar on a terminal, a line now and then elsewhere."""

import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts files and audio, and shows them on standard error; to be used as a context.

    Args:
        files: The number of files.
        quiet: True shows nothing.
    """

    def __init__(self, files: int, quiet: bool = False) -> None:
        self._files = files
        self._done = self._were_there = 0
        self._lock = threading.Lock()
        self.seconds = 0.0
        """Of audio."""
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
        """Seconds since it was made."""
        return time.monotonic() - self._start

    def describe(self) -> str:
        """The audio and the speed so far."""
        times = self.seconds / max(self.elapsed, 1e-9)
        return f"{self.seconds / 3600:.2f} h of audio in {_clock(self.elapsed)}, {times:.0f} times real time"

    def audio(self, seconds: float) -> None:
        """Counts audio that was read; from any thread."""
        with self._lock:
            self.seconds += seconds
        self._show()

    def file(self, was_there: bool = False) -> None:
        """Counts a file that is done, in this run or before."""
        self._done += 1
        self._were_there += was_there
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
            now = self._done - self._were_there
            left = self.elapsed / now * (self._files - self._done) if now else None
            remaining = "" if left is None else f", {_clock(left)} left"
            self._bar.console.print(
                f"{self._done} of {self._files} files, {self.describe()}{remaining}", soft_wrap=True
            )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"

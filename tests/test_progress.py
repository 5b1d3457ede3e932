import os
import re
import subprocess
import sys

import pytest

from vggish_keras.cli import progress

RUN = """
import time
from vggish_keras.cli import progress
progress._SECONDS_BETWEEN_LINES = 0.1
with progress.Progress(4) as shown:
    for _ in range(4):
        time.sleep(0.15)
        shown.audio("a.wav", 1200)
        shown.audio("b.wav", 0.5)
        shown.audio("a.wav", 600)
        shown.file("a.wav", "saved")
"""


def test_prints_lines_without_a_terminal():
    result = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert 2 <= len(lines) <= 8
    for line in lines:
        assert re.fullmatch(
            r"\d of 4 files, \d:\d0:00 of audio in 0:00:0\d(, \d+ times real time)?(, 0:\d\d:0\d read ahead)?"
            r"(, 0:00:0\d left)?",
            line,
        )


def show_on_a_terminal(columns):
    pty = pytest.importorskip("pty")
    read, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], stderr=terminal, env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    )
    process.wait(timeout=30)
    os.close(terminal)
    # Without colors and cursor movements.
    return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", os.read(read, 100_000).decode())


def test_draws_a_bar_on_a_terminal():
    shown = show_on_a_terminal(120)
    assert re.search(r"3/4 [━╸╺]+ \d:\d\d:\d\d 1:30:00 of audio in 0:00:0\d, \d+ times real time", shown)


@pytest.mark.parametrize("columns", [40, 60])
def test_narrow_terminals_show_the_number_of_files(columns):
    shown = show_on_a_terminal(columns)
    assert "━" not in shown
    lines = re.findall(r"3/4 \d:\d\d:\d\d 1:30:00 of audio[^\r]*", shown)
    assert lines
    assert max(map(len, lines)) <= columns


def test_quiet_shows_nothing(capsys):
    with progress.Progress(1, quiet=True) as shown:
        shown.audio("a.wav", 36)
        shown.file("a.wav", "saved")
    assert capsys.readouterr() == ("", "")
    assert shown.describe().startswith("0:00:36 of audio in 0:00:00, ")


def test_counts_only_what_is_saved():
    with progress.Progress(9, quiet=True) as shown:
        for name, seconds in (("long.wav", 5_000), ("bad.wav", 20), ("a.wav", 30), ("b.wav", 40), ("a.wav", 5)):
            shown.audio(name, seconds)
        assert shown.describe_saved() == "0 of 9 files saved (0:00:00 of audio)"
        assert re.fullmatch(r"0:00:00 of audio in 0:00:00", shown.describe())
        shown.file("bad.wav", "failed")
        shown.file("a.wav", "saved")
        assert shown.describe_saved() == "1 of 9 files saved (0:00:35 of audio)"
        shown.file("old.wav", "skipped")
        shown.file("b.wav", "saved")
    assert shown.describe_saved() == "3 of 9 files saved (0:01:15 of audio and 1 from earlier runs)"
    assert shown.describe().startswith("0:01:15 of audio in 0:00:00, ")


@pytest.mark.parametrize(
    ("elapsed", "speed"), [(1, "36"), (3.6, "10"), (5, "7.2"), (36, "1.0"), (72, "0.50"), (1_000, "0.036")]
)
def test_speed_has_two_digits(monkeypatch, elapsed, speed):
    with progress.Progress(1, quiet=True) as shown:
        shown.audio("a.wav", 36)
        shown.file("a.wav", "saved")
    monkeypatch.setattr(progress.Progress, "elapsed", elapsed)
    assert shown.describe().endswith(f", {speed} times real time")
    assert shown.describe_saved() == "1 of 1 file saved (0:00:36 of audio)"

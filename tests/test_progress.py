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
            r"\d of 4 files, \d:\d0:00 of audio in 0:00:0\d, \d+ times real time(, 0:\d\d:0\d read ahead)?"
            r"(, 0:00:0\d left)?",
            line,
        )


def test_draws_a_bar_on_a_terminal():
    pty = pytest.importorskip("pty")
    read, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], stderr=terminal, env={**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    )
    process.wait(timeout=30)
    os.close(terminal)
    shown = os.read(read, 100_000).decode()
    assert "3/4" in shown
    assert re.search(r"1:30:00 of audio in 0:00:0\d, \d+ times real time", shown)


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
        assert shown.describe_saved() == "0 of 9 files are saved (0:00:00 of audio)"
        shown.file("bad.wav", "failed")
        shown.file("a.wav", "saved")
        assert shown.describe_saved() == "1 of 9 files are saved (0:00:35 of audio)"
        shown.file("old.wav", "skipped")
        shown.file("b.wav", "saved")
    assert shown.describe_saved() == "3 of 9 files are saved (0:01:15 of audio and 1 from earlier runs)"
    assert shown.describe().startswith("0:01:15 of audio in 0:00:00, ")

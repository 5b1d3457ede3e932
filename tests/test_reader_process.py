import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from tests.encoding import encode
from vggish_keras._reader_process import ReaderProcesses
from vggish_keras.resample import read_waveform

STEREO = np.random.default_rng(0).uniform(-0.5, 0.5, (100_000, 2))


@pytest.fixture
def readers():
    readers = ReaderProcesses()
    yield readers
    readers.close()


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "stereo.wav"
    soundfile.write(path, STEREO, 44_100)
    return path


@pytest.fixture
def children():
    """Lists the child processes of this process that have started during the test."""
    before = set(psutil.Process().children())
    return lambda: [child for child in psutil.Process().children() if child not in before]


def test_reads_what_this_process_would(readers, recording):
    seconds = []
    for channels in ("mix", 1):
        expected = np.concatenate(list(read_waveform(recording, channels)))
        got = np.concatenate(list(readers.read(recording, channels, seconds.append)))
        # BLAS adds in a different order in one thread.
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert sum(seconds) == pytest.approx(2 * 100_000 / 44_100)


def test_errors_are_those_of_this_process(readers, recording, tmp_path, children):
    (tmp_path / "text.wav").write_text("no audio")
    (tmp_path / "cut.wav").write_bytes(recording.read_bytes()[:-20_000])
    for path, channels in ((tmp_path / name, "mix") for name in ("text.wav", "cut.wav", "none.wav", ".")):
        with pytest.raises((ValueError, OSError)) as expected:
            list(read_waveform(path, channels))
        with pytest.raises(expected.type) as got:
            list(readers.read(path, channels))
        assert str(got.value) == str(expected.value)
    assert len(children()) == 1  # the process survives unreadable files


def test_warnings_reach_the_caller(readers, tmp_path):
    path = tmp_path / "inverted.wav"
    soundfile.write(path, STEREO[:, :1] * [1, -1], 44_100)
    with pytest.warns(UserWarning, match=r"inverted\.wav: the channels cancel each other"):
        list(readers.read(path))


def test_paths_are_relative_to_the_current_folder(readers, recording, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        list(readers.read("stereo.wav"))
    monkeypatch.chdir(tmp_path)
    assert sum(map(len, readers.read("stereo.wav"))) == 100_000 * 16_000 // 44_100
    odd = Path(os.fsdecode(b"\xff\n.wav"))
    odd.write_bytes(recording.read_bytes())
    assert sum(map(len, readers.read(odd))) > 0


def test_modules_in_the_current_folder_are_not_executed(readers, recording, tmp_path, monkeypatch):
    (tmp_path / "pickle.py").write_text("open('executed', 'w').close(); raise RuntimeError")
    monkeypatch.chdir(tmp_path)
    assert sum(map(len, readers.read(recording))) > 0
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("while True: pass", "its decoder returned nothing for 3 s"),
        ("ctypes.string_at(0)", r"its decoder crashed \(SIGSEGV\)"),
        ("os.kill(os.getpid(), signal.SIGABRT)", r"its decoder crashed \(SIGABRT\)"),
        ("os._exit(7)", r"its decoder crashed \(status 7\)"),
    ],
)
def test_decoder_that_hangs_or_crashes_fails_only_its_file(
    time_limit, readers, left_to_libsndfile, tmp_path, broken_decoder, caplog, line, reason
):
    broken_decoder(line)
    caplog.set_level("INFO", "vggish_keras")
    (tmp_path / "empty.wav").touch()
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"stereo\.voc cannot be read as audio: {reason}"):
        list(readers.read(left_to_libsndfile))
    assert time.monotonic() - start < time_limit(30)
    with pytest.raises(ValueError, match="the file is empty"):
        list(readers.read(tmp_path / "empty.wav"))
    assert re.fullmatch(f"replacing the process that read {left_to_libsndfile}: {reason}", "".join(caplog.messages))


def test_closing_ends_a_decoder_that_never_returns(left_to_libsndfile, broken_decoder, children, caplog):
    caplog.set_level("INFO", "vggish_keras")
    broken_decoder("import time; time.sleep(1_000)")
    readers = ReaderProcesses()
    failures = []

    def read():
        try:
            list(readers.read(left_to_libsndfile))
        except ValueError as error:
            failures.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    while not children():
        time.sleep(0.01)
    readers.close()
    thread.join(timeout=60)
    assert not caplog.messages
    assert not thread.is_alive()
    assert failures
    assert not children()


def test_recording_abandoned_halfway_ends_its_process(readers, tmp_path, children):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(5_000_000), 16_000)
    blocks = readers.read(path)
    next(blocks)
    blocks.close()
    assert not children()
    assert sum(map(len, readers.read(path))) == 5_000_000
    assert len(children()) == 1


def test_recording_that_the_caller_abandons_does_not_leak_into_the_next(readers, recording, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.full((1_000_000, 2), [0.5, -0.5]), 16_000)  # whose channels cancel: a warning

    def stop(_):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match=r"^stop$"):
        list(readers.read(path, on_audio=stop))
    with pytest.raises(UserWarning, match="cancel"):  # as warnings are errors in tests
        list(readers.read(path))
    got = np.concatenate(list(readers.read(recording)))
    np.testing.assert_allclose(got, np.concatenate(list(read_waveform(recording))), atol=1e-6)


def test_output_of_decoders_is_discarded(readers, left_to_libsndfile, broken_decoder, capfd):
    broken_decoder("os.write(1, b'out'); os.write(2, b'err'); raise RuntimeError('no')")
    with pytest.raises(RuntimeError, match=r"^no$"):
        list(readers.read(left_to_libsndfile))
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
def test_processes_end_when_their_parent_is_killed(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(5_000_000), 16_000)
    code = (
        "import os, sys, time; from vggish_keras._reader_process import ReaderProcesses\n"
        "blocks = ReaderProcesses().read(sys.argv[1]); next(blocks); print('read', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"read\n"
    (child,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    child.wait(timeout=60)


@pytest.mark.slow
def test_a_day_of_opus_in_constant_memory(readers, tmp_path, children):
    """Reads an hour, 24 times in a row."""
    hour = encode(np.random.default_rng(0).uniform(-0.1, 0.1, 3_600 * 8_000), 8_000, "libopus", "ogg", bit_rate=16_000)
    path = tmp_path / "day.opus"
    with path.open("wb") as file:
        for _ in range(24):
            file.write(hour)
    samples, memory = 0, []
    for index, block in enumerate(readers.read(path)):
        samples += len(block)
        if index % 1_000 == 0:
            memory.append(children()[0].memory_info().rss + psutil.Process().memory_info().rss)
    assert samples / 16_000 == pytest.approx(24 * 3_600, abs=1)
    assert max(memory) < memory[0] + 200e6

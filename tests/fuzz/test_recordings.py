"""Damaged recordings are read, perhaps with a warning, or raise an error that names the file; none hangs or crashes."""

import io
import warnings

import numpy as np
import psutil
import pytest
import soundfile

from tests.encoding import encode
from tests.fuzz.mutations import mutate
from vggish_keras._reader_process import ReaderProcesses

pytestmark = pytest.mark.fuzz

COUNT = 2_000
SAMPLES = 0.5 * np.random.default_rng(0).uniform(-1, 1, (8_000, 2))
PLAIN = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAVEX", "PCM_24"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
]
PLAIN += [
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("CAF", "ALAC_16"),
    ("VOC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("WAV", "IMA_ADPCM"),
]
COMPRESSED = [
    ("libmp3lame", "mp3"),
    ("libopus", "ogg"),
    ("flac", "flac"),
    ("aac", "adts"),
    ("aac", "mp4"),
    ("alac", "ipod"),
]
COMPRESSED += [
    ("libopus", "webm"),
    ("aac", "matroska"),
    ("wmav2", "asf"),
    ("mp2", "mp2"),
    ("tta", "tta"),
    ("wavpack", "wv"),
]
COMPRESSED += [("aac", "flv"), ("aac", "mpegts"), ("libmp3lame", "avi"), ("libmp3lame", "wav")]


def originals() -> list[bytes]:
    files = []
    for format, subtype in PLAIN:
        file = io.BytesIO()
        soundfile.write(file, SAMPLES, 16_000, format=format, subtype=subtype)
        files.append(file.getvalue())
    for codec, container in COMPRESSED:
        files.append(encode(SAMPLES, 48_000 if codec == "libopus" else 16_000, codec, container))
    return files


def seconds_of(process):
    """The processor time that a process has used."""
    return sum(process.cpu_times()[:2])


def test_damaged_recordings(tmp_path):
    files = originals()
    good = tmp_path / "good.wav"
    good.write_bytes(files[0])
    path = tmp_path / "mutated.bin"
    readers = ReaderProcesses()
    others = set(psutil.Process().children())
    expected = np.concatenate(list(readers.read(good)))
    (child,) = set(psutil.Process().children()) - others
    failed, memory = 0, []
    try:
        for seed in range(COUNT):
            rng = np.random.default_rng(seed)
            path.write_bytes(mutate(files[seed % len(files)], rng))
            used = seconds_of(child)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                message = ""
                try:
                    for block in readers.read(path):
                        assert np.all(np.isfinite(block)), f"seed {seed}"
                except (ValueError, OSError) as error:
                    message = str(error)
            failed += bool(message)
            assert "mutated.bin" in message or not message, f"seed {seed}: {message}"
            assert "its decoder" not in message, f"seed {seed}: {message}"
            assert all("mutated.bin" in str(warning.message) for warning in caught), f"seed {seed}"
            assert seconds_of(child) - used < 5, f"seed {seed}"
            if seed % 50 == 0:
                np.testing.assert_array_equal(np.concatenate(list(readers.read(good))), expected)
                memory.append(child.memory_info().rss)
    finally:
        readers.close()
    assert COUNT // 10 < failed < COUNT
    # Filters of odd rates and FFmpeg's buffers are cached up to a limit, which is reached early.
    assert memory[-1] < memory[len(memory) // 4] + 200e6

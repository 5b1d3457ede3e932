"""Runs that are killed at random moments, or start at the same time, end with the output of an undisturbed run."""

import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from tests.fuzz import mutations

pytestmark = pytest.mark.fuzz

COUNT = 120
TARGETS = ("out", "out.npz", "out.csv", "out.parquet", "out.tfrecord")


def test_killed_runs():
    mutations.try_seeds("tests.fuzz.test_stops", COUNT)


class Embedder:
    """Computes distinct embeddings for each recording, without a network."""

    def __init__(self):
        self.options = {"weights": "w", "hop_seconds": 0.96}

    def embed_many(self, paths, on_audio):
        from vggish_keras.embeddings import Embeddings

        for path in paths:
            time.sleep(0.001)
            number = int(path.stem)
            values = np.random.default_rng(number).integers(0, 256, (number % 4, 128), np.uint8)
            yield (
                path,
                Embeddings(0.96 * np.arange(len(values)), values) if number != 17 else ValueError(f"{path}: bad"),
            )


def embed(target: str, **options: bool) -> None:
    from vggish_keras import corpus

    plan = corpus.plan(["corpus"], target, shards=2 if target.endswith(".tfrecord") else 1, **options)
    corpus.embed_corpus(Embedder(), plan, lambda *_: None, lambda *_: None)


def start(target: str, **options: bool) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        embed(target, **options)
        status = 0
    except OSError:  # in use by the other run, or finished by it
        status = 2
    finally:
        os._exit(status)


def kill(target: str, seconds: float, **options: bool) -> None:
    """Starts a run and kills it."""
    child = start(target, **options)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def contents() -> dict[str, bytes]:
    # The database remains after failures, and its bytes depend on its history.
    files = [path for path in Path().rglob("*") if path.is_file() and path.parts[0] != "corpus"]
    return {str(path): b"" if path.suffix == ".unfinished" else path.read_bytes() for path in files}


def check(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, two_at_once = TARGETS[seed % len(TARGETS)], seed % 3 == 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("corpus").mkdir()
        for index in range(40):
            Path("corpus", f"{index:02}.wav").touch()
        begin = time.monotonic()
        embed(target)
        seconds = time.monotonic() - begin
        expected = contents()
        if seed % 4 == 0:
            kill(target, rng.uniform(0, seconds), overwrite=True)
        else:
            for path in map(Path, expected):
                path.unlink()
        if two_at_once:
            children = [start(target, overwrite=True) for _ in range(2)]
            statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
            assert 0 in statuses, statuses
            assert 1 not in statuses, statuses
        for _ in range(rng.integers(1, 4)):
            kill(target, rng.uniform(0, 1.1 * seconds), resume=True)
        embed(target, resume=True)
        assert contents() == expected
        os.chdir("/")


if __name__ == "__main__":
    mutations.main(check)

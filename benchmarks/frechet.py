"""Measure the Fréchet audio distance: from audio against only embedding it, and each of its computations.

python -m benchmarks.frechet [--weights CHECKPOINT] [--files 96]
"""

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import vggish_keras as vk
from benchmarks import measure
from benchmarks.files import write_files
from vggish_keras import embedding_files
from vggish_keras.frechet import SetReader, frechet_distance, rank_recordings

ROUNDS = 3
REPEATS = 7
EXAMPLES = 10


def from_audio(folder: Path, files: int, weights: str | None) -> None:
    paths = write_files(folder, files, 16_000, 1)
    embedder = vk.Embedder(weights)
    reader = SetReader()
    reader.embedder = embedder

    def statistics() -> int:
        return reader.open([*paths]).statistics().n or 0

    def embed() -> int:
        return measure.count_examples(embedder.embed_many(paths))

    count = embed()
    ours, theirs, ratio = measure.interleaved(statistics, embed, ROUNDS)
    row = f"{count / ours:.0f} examples/s", f"{count / theirs:.0f} examples/s", f"{ratio:.3f}x"
    measure.report("statistics of recordings: embed", *row, "at least 0.98x")


def statistics_of(seed: int, rows: int) -> vk.Statistics:
    statistics = vk.Statistics()
    values = np.random.default_rng(seed).normal(size=(rows, 128)).astype(np.float32)
    for index, part in enumerate(np.split(values, rows // EXAMPLES)):
        statistics.add(part, f"{index}.wav")
    return statistics


def report(what: str, work: Callable[[], Any], bound: str) -> None:
    work()
    seconds = float(np.median([measure.seconds(work) for _ in range(REPEATS)]))
    measure.report(what, f"{1e3 * seconds:.1f} ms", "", "", bound)


def computations() -> None:
    rows = np.random.default_rng(0).normal(size=(100_000, 128)).astype(np.float32)
    report("100,000 rows into statistics", lambda: vk.Statistics().add(rows), "150 ms")
    first, second = statistics_of(0, 10_000), statistics_of(1, 10_000)
    distance = functools.partial(frechet_distance, first.gaussian(), second.gaussian())
    report("distance of two Gaussians", distance, "8 ms")
    report("value, corrected value and interval", lambda: vk.fad(first, second), "300 ms")
    recordings = [(f"{index}.wav", part) for index, part in enumerate(np.split(rows, 10_000))]
    report("ranking of 10,000 recordings", lambda: rank_recordings(first, recordings), "1000 ms")


def start(folder: Path) -> None:
    for index in range(2):
        values = np.random.default_rng(index).normal(size=(1_000, EXAMPLES, 128)).astype(np.float32)
        times = 0.96 * np.arange(EXAMPLES)
        named = [(f"{number}.wav", vk.Embeddings(times, part)) for number, part in enumerate(values)]
        embedding_files.write(folder / f"{index}.npz", named)
    command = [Path(sys.executable).with_name("vggish"), "fad", "0.npz", "1.npz"]
    run = functools.partial(subprocess.run, command, cwd=folder, check=True, capture_output=True)
    report("vggish fad of two .npz files of 10,000 rows", run, "500 ms")


def main() -> None:
    arguments = measure.arguments(__doc__, files=96)
    measure.report("what", "ours", "theirs", "ratio", "bound")
    with tempfile.TemporaryDirectory() as folder:
        computations()
        start(Path(folder))
        from_audio(Path(folder), arguments.files, arguments.weights)


if __name__ == "__main__":
    main()

"""Measure many files: clips of one second against one long file, and the resources that 10,000 files leave behind.

python -m benchmarks.clips [--weights CHECKPOINT] [--files 10000]
"""

import gc
import itertools
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil
import soundfile

import vggish_keras as vk
from benchmarks import measure

CLIPS = 1_000


def main() -> None:
    arguments = measure.arguments(__doc__, files=10_000)
    embedder = vk.Embedder(arguments.weights)
    rng = np.random.default_rng(0)
    process = psutil.Process()

    def run(paths: list[Path]) -> int:
        return measure.count_examples(embedder.embed_many(paths))

    with tempfile.TemporaryDirectory() as folder:
        clips = [Path(folder) / f"{index}.wav" for index in range(CLIPS)]
        for clip in clips:
            soundfile.write(clip, rng.uniform(-0.5, 0.5, 16_000), 16_000)
        long = Path(folder) / "long.wav"
        soundfile.write(long, rng.uniform(-0.5, 0.5, CLIPS * 16_000), 16_000)
        examples = run(clips), run([long])
        ours, theirs, _ = measure.interleaved(lambda: run(clips), lambda: run([long]), 5)
        rates = examples[0] / ours, examples[1] / theirs
        measure.report("what", "clips", "one file", "rate", "bound")
        row = f"{rates[0]:.0f} examples/s", f"{rates[1]:.0f} examples/s"
        measure.report(f"{CLIPS} s of audio", *row, f"{100 * rates[0] / rates[1]:.1f}%", "at least 85%")

        before = threading.active_count(), process.num_fds()
        files = itertools.islice(itertools.cycle(clips), arguments.files)
        for index, _ in enumerate(embedder.embed_many(files), 1):
            if index in (arguments.files // 10, arguments.files):
                gc.collect()
                print(f"memory after {index} files: {process.memory_info().rss / 1e6:.0f} MB")
        threads, open_files = threading.active_count() - before[0], process.num_fds() - before[1]
        print(f"left behind: {threads} threads, {open_files} open files")


if __name__ == "__main__":
    main()

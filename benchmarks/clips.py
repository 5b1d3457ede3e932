"""What many files cost: clips of a second against one long file, and what 10,000 of them leave behind.

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
    embedder = vk.Embedder(arguments.weights, padding="valid")
    rng = np.random.default_rng(0)
    process = psutil.Process()

    def run(paths: list[Path]) -> int:
        return sum(len(result.times) for _, result in embedder.embed_many(paths))

    with tempfile.TemporaryDirectory() as folder:
        clips = [Path(folder) / f"{index}.wav" for index in range(CLIPS)]
        for clip in clips:
            soundfile.write(clip, rng.uniform(-0.5, 0.5, 16_000), 16_000)
        long = Path(folder) / "long.wav"
        soundfile.write(long, rng.uniform(-0.5, 0.5, CLIPS * 16_000), 16_000)
        examples = [run(clips), run([long])]
        ours, theirs, _ = measure.in_turns(lambda: run(clips), lambda: run([long]), 5)
        rates = [count / seconds for count, seconds in zip(examples, (ours, theirs), strict=True)]
        measure.report("what", "clips", "one file", "rate", "bound")
        each = [f"{rate:.0f} examples/s" for rate in rates]
        measure.report(f"{CLIPS} s of audio", *each, f"{100 * rates[0] / rates[1]:.1f} %", "at least 85 %")

        before = threading.active_count(), process.num_fds()
        files = itertools.islice(itertools.cycle(clips), arguments.files)
        for index, _ in enumerate(embedder.embed_many(files), 1):
            if index in (arguments.files // 10, arguments.files):
                gc.collect()
                print(f"memory after {index} files: {process.memory_info().rss / 1e6:.0f} MB")
        left = [now - was for now, was in zip((threading.active_count(), process.num_fds()), before, strict=True)]
        print(f"left behind: {left[0]} threads, {left[1]} open files")


if __name__ == "__main__":
    main()

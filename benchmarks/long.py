"""Measure a long recording: memory beyond the loaded model, and speed against a recording of ten minutes.

python -m benchmarks.long [--weights CHECKPOINT] [--hours 24]
"""

import gc
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile

import vggish_keras as vk
from benchmarks import measure


def main() -> None:
    arguments = measure.arguments(__doc__, hours=24.0)
    embedder = vk.Embedder(arguments.weights)
    minute = np.random.default_rng(0).uniform(-0.5, 0.5, 60 * 16_000)
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        for name, minutes in (
            ("warm-up", 1),
            ("10 minutes", 10),
            (f"{arguments.hours} hours", round(60 * arguments.hours)),
        ):
            path = Path(folder) / "recording.wav"
            with soundfile.SoundFile(path, "w", 16_000, 1) as file:
                for _ in range(minutes):
                    file.write(minute)
            gc.collect()
            loaded = psutil.Process().memory_info().rss
            start = time.perf_counter()
            count = measure.count_examples(embedder.embed_many([path]))
            rates.append(count / (time.perf_counter() - start))
            peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - loaded
            print(f"{name}: {rates[-1]:.0f} examples/s, peak {peak / 1e6:.0f} MB beyond the loaded model", flush=True)
    print(f"speed relative to ten minutes: {100 * rates[-1] / rates[-2]:.0f} %; memory: at most 350 MB")


if __name__ == "__main__":
    main()

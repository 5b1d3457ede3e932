"""Measure what the processors do besides the network: reading, resampling, cutting and the front end.

    python -m benchmarks.reading [--files 96]

Files hold 10 s each. "one thread" reads them in this process; "embed_many" hands them to an engine that takes no time,
as a fast accelerator would.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import vggish_keras as vk
from benchmarks import measure
from benchmarks.files import write_files
from vggish_keras.framing import cut_segments
from vggish_keras.resample import read_waveform

ROUNDS = 7
HOP_SAMPLES = 15_360


class NoNetwork:
    """An engine that returns at once."""

    outputs: ClassVar[tuple[vk.engines.Output, ...]] = ("embedding",)
    dtype = "float32"

    def identity(self, output: vk.engines.Output) -> str:
        return "nothing"

    def __call__(self, segments: NDArray[np.float32], output: vk.engines.Output) -> NDArray[Any]:
        return np.zeros((len(segments), 128), np.float32)


def in_one_thread(paths: list[Path]) -> int:
    return sum(sum(1 for _ in cut_segments(read_waveform(path), HOP_SAMPLES, "short")) for path in paths)


def measure_median(what: str, work: Callable[[], int], bound: str) -> None:
    work()
    times = [measure.seconds(work) for _ in range(ROUNDS)]
    count, seconds = work(), float(np.median(times))
    measure.report(what, f"{1e6 * seconds / count:.0f} us/example", f"{count / seconds:.0f} examples/s", "", bound)


def main() -> None:
    files: int = measure.arguments(__doc__, files=96).files
    measure.report("what", "time", "rate", "", "bound")
    embedder = vk.Embedder(NoNetwork())
    with tempfile.TemporaryDirectory() as folder:
        for sample_rate, channels, bounds in ((16_000, 1, ("", "")), (44_100, 2, ("165 us", "3,000 examples/s"))):
            paths = write_files(Path(folder), files, sample_rate, channels)
            name = f"{sample_rate} Hz, {channels} channel" + "s" * (channels > 1)
            measure_median(f"{name}: one thread", lambda: in_one_thread(paths), bounds[0])  # noqa: B023
            many = paths * 20  # longer than the start of the processes that read
            run = lambda: measure.count_examples(embedder.embed_many(many))  # noqa: B023, E731
            measure_median(f"{name}: embed_many", run, bounds[1])
    front_end = tf.function(vk.LogMelExamples())
    segments = tf.constant(np.random.default_rng(0).uniform(-0.5, 0.5, (32, 15_600)), tf.float32)
    measure_median("front end in batches of 32", lambda: len(front_end(segments).numpy()), "93 us")


if __name__ == "__main__":
    main()

"""Measure `vggish beam` in local processes and on a Flink cluster against `vggish embed`, on clips of 1 to 30 s.

    python -m benchmarks.beam [--weights CHECKPOINT] [--clips 500] [--rounds 3]

All commands are also run on ten clips only, and these times are subtracted to exclude the start-up; before, once more,
because the first job of a cluster starts slowly. The cluster, which needs Java and Maven, is left out where they are
missing.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import psutil
import soundfile

import vggish_keras as vk
from benchmarks import measure
from tests.cluster.flink import Cluster, is_available
from vggish_keras import records

FEW = 10
LOCAL = {
    "1 process": [],
    "2 processes": ["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
}
FLINK_WORKERS = (1, 2, 4)
COMMAND = str(Path(sys.executable).with_name("vggish"))


def write_clips(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        samples = int(44_100 * rng.uniform(1, 30))
        soundfile.write(folder / f"{index:04}.wav", rng.uniform(-0.5, 0.5, (samples, 2)), 44_100)


def export(folder: Path, weights: str | None) -> Path:
    rng = np.random.default_rng(1)
    pca = {"pca_eigen_vectors": rng.standard_normal((128, 128)) / 11, "pca_means": rng.standard_normal((128, 1))}
    return vk.export_saved_model(vk.VGGish(weights), folder / "vggish", "quantized", pca_params=pca)


def run(command: Sequence[str | Path]) -> tuple[float, float]:
    """The duration in seconds, and the peak memory of all processes but this in bytes, counting shared pages once."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(memory, psutil.Process().children(recursive=True))))
            time.sleep(1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start, peak


def memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):  # the process has ended
        return int(process.memory_full_info().pss)
    return 0


@contextlib.contextmanager
def flink(workers: int) -> Iterator[list[str]]:
    """The options that run a pipeline on a new cluster."""
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), task_managers=workers, slots=1) as cluster:
        yield cluster.options


def runners() -> dict[str, AbstractContextManager[list[str]]]:
    """Each way to run a pipeline: a context with its options, by name."""
    found: dict[str, AbstractContextManager[list[str]]] = {}
    for name, options in LOCAL.items():
        found[name] = contextlib.nullcontext(options)
    for workers in FLINK_WORKERS if is_available() else ():
        found[f"Flink, {workers} worker{'s' * (workers > 1)}"] = flink(workers)
    return found


def count(files: Iterator[Path]) -> int:
    return sum(len(record.embedding) for file in files for record in records.read(file))


def main() -> None:
    arguments = measure.arguments(__doc__, clips=500, rounds=3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = export(folder, arguments.weights)
        for clips, number in (("all", arguments.clips), ("few", FEW)):
            write_clips(folder / clips, number)

        def embed(clips: str) -> tuple[float, float]:
            output = folder / f"embed-{clips}.tfrecord"
            return run([COMMAND, "embed", folder / clips, "-o", output, "--weights", model, "--quiet", "--overwrite"])

        def beam(clips: str, options: Sequence[str]) -> tuple[float, float]:
            with tempfile.TemporaryDirectory(dir=folder) as output:
                paths: list[str | Path] = ["--input", folder / clips, "--output", Path(output, "x"), "--weights", model]
                taken = run([COMMAND, "beam", *paths, *options])
                assert count(Path(output).glob("x-*.tfrecord")) == examples[clips]
            return taken

        for clips in ("few", "all"):
            embed(clips)  # a warm-up
        examples = {clips: count(folder.glob(f"embed-{clips}.tfrecord")) for clips in ("few", "all")}
        more = examples["all"] - examples["few"]
        rates: dict[str, list[float]] = {"embed": [], **{name: [] for name in runners()}}
        starts, peaks = {name: list[float]() for name in rates}, dict.fromkeys(rates, 0.0)
        for _ in range(arguments.rounds):
            for name in rates:
                if name == "embed":
                    few, whole = embed("few"), embed("all")
                else:
                    with runners()[name] as options:
                        beam("few", options)  # a warm-up
                        few, whole = beam("few", options), beam("all", options)
                rates[name].append(more / (whole[0] - few[0]))
                starts[name].append(few[0])
                peaks[name] = max(peaks[name], whole[1])
        measure.report("runner", "start-up", "rate", "of embed", "memory")
        for name, measured in rates.items():
            ratio = statistics.median(one / other for one, other in zip(measured, rates["embed"], strict=True))
            rate = f"{statistics.median(measured):.0f} examples/s"
            row = (
                f"{statistics.median(starts[name]):.0f} s",
                rate,
                f"{100 * ratio:.0f}%",
                f"{peaks[name] / 1e9:.1f} GB",
            )
            measure.report(name, *row)


if __name__ == "__main__":
    main()

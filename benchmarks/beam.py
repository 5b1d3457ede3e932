"""Measure `vggish beam` with two worker processes against `vggish embed`, on clips of different lengths.

    python -m benchmarks.beam [--weights CHECKPOINT] [--clips 500] [--rounds 3]

Both commands are also run on ten clips only, and these times are subtracted to exclude the start-up.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import soundfile

import vggish_keras as vk
from benchmarks import measure
from vggish_keras import records

FEW = 10
WORKERS = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
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
    """The duration in seconds, and the peak memory of all processes in bytes, counting each shared page once."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        os_process = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, memory(os_process))
            time.sleep(1)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start, peak


def memory(process: psutil.Process) -> int:
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except psutil.Error:  # the process has ended
            continue
    return total


def main() -> None:
    arguments = measure.arguments(__doc__, clips=500, rounds=3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = export(folder, arguments.weights)
        for clips, count in (("all", arguments.clips), ("few", FEW)):
            write_clips(folder / clips, count)

        def embed(clips: str) -> tuple[float, float]:
            output = folder / f"embed-{clips}.tfrecord"
            return run([COMMAND, "embed", folder / clips, "-o", output, "--weights", model, "--quiet", "--overwrite"])

        def beam(clips: str) -> tuple[float, float]:
            for old in folder.glob(f"beam-{clips}*"):
                old.unlink()
            output = folder / f"beam-{clips}"
            return run([COMMAND, "beam", "--input", folder / clips, "--output", output, "--weights", model, *WORKERS])

        rates: dict[str, list[float]] = {"embed": [], "beam": []}
        peaks: dict[str, list[float]] = {"embed": [], "beam": []}
        for _ in range(arguments.rounds):
            taken = {(command, clips): command(clips) for clips in ("few", "all") for command in (embed, beam)}
            counted = {clips: sum(map(examples, folder.glob(f"embed-{clips}*.tfrecord"))) for clips in ("few", "all")}
            assert counted["all"] == sum(map(examples, folder.glob("beam-all*.tfrecord")))
            for command in (embed, beam):
                seconds = taken[command, "all"][0] - taken[command, "few"][0]
                rates[command.__name__].append((counted["all"] - counted["few"]) / seconds)
                peaks[command.__name__].append(taken[command, "all"][1] / 1e6)
            print(f"{counted['all']} examples; seconds and bytes: {list(taken.values())}", flush=True)
    ratio = statistics.median(ours / theirs for ours, theirs in zip(rates["beam"], rates["embed"], strict=True))
    measure.report("what", "beam", "embed", "ratio", "bound")
    row = f"{statistics.median(rates['beam']):.0f} examples/s", f"{statistics.median(rates['embed']):.0f} examples/s"
    measure.report(f"{arguments.clips} clips, without start-up", *row, f"{100 * ratio:.1f}%", "at least 85%")
    beam_peak, embed_peak = max(peaks["beam"]), max(peaks["embed"])
    row = f"{beam_peak:.0f} MB", f"{embed_peak:.0f} MB"
    measure.report("memory of all processes", *row, f"{beam_peak / embed_peak:.2f}x", "")


def examples(path: Path) -> int:
    return sum(len(record.embedding) for record in records.read(path))


if __name__ == "__main__":
    main()

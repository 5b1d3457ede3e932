"""Measures what the front end, the resampler, the SavedModel and the start cost, as ratios from one run.

    python benchmarks/speed.py [--weights CHECKPOINT]

Each pair of figures is measured in turns, so that a machine whose speed drifts slows both alike; the ratio is the
median over the pairs. Without --weights the network has random ones, which are as fast, but the start is not measured.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import resampy
import tensorflow as tf

import vggish_keras as vk
from vggish_keras.resample import filter_bank, resample

STARTS = 5


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Median seconds of each, and the median of theirs over ours, after a warm-up."""
    ours(), theirs()
    pairs = np.array([(seconds(ours), seconds(theirs)) for _ in range(rounds)])
    return (*np.median(pairs, axis=0), float(np.median(pairs[:, 1] / pairs[:, 0])))


def report(what: str, ours: str, theirs: str, ratio: str, bound: str) -> None:
    print(f"{what:<42} {ours:>14} {theirs:>14} {ratio:>9}   {bound}", flush=True)


def front_end(weights: str | None) -> None:
    model = vk.VGGish(weights)
    network = tf.keras.Model(model.get_layer("conv1").input, model.get_layer("fc2").output)
    whole, bare = tf.function(model), tf.function(network)
    rng = np.random.default_rng(0)
    for batch, rounds in ((32, 15), (1, 60)):
        waveforms = tf.constant(rng.uniform(-0.5, 0.5, (batch, 15_600)), tf.float32)
        examples = tf.reshape(vk.LogMelExamples()(waveforms), (batch, 96, 64, 1))
        ours, theirs, ratio = in_turns(lambda: whole(waveforms).numpy(), lambda: bare(examples).numpy(), rounds)  # noqa: B023
        what = f"batches of {batch}: model, network alone"
        bound = "at least 92 %" if batch > 1 else "at least 87 % (within 15 %)"
        each = [f"{1e3 * figure / batch:.2f} ms/ex." for figure in (ours, theirs)]
        report(what, *each, f"{100 * ratio:.1f} %", bound)


def resampling() -> None:
    for rate, bound in ((44_100, "at least 40x"), (48_000, "at least 20x")):
        waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 60 * rate).astype(np.float32)
        filter_bank.cache_clear()
        construction = seconds(lambda: filter_bank(rate))  # noqa: B023
        ours, theirs, ratio = in_turns(
            lambda: resample(waveform, rate),  # noqa: B023
            lambda: resampy.resample(waveform, rate, 16_000, filter="kaiser_best"),  # noqa: B023
            7,
        )
        what = f"60 s at {rate} Hz (filters: {1e3 * construction:.0f} ms), resampy"
        report(what, f"{1e3 * ours:.1f} ms", f"{1e3 * theirs:.0f} ms", f"{ratio:.0f}x", bound)


def artefact(weights: str | None) -> None:
    model = vk.VGGish(weights)
    whole = tf.function(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1"
        exporting = seconds(lambda: vk.export_saved_model(model, path))
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        loading = seconds(lambda: tf.saved_model.load(str(path)))
        signatures = tf.saved_model.load(str(path)).signatures
    report("SavedModel: export, load", f"{exporting:.1f} s", f"{loading:.2f} s", "", "at most 20 s, 3 s")
    print(f"SavedModel: {size / 1e6:.0f} MB, at most 300 MB")
    rng = np.random.default_rng(0)
    waveforms = tf.constant(rng.uniform(-0.5, 0.5, (32, 15_600)), tf.float32)
    clips = rng.uniform(-0.5, 0.5, (32, 42_998, 1)).astype(np.float32)
    wavs = tf.stack([tf.audio.encode_wav(clip, 44_100) for clip in clips])
    for name, inputs, bound in (
        ("serving_default", {"waveform": waveforms}, "at least 95 %"),
        ("wav", {"audio": wavs}, "at least 85 %"),
    ):
        signature = signatures[name]
        ours, theirs, ratio = in_turns(
            lambda: signature(**inputs)["embedding"].numpy(),  # noqa: B023
            lambda: whole(waveforms).numpy(),
            15,
        )
        each = [f"{1e3 * figure / 32:.2f} ms/ex." for figure in (ours, theirs)]
        report(f"batches of 32: {name}, model", *each, f"{100 * ratio:.1f} %", bound)


def start(weights: str) -> None:
    script = (
        "import sys, time, numpy, tensorflow\n"
        "start = time.perf_counter()\n"
        "import vggish_keras as vk\n"
        "vk.Embedder(sys.argv[1]).embed(numpy.zeros(44_100), 44_100)\n"
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", script, weights]
    taken = [float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(STARTS)]
    figures = f"{np.median(taken):.2f} s", f"{max(taken):.2f} s"
    report(f"first embedding of a process: median, worst of {STARTS}", *figures, "", "at most 3 s")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--weights", help="a TF-Slim checkpoint or Keras weights file")
    weights = arguments.parse_args().weights
    print(f"{os.cpu_count()} cores, TensorFlow {tf.__version__}, NumPy {np.__version__}")
    report("what", "first", "second", "ratio", "bound")
    front_end(weights)
    resampling()
    artefact(weights)
    if weights:
        start(weights)


if __name__ == "__main__":
    main()

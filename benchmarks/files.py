"""Measure the speed of embedding files, against the published pipeline and torchvggish; MP3 and FLAC against WAV.

    python -m benchmarks.files --weights CHECKPOINT [--torch PYTHON] [--files 96]
    TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 python -m benchmarks.files --weights CHECKPOINT --dtype bfloat16

The published pipeline is a NumPy front end, resampy and the TF-Slim graph, one file at a time. torchvggish runs with
random weights in the interpreter --torch, which may belong to a different environment; it is skipped if
the packages torch and torchvggish are not installed. With --dtype bfloat16, files are compared only with the network,
under the environment variable that `vggish embed --dtype bfloat16` sets.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import resampy
import soundfile
import tensorflow as tf
from numpy.typing import NDArray

import vggish_keras as vk
from benchmarks import measure
from tests import published
from vggish_keras.engines import Dtype

SECONDS = 10
EXAMPLES_PER_FILE = 10
ROUNDS = 3
REPEATS = 5
"""How often the files are embedded in a run that is compared with the network: the start of readers takes 0.13 s."""
BOUNDS = {
    ("float32", 16_000): "0.97",
    ("float32", 44_100): "0.95",
    ("bfloat16", 16_000): "0.92",
    ("bfloat16", 44_100): "0.85",
}
"""The share of the rate of the network alone that files reach at least."""

_TORCHVGGISH = """
import sys, torch
from torchvggish import torchvggish, vggish_input

model = torchvggish.VGG(torchvggish.make_layers(), postprocess=False).eval()
print("ready", flush=True)
for line in sys.stdin:
    with torch.no_grad():
        count = sum(len(model(vggish_input.wavfile_to_examples(path))) for path in line.rstrip().split("\\t"))
    print(count, flush=True)
"""


def write_files(folder: Path, count: int, sample_rate: int, channels: int, suffix: str = "wav") -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{sample_rate}_{index}.{suffix}" for index in range(count)]
    for path in paths:
        soundfile.write(path, rng.uniform(-0.5, 0.5, (SECONDS * sample_rate, channels)), sample_rate)
    return paths


def ours(weights: str | None, dtype: Dtype) -> Callable[[list[Path]], int]:
    embedder = vk.Embedder(weights, dtype=dtype)
    return lambda paths: measure.count_examples(embedder.embed_many(paths))


def published_pipeline(weights: str) -> Callable[[list[Path]], int]:
    graph = tf.Graph()
    with graph.as_default():
        features = tf.compat.v1.placeholder(tf.float32, [None, 96, 64])
        embedding = published.slim_network(features)
        session = tf.compat.v1.Session()
        tf.compat.v1.train.Saver().restore(session, weights)
    mel, window = published.mel_weights(), 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)

    def frames(values: NDArray[Any], length: int, hop: int) -> NDArray[Any]:
        return np.lib.stride_tricks.sliding_window_view(values, length, axis=0)[::hop]

    def run(paths: list[Path]) -> int:
        count = 0
        for path in paths:
            samples, rate = soundfile.read(path, dtype="int16")
            waveform = samples / 32768.0
            if waveform.ndim > 1:
                waveform = np.mean(waveform, axis=1)
            if rate != 16_000:
                waveform = resampy.resample(waveform, rate, 16_000)
            magnitudes = np.abs(np.fft.rfft(frames(waveform, 400, 160) * window, 512))
            log_mel = np.log(magnitudes @ mel + 0.01)
            examples = frames(log_mel, 96, 96).transpose(0, 2, 1)
            count += len(session.run(embedding, {features: examples}))
        return count

    return run


def torchvggish(python: str) -> Callable[[list[Path]], int] | None:
    process = subprocess.Popen(
        [python, "-c", _TORCHVGGISH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    if stdout.readline() != "ready\n":
        print(f"skipping torchvggish: {stderr.read().strip().splitlines()[-1]}")
        return None

    def run(paths: list[Path]) -> int:
        stdin.write("\t".join(map(str, paths)) + "\n")
        stdin.flush()
        return int(stdout.readline())

    return run


def compare(
    what: str, ours: Callable[[], int], theirs: Callable[[], int], bound: str = "", max_difference: int = 0
) -> None:
    """Measures two functions that return a number of examples, and reports their speeds."""
    counts = ours(), theirs()
    assert abs(counts[0] - counts[1]) <= max_difference, counts
    us, them, ratio = measure.interleaved(ours, theirs, ROUNDS)
    row = f"{counts[0] / us:.0f} examples/s", f"{counts[1] / them:.0f} examples/s"
    measure.report(what, *row, f"{ratio * counts[0] / counts[1]:.2f}x", bound)


def compare_with_network(name: str, paths: list[Path], sample_rate: int, weights: str, dtype: Dtype) -> None:
    embed, network = ours(weights, dtype), measure.network_only(weights, dtype)
    batches: int = REPEATS * EXAMPLES_PER_FILE * len(paths) // measure.BATCH_SIZE

    def run_network() -> int:
        for _ in range(batches):
            network()
        return batches * measure.BATCH_SIZE

    only_full_batches = measure.BATCH_SIZE - 1
    bound = f"at least {BOUNDS[dtype, sample_rate]}x"
    compare(f"{name}: only network", partial(embed, paths * REPEATS), run_network, bound, only_full_batches)


def compare_with_others(name: str, paths: list[Path], sample_rate: int, weights: str, torch: str) -> None:
    others = {
        "published pipeline": (published_pipeline(weights), {16_000: "at least 1.3x"}),
        "torchvggish": (torchvggish(torch), {16_000: "at least 2.2x", 44_100: "at least 4x"}),
    }
    run_ours = partial(ours(weights, "float32"), paths)
    for other, (run, bounds) in others.items():
        if run is not None:
            compare(f"{name}: {other}", run_ours, partial(run, paths), bounds.get(sample_rate, ""))
    bound = "at least 1.6x" if sample_rate == 44_100 else ""
    compare(f"{name}: bfloat16, float32", partial(ours(weights, "bfloat16"), paths), run_ours, bound)


def compare_formats(folder: Path, files: int, wav: list[Path], weights: str) -> None:
    embed = ours(weights, "float32")
    for suffix in ("mp3", "flac"):
        compressed = write_files(folder, files, 44_100, 2, suffix)
        what = f"44100 Hz, 2 channels: {suffix}, wav"
        compare(what, partial(embed, compressed), partial(embed, wav), "at least 0.9x")


def main() -> None:
    arguments = measure.arguments(__doc__, torch=sys.executable, files=96, dtype="float32")
    if not arguments.weights:
        sys.exit("--weights is required: a TF-Slim checkpoint")
    measure.report("what", "ours", "theirs", "ratio", "bound")
    with tempfile.TemporaryDirectory() as folder:
        for sample_rate, channels in ((16_000, 1), (44_100, 2)):
            paths = write_files(Path(folder), arguments.files, sample_rate, channels)
            name = f"{arguments.dtype}, {sample_rate} Hz, {channels} channel" + "s" * (channels > 1)
            compare_with_network(name, paths, sample_rate, arguments.weights, arguments.dtype)
            if arguments.dtype == "float32":
                compare_with_others(name, paths, sample_rate, arguments.weights, arguments.torch)
        if arguments.dtype == "float32":
            compare_formats(Path(folder), arguments.files, paths, arguments.weights)


if __name__ == "__main__":
    main()

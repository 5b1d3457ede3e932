"""Measure ONNX and LiteRT files against TensorFlow: size, examples in batches of 32 and alone, files, and the start.

python -m benchmarks.exported_models [--weights CHECKPOINT]
"""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

import vggish_keras as vk
from benchmarks import measure

BATCHES = (32, 1)
FILES, SECONDS = 8, 60
BOUNDS = {
    "ONNX": ("290", ("0.9x", ""), ""),
    "LiteRT": ("290", ("0.7x", ""), ""),
    "LiteRT, int8": ("75", ("3x (VNNI)", "4x (VNNI)"), "2.5x (VNNI)"),
}
"""For each format, at most so many MB, and at least so many times the speed of TensorFlow: in batches, and on files."""
STARTS = 5


def compare_examples(name: str, ours: vk.Engine, tensorflow: vk.Engine, bounds: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for batch, bound in zip(BATCHES, bounds, strict=True):
        segments = rng.uniform(-0.5, 0.5, (batch, 15_600)).astype(np.float32)
        call, other = (functools.partial(engine, segments, "embedding") for engine in (ours, tensorflow))
        us, them, ratio = measure.interleaved(call, other, 9)
        row = f"{1e3 * us / batch:.1f} ms", f"{1e3 * them / batch:.1f} ms", f"{ratio:.2f}x"
        measure.report(f"{name}: an example in a batch of {batch}", *row, bound)


def compare_files(name: str, file: Path, weights: Path, paths: list[Path], bound: str) -> None:
    embedders = (vk.Embedder(file), vk.Embedder(weights))
    run, other = (functools.partial(embed_all, embedder, paths) for embedder in embedders)
    us, them, ratio = measure.interleaved(run, other, 3)
    audio = FILES * SECONDS
    row = f"{audio / us:.0f} x real time", f"{audio / them:.0f} x real time", f"{ratio:.2f}x"
    measure.report(f"{name}: files at 44.1 kHz in stereo", *row, bound)


def embed_all(embedder: vk.Embedder, paths: list[Path]) -> int:
    return measure.count_examples(embedder.embed_many(paths))


def compare_starts(file: Path, weights: Path, path: Path) -> None:
    command = Path(sys.executable).with_name("vggish")
    run, other = (
        functools.partial(subprocess.run, [command, "embed", path, "--weights", model], check=True, capture_output=True)
        for model in (file, weights)
    )
    us, them, ratio = measure.interleaved(run, other, STARTS)
    row = f"{us:.2f} s", f"{them:.2f} s", f"{1 / ratio:.2f}x"
    measure.report("ONNX: vggish embed of 1 s, start to end", *row, "0.4x the time")


def main() -> None:
    arguments = measure.arguments(__doc__)
    rng = np.random.default_rng(0)
    model = vk.VGGish(arguments.weights)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / "vggish.weights.h5"
        model.save_weights(weights)
        tensorflow = vk.open_engine(weights)
        paths = [folder / f"{index}.wav" for index in range(FILES)]
        for path in paths:
            soundfile.write(path, rng.uniform(-0.5, 0.5, (SECONDS * 44_100, 2)), 44_100)
        files = {
            "ONNX": vk.export_onnx(model, folder / "vggish.onnx"),
            "LiteRT": vk.export_litert(model, folder / "vggish.tflite"),
            "LiteRT, int8": vk.export_litert(model, folder / "vggish_int8.tflite", "int8"),
        }
        measure.report("what", "ours", "TensorFlow", "speed", "at least")
        for format_name, file in files.items():
            size, bounds, files_bound = BOUNDS[format_name]
            measure.report(f"{format_name}: size", f"{file.stat().st_size / 1e6:.1f} MB", "", "", f"at most {size} MB")
            compare_examples(format_name, vk.open_engine(file), tensorflow, bounds)
            compare_files(format_name, file, weights, paths, files_bound)
        soundfile.write(folder / "short.wav", np.zeros(16_000), 16_000)
        compare_starts(files["ONNX"], weights, folder / "short.wav")


if __name__ == "__main__":
    main()

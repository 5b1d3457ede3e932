"""Measure LiteRT files against TensorFlow: segments in batches of 32 and alone, and files at 44.1 kHz in stereo.

python -m benchmarks.litert [--weights CHECKPOINT]
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
import soundfile

import vggish_keras as vk
from benchmarks import measure

BATCHES = (32, 1)
FILES, SECONDS = 8, 60
BOUNDS = {None: ("at least 0.7", "at least 0.7"), "int8": ("at least 3 (VNNI)", "at least 4 (VNNI)")}


def main() -> None:
    arguments = measure.arguments(__doc__)
    rng = np.random.default_rng(0)
    model = vk.VGGish(arguments.weights)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "vggish.weights.h5"
        model.save_weights(weights)
        tensorflow = vk.open_engine(weights)
        measure.report("what", "LiteRT", "TensorFlow", "speed", "bound")
        for quantize, bounds in BOUNDS.items():
            file = vk.export_litert(model, Path(folder) / f"{quantize}.tflite", quantize)
            name = quantize or "float32"
            print(f"{name}: {file.stat().st_size / 1e6:.1f} MB")
            for batch, bound in zip(BATCHES, bounds, strict=True):
                segments = rng.uniform(-0.5, 0.5, (batch, 15_600)).astype(np.float32)
                engines = [
                    functools.partial(engine, segments, "embedding") for engine in (vk.open_engine(file), tensorflow)
                ]
                ours, theirs, ratio = measure.interleaved(*engines, 9)
                row = f"{1e3 * ours / batch:.1f} ms", f"{1e3 * theirs / batch:.1f} ms", f"{ratio:.2f}"
                measure.report(f"{name}, an example in a batch of {batch}", *row, bound)

        paths = [Path(folder) / f"{index}.wav" for index in range(FILES)]
        for path in paths:
            soundfile.write(path, rng.uniform(-0.5, 0.5, (SECONDS * 44_100, 2)), 44_100)
        embedders = [vk.Embedder(file), vk.Embedder(weights)]
        runs = [functools.partial(lambda e: measure.count_examples(e.embed_many(paths)), e) for e in embedders]
        ours, theirs, ratio = measure.interleaved(*runs, 3)
        hours = FILES * SECONDS / 3600
        row = f"{hours / ours * 3600:.0f} x real time", f"{hours / theirs * 3600:.0f} x real time", f"{ratio:.2f}"
        measure.report("int8, files at 44.1 kHz in stereo", *row, "at least 2.5")


if __name__ == "__main__":
    main()

"""Measure LiteRT files against TensorFlow: segments in batches of 32 and alone, and files at 44.1 kHz in stereo.

python -m benchmarks.litert [--weights CHECKPOINT]
"""

import functools
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

import vggish_keras as vk
from benchmarks import measure

BATCHES = (32, 1)
FILES, SECONDS = 8, 60
BOUNDS: dict[Literal["int8"] | None, tuple[str, str]] = {
    None: ("at least 0.7", "at least 0.7"),
    "int8": ("at least 3 (VNNI)", "at least 4 (VNNI)"),
}


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
            name, litert = quantize or "float32", vk.open_engine(file)
            print(f"{name}: {file.stat().st_size / 1e6:.1f} MB")
            for batch, bound in zip(BATCHES, bounds, strict=True):
                segments = rng.uniform(-0.5, 0.5, (batch, 15_600)).astype(np.float32)
                ours, theirs, ratio = measure.interleaved(
                    functools.partial(litert, segments, "embedding"),
                    functools.partial(tensorflow, segments, "embedding"),
                    9,
                )
                row = f"{1e3 * ours / batch:.1f} ms", f"{1e3 * theirs / batch:.1f} ms", f"{ratio:.2f}"
                measure.report(f"{name}, an example in a batch of {batch}", *row, bound)

        paths = [Path(folder) / f"{index}.wav" for index in range(FILES)]
        for path in paths:
            soundfile.write(path, rng.uniform(-0.5, 0.5, (SECONDS * 44_100, 2)), 44_100)
        ours, theirs, ratio = measure.interleaved(
            functools.partial(embed_all, vk.Embedder(file), paths),
            functools.partial(embed_all, vk.Embedder(weights), paths),
            3,
        )
        audio = FILES * SECONDS
        row = f"{audio / ours:.0f} x real time", f"{audio / theirs:.0f} x real time", f"{ratio:.2f}"
        measure.report("int8, files at 44.1 kHz in stereo", *row, "at least 2.5")


def embed_all(embedder: vk.Embedder, paths: list[Path]) -> int:
    return measure.count_examples(embedder.embed_many(paths))


if __name__ == "__main__":
    main()

"""Measure the cost of the SavedModel: export, load, and its signatures against the model in this process.

python -m benchmarks.saved_model [--weights CHECKPOINT]
"""

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

import vggish_keras as vk
from benchmarks import measure


def main() -> None:
    model = vk.VGGish(measure.arguments(__doc__).weights)
    run_model = tf.function(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1"
        exporting = measure.seconds(lambda: vk.export_saved_model(model, path))
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        loading = measure.seconds(lambda: tf.saved_model.load(str(path)))
        signatures = tf.saved_model.load(str(path)).signatures
    print(f"export {exporting:.1f} s (at most 20), load {loading:.2f} s (at most 3), {size / 1e6:.0f} MB (at most 300)")
    rng = np.random.default_rng(0)
    waveforms = tf.constant(rng.uniform(-0.5, 0.5, (32, 15_600)), tf.float32)
    clips = rng.uniform(-0.5, 0.5, (32, 42_998, 1)).astype(np.float32)
    wavs = tf.stack([tf.audio.encode_wav(clip, 44_100) for clip in clips])
    measure.report("what", "signature", "model", "rate", "bound")
    for name, inputs, bound in (
        ("serving_default", {"waveform": waveforms}, "at least 95%"),
        ("wav", {"audio": wavs}, "at least 85%"),
    ):
        signature = signatures[name]
        ours, theirs, ratio = measure.interleaved(
            lambda: signature(**inputs)["embedding"].numpy(),  # noqa: B023
            lambda: run_model(waveforms).numpy(),
            15,
        )
        row = f"{1e3 * ours / 32:.2f} ms/example", f"{1e3 * theirs / 32:.2f} ms/example"
        measure.report(f"{name}, batches of 32", *row, f"{100 * ratio:.1f}%", bound)


if __name__ == "__main__":
    main()

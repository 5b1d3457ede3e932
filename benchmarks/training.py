"""Measure training steps: on waveforms against only the network, and on files against data in memory.

python -m benchmarks.training [--weights CHECKPOINT] [--rounds 9]
"""

import tempfile
from pathlib import Path

import numpy as np
import soundfile
import tensorflow as tf
from tensorflow import keras

import vggish_keras as vk
from benchmarks import measure
from examples import fine_tune

BATCH = 32
BATCHES = 3
RATES = (8_000, 16_000, 44_100, 48_000)


def build_models(weights: str | None) -> tuple[keras.Model, keras.Model]:
    """A classifier of waveforms, and its layers after the front end as a classifier of examples [batch, 96, 64, 1]."""
    vggish = vk.VGGish(weights, pooling="avg", lengths=True)
    scores = keras.layers.Dense(2, activation="softmax")
    network = keras.Model(vggish.get_layer("conv1").input, vggish.get_layer("fc2").output)
    models = keras.Model(vggish.input, scores(vggish.output)), keras.Model(network.input, scores(network.output))
    for model in models:
        fine_tune.compile_classifier(model)
    return models


def write_files(folder: Path) -> None:
    """Writes clips of one second in two classes: four sample rates, mono and stereo, WAV and FLAC."""
    rng = np.random.default_rng(0)
    for index in range(BATCH * BATCHES):
        rate, channels = RATES[index % 4], 1 + index // 4 % 2
        path = folder / str(index % 2) / f"{index}.{('wav', 'flac')[index // 8 % 2]}"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, (rate, channels)), rate)


def train_on(classifier: keras.Model, dataset: tf.data.Dataset) -> None:
    """Trains for one epoch, step by step."""
    for inputs, labels in dataset:
        classifier.train_on_batch(inputs, labels)


def main() -> None:
    options = measure.arguments(__doc__, rounds=9)
    classifier, network = build_models(options.weights)
    rng = np.random.default_rng(0)
    waveform = tf.constant(rng.uniform(-0.5, 0.5, (BATCH, 16_000)), tf.float32)
    inputs = {"waveform": waveform, "num_samples": tf.fill([BATCH], 16_000)}
    examples = tf.reshape(vk.LogMelExamples()(waveform), (BATCH, 96, 64, 1))
    labels = tf.constant(np.arange(BATCH) % 2)
    measure.report("what", "ours", "against", "ratio", "bound")
    ours, theirs, ratio = measure.interleaved(
        lambda: classifier.train_on_batch(inputs, labels),
        lambda: network.train_on_batch(examples, labels),
        options.rounds,
    )
    row = f"{ours:.3f} s", f"{theirs:.3f} s"
    measure.report("a step on waveforms, only the network", *row, f"{1 / ratio:.3f}", "1.08")

    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        files = vk.waveform_dataset(folder, seconds=1.0, batch_size=BATCH, cache=False)
        memory = tf.data.Dataset.from_tensor_slices(next(iter(files.unbatch().batch(BATCH * BATCHES)))).batch(BATCH)
        ours, theirs, ratio = measure.interleaved(
            lambda: train_on(classifier, files), lambda: train_on(classifier, memory), options.rounds
        )
        row = f"{ours / BATCHES:.3f} s", f"{theirs / BATCHES:.3f} s"
        measure.report("a step on files of any rate, data in memory", *row, f"{1 / ratio:.3f}", "1.1")


if __name__ == "__main__":
    main()

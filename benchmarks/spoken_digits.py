"""Measure the accuracy on spoken digits of a speaker who was not trained on, without pretrained weights.

python -m benchmarks.spoken_digits FOLDER [--speaker NAME ...] [--seeds 2] [--init data] [--epochs 15]

FOLDER is the Free Spoken Digit Dataset as FOLDER/DIGIT/SPEAKER_TAKE.wav. Each speaker is held out in turn. The columns
are the baseline, a logistic regression on the mean log-mel spectrum; a logistic regression on the embeddings of an
untrained VGGish; and VGGish with all layers trained.
"""

import argparse
import math
import os
from pathlib import Path
from typing import Any, TypeAlias

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tensorflow import keras

import vggish_keras as vk
from vggish_keras import params
from vggish_keras.params import SLIM_SCOPES

Waveform: TypeAlias = NDArray[np.floating[Any]]

PEAK = 0.5

# The ranges of the augmentation.
MAX_DELAY_SAMPLES = 1_600
MAX_LOG_SPEED = 0.3
MAX_GAIN_DECADES = 0.5
MAX_TILT = 0.9
"""The coefficient of the previous sample."""
NOISE_DECADES = (-4, -1.7)
"""Relative to full scale."""

TEST_SPEEDS = (0.8, 0.9, 1.0, 1.1, 1.25)
"""The prediction for a clip is the mean of the predictions at these speeds."""
BATCH_SIZE = 16


def load(folder: Path) -> tuple[list[Waveform], NDArray[np.int_], NDArray[np.str_]]:
    """Waveforms, digits and speakers. The loudness is normalized, because it depends on the speaker, by up to 20 dB."""
    paths = sorted(folder.glob("*/*.wav"))
    dataset = vk.waveform_dataset(paths, [path.parent.name for path in paths], batch_size=1, cache=False)
    clips = [inputs["waveform"][0] for inputs, _ in dataset.as_numpy_iterator()]
    digits = np.array([dataset.class_names.index(path.parent.name) for path in paths])
    return (
        [np.float32(PEAK / np.abs(clip).max()) * clip for clip in clips],
        digits,
        np.array([path.name.split("_")[0] for path in paths]),
    )


def as_batch(clips: list[Waveform], rng: np.random.Generator | None = None) -> Waveform:
    """A batch with one example per clip; `rng` varies their speed, loudness and start."""
    batch = np.zeros((len(clips), params.EXAMPLE_SAMPLES), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        start, gain = 0, 1.0
        if rng is not None:
            clip = at_speed(clip, np.exp(rng.uniform(-MAX_LOG_SPEED, MAX_LOG_SPEED)))
            clip = at_microphone(clip, rng)
            start = int(rng.integers(0, min(MAX_DELAY_SAMPLES, max(0, len(row) - len(clip))) + 1))
            gain = 10 ** rng.uniform(-MAX_GAIN_DECADES, MAX_GAIN_DECADES)
        clip = gain * clip[: len(row)]
        row[start : start + len(clip)] = clip
    return batch


def at_speed(clip: Waveform, speed: float) -> Waveform:
    """Changes the speed like that of a tape: pitch and formants shift, as they do between speakers."""
    faster: Waveform = np.interp(np.arange(0, len(clip) - 1, speed), np.arange(len(clip)), clip)
    return faster


def at_microphone(clip: Waveform, rng: np.random.Generator) -> Waveform:
    """Tilts the spectrum and adds noise, because speakers also differ in their recording devices."""
    tilted = clip - rng.uniform(-MAX_TILT, MAX_TILT) * np.concatenate([[0], clip[:-1]])
    tilted *= PEAK / np.abs(tilted).max()
    return tilted + rng.standard_normal(len(clip)) * 10 ** rng.uniform(*NOISE_DECADES)


def initialize_from_data(vggish: keras.Model, waveforms: Waveform) -> None:
    """Draws weights such that each unit of VGGish has mean 0 and variance 1 over these clips, before its activation.

    With the published initializer, a standard deviation of 0.01, the signal fades from layer to layer; the published
    training compensated for that with batch normalization. (Krähenbühl et al., "Data-dependent initializations of
    convolutional neural networks", ICLR 2016.)
    """
    x = keras.Model(vggish.input, vggish.get_layer("fold").output)(waveforms)
    names = [layer.name for layer in vggish.layers]
    for name in names[names.index("conv1") : names.index("fc2") + 1]:
        layer = vggish.get_layer(name)
        if name in SLIM_SCOPES:
            layer.kernel.assign(keras.initializers.HeNormal()(layer.kernel.shape))
            activation, layer.activation = layer.activation, keras.activations.linear
            values = np.asarray(tf.cast(layer(x), tf.float32)).reshape(-1, layer.kernel.shape[-1])
            layer.activation = activation
            scale = values.std(axis=0) + 1e-3
            layer.kernel.assign(layer.kernel / scale)
            layer.bias.assign(-values.mean(axis=0) / scale)
        x = layer(x)


def train(
    clips: list[Waveform], digits: NDArray[np.int_], epochs: int, init: str, dtype: str, seed: int
) -> keras.Model:
    """Trains all layers of a classifier; the caller sets the seed of Keras."""
    rng = np.random.default_rng(seed)
    vggish = vk.VGGish(None, pooling="avg", dtype=dtype)
    if init == "data":
        initialize_from_data(vggish, as_batch(clips[::8]))
    # Zeros, so that an untrained head does not dominate the first steps.
    scores = keras.layers.Dense(10, activation="softmax", kernel_initializer="zeros", dtype="float32")
    classifier = keras.Model(vggish.input, scores(vggish.output))
    steps = epochs * math.ceil(len(clips) / BATCH_SIZE)
    warmup = steps // 5
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, 0.02, warmup_target=params.LEARNING_RATE, warmup_steps=warmup
    )
    classifier.compile(keras.optimizers.Adam(rate, epsilon=params.ADAM_EPSILON), "sparse_categorical_crossentropy")
    for _ in range(epochs):
        classifier.fit(as_batch(clips, rng), digits, batch_size=BATCH_SIZE, verbose=0)
    return classifier


def predict(classifier: keras.Model, clips: list[Waveform]) -> NDArray[np.int_]:
    """The predicted digits of clips."""
    scores = [
        classifier.predict(as_batch([at_speed(clip, speed) for clip in clips]), verbose=0) for speed in TEST_SPEEDS
    ]
    predicted: NDArray[np.int_] = np.argmax(np.mean(scores, axis=0), axis=1)
    return predicted


def logistic_regression(features: NDArray[Any], digits: NDArray[np.int_], held_out: NDArray[np.bool_]) -> float:
    """The accuracy of a logistic regression on the held-out clips."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5_000))
    model.fit(features[~held_out], digits[~held_out])
    return float(model.score(features[held_out], digits[held_out]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--speaker", action="append", help="hold out only this speaker")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--init", choices=["data", "published"], default="data")
    parser.add_argument("--dtype", default="mixed_bfloat16")
    options = parser.parse_args()
    clips, digits, speakers = load(options.folder)
    front_end = vk.LogMelExamples()
    batch = as_batch(clips)
    means = np.stack([np.mean(front_end.log_mel(clip[np.newaxis])[0], axis=0) for clip in clips])

    print(f"{'held out':<10} {'seed':>4} {'baseline':>9} {'untrained':>9} {'trained':>9}")
    results = []
    for seed in range(options.seeds):
        for speaker in options.speaker or sorted(set(speakers)):
            held_out = speakers == speaker
            others, tested = (
                [clip for clip, chosen in zip(clips, part, strict=True) if chosen] for part in (~held_out, held_out)
            )
            keras.utils.set_random_seed(seed)
            untrained = vk.VGGish(None, pooling="avg")
            classifier = train(others, digits[~held_out], options.epochs, options.init, options.dtype, seed)
            embeddings = untrained.predict(batch, verbose=0)
            row = (
                logistic_regression(means, digits, held_out),
                logistic_regression(embeddings, digits, held_out),
                float(np.mean(predict(classifier, tested) == digits[held_out])),
            )
            results.append(row)
            print(f"{speaker:<10} {seed:>4} " + " ".join(f"{accuracy:>9.1%}" for accuracy in row), flush=True)
    print(f"{'mean':<15} " + " ".join(f"{accuracy:>9.1%}" for accuracy in np.mean(results, axis=0)))


if __name__ == "__main__":
    main()

"""How well spoken digits are told apart of a speaker that was not trained on, without pretrained weights.

python -m benchmarks.spoken_digits FOLDER [--speaker NAME ..] [--seeds 2] [--init data] [--epochs 15]

FOLDER is the Free Spoken Digit Dataset as FOLDER/DIGIT/SPEAKER_TAKE.wav. Each speaker is left out in turn. The columns
are: the baseline, a logistic regression on the mean log-mel spectrum; the same on embeddings of VGGish that was never
trained; and VGGish with all its layers trained.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tensorflow import keras

import vggish_keras as vk
from vggish_keras import params
from vggish_keras.params import SLIM_SCOPES

PEAK = 0.5
MOST_DELAY = 1_600
MOST_STRETCH = 0.3
MOST_GAIN = 0.5
MOST_TILT = 0.9
NOISE_DECADES = (-4, -1.7)
"""Of the augmentation: samples, natural logarithm, decades, coefficient of the sample before, decades of full scale."""
TEST_SPEEDS = (0.8, 0.9, 1.0, 1.1, 1.25)
"""A clip's prediction is the mean of those at these speeds."""
BATCH_SIZE = 16


def load(folder: Path) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Waveforms of one loudness (speakers differ by 20 dB, which is no property of a digit), digits and speakers."""
    paths = sorted(folder.glob("*/*.wav"))
    dataset = vk.waveform_dataset(paths, [path.parent.name for path in paths], batch_size=1, cache=False)
    clips = [inputs["waveform"][0] for inputs, _ in dataset.as_numpy_iterator()]
    digits = np.array([dataset.class_names.index(path.parent.name) for path in paths])
    return (
        [np.float32(PEAK / np.abs(clip).max()) * clip for clip in clips],
        digits,
        np.array([path.name.split("_")[0] for path in paths]),
    )


def place(clips: list[np.ndarray], rng: np.random.Generator | None = None) -> np.ndarray:
    """Clips as a batch of one example each; with `rng` of other speed, loudness and beginning."""
    batch = np.zeros((len(clips), params.EXAMPLE_SAMPLES), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        start, gain = 0, 1.0
        if rng is not None:
            clip = at_speed(clip, np.exp(rng.uniform(-MOST_STRETCH, MOST_STRETCH)))
            clip = at_microphone(clip, rng)
            start = rng.integers(0, min(MOST_DELAY, max(0, len(row) - len(clip))) + 1)
            gain = 10 ** rng.uniform(-MOST_GAIN, MOST_GAIN)
        clip = gain * clip[: len(row)]
        row[start : start + len(clip)] = clip
    return batch


def at_speed(clip: np.ndarray, speed: float) -> np.ndarray:
    """As a tape that runs faster or slower, which moves pitch and formants, as from speaker to speaker."""
    return np.interp(np.arange(0, len(clip) - 1, speed), np.arange(len(clip)), clip)


def at_microphone(clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of another tilt of the spectrum, and with noise: speakers differ in their recorders, too."""
    tilted = clip - rng.uniform(-MOST_TILT, MOST_TILT) * np.concatenate([[0], clip[:-1]])
    tilted *= PEAK / np.abs(tilted).max()
    return tilted + rng.standard_normal(len(clip)) * 10 ** rng.uniform(*NOISE_DECADES)


def initialize_from_data(vggish: keras.Model, waveforms: np.ndarray) -> None:
    """Draws weights so that each unit of VGGish has mean 0 and variance 1 over these clips, before its activation.

    The published initialisation, a standard deviation of 0.01, lets the signal fade from layer to layer, which the
    published training undid by batch normalisation. (Krähenbühl et al., "Data-dependent initializations of
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


def trained(clips: list[np.ndarray], digits: np.ndarray, epochs: int, init: str, dtype: str, seed: int) -> keras.Model:
    """A classifier of which all layers were trained; Keras's numbers are drawn by the caller's seed."""
    rng = np.random.default_rng(seed)
    vggish = vk.VGGish(None, pooling="avg", dtype=dtype)
    if init == "data":
        initialize_from_data(vggish, place(clips[::8]))
    # Zeros, so that the first steps are not led by a head that knows nothing.
    scores = keras.layers.Dense(10, activation="softmax", kernel_initializer="zeros", dtype="float32")
    classifier = keras.Model(vggish.input, scores(vggish.output))
    steps = epochs * -(-len(clips) // BATCH_SIZE)
    warmup = steps // 5
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, 0.02, warmup_target=params.LEARNING_RATE, warmup_steps=warmup
    )
    classifier.compile(keras.optimizers.Adam(rate, epsilon=params.ADAM_EPSILON), "sparse_categorical_crossentropy")
    for _ in range(epochs):
        classifier.fit(place(clips, rng), digits, batch_size=BATCH_SIZE, verbose=0)
    return classifier


def predict(classifier: keras.Model, clips: list[np.ndarray]) -> np.ndarray:
    """The digits of clips."""
    scores = [classifier.predict(place([at_speed(clip, speed) for clip in clips]), verbose=0) for speed in TEST_SPEEDS]
    return np.mean(scores, axis=0).argmax(axis=1)


def logistic_regression(features: np.ndarray, digits: np.ndarray, held_out: np.ndarray) -> float:
    """Its accuracy on what is held out."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5_000))
    return model.fit(features[~held_out], digits[~held_out]).score(features[held_out], digits[held_out])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--speaker", action="append", help="leave out only this one")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--init", choices=["data", "published"], default="data")
    parser.add_argument("--dtype", default="mixed_bfloat16")
    options = parser.parse_args()
    clips, digits, speakers = load(options.folder)
    front_end = vk.LogMelExamples()
    placed = place(clips)
    means = np.stack([np.mean(front_end.log_mel(clip[np.newaxis])[0], axis=0) for clip in clips])

    print(f"{'left out':<10} {'seed':>4} {'baseline':>9} {'untrained':>9} {'trained':>9}")
    results = []
    for seed in range(options.seeds):
        for speaker in options.speaker or sorted(set(speakers)):
            held_out = speakers == speaker
            others, tested = (
                [clip for clip, chosen in zip(clips, part, strict=True) if chosen] for part in (~held_out, held_out)
            )
            keras.utils.set_random_seed(seed)
            untrained = vk.VGGish(None, pooling="avg")
            classifier = trained(others, digits[~held_out], options.epochs, options.init, options.dtype, seed)
            embeddings = untrained.predict(placed, verbose=0)
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

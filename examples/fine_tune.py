"""Fine-tune VGGish as a classifier, from labeled recordings to a prediction of the exported model.

python -m examples.fine_tune                            sines, constants and noise, generated on the fly
python -m examples.fine_tune sounds/ --seconds 3        a folder with one subfolder of recordings per class
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import click
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tensorflow import keras

import vggish_keras as vk
from vggish_keras import params
from vggish_keras.params import SLIM_SCOPES

HIDDEN_UNITS = 100
STEPS = 30
"""Training steps, as in the published training demo."""

SIGNALS = ("sine", "constant", "noise")
SIGNAL_SECONDS = 5
HELD_OUT_BATCHES = 10


# === Data ===


def signals(batches: int, seed: int) -> tf.data.Dataset:
    """The task of the published training demo: each batch holds a sine, a constant and noise, 5 s each.

    Returns:
        A tf.data.Dataset with elements and `class_names` like those of `vk.waveform_dataset`.
    """
    samples = SIGNAL_SECONDS * params.SAMPLE_RATE

    def generate() -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[np.int32]]]:
        rng = np.random.default_rng(seed)
        time = np.arange(samples) / params.SAMPLE_RATE
        for _ in range(batches):
            sine = np.sin(2 * np.pi * rng.uniform(100, 1_000) * time)
            constant = np.full(samples, rng.uniform(-1, 1))
            noise = rng.uniform(-1, 1, samples)
            waveforms = np.stack([sine, constant, noise]).astype(np.float32)
            yield {"waveform": waveforms, "num_samples": np.full(3, samples, np.int32)}, np.arange(3, dtype=np.int32)

    inputs = {"waveform": tf.TensorSpec([3, samples], tf.float32), "num_samples": tf.TensorSpec([3], tf.int32)}
    dataset = tf.data.Dataset.from_generator(generate, output_signature=(inputs, tf.TensorSpec([3], tf.int32)))
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(batches)).prefetch(tf.data.AUTOTUNE)
    dataset.class_names = list(SIGNALS)
    return dataset


def recordings(
    folder: Path, seconds: float, batch_size: int, validation_split: float, group: str | None, seed: int
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """The training and validation datasets of a folder.

    Args:
        folder: A folder with one subfolder per class.
        seconds: The length of the clips.
        batch_size: Clips per batch.
        validation_split: The share of the files or groups to hold out.
        group: A regular expression that matches the group in a file name; None for no groups.
        seed: The seed for shuffling, cropping and splitting.
    """
    options: dict[str, Any] = {
        "seconds": seconds,
        "batch_size": batch_size,
        "validation_split": validation_split,
        "group": _group(group),
        "seed": seed,
    }
    training = vk.waveform_dataset(folder, subset="training", shuffle=True, **options)
    held_out = vk.waveform_dataset(folder, subset="validation", crop="center", **options)
    return training, held_out


def datasets(folder: Path | None, steps: int, seed: int, **options: Any) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """The training and validation datasets: `recordings` of a folder with these options, or else `signals`."""
    if folder is None:
        return signals(steps, seed), signals(HELD_OUT_BATCHES, seed + 1)
    return recordings(folder, seed=seed, **options)


def data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the arguments of `datasets` to a command."""
    options = [
        click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False),
        click.option("--steps", default=STEPS, show_default=True, help="Training steps on generated signals."),
        click.option("--seconds", default=3.0, show_default=True, help="Length to which clips are cropped or padded."),
        click.option("--batch-size", default=32, show_default=True, help="Clips per batch."),
        click.option(
            "--validation-split", default=0.2, show_default=True, help="Share of files or groups to hold out."
        ),
        click.option(
            "--group",
            metavar="REGEX",
            help="Keep files in the same subset if this expression matches the same text in their names; ^[^_]+ "
            "matches the part before the first underscore.",
        ),
        click.option(
            "--seed", default=0, show_default=True, help="Seed for weights, shuffling, cropping and splitting."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@contextlib.contextmanager
def errors_as_messages() -> Iterator[None]:
    """Reports invalid data or weights as a one-line error."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _group(pattern: str | None) -> Callable[[Path], str] | None:
    if pattern is None:
        return None

    def group(path: Path) -> str:
        found = re.search(pattern, path.name)
        if found is None:
            raise ValueError(f"{pattern!r} matches no group in the name of {path}")
        return found.group(1) if found.groups() else found.group()

    return group


# === Model ===


def build_classifier(weights: str | None, class_names: list[str], dtype: str | None = None) -> keras.Model:
    """VGGish with a hidden layer and a softmax on the mean of each clip's embeddings."""
    vggish = vk.VGGish(weights, pooling="avg", lengths=True, dtype=dtype)
    hidden = keras.layers.Dense(HIDDEN_UNITS, activation="relu", name="hidden")(keras.layers.ReLU()(vggish.output))
    scores = keras.layers.Dense(len(class_names), activation="softmax", dtype="float32", name="scores")(hidden)
    return keras.Model(vggish.input, scores, name="classifier")


def train_from(classifier: keras.Model, first: str | None) -> None:
    """Freezes the layers of VGGish before `first`, such as conv4_1; None freezes all. Compile the model afterwards."""
    names = list(SLIM_SCOPES)
    trained = [] if first is None else names[names.index(first) :]
    for name in names:
        classifier.get_layer(name).trainable = name in trained


def compile_classifier(classifier: keras.Model) -> None:
    """Compiles the model with the hyperparameters of the published training demo."""
    optimizer = keras.optimizers.Adam(params.LEARNING_RATE, epsilon=params.ADAM_EPSILON)
    if classifier.get_layer("conv1").dtype_policy.name == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    classifier.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])


# === Results ===


def confusion_matrix(classifier: keras.Model, held_out: tf.data.Dataset) -> NDArray[np.int32]:
    """The number of clips of each class (row) predicted as each class (column): int [classes, classes]."""
    pairs = [(label, classifier.predict_on_batch(inputs).argmax(axis=1)) for inputs, label in held_out]
    truth, predicted = (np.concatenate(part) for part in zip(*pairs, strict=True))
    classes = len(held_out.class_names)
    return np.asarray(tf.math.confusion_matrix(truth, predicted, classes))


def plot_confusion_matrix(matrix: NDArray[np.int32], class_names: list[str], path: Path) -> None:
    """Plots the matrix and writes it as an image."""
    size = 3 + 0.4 * len(class_names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(matrix, cmap="Blues")
    figure.colorbar(image, ax=axes, label="clips")
    axes.set_xticks(range(len(class_names)), class_names, rotation=90)
    axes.set_yticks(range(len(class_names)), class_names)
    axes.set(xlabel="predicted", ylabel="true", title=f"{np.trace(matrix) / matrix.sum():.1%} of {matrix.sum()} clips")
    for (row, column), count in np.ndenumerate(matrix):
        color = "white" if count > matrix.max() / 2 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color)
    figure.savefig(path, dpi=120)


def predict(saved_model: Path, wav: bytes) -> dict[str, float]:
    """The score of each class, as TF Serving would return it for the bytes of a WAV file."""
    module = tf.saved_model.load(str(saved_model))
    class_names = Path(module.class_names.asset_path.numpy().decode()).read_text(encoding="utf-8").splitlines()
    scores = module.signatures["wav"](audio=tf.constant([wav]))["scores"][0].numpy()
    return dict(zip(class_names, map(float, scores), strict=True))


def first_as_wav(held_out: tf.data.Dataset) -> tuple[bytes, str]:
    """The first clip of a dataset, as the bytes of a WAV file, and its class."""
    inputs, labels = next(iter(held_out))
    waveform = inputs["waveform"][0, : inputs["num_samples"][0], tf.newaxis]
    return tf.audio.encode_wav(waveform, params.SAMPLE_RATE).numpy(), held_out.class_names[int(labels[0])]


@click.command()
@data_options
@click.option("--weights", default="audioset", show_default=True, help="Initial weights; none for random ones.")
@click.option(
    "--train-from",
    "first",
    type=click.Choice([*SLIM_SCOPES, "none"]),
    default="conv1",
    show_default=True,
    help="First layer of VGGish to train.",
)
@click.option("--epochs", default=20, show_default=True, help="Maximum number of epochs on a folder.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
    default="float32",
    show_default=True,
    help="Dtype policy of VGGish.",
)
@click.option("--tensorboard", is_flag=True, help="Also write OUTPUT/logs for TensorBoard.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("classifier"), show_default=True, help="Folder to write."
)
def main(
    folder: Path | None,
    seed: int,
    weights: str,
    first: str,
    epochs: int,
    dtype: str,
    tensorboard: bool,
    output: Path,
    **options: Any,
) -> None:
    """Train on FOLDER/CLASS/*.wav or on generated signals; write the SavedModel OUTPUT/1 and OUTPUT/confusion.png."""
    if (output / "1").exists():
        raise click.ClickException(f"{output / '1'} already exists: choose a different output")
    keras.utils.set_random_seed(seed)
    with errors_as_messages():
        training, held_out = datasets(folder, seed=seed, **options)
        classifier = build_classifier(None if weights == "none" else weights, training.class_names, dtype)
    train_from(classifier, None if first == "none" else first)
    compile_classifier(classifier)
    callbacks = [keras.callbacks.EarlyStopping("val_accuracy", patience=5, restore_best_weights=True)]
    if tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(str(output / "logs")))
    epochs = epochs if folder else 1
    # The dataset shuffles itself.
    classifier.fit(training, epochs=epochs, shuffle=False, validation_data=held_out, callbacks=callbacks, verbose=2)

    matrix = confusion_matrix(classifier, held_out)
    print(f"{np.trace(matrix)} of {matrix.sum()} held-out clips are classified correctly")
    output.mkdir(parents=True, exist_ok=True)
    plot_confusion_matrix(matrix, training.class_names, output / "confusion.png")
    vk.export_saved_model(classifier, output / "1", class_names=training.class_names)
    wav, truth = first_as_wav(held_out)
    print(f"prediction of {output / '1'} for a clip of class {truth}: {predict(output / '1', wav)}")


if __name__ == "__main__":
    main()

"""Train the classifier of `examples.fine_tune` in a Keras 2 model with hub.KerasLayer.

python -m examples.fine_tune_hub vggish/1               sines, constants and noise, generated on the fly
python -m examples.fine_tune_hub vggish/1 sounds/       a folder with one subfolder of recordings per class
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from examples import fine_tune
from vggish_keras import params

if TYPE_CHECKING:
    import tensorflow as tf
    import tf_keras


def build_classifier(saved_model: Path, classes: int, trainable: bool = True) -> "tf_keras.Model":
    """A classifier of waveforms of one length: hub.KerasLayer passes no mask on, so padding is not ignored."""
    import tensorflow_hub as hub
    import tf_keras

    layers = tf_keras.layers
    vggish = hub.KerasLayer(str(saved_model), trainable=trainable, name="vggish")
    hidden = layers.Dense(fine_tune.HIDDEN_UNITS, activation="relu", name="hidden")
    scores = layers.Dense(classes, activation="softmax", name="scores")
    return tf_keras.Sequential(
        [tf_keras.Input((None,)), vggish, layers.GlobalAveragePooling1D(), layers.ReLU(), hidden, scores]
    )


@click.command()
@click.argument("saved_model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@fine_tune.data_options
@click.option("--frozen", is_flag=True, help="Train only the new layers.")
@click.option("--epochs", default=20, show_default=True, help="Epochs on a folder.")
def main(saved_model: Path, folder: Path | None, seed: int, frozen: bool, epochs: int, **options: Any) -> None:
    """Train on FOLDER/CLASS/*.wav or on generated signals, and evaluate on the held-out clips."""
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    with fine_tune.errors_as_messages():
        training, held_out = fine_tune.datasets(folder, seed=seed, **options)
    classifier = build_classifier(saved_model, len(training.class_names), trainable=not frozen)
    optimizer = tf_keras.optimizers.Adam(params.LEARNING_RATE, epsilon=params.ADAM_EPSILON)
    classifier.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(_waveforms(training), epochs=epochs if folder else 1, verbose=2)
    print(
        f"{classifier.evaluate(_waveforms(held_out), verbose=0)[1]:.1%} of the held-out clips are classified correctly"
    )


def _waveforms(dataset: "tf.data.Dataset") -> "tf.data.Dataset":
    return dataset.map(lambda inputs, label: (inputs["waveform"], label))


if __name__ == "__main__":
    main()

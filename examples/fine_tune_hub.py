"""The classifier of `examples.fine_tune` through hub.KerasLayer, in a Keras 2 model.

python -m examples.fine_tune_hub vggish/1               sines, constants and noise, made on the fly
python -m examples.fine_tune_hub vggish/1 sounds/       a folder with a folder of recordings for each class
"""

from pathlib import Path
from typing import Any

import click

from examples import fine_tune
from vggish_keras import params


def build_classifier(saved_model: Path, classes: int, trainable: bool = True) -> Any:
    """On waveforms of one length: what is padded counts here, as hub.KerasLayer hands on no mask."""
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
@click.option("--frozen", is_flag=True, help="Train the new layers alone.")
@click.option("--epochs", default=20, show_default=True, help="Of a folder.")
def main(saved_model: Path, folder: Path | None, seed: int, frozen: bool, epochs: int, **options: Any) -> None:
    """Train on FOLDER/CLASS/*.wav, or on signals, and evaluate on what was held out."""
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    with fine_tune.told():
        training, held_out = fine_tune.datasets(folder, seed=seed, **options)
    classifier = build_classifier(saved_model, len(training.class_names), trainable=not frozen)
    optimizer = tf_keras.optimizers.Adam(params.LEARNING_RATE, epsilon=params.ADAM_EPSILON)
    classifier.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(_waveforms(training), epochs=epochs if folder else 1, verbose=2)
    print(f"{classifier.evaluate(_waveforms(held_out), verbose=0)[1]:.1%} of the held-out clips are right")


def _waveforms(dataset: Any) -> Any:
    return dataset.map(lambda inputs, label: (inputs["waveform"], label))


if __name__ == "__main__":
    main()

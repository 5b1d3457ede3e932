"""The classifier of `examples.fine_tune` through hub.KerasLayer, in a Keras 2 model.

python -m examples.fine_tune_hub vggish/1               sines, constants and noise, made on the fly
python -m examples.fine_tune_hub vggish/1 sounds/       a folder with a folder of recordings for each class
"""

from pathlib import Path
from typing import Any

import click

from examples import fine_tune


def build_classifier(saved_model: Path, classes: int, trainable: bool = True) -> Any:
    """On waveforms of one length: what is padded counts here, as hub.KerasLayer hands on no mask."""
    import tensorflow_hub as hub
    import tf_keras

    layers = tf_keras.layers
    vggish = hub.KerasLayer(str(saved_model), trainable=trainable, name="vggish")
    hidden = layers.Dense(100, activation="relu", name="hidden")
    scores = layers.Dense(classes, activation="softmax", name="scores")
    return tf_keras.Sequential(
        [tf_keras.Input((None,)), vggish, layers.GlobalAveragePooling1D(), layers.ReLU(), hidden, scores]
    )


@click.command()
@click.argument("saved_model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
@click.option("--frozen", is_flag=True, help="Train the new layers alone.")
@click.option("--epochs", default=20, show_default=True, help="Of a folder.")
@click.option("--steps", default=fine_tune.STEPS, show_default=True, help="Of the signals that are made on the fly.")
@click.option("--seconds", default=3.0, show_default=True, help="To which clips are cut or padded.")
@click.option("--batch-size", default=32, show_default=True)
@click.option("--validation", default=0.2, show_default=True, help="Share of the files that is held out.")
@click.option("--seed", default=0, show_default=True)
def main(
    saved_model: Path,
    folder: Path | None,
    frozen: bool,
    epochs: int,
    steps: int,
    seconds: float,
    batch_size: int,
    validation: float,
    seed: int,
) -> None:
    """Train on FOLDER/CLASS/*.wav, or on signals, and evaluate on what was held out."""
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    if folder is None:
        epochs, (training, held_out) = 1, (fine_tune.signals(steps, seed), fine_tune.signals(10, seed + 1))
    else:
        training, held_out = fine_tune.recordings(folder, seconds, batch_size, validation, None, seed)
    classifier = build_classifier(saved_model, len(training.class_names), trainable=not frozen)
    optimizer = tf_keras.optimizers.Adam(fine_tune.LEARNING_RATE, epsilon=1e-8)
    classifier.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(_waveforms(training), epochs=epochs, verbose=2)
    print(f"{classifier.evaluate(_waveforms(held_out), verbose=0)[1]:.1%} of the held-out clips are right")


def _waveforms(dataset: Any) -> Any:
    return dataset.map(lambda inputs, label: (inputs["waveform"], label))


if __name__ == "__main__":
    main()

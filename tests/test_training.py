"""Train a classifier on top of VGGish with the features of Keras: policies, XLA, replicas, freezing, callbacks."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

from examples import fine_tune
from vggish_keras.params import SLIM_SCOPES

pytestmark = [pytest.mark.keras, pytest.mark.usefixtures("narrow_network")]


@pytest.fixture
def clips():
    """Inputs and labels: tones of two pitches and different lengths, followed by NaN."""
    rng = np.random.default_rng(0)
    labels = np.arange(8) % 2
    num_samples = rng.integers(8_000, 32_000, 8).astype(np.int32)
    waveform = np.full((8, 32_000), np.nan, np.float32)
    for clip, label, samples in zip(waveform, labels, num_samples, strict=True):
        hz = (300, 3_000)[label] * rng.uniform(0.8, 1.2)
        clip[:samples] = 0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / 16_000)
    return {"waveform": waveform, "num_samples": num_samples}, labels


def he_initialized(classifier):
    """Sets weights with which even a narrow network learns quickly."""
    for seed, layer in enumerate(map(classifier.get_layer, SLIM_SCOPES)):
        layer.kernel.assign(keras.initializers.HeNormal(seed)(layer.kernel.shape))
    return classifier


def build(dtype=None):
    keras.utils.set_random_seed(0)
    return he_initialized(fine_tune.build_classifier(None, ["low", "high"], dtype))


def losses(classifier, clips, epochs=4, **options):
    classifier.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy", **options)
    inputs, labels = clips
    return classifier.fit(inputs, labels, batch_size=4, shuffle=False, epochs=epochs, verbose=0).history["loss"]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_training_reduces_the_loss_under_every_policy(clips, dtype):
    classifier = build(dtype)
    history = losses(classifier, clips)
    assert history[-1] < 0.8 * history[0]
    assert {tf.as_dtype(variable.dtype) for variable in classifier.trainable_variables} == {tf.float32}
    assert np.all(np.isfinite(classifier.predict(clips[0], verbose=0)))


@pytest.mark.slow
def test_xla_computes_the_same_steps(clips):
    np.testing.assert_allclose(
        losses(build(), clips, jit_compile=True), losses(build(), clips, jit_compile=False), rtol=1e-3
    )


TWO_REPLICAS = """
import json, sys
import numpy as np, pytest, tensorflow as tf
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests import conftest, test_training
file = np.load(sys.argv[1])
clips = {name: file[name] for name in ("waveform", "num_samples")}, file["labels"]
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with pytest.MonkeyPatch.context() as monkeypatch, strategy.scope():
    conftest.make_network_narrow(monkeypatch)
    print(json.dumps([strategy.num_replicas_in_sync, test_training.losses(test_training.build(), clips)]))
"""


@pytest.mark.slow
def test_two_replicas_compute_the_same_steps_as_one(tmp_path, clips):
    """In a separate process that splits the CPU into two devices."""
    inputs, labels = clips
    np.savez(tmp_path / "clips.npz", labels=labels, **inputs)
    command = [sys.executable, "-c", TWO_REPLICAS, tmp_path / "clips.npz"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    assert result.returncode == 0, result.stderr
    replicas, of_two = json.loads(result.stdout)
    assert replicas == 2
    np.testing.assert_allclose(of_two, losses(build(), clips), rtol=1e-3)


# === Freezing ===


@pytest.mark.parametrize(("first", "trained"), [(None, 0), ("fc2", 1), ("conv4_1", 5), ("conv1", 9)])
def test_frozen_layers_do_not_change(clips, first, trained):
    classifier = build()
    fine_tune.train_from(classifier, first)
    before = {layer.name: layer.get_weights() for layer in classifier.layers}
    losses(classifier, clips, epochs=1)
    trained_layers = {*list(SLIM_SCOPES)[9 - trained :], "hidden", "scores"}
    for name, variables in before.items():
        after = classifier.get_layer(name).get_weights()
        changed = [np.any(old != new) for old, new in zip(variables, after, strict=True)]
        assert changed == [name in trained_layers] * len(variables), name


# === Keras's callbacks ===


@pytest.mark.slow
def test_callbacks_save_stop_and_log(tmp_path, clips):
    pytest.importorskip("tensorboard")
    classifier = build()
    fine_tune.compile_classifier(classifier)
    callbacks = [
        keras.callbacks.ModelCheckpoint(str(tmp_path / "best.keras"), "val_loss", save_best_only=True),
        keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=100),
        keras.callbacks.TensorBoard(str(tmp_path / "logs")),
    ]
    history = classifier.fit(*clips, epochs=5, validation_data=clips, callbacks=callbacks, verbose=0).history
    assert len(history["loss"]) == 2  # no improvement by 100
    assert list((tmp_path / "logs").rglob("events.*"))
    best = keras.models.load_model(tmp_path / "best.keras")
    best_loss = best.evaluate(*clips, verbose=0)[0]
    np.testing.assert_allclose(best_loss, min(history["val_loss"]), rtol=1e-4)

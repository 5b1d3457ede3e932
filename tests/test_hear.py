import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.test_embedder import in_child
from vggish_keras import hear


@pytest.fixture(scope="module")
def model(slim):
    return hear.load_model(str(slim.v2))


def test_attributes(model):
    assert (model.sample_rate, model.scene_embedding_size, model.timestamp_embedding_size) == (16_000, 128, 128)


@pytest.mark.parametrize("hop", [50.0, 120.0])
def test_timestamps_are_the_centers_of_the_embedded_samples(model, vggish, sounds, hop):
    audio = np.stack([sounds["noise"], sounds["rumble"]])[:, :20_000]
    embeddings, timestamps = hear.get_timestamp_embeddings(audio, model, hop)
    count = 1 + 1_250 // int(hop)
    assert embeddings.shape == (2, count, 128)
    np.testing.assert_allclose(timestamps, [hop * np.arange(count)] * 2)
    padded = np.pad(audio, ((0, 0), (7_800, 7_800)))
    for index in (0, 3, count - 1):
        start = int(timestamps[0, index] * 16)  # the first of the 15,600 samples around the timestamp
        expected = vggish(padded[:, start : start + 15_600])[:, 0]
        np.testing.assert_allclose(embeddings[:, index], expected, atol=1e-4 * np.abs(expected).max())


def test_scene_embeddings_are_means(model, embedder, sounds):
    """They equal the mean of the embedder's results, also for clips shorter than an example."""
    for samples in (100, 40_000):
        audio = np.stack([sounds["noise"], sounds["rumble"]])[:, :samples]
        expected = np.stack([embedder.embed(sound, 16_000).values.mean(axis=0) for sound in audio])
        np.testing.assert_allclose(
            hear.get_scene_embeddings(audio, model), expected, atol=1e-4 * np.abs(expected).max()
        )


def test_invalid_input_raises(model):
    for audio in (np.zeros(100, "f"), np.zeros((0, 100), "f"), np.zeros((1, 100, 1), "f")):
        with pytest.raises(ValueError, match=r"expected audio of shape \[n_sounds, n_samples\] with at least one"):
            hear.get_scene_embeddings(audio, model)
    with pytest.raises(ValueError, match=r"multiple of 0\.01"):
        hear.get_timestamp_embeddings(np.zeros((1, 100), "f"), model, 25)
    with pytest.raises(FileNotFoundError, match="no weights found at nothing"):
        hear.load_model("nothing.ckpt")
    with pytest.raises(FileNotFoundError, match=r"vggish_model\.ckpt is not in the cache"):
        hear.load_model()


def test_integers_raise(model):
    for audio in (np.zeros((1, 20_000), np.int16), tf.zeros((1, 20_000), tf.int32)):
        with pytest.raises(TypeError, match=r"expected float samples in \[-1, 1\], got int\d+: divide PCM by its full"):
            hear.get_scene_embeddings(audio, model)


def test_floats_of_any_precision_are_embedded(model, sounds):
    audio = sounds["noise"][np.newaxis, :20_000]
    expected = hear.get_scene_embeddings(audio, model)
    for wide in (audio.astype(np.float64), tf.constant(audio, tf.float64)):
        np.testing.assert_array_equal(hear.get_scene_embeddings(wide, model), expected)


def test_hear_validator_passes(slim):
    pytest.importorskip("hearvalidator", reason="hearvalidator, which needs torch, is not installed")
    command = [sys.executable, "-m", "hearvalidator.validate", "vggish_keras.hear", "--model", slim.v2]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Looks good!" in result.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_process_raises_because_tensorflow_cannot_run_in_it(model, sounds):
    audio = sounds["noise"][np.newaxis]
    hear.get_scene_embeddings(audio, model)
    for function in (hear.get_scene_embeddings, hear.get_timestamp_embeddings):
        message = in_child(lambda function=function: function(audio, model))
        assert message.startswith("RuntimeError: the network ran in process ")

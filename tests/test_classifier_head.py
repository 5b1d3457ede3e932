"""What follows VGGish in a model, whichever way the model is put together."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import vggish_keras as vk
from vggish_keras.exporting.classifier_head import Head

pytestmark = [pytest.mark.keras, pytest.mark.usefixtures("small_network")]

EMBEDDINGS = tf.constant(np.random.default_rng(0).standard_normal((3, 4, 128)), tf.float32)
MASK = tf.sequence_mask([4, 2, 1], 4)


def built_on_it(**arguments):
    vggish = vk.VGGish(None, **arguments)
    outputs = vggish.output if "pooling" in arguments else keras.layers.GlobalAveragePooling1D()(vggish.output)
    return keras.Model(vggish.input, keras.layers.Dense(5)(outputs))


def sequential(**arguments):
    pool = [] if "pooling" in arguments else [keras.layers.GlobalAveragePooling1D()]
    return keras.Sequential([keras.Input((None,)), vk.VGGish(None, **arguments), *pool, keras.layers.Dense(5)])


def nested(**arguments):
    vggish = vk.VGGish(None, **arguments)
    inputs = {"waveform": keras.Input((None,), name="waveform")}
    inputs["num_samples"] = keras.Input((), dtype="int32", name="num_samples")
    inputs = inputs if "lengths" in arguments else inputs["waveform"]
    outputs = vggish(inputs)
    outputs = outputs if "pooling" in arguments else keras.layers.GlobalAveragePooling1D()(outputs)
    return keras.Model(inputs, keras.layers.Dense(5)(outputs))


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (build, arguments)
        for build in (built_on_it, sequential, nested)
        for arguments in ({}, {"pooling": "avg"}, {"lengths": True}, {"lengths": True, "pooling": "avg"})
        if build is not sequential or "lengths" not in arguments
    ],
)
def test_it_gives_what_the_model_makes_of_the_embeddings(build, arguments):
    model = build(**arguments)
    kernel, bias = model.layers[-1].get_weights()
    head = Head(model)
    assert head.size == 5
    np.testing.assert_allclose(head(EMBEDDINGS), np.mean(EMBEDDINGS, axis=1) @ kernel + bias, atol=1e-5)
    means = [np.mean(clip[:count], axis=0) for clip, count in zip(EMBEDDINGS, (4, 2, 1), strict=True)]
    np.testing.assert_allclose(head(EMBEDDINGS, MASK), means @ kernel + bias, atol=1e-5)


def test_training_reaches_its_layers():
    vggish = vk.VGGish(None, pooling="avg")
    head = Head(keras.Model(vggish.input, keras.layers.Dropout(0.5)(vggish.output)))
    ones = tf.ones((1, 2, 128))
    assert np.all(head(ones) == 1)
    assert set(np.unique(head(ones, training=True))) == {0, 2}


def test_scores_of_each_example():
    vggish = vk.VGGish(None)
    dense = keras.layers.Dense(5)
    head = Head(keras.Model(vggish.input, dense(vggish.output)))
    np.testing.assert_allclose(head(EMBEDDINGS), dense(EMBEDDINGS), atol=1e-5)


def of_examples():
    vggish = vk.VGGish(None, input="examples")
    return keras.Model(vggish.input, keras.layers.Dense(5)(vggish.output))


def of_the_waveform_too():
    vggish = vk.VGGish(None, pooling="avg")
    loudness = keras.layers.Lambda(lambda waveform: waveform[:, :1])(vggish.input)
    return keras.Model(vggish.input, keras.layers.Concatenate()([vggish.output, loudness]))


def of_two_outputs():
    vggish = vk.VGGish(None, pooling="avg")
    return keras.Model(vggish.input, [keras.layers.Dense(5)(vggish.output), vggish.output])


def without_vggish():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])


@pytest.mark.parametrize(
    "build", [of_examples, of_the_waveform_too, of_two_outputs, without_vggish, lambda: vk.VGGish(None)]
)
def test_other_models_are_refused(build):
    with pytest.raises(ValueError, match="must be functional or sequential, with one output that depends on waveforms"):
        Head(build())

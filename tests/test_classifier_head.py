"""Classifiers on top of VGGish, built in every way that Keras offers."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import vggish_keras as vk
from vggish_keras.exporting.classifier_head import ClassifierHead

pytestmark = [pytest.mark.keras, pytest.mark.usefixtures("small_network")]

EMBEDDINGS = tf.constant(np.random.default_rng(0).standard_normal((3, 4, 128)), tf.float32)
MASK = tf.sequence_mask([4, 2, 1], 4)


def functional(**arguments):
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
        for build in (functional, sequential, nested)
        for arguments in ({}, {"pooling": "avg"}, {"lengths": True}, {"lengths": True, "pooling": "avg"})
        if build is not sequential or "lengths" not in arguments
    ],
)
def test_the_head_equals_the_layers_after_vggish(build, arguments):
    model = build(**arguments)
    kernel, bias = model.layers[-1].get_weights()
    head = ClassifierHead(model)
    assert head.size == 5
    np.testing.assert_allclose(head(EMBEDDINGS), np.mean(EMBEDDINGS, axis=1) @ kernel + bias, atol=1e-5)
    means = [np.mean(clip[:count], axis=0) for clip, count in zip(EMBEDDINGS, (4, 2, 1), strict=True)]
    np.testing.assert_allclose(head(EMBEDDINGS, MASK), means @ kernel + bias, atol=1e-5)


def test_attention_ignores_masked_examples():
    vggish = vk.VGGish(None, lengths=True)
    attended = keras.layers.MultiHeadAttention(2, 8)(vggish.output, vggish.output)
    head = ClassifierHead(keras.Model(vggish.input, keras.layers.GlobalAveragePooling1D()(attended)))
    alone = [head(clip[np.newaxis, :count])[0] for clip, count in zip(EMBEDDINGS, (4, 2, 1), strict=True)]
    np.testing.assert_allclose(head(EMBEDDINGS, MASK), alone, atol=1e-5)


def test_any_number_of_examples_for_a_waveform_of_fixed_length():
    waveform = keras.Input((48_000,))
    pooled = keras.layers.GlobalAveragePooling1D()(vk.VGGish(None)(waveform))
    head = ClassifierHead(keras.Model(waveform, pooled))
    np.testing.assert_allclose(head(EMBEDDINGS), np.mean(EMBEDDINGS, axis=1), atol=1e-5)


def test_training_is_passed_to_the_layers():
    vggish = vk.VGGish(None, pooling="avg")
    head = ClassifierHead(keras.Model(vggish.input, keras.layers.Dropout(0.5)(vggish.output)))
    ones = tf.ones((1, 2, 128))
    assert np.all(head(ones) == 1)
    assert set(np.unique(head(ones, training=True))) == {0, 2}


def test_scores_per_example():
    vggish = vk.VGGish(None)
    dense = keras.layers.Dense(5)
    head = ClassifierHead(keras.Model(vggish.input, dense(vggish.output)))
    np.testing.assert_allclose(head(EMBEDDINGS), dense(EMBEDDINGS), atol=1e-5)


def input_examples():
    vggish = vk.VGGish(None, input="examples")
    return keras.Model(vggish.input, keras.layers.Dense(5)(vggish.output))


def depending_on_the_waveform():
    vggish = vk.VGGish(None, pooling="avg")
    loudness = keras.layers.Lambda(lambda waveform: waveform[:, :1])(vggish.input)
    return keras.Model(vggish.input, keras.layers.Concatenate()([vggish.output, loudness]))


def two_outputs():
    vggish = vk.VGGish(None, pooling="avg")
    return keras.Model(vggish.input, [keras.layers.Dense(5)(vggish.output), vggish.output])


def without_vggish():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])


@pytest.mark.parametrize(
    "build", [input_examples, depending_on_the_waveform, two_outputs, without_vggish, lambda: vk.VGGish(None)]
)
def test_other_models_raise(build):
    with pytest.raises(ValueError, match="must be functional or sequential, with one output that depends on waveforms"):
        ClassifierHead(build())

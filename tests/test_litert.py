"""LiteRT: models that users convert themselves."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from tensorflow import keras

import vggish_keras as vk
from tests.published import assert_close

RNG = np.random.default_rng(0)


def randomize(model):
    """Draws weights under which signals keep their size, unlike the initial ones, from layer to layer."""
    for weight in model.weights:
        shape = tuple(weight.shape)
        weight.assign(RNG.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1])))
    return model


# === Conversion by TensorFlow's own converter ===


def with_classifier(model):
    embedding = model.output
    if len(embedding.shape) == 3:
        embedding = keras.layers.GlobalAveragePooling1D()(embedding)
    return keras.Model(model.input, keras.layers.Dense(5, "softmax")(embedding))


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network")
@pytest.mark.parametrize("input", ["waveform", "examples"])
@pytest.mark.parametrize("build", [lambda model: model, with_classifier], ids=["embedding", "classifier"])
def test_tensorflow_converts_the_keras_model(input, build):
    model = randomize(build(vk.VGGish(None, input)))
    converted = tf.lite.TFLiteConverter.from_keras_model(model).convert()  # with builtin operators only
    interpreter = Interpreter(model_content=converted)
    (details,) = interpreter.get_input_details()
    inputs = RNG.uniform(-1, 1, (3, 32_000) if input == "waveform" else (3, 96, 64)).astype(np.float32)
    interpreter.resize_tensor_input(details["index"], inputs.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(details["index"], inputs)
    interpreter.invoke()
    assert_close(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]), model(inputs))

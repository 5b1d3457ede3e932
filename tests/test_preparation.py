"""Which classifiers can be exported: their scores must be those of the layers after VGGish."""

import numpy as np
import pytest
from tensorflow import keras

import vggish_keras as vk
from vggish_keras.exporting.preparation import take_apart

pytestmark = [pytest.mark.keras, pytest.mark.usefixtures("narrow_network")]


def functional():
    vggish = vk.VGGish(None, pooling="avg")
    return keras.Model(vggish.input, keras.layers.Dense(5, "softmax")(vggish.output))


def sequential():
    return keras.Sequential([keras.Input((None,)), vk.VGGish(None, pooling="avg"), keras.layers.Dense(5)])


def of_lengths():
    vggish = vk.VGGish(None, lengths=True)
    inputs = {"waveform": keras.Input((None,), name="waveform")}
    inputs["num_samples"] = keras.Input((), dtype="int32", name="num_samples")
    return keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling1D()(vggish(inputs))))


def of_stereo():
    stereo = keras.Input((None, 2))
    return keras.Model(stereo, keras.layers.Dense(5)(vk.VGGish(None, pooling="avg")(stereo)))


def of_two_seconds():
    waveform = keras.Input((32_000,))
    return keras.Model(waveform, keras.layers.Dense(5)(vk.VGGish(None, pooling="max")(waveform)))


def in_bfloat16():
    vggish = vk.VGGish(None, pooling="avg", dtype="mixed_bfloat16")
    return keras.Model(vggish.input, keras.layers.Dense(5, dtype="mixed_bfloat16")(vggish.output))


@pytest.mark.parametrize("build", [functional, sequential, of_lengths, of_stereo, of_two_seconds, in_bfloat16])
def test_classifiers(build):
    served = take_apart(build(), None, list("abcde"), "audioset")
    assert served.head is not None
    assert served.head.size == 5


def pca(seed):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(128, 128)).astype(np.float32), rng.normal(size=128).astype(np.float32)]


def test_own_pca_parameters_are_kept(tmp_path, pca_in_cache):
    """Those of a model and of an exported file; others replace them."""
    model = vk.VGGish(None, postprocess="quantized", pca_params=pca(0))
    onnx = vk.export_onnx(model, tmp_path / "x.onnx", "quantized")
    saved = vk.export_saved_model(model, tmp_path / "saved", "pca")
    model.save(tmp_path / "x.keras")
    for source in (model, onnx, saved, tmp_path / "x.keras"):
        served = take_apart(source, "quantized", None, "audioset")
        for values, expected in zip(served.postprocess.get_weights(), pca(0), strict=True):
            np.testing.assert_array_equal(values, expected)
    served = take_apart(onnx, "quantized", None, pca(1))
    np.testing.assert_array_equal(served.postprocess.get_weights()[1], pca(1)[1])
    served = take_apart(vk.VGGish(None), "quantized", None, "audioset")
    np.testing.assert_array_equal(
        served.postprocess.get_weights()[1], np.load(pca_in_cache)["pca_means"].ravel().astype(np.float32)
    )


def test_layers_before_vggish_would_be_lost():
    waveform = keras.Input((None,))
    model = keras.Model(waveform, sequential()(keras.layers.Rescaling(0.05)(waveform)))
    with pytest.raises(ValueError, match="cannot be exported: layers before VGGish change them"):
        take_apart(model, None, list("abcde"), "audioset")

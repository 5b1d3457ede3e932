"""Which classifiers can be exported: their scores must be those of the layers after VGGish."""

import numpy as np
import pytest
from tensorflow import keras

import vggish_keras as vk
from vggish_keras.exporting.preparation import check_target, take_apart, warn_if_padding_counts

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


def test_layers_that_need_a_fixed_number_of_examples_raise():
    waveform = keras.Input((48_000,))
    model = keras.Model(waveform, keras.layers.Dense(5)(keras.layers.Flatten()(vk.VGGish(None)(waveform))))
    for examples, message in (
        (None, "after VGGish must accept any number of examples, but fail for 7 examples: "),
        (1, "after VGGish must accept a single example, but fail for 1 example: "),
    ):
        with pytest.raises(ValueError, match=message):
            take_apart(model, None, list("abcde"), "audioset", examples)


def test_weights_of_a_diverged_model_raise():
    model = functional()
    for layer in (model.get_layer("conv2"), model.layers[-1]):
        layer.bias.assign([np.nan] * layer.bias.shape[0])
    message = r"model '\w+': weights must be finite numbers, got NaN or infinity in vggish/conv2/biases"
    with pytest.raises(ValueError, match=rf"{message}$"):
        take_apart(model, None, None, "audioset")
    with pytest.raises(ValueError, match=rf"{message}, dense\S*bias\S*$"):
        take_apart(model, None, list("abcde"), "audioset")


def pooled_by_keras(layer):
    vggish = vk.VGGish(None, lengths=True)
    return keras.Model(vggish.input, keras.layers.Dense(5)(layer()(vggish.output)))


@pytest.mark.parametrize(
    "build", [functional, of_two_seconds, lambda: pooled_by_keras(keras.layers.GlobalAveragePooling1D)]
)
def test_no_warning_if_padding_is_ignored(build):
    warn_if_padding_counts(take_apart(build(), None, list("abcde"), "audioset"))


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_layer_that_ignores_the_mask_is_warned_of():
    served = take_apart(pooled_by_keras(keras.layers.GlobalMaxPooling1D), None, list("abcde"), "audioset")
    with pytest.warns(
        UserWarning, match=r"padding changes the scores of model '\w+', because a layer .* ignores the mask"
    ):
        warn_if_padding_counts(served)


def test_layers_before_vggish_would_be_lost():
    waveform = keras.Input((None,))
    model = keras.Model(waveform, sequential()(keras.layers.Rescaling(0.05)(waveform)))
    with pytest.raises(ValueError, match="cannot be exported: layers before VGGish change them"):
        take_apart(model, None, list("abcde"), "audioset")


def test_only_a_saved_model_or_an_empty_folder_is_replaced(tmp_path):
    for name in ("empty", "versions", "model"):
        (tmp_path / name).mkdir()
        check_target(tmp_path / name, overwrite=True)
    (tmp_path / "model" / "saved_model.pb").touch()
    check_target(tmp_path / "model", overwrite=True)
    (tmp_path / "versions" / "1").mkdir()
    with pytest.raises(
        FileExistsError, match="is a folder with files other than a SavedModel: choose a different path"
    ):
        check_target(tmp_path / "versions", overwrite=True)

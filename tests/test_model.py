import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from tensorflow import keras

import vggish_keras as vk
from tests import published
from tests.published import assert_close
from vggish_keras import exported_options, model as model_module, network
from vggish_keras.framing import PADDINGS

pytestmark = pytest.mark.keras


def means_of_examples(waveform):
    """The embeddings of `small_network` for [samples]: [n, 128]."""
    return np.repeat(published.log_mel_examples(waveform).mean(axis=(1, 2))[:, np.newaxis], 128, axis=1)


# === The network ===


def test_embeddings_equal_tf_slim(slim, vggish, sounds):
    from_examples = keras.Model(vggish.get_layer("fold").input, vggish.output)
    assert_close(from_examples(slim.examples[np.newaxis])[0], slim.embeddings)
    waveform = sounds["noise"]
    examples = published.log_mel_examples(waveform).astype(np.float32)
    assert_close(vggish(waveform[np.newaxis])[0], from_examples(examples[np.newaxis])[0])


@pytest.mark.reference
def test_embeddings_equal_the_published_graph(reference, vggish):
    signals = np.load(reference / "log_mel.npz")
    expected = np.load(reference / "slim_embeddings.npz")
    original = vggish.get_weights()
    try:
        seeded_like_the_reference(vggish)
        for name in expected.files:
            assert_close(vggish(signals[f"{name}/waveform"][np.newaxis])[0], expected[name])
    finally:
        vggish.set_weights(original)


def seeded_like_the_reference(model):
    """Draws the weights of make_slim_checkpoint.py --seed 0, in the order of the sorted variable names."""
    from vggish_keras.network import slim_variables

    rng = np.random.default_rng(0)
    variables = slim_variables(model)
    for name in sorted(variables):
        shape = tuple(variables[name].shape)
        if len(shape) == 1:
            value = 0.05 * rng.standard_normal(shape)
        else:
            value = rng.standard_normal(shape, dtype=np.float32) * np.sqrt(2.0 / np.prod(shape[:-1]))
        variables[name].assign(value.astype(np.float32))


def test_layers_and_variables(vggish):
    assert vggish.count_params() == 72_141_184
    assert len(vggish.trainable_variables) == 18
    for name, shapes in published.VARIABLES.items():
        assert [tuple(weight.shape) for weight in vggish.get_layer(name).weights] == shapes


def test_embedding_has_no_activation(vggish, sounds):
    assert np.min(vggish(sounds["noise"][np.newaxis])) < 0


def test_random_weights_only_on_request():
    keras.utils.set_random_seed(0)
    model = vk.VGGish(weights=None, input="examples")
    for name in published.VARIABLES:
        kernel, bias = (np.asarray(weight) for weight in model.get_layer(name).weights)
        # Truncation at two standard deviations of 0.01 leaves a standard deviation of 0.0088.
        assert np.abs(kernel).max() <= 0.02
        np.testing.assert_allclose(kernel.std(), 0.0088, rtol=0.1)
        assert not bias.any()
    # No two layers draw the same numbers.
    first, second = (np.asarray(model.get_layer(name).kernel).ravel() for name in ("conv3_2", "conv4_2"))
    assert not np.any(first[:1000] == second[:1000])
    assert model(np.zeros((2, 96, 64), "f")).shape == (2, 128)
    with pytest.raises(FileNotFoundError, match=r"vggish_model\.ckpt"):
        vk.VGGish()


def test_example_and_waveform_models_agree_in_batches_of_any_size(vggish, sounds):
    waveform = sounds["rumble"]
    whole = np.asarray(vggish(waveform[np.newaxis])[0])
    batch = np.stack([waveform, waveform[::-1].copy(), waveform])
    assert_close(vggish(batch)[2], whole)
    assert_close(vggish.predict(batch, batch_size=2, verbose=0)[2], whole)
    for shape, examples in (((0, 20_000), 1), ((2, 0), 1), ((2, 15_599), 1), ((0, 0), 1)):
        assert vggish(np.zeros(shape, "f")).shape == (shape[0], examples, 128)
        assert tf.function(vggish)(tf.zeros(shape)).shape == (shape[0], examples, 128)


def test_graph_dynamic_shapes_and_xla(vggish, sounds):
    waveform = sounds["noise"][np.newaxis]
    expected = vggish(waveform)
    dynamic = tf.function(vggish, input_signature=[tf.TensorSpec((None, None))])
    assert_close(dynamic(waveform), expected)
    assert_close(dynamic(waveform[:, :20_000]), expected[:, :1])
    assert_close(tf.function(vggish, jit_compile=True)(waveform), expected)


def test_gradient_reaches_the_waveform(vggish):
    for waveform in (tf.zeros((1, 15_600)), tf.random.stateless_normal((1, 15_600), (1, 2))):
        with tf.GradientTape() as tape:
            tape.watch(waveform)
            loss = tf.reduce_sum(vggish(waveform))
        gradient = tape.gradient(loss, waveform)
        assert np.all(np.isfinite(gradient))
    assert np.any(gradient != 0)


# === Arguments ===


@pytest.mark.usefixtures("small_network")
def test_pooling(sounds):
    waveform = sounds["rumble"]
    expected = means_of_examples(waveform)
    for pooling, pool in (("avg", np.mean), ("max", np.max)):
        model = vk.VGGish(weights=None, padding="valid", pooling=pooling)
        np.testing.assert_allclose(model(waveform[np.newaxis])[0], pool(expected, axis=0), atol=1e-4)
        assert model.output.shape == (None, 128)
        assert not np.any(model(np.zeros((2, 100), "f")))


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("padding", PADDINGS)
def test_lengths(sounds, padding):
    lengths = np.array([48_000, 20_000, 15_600, 9_000], np.int32)
    batch = np.full((4, 50_000), np.nan, np.float32)
    for clip, length in zip(batch, lengths, strict=True):
        clip[:length] = sounds["rumble"][:length]
    inputs = {"waveform": batch, "num_samples": lengths}
    alone = vk.VGGish(weights=None, padding=padding)
    expected = [np.asarray(alone(clip[np.newaxis, :length])[0]) for clip, length in zip(batch, lengths, strict=True)]

    embeddings = vk.VGGish(weights=None, padding=padding, lengths=True)
    for clip, want in zip(np.asarray(embeddings(inputs)), expected, strict=True):
        np.testing.assert_allclose(clip[: len(want)], want, atol=1e-4)
        assert not clip[len(want) :].any()

    # A later layer sees the mask, whether it is built on the model's output or on a call of the model.
    averages = [want.mean(axis=0) for want in expected if len(want)]
    for outputs in (embeddings.output, embeddings(embeddings.input)):
        later = keras.Model(embeddings.input, keras.layers.GlobalAveragePooling1D()(outputs))
        np.testing.assert_allclose(later(inputs)[: len(averages)], averages, atol=1e-4)

    for pooling, pool in (("avg", np.mean), ("max", np.max)):
        pooled = vk.VGGish(weights=None, padding=padding, lengths=True, pooling=pooling)(inputs)
        wanted = [pool(want, axis=0) if len(want) else np.zeros(128) for want in expected]
        np.testing.assert_allclose(pooled, wanted, atol=1e-4)


def test_clip_does_not_depend_on_its_batch(slim, sounds):
    model = vk.VGGish(slim.v2, padding="same", pooling="avg", lengths=True)
    lengths = np.array([48_000, 20_000, 9_000], np.int32)
    batch = np.full((3, 60_000), np.nan, np.float32)
    for clip, length, name in zip(batch, lengths, ("noise", "rumble", "sweep"), strict=True):
        clip[:length] = sounds[name][:length]
    together = model({"waveform": batch, "num_samples": lengths})
    alone = [
        model({"waveform": clip[np.newaxis, :n], "num_samples": np.array([n])})[0]
        for clip, n in zip(batch, lengths, strict=True)
    ]
    assert_close(together, np.stack(alone), 1e-5)


@pytest.mark.usefixtures("small_network", "pca_in_cache")
def test_postprocess(sounds, pca_params):
    batch = np.stack([sounds["rumble"], sounds["noise"]])
    raw = np.asarray(vk.VGGish(weights=None)(batch))
    components = (raw - pca_params["pca_means"].reshape(-1)) @ pca_params["pca_eigen_vectors"].T
    np.testing.assert_allclose(vk.VGGish(weights=None, postprocess="pca")(batch), components, atol=1e-4)
    own = {**pca_params, "pca_means": pca_params["pca_means"] + 1}
    shifted = vk.VGGish(weights=None, postprocess="pca", pca_params=own)(batch)
    np.testing.assert_allclose(shifted, components - pca_params["pca_eigen_vectors"].sum(axis=1), atol=1e-4)
    quantized = vk.VGGish(weights=None, postprocess="quantized")
    expected = published.postprocess(raw.reshape(-1, 128), **pca_args(pca_params))
    published.assert_same_bytes(np.asarray(quantized(batch)).reshape(-1, 128), expected)
    assert len(quantized.non_trainable_variables) == 2

    masked = vk.VGGish(weights=None, postprocess="quantized", lengths=True)
    got = np.asarray(masked({"waveform": batch, "num_samples": np.array([48_000, 16_000], np.int32)}))
    published.assert_same_bytes(got[0], expected.reshape(2, 3, 128)[0])
    assert got[1, 0].any()
    assert not got[1, 1:].any()

    pooled = vk.VGGish(weights=None, postprocess="quantized", pooling="avg")(batch)
    published.assert_same_bytes(np.asarray(pooled), published.postprocess(raw.mean(axis=1), **pca_args(pca_params)))


def pca_args(pca_params):
    return {"eigen_vectors": pca_params["pca_eigen_vectors"], "means": pca_params["pca_means"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": "audio"}, "input must be one of .* got 'audio'"),
        ({"padding": "full"}, "padding must be one of .* got 'full'"),
        ({"pooling": "mean"}, "pooling must be one of .* got 'mean'"),
        ({"postprocess": "whiten"}, "postprocess must be one of .* got 'whiten'"),
        ({"pca_params": "own.npz"}, 'pca_params requires postprocess="pca" or "quantized"'),
        ({"hop_seconds": 0.123}, "multiple of 0.01 .* got 0.123"),
        ({"input": "examples", "pooling": "avg"}, 'require input="waveform"'),
        ({"input": "examples", "lengths": True}, 'require input="waveform"'),
    ],
)
def test_invalid_arguments_raise_before_anything_is_built(monkeypatch, arguments, message):
    monkeypatch.setattr(network, "embed_examples", None)
    with pytest.raises(ValueError, match=message):
        vk.VGGish(weights=None, **arguments)


def test_one_default_of_padding():
    functions = (vk.VGGish, vk.LogMelExamples)
    assert {inspect.signature(function).parameters["padding"].default for function in functions} == {"short"}
    assert exported_options.resolve_options("audioset").padding == "short"


def test_waveforms_of_unexpected_rank_raise(vggish):
    with pytest.raises(ValueError, match="shape"):
        vggish(np.zeros(16_000, "f"))
    with pytest.raises(ValueError, match="shape"):
        vggish(np.zeros((1, 16_000, 2, 1), "f"))


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("lengths", [False, True])
def test_channels_are_averaged(sounds, lengths):
    model = vk.VGGish(weights=None, lengths=lengths)
    stereo = np.stack([sounds["noise"], sounds["rumble"]], axis=1)[np.newaxis]

    def called(waveform):
        return model({"waveform": waveform, "num_samples": np.array([40_000])} if lengths else waveform)

    expected = called(stereo.mean(axis=2))
    np.testing.assert_allclose(called(stereo), expected, rtol=1e-5)
    np.testing.assert_allclose(called(stereo[:, :, :1]), called(stereo[:, :, 0]), rtol=1e-5)
    if not lengths:
        inputs = keras.Input((None, None))
        nested = keras.Model(inputs, model(inputs))
        np.testing.assert_allclose(nested(stereo), expected, rtol=1e-5)


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("stereo_first", [False, True])
def test_mono_and_stereo_can_be_predicted_in_any_order(sounds, lengths, stereo_first):
    """For the second, Keras traces the model with a tensor of unknown rank."""
    model = vk.VGGish(weights=None, lengths=lengths)
    stereo = np.stack([sounds["noise"], sounds["rumble"]], axis=1)[np.newaxis]

    def predicted(waveform):
        inputs = {"waveform": waveform, "num_samples": np.array([40_000])} if lengths else waveform
        return model.predict(inputs, verbose=0)

    first, second = (stereo, stereo.mean(axis=2)) if stereo_first else (stereo.mean(axis=2), stereo)
    np.testing.assert_allclose(predicted(first), predicted(second), rtol=1e-5)


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("shape", [(0, 16_000, 2), (0, 16_000), (2, 0, 2), (2, 0)])
def test_empty_waveforms_of_unknown_rank(shape):
    traced = tf.function(vk.VGGish(weights=None), input_signature=[tf.TensorSpec(None)])
    assert traced(tf.zeros(shape)).shape == (shape[0], 1, 128)


@pytest.mark.usefixtures("narrow_network")
def test_channels_are_averaged_in_float32_under_any_policy(sounds):
    waveform = tf.constant(sounds["rumble"][np.newaxis])
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        model = vk.VGGish(weights=None, dtype="float32")
        np.testing.assert_array_equal(model(waveform[:, :, tf.newaxis]), model(waveform))
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.usefixtures("small_network")
@pytest.mark.parametrize("dtype", ["int16", "uint8", "int32"])
@pytest.mark.parametrize("lengths", [False, True])
def test_integers_raise(dtype, lengths):
    """Keras would cast and not scale them, in `predict` as well."""
    model = vk.VGGish(weights=None, lengths=lengths)
    waveform = np.zeros((2, 16_000), dtype)
    inputs = {"waveform": waveform, "num_samples": np.full(2, 16_000, np.int32)} if lengths else waveform
    dataset = tf.data.Dataset.from_tensors(inputs)
    message = rf"expected a waveform of floats in \[-1, 1\], got {dtype}: divide int16 samples by 32768"
    for call, source in ((model, inputs), (model.predict, inputs), (model.predict, dataset)):
        with pytest.raises(TypeError, match=message):
            call(source)
    with pytest.raises(TypeError, match=message):
        model(tf.nest.map_structure(tf.constant, inputs))
    scaled = {**inputs, "waveform": waveform / 32_768} if lengths else waveform / 32_768
    assert model(scaled).shape == (2, 1, 128)


@pytest.mark.usefixtures("small_network")
def test_audio_dataset_of_keras_is_accepted(tmp_path, sounds):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for name in ("noise", "rumble"):
            soundfile.write(tmp_path / label / f"{name}.wav", sounds[name].clip(-1, 1), 16_000)
    clips = keras.utils.audio_dataset_from_directory(tmp_path, shuffle=False, output_sequence_length=32_000)
    assert clips.element_spec[0].shape.rank == 3
    model = vk.VGGish(weights=None, pooling="avg")
    expected = np.concatenate([model(waveforms[..., 0]) for waveforms, _ in clips])
    np.testing.assert_allclose(model.predict(clips, verbose=0), expected, rtol=1e-5)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(clips, shuffle=False, verbose=0)


# === Keras ===


@pytest.mark.usefixtures("small_network", "pca_in_cache")
@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": "same", "hop_seconds": 0.5, "postprocess": "pca"},
        {"lengths": True, "pooling": "max"},
        {"lengths": True, "postprocess": "quantized"},
    ],
)
def test_configuration_clone_and_file_round_trips(tmp_path, sounds, arguments):
    model = vk.VGGish(weights=None, name="ears", **arguments)
    batch = np.stack([sounds["rumble"], sounds["noise"]])
    inputs = {"waveform": batch, "num_samples": np.array([40_000, 20_000])} if "lengths" in arguments else batch
    expected = model(inputs)
    model.save(tmp_path / "model.keras")
    copies = [
        keras.Model.from_config(model.get_config()),
        keras.models.clone_model(model),
        keras.models.load_model(tmp_path / "model.keras"),
    ]
    for copy in copies:
        copy.set_weights(model.get_weights())
        np.testing.assert_array_equal(copy(inputs), expected)
        assert copy.name == "ears"


@pytest.mark.slow
@pytest.mark.usefixtures("narrow_network")
def test_keras_file_in_another_process(tmp_path):
    model = vk.VGGish(None)
    model.save(tmp_path / "vggish.keras")
    waveform = np.random.default_rng(3).uniform(-0.5, 0.5, (1, 31_000)).astype("f")
    np.save(tmp_path / "waveform.npy", waveform)
    script = (
        "import sys, numpy as np, tensorflow as tf, vggish_keras\n"
        "model = tf.keras.models.load_model(sys.argv[1] + '/vggish.keras')\n"
        "np.save(sys.argv[1] + '/got.npy', model(np.load(sys.argv[1] + '/waveform.npy')))"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, capture_output=True)
    expected = np.asarray(model(waveform))
    np.testing.assert_allclose(np.load(tmp_path / "got.npy"), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.usefixtures("small_network")
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_legacy_hdf5_file(tmp_path, sounds):
    model = vk.VGGish(None)
    model.save(tmp_path / "vggish.h5")
    waveform = sounds["noise"][np.newaxis]
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "vggish.h5")(waveform), model(waveform))


@pytest.mark.parametrize(
    ("imports", "keras_name"),
    [
        pytest.param(["vggish_keras", "KERAS"], "KERAS", marks=pytest.mark.slow),
        (["KERAS", "vggish_keras"], "KERAS"),
        pytest.param(["vggish_keras", "tensorflow"], "tensorflow.keras", marks=pytest.mark.slow),
        pytest.param(["tensorflow", "vggish_keras"], "tensorflow.keras", marks=pytest.mark.slow),
    ],
)
def test_importing_the_package_suffices_to_load_a_keras_model(tmp_path, imports, keras_name):
    keras.Sequential([keras.Input((None,)), vk.LogMelExamples()]).save(tmp_path / "log_mel.keras")
    package = "tf_keras" if os.environ.get("TF_USE_LEGACY_KERAS") == "1" else "keras"
    load = f"model = {keras_name}.models.load_model(sys.argv[1])"
    script = "; ".join(["import sys", *(f"import {name}" for name in imports), load, "print(model.output_shape)"])
    command = [sys.executable, "-c", script.replace("KERAS", package), tmp_path / "log_mel.keras"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert output == "(None, None, 96, 64)\n"


def test_clone_starts_from_random_weights(vggish):
    initializer = vggish.get_layer("conv1").get_config()["kernel_initializer"]
    assert initializer["class_name"] == "TruncatedNormal"
    assert initializer["config"]["stddev"] == 0.01


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("how", ["global", "argument"])
def test_dtype_policy_applies_only_to_the_network(policy, how):
    """The layers compute in the policy's dtype, the embedding is float32."""
    if how == "global":
        keras.mixed_precision.set_global_policy(policy)
    try:
        examples = keras.Input((96, 64), dtype="float32")
        embedding = network.embed_examples(examples, policy if how == "argument" else None, initialize=False)
        pooled = model_module.PoolExamples("avg")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model = keras.Model(examples, embedding)
    for name in ("conv1", "pool1", "fc1_2"):
        assert model.get_layer(name).compute_dtype == policy.removeprefix("mixed_")
        assert model.get_layer(name).variable_dtype == "float32"
    assert model.get_layer("fc2").compute_dtype == "float32"
    assert model.output.dtype == "float32"
    assert pooled.compute_dtype == "float32"


def test_bfloat16_embeddings_are_close(slim, vggish, sounds):
    waveform = sounds["noise"][np.newaxis]
    got = vk.VGGish(slim.v2, dtype="mixed_bfloat16")(waveform)
    assert got.dtype == tf.float32
    expected = np.asarray(vggish(waveform))
    cosine = np.sum(got * expected, -1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert cosine.min() > 0.999

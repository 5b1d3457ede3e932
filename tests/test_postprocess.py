import json

import numpy as np
import pytest
import tensorflow as tf

from tests import published
from vggish_keras import Postprocess

pytestmark = pytest.mark.keras


@pytest.fixture(scope="module")
def embeddings():
    return np.random.default_rng(4).normal(0, 1.5, (500, 128)).astype(np.float32)


def test_equals_the_published_formula(pca_params, embeddings):
    got = Postprocess(pca_params)(embeddings)
    expected = published.postprocess(embeddings, pca_params["pca_eigen_vectors"], pca_params["pca_means"])
    assert {0, 255} <= set(np.unique(expected))
    published.assert_same_bytes(got.numpy(), expected)


@pytest.mark.reference
def test_equals_the_published_code(reference):
    data = np.load(reference / "postprocess.npz")
    layer = Postprocess(reference / "vggish_pca_params.npz")
    published.assert_same_bytes(layer(data["embeddings"]).numpy(), data["quantized"])


def test_truncates_and_does_not_round():
    identity = {"pca_eigen_vectors": np.eye(128), "pca_means": np.zeros(128)}
    embeddings = np.zeros((1, 128), np.float32)
    embeddings[0, :4] = [-9, 9, 0, 1.99]
    # (0 + 2) * 255 / 4 = 127.5 and (1.99 + 2) * 255 / 4 = 254.36
    assert Postprocess(identity)(embeddings).numpy()[0, :4].tolist() == [0, 255, 127, 254]
    embeddings[0, 0] = -9
    assert Postprocess(identity, quantize=False)(embeddings).numpy()[0, 0] == -9


def test_any_leading_axes(pca_params, embeddings):
    layer = Postprocess(pca_params, quantize=False)
    flat = layer(embeddings).numpy()
    assert flat.dtype == np.float32
    np.testing.assert_allclose(layer(embeddings.reshape(5, 100, 128)).numpy().reshape(-1, 128), flat, atol=1e-5)
    assert layer(np.zeros((0, 128), "f")).shape == (0, 128)
    assert layer(embeddings[0]).shape == (128,)


def test_accepts_a_path_a_mapping_or_a_pair(tmp_path, pca_params, embeddings, pca_in_cache):
    path = tmp_path / "pca.npz"
    np.savez(path, **pca_params)
    expected = Postprocess(pca_params)(embeddings)
    pair = (pca_params["pca_eigen_vectors"], pca_params["pca_means"])
    for source in (path, str(path), np.load(path), pair, "audioset"):
        np.testing.assert_array_equal(Postprocess(source)(embeddings), expected)


def test_weights_are_frozen_and_saved_once(tmp_path, pca_params, embeddings):
    layer = Postprocess(pca_params, quantize=False)
    assert len(layer.weights) == 2
    assert not layer.trainable_weights
    assert len(json.dumps(layer.get_config())) < 500
    model = tf.keras.Sequential([tf.keras.Input((128,)), layer])
    model.save(tmp_path / "model.keras")
    again = tf.keras.models.load_model(tmp_path / "model.keras")
    assert not again.layers[-1].quantize
    np.testing.assert_array_equal(again(embeddings), layer(embeddings))


def test_published_parameters_are_read_at_the_first_call(pca_in_cache, pca_params, embeddings):
    pca_in_cache.rename(pca_in_cache.with_suffix(".away"))
    layer = Postprocess("audioset")
    pca_in_cache.with_suffix(".away").rename(pca_in_cache)
    np.testing.assert_array_equal(layer(embeddings), Postprocess(pca_params)(embeddings))


def test_gradient_passes_through(pca_params, embeddings):
    inputs = tf.constant(embeddings[:2])
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(Postprocess(pca_params, quantize=False)(inputs))
    expected = np.tile(pca_params["pca_eigen_vectors"].sum(axis=0), (2, 1))
    np.testing.assert_allclose(tape.gradient(loss, inputs), expected, atol=1e-5)


def test_all_problems_of_parameters_are_reported(tmp_path, pca_params):
    with pytest.raises(FileNotFoundError, match=r"no PCA parameters at .*nothing\.npz"):
        Postprocess(tmp_path / "nothing.npz")
    with pytest.raises(FileNotFoundError, match=r"vggish_pca_params\.npz is not in the cache"):
        Postprocess("audioset")(np.zeros((1, 128), "f"))
    with pytest.raises(ValueError, match=r"pca_eigen_vectors has shape \(2, 2\).*pca_means is missing \(keys: means"):
        Postprocess({"pca_eigen_vectors": np.eye(2), "means": np.zeros(128)})
    with pytest.raises(ValueError, match="pca_means must hold finite numbers"):
        Postprocess({**pca_params, "pca_means": np.full(128, np.nan)})
    with pytest.raises(ValueError, match=r"expected embeddings of shape \[.., 128\]"):
        Postprocess(pca_params)(np.zeros((1, 64), "f"))


def test_pickled_objects_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    bomb = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "bomb.npz", pca_eigen_vectors=bomb, pca_means=bomb)
    np.save(tmp_path / "bomb.npy", bomb)
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "single.npy", np.zeros(3))
    for name in ("bomb.npz", "bomb.npy", "text.npz", "empty.npz", "single.npy"):
        with pytest.raises(ValueError, match=f"{name} is not an .npz file of plain arrays"):
            Postprocess(tmp_path / name)

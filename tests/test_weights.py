import concurrent.futures
import contextlib
import errno
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tensorflow as tf
from tensorflow import keras

import vggish_keras as vk
from tests.conftest import expect_in_cache
from tests.published import VARIABLES, assert_close, run_slim
from vggish_keras import params, published_files
from vggish_keras._lock import locked
from vggish_keras.postprocess import read_pca_params


@pytest.fixture(scope="module")
def model():
    """The network with arbitrary weights."""
    return vk.VGGish(weights=None, input="examples")


def zeros():
    """Tensors of a VGGish checkpoint, all zero."""
    return {
        f"{scope}/{kind}": np.zeros(shape, np.float32)
        for layer, scope in params.SLIM_SCOPES.items()
        for kind, shape in zip(("weights", "biases"), VARIABLES[layer], strict=True)
    }


def write_v2(path, tensors):
    """Writes any tensors as a V2 checkpoint."""
    slices = [""] * len(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(path), tensor_names=list(tensors), shape_and_slices=slices, tensors=list(tensors.values())
    )


# === TF-Slim checkpoints ===


@pytest.mark.keras
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_reads_what_tf_slim_wrote(slim, model, version):
    vk.load_slim_checkpoint(model, getattr(slim, version))
    assert_close(model(slim.examples), slim.embeddings)


@pytest.mark.keras
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_tf_slim_reads_what_is_written(tmp_path, slim, vggish, version):
    path = tmp_path / "written.ckpt"
    vk.save_slim_checkpoint(vggish, path, version)
    if version == "v1":
        assert [file.name for file in tmp_path.iterdir()] == ["written.ckpt"]
    got = run_slim(path, slim.examples)
    assert_close(got, slim.embeddings, 1e-5)


@pytest.mark.keras
def test_model_that_contains_vggish(tmp_path, slim, vggish):
    classifier = keras.Sequential([keras.Sequential([vggish]), keras.layers.Dense(2)])
    classifier.build((None, None))
    vk.save_slim_checkpoint(classifier, tmp_path / "v2.ckpt", "v2")
    vk.load_slim_checkpoint(classifier, tmp_path / "v2.ckpt")
    reader = tf.train.load_checkpoint(str(tmp_path / "v2.ckpt"))
    expected = tf.train.load_checkpoint(str(slim.v2))
    assert reader.get_variable_to_shape_map() == expected.get_variable_to_shape_map()
    name = "vggish/conv3/conv3_2/weights"
    np.testing.assert_array_equal(reader.get_tensor(name), expected.get_tensor(name))


def test_other_tensors_in_the_file_are_ignored(tmp_path, model):
    write_v2(tmp_path / "x", {**zeros(), "global_step": np.int64(3), "mymodel/logits/biases": np.zeros(5)})
    vk.load_slim_checkpoint(model, tmp_path / "x")
    assert not any(np.any(value) for value in model.get_weights())


def test_all_problems_are_reported_at_once_and_nothing_is_assigned(tmp_path, slim, model):
    vk.load_slim_checkpoint(model, slim.v2)
    tensors = zeros()
    del tensors["vggish/conv1/weights"], tensors["vggish/fc2/biases"]
    tensors["vggish/conv2/biases"] = np.zeros(64, np.float32)
    tensors["vggish/conv3/conv3_1/biases"] = np.zeros(256)
    write_v2(tmp_path / "bad", tensors)
    with pytest.raises(ValueError, match="is not a VGGish checkpoint") as error:
        vk.load_slim_checkpoint(model, tmp_path / "bad")
    for problem in (
        "vggish/conv1/weights is missing",
        "vggish/fc2/biases is missing",
        "vggish/conv2/biases is float32 [64], expected float32 [128]",
        "vggish/conv3/conv3_1/biases is float64 [256], expected float32 [256]",
    ):
        assert problem in str(error.value)
    assert_close(model(slim.examples), slim.embeddings)


@pytest.mark.parametrize(("version", "bad"), [("v1", np.nan), ("v2", -np.inf)])
def test_infinite_weights_raise(tmp_path, model, version, bad):
    tensors = zeros()
    tensors["vggish/conv1/weights"][2, 1, 0, 63] = tensors["vggish/fc2/biases"][5] = bad
    path = tmp_path / "bad.ckpt"
    if version == "v1":
        tf.raw_ops.Save(filename=str(path), tensor_names=list(tensors), data=list(tensors.values()))
    else:
        write_v2(path, tensors)
    before = np.asarray(model.get_layer("fc2").bias)
    message = (
        r"bad\.ckpt: weights must be finite numbers, got NaN or infinity in vggish/conv1/weights, vggish/fc2/biases$"
    )
    with pytest.raises(ValueError, match=message):
        vk.load_slim_checkpoint(model, path)
    np.testing.assert_array_equal(model.get_layer("fc2").bias, before)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_truncated_files_raise(tmp_path, slim, model, version, kept):
    source = slim.v1 if version == "v1" else slim.v2.with_name("v2.ckpt.data-00000-of-00001")
    cut = tmp_path / source.name
    with source.open("rb") as file:
        cut.write_bytes(file.read(int(kept * source.stat().st_size)))
    if version == "v2":
        (tmp_path / "v2.ckpt.index").write_bytes(slim.v2.with_name("v2.ckpt.index").read_bytes())
    before = np.asarray(model.get_layer("fc2").bias)
    with pytest.raises(ValueError, match=rf"{version}.ckpt is (damaged|not a readable TF-Slim checkpoint)"):
        vk.load_slim_checkpoint(model, tmp_path / f"{version}.ckpt")
    np.testing.assert_array_equal(model.get_layer("fc2").bias, before)


def test_index_that_points_beyond_its_end_raises(tmp_path, model):
    write_v2(tmp_path / "x.ckpt", {"x": np.zeros(3)})
    index = tmp_path / "x.ckpt.index"
    content = index.read_bytes()
    index.write_bytes(content[:-46] + b"\x7f" + content[-45:])  # in the footer, where a block begins
    with pytest.raises(ValueError, match=r"x\.ckpt is not a readable TF-Slim checkpoint: Read less bytes"):
        vk.load_slim_checkpoint(model, tmp_path / "x.ckpt")


def test_files_that_are_not_checkpoints_raise(tmp_path, model):
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text\.ckpt is not a readable TF-Slim checkpoint"):
        vk.VGGish(weights=tmp_path / "text.ckpt")
    with pytest.raises(FileNotFoundError, match=r"no weights found at .*missing\.ckpt"):
        vk.VGGish(weights=tmp_path / "missing.ckpt")
    (tmp_path / "x.tflite").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x\.tflite is a LiteRT file, whose weights cannot be loaded for training"):
        vk.VGGish(weights=tmp_path / "x.tflite")
    with pytest.raises(TypeError, match="weights must be 'audioset', a path or None, got 3"):
        vk.VGGish(weights=3)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*missing\.ckpt"):
        vk.load_slim_checkpoint(model, tmp_path / "missing.ckpt")


@pytest.mark.keras
def test_models_with_no_or_two_networks_raise(tmp_path, model):
    none = keras.Sequential([keras.layers.Dense(3, name="fc2")])
    with pytest.raises(
        ValueError, match=r"contains 0 VGGish networks, expected exactly one \(with the layers conv1, conv2"
    ):
        vk.save_slim_checkpoint(none, tmp_path / "x")
    left, right = keras.Sequential([model], name="left"), keras.models.clone_model(model)
    examples = keras.Input((96, 64))
    two = keras.Model(examples, [left(examples), keras.Sequential([right], name="right")(examples)])
    with pytest.raises(ValueError, match="contains 2 VGGish networks"):
        vk.save_slim_checkpoint(two, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.keras
def test_layer_on_top_may_have_the_same_name(tmp_path, slim, vggish):
    classifier = keras.Sequential([vggish, keras.layers.Dense(10, name="fc2")])
    classifier.build((None, None))
    vk.save_slim_checkpoint(classifier, tmp_path / "x.ckpt")
    assert tf.train.load_checkpoint(str(tmp_path / "x.ckpt")).get_variable_to_shape_map()["vggish/fc2/weights"] == [
        4096,
        128,
    ]


@pytest.fixture
def keras_3():
    if os.environ.get("TF_USE_LEGACY_KERAS") == "1":
        pytest.skip("only Keras 3 has quantization and LoRA")


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network", "keras_3")
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_quantized_models_raise(tmp_path):
    model = vk.VGGish(None)
    vk.save_slim_checkpoint(model, tmp_path / "x.ckpt")
    model.quantize("int8")
    model.save(tmp_path / "x.keras")
    for work in (
        lambda: vk.save_slim_checkpoint(model, tmp_path / "y.ckpt"),
        lambda: vk.load_slim_checkpoint(model, tmp_path / "x.ckpt"),
        lambda: vk.export_saved_model(model, tmp_path / "y"),
        lambda: vk.VGGish(tmp_path / "x.keras"),
    ):
        with pytest.raises(
            ValueError, match=r"layer 'fc1_1' is quantized: load, save or export .* before model\.quantize"
        ):
            work()
    assert {path.name for path in tmp_path.iterdir()} == {"x.ckpt", "x.keras"}


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network", "keras_3")
def test_lora_is_merged_in_a_checkpoint_and_must_be_enabled_after_loading_one(tmp_path):
    model = vk.VGGish(None)
    layer = model.get_layer("fc1_1")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    vk.save_slim_checkpoint(model, tmp_path / "x.ckpt")
    np.testing.assert_array_equal(vk.VGGish(tmp_path / "x.ckpt").get_layer("fc1_1").kernel, layer.kernel)
    with pytest.raises(ValueError, match=r"uses LoRA: load the checkpoint before layer\.enable_lora"):
        vk.load_slim_checkpoint(model, tmp_path / "x.ckpt")


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network", "keras_3")
@pytest.mark.parametrize("export", [vk.export_saved_model, vk.export_litert])
def test_lora_must_be_merged_before_exports(tmp_path, export):
    model = vk.VGGish(None)
    model.get_layer("fc1_1").enable_lora(2)
    with pytest.raises(ValueError, match="LoRA, which cannot be exported: write the merged weights with save_slim_che"):
        export(model, tmp_path / "x.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("before", "after"), [("v1", "v2"), ("v2", "v1")])
def test_new_checkpoint_replaces_the_other_format(tmp_path, slim, model, vggish, before, after):
    path = tmp_path / "x.ckpt"
    model.get_layer("fc1_2").kernel.assign(tf.zeros([4_096, 4_096]))
    vk.save_slim_checkpoint(model, path, before)
    vk.save_slim_checkpoint(vggish, path, after)
    vk.load_slim_checkpoint(model, path)
    np.testing.assert_array_equal(model.get_layer("fc1_2").kernel, vggish.get_layer("fc1_2").kernel)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, model, version, assert_durable):
    vk.save_slim_checkpoint(model, tmp_path / "x.ckpt", version)
    files = list(tmp_path.iterdir())
    assert len(files) == (1 if version == "v1" else 2)
    for file in files:
        assert_durable(file)


def test_folder_is_not_overwritten(tmp_path, model):
    with pytest.raises(ValueError, match="is a folder, not a checkpoint to write"):
        vk.save_slim_checkpoint(model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("version", "op"), [("v1", "Save"), ("v2", "SaveV2")])
def test_full_disk_raises_os_error_that_names_the_checkpoint(tmp_path, model, monkeypatch, version, op):
    def fail(**_):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.raw_ops, op, fail)
    with pytest.raises(OSError, match=r"cannot write .*x\.ckpt: No space left on device"):
        vk.save_slim_checkpoint(model, tmp_path / "x.ckpt", version)
    assert not list(tmp_path.iterdir())


def test_unknown_format(tmp_path, model):
    with pytest.raises(ValueError, match=r"format must be one of .* got 'v3'"):
        vk.save_slim_checkpoint(model, tmp_path / "x", "v3")


# === Keras weights files ===


@pytest.mark.keras
def test_keras_weights_file(tmp_path, slim, vggish, pca_in_cache):
    path = tmp_path / "fine.weights.h5"
    vggish.save_weights(path)
    assert_close(vk.VGGish(weights=path, input="examples")(slim.examples), slim.embeddings)
    # Layers around the network do not matter.
    around = vk.VGGish(weights=path, lengths=True, pooling="avg", postprocess="pca")
    around.save_weights(path)
    assert_close(vk.VGGish(weights=path, input="examples")(slim.examples), slim.embeddings)


@pytest.mark.keras
def test_invalid_keras_weights_files_raise(tmp_path):
    (tmp_path / "text.weights.h5").write_text("no archive")
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="fc2")])
    other.save_weights(tmp_path / "other.weights.h5")
    for name in ("text.weights.h5", "other.weights.h5"):
        with pytest.raises(ValueError, match=f"{name} does not hold the weights of this network"):
            vk.VGGish(weights=tmp_path / name, input="examples")


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network")
def test_infinite_keras_weights_raise(tmp_path):
    network = vk.VGGish(None, input="examples")
    network.save_weights(tmp_path / "x.weights.h5")
    vk.VGGish(tmp_path / "x.weights.h5", input="examples")
    bias = np.zeros(128)
    bias[7] = np.nan
    network.get_layer("fc2").bias.assign(bias)
    network.save_weights(tmp_path / "x.weights.h5")
    message = r"x\.weights\.h5: weights must be finite numbers, got NaN or infinity in vggish/fc2/biases$"
    with pytest.raises(ValueError, match=message):
        vk.VGGish(tmp_path / "x.weights.h5", input="examples")


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network")
def test_zero_keras_weights_are_valid_and_missing_ones_raise(tmp_path):
    network = vk.VGGish(None, input="examples")
    network.get_layer("conv2").kernel.assign(np.zeros((3, 3, 4, 8)))
    network.save_weights(tmp_path / "x.weights.h5")
    loaded = vk.VGGish(tmp_path / "x.weights.h5", input="examples")
    for name in params.SLIM_SCOPES:
        np.testing.assert_array_equal(loaded.get_layer(name).kernel, network.get_layer(name).kernel)
    with h5py.File(tmp_path / "x.weights.h5", "a") as file:
        (layers,) = (file[name] for name in file if "layer" in name)
        del layers["conv2d_1"]
    with pytest.raises(ValueError, match=r"does not hold the weights of this network: .*(conv2|conv2d_1)"):
        vk.VGGish(tmp_path / "x.weights.h5", input="examples")


# === Keras models ===


@pytest.mark.keras
def test_network_in_a_keras_model_is_read_as_weights(tmp_path, slim, vggish):
    inner = keras.Sequential([vggish], name="inner")
    classifier = keras.Sequential([keras.Input((None,)), inner, keras.layers.Dense(2)])
    classifier.save(tmp_path / "own.keras")
    model = vk.VGGish(tmp_path / "own.keras", input="examples")
    assert_close(model(slim.examples), slim.embeddings)


@pytest.mark.keras
@pytest.mark.usefixtures("narrow_network")
def test_invalid_keras_models_raise(tmp_path):
    small, network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]), vk.VGGish(None, input="examples")
    small.save(tmp_path / "other.keras")
    (tmp_path / "text.keras").write_text("no archive")
    network.get_layer("fc2").bias.assign(np.full(128, np.nan))
    network.save(tmp_path / "nan.keras")
    for name, message in (
        (
            "other",
            r"does not hold the weights of this network: model '.*' contains 0 VGGish networks, expected exactly one",
        ),
        ("text", r"cannot be loaded as a Keras model \(if it needs layers of your own, pass what save_slim"),
        ("nan", "weights must be finite numbers, got NaN or infinity in vggish/fc2/biases"),
    ):
        with pytest.raises(ValueError, match=rf"{name}\.keras:? {message}"):
            vk.VGGish(tmp_path / f"{name}.keras", input="examples")


@pytest.mark.usefixtures("narrow_network")
def test_keras_model_of_a_different_size_raises(tmp_path, monkeypatch):
    vk.VGGish(None, input="examples").save(tmp_path / "narrow.keras")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"narrow\.keras does not hold .*: expected the shapes of VGGish"):
        vk.VGGish(tmp_path / "narrow.keras", input="examples")


# === SavedModels ===


def test_exported_model_is_read_as_weights(tmp_path, slim, exported, exported_narrow):
    assert_close(vk.VGGish(exported, input="examples")(slim.examples), slim.embeddings)
    with pytest.raises(
        ValueError, match=r"vggish does not hold the weights of this network: expected a SavedModel written"
    ):
        vk.VGGish(exported_narrow, input="examples")
    tf.saved_model.save(tf.Module(), str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"empty does not hold the weights of this network"):
        vk.VGGish(tmp_path / "empty", input="examples")
    (tmp_path / "empty" / "saved_model.pb").write_bytes(b"?")
    with pytest.raises(ValueError, match=r"empty is not a readable SavedModel"):
        vk.VGGish(tmp_path / "empty", input="examples")


# === PCA parameters ===


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])  # the last is not finite in float32
@pytest.mark.parametrize("key", ["pca_eigen_vectors", "pca_means"])
def test_infinite_pca_parameters_raise(tmp_path, pca_params, key, bad):
    changed = {name: array.copy() for name, array in pca_params.items()}
    changed[key][3] = bad
    np.savez(tmp_path / "x.npz", **changed)
    for source, origin in ((tmp_path / "x.npz", r"x\.npz"), (changed, "PCA parameters")):
        with pytest.raises(ValueError, match=f"{origin}: {key} must hold finite numbers, got NaN or infinity"):
            read_pca_params(source)


# === The published files ===


class Server:
    """Serves bytes on loopback, correctly or not."""

    def __init__(self):
        self.content = {}
        self.requests = 0
        self.sent_share = 1.0
        self.goes_on = threading.Event()
        self.goes_on.set()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests += 1
                content = outer.content.get(self.path)
                if content is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                content = content[: int(outer.sent_share * len(content))]
                self.wfile.write(content[: len(content) // 2])
                outer.goes_on.wait()
                with contextlib.suppress(OSError):  # nobody waits for the rest
                    self.wfile.write(content[len(content) // 2 :])

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/audioset/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(params, "PUBLISHED_URL", server.url)
    yield server
    server.close()


@pytest.fixture
def cache() -> Path:
    return Path(os.environ["VGGISH_KERAS_HOME"])


@pytest.fixture
def published_file(server):
    """A substitute on the server, with its checksum."""
    content = np.random.default_rng(6).bytes(3_000_000)
    server.content["/audioset/some.bin"] = content
    return params.PublishedFile("some.bin", "md5:" + hashlib.md5(content).hexdigest())


def test_published_addresses_and_checksums():
    """They equal the published documentation."""
    import importlib

    fresh = importlib.util.module_from_spec(importlib.util.find_spec("vggish_keras.params"))
    fresh.__spec__.loader.exec_module(fresh)
    assert fresh.PUBLISHED_URL == "https://storage.googleapis.com/audioset/"
    assert tuple(fresh.CHECKPOINT) == ("vggish_model.ckpt", "md5:d1c7011e6366aa34176bb05c705e31a8")
    assert tuple(fresh.PCA_PARAMS) == (
        "vggish_pca_params.npz",
        "sha256:4d878af3e306defbfb37095365aa7e5a6cecb86bad13e859e626151c4e6a8b9d",
    )


CHECKSUMS = ".checksums.json"


LOCKS = {".some.bin.lock", ".checksums.lock"}


def names(folder):
    """The names of all files but the lock files."""
    return {path.name for path in folder.iterdir()} - LOCKS


def test_downloads_once_and_verifies(server, cache, published_file):
    for _ in range(2):
        path = published_files.fetch(published_file)
        assert path == cache / "some.bin"
        assert path.read_bytes() == server.content["/audioset/some.bin"]
    assert server.requests == 1
    assert path.stat().st_mode & 0o444 == 0o444
    assert names(cache) == {"some.bin", CHECKSUMS}


@pytest.mark.reference
def test_downloads_the_published_pca_params(server, reference):
    server.content["/audioset/vggish_pca_params.npz"] = (reference / "vggish_pca_params.npz").read_bytes()
    assert vk.Postprocess("audioset")(np.zeros((1, 128), "f")).shape == (1, 128)


def test_audioset_means_the_file_in_the_cache(slim, cache, monkeypatch):
    """A file that was placed in the cache by hand is used, here a substitute for the published one."""
    os.link(slim.v1, cache / "vggish_model.ckpt")
    expect_in_cache(monkeypatch, "CHECKPOINT")
    assert_close(vk.VGGish(input="examples")(slim.examples), slim.embeddings)


def test_wrong_file_in_the_cache_is_an_error(server, cache, published_file):
    path = cache / "some.bin"
    path.write_bytes(b"other weights")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"some\.bin is not the published file") as error:
            published_files.fetch(published_file)
        own = f"md5:{hashlib.md5(b'other weights').hexdigest()}"
        for needed in (str(path), own, published_file.checksum, "--weights PATH", "weights=PATH", "remove it"):
            assert needed in str(error.value)
        assert "\n" not in str(error.value)
    assert server.requests == 0
    path.unlink()  # as the message says
    published_files.fetch(published_file)
    assert server.requests == 1
    (cache / params.PCA_PARAMS.name).write_bytes(b"other parameters")
    with pytest.raises(ValueError, match=r"pass its path \(--pca PATH or pca_params=PATH\)"):
        vk.Postprocess("audioset")(np.zeros((1, 128), "f"))


@pytest.fixture
def reads(monkeypatch):
    """The files whose checksum is computed."""
    names = []
    digest = hashlib.file_digest

    def logged(file, *arguments):
        names.append(Path(file.name).name)
        return digest(file, *arguments)

    monkeypatch.setattr(hashlib, "file_digest", logged)
    return names


def test_checksum_is_computed_once_per_content(server, cache, published_file, reads):
    published = server.content["/audioset/some.bin"]
    path = published_files.fetch(published_file)
    published_files.fetch(published_file)
    assert reads == []  # the download was verified
    path.write_bytes(published)
    os.utime(path, (0, 0))  # a different time
    for _ in range(2):
        published_files.fetch(published_file)
    assert reads == ["some.bin"]
    status = path.stat()
    path.write_bytes(published[:-1] + bytes([published[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(ValueError, match="is not the published file"):
        published_files.fetch(published_file)
    path.write_bytes(published + b"0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(ValueError, match="is not the published file"):
        published_files.fetch(published_file)
    other = params.PublishedFile("some.bin", "sha256:" + hashlib.sha256(published + b"0").hexdigest())
    for _ in range(2):
        published_files.fetch(other)
    assert len(reads) == 4
    assert names(cache) == {"some.bin", CHECKSUMS}


def test_cache_that_remembers_nothing_still_works(server, cache, published_file, reads):
    """As a read-only one, which does not restrict tests that run as root."""
    (cache / CHECKSUMS).mkdir()
    for _ in range(3):
        published_files.fetch(published_file)
    assert reads == ["some.bin"] * 2
    assert server.requests == 1
    assert names(cache) == {"some.bin", CHECKSUMS}


def test_read_only_cache(server, cache, published_file, reads):
    (cache / "some.bin").write_bytes(server.content["/audioset/some.bin"])
    cache.chmod(0o555)
    if os.access(cache, os.W_OK):
        pytest.skip("root may write anywhere")
    for _ in range(2):
        published_files.fetch(published_file)
    assert reads == ["some.bin"] * 2
    assert names(cache) == {"some.bin"}


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"7", b'{"some.bin": 7}', b'{"some.bin": {"size": 3000000}}'])
def test_damaged_checksums_are_replaced(server, cache, published_file, reads, content):
    (cache / "some.bin").write_bytes(server.content["/audioset/some.bin"])
    (cache / CHECKSUMS).write_bytes(content)
    for _ in range(2):
        published_files.fetch(published_file)
    assert reads == ["some.bin"]


def test_download_prints_lines_without_a_terminal(server, published_file, capsys):
    published_files.fetch(published_file)
    first, *tenths = capsys.readouterr().err.splitlines()
    assert first == f"Downloading some.bin (3 MB) from {server.url}some.bin"
    assert tenths == [f"some.bin: {percent}%" for percent in range(10, 101, 10)]
    published_files.fetch(published_file)
    assert capsys.readouterr().err == ""


def test_first_lines_of_a_download_appear_while_it_runs(server, fetching):
    server.goes_on.clear()
    process = fetching(stderr=subprocess.PIPE)
    lines = [process.stderr.readline() for _ in range(5)]
    assert lines[0].startswith("Downloading some.bin (3 MB) from http://127.0.0.1")
    assert lines[1:] == [f"some.bin: {percent}%\n" for percent in (10, 20, 30, 40)]
    server.goes_on.set()
    assert "some.bin: 100%\n" in process.communicate()[1]


def test_download_shows_a_bar_on_a_terminal(server, published_file, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any output for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    published_files.fetch(published_file)
    shown = capsys.readouterr().err
    assert "3.0/3.0 MB" in shown
    assert "Downloading" not in shown


def wrong_content(server):
    server.content["/audioset/some.bin"] = b"a login page, perhaps"


def broken_transfer(server):
    server.sent_share = 0.5


def missing(server):
    server.content.clear()


@pytest.mark.parametrize("spoil", [wrong_content, broken_transfer, missing])
def test_failed_download_leaves_nothing_and_explains_what_to_do(server, cache, published_file, spoil):
    spoil(server)
    with pytest.raises(FileNotFoundError, match=r"some\.bin is not in the cache and could not be downloaded") as error:
        published_files.fetch(published_file)
    for needed in (server.url + "some.bin", published_file.checksum, str(cache / "some.bin"), "VGGISH_KERAS_HOME"):
        assert needed in str(error.value)
    assert "\n" not in str(error.value)
    assert not names(cache)


def test_offline(cache, published_file, monkeypatch):
    monkeypatch.setattr(params, "PUBLISHED_URL", "http://127.0.0.1:9/")
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded \(no connection\)"):
        published_files.fetch(published_file)
    assert not names(cache)


@pytest.fixture
def fetching(server, published_file):
    """Starts processes that fetch the file and print that it is correct."""
    script = (
        "import sys; from vggish_keras import params, published_files\n"
        "params.PUBLISHED_URL = sys.argv[1]\n"
        "file = params.PublishedFile(*sys.argv[2:])\n"
        "published_files.fetch(file)\n"
        "published_files.check(file, use_remembered=False)\n"
        "print('correct')"
    )
    command = [sys.executable, "-c", script, server.url, *published_file]
    processes = []

    def start(stderr=None):
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        if process.stderr:
            process.stderr.close()


def test_processes_at_once_download_once(server, fetching, cache):
    server.goes_on.clear()
    processes = [fetching(stderr=subprocess.PIPE) for _ in range(4)]
    first_lines = [process.stderr.readline() for process in processes]
    server.goes_on.set()
    assert [process.communicate()[0].strip() for process in processes] == ["correct"] * 4
    assert server.requests == 1
    assert sorted(line.split()[0] for line in first_lines) == ["Downloading", "Waiting", "Waiting", "Waiting"]
    assert "Waiting for a different process to download some.bin\n" in first_lines
    assert names(cache) == {"some.bin", CHECKSUMS}


def test_threads_at_once_download_once(server, cache, published_file):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(published_files.fetch, [published_file] * 4))
    assert paths == [cache / "some.bin"] * 4
    assert server.requests == 1


def test_file_that_appears_while_waiting_is_checked(server, fetching, cache, published_file):
    with locked(cache / ".some.bin.lock"):
        process = fetching(stderr=subprocess.PIPE)
        assert process.stderr.readline().startswith("Waiting")
        (cache / "some.bin").write_bytes(b"placed by hand")
    assert "some.bin is not the published file" in process.communicate()[1]
    assert server.requests == 0


def test_no_checksum_is_lost_if_two_files_are_checked_at_once(server, cache):
    files = []
    for index in range(8):
        (cache / f"{index}.bin").write_bytes(bytes([index]))
        files.append(params.PublishedFile(f"{index}.bin", f"md5:{hashlib.md5(bytes([index])).hexdigest()}"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(published_files.check, files))
    assert set(json.loads((cache / CHECKSUMS).read_text())) == {file.name for file in files}


def test_download_is_on_the_disk_before_it_has_its_name(server, cache, published_file, assert_durable):
    assert_durable(published_files.fetch(published_file))
    assert_durable(cache / CHECKSUMS)


def test_cache_without_locks(server, cache, published_file, monkeypatch):
    """Needs no lock for an existing file, and does not download without one."""
    fcntl = pytest.importorskip("fcntl")

    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(
        FileNotFoundError, match=r"some\.bin\.lock cannot be locked \(No locks available\): use a folder"
    ):
        published_files.fetch(published_file)
    assert server.requests == 0
    (cache / "some.bin").write_bytes(server.content["/audioset/some.bin"])
    assert published_files.fetch(published_file) == cache / "some.bin"


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def half_downloads(cache):
    return [file for file in cache.rglob("*") if file.is_file() and file.stat().st_size > 1_000_000]


def kill_halfway(server, fetching, cache):
    """Kills a download halfway and returns its remains."""
    server.goes_on.clear()
    killed = fetching()
    wait_for(lambda: half_downloads(cache))
    killed.kill()
    killed.wait()
    (left,) = half_downloads(cache)
    return left


def test_remains_of_a_killed_download_are_removed_at_the_next_start(server, fetching, cache, published_file):
    left = kill_halfway(server, fetching, cache)
    (cache / "tmpother").write_text("a file of somebody else")
    server.goes_on.set()
    assert published_files.fetch(published_file).read_bytes() == server.content["/audioset/some.bin"]
    assert not left.exists()
    assert names(cache) == {"some.bin", "tmpother", CHECKSUMS}


def test_remains_of_a_killed_download_are_removed_beside_a_cached_file(server, fetching, cache, published_file):
    kill_halfway(server, fetching, cache)
    (cache / "some.bin").write_bytes(server.content["/audioset/some.bin"])  # placed by hand
    published_files.fetch(published_file)
    assert names(cache) == {"some.bin", CHECKSUMS}


def test_waiting_process_downloads_if_the_first_one_is_killed(server, fetching, cache, published_file):
    server.goes_on.clear()
    killed = fetching()
    wait_for(lambda: half_downloads(cache))
    waiting = fetching(stderr=subprocess.PIPE)
    assert waiting.stderr.readline().startswith("Waiting")
    killed.kill()
    killed.wait()
    server.goes_on.set()
    assert waiting.communicate()[0].strip() == "correct"
    assert server.requests == 2
    assert names(cache) == {"some.bin", CHECKSUMS}


def test_running_download_is_not_removed(server, fetching, cache, published_file):
    """By a process that finds a file that was placed by hand meanwhile."""
    server.goes_on.clear()
    running = fetching()
    wait_for(lambda: half_downloads(cache))
    (cache / "some.bin").write_bytes(server.content["/audioset/some.bin"])
    published_files.fetch(published_file)
    assert len(half_downloads(cache)) == 2
    server.goes_on.set()
    assert running.communicate()[0].strip() == "correct"
    assert names(cache) == {"some.bin", CHECKSUMS}


def test_cache_is_the_users_own(monkeypatch):
    monkeypatch.delenv("VGGISH_KERAS_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    if sys.platform == "linux":
        assert published_files.published_path(params.CHECKPOINT) == Path("/somewhere/vggish_keras/vggish_model.ckpt")

import copy
import gc
import inspect
import io
import itertools
import json
import math
import os
import pickle
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import psutil
import pytest
import resampy
import soundfile
import tensorflow as tf

import vggish_keras as vk
from tests import published
from tests.encoding import encode
from tests.fakes import FakeEngine, fake_embeddings
from tests.published import assert_close
from vggish_keras import embedder as embedder_module, exported_options, network
from vggish_keras._reader_process import ReaderProcesses
from vggish_keras.embedder import Embedder
from vggish_keras.engines import open_engine
from vggish_keras.exported_options import ExportedOptions
from vggish_keras.framing import PADDINGS


@pytest.mark.keras
def test_equals_functional_model_on_whole_waveform(vggish, embedder, sounds):
    waveform = np.concatenate([sounds["noise"], sounds["rumble"], sounds["noise"]])
    whole = np.asarray(vggish(waveform[np.newaxis])[0])
    got = embedder.embed(waveform, 16_000)
    assert got.values.dtype == np.float32
    assert_close(got.values, whole)
    np.testing.assert_allclose(got.times, 0.96 * np.arange(len(whole)))


@pytest.mark.reference
@pytest.mark.parametrize("name", ["speech_16k_mono.wav", "music_44k_stereo.ogg", "field_44k_mono.mp3"])
def test_files_match_tf_slim_on_the_published_front_end(reference, slim, embedder, name):
    """Checks all steps against independent code: libsndfile, resampy, NumPy front end, TF-Slim."""
    samples, sample_rate = soundfile.read(reference / "audio" / name, dtype="float32", always_2d=True)
    waveform = resampy.resample(samples.mean(axis=1), sample_rate, 16_000, filter="kaiser_best")
    expected = published.run_slim(slim.v1, published.log_mel_examples(waveform))
    got = embedder.embed(reference / "audio" / name)
    assert_close(got.values[: len(expected)] / np.abs(expected).max(), expected / np.abs(expected).max(), 1e-3)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("hop_seconds", [0.96, 0.5, 0.07, 2.5])
def test_examples_of_any_hop_and_length(hop_seconds, padding):
    embedder = Embedder(FakeEngine(), hop_seconds, padding, batch_size=3)
    rng = np.random.default_rng(1)
    for samples in (0, 100, 15_600, 15_601, 80_000, 80_001):
        waveform = rng.uniform(-0.5, 0.5, samples).astype(np.float32)
        count = vk.LogMelExamples(hop_seconds, padding)(waveform[np.newaxis]).shape[1]
        padded = np.pad(waveform, (0, 200_000))
        got = embedder.embed(waveform, 16_000)
        np.testing.assert_allclose(got.times, hop_seconds * np.arange(count))
        assert_close(got.values, fake_embeddings(padded, hop_seconds)[:count])
        for cuts in (rng.integers(0, samples + 1, 5), range(700, samples, 700)):
            blocks = np.split(waveform, np.sort(cuts))
            parts = list(embedder.stream(blocks, 16_000))
            assert all(len(part.times) == len(part.values) <= 3 for part in parts)
            assert_close(np.concatenate([got.values[:0], *(part.values for part in parts)]), got.values)
            np.testing.assert_allclose(np.concatenate([[], *(part.times for part in parts)]), got.times)


def test_stream_of_pcm_at_44_100_hz(embedder, sounds):
    stereo = np.stack([sounds["noise"], sounds["rumble"]], axis=1)
    whole = embedder.embed(stereo, 44_100)
    blocks = np.split((stereo * 2**15).clip(-(2**15), 2**15 - 1).astype(np.int16), [1, 5_000, 5_001, 40_000])
    got = np.concatenate([part.values for part in embedder.stream(blocks, 44_100)])
    # 16 bits of quantization noise
    assert_close(got, whole.values, 1e-2)


@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_stream_may_reuse_its_array(sample_rate):
    embedder = Embedder(FakeEngine())
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * sample_rate).astype(np.float32)

    def blocks():
        block = np.zeros(sample_rate // 10, np.float32)
        for start in range(0, len(waveform), len(block)):
            block[:] = waveform[start : start + len(block)]
            yield block

    (got,) = embedder.stream(blocks(), sample_rate)
    assert_close(got.values, embedder.embed(waveform, sample_rate).values)


def test_stream_yields_as_soon_as_a_batch_is_full(embedder, sounds):
    asked = []

    def blocks():
        for index in range(100):
            asked.append(index)
            yield sounds["noise"]

    first = next(embedder.stream(blocks(), 16_000))
    assert len(first.times) == embedder.batch_size
    assert len(asked) == 2  # 6 s; four examples need 3.9 s


@pytest.mark.parametrize("sample_rate", [8_000, 11_025, 16_000, 22_050, 44_100, 44_101, 48_000, 96_000])
def test_single_examples_are_not_kept_waiting(sample_rate):
    """Results arrive within 50 ms of audio after the end of their examples."""
    embedder = Embedder(FakeEngine(), hop_seconds=0.5, batch_size=1)
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * sample_rate).astype(np.float32)
    received = 0

    def blocks():
        nonlocal received
        for block in np.split(waveform, range(0, len(waveform), sample_rate // 100)):
            received += len(block)
            yield block

    values = []
    for part in embedder.stream(blocks(), sample_rate):
        values.append(part.values)
        assert received / sample_rate <= part.times[0] + 0.975 + 0.05
    assert_close(np.concatenate(values), embedder.embed(waveform, sample_rate).values)


def test_memory_does_not_grow_with_the_stream():
    """15 minutes need no more memory than one minute."""
    embedder = Embedder(FakeEngine())
    block = np.random.default_rng(0).uniform(-0.5, 0.5, 44_100).astype(np.float32)
    peaks = []
    for seconds in (60, 60, 900):
        gc.collect()
        tracemalloc.start()
        for _ in embedder.stream((block for _ in range(seconds)), 44_100):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.1 * peaks[1]


def test_one_trace_for_all(embedder, sounds):
    for samples in (100, 15_600, 40_000, 48_000):
        embedder.embed(sounds["noise"][:samples], 16_000)
    assert embedder._engine._functions["embedding"].experimental_get_tracing_count() == 1


def test_threads_share_an_embedder(embedder, sounds):
    expected = embedder.embed(sounds["noise"], 16_000).values
    results = [None] * 4

    def work(index):
        results[index] = embedder.embed(sounds["noise"], 16_000).values

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert_close(result, expected)


def test_postprocess(slim, embedder, sounds, pca_params, pca_in_cache):
    raw = embedder.embed(sounds["noise"], 16_000).values
    quantized = vk.Embedder(slim.v2, postprocess="quantized").embed(sounds["noise"], 16_000).values
    expected = published.postprocess(raw, pca_params["pca_eigen_vectors"], pca_params["pca_means"])
    published.assert_same_bytes(quantized, expected)
    nothing = vk.Embedder(slim.v2, padding="valid", postprocess="quantized").embed(np.zeros(100), 16_000)
    assert nothing.values.shape == (0, 128)
    assert nothing.values.dtype == np.uint8


def test_own_pca_params(slim, embedder, sounds, pca_params, tmp_path):
    """From a file, and without the published one."""
    np.savez(tmp_path / "own.npz", **pca_params)
    raw = embedder.embed(sounds["noise"], 16_000).values
    expected = published.postprocess(raw, pca_params["pca_eigen_vectors"], pca_params["pca_means"])
    own = vk.Embedder(slim.v2, postprocess="quantized", pca_params=tmp_path / "own.npz")
    published.assert_same_bytes(own.embed(sounds["noise"], 16_000).values, expected)
    pca_params = {**pca_params, "pca_means": pca_params["pca_means"] + 1}
    other = vk.Embedder(slim.v2, postprocess="quantized", pca_params=pca_params)
    assert other.options["weights"] != own.options["weights"]


def test_unused_pca_params_raise(exported, tmp_path):
    with pytest.raises(ValueError, match='pca_params requires postprocess="pca" or "quantized"'):
        Embedder(FakeEngine(), pca_params=tmp_path / "own.npz")
    with pytest.raises(ValueError, match=r"the engine keeps its own PCA parameters: pca_params \(--pca\) is for"):
        Embedder(FakeEngine("embedding", "pca"), postprocess="pca", pca_params=tmp_path / "own.npz")
    with pytest.raises(ValueError, match=f"{exported} keeps its own PCA parameters"):
        Embedder(exported, postprocess="quantized", pca_params=tmp_path / "own.npz")


def test_bfloat16(slim, embedder, sounds):
    expected = embedder.embed(sounds["noise"], 16_000).values
    got = vk.Embedder(slim.v2, dtype="bfloat16").embed(sounds["noise"], 16_000).values
    assert got.dtype == np.float32
    cosine = np.sum(got * expected, -1) / np.linalg.norm(got, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert 0.999 < cosine.min() < 1


def test_exported_model_is_equal_to_the_bit(slim, exported, sounds, pca_in_cache):
    for postprocess in (None, "quantized"):
        options = {"hop_seconds": 0.5, "padding": "valid", "postprocess": postprocess, "batch_size": 4}
        embedder = vk.Embedder(exported, **options)
        expected = vk.Embedder(slim.v2, **options).embed(sounds["noise"], 16_000)
        got = embedder.embed(sounds["noise"], 16_000)
        assert got.values.dtype == expected.values.dtype
        np.testing.assert_array_equal(got.values, expected.values)
        np.testing.assert_array_equal(got.times, expected.times)


def test_unsupported_options_of_exported_model_raise(exported):
    with pytest.raises(ValueError, match="does not compute 'pca', only embedding, quantized"):
        vk.Embedder(exported, postprocess="pca")
    with pytest.raises(ValueError, match="the dtype of an exported model cannot be changed, got 'bfloat16'"):
        vk.Embedder(exported, dtype="bfloat16")
    with pytest.raises(ValueError, match="padding must be one of"):
        vk.Embedder(exported, padding="full")


def test_hop_and_padding_of_exported_model_are_the_defaults(exported_narrow, tmp_path, sounds):
    path = tmp_path / "model"
    shutil.copytree(exported_narrow, path)
    exported_options.write_options(path, ExportedOptions(0.5, "same"))
    embedder = Embedder(path)
    assert (embedder.options["hop_seconds"], embedder.options["padding"]) == (0.5, "same")
    np.testing.assert_allclose(embedder.embed(sounds["noise"], 16_000).times, 0.5 * np.arange(6))
    options = Embedder(path, 0.7, "valid").options
    assert (options["hop_seconds"], options["padding"]) == (0.7, "valid")
    (path / exported_options.OPTIONS_FILE).unlink()  # as exported by earlier versions
    options = Embedder(path).options
    assert (options["hop_seconds"], options["padding"]) == (0.96, "short")


# === Engines ===


def test_any_object_with_the_members_of_an_engine_is_accepted(sounds):
    assert Embedder(FakeEngine()).options["weights"] == "fake"
    embedder = Embedder(FakeEngine("embedding", "quantized"), postprocess="quantized")
    values = embedder.embed(sounds["noise"], 16_000).values
    assert values.dtype == np.uint8
    assert_close(values[:3], 50 + 20 * fake_embeddings(sounds["noise"]), 1e-2)
    with pytest.raises(ValueError, match="the engine does not compute 'pca', only embedding"):
        Embedder(FakeEngine(), postprocess="pca")
    with pytest.raises(ValueError, match="the dtype of an engine cannot be changed, got 'bfloat16'"):
        Embedder(FakeEngine(), dtype="bfloat16")
    with pytest.raises(TypeError, match="weights must be 'audioset', a path, None or an engine, got 3"):
        Embedder(3)


def test_keras_model_is_not_an_engine():
    model = tf.keras.Sequential([tf.keras.Input((15_600,)), tf.keras.layers.Dense(128)])
    with pytest.raises(TypeError, match="an engine, got a Keras model: save it and pass its path"):
        Embedder(model)


def test_function_is_not_an_engine():
    with pytest.raises(TypeError, match="weights must be 'audioset', a path, None or an engine, got <function"):
        Embedder(lambda segments, output: segments)


def test_identity_of_an_engine_is_that_of_its_weights(slim, exported, exported_narrow, pca_in_cache, embedder):
    identity = embedder.options["weights"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", identity)
    keras_model, saved_model = open_engine(slim.v1, "quantized"), open_engine(exported)
    for engine in (keras_model, saved_model):
        assert engine.identity("embedding") == identity
    assert open_engine(exported_narrow).identity("embedding") != identity
    # The PCA parameters belong to the weights behind a quantized embedding.
    assert keras_model.identity("quantized") == saved_model.identity("quantized") != identity


def test_dtype_of_an_engine_is_an_option(slim, exported):
    assert Embedder(open_engine(slim.v1, dtype="bfloat16")).options["dtype"] == "bfloat16"
    assert Embedder(exported).options["dtype"] == "as exported"


def test_engine_computes_each_of_its_outputs(exported, sounds):
    engine = open_engine(exported, "quantized")
    assert engine.outputs == ("embedding", "quantized")
    segments = sounds["noise"][np.newaxis, :15_600]
    assert engine(segments, "embedding").dtype == np.float32
    assert engine(segments, "quantized").dtype == np.uint8


# === SavedModels from anywhere ===


@pytest.fixture
def saved_model(tmp_path):
    """Saves a function of one tensor as a signature of a tiny SavedModel."""

    def save(function, name="waveform", spec=((None, None), tf.float32), signature="serving_default"):
        module = tf.Module()
        module.scale = tf.Variable([1.0, 2.0])
        shape, dtype = spec

        @tf.function(input_signature=[tf.TensorSpec(shape, dtype, name)])
        def serve(tensor):
            return function(tensor, module.scale)

        path = tmp_path / "foreign"
        tf.saved_model.save(module, str(path), signatures={signature: serve})
        return path

    return save


def ones(shape, dtype=tf.float32, output="embedding"):
    """Returns a function whose output has a shape; "?" is a shape that is unknown until it runs."""

    def function(tensor, scale):
        batch = tf.shape(tensor)[:1]
        if shape == "?":
            return {output: tf.ones(tf.concat([batch, tf.cast(scale, tf.int32)], 0))}
        rest = tf.ones([1, *shape], dtype)
        return {output: tf.repeat(rest, batch, axis=0)}

    return function


def test_foreign_saved_model_with_expected_shapes_is_used(saved_model, sounds):
    def function(waveform, scale):
        peak = tf.reduce_max(waveform, axis=1)
        return {"embedding": scale[1] * tf.tile(peak[:, tf.newaxis, tf.newaxis], [1, 1, 128])}

    got = vk.Embedder(saved_model(function)).embed(sounds["noise"][:15_600], 16_000)
    np.testing.assert_array_equal(got.values, np.full((1, 128), 2 * sounds["noise"][:15_600].max()))


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (ones([1, 128]), {"signature": "other"}, r"has no signature serving_default \(signatures: other\), expected"),
        (
            ones([1, 128]),
            {"name": "audio"},
            r"has the input audio float32 \(None, None\), expected waveform float32",
        ),
        (ones([1, 128]), {"spec": ((None,), tf.string)}, r"has the input waveform string \(None,\)"),
        (ones([1, 128]), {"spec": ((None, 16_000), tf.float32)}, r"has the input waveform float32 \(None, 16000\)"),
        (ones([1, 128]), {"spec": ((1, None), tf.float32)}, r"has the input waveform float32 \(1, None\)"),
        (ones([1, 128], output="y"), {}, r"has no output embedding \(outputs: y\), expected a SavedModel"),
        (ones([7]), {}, r"has the output embedding float32 \(None, 7\), expected .* float32 \[batch, n, 128\]"),
        (ones([1, 64]), {}, r"has the output embedding float32 \(None, 1, 64\)"),
        (ones([7, 128]), {}, r"has the output embedding float32 \(None, 7, 128\)"),
        (ones([128]), {}, r"has the output embedding float32 \(None, 128\)"),
        (ones([1, 128], tf.float64), {}, r"has the output embedding float64 \(None, 1, 128\)"),
        (ones("?"), {}, r"has the output embedding float32 \(None, None, None\)"),
    ],
)
def test_foreign_saved_model_raises_before_it_is_used(saved_model, function, options, message):
    with pytest.raises(ValueError, match=f"foreign {message}"):
        vk.Embedder(saved_model(function, **options))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_saved_model_with_infinite_weights_raises(saved_model, bad):
    def function(waveform, scale):
        scale.assign([1.0, 1.0])
        return ones([1, 128])(waveform, scale)

    path = saved_model(function)
    vk.Embedder(path)
    loaded = tf.saved_model.load(str(path))
    loaded.scale.assign([1.0, bad])
    tf.saved_model.save(loaded, str(path.with_name("bad")), signatures=loaded.signatures)
    with pytest.raises(ValueError, match=r"bad: weights must be finite numbers, got NaN or infinity in Variable:0"):
        vk.Embedder(path.with_name("bad"))


@pytest.mark.parametrize(
    "name", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
@pytest.mark.parametrize("kept", [0, 0.5, None])
def test_damaged_saved_model_raises(saved_model, name, kept):
    path = saved_model(lambda waveform, scale: {"embedding": tf.ones([tf.shape(waveform)[0], 1, 128]) * scale[0]})
    vk.Embedder(path)
    file = path / name
    content = file.read_bytes()
    file.unlink()
    if kept is not None:
        file.write_bytes(content[: int(kept * len(content))])
    if (name, kept) == ("saved_model.pb", None):
        with pytest.raises(FileNotFoundError, match=r"no weights found at .*foreign"):
            vk.Embedder(path)
        return
    with pytest.raises(ValueError, match=r"foreign (is not a readable SavedModel: .|has no signature serving_default)"):
        vk.Embedder(path)


def test_short_form_does_not_search_the_current_folder(tmp_path, monkeypatch):
    """Where a folder may be called audioset, as the default weights are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedder_module, "Embedder", lambda **_: object())
    Path("audioset").mkdir()
    kept = embedder_module.shared_embedder(weights="audioset", pca_params="audioset")
    Path("audioset/1.wav").touch()
    assert embedder_module.shared_embedder(weights="audioset", pca_params="audioset") is kept


@pytest.mark.parametrize(
    ("weights", "file"),
    [("x.weights.h5", "x.weights.h5"), ("x.ckpt", "x.ckpt.index"), ("saved", "saved/variables/variables.index")],
)
def test_short_form_notices_replaced_weights(tmp_path, monkeypatch, weights, file):
    monkeypatch.setattr(embedder_module, "Embedder", lambda **_: object())
    file = tmp_path / file
    file.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "saved").mkdir(exist_ok=True)
    (tmp_path / "saved" / "saved_model.pb").touch()
    file.write_text("first")
    kept = embedder_module.shared_embedder(weights=tmp_path / weights)
    assert embedder_module.shared_embedder(weights=tmp_path / weights) is kept
    file.write_text("other")
    os.utime(file, ns=(0, 0))
    assert embedder_module.shared_embedder(weights=tmp_path / weights) is not kept


def test_short_form_keeps_its_embedder(slim, embedder, sounds, monkeypatch):
    expected = embedder.embed(sounds["noise"], 16_000)
    got = vk.embed(sounds["noise"], 16_000, weights=slim.v2)
    assert_close(got.values, expected.values)
    np.testing.assert_array_equal(got.times, expected.times)
    monkeypatch.setattr(network, "embed_examples", None)  # a second model could not be built
    assert_close(vk.embed(sounds["noise"], 16_000, weights=slim.v2).values, expected.values)


def test_short_form_accepts_an_engine_that_is_not_hashable(sounds):
    class Unhashable(FakeEngine):
        __hash__ = None

    expected = Embedder(FakeEngine()).embed(sounds["noise"], 16_000)
    assert vk.embed(sounds["noise"], 16_000, weights=Unhashable()) == expected


def test_short_form_has_the_arguments_of_an_embedder():
    short = inspect.signature(vk.embed).parameters
    for name, parameter in inspect.signature(Embedder).parameters.items():
        assert short[name].default == parameter.default
        assert name == "pca_params" or short[name].annotation == parameter.annotation
    assert len(short) == 2 + len(inspect.signature(Embedder).parameters)


def test_short_form_keeps_no_arrays(pca_params):
    with pytest.raises(TypeError, match="pca_params must be a path, got dict: for arrays, create an Embedder"):
        vk.embed("x.wav", postprocess="pca", pca_params=pca_params)


def test_embedder_reads_what_load_audio_returns(tmp_path, sounds):
    embedder = Embedder(FakeEngine())
    soundfile.write(tmp_path / "x.wav", np.stack([sounds["noise"], sounds["rumble"]], axis=1), 44_100)
    expected = embedder.embed(vk.load_audio(tmp_path / "x.wav"), 16_000)
    assert embedder.embed(tmp_path / "x.wav") == expected
    samples, sample_rate = soundfile.read(tmp_path / "x.wav")
    assert embedder.embed({"array": samples.T, "sampling_rate": sample_rate}) == expected


def test_progress_bar_is_shown_only_on_a_terminal(tmp_path, sounds, capsys, monkeypatch):
    soundfile.write(tmp_path / "x.wav", sounds["noise"], 16_000)
    embedder = Embedder(FakeEngine())
    for paths, shown in (([tmp_path / "x.wav"] * 2, "100%"), (iter([tmp_path / "x.wav"]), "")):
        assert dict(embedder.embed_many(paths, progress=True)).keys() == {tmp_path / "x.wav"}
        assert capsys.readouterr() == ("", "")
        monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
        list(embedder.embed_many(paths, progress=True))
        output, errors = capsys.readouterr()
        assert output == ""
        assert shown in errors
        monkeypatch.delenv("FORCE_COLOR")


# === Embeddings ===


@pytest.fixture
def five():
    return vk.Embeddings(0.96 * np.arange(5), np.arange(5 * 128, dtype=np.float32).reshape(5, 128))


def test_embeddings_unpack_and_have_a_length(five):
    times, values = five
    assert times is five.times
    assert values is five.values
    assert len(five) == 5
    np.testing.assert_array_equal(np.asarray(five), five.values)
    assert np.asarray(five, np.float64).dtype == np.float64


def test_embeddings_show_what_they_are(five):
    assert repr(five) == "Embeddings(5 examples, 0.0 to 3.84 s, float32 [5, 128])"
    one = vk.Embeddings(five.times[:1], five.values[:1].astype(np.uint8))
    assert repr(one) == "Embeddings(1 example, 0.0 to 0.0 s, uint8 [1, 128])"
    assert repr(vk.Embeddings(five.times[:0], five.values[:0])) == "Embeddings(0 examples, float32 [0, 128])"


def test_embeddings_are_compared_and_pickled(five):
    assert pickle.loads(pickle.dumps(five)) == five == copy.deepcopy(five)
    assert five != vk.Embeddings(five.times, five.values + 1)
    assert five != vk.Embeddings(five.times + 1, five.values)
    assert five != (five.times, five.values)
    with pytest.raises(TypeError, match="unhashable"):
        hash(five)


def test_embeddings_as_a_data_frame(five):
    pytest.importorskip("pandas")
    frame = five.to_pandas()
    assert list(frame.columns) == ["time", *(f"embedding_{index}" for index in range(128))]
    np.testing.assert_array_equal(frame["time"], five.times)
    np.testing.assert_array_equal(frame.iloc[:, 1:], five.values)
    assert set(frame.dtypes.iloc[1:]) == {np.dtype(np.float32)}


def test_data_frames_need_pandas(five, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="to_pandas requires pandas: pip install pandas"):
        five.to_pandas()


# === Every format ===


ALIGNED = [("libmp3lame", "mp3"), ("libopus", "ogg"), ("libopus", "webm"), ("aac", "mp4"), ("aac", "matroska")]
"""Formats that note how much silence the encoder put in front: 128 kb/s each."""


def lowest_cosine(embedder, waveform, codec, container):
    expected = embedder.embed(waveform, 48_000).values
    values = embedder.embed(io.BytesIO(encode(waveform, 48_000, codec, container))).values
    assert len(values) == len(expected)
    norms = np.linalg.norm(values, axis=1) * np.linalg.norm(expected, axis=1)
    return (np.sum(values * expected, axis=1) / norms)[:-1].min()  # the last hears what encoders add at the end


@pytest.mark.parametrize(("codec", "container"), ALIGNED)
def test_lossy_formats_embed_like_the_original(embedder, sounds, codec, container):
    noise = resampy.resample(sounds["noise"].clip(-1, 1), 16_000, 48_000)
    assert lowest_cosine(embedder, noise, codec, container) >= 0.999


@pytest.mark.reference
@pytest.mark.parametrize(("codec", "container"), ALIGNED)
def test_real_recordings_in_lossy_formats_embed_like_the_original(embedder, reference, codec, container):
    for name in ("speech_16k_mono.wav", "music_44k_stereo.ogg", "field_44k_mono.mp3"):
        samples, rate = soundfile.read(reference / "audio" / name, dtype="float32", always_2d=True, frames=150_000)
        assert lowest_cosine(embedder, resampy.resample(samples.mean(axis=1), rate, 48_000), codec, container) >= 0.999


def test_lossless_formats_embed_equally_to_the_bit(embedder, sounds):
    pcm = np.round(sounds["noise"].clip(-1, 1) * 32_767) / 32_768
    wav = io.BytesIO()
    soundfile.write(wav, pcm, 16_000, format="WAV")
    expected = embedder.embed(io.BytesIO(wav.getvalue())).values
    for codec, container in (("flac", "flac"), ("pcm_s16be", "aiff"), ("pcm_s16le", "mov"), ("pcm_s16be", "caf")):
        values = embedder.embed(io.BytesIO(encode(pcm, 16_000, codec, container))).values
        np.testing.assert_array_equal(values, expected)


@pytest.mark.reference
def test_odd_recordings_are_embedded_whole(reference):
    folder = reference / "odd_recordings"
    expected = {"vbr_no_header.mp3": 42, "unknown_length.flac": 7, "chained.ogg": 11, "clip.m4a": 7}
    embedder = Embedder(FakeEngine(), padding="same")
    results = {
        path.name: result
        for path, result in embedder.embed_many([folder / name for name in (*expected, "endless_list.wav")])
    }
    assert "endless_list.wav cannot be read as audio" in str(results.pop("endless_list.wav"))
    assert {name: len(result.times) for name, result in results.items()} == expected


# === Forked processes ===


def in_child(function):
    """Returns the error of a function in a forked process, or "hangs"."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            function()
            message = "no error"
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
        os.write(writing, message.encode())
        os._exit(0)
    os.close(writing)
    ready, _, _ = select.select([reading], [], [], 20)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(reading) as pipe:
        return pipe.read() if ready else "hangs"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_use_in_a_forked_process_raises(slim, embedder, folder, sounds):
    embedder.embed(sounds["noise"], 16_000)
    vk.embed(sounds["noise"], 16_000, weights=slim.v2)
    begun = embedder.embed_many([folder / "0.wav"] * 3)
    next(begun)
    for use in (
        lambda: embedder.embed(sounds["noise"], 16_000),
        lambda: list(embedder.stream([sounds["noise"]], 16_000)),
        lambda: list(embedder.embed_many([folder / "0.wav"])),
        lambda: list(embedder.embed_many([folder / "text.wav"])),
        lambda: next(begun),
        lambda: vk.embed(sounds["noise"], 16_000, weights=slim.v2),
        lambda: vk.Embedder(slim.v2),
        lambda: vk.VGGish(None),
    ):
        message = in_child(use)
        assert re.fullmatch(
            rf"RuntimeError: the network ran in process {os.getpid()} before process \d+ was forked from it, and would "
            r"hang here: start workers with the 'spawn' method, or fork before creating the first model",
            message,
        )
    assert len(list(begun)) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_run_does_not_continue_in_a_forked_process(folder, monkeypatch):
    """The threads that read exist only in the parent."""
    embedder = Embedder(FakeEngine(), batch_size=3)  # as many as the first file has examples
    may_read = threading.Event()
    read = ReaderProcesses.read

    def wait_and_read(self, path, *arguments):
        if path.name == "1.flac":
            may_read.wait()
        return read(self, path, *arguments)

    monkeypatch.setattr(ReaderProcesses, "read", wait_and_read)
    begun = embedder.embed_many([folder / "0.wav", folder / "1.flac"])
    assert next(begun)[0] == folder / "0.wav"
    assert in_child(lambda: next(begun)).startswith("RuntimeError: the network ran in process ")
    may_read.set()
    assert [path for path, _ in begun] == [folder / "1.flac"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_process_forked_before_tensorflow_ran_can_run_it():
    script = (
        "import os\n"
        "from vggish_keras._fork import check_not_forked\n"
        "child = os.fork()\n"
        "check_not_forked()\n"
        "if child: assert os.waitpid(child, 0)[1] == 0"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# === Many recordings ===


@pytest.fixture
def folder(tmp_path, sounds):
    """Recordings of different lengths, rates and formats, and files that cannot be read."""
    noise = np.tile(sounds["noise"].clip(-1, 1), 3)
    for index, (suffix, sample_rate, samples) in enumerate(
        [("wav", 16_000, 48_000), ("flac", 44_100, 100_000), ("wav", 8_000, 700), ("ogg", 48_000, 144_000)]
    ):
        soundfile.write(tmp_path / f"{index}.{suffix}", noise[:samples], sample_rate)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no audio")
    whole = (tmp_path / "0.wav").read_bytes()
    (tmp_path / "fast.wav").write_bytes(whole[:24] + (900_000).to_bytes(4, "little") + whole[28:])
    (tmp_path / "truncated.wav").write_bytes(whole[:60_000])
    return tmp_path


GOOD = ("0.wav", "1.flac", "2.wav", "3.ogg")
BAD = ("empty.wav", "text.wav", "truncated.wav", "missing.wav", "fast.wav")


@pytest.mark.parametrize("order", [GOOD, (*BAD, *GOOD), (*GOOD, *BAD), ("0.wav", "truncated.wav", "1.flac"), BAD, ()])
def test_many_recordings_equal_each_alone(embedder, folder, order):
    paths = [folder / name for name in order]
    results = list(embedder.embed_many(iter(paths)))
    assert [path for path, _ in results] == paths
    for path, result in results:
        if path.name in BAD:
            with pytest.raises((ValueError, OSError)) as raised:
                embedder.embed(path)
            assert type(result) is raised.type
            assert str(result) == str(raised.value)
        else:
            expected = embedder.embed(path)
            np.testing.assert_array_equal(result.times, expected.times)
            assert_close(result.values, expected.values)


def test_to_the_bit_embeddings_do_not_depend_on_other_recordings(embedder, folder):
    alone = {name: dict(embedder.embed_many([folder / name]))[folder / name].values for name in GOOD}
    for order in (GOOD, (*reversed(GOOD), *BAD), ("2.wav", *GOOD, "0.wav")):
        for path, result in embedder.embed_many([folder / name for name in order]):
            if path.name in GOOD:
                np.testing.assert_array_equal(result.values, alone[path.name])


def test_batches_are_filled_across_recordings(folder):
    engine = FakeEngine()
    embedder = Embedder(engine, batch_size=3)
    results = list(embedder.embed_many([folder / name for name in GOOD * 3]))
    examples = sum(len(result.times) for _, result in results)
    assert engine.batch_sizes == [3] * math.ceil(examples / 3)


def test_recording_without_examples(folder):
    embedder = Embedder(FakeEngine(), padding="valid")
    ((_, only),) = embedder.embed_many([folder / "2.wav"])
    assert only.values.shape == (0, 128)
    results = [result for _, result in embedder.embed_many([folder / name for name in ("2.wav", "0.wav", "2.wav")])]
    assert [len(result.times) for result in results] == [0, 3, 0]


@pytest.mark.parametrize("name", ["2.wav", "truncated.wav", "fast.wav"])
def test_recordings_without_examples_are_yielded_one_by_one(folder, name):
    """They fill no batch, and keep neither memory nor open files."""
    embedder = Embedder(FakeEngine(), padding="valid")
    asked = []

    def paths():
        for index in range(2_000):
            asked.append(index)
            yield folder / name

    results = embedder.embed_many(paths())
    next(results)
    assert len(asked) < 100
    files = psutil.Process().num_fds()
    gc.disable()
    try:
        for _ in itertools.islice(results, 500):
            pass
        assert psutil.Process().num_fds() < files + 20
    finally:
        gc.enable()


def test_errors_hold_no_audio(folder):
    tracemalloc.start()
    results = [result for _, result in Embedder(FakeEngine()).embed_many([folder / "truncated.wav"] * 100)]
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(results) == 100
    assert held < 1e6


def test_seconds_of_audio_are_reported(folder):
    seconds = []
    list(
        Embedder(FakeEngine()).embed_many(
            [folder / name for name in (*GOOD, "text.wav")], on_audio=lambda _, read: seconds.append(read)
        )
    )
    assert sum(seconds) == pytest.approx(3 + 100_000 / 44_100 + 700 / 8_000 + 3)


def test_many_recordings_leave_nothing_behind(folder, count_segments):
    """No thread, no open file and no memory is left, also if the iteration stops halfway."""
    segments = count_segments(embedder_module)
    embedder = Embedder(FakeEngine())
    process = psutil.Process()
    threads, descriptors = set(threading.enumerate()), process.num_fds()
    names = [folder / name for name in (*GOOD, *BAD)]

    def run(count):
        """Returns the bytes that are held at the last result, when nothing is read ahead any more."""
        gc.collect()
        tracemalloc.start()
        for _ in embedder.embed_many(itertools.islice(itertools.cycle(names), count)):
            held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return held

    run(100)
    assert run(1_000) < run(200) + 300_000  # less than the embeddings of the 800 others
    assert segments.count(1) > 1_000
    assert max(itertools.accumulate(segments)) < 6 * embedder.batch_size
    half = embedder.embed_many(names * 10)
    for _ in range(7):
        next(half)
    half.close()
    del half
    gc.collect()
    assert set(threading.enumerate()) <= threads
    assert process.num_fds() <= descriptors


class FailingEngine(FakeEngine):
    def __call__(self, segments, output):
        raise MemoryError("out of memory")


def test_failing_engine_is_not_a_bad_file(folder):
    with pytest.raises(MemoryError, match="out of memory"):
        list(Embedder(FailingEngine()).embed_many([folder / "0.wav"]))


def test_invalid_arguments_raise():
    for batch_size in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="batch_size must be a positive whole number, got"):
            vk.Embedder(None, batch_size=batch_size)
    with pytest.raises(ValueError, match=r"dtype must be one of .* got 'int8'"):
        vk.Embedder(None, dtype="int8")
    with pytest.raises(ValueError, match="padding must be one of"):
        vk.Embedder(None, padding="full")
    with pytest.raises(FileNotFoundError, match=r"vggish_model\.ckpt is not in the cache"):
        vk.Embedder()


def test_integers_of_numpy_are_arguments_and_plain_options():
    embedder = Embedder(FakeEngine(), batch_size=np.int64(4), channels=np.int64(1))
    assert (embedder.batch_size, json.dumps(embedder.options["channels"])) == (4, "1")


@pytest.mark.parametrize("path", ["recording.wav", Path("recording.wav")])
@pytest.mark.parametrize("method", ["embed_many", "stream_many"])
def test_a_single_path_is_not_a_sequence(method, path):
    with pytest.raises(TypeError, match=r"paths must be a sequence of paths, got the single path recording\.wav"):
        list(getattr(Embedder(FakeEngine()), method)(path))


def test_invalid_sources_raise(tmp_path):
    embedder = Embedder(FakeEngine())
    with pytest.raises(FileNotFoundError, match=r"no audio file at .*x\.wav"):
        embedder.embed(tmp_path / "x.wav")
    with pytest.raises(ValueError, match="an array needs a sample_rate"):
        embedder.embed(np.zeros(100))
    with pytest.raises(ValueError, match="sample_rate must be a whole number"):
        embedder.stream([], 0)
    with pytest.raises(ValueError, match="stream: sample 100 is nan"):
        list(embedder.stream([np.zeros(100), np.full(3, np.nan)], 16_000))

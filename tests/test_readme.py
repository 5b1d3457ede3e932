"""The README's examples, run as they are written."""

import gc
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from apache_beam.options.pipeline_options import PipelineOptions
from click.testing import CliRunner
from tensorflow import keras

import vggish_keras as vk
from tests import readme
from tests.conftest import expect_in_cache
from tests.published import run_slim
from tests.serving import Served, rest_server
from vggish_keras.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch, slim, pca_in_cache, sounds):
    """The recordings that the examples name, with stand-ins for the published files in the cache."""
    os.link(slim.v1, Path(os.environ["VGGISH_KERAS_HOME"]) / "vggish_model.ckpt")
    expect_in_cache(monkeypatch, "CHECKPOINT")
    soundfile.write(tmp_path / "recording.wav", sounds["rumble"], 16_000)
    soundfile.write(tmp_path / "music.flac", np.stack([sounds["noise"].clip(-1, 1)] * 2, axis=1), 44_100)
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    for path in ("corpus/recording.wav", "corpus/deep/music.flac"):
        os.link(tmp_path / Path(path).name, tmp_path / path)
    for label in ("birds", "rain"):
        (tmp_path / "sounds" / label).mkdir(parents=True)
        for name in ("recording.wav", "music.flac"):
            os.link(tmp_path / name, tmp_path / "sounds" / label / name)
    (tmp_path / "more.txt").write_text("recording.wav\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Run by other tests, which find them by their names.
ELSEWHERE = {"demo": ".ci/run", "tests": ".ci/run", "examples": "tests/test_examples.py"}


def test_every_block_has_a_test():
    names = [block.name for block in readme.blocks() if block.name]
    assert len(set(names)) == len(names)
    assert set(ELSEWHERE) <= set(names)
    for name, file in ELSEWHERE.items():
        assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), f"{file} does not run the block {name}"
    for block in readme.blocks():
        assert block.language in ("python", "sh") or block.name is None, f"no test runs {block.language}"


def test_blocks_in_order(folder, capsys, slim):
    """All examples, from top to bottom as a reader runs them, on less data."""
    names = {}
    for block in readme.blocks():
        if block.name in ELSEWHERE or not block.name:
            continue
        gc.collect()  # the models of commands and of earlier blocks, gigabytes in few objects
        if block.language == "sh":
            for command in block.text.splitlines():
                run(command)
        elif block.name == "request":
            request(block.text, names)
        else:
            exec(shortened(block.text), names)
    assert_python_results(folder, names, slim, capsys.readouterr().out)
    assert_files()


def shortened(text):
    return re.sub(r"epochs=\d+", "epochs=1", text).replace('"batch_size": 32', '"batch_size": 2')


def run(command):
    program, *arguments = shlex.split(command, comments=True)
    if program != "vggish":
        assert program in ("docker", "python"), command  # tests/test_serving.py runs the clients
        return
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, (command, result.output)


def request(text, names):
    """Sends the request to a server here."""
    scores = names["classifier"].predict(one_recording(), verbose=0)[0]
    served = Served("classifier/1")
    with rest_server(served) as url:
        exec(text.replace("http://localhost:8501", url), names)
    served.session.close()
    np.testing.assert_allclose(names["answer"]["outputs"]["scores"][0], scores, atol=1e-3)


def one_recording():
    samples = soundfile.read("recording.wav", dtype="float32")[0]
    return {"waveform": samples[np.newaxis], "num_samples": np.array([len(samples)], np.int32)}


def assert_python_results(folder, names, slim, output):
    assert names["embeddings"].times.tolist() == [0, 0.96, 1.92]
    assert names["released_form"].dtype == np.uint8
    assert "(8, 128)" in output
    assert names["model"](names["clips"]).shape == (4, 2, 128)
    assert [clip.video_id for clip in names["records"]] == ["music", "recording"]
    assert names["saved"]["values"].shape == (3, 128)
    assert names["rows"].shape == (4, 128)  # of both recordings
    assert names["training"].class_names == ["birds", "rain"]
    embedding, labels = next(iter(names["train"]))
    assert embedding.shape == (2, 3, 128)
    assert np.all(np.flatnonzero(labels[0]) == 137)
    assert (folder / "classifier.keras").exists()
    assert_tf_slim_agrees(folder / "fine_tuned.ckpt", names["vggish"], slim)
    assert len(names["hub_classifier"].trainable_variables) == 20


def assert_tf_slim_agrees(checkpoint, vggish, slim):
    network = keras.Model(vggish.get_layer("conv1").input, vggish.get_layer("fc2").output)
    expected = np.asarray(network(slim.examples[..., np.newaxis]))
    assert not np.allclose(expected, slim.embeddings, rtol=0.01)  # it was trained
    np.testing.assert_allclose(run_slim(checkpoint, slim.examples), expected, atol=1e-5 * np.abs(expected).max())


def assert_files():
    for name in ("all.csv", "labels.csv", "hops.npz", "vggish.weights.h5", "vggish/1/saved_model.pb"):
        assert Path(name).exists()
    for name in ("embeddings/deep/music.flac.npz", "all.parquet", "corpus-00003-of-00004.tfrecord", "hops.svg"):
        assert Path(name).exists()
    single, beam = (records_of(Path().glob(f"{name}-*.tfrecord")) for name in ("corpus", "records/corpus"))
    assert single == beam


def records_of(files):
    return {record.video_id: record.embedding.tolist() for file in files for record in vk.records.read(file)}


def test_options_of_beam():
    """Beam knows them; no cluster runs them."""
    rows = re.findall(r"^\| (.+) \| `(--.+)` \|$", readme.README, re.MULTILINE)
    assert [where for where, _ in rows] == ["two local processes", "Flink", "Dataflow"]
    known = PipelineOptions([]).get_all_options().keys()
    for where, options in rows:
        parsed = PipelineOptions(options.split()).get_all_options(retain_unknown_options=True)
        assert parsed.keys() == known
        assert parsed["runner"] in (None, f"{where}Runner")

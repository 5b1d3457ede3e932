"""The README's examples, run as they stand there."""

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
from tests.published import run_slim
from tests.serving import Served, rest_server
from vggish_keras.cli import main

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture
def folder(tmp_path, monkeypatch, slim, pca_in_cache, sounds):
    """The recordings that the examples name, and stand-ins for the published files in the cache."""
    os.link(slim.v1, Path(os.environ["VGGISH_KERAS_HOME"]) / "vggish_model.ckpt")
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


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands(program="vggish"):
    return [line for block in blocks("sh") for line in block.splitlines() if line.startswith(program)]


def run(command):
    result = CliRunner().invoke(main, shlex.split(command, comments=True)[1:])
    assert result.exit_code == 0, (command, result.output)


def test_python(folder, capsys, slim):
    examples = blocks("python")
    assert len(examples) == 11
    for command in commands()[1:4]:  # whose results are read
        run(command)
    names = {}
    (asks_server,) = (index for index, example in enumerate(examples) if "requests.post" in example)
    # Shortened: one epoch on two clips at a time.
    exec(re.sub(r"epochs=\d+", "epochs=1", "\n".join(examples[:asks_server])).replace('": 32', '": 2'), names)
    scores = names["classifier"].predict(one_recording(), verbose=0)[0]
    served = Served("classifier/1")
    with rest_server(served) as url:
        exec(examples[asks_server].replace("http://localhost:8501", url), names)
    served.session.close()
    np.testing.assert_allclose(names["answer"]["outputs"]["scores"][0], scores, atol=1e-3)
    exec("\n".join(examples[asks_server + 1 :]), names)
    assert names["embeddings"].times.tolist() == [0, 0.96, 1.92, 2.88]
    assert names["released_form"].dtype == np.uint8
    assert "(8, 128)" in capsys.readouterr().out
    assert names["model"](names["clips"]).shape == (4, 2, 128)
    assert [clip.video_id for clip in names["records"]] == ["music", "recording"]
    assert names["saved"]["values"].shape == (4, 128)
    assert names["rows"].shape == (6, 128)  # of both recordings
    assert names["training"].class_names == ["birds", "rain"]
    embedding, labels = next(iter(names["train"]))
    assert embedding.shape == (2, 4, 128)
    assert np.all(np.flatnonzero(labels[0]) == 137)
    assert (folder / "classifier.keras").exists()
    assert_tf_slim_agrees(folder / "fine_tuned.ckpt", names["vggish"], slim)
    assert len(names["hub_classifier"].trainable_variables) == 20


def assert_tf_slim_agrees(checkpoint, vggish, slim):
    network = keras.Model(vggish.get_layer("conv1").input, vggish.get_layer("fc2").output)
    expected = np.asarray(network(slim.examples[..., np.newaxis]))
    assert not np.allclose(expected, slim.embeddings, rtol=0.01)  # it was trained
    np.testing.assert_allclose(run_slim(checkpoint, slim.examples), expected, atol=1e-5 * np.abs(expected).max())


def one_recording():
    samples = soundfile.read("recording.wav", dtype="float32")[0]
    return {"waveform": samples[np.newaxis], "num_samples": np.array([len(samples)], np.int32)}


@pytest.mark.usefixtures("folder")
def test_command_line():
    assert len(commands()) == 14
    for command in commands():
        run(command)
    for name in ("all.csv", "hops.npz", "vggish.weights.h5", "vggish/1/saved_model.pb"):
        assert Path(name).exists()
    for name in ("embeddings/deep/music.flac.npz", "all.parquet", "corpus-00003-of-00004.tfrecord", "hops.svg"):
        assert Path(name).exists()
    single, beam = (records_of(Path().glob(f"{name}-*.tfrecord")) for name in ("corpus", "records/corpus"))
    assert single == beam


def records_of(files):
    return {record.video_id: record.embedding.tolist() for file in files for record in vk.records.read(file)}


def test_options_of_beam():
    """No cluster is at hand, but Beam knows them."""
    rows = re.findall(r"^\| (.+) \| `(--.+)` \|$", README, re.MULTILINE)
    assert [where for where, _ in rows] == ["two processes of this machine", "Flink", "Dataflow"]
    known = PipelineOptions([]).get_all_options().keys()
    for where, options in rows:
        parsed = PipelineOptions(options.split()).get_all_options(retain_unknown_options=True)
        assert parsed.keys() == known
        assert parsed["runner"] in (None, f"{where}Runner")

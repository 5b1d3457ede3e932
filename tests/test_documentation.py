"""The examples of the README and the pages, run as they are written, on less data."""

import gc
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from apache_beam.options.pipeline_options import PipelineOptions
from click.testing import CliRunner
from tensorflow import keras

import vggish_keras as vk
from tests import documentation
from tests.conftest import expect_in_cache, make_network_narrow
from tests.documentation import ROOT
from tests.published import run_slim
from tests.serving import Served, rest_server
from vggish_keras.cli import main

# Run by other tests, which find them by their names.
ELSEWHERE = {
    ("README.md", "demo"): ".ci/run",
    ("README.md", "tests"): ".ci/run",
    ("docs/fine_tuning.md", "examples"): "tests/test_examples.py",
}


CORPUS = ("corpus/recording.wav", "corpus/deep/music.flac")


@pytest.fixture
def folder(tmp_path, monkeypatch, slim, pca_in_cache, sounds):
    """The recordings that the examples name, with stand-ins for the published files in the cache."""
    os.link(slim.v1, Path(os.environ["VGGISH_KERAS_HOME"]) / "vggish_model.ckpt")
    expect_in_cache(monkeypatch, "CHECKPOINT")
    soundfile.write(tmp_path / "recording.wav", sounds["rumble"], 16_000)
    soundfile.write(tmp_path / "music.flac", np.stack([sounds["noise"].clip(-1, 1)] * 2, axis=1), 44_100)
    for path in (
        *CORPUS,
        "generated/recording.wav",
        "generated/music.flac",
        *(f"sounds/{label}/{name}" for label in ("birds", "rain") for name in ("recording.wav", "music.flac")),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / Path(path).name, tmp_path / path)
    (tmp_path / "more.txt").write_text("recording.wav\n")
    (tmp_path / "last").touch()
    os.utime(tmp_path / "last", (0, 0))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_has_a_test():
    for page in documentation.PAGES:
        blocks = [block for block in documentation.blocks(page) if block.name]
        names = [block.name for block in blocks]
        assert len(set(names)) == len(names), page
        for block in blocks:
            assert block.language in ("python", "sh"), f"{page}: no test runs {block.language}"
            if file := ELSEWHERE.get((page, block.name)):
                assert re.search(rf"\b{block.name}\b", (ROOT / file).read_text()), f"{file} does not run {block.name}"


def test_readme_is_short():
    assert len(documentation.read("README.md").split()) <= 700


PAGES = [page for page in documentation.PAGES if any(block.name for block in documentation.blocks(page))]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_blocks_of_a_page_run_in_order(page, folder, exported, small_classifier, slim, capsys):
    """From top to bottom, as a reader runs them."""
    if page == "docs/classifiers.md":
        Path("classifier").symlink_to(small_classifier.parent)
        Path("recordings").symlink_to("corpus")
    if page == "docs/beam.md":
        Path("vggish").symlink_to(exported.parent)
    names = {}
    for block in documentation.blocks(page):
        if block.name is None or (page, block.name) in ELSEWHERE:
            continue
        gc.collect()  # the models of commands and of earlier blocks, gigabytes in few objects
        if block.language == "sh":
            for command in block.text.splitlines():
                run(command)
        elif block.name == "request":
            request(block.text, names)
        else:
            exec(shortened(block.text), names)
    CHECKS.get(page, lambda *_: None)(names, capsys.readouterr().out, slim)


@pytest.fixture(scope="module")
def small_classifier(tmp_path_factory):
    """The SavedModel of a classifier on a narrow network."""
    with pytest.MonkeyPatch.context() as patch:
        make_network_narrow(patch)
        vggish = vk.VGGish(None, pooling="avg")
        classifier = keras.Model(vggish.input, keras.layers.Dense(2, activation="softmax")(vggish.output))
    path = tmp_path_factory.mktemp("small") / "classifier" / "1"
    return vk.export_saved_model(classifier, path, class_names=["birds", "rain"])


def shortened(text):
    return re.sub(r"epochs=\d+", "epochs=1", text).replace("batch_size=32", "batch_size=2").replace(": 32,", ": 2,")


def run(command):
    """Runs a command; what is piped into `vggish` as a program of its own."""
    source, _, command = command.rpartition(" | ")
    program, *arguments = shlex.split(command, comments=True)
    if program != "vggish":
        assert program in ("docker", "python", "pip"), command  # tests/test_serving.py runs the clients
        return
    piped = subprocess.run(["bash", "-c", source], check=True, capture_output=True).stdout if source else None
    result = CliRunner().invoke(main, arguments, input=piped)
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


# === What the pages produce ===


def check_readme(names, output, slim):
    assert names["embeddings"].times.tolist() == [0, 0.96, 1.92]
    assert names["training"].class_names == ["birds", "rain"]
    assert names["layer"](np.zeros((4, 32_000), np.float32)).shape == (4, 2, 128)
    for path in ("embeddings/deep/music.flac.npz", "classifier/1", "vggish.onnx", "vggish.tflite"):
        assert Path(path).exists()


def check_embedding(names, output, slim):
    assert names["embeddings"].times.tolist() == [0, 0.96, 1.92]
    assert names["released_form"].dtype == np.uint8
    assert "(8, 128)" in output
    assert "corpus/deep/music.flac (1, 128)" in output
    assert sorted(names["clusters"]) == [0, 1]


def check_getting_started(names, output, slim):
    assert names["embeddings"].values.shape == (3, 128)
    assert set(names["classifier"].classes_) == {"birds", "rain"}
    assert Path("one.csv").exists()


def check_keras_model(names, output, slim):
    assert names["model"](names["clips"]).shape == (4, 2, 128)
    assert names["log_mel"].shape == (4, 3, 96, 64)
    np.testing.assert_allclose(run_slim("vggish.ckpt", slim.examples), slim.embeddings, atol=1e-5)


def check_fine_tuning(names, output, slim):
    assert names["training"].class_names == ["birds", "rain"]
    assert Path("classifier.keras").exists()
    assert Path("labels.csv").exists()
    vggish = names["vggish"]
    network = keras.Model(vggish.get_layer("conv1").input, vggish.get_layer("fc2").output)
    expected = np.asarray(network(slim.examples[..., np.newaxis]))
    assert not np.allclose(expected, slim.embeddings, rtol=0.01)  # it was trained
    got = run_slim("fine_tuned.ckpt", slim.examples)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def check_corpus(names, output, slim):
    assert names["saved"]["values"].shape == (3, 128)
    assert names["rows"].shape == (4, 128)  # of both recordings
    assert Path("embeddings/deep/music.flac.npz").exists()
    assert records_of(Path().glob("corpus-*.tfrecord")).keys() == set(CORPUS)


def check_records(names, output, slim):
    assert [clip.video_id for clip in names["records"]] == ["music", "recording"]
    embedding, labels = next(iter(names["train"]))
    assert embedding.shape == (2, 3, 128)
    assert np.all(np.flatnonzero(labels[0]) == 137)


def check_beam(names, output, slim):
    found = records_of(Path().glob("records/corpus-*.tfrecord"))
    embedder = vk.Embedder("vggish/1", postprocess="quantized")
    assert found == {path: embedder.embed(path).values.tolist() for path in CORPUS}
    assert list(Path("parquet").glob("corpus-*.parquet"))
    assert vk.Statistics.load("records/corpus.npz").recordings == len(CORPUS)


def records_of(files):
    return {record.video_id: record.embedding.tolist() for file in files for record in vk.records.read(file)}


def check_exported_models(names, output, slim):
    assert len(names["hub_classifier"].trainable_variables) == 20
    for path in ("vggish/1/saved_model.pb", "vggish.onnx", "vggish_int8.tflite"):
        assert Path(path).exists()


def check_classifiers(names, output, slim):
    assert names["predictions"].scores.shape == (3, len(names["predictions"].class_names))
    assert Path("labels.csv").exists()


def check_exploring(names, output, slim):
    for path in ("corpus.html", "generated.html"):
        assert "recording.wav" in Path(path).read_text()
    assert Path("similar.csv").read_text().count("\n") == 3


def check_frechet(names, output, slim):
    assert names["result"].value > 0
    assert Path("ranking.csv").exists()


def check_command_line(names, output, slim):
    for path in ("all.csv", "hops.svg", "recording.wav.png", "vggish.weights.h5", "new/recording.wav.npz"):
        assert Path(path).exists()


CHECKS = {
    "README.md": check_readme,
    "docs/beam.md": check_beam,
    "docs/classifiers.md": check_classifiers,
    "docs/command_line.md": check_command_line,
    "docs/corpus.md": check_corpus,
    "docs/embedding.md": check_embedding,
    "docs/exported_models.md": check_exported_models,
    "docs/exploring.md": check_exploring,
    "docs/fine_tuning.md": check_fine_tuning,
    "docs/frechet_audio_distance.md": check_frechet,
    "docs/getting_started.md": check_getting_started,
    "docs/keras_model.md": check_keras_model,
    "docs/records.md": check_records,
}


def test_every_page_with_examples_is_checked():
    assert set(CHECKS) == set(PAGES)


# === Text ===


def test_options_of_beam():
    """Beam knows them."""
    rows = re.findall(r"^\| (.+) \| `(--.+)` \|$", documentation.read("docs/beam.md"), re.MULTILINE)
    assert [where for where, _ in rows] == ["two local processes", "Flink", "Dataflow"]
    known = PipelineOptions([]).get_all_options().keys()
    for where, options in rows:
        parsed = PipelineOptions(options.split()).get_all_options(retain_unknown_options=True)
        assert parsed.keys() == known
        assert parsed["runner"] in (None, f"{where}Runner", "PortableRunner")


def test_messages_of_the_troubleshooting_page_exist():
    """Their literal parts stand in this order in a message of the package."""
    source = "\n".join(path.read_text() for path in (ROOT / "vggish_keras").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # joins literals that are continued
    messages = re.findall(r"^\| `(.+?)` \|", documentation.read("docs/troubleshooting.md"), re.MULTILINE)
    assert len(messages) > 30
    for message in messages:
        message = re.sub(r"\b(PCA|TF|(?<=the )URL)\b", lambda found: found[0].lower(), message)  # no placeholders
        parts = re.split(r"\b[A-Z]+\b", message)
        pattern = r"[^\n]*".join(re.escape(part) for part in parts)
        assert re.search(pattern, source, re.IGNORECASE), message

"""The command `predict`."""

import csv
import functools
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import vggish_keras as vk
from tests.fakes import FakeClassifier, fake_embeddings
from tests.published import assert_close
from tests.test_classifier import per_example, randomized
from tests.without_tensorflow import run_without_tensorflow
from vggish_keras.cli import main

NAMES = ("rain", "Vögel", "wind, gale")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command in an empty folder, in this process; returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    Path("my.keras").touch()

    def run(*arguments):
        result = CliRunner().invoke(main, ["predict", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout_bytes.decode(), result.stderr

    return run


@pytest.fixture
def engine(monkeypatch):
    """The engine of all classifiers, whatever their files are."""
    engine = FakeClassifier(*NAMES)
    monkeypatch.setattr("vggish_keras.classifier.open_classifier", lambda _: engine)
    return engine


@pytest.fixture
def no_model(monkeypatch):
    """Makes loading a classifier fail."""
    monkeypatch.delattr("vggish_keras.classifier.open_classifier")


@pytest.fixture
def recordings(tmp_path, sounds):
    """Two recordings, their samples, and one that fails after some of its examples were read."""
    samples = {"first.wav": sounds["noise"], "söme [bold], fíle.wav": np.tile(sounds["rumble"], 20)}
    for name, waveform in samples.items():
        soundfile.write(tmp_path / name, waveform, 16_000, "FLOAT")
    soundfile.write(tmp_path / "cut.flac", np.tile(sounds["noise"].clip(-1, 1), 20), 16_000)
    whole = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    return samples


def rows(text):
    header, *found = csv.reader(io.StringIO(text, newline=""))
    assert header == ["file", "time", "label", "score"]
    return found


def assert_rows(found, name, waveform, top=3, hop_seconds=0.96):
    """Checks the rows of a recording against an independent front end."""
    expected = fake_embeddings(waveform, hop_seconds)[:, :3]
    assert {row[0] for row in found} == {name}
    times = np.array([float(row[1]) for row in found]).reshape(-1, top)
    np.testing.assert_allclose(times, np.repeat(hop_seconds * np.arange(len(expected)), top).reshape(-1, top))
    order = np.argsort(-expected, axis=1)[:, :top]
    assert [row[2] for row in found] == [NAMES[index] for index in order.ravel()]
    scores = np.array([float(row[3]) for row in found]).reshape(-1, top)
    assert_close(scores, np.take_along_axis(expected, order, axis=1))


@pytest.mark.usefixtures("engine")
def test_tables_show_the_best_mean_scores(run, recordings):
    status, output, errors = run("my.keras", *recordings, "--top", 2)
    assert (status, errors) == (0, "")
    for (name, waveform), table in zip(recordings.items(), output.split("mean scores of ")[1:], strict=True):
        scores = fake_embeddings(waveform)[:, :3]
        assert f"{name}: mean scores of {len(scores)} examples\n" in output
        means = scores.mean(axis=0)
        lines = [line for line in table.splitlines() if any(label in line for label in NAMES)]
        assert len(lines) == 2
        for line, index in zip(lines, np.argsort(-means), strict=False):
            assert NAMES[index] in line
            assert float(line.split("│")[2]) == pytest.approx(means[index], rel=0.01)


@pytest.mark.usefixtures("engine")
def test_csv_has_the_best_labels_of_each_example(run, recordings):
    status, output, errors = run("my.keras", *recordings, "-o", "out.csv", "--top", 2)
    assert (status, errors) == (0, "")
    assert output.startswith("out.csv: labels of 2 files, 0:01:03 of audio in ")
    text = Path("out.csv").read_bytes().decode()
    found = rows(text)
    first = 2 * len(fake_embeddings(recordings["first.wav"]))
    for (name, waveform), part in zip(recordings.items(), (found[:first], found[first:]), strict=True):
        assert_rows(part, name, waveform, top=2)
    assert run("my.keras", *recordings, "-o", "-", "--top", 2) == (0, text, "")
    assert run("my.keras", *recordings, "-o", "quiet.csv", "--top", 2, "--quiet") == (0, "", "")
    assert Path("quiet.csv").read_bytes().decode() == text


@pytest.mark.usefixtures("engine", "recordings")
def test_suffix_in_capitals(run):
    status, printed, errors = run("my.keras", "first.wav", "-o", "X.CSV", "-q")
    assert (status, printed, errors) == (0, "", "")
    assert Path("X.CSV").read_bytes().startswith(b"file,time,label,score\r\n")


@pytest.mark.usefixtures("engine")
def test_options_of_embed(run, recordings, sounds):
    stereo = np.stack([np.zeros(48_000, np.float32), sounds["noise"]], axis=1)
    soundfile.write("stereo.wav", stereo, 16_000, "FLOAT")
    options = ("--hop", 0.5, "--padding", "valid", "--channels", 1, "--batch-size", 2, "--top", 99, "-o", "-")
    status, output, _ = run("my.keras", "stereo.wav", *options)
    assert status == 0
    assert_rows(rows(output), "stereo.wav", sounds["noise"], top=3, hop_seconds=0.5)


def test_class_names_are_read_from_a_file(run, engine, recordings):
    Path("names.txt").write_text("\ufeffa\nb c\nd\n", encoding="utf-8")
    status, output, _ = run("my.keras", "first.wav", "-o", "-", "--class-names", "names.txt")
    assert status == 0
    assert {row[2] for row in rows(output)} == {"a", "b c", "d"}
    for text, message in (
        ("a\nb\n", "expected 3 distinct class names, one per score of the model, got ['a', 'b']"),
        ("a\nb\n\n", "a class name must be a single line of text, got ''"),
    ):
        Path("names.txt").write_text(text)
        status, output, errors = run("my.keras", "first.wav", "-o", "-", "--class-names", "names.txt")
        assert (status, output, errors) == (1, "", f"Error: {message}\n")
    Path("names.txt").write_bytes(b"\xff\n")
    message = "Error: names.txt is not a text file in UTF-8, expected one class name per line\n"
    assert run("my.keras", "first.wav", "--class-names", "names.txt") == (1, "", message)


@pytest.mark.usefixtures("engine")
def test_invalid_files_are_skipped(run, recordings):
    """A file has no rows of a recording that fails; standard output has those that were written before."""
    Path("text.wav").write_text("no audio")
    paths = ("text.wav", "first.wav", "cut.flac", "missing.wav", "first.wav.txt", list(recordings)[1])
    status, output, errors = run("my.keras", *paths, "-o", "out.csv")
    assert status == 1
    assert output.startswith("out.csv: labels of 2 files, ")
    assert output.endswith(" times real time, 4 failed\n")
    lines = errors.splitlines()
    assert [line.startswith("Error: ") for line in lines] == [True] * 4
    assert "text.wav cannot be read as audio" in lines[0]
    assert "cut.flac is damaged after" in lines[1]
    assert lines[2] == "Error: no audio file at missing.wav"
    found = rows(Path("out.csv").read_bytes().decode())
    assert list(dict.fromkeys(row[0] for row in found)) == list(recordings)
    for name, waveform in recordings.items():
        assert_rows([row for row in found if row[0] == name], name, waveform)
    status, output, errors = run("my.keras", *paths, "-o", "-")
    assert (status, errors.splitlines()) == (1, lines)
    printed = rows(output)
    assert [row for row in printed if row[0] != "cut.flac"] == found
    assert len(printed) > len(found)
    status, output, errors = run("my.keras", *paths)
    assert (status, errors.splitlines()) == (1, lines)
    assert output.count("mean scores of") == 2


@pytest.mark.usefixtures("engine")
def test_recordings_without_examples_are_reported(run):
    soundfile.write("short.wav", np.zeros(100), 16_000)
    message = "short.wav: shorter than an example (0.975 s), no labels; use --padding short\n"
    assert run("my.keras", "short.wav", "--padding", "valid") == (0, "", message)
    status, output, errors = run("my.keras", "short.wav", "--padding", "valid", "-o", "-")
    assert (status, rows(output), errors) == (0, [], message)


@pytest.mark.usefixtures("engine")
def test_left_out_files_are_counted(run, recordings):
    Path("folder").mkdir()
    Path("first.wav").rename("folder/first.wav")
    Path("folder/notes.txt").touch()
    status, output, errors = run("my.keras", "folder", "-o", "out.csv")
    assert (status, errors) == (0, "")
    assert output.endswith("times real time, left out: 1 .txt\n")
    assert run("my.keras", "folder")[2] == "left out: 1 .txt\n"


@pytest.mark.usefixtures("engine")
def test_existing_output_is_only_replaced_with_overwrite(run, recordings, monkeypatch):
    Path("out.csv").write_text("old")
    with monkeypatch.context() as patch:
        patch.delattr("vggish_keras.classifier.open_classifier")
        message = "Error: out.csv already exists: use --overwrite to replace it\n"
        assert run("my.keras", "first.wav", "-o", "out.csv") == (1, "", message)
    assert run("my.keras", "cut.flac", "-o", "out.csv", "--overwrite")[0] == 1
    assert Path("out.csv").read_text() == "old"  # nothing replaces it
    assert run("my.keras", "first.wav", "-o", "out.csv", "--overwrite")[0] == 0
    assert_rows(rows(Path("out.csv").read_bytes().decode()), "first.wav", recordings["first.wav"])
    assert not list(Path().glob(".*"))


def test_interrupted_run_leaves_no_output(run, engine, recordings, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeClassifier, "__call__", interrupt)
    assert run("my.keras", "first.wav", "-o", "out.csv")[0] == 130
    assert not list(Path().glob("*.csv"))
    assert not list(Path().glob(".*"))


def test_rows_are_written_as_they_come(run, recordings, monkeypatch):
    written = []

    class Watching(FakeClassifier):
        def __call__(self, segments, output):
            written.append(sys.stdout.buffer.getvalue().count(b"\n"))
            return super().__call__(segments, output)

    engine = Watching(*NAMES)
    monkeypatch.setattr("vggish_keras.classifier.open_classifier", lambda _: engine)
    status, output, _ = run("my.keras", list(recordings)[1], "-o", "-", "--batch-size", 10, "--top", 1)
    assert status == 0
    assert written == [1, 11, 21, 31, 41, 51, 61]
    assert output.count("\n") == 1 + len(fake_embeddings(recordings[list(recordings)[1]]))


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["my.keras"], 2, "no inputs given"),
        (["my.keras", "none*.wav"], 2, "no file matches none*.wav"),
        (["my.keras", "a.wav", "b.wav"], 1, "Error: no audio file at a.wav\nError: no audio file at b.wav\n"),
        (["none.keras", "first.wav"], 1, "Error: no classifier at none.keras: expected a .keras model built on VGGish"),
        (["audioset", "first.wav"], 1, "Error: no classifier at audioset: expected a .keras model built on VGGish"),
        (["first.wav", "first.wav"], 1, "Error: first.wav is not a classifier: expected a .keras model"),
        (
            ["my.keras", "first.wav", "-o", "out.txt"],
            2,
            "expected a .csv file in an existing folder, or - for standard",
        ),
        (["my.keras", "first.wav", "-o", "none/out.csv"], 2, "standard output, got none/out.csv"),
        (["my.keras", "first.wav", "--top", "0"], 2, "0 is not in the range x>=1"),
        (["my.keras", "first.wav", "--class-names", "none.txt"], 2, "File 'none.txt' does not exist"),
    ],
)
def test_wrong_arguments_are_reported_before_the_classifier_is_loaded(run, recordings, arguments, status, message):
    got, output, errors = run(*arguments)
    assert (got, output) == (status, "")
    assert message in errors


EXPORTS = {
    ".keras": lambda model, path: model.save(path),
    "": functools.partial(vk.export_saved_model, class_names=NAMES),
    ".onnx": functools.partial(vk.export_onnx, class_names=NAMES),
    ".tflite": functools.partial(vk.export_litert, class_names=NAMES),
}


@pytest.fixture(params=EXPORTS)
def classifier_file(request, run, narrow_network):
    """A classifier of 3 classes in each format, in the current folder, and its Keras model."""
    model = randomized(per_example())
    path = Path(f"classifier{request.param}")
    EXPORTS[request.param](model, path)
    return path, model


@pytest.mark.keras
def test_labels_are_those_of_the_model(run, classifier_file, recordings):
    path, model = classifier_file
    Path("names.txt").write_text("\n".join(NAMES))
    names = ["--class-names", "names.txt"] if path.suffix == ".keras" else []
    status, output, errors = run(path, "first.wav", "-o", "-", *names)
    assert (status, errors) == (0, "")
    expected = model.predict(recordings["first.wav"][np.newaxis], verbose=0)[0]
    found = rows(output)
    assert [row[1] for row in found[::3]] == ["0.00", "0.96", "1.92"]
    assert [row[2] for row in found] == [NAMES[index] for index in np.argsort(-expected, axis=1).ravel()]
    assert_close([float(row[3]) for row in found], -np.sort(-expected, axis=1).ravel())


@pytest.mark.parametrize("classifier_file", [".onnx", ".tflite"], indirect=True)
def test_onnx_and_litert_classifiers_run_without_tensorflow(run, classifier_file, recordings):
    path, _ = classifier_file
    output = run_without_tensorflow("predict", path, "first.wav", "-o", "-", folder=".")
    assert output == run(path, "first.wav", "-o", "-")[1]


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
def test_onnx_and_litert_files_without_scores_are_reported(run, suffix, recordings, narrow_network):
    path = f"x{suffix}"
    {".onnx": vk.export_onnx, ".tflite": vk.export_litert}[suffix](vk.VGGish(None), path)
    message = f"Error: {path} computes no scores, only embedding: export it with class_names\n"
    assert run(path, "first.wav") == (1, "", message)

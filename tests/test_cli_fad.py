"""The command `fad`, and `show` of the statistics that it saves. Only recordings need TensorFlow."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import vggish_keras as vk
from tests.conftest import quickest
from tests.fakes import FakeEngine
from vggish_keras import embedding_files
from vggish_keras.cli import main

OPTIONS = {"weights": "sha256:0", "hop_seconds": 0.96, "padding": "short", "postprocess": None, "channels": "mix"}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(main, ["fad", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def write(path, seed, mean=0.0, count=20, options=OPTIONS):
    rng = np.random.default_rng(seed)
    shape = (10, 128)
    recordings = [(f"{seed}/{index}.wav", rng.normal(mean, 1, shape).astype(np.float32)) for index in range(count)]
    named = [(name, vk.Embeddings(0.96 * np.arange(10), rows)) for name, rows in recordings]
    embedding_files.write(path, named, options)
    return dict(recordings)


@pytest.fixture
def sets(tmp_path):
    return write(tmp_path / "a.npz", 0), write(tmp_path / "b.csv", 1, 0.1)


def test_result_is_on_standard_output_and_warnings_are_not(run, sets):
    expected = vk.fad(*sets)
    status, output, errors = run("a.npz", "b.csv")
    low, high = expected.interval
    assert status == 0
    assert output.splitlines() == [
        f"FAD (VGGish) {expected.value:.4g}   corrected {expected.corrected:.4g} +- {expected.standard_error:.2g} "
        f"(95%: {low:.4g} to {high:.4g})",
        "baseline     200 embeddings of 20 recordings   a.npz",
        "evaluated    200 embeddings of 20 recordings   b.csv",
    ]
    assert errors.splitlines() == [f"Warning: {warning}" for warning in expected.warnings]
    assert len(expected.warnings) == 3


def test_several_sets_kernel_distance_and_json(run, tmp_path, sets):
    write(tmp_path / "c.npz", 2, 0.2, options={**OPTIONS, "hop_seconds": 0.5})
    status, output, errors = run("a.npz", "b.csv", "c.npz", "--json", "--kad", "--bandwidth", "evaluated")
    first, second = map(json.loads, output.splitlines())
    assert status == 0
    assert first["value"] == pytest.approx(vk.fad(*sets).value, rel=1e-12)
    rows = [np.concatenate(list(recordings.values())) for recordings in sets]
    assert first["kad"] == pytest.approx(vk.kad(*rows, "evaluated")._asdict(), rel=1e-9)
    assert second["evaluated"] == {"n": 200, "recordings": 20, "options": {**OPTIONS, "hop_seconds": 0.5}}
    assert "Warning: c.npz: the baseline was made with hop_seconds 0.96" in errors


def test_saved_statistics_are_compared_and_shown(run, sets):
    assert run("a.npz", "--save", "s.npz") == (0, "wrote s.npz\n", "")
    assert run("s.npz", "b.csv")[1].splitlines()[0] == run("a.npz", "b.csv")[1].splitlines()[0]
    show = CliRunner().invoke(main, ["show", "s.npz"]).stdout
    assert show.splitlines()[:2] == ["s.npz: statistics of 200 embeddings of 20 recordings", "weights: sha256:0"]
    shown = json.loads(CliRunner().invoke(main, ["show", "s.npz", "--json"]).stdout)
    assert shown == {"path": "s.npz", "n": 200, "recordings": 20, "options": OPTIONS}
    assert run("a.npz", "--save", "s.tfrecord")[0] == 0
    show = CliRunner().invoke(main, ["show", "s.tfrecord"]).stdout
    assert show.startswith("s.tfrecord: statistics of 200 embeddings")


def test_ranking(run, sets):
    status, _, errors = run("a.npz", "b.csv", "--per-recording", "r.csv")
    assert (status, errors.splitlines()[-1]) == (0, "wrote r.csv")
    with open("r.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    expected = vk.fad_per_recording(*sets)
    assert [row["recording"] for row in rows] == [row.recording for row in expected]
    assert [float(row["influence"]) for row in rows] == pytest.approx([row.influence for row in expected], rel=1e-6)
    assert [float(row["fad"]) for row in rows] == pytest.approx([row.fad for row in expected], rel=1e-6)
    assert {row["examples"] for row in rows} == {"10"}


def test_missing_matplotlib_is_reported_before_anything_is_read(run, sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, output, errors = run("a.npz", "missing.csv", "--plot", "x.png")
    assert (status, output) == (1, "")
    assert 'plotting requires matplotlib: pip install "vggish[plot]"' in errors


def test_plot(run, sets, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn, save = [], figure.savefig
    monkeypatch.setattr(
        figure, "savefig", lambda self, *args, **options: drawn.append(self) or save(self, *args, **options)
    )
    status, output, _ = run("a.npz", "b.csv", "--plot", "fad.png")
    assert status == 0
    assert Path("fad.png").stat().st_size > 10_000
    (figure,) = drawn
    sizes, planes, bars = figure.axes
    assert figure.get_suptitle() == output.splitlines()[0]
    subsets, line, level, *_ = sizes.lines
    expected = vk.fad(*sets)
    assert list(level.get_ydata()) == [expected.value] * 2
    assert subsets.get_xdata()[-1] == pytest.approx(1 / 200)
    assert subsets.get_ydata()[-1] == pytest.approx(expected.value, rel=1e-10)
    assert line.get_ydata()[0] < line.get_ydata()[1]
    baseline, evaluated = (np.concatenate(list(recordings.values())).astype(float) for recordings in sets)
    axis = np.linalg.eigh(np.cov(baseline.T))[1][:, -1]
    expected_points = (evaluated - baseline.mean(axis=0)) @ axis
    points = planes.lines[1].get_xdata()
    assert np.abs(points) == pytest.approx(np.abs(expected_points), abs=1e-6)
    widths = [bar.get_width() for bar in bars.patches][::-1]
    assert widths == pytest.approx([row.influence for row in vk.fad_per_recording(*sets)][:20], rel=1e-6)
    # Statistics and rows without names have less to show.
    run("a.npz", "--save", "s.npz")
    np.save("c.npy", evaluated)
    assert run("s.npz", "c.npy", "--plot", "fad.svg")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["a.npz", "b.csv", "--plot", "x.bmp"], 2, "--plot requires a single EVALUATED set and a .png or .svg file"),
        (["a.npz"], 2, "name a set to evaluate, or save the statistics of BASELINE with --save"),
        (["a.npz", "--save", "s.csv"], 2, "expected an .npz or .tfrecord file for statistics, got s.csv"),
        (["a.npz", "b.csv", "b.csv", "--per-recording", "r.csv"], 2, "requires a single EVALUATED set"),
        (["a.npz", "b.csv", "--per-recording", "r.txt"], 2, "requires a single EVALUATED set and a .csv file"),
        (["a.npz", "b.csv", "--like", "google", "--hop", "0.5"], 2, "--like sets --hop: leave it out"),
        (["a.npz", "b.csv", "--bandwidth", "3"], 2, "--bandwidth requires --kad"),
        (["a.npz", "b.csv", "--kad", "--bandwidth", "x"], 2, 'a positive number, "reference" or "evaluated", got x'),
        (["a.npz", "b.csv", "--kad", "--bandwidth", "-1"], 2, "expected a positive number"),
        (["a.npz", "b.csv", "--kad", "--bandwidth", "nan"], 2, "expected a positive number"),
        (["s.npz", "missing/", "--kad"], 1, "no file or folder at missing"),
        (["s.npz", "b.csv", "--kad"], 1, "s.npz holds statistics, expected embeddings or recordings"),
        (["a.npz", "s.npz", "--per-recording", "r.csv"], 1, "s.npz holds statistics"),
        (["a.npz", "s.npz", "--plot", "x.png"], 1, "s.npz holds statistics"),
        (["a.npz", "b.csv", "--relu", "--postprocess", "pca"], 2, "relu requires raw embeddings"),
        (["a.npz", "b.csv", "--cache", "c", "--level", "peak"], 2, "it excludes level and like"),
        (["a.npz", "b.csv", "--pca", "a.npz"], 2, "--pca requires --postprocess"),
        (["a.npz", "missing.csv"], 1, "missing.csv does not exist"),
        (["a.npz", "missing.npz"], 1, "no .npz file at missing.npz"),
    ],
)
@pytest.mark.usefixtures("sets")
def test_wrong_arguments(run, arguments, status, message):
    run("a.npz", "--save", "s.npz")
    got, output, errors = run(*arguments)
    assert (got, output) == (status, "")
    assert message in " ".join(errors.split())


# === Recordings ===


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Three recordings, one of them damaged; all runs use a quick engine."""
    from vggish_keras.embedder import Embedder

    engine = FakeEngine()

    def fake(weights=None, pca_params=None, dtype=None, **options):
        return Embedder(engine, **options)

    monkeypatch.setattr("vggish_keras.embedder.Embedder", fake)
    folder = tmp_path / "corpus"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        soundfile.write(folder / f"{index}.wav", 0.1 * rng.normal(size=40_000), 16_000, subtype="FLOAT")
    (folder / "bad.wav").write_text("no audio")
    return folder


@pytest.mark.usefixtures("sets")
def test_a_recording_that_fails_is_reported_and_the_rest_compared(run, corpus):
    status, output, errors = run("a.npz", "corpus", "--kad", "--weights", "fake")
    assert status == 1  # different weights
    assert "the evaluated set with weights fake" in errors
    status, output, errors = run("corpus", "corpus", "--quiet")
    assert status == 1
    assert "4 embeddings of 2 recordings" in output
    assert errors.count("Error: corpus/bad.wav cannot be read as audio") == 2
    assert "could not be read" not in errors


def test_ranking_lists_recordings_that_fail(run, corpus):
    assert run("corpus", "corpus", "--per-recording", "r.csv", "--quiet")[0] == 1
    with open("r.csv", newline="") as file:
        assert sorted(row["recording"] for row in csv.DictReader(file)) == ["0.wav", "1.wav"]
    with open("r.csv.failures.csv", newline="") as file:
        (failure,) = csv.DictReader(file)
    assert failure["file"] == "bad.wav"
    assert failure["reason"].startswith("corpus/bad.wav cannot be read as audio")
    (corpus / "bad.wav").unlink()
    assert run("corpus", "corpus", "--per-recording", "r.csv", "--quiet")[0] == 0
    assert not Path("r.csv.failures.csv").exists()


@pytest.mark.usefixtures("sets")
def test_cache_resumes(run, corpus):
    first = run("corpus", "--save", "s.npz", "--cache", "cache", "--quiet")
    assert first[0] == 1
    files = {file: file.stat().st_mtime_ns for file in Path("cache").rglob("*.npz")}
    assert sorted(file.name for file in files) == ["0.wav.npz", "1.wav.npz"]
    assert run("corpus", "--save", "t.npz", "--cache", "cache", "--quiet")[0] == 1
    assert {file: file.stat().st_mtime_ns for file in Path("cache").rglob("*.npz")} == files
    np.testing.assert_array_equal(vk.Statistics.load("s.npz").covariance, vk.Statistics.load("t.npz").covariance)
    assert run("corpus", "--save", "u.npz", "--quiet")[0] == 1
    assert vk.Statistics.load("u.npz").options == vk.Statistics.load("s.npz").options


@pytest.mark.usefixtures("sets")
def test_cache_holds_embeddings_of_different_options(run, corpus):
    (corpus / "bad.wav").unlink()
    for hop in ("0.5", "0.96"):
        assert run("corpus", "--save", "s.npz", "--cache", "cache", "--hop", hop, "--quiet")[0] == 0
        assert vk.Statistics.load("s.npz").options["hop_seconds"] == float(hop)
    assert len(list(Path("cache").rglob("0.wav.npz"))) == 2


@pytest.mark.usefixtures("sets")
def test_cache_forgets_recordings_that_change(run, corpus):
    (corpus / "bad.wav").unlink()

    def statistics(*options):
        assert run("corpus", "--save", "s.npz", "--quiet", *options)[0] == 0
        return vk.Statistics.load("s.npz")

    statistics("--cache", "cache")
    kept = next(Path("cache").rglob("1.wav.npz")).stat().st_mtime_ns
    before = (corpus / "0.wav").stat()
    soundfile.write(corpus / "0.wav", np.random.default_rng(5).normal(size=40_000), 16_000, subtype="FLOAT")
    os.utime(corpus / "0.wav", ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))  # replaced by an older file
    np.testing.assert_array_equal(statistics("--cache", "cache").mean, statistics().mean)
    assert next(Path("cache").rglob("1.wav.npz")).stat().st_mtime_ns == kept


def test_inputs_are_not_replaced(run, tmp_path):
    for name in ("a.npz", "b.csv"):
        write(tmp_path / name, 0)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for options in (["--save", "a.npz"], ["--save", "./a.npz", "b.csv"], ["b.csv", "--per-recording", "b.csv"]):
        status, _, errors = run("a.npz", *options)
        assert (status, "is an input: choose a different output" in errors) == (2, True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.timing
def test_saved_sets_are_compared_at_once(tmp_path):
    for index in range(2):
        write(tmp_path / f"{index}.npz", index, 0.1 * index, count=1_000)
    command = [Path(sys.executable).with_name("vggish"), "fad", "0.npz", "1.npz"]

    def run():
        output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
        assert output.startswith(b"FAD (VGGish) ")

    assert quickest(run) <= 0.5

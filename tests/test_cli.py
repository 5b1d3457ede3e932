import csv
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import vggish_keras as vk
from tests.fakes import FakeEngine
from tests.published import assert_close
from vggish_keras import embedding_files, params, published_files
from vggish_keras._errors import counted
from vggish_keras.cli import main
from vggish_keras.cli.streams import StandardOutput
from vggish_keras.cli.tables import print_scores
from vggish_keras.engines import open_engine


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command in an empty folder, in this process; returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, input=None):
        result = CliRunner().invoke(main, list(map(str, arguments)), input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert ("Traceback" in result.stderr) == ("--debug" in arguments)
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def one_embedder(monkeypatch, embedder):
    """All commands use the session's embedder, regardless of their options."""
    monkeypatch.setattr("vggish_keras.embedder.Embedder", lambda *_, **__: embedder)


@pytest.fixture
def recordings(tmp_path, sounds):
    """Two valid recordings, one of them with an unusual name."""
    paths = [tmp_path / "first.wav", tmp_path / "söme [bold]fíle.flac"]
    soundfile.write(paths[0], sounds["noise"].clip(-1, 1), 16_000)
    soundfile.write(paths[1], np.stack([sounds["rumble"]] * 2, axis=1), 44_100)
    return paths


# === embed ===


@pytest.mark.usefixtures("one_embedder")
def test_embed_prints_a_table(run, recordings, embedder):
    status, output, errors = run("embed", *recordings)
    assert (status, errors) == (0, "")
    for path in recordings:
        expected = embedder.embed(path)
        count = len(expected.times)
        assert f"{path}: {count} embedding{'s' * (count != 1)} of 128 values\n" in output
        for seconds, values in zip(*expected, strict=True):
            assert any(f"{seconds:.2f}" in line and f"{values[0]:.3g}" in line for line in output.splitlines())


@pytest.mark.usefixtures("one_embedder")
def test_embed_writes_npz(run, tmp_path, recordings, embedder):
    expected = [embedder.embed(path) for path in recordings]
    status, output, errors = run("embed", recordings[0], "-o", "one.npz")
    assert (status, errors) == (0, "")
    assert re.fullmatch(
        r"one\.npz: 3 embeddings of 1 file, 0:00:0\d of audio in 0:00:\d\d, [\d.]+ times real time\n", output
    )
    with np.load(tmp_path / "one.npz") as file:
        assert sorted(file) == ["files", "options", "times", "values"]
        np.testing.assert_array_equal(file["times"], expected[0].times)
        assert_close(file["values"], expected[0].values, 1e-5)
    assert run("embed", *recordings, "-o", "two.npz")[0] == 0
    with np.load(tmp_path / "two.npz") as file:
        names = [str(path) for path, part in zip(recordings, expected, strict=True) for _ in part.times]
        assert file["files"].tolist() == names
        assert_close(file["values"], np.concatenate([part.values for part in expected]), 1e-5)


@pytest.mark.usefixtures("one_embedder")
def test_embed_writes_csv(run, tmp_path, recordings, embedder):
    assert run("embed", *recordings, "-o", "all.csv")[0] == 0
    with (tmp_path / "all.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["file", "time", *(f"embedding_{index}" for index in range(128))]
    expected = [embedder.embed(path) for path in recordings]
    assert [row[0] for row in rows] == [
        str(p) for p, part in zip(recordings, expected, strict=True) for _ in part.times
    ]
    np.testing.assert_allclose([float(row[1]) for row in rows], np.concatenate([part.times for part in expected]))
    values = np.array([row[2:] for row in rows], np.float32)
    assert_close(values, np.concatenate([part.values for part in expected]), 1e-5)


@pytest.mark.usefixtures("one_embedder")
def test_invalid_file_does_not_affect_others(run, tmp_path, recordings):
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    status, output, errors = run("embed", bad, recordings[0], tmp_path / "missing.wav", "-o", "out.npz")
    assert status == 1
    assert output.startswith("out.npz: 3 embeddings of 1 file, ")
    assert output.endswith(
        ", 2 failed\n"
        "out.npz.unfinished is kept because 2 recordings failed: retry with --resume, or finish without the failed "
        "recordings with --resume --accept-failures\n"
    )
    lines = errors.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"Error: {bad} cannot be read as audio")
    assert lines[1] == f"Error: no audio file at {tmp_path / 'missing.wav'}"
    assert len(np.load(tmp_path / "out.npz")["times"]) == 3
    with (tmp_path / "out.npz.failures.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [str(bad), str(tmp_path / "missing.wav")]
    assert run("embed", bad, "-o", "none.npz")[0] == 1
    assert not (tmp_path / "none.npz").exists()


def complete_message(output):
    return f"{output} is complete and was left unchanged; --overwrite embeds the inputs again\n"


@pytest.mark.usefixtures("one_embedder")
def test_failures_are_accepted(run, recordings, monkeypatch):
    Path("bad.wav").write_text("no audio")
    status, output, errors = run("embed", "bad.wav", recordings[0], "-o", "out.npz", "--accept-failures")
    assert (status, errors.count("\n")) == (0, 1)
    assert output.endswith(", 1 failed\n")
    assert Path("out.npz.failures.csv").exists()
    assert run("embed", "bad.wav", recordings[0], "-o", "later.npz")[0] == 1
    assert Path("later.npz.unfinished").exists()
    monkeypatch.delattr("vggish_keras.embedder.Embedder")  # needs none
    assert run("embed", "bad.wav", "-o", "none.npz", "--accept-failures")[0] == 1
    options = ("-o", "later.npz", "--resume", "--accept-failures")
    expected = "later.npz is complete without the 1 recording that failed\n"
    assert run("embed", "bad.wav", recordings[0], *options) == (0, expected, "")
    assert run("embed", "bad.wav", recordings[0], *options) == (0, complete_message("later.npz"), "")
    assert not Path("later.npz.unfinished").exists()


@pytest.mark.parametrize("output", ["out/", "out.npz"])
@pytest.mark.usefixtures("one_embedder")
def test_existing_output_is_only_replaced_with_overwrite(run, recordings, output, monkeypatch):
    assert run("embed", *recordings, "-o", output)[0] == 0
    with monkeypatch.context() as patch:
        patch.delattr("vggish_keras.embedder.Embedder")
        status, printed, errors = run("embed", *recordings, "-o", output)
    found = "out already contains embeddings of 2 of the recordings" if output == "out/" else "out.npz already exists"
    assert (status, printed) == (1, "")
    assert errors == f"Error: {found}: use --resume to keep its embeddings, or --overwrite to replace them\n"
    status, printed, errors = run("embed", *recordings, "-o", output, "--overwrite")
    assert (status, errors) == (0, "")
    assert " 4 embeddings of 2 files, " in printed


def test_missing_inputs_are_reported_before_anything_is_loaded(tmp_path, time_limit):
    code = """
import sys
from vggish_keras.cli import main
from vggish_keras.cli.streams import StandardOutput
try:
    main(["embed", *sys.argv[1:]])
finally:
    assert "tensorflow" not in sys.modules
"""
    for options in ([], ["-o", "out/"], ["-o", "out.csv", "--resume"]):
        arguments = [sys.executable, "-c", code, "first.wav", "second.wav", *options]
        start = time.monotonic()
        result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert time.monotonic() - start < time_limit(2)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr == "Error: no audio file at first.wav\nError: no audio file at second.wav\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("one_embedder")
def test_deleted_recordings_are_skipped_by_a_resumed_run(run, recordings):
    assert run("embed", recordings[0], "-o", "out/")[0] == 0
    recordings[0].unlink()
    status, output, errors = run("embed", recordings[0], "-o", "out/", "--resume")
    assert (status, errors) == (0, "")
    assert output.endswith(", 1 already done\n")


@pytest.mark.usefixtures("one_embedder")
def test_interrupted_run_reports_how_to_resume(run, recordings, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vggish_keras.cli.progress.Progress.file", interrupt)  # after the first
    status, output, errors = run("embed", *recordings, "-o", "out.npz")
    assert (status, output) == (130, "")
    assert re.fullmatch(r"Interrupted: 0 of 2 files saved \(0:00:00 of audio\); continue with --resume\.\n", errors)
    assert not Path("out.npz").exists()
    monkeypatch.undo()


COMMAND = Path(sys.executable).with_name("vggish")


def test_ctrl_c_stops_at_once(time_limit, run, tmp_path, recordings, slim):
    """Sends the signal to a separate process that is embedding an hour of audio."""
    with soundfile.SoundFile(tmp_path / "hour.wav", "w", 16_000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(960_000))
    arguments = ["embed", recordings[0], "hour.wav", "-o", "out", "--weights", slim.v2, "--batch-size", "4"]
    process = subprocess.Popen([COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "out" / "first.wav.npz").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=time_limit(5))
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("Interrupted: 1 of 2 files saved (0:00:0")
    assert "Traceback" not in errors
    assert {file.name for file in (tmp_path / "out").iterdir()} == {".vggish.lock", "first.wav.npz", "vggish.json"}


@pytest.mark.usefixtures("run")
def test_embed_in_bfloat16(recordings, slim):
    """In a separate process, which keeps the layout of the weights from its first batch on."""
    options = ("--weights", slim.v2, "--dtype", "bfloat16", "--batch-size", "2")
    subprocess.run([COMMAND, "embed", *recordings, "-o", "out.npz", *options], check=True)
    embedder = vk.Embedder(slim.v1, batch_size=2, dtype="bfloat16")
    with np.load("out.npz") as file:
        assert_close(file["values"], np.concatenate([embedder.embed(path).values for path in recordings]), 0.01)


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_ends_a_decoder_that_never_returns(time_limit, run, tmp_path, recordings, slim, signals):
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "soundfile.py").write_text("import time\ndef SoundFile(*_, **__): time.sleep(1_000)\n")
    soundfile.write(tmp_path / "hangs.voc", np.zeros(100), 16_000)
    arguments = ["embed", recordings[1], tmp_path / "hangs.voc", "-o", "out", "--weights", slim.v2, "--batch-size", "1"]
    process = subprocess.Popen(
        [COMMAND, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(modules), *sys.path])},
    )
    while not (tmp_path / "out" / f"{recordings[1].name}.npz").exists():  # FLAC, which soundfile does not read
        assert process.poll() is None
        time.sleep(0.02)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=time_limit(10))
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.usefixtures("one_embedder")
def test_embed_counts_other_files_in_folders(run, tmp_path, recordings):
    folder = tmp_path / "corpus"
    folder.mkdir()
    recordings[0].rename(folder / "x.wav")
    for name in ("a.txt", "b.txt", "c.pdf"):
        (folder / name).touch()
    status, output, errors = run("embed", folder, "-o", "out.npz")
    assert (status, errors) == (0, "")
    assert output.endswith(" times real time, left out: 2 .txt, 1 .pdf\n")
    assert run("embed", folder)[2] == "left out: 2 .txt, 1 .pdf\n"
    assert run("embed", folder, "-o", "out2.npz", "--quiet") == (0, "", "")


@pytest.mark.usefixtures("one_embedder")
def test_output_folder_is_not_searched(run, recordings):
    for options in ([], ["--resume"]):
        status, output, _ = run("embed", ".", "-o", "made/", *options)
        assert status == 0
        assert "left out" not in output


def test_embed_selects_a_channel(run, tmp_path, slim, sounds):
    noise, sine = sounds["noise"].clip(-1, 1), sounds["sine"]
    soundfile.write(tmp_path / "stereo.wav", np.stack([noise, sine], axis=1), 16_000, subtype="FLOAT")
    options = ["embed", "stereo.wav", "--weights", slim.v2]
    assert run(*options, "--channels", "1", "-o", "one/")[0] == 0
    expected = vk.embed(sine, 16_000, weights=slim.v2).values
    np.testing.assert_allclose(np.load("one/stereo.wav.npz")["values"], expected, atol=1e-4)
    status, _, errors = run(*options, "-o", "one/", "--resume")
    assert status == 1
    assert "was started with channels 1, but this run has channels mix: choose a different output" in errors
    status, _, errors = run(*options, "--channels", "2")
    assert (status, errors) == (
        1,
        "Error: stereo.wav: expected a channel index below 2, the number of channels, got 2\n",
    )
    status, _, errors = run(*options, "--channels", "left")
    assert status == 2
    assert "expected \"mix\" or the index of a channel, got 'left'" in errors


@pytest.mark.usefixtures("one_embedder")
def test_embed_writes_a_folder_and_resumes(run, tmp_path, recordings, embedder):
    (tmp_path / "deep").mkdir()
    recordings[1] = recordings[1].rename(tmp_path / "deep" / recordings[1].name)
    status, output, errors = run("embed", ".", "-o", "made/")
    assert (status, errors) == (0, "")
    assert output.startswith("made: 4 embeddings of 2 files, ")
    for path in recordings:
        with np.load(tmp_path / "made" / f"{path.relative_to(tmp_path)}.npz") as file:
            assert_close(file["values"], embedder.embed(path).values, 1e-5)
    _, output, _ = run("embed", ".", "-o", "made", "--resume")
    assert output.startswith("made: 0 embeddings of 0 files, ")
    assert output.endswith(", 2 already done\n")
    assert run("embed", ".", "-o", "made", "--resume", "--quiet") == (0, "", "")


@pytest.mark.usefixtures("one_embedder")
def test_complete_file_is_not_resumed(run, recordings):
    run("embed", *recordings, "-o", "all.csv")
    before = Path("all.csv").read_bytes()
    assert run("embed", *recordings, "-o", "all.csv", "--resume") == (0, complete_message("all.csv"), "")
    for options, message in ((["new.wav"], "no embeddings of 1 recording"), (["--hop", "0.5"], "but this run has hop")):
        status, _, errors = run("embed", *recordings, *options, "-o", "all.csv", "--resume", "--quiet")
        assert (status, message in errors) == (1, True)
    assert Path("all.csv").read_bytes() == before


@pytest.mark.usefixtures("one_embedder")
def test_embed_accepts_lists_and_patterns(run, tmp_path, recordings):
    (tmp_path / "list.txt").write_bytes(b"\n".join(os.fsencode(path) for path in recordings))
    assert run("embed", "--list", "list.txt", "-o", "all.npz")[0] == 0
    assert set(np.load("all.npz")["files"]) == set(map(str, recordings))
    assert run("embed", "*.wav", "-o", "some.npz")[0] == 0
    assert set(np.load("some.npz")["files"]) == {"first.wav"}


@pytest.mark.usefixtures("one_embedder")
def test_embed_file_named_dash(run, recordings, embedder):
    recordings[0].rename("-")
    expected = embedder.embed(Path("-").absolute())
    assert len(expected.times) == 3
    Path("list.txt").write_text("-\n")
    for inputs in (["./-"], ["--list", "list.txt"], ["[-]"]):
        assert run("embed", *inputs, "-o", "out.npz", "--overwrite")[::2] == (0, "")
        with np.load("out.npz") as file:
            assert set(file["files"]) == {"-"}
            np.testing.assert_allclose(file["values"], expected.values, atol=1e-4)
    np.testing.assert_array_equal(embedder.embed("-").values, expected.values)


# === Standard input and output ===


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("separator", ["\n", "\0", "\r\n"])
@pytest.mark.usefixtures("one_embedder")
def test_dash_reads_paths_from_standard_input(run, recordings, separator):
    expected = run("embed", *recordings, "-o", "-")[1]
    listed = separator.join(map(str, recordings))
    assert run("embed", "-", "-o", "-", input=listed)[1] == expected
    assert run("embed", "--list", "-", "-o", "-", input=listed)[1] == expected
    assert run("embed", recordings[0], "-", "-o", "-", input=str(recordings[1]))[1] == expected
    assert run("embed", recordings[0], "-", "-o", "-", "-q", input="")[::2] == (0, "")


def test_a_recording_is_no_list(run, recordings):
    for arguments in (["-"], ["--list", "-"], ["--list", recordings[1]]):
        status, output, errors = run("embed", *arguments, input=recordings[0].read_bytes())
        assert (status, output) == (2, "")
        assert errors.endswith("got binary data: for a recording, add --format, as in - --format wav\n")


@pytest.mark.parametrize(("index", "suffix"), [(0, "wav"), (1, ".FLAC")])
@pytest.mark.usefixtures("one_embedder")
def test_recording_from_standard_input(run, recordings, embedder, temporary, index, suffix):
    ((_, expected),) = embedder.embed_many([recordings[index]])
    content = recordings[index].read_bytes()
    Path("-").mkdir()
    recordings[index].rename(f"-/{recordings[index].name}")
    for output in ("x.npz", "x/"):
        status, printed, errors = run("embed", "-", "--format", suffix, "-o", output, input=content)
        assert (status, errors) == (0, "")
        assert f": {counted(len(expected), 'embedding')} of 1 file, 0:00:0" in printed
    for file in ("x.npz", "x/-.npz"):
        with np.load(file) as saved:
            assert set(saved["files"]) == {"-"}
            np.testing.assert_array_equal(saved["values"], expected.values)
    status, printed, errors = run("embed", "-", "--format", suffix, input=content)
    assert (status, errors) == (0, "")
    assert printed.startswith(f"-: {counted(len(expected), 'embedding')} of 128 values\n")
    assert not list(temporary.iterdir())
    assert [path.name for path in Path("-").iterdir()] == [recordings[index].name]


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.usefixtures("one_embedder")
def test_messages_name_standard_input(run, tmp_path, temporary):
    status, _, errors = run("embed", "-", "--format", "wav", "-o", "x/", input=b"no audio")
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("Error: - cannot be read as audio: ")
    with open("x/failures.csv", newline="") as file:
        ((name, reason),) = ((row["file"], row["reason"]) for row in csv.DictReader(file))
    assert (name, f"Error: {reason}\n") == ("-", errors)
    soundfile.write(tmp_path / "loud.wav", np.full(16_000, 1_000.0), 16_000, subtype="FLOAT")
    _, _, errors = run("embed", "-", "--format", "wav", input=Path("loud.wav").read_bytes())
    assert errors.startswith("Warning: -: float samples should be in [-1, 1] but reach 1000")
    assert not list(temporary.iterdir())


def test_empty_standard_input(run, temporary):
    answer = run("embed", "-", "--format", "wav", input=b"")
    assert answer == (1, "", "Error: standard input is empty, expected the bytes of a recording\n")
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("interrupted", ["shutil.copyfileobj", "vggish_keras.cli.progress.Progress.file"])
@pytest.mark.usefixtures("one_embedder")
def test_ctrl_c_deletes_the_copy_of_standard_input(run, recordings, temporary, monkeypatch, interrupted):
    def interrupt(*_):
        assert [path.suffix for path in temporary.rglob("*.*")] == [".wav"]
        raise KeyboardInterrupt

    monkeypatch.setattr(interrupted, interrupt)
    answer = run("embed", "-", "--format", "wav", "-o", "x/", input=recordings[0].read_bytes())
    assert answer == (130, "", "")
    assert not list(temporary.iterdir())


@pytest.mark.usefixtures("one_embedder")
def test_csv_on_standard_output_equals_the_file(run, recordings):
    assert run("embed", *recordings, "-o", "all.csv")[0] == 0
    status, output, errors = run("embed", *recordings, "-o", "-")
    assert (status, output.encode()) == (0, Path("all.csv").read_bytes().replace(b"\r\n", b"\n"))
    assert re.fullmatch(r"standard output: 4 embeddings of 2 files, 0:00:0\d of audio in .* real time\n", errors)
    assert run("embed", *recordings, "-o", "-", "-q") == (0, output, "")
    assert not Path("-").exists()


@pytest.mark.parametrize("output", ["embedding", "quantized"])
def test_json_lines_on_standard_output(run, recordings, monkeypatch, output):
    postprocess = None if output == "embedding" else output
    embedder = vk.Embedder(FakeEngine(output), postprocess=postprocess)
    monkeypatch.setattr("vggish_keras.embedder.Embedder", lambda **_: embedder)
    status, printed, errors = run("embed", *recordings, "-o", "-", "--json", "-q")
    assert (status, errors) == (0, "")
    rows = [json.loads(line) for line in printed.splitlines()]
    expected = [result for _, result in embedder.embed_many(recordings)]
    names = [str(path) for path, part in zip(recordings, expected, strict=True) for _ in part.times]
    assert [row["file"] for row in rows] == names
    assert [row["time"] for row in rows] == np.concatenate([part.times for part in expected]).tolist()
    values = np.concatenate([part.values for part in expected])
    got = [row["embedding"] for row in rows]
    assert {type(value) for row in got for value in row} == {int if postprocess else float}
    np.testing.assert_array_equal(np.array(got, values.dtype), values)


def test_json_represents_what_is_not_finite_as_null(run, recordings, monkeypatch):
    values = np.array([[np.nan, np.inf, -np.inf, 0.1] * 32], np.float32)
    embedder = vk.Embedder(FakeEngine())
    results = [(recordings[0], vk.Embeddings(np.zeros(1), values))]
    monkeypatch.setattr(embedder, "embed_many", lambda *_: (result for result in results))
    monkeypatch.setattr("vggish_keras.embedder.Embedder", lambda **_: embedder)
    _, printed, _ = run("embed", recordings[0], "-o", "-", "--json")
    assert json.loads(printed, parse_constant=pytest.fail)["embedding"] == [None, None, None, 0.1] * 32


@pytest.mark.usefixtures("one_embedder")
def test_failures_with_standard_output(run, recordings):
    Path("bad.wav").write_text("no audio")
    status, output, errors = run("embed", "bad.wav", recordings[0], "-o", "-")
    assert (status, output.count("\n")) == (1, 4)
    first, last = errors.splitlines()
    assert first.startswith("Error: bad.wav cannot be read as audio")
    assert last.startswith("standard output: 3 embeddings of 1 file, ")
    assert last.endswith(" real time, 1 failed")
    assert sorted(map(str, Path().iterdir())) == sorted(["bad.wav", *(path.name for path in recordings)])


@pytest.mark.parametrize("as_json", [False, True])
def test_rows_are_flushed(monkeypatch, as_json):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw)))
    output = StandardOutput(as_json)
    for count in (1, 2):
        output.add("x.wav", vk.Embeddings(np.zeros(1), np.zeros((1, 128), np.float32)))
        assert raw.getvalue().count(b"x.wav") == count


def test_standard_output_is_a_stream_that_may_be_closed(run, tmp_path, slim):
    """The first rows arrive long before the last; `head` then ends the command quietly."""
    names = [f"{index}.wav" for index in range(200)]
    for name in names:
        soundfile.write(tmp_path / name, np.zeros(8_000), 16_000)
    process = subprocess.Popen(
        [COMMAND, "embed", *names, "-o", "-", "--weights", slim.v2, "--batch-size", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    lines = [process.stdout.readline() for _ in range(2)]
    assert process.poll() is None
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(timeout=60) == 1
    assert (lines[0][:15], lines[1][:11], errors) == (b"file,time,embed", b"0.wav,0.00,", b"")
    process.stderr.close()


def test_embed_writes_audioset_records(run, slim, tmp_path, recordings, pca_in_cache):
    recordings[0].rename(tmp_path / "abc_30.000.wav")
    (tmp_path / "segments.csv").write_text('# YTID\nabc, 30.000, 40.000, "/m/1,/m/2"\n')
    (tmp_path / "labels.csv").write_text("index,mid,display_name\n7,/m/1,x\n9,/m/2,y\n")
    options = ["--weights", slim.v2, "--segments", "segments.csv", "--labels", "labels.csv"]
    status, _, errors = run("embed", ".", "-o", "set.tfrecord", *options)
    assert (status, errors) == (1, f"Error: {recordings[1].name} is not in segments.csv\n")
    (got,) = vk.records.read("set.tfrecord")
    assert got[:4] == ("abc", 30.0, 40.0, (7, 9))
    expected = vk.Embedder(slim.v2, postprocess="quantized").embed("abc_30.000.wav").values
    np.testing.assert_array_equal(got.embedding, expected)

    assert run("embed", ".", "-o", "set.tfrecord", "--shards", 2, "--weights", slim.v2, "--overwrite")[0] == 0
    shards = [list(vk.records.read(f"set-0000{index}-of-00002.tfrecord")) for index in range(2)]
    assert [[record.video_id for record in shard] for shard in shards] == [["abc_30.000.wav"], [recordings[1].name]]
    assert shards[0][0][1:4] == (0.0, pytest.approx(2.88), ())
    again = run("embed", ".", "-o", "set.tfrecord", "--shards", 2, "--resume")
    assert again == (0, complete_message("set.tfrecord"), "")


def test_embed_passes_options_to_embedder(run, slim, recordings, pca_in_cache):
    options = ("--hop", 0.5, "--padding", "valid", "--postprocess", "quantized", "--batch-size", 2)
    status, _, errors = run("embed", recordings[0], "-o", "out.npz", "--weights", slim.v2, *options)
    assert (status, errors) == (0, "")
    expected = vk.Embedder(slim.v2, 0.5, "valid", "quantized", 2).embed(recordings[0])
    with np.load("out.npz") as file:
        np.testing.assert_array_equal(file["times"], expected.times)
        np.testing.assert_array_equal(file["values"], expected.values)
        assert file["values"].dtype == np.uint8
    assert embedding_files.read_options("out.npz") == {
        "weights": open_engine(slim.v1, "quantized").identity("quantized"),
        "hop_seconds": 0.5,
        "padding": "valid",
        "postprocess": "quantized",
        "dtype": "float32",
        "channels": "mix",
        "engine": "KerasModel",
        "version": vk.__version__,
    }


@pytest.mark.slow
def test_own_pca_params(run, slim, recordings, pca_params):
    np.savez("own.npz", **pca_params)
    options = ("--weights", slim.v2, "--pca", "own.npz")
    assert run("embed", recordings[0], "-o", "out.npz", "--postprocess", "pca", *options)[0] == 0
    expected = vk.Embedder(slim.v2, postprocess="pca", pca_params="own.npz").embed(recordings[0])
    with np.load("out.npz") as file:
        np.testing.assert_allclose(file["values"], expected.values, atol=1e-4)
    assert run("embed", recordings[0], "-o", "out.tfrecord", *options)[0] == 0  # always quantized
    assert run("export", "model", "--postprocess", "pca", *options)[0] == 0
    np.testing.assert_allclose(
        vk.Embedder("model", postprocess="pca").embed(recordings[0]).values, expected.values, atol=1e-4
    )


def test_embed_reports_recordings_without_embeddings(run, tmp_path, slim):
    soundfile.write(tmp_path / "short.wav", np.zeros(8_000), 16_000)
    status, _, errors = run("embed", "short.wav", "--padding", "valid", "--weights", slim.v2, "-o", "out.csv")
    assert status == 0
    assert errors == "short.wav: shorter than an example (0.975 s), no embeddings; use --padding short\n"
    assert (tmp_path / "out.csv").read_text().count("\n") == 1


@pytest.mark.filterwarnings("default::UserWarning")
@pytest.mark.usefixtures("one_embedder")
def test_warnings_are_printed_on_one_line(run, tmp_path):
    soundfile.write(tmp_path / "loud.wav", np.full(16_000, 1_000.0), 16_000, subtype="FLOAT")
    status, _, errors = run("embed", "loud.wav")
    assert status == 0
    assert errors.startswith("Warning: loud.wav: float samples should be in [-1, 1] but reach 1000")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed"], "no inputs given"),
        (
            ["embed", "x.wav", "-o", "x.txt"],
            "unknown file format: expected an .npz, .csv, .parquet or .tfrecord file, got x.txt",
        ),
        (["embed", "*.wav"], "no file matches *.wav"),
        (["embed", "-"], "standard input lists no files"),
        (["embed", "--", "-"], "standard input lists no files"),
        (["embed", "x.wav", "--format", "wav"], "--format requires - as the only input"),
        (["embed", "x.wav", "-", "--format", "wav"], "--format requires - as the only input"),
        (["embed", "-", "--list", "-", "--format", "wav"], "--format requires - as the only input"),
        (
            ["embed", "-", "--format", "raw"],
            "audio or video files, such as wav or mp3, got 'raw'",
        ),
        (["embed", "-", "--format", "wav", "-o", "x/", "--resume"], "--resume cannot be used with --format"),
        (["embed", "x.wav", "--json"], "--json requires -o - (standard output)"),
        (["embed", "x.wav", "-o", "x.csv", "--json"], "--json requires -o - (standard output)"),
        (["embed", "x.wav", "-o", "-", "--resume"], "--resume requires an output file or folder (-o)"),
        (["embed", "x.wav", "-o", "-", "--overwrite"], "--overwrite requires an output file or folder (-o)"),
        (
            ["embed", "x.wav", "-o", "-", "--accept-failures"],
            "--accept-failures requires an output file or folder",
        ),
        (["embed", "x.wav", "-o", "-", "--shards", "2"], "--shards and --segments require .tfrecord output"),
        (["demo", "-o", "-"], "this command cannot write to standard output; for a file named -, use ./-"),
        (["plot", "x.wav", "-o", "-"], "this command cannot write to standard output; for a file named -, use ./-"),
        (["export", "-"], "this command cannot write to standard output; for a file named -, use ./-"),
        (["weights", "convert", "x", "-"], "this command cannot write to standard output; for a file named -, use ./-"),
        (["beam", "--input", "x", "--output", "-"], "this command cannot write to standard output"),
        (["embed", "."], "no audio files in ."),
        (["embed", "x.wav", "--resume"], "--resume requires an output file or folder (-o)"),
        (["embed", "x.wav", "--overwrite"], "--overwrite requires an output file or folder (-o)"),
        (["embed", "x.wav", "--accept-failures"], "--accept-failures requires an output file or folder"),
        (["embed", "x.wav", "-o", "x.npz", "--resume", "--overwrite"], "and --overwrite replaces them: choose one"),
        (["embed", "x.wav", "-o", ""], "the output path is empty"),
        (["embed", "x.wav", "-o", "results.2024"], "to create a new folder, end its name with /"),
        (["embed", "x.wav", "-o", "x.tfrecord", "--segments", "."], "File '.' is a directory"),
        (["embed", "x.wav", "-o", "x.csv", "--shards", "2"], "--shards and --segments require .tfrecord output"),
        (
            ["embed", "x.wav", "-o", "x.tfrecord", "--postprocess", "pca"],
            ".tfrecord output stores 8-bit embeddings: use --postprocess quantized",
        ),
        (["embed", "x.wav", "--postprocess", "pca", "--pca", "missing.npz"], "no file at missing.npz"),
        (["embed", "x.wav", "--pca", __file__], "--pca requires --postprocess"),
        (["export", "model", "--pca", __file__], "--pca requires --postprocess"),
        (["plot", "x.wav", "--pca", __file__], "--pca requires --postprocess"),
        (["embed", "x.wav", "--dtype", "int8"], "'int8' is not one of 'float32', 'bfloat16', 'float16'"),
        (["plot", "x.wav", "-o", "x.jpg"], "expected a .png or .svg file in an existing folder, got x.jpg"),
        (["plot", "x.wav", "-o", "."], "expected a .png or .svg file in an existing folder, got ."),
        (["plot", "x.wav", "--recording", "y"], "--recording requires an .npz file"),
        (["plot", "x.parquet"], "plot reads recordings and .npz files, got x.parquet"),
        (["embed", "x.wav", "-o", "nowhere/x.npz"], "folder nowhere does not exist"),
        (["embed", "x.wav", "--hop", "0.005"], "multiple of 0.01"),
        (["embed", "x.wav", "--padding", "full"], "'full' is not one of 'short', 'valid', 'same'"),
        (["embed", "x.wav", "--batch-size", "0"], "0 is not in the range x>=1"),
        (["weights", "convert", "a", "b.weights.h5", "--v2"], "--v2 requires a checkpoint"),
        (["weights", "convert", "a", "B.WEIGHTS.H5"], "to end in .weights.h5, got B.WEIGHTS.H5"),
        (["weights", "convert", "a", "b.h5"], "expected a Keras weights file to end in .weights.h5, got b.h5"),
        (["sing"], "No such command 'sing'"),
    ],
)
def test_usage_errors_exit_with_2(run, arguments, message):
    status, output, errors = run(*arguments)
    assert (status, output) == (2, "")
    assert message in errors


def test_missing_weights_are_reported_on_one_line(run, recordings):
    for command in (["embed", recordings[0]], ["check"], ["weights", "fetch"]):
        status, output, errors = run(*command)
        assert (status, output) == (1, "")
        assert errors.startswith("Error: vggish_model.ckpt is not in the cache and could not be downloaded")
        assert errors.count("\n") == 1
    status, _, errors = run("embed", recordings[0], "--weights", "nothing.ckpt")
    assert (status, errors.startswith("Error: no weights found at nothing.ckpt")) == (1, True)


BUG = "this is a bug in vggish: "


@pytest.mark.usefixtures("recordings")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            TypeError("not\na number"),
            f"TypeError: not a number ({BUG}rerun it as `vggish --debug COMMAND` and report the traceback",
        ),
        (KeyError("x"), f"KeyError: 'x' ({BUG}"),
        (AssertionError(), f"AssertionError ({BUG}"),
        (ValueError("invalid"), "invalid\n"),
        (MemoryError(), "MemoryError\n"),
    ],
)
def test_errors_are_one_line_or_a_traceback(run, monkeypatch, error, message):
    def fail(**_):
        raise error

    monkeypatch.setattr("vggish_keras.embedder.Embedder", fail)
    status, output, errors = run("embed", "first.wav")
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith(f"Error: {message}")
    status, output, errors = run("--debug", "embed", "first.wav")
    assert (status, output) == (1, "")
    assert "in fail\n" in errors
    assert f"\n{type(error).__name__}" in errors


def test_unexpected_error_of_a_recording_is_reported_as_a_bug(run, recordings, embedder, monkeypatch):
    monkeypatch.setattr("vggish_keras.embedder.Embedder", lambda **_: embedder)
    monkeypatch.setattr(embedder, "embed_many", lambda paths, _: (item for item in [(paths[0], KeyError("x"))]))
    status, _, errors = run("embed", recordings[0])
    expected = f"{recordings[0]}: KeyError: 'x' ({BUG}report it with the recording to the project's issue tracker)"
    assert (status, errors) == (1, f"Error: {expected}\n")


def test_debug_shows_the_traceback_of_usage_errors(run):
    status, output, errors = run("--debug", "embed", "-o", "x.npz")
    assert (status, output) == (1, "")
    assert errors.endswith("UsageError: no inputs given\n")


# === Conventions of all commands ===


def all_commands(group, *names):
    yield names
    for name, command in getattr(group, "commands", {}).items():
        yield from all_commands(command, *names, name)


@pytest.mark.parametrize("names", list(all_commands(main)), ids=" ".join)
def test_options_of_every_command(run, names):
    status, shown, errors = run(*names, "-h")
    assert (status, errors) == (0, "")
    assert run(*names, "--help") == (0, shown, "")
    assert "-v, --verbose" in shown


def log(errors):
    return [line for line in errors.splitlines() if line.startswith(("Info: ", "Debug: "))]


def test_verbose_describes_the_run(run, tmp_path, recordings, slim):
    Path("x.txt").touch()
    arguments = ("embed", "-v", ".", "-o", "out/", "--weights", slim.v2)
    status, _, errors = run(*arguments)
    identity = open_engine(slim.v1).identity("embedding")
    described = [
        f"Info: loading weights from {slim.v2}",
        f"Info: engine KerasModel, dtype float32, identity {identity}",
    ]
    assert (status, log(errors)) == (0, [*described, "Info: recordings: 2 to embed, 0 already done, 0 refused"])
    recordings[0].rename("third.wav")
    status, _, errors = run(*arguments, "--resume")
    assert (status, log(errors)) == (0, [*described, "Info: recordings: 1 to embed, 1 already done, 0 refused"])


@pytest.mark.usefixtures("one_embedder")
def test_verbosity(run, recordings):
    Path("x.txt").touch()
    lines = [
        "Debug: left out x.txt: not a suffix of audio or video files",
        "Info: recordings: 2 to embed, 0 already done, 0 refused",
        "Debug: first.wav: 3 examples",
        f"Debug: {recordings[1].name}: 1 example",
    ]
    for options, shown in (([], []), (["-v"], lines[1:2]), (["-vv"], lines), (["-v", "-v", "-v"], lines)):
        assert log(run("embed", ".", *options)[2]) == shown
        assert log(run(*options, "embed", ".")[2]) == shown
        assert log(run(*options, "embed", ".", *options)[2]) == shown
    logger = logging.getLogger("vggish_keras")
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)


def test_verbose_reports_a_download(run):
    _, _, errors = run("weights", "fetch", "-v")
    path = published_files.published_path(params.CHECKPOINT)
    assert log(errors) == [f"Info: downloading http://127.0.0.1:9/vggish_model.ckpt to {path}"]


def complete(*words):
    *arguments, incomplete = words
    found = ShellComplete(main, {}, "vggish", "_VGGISH_COMPLETE").get_completions(arguments, incomplete)
    return [(item.type, item.value) for item in found]


def test_shells_complete_weights_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("audio.ckpt").touch()
    Path("other.ckpt").touch()
    for command in (["embed", "--weights"], ["export", "--pca"], ["weights", "convert"]):
        for start, expected in (
            ("", ["audioset", "audio.ckpt", "other.ckpt"]),
            ("au", ["audioset", "audio.ckpt"]),
            ("audios", ["audioset"]),
        ):
            assert complete(*command, start) == [("plain", word) for word in expected]
        assert complete(*command, "o") == [("file", "o")]  # the shell completes names of files
    for command in (["embed"], ["embed", "-o"], ["embed", "--list"], ["plot"], ["plot", "-o"], ["show"], ["demo"]):
        assert complete(*command, "a") == [("file", "a")]


@pytest.mark.usefixtures("one_embedder")
def test_suffixes_in_capitals(run, recordings):
    for output in ("X.NPZ", "X.CSV", "X.PARQUET"):
        assert run("embed", recordings[0], "-o", output)[0] == 0
        status, shown, _ = run("show", output)
        assert (status, shown.splitlines()[0]) == (0, f"{output}: 3 embeddings of 1 recording")
        assert "hop_seconds: 0.96\n" in shown
        assert run("embed", recordings[0], "-o", output, "--resume")[1] == complete_message(output)
    assert embedding_files.read_options("X.CSV") == json.loads(Path("X.CSV.vggish.json").read_text())
    assert len(embedding_files.read_npz("X.NPZ")) == 3
    assert len(embedding_files.read_rows("X.PARQUET").times) == 3
    assert run("plot", "X.NPZ", "-o", "X.PNG") == (0, "wrote X.PNG\n", "")
    assert Path("X.PNG").read_bytes().startswith(b"\x89PNG")
    assert run("plot", "X.NPZ", "-o", "X.SVG")[0] == 0
    assert "<svg" in Path("X.SVG").read_text()
    assert "plot reads recordings and .npz files, got X.CSV" in run("plot", "X.CSV")[2]


@pytest.mark.usefixtures("pca_in_cache")
def test_records_with_a_suffix_in_capitals(run, recordings, monkeypatch):
    embedder = vk.Embedder(FakeEngine("quantized"), postprocess="quantized")
    monkeypatch.setattr("vggish_keras.embedder.Embedder", lambda **_: embedder)
    for shards, files in (("1", ["X.TFRECORD"]), ("2", ["X-00000-of-00002.TFRECORD", "X-00001-of-00002.TFRECORD"])):
        assert run("embed", *recordings, "-o", "X.TFRECORD", "--shards", shards, "--overwrite")[0] == 0
        assert sorted(path.name for path in Path().glob("*.TFRECORD")) == files
        for name in ("X.TFRECORD", files[0]):
            assert "postprocess: quantized\n" in run("show", name)[1]
        assert run("show", "X.TFRECORD")[1].startswith("X.TFRECORD: 4 embeddings of 2 recordings\n")


@pytest.mark.usefixtures("one_embedder")
def test_one_is_singular(run, tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros(8_000), 16_000)
    assert run("embed", "x.wav", "-o", "x.npz")[1].startswith("x.npz: 1 embedding of 1 file, ")
    assert run("show", "x.npz")[1].startswith("x.npz: 1 embedding of 1 recording\n")
    assert run("embed", "x.wav")[1].startswith("x.wav: 1 embedding of 128 values\n")


# === demo and check ===


def test_demo_notes_untrained_weights(run, tmp_path):
    status, output, _ = run("demo")
    assert status == 0
    note = "the published weights are unavailable: these embeddings come from random, untrained weights"
    assert f"NOTE: {note}" in output.splitlines()
    samples, sample_rate = soundfile.read(tmp_path / "vggish_demo.wav")
    with np.load(tmp_path / "vggish_demo.npz") as file:
        assert len(file["times"]) == (len(samples) / sample_rate - 0.975) // 0.96 + 1
        # Even a random network distinguishes a melody, a voice and surf.
        assert len(np.unique(file["values"].round(8), axis=0)) == len(file["times"])
    assert embedding_files.read_options(tmp_path / "vggish_demo.npz")["weights"].startswith("sha256:")
    assert (tmp_path / "vggish_demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_embeds_file_with_given_weights(run, tmp_path, slim, recordings, embedder):
    (tmp_path / "out").mkdir()
    status, output, _ = run("demo", recordings[0], "-o", "out", "--weights", slim.v2)
    assert status == 0
    assert "NOTE" not in output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["vggish_demo.npz", "vggish_demo.png"]
    with np.load(tmp_path / "out" / "vggish_demo.npz") as file:
        np.testing.assert_allclose(file["values"], embedder.embed(recordings[0]).values, atol=1e-4)
    assert run("demo", "--weights", "nothing.ckpt")[0] == 1


def test_demo_without_matplotlib_names_the_extra(run, tmp_path, monkeypatch, recordings):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, output, _ = run("demo", recordings[0])
    assert status == 0
    assert 'no plot: plotting requires matplotlib: pip install "vggish[plot]"' in output
    assert (tmp_path / "vggish_demo.npz").exists()


@pytest.mark.usefixtures("one_embedder")
def test_plot_draws_recordings_and_saved_embeddings(run, recordings):
    assert run("plot", recordings[0]) == (0, "wrote first.wav.png\n", "")
    assert Path("first.wav.png").read_bytes().startswith(b"\x89PNG")
    run("embed", *recordings, "-o", "all.npz")
    status, _, errors = run("plot", "all.npz")
    assert (status, errors) == (1, f"Error: all.npz contains 2 recordings: choose one, such as {recordings[0]}\n")
    arguments = ("--recording", recordings[1], "--similarity", "-o", "x.svg")
    assert run("plot", "all.npz", *arguments) == (0, "wrote x.svg\n", "")
    assert "<svg" in Path("x.svg").read_text()
    assert run("plot", "all.npz", "--recording", "other")[2] == "Error: all.npz contains no embeddings of other\n"
    np.savez("other.npz", x=1)
    assert (
        run("plot", "other.npz")[2]
        == "Error: other.npz contains no embeddings: expected times [n] and values [n, 128]\n"
    )
    assert run("plot", "missing.wav") == (1, "", "Error: no audio file at missing.wav\n")
    assert run("plot", "missing.npz") == (1, "", "Error: no .npz file at missing.npz\n")


def test_plot_to_an_unwritable_folder(run, monkeypatch, recordings):
    def fail(dir):
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    assert run("plot", recordings[0]) == (1, "", "Error: cannot write first.wav.png: Permission denied\n")


def test_check_compares_with_published_values(run, slim, pca_in_cache, monkeypatch, vggish):
    """The test weights fail, and pass once their own values are the expected ones."""
    status, output, errors = run("check", "--weights", slim.v2)
    assert status == 1
    assert "0.000657" in output
    assert "NO" in output
    assert errors == f"Error: weights {slim.v2} do not reproduce the published values\n"

    sine = np.sin(2 * np.pi * 1_000 * np.arange(48_000) / 16_000).astype(np.float32)
    embeddings = vggish(sine[np.newaxis])
    quantized = np.asarray(vk.Postprocess("audioset")(embeddings)).astype(float)
    for figure, value in (
        ("EMBEDDING_MEAN", np.mean(embeddings) * 1.09),
        ("EMBEDDING_STDDEV", np.std(embeddings) * 0.92),
        ("POSTPROCESSED_MEAN", quantized.mean()),
        ("POSTPROCESSED_STDDEV", quantized.std()),
    ):
        monkeypatch.setattr(params, f"SMOKE_TEST_{figure}", float(value))
    status, output, errors = run("check", "--weights", slim.v2)
    assert (status, errors) == (0, "")
    assert "NO" not in output


# === show ===


OPTIONS = {"weights": "sha256:0", "hop_seconds": 0.5, "postprocess": None}


def write_embeddings(path, names=("a.wav", "b.wav"), options=OPTIONS):
    parts = [vk.Embeddings(0.5 * np.arange(2 + i), np.zeros((2 + i, 128), np.float32)) for i in range(len(names))]
    embedding_files.write(path, list(zip(names, parts, strict=True)), options)


@pytest.mark.parametrize("name", ["x.npz", "x.csv", "x.parquet"])
def test_show_describes_files(run, name):
    write_embeddings(name)
    assert run("show", name) == (
        0,
        f"{name}: 5 embeddings of 2 recordings\ntimes: 0.00 to 1.00 s\nembeddings: float32\nweights: sha256:0\n"
        "hop_seconds: 0.5\npostprocess: none\n",
        "",
    )
    status, output, _ = run("show", name, "--json")
    assert status == 0
    assert json.loads(output) == {
        "path": name,
        "recordings": 2,
        "rows": 5,
        "first_time": 0.0,
        "last_time": 1.0,
        "dtype": "float32",
        "options": OPTIONS,
        "damaged": {},
    }
    write_embeddings(name, ["a.wav"], None)
    kind = "" if name == "x.csv" else "embeddings: float32\n"
    expected = f"{name}: 2 embeddings of 1 recording\ntimes: 0.00 to 0.50 s\n{kind}made with: unknown options\n"
    assert run("show", name) == (0, expected, "")


@pytest.mark.skipif(os.name == "nt", reason="names are always text")
def test_names_that_are_not_text_are_printed_escaped(tmp_path):
    """In a UTF-8 locale, where Python's standard output rejects them."""
    path = tmp_path / os.fsdecode(b"caf\xe9.npz")
    write_embeddings(path)
    command = [sys.executable, "-m", "vggish_keras", "show", path]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    result = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert result.stdout.startswith(os.fsencode(tmp_path) + rb"/caf\udce9.npz: 5 embeddings")


def test_labels_are_not_emoji(capsys):
    print_scores("x.wav", 1, [("a:dog:b", 0.5)])
    assert "a:dog:b" in capsys.readouterr().out


def test_show_does_not_load_tensorflow(tmp_path):
    write_embeddings(tmp_path / "x.npz")
    code = (
        "import sys; from vggish_keras.cli import main; main(sys.argv[1:], standalone_mode=False); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, "show", tmp_path / "x.npz"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{tmp_path}/x.npz: 5 embeddings")
    assert "tensorflow" not in result.stdout.splitlines()[-1].split()


@pytest.mark.usefixtures("one_embedder")
def test_show_describes_outputs_of_embed(run, recordings, embedder):
    Path("bad.wav").touch()
    assert run("embed", *recordings, "bad.wav", "-o", "out/")[0] == 1
    assert run("embed", *recordings, "bad.wav", "-o", "out.csv")[0] == 1
    shown = [json.loads(run("show", path, "--json")[1]) for path in ("out", "out.csv", "out.csv.unfinished")]
    for contents in shown:
        assert contents.pop("path").startswith("out")
        assert contents["options"].pop("recordings", str(Path.cwd())) == str(Path.cwd())
        assert contents["options"] == embedder.options
        assert (contents["recordings"], contents["rows"], contents["dtype"]) == (2, 4, "float32")
    assert shown[0] == shown[1] == shown[2]
    assert not list(Path().glob("out.csv.unfinished-*"))
    Path("out/mine.npz").write_bytes(b"x")
    status, output, errors = run("show", "out")
    assert output.startswith("out: 4 embeddings of 2 recordings\n")
    assert (status, errors.startswith("Error: out/mine.npz is not an .npz file")) == (1, True)


@pytest.mark.parametrize("shards", [1, 2])
def test_show_describes_records(run, slim, recordings, pca_in_cache, shards):
    arguments = ["embed", *recordings, "-o", "x.tfrecord", "--weights", slim.v2, "--shards", shards]
    assert run(*arguments)[0] == 0
    status, output, _ = run("show", "x.tfrecord")
    assert status == 0
    assert output.startswith(
        "x.tfrecord: 4 embeddings of 2 recordings\ntimes: 0.00 to 1.92 s\nembeddings: uint8\nweights: "
    )
    assert "postprocess: quantized\n" in output
    before = Path("x.tfrecord.vggish.json").read_bytes()
    assert json.loads(before)["hop_seconds"] == 0.96
    if shards == 2:
        assert run("show", "x-00001-of-00002.tfrecord")[1].splitlines()[3:] == output.splitlines()[3:]
    assert run(*arguments, "--overwrite")[0] == 0
    assert Path("x.tfrecord.vggish.json").read_bytes() == before
    Path("x.tfrecord.vggish.json").unlink()
    assert run("show", "x.tfrecord")[1].endswith(
        "times: 0.00 to 1.92 s\nembeddings: uint8\nmade with: unknown options\n"
    )


def test_show_reports_what_is_not_an_output(run, tmp_path):
    Path("x.csv").write_text("a,b\n")
    Path("y.csv").write_text(",".join(["file", "time", *(f"embedding_{i}" for i in range(128))]) + "\nx.wav,0.0\n")
    np.savez("x.npz", x=1)
    for name in ("x.parquet", "x.tfrecord", "x.unfinished", "z.npz.unfinished"):
        Path(name).write_text("nothing" * 100)
    Path("empty").mkdir()
    for name, message in {
        "x.csv": "x.csv contains no embeddings, or is damaged: its first line does not name the columns",
        "y.csv": "y.csv contains no embeddings, or is damaged: line 2 has 2 of 130 columns",
        "x.npz": "x.npz contains no embeddings: expected times",
        "x.parquet": "x.parquet is not a Parquet file",
        "x.tfrecord": "x.tfrecord is damaged or not a TFRecord file",
        "x.unfinished": "x.unfinished: file is not a database",
        "x.wav": "x.wav does not exist",
        "y.tfrecord": "y.tfrecord does not exist",
        "z.npz": "z.npz does not exist; z.npz.unfinished contains the results of an interrupted run",
        "empty": "empty contains no embeddings",
    }.items():
        status, output, errors = run("show", name)
        assert (status, output, errors.count("\n")) == (1, "", 1)
        assert errors.startswith(f"Error: {message}")


# === export ===


def test_export_overwrites_only_when_asked(run, tmp_path, slim):
    (tmp_path / "vggish" / "1").mkdir(parents=True)
    status, output, errors = run("export", "vggish/1", "--weights", slim.v2)
    assert (status, output) == (1, "")
    assert errors == "Error: vggish/1 exists: choose a different path, or pass overwrite=True (--overwrite)\n"
    status, output, errors = run("export", "vggish/1", "--weights", slim.v2, "--hop", 0.5, "--overwrite")
    assert (status, output) == (0, "vggish/1\n")
    import tensorflow as tf

    assert tf.saved_model.load("vggish/1")(tf.zeros([32_000])).shape == (3, 128)


# === weights ===


def test_weights_show(run, pca_in_cache):
    checkpoint = pca_in_cache.parent / "vggish_model.ckpt"
    missing, verified = f"{checkpoint}: missing\n", f"{pca_in_cache}: verified, {params.PCA_PARAMS.checksum}\n"
    assert run("weights", "show") == (0, missing + verified, "")
    checkpoint.write_text("other weights")
    pca_in_cache.write_text("other parameters")
    status, output, errors = run("weights", "show")
    state = "not the published file\n"
    assert (status, output) == (1, f"{checkpoint}: {state}{pca_in_cache}: {state}")
    first, second = errors.splitlines()
    assert first.startswith(f"Error: {checkpoint} is not the published file: its checksum is md5:")
    assert second.startswith(f"{pca_in_cache} is not the published file: its checksum is sha256:")
    assert "(--weights PATH or weights=PATH)" in first
    assert "(--pca PATH or pca_params=PATH)" in second


def test_weights_show_reads_a_file_that_was_verified_before(run, pca_in_cache):
    """It finds what a damaged disk changes, and later commands know."""
    assert run("weights", "show")[0] == 0
    content, status = pca_in_cache.read_bytes(), pca_in_cache.stat()
    pca_in_cache.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(pca_in_cache, ns=(status.st_atime_ns, status.st_mtime_ns))
    published_files.check(params.PCA_PARAMS)
    assert run("weights", "show")[0] == 1
    with pytest.raises(ValueError, match="is not the published file"):
        published_files.check(params.PCA_PARAMS)


def test_wrong_files_in_the_cache_are_errors(run, recordings, pca_in_cache):
    (pca_in_cache.parent / "vggish_model.ckpt").write_text("other weights")
    for command in (["embed", recordings[0]], ["demo"], ["weights", "fetch"]):
        status, _, errors = run(*command)
        assert status == 1
        assert "vggish_model.ckpt is not the published file" in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize("target", [["x.ckpt"], ["y.ckpt", "--v2"], ["z.weights.h5"]])
def test_weights_convert(run, slim, target):
    assert run("weights", "convert", slim.v1, *target) == (0, f"{target[0]}\n", "")
    model = vk.VGGish(weights=target[0], input="examples")
    np.testing.assert_allclose(model(slim.examples), slim.embeddings, atol=1e-3 * np.abs(slim.embeddings).max())
    assert not [path for path in Path().iterdir() if not path.name.startswith(target[0])]


# === The installed command ===


def installed(*arguments):
    command = Path(sys.executable).with_name("vggish")
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_installed_command_prints_only_its_own_messages(tmp_path):
    assert installed("--version").stdout == f"vggish, version {vk.__version__}\n"
    soundfile.write(tmp_path / "x.wav", np.zeros(16_000), 16_000)
    result = installed("embed", tmp_path / "x.wav", "--weights", tmp_path / "missing.ckpt")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: no weights found at")
    assert result.stderr.count("\n") == 1


def test_inputs_are_not_replaced(run, recordings):
    for name, *arguments in (
        ["x.csv", "search", recordings[0], "x.csv", "-o", "x.csv"],
        ["x.ckpt", "weights", "convert", "x.ckpt", "./x.ckpt"],
        ["v2.ckpt.index", "weights", "convert", "v2.ckpt", "v2.ckpt"],
    ):
        Path(name).write_text("input")
        status, _, errors = run(*arguments)
        assert (status, "is an input: choose a different output\n" in errors) == (2, True)
        assert Path(name).read_text() == "input"


def test_show_prints_no_control_characters_of_options(run):
    embeddings = vk.Embeddings(np.zeros(1), np.zeros((1, 128), np.float32))
    embedding_files.write("x.npz", [("a.wav", embeddings)], {"weights": "\x1b]0;title\x07"})
    assert r"weights: \x1b]0;title\x07" in run("show", "x.npz")[1]

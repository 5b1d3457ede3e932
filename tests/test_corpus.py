"""Corpus runs that are interrupted, and inputs and disks that fail."""

import concurrent.futures
import contextlib
import csv
import errno
import itertools
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from tests.conftest import mounted_disk
from tests.fakes import FakeEngine
from tests.fuzz import test_stops
from vggish_keras import _atomic, records
from vggish_keras._atomic import atomic_write
from vggish_keras._lock import locked
from vggish_keras.cli import main
from vggish_keras.corpus import audioset, embed_corpus, output as outputs, plan, read_contents
from vggish_keras.embedder import Embedder
from vggish_keras.embeddings import Embeddings
from vggish_keras.recordings import find_recordings

OPTIONS = {"weights": "w", "hop_seconds": 0.96}
TARGETS = ("out", "out.npz", "out.csv", "out.parquet", "out.tfrecord")


@pytest.fixture
def quick():
    return Embedder(FakeEngine())


@pytest.fixture
def eight_bits():
    """An embedder of uint8 values, which every output accepts."""
    return Embedder(FakeEngine("embedding", "quantized"), postprocess="quantized")


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder of recordings, eleven valid and two invalid, in the current folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(12):
        path = Path("corpus", "ab"[index % 2], f"{index:02}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, 20_000 * (1 + index % 3)), 16_000)
    Path("corpus/a/04.wav").write_bytes(b"no audio")
    Path("corpus/b/zz.wav").touch()  # the last one
    return Path("corpus")


def run(embedder, inputs, target, resume=False, shards=3, add=None, **options):
    """A run as the command line starts it; `add` is called after each recording."""
    planned = plan(inputs, target, resume=resume, shards=shards if target.endswith(".tfrecord") else 1, **options)
    results = []

    def on_result(path, result):
        results.append((path, result))
        if add:
            add(path)

    return embed_corpus(embedder, planned, lambda *_: None, on_result), results


def contents():
    """The contents of all files in the current folder, except the corpus, by name."""
    files = [path for path in Path().rglob("*") if path.is_file() and path.parts[0] not in ("corpus", "disk")]
    return {str(path): path.read_bytes() for path in files if ".unfinished" not in path.name}


def lock_of(target):
    return "out/.vggish.lock" if target == "out" else f".{target}.lock"


def forget():
    """Removes everything in the current folder, except the corpus."""
    for path in Path().iterdir():
        if path.is_dir() and path.name not in ("corpus", "disk"):
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


# === Interrupted and resumed ===


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stops", [(1,), (0, 5, 9)])
def test_resumed_runs_end_with_the_same_bytes(eight_bits, corpus, target, stops):
    run(eight_bits, [corpus], target)
    undisturbed = contents()
    assert any("failures.csv" in name for name in undisturbed)
    forget()

    for stop in stops:
        done = itertools.count()

        def interrupt(_, done=done, stop=stop):
            if next(done) == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(eight_bits, [corpus], target, resume=True, add=interrupt)
    summary, _ = run(eight_bits, [corpus], target, resume=True)
    assert summary.skipped + summary.embedded == 11
    assert summary.skipped > 0
    assert contents() == undisturbed


def test_csv_is_resumed_if_interrupted_before_its_options_are_written(quick, corpus, monkeypatch):
    run(quick, [corpus], "out.csv")
    undisturbed = contents()
    replace = Path.replace

    def interrupt(path, target):
        if target.name == "out.csv.vggish.json":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(quick, [corpus], "out.csv", overwrite=True)
    assert set(contents()) == set(undisturbed) - {"out.csv.vggish.json"}  # never the options of an earlier run
    run(quick, [corpus], "out.csv", resume=True)
    assert contents() == undisturbed


@pytest.mark.parametrize("target", ["out.npz", "out.csv", "out.parquet"])
def test_complete_file_has_all_recordings_and_the_same_options(quick, corpus, target):
    options = {"hop_seconds": 0.96, "channels": "mix"}
    run(quick, [corpus], target, accept_failures=True)
    plan([corpus], target, resume=True).check_complete(options)
    with pytest.raises(
        ValueError, match=rf"^{target} was made with hop_seconds 0\.96, but this run has hop_seconds 0\.5"
    ):
        plan([corpus], target, resume=True).check_complete({"hop_seconds": 0.5})
    soundfile.write("corpus/new.wav", np.zeros(20_000), 16_000)
    with pytest.raises(
        ValueError, match=r"has no embeddings of 1 recording, such as corpus/new\.wav: choose a different"
    ):
        plan([corpus], target, resume=True).check_complete(options)


def test_complete_file_has_recordings_of_folders_above(quick, corpus, monkeypatch):
    monkeypatch.chdir(corpus / "b")
    for resume in (False, True):
        planned = plan([".", "../a/00.wav"], "all.npz", resume=resume)
        if not resume:
            embed_corpus(quick, planned, lambda *_: None, lambda *_: None)
    planned.check_complete({})


def test_complete_file_may_lack_recordings_that_are_too_short(corpus):
    embedder = Embedder(FakeEngine(), padding="valid")
    soundfile.write("corpus/short.wav", np.zeros(1_000), 16_000)
    run(embedder, [corpus], "out.npz", accept_failures=True)
    plan([corpus], "out.npz", resume=True).check_complete({"padding": "valid"})


def test_complete_csv_without_options_stays_complete(quick, corpus):
    """Earlier versions did not write options."""
    run(quick, [corpus / "b" / "01.wav"], "out.csv")
    Path("out.csv.vggish.json").unlink()
    assert plan([corpus / "b" / "01.wav"], "out.csv", resume=True).is_complete()


RUN_THAT_IS_KILLED = """
import itertools, os, signal
from vggish_keras import cli, corpus

embed_corpus, results = corpus.embed_corpus, itertools.count(1)


def embed_until_killed(embedder, plan, on_audio, on_result):
    def kill_later(*result):
        on_result(*result)
        if next(results) == 50:
            os.kill(os.getpid(), signal.SIGKILL)

    return embed_corpus(embedder, plan, on_audio, kill_later)


corpus.embed_corpus = embed_until_killed
cli.run()
"""


@pytest.mark.parametrize("target", ["out", pytest.param("out.npz", marks=pytest.mark.slow)])
def test_resumed_after_kill(corpus, exported_narrow, target):
    """Kills a command while it runs."""
    for index in range(90):
        shutil.copy(corpus / "b" / "05.wav", corpus / "b" / f"more{index:02}.wav")
    arguments = ["embed", "corpus", "--weights", str(exported_narrow), "--batch-size", "2", "-o", target]
    assert CliRunner().invoke(main, arguments).exit_code == 1  # because of the invalid files
    undisturbed = contents()
    forget()

    killed = subprocess.run([sys.executable, "-c", RUN_THAT_IS_KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    result = CliRunner().invoke(main, [*arguments, "--resume"])
    assert result.exit_code == 1
    assert 0 < int(re.search(r", (\d+) already done", result.output)[1]) < 100
    assert contents() == undisturbed


def test_interrupted_run_is_not_overwritten(quick, corpus):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(quick, [corpus], "out.csv", add=interrupt)
    with pytest.raises(
        FileExistsError,
        match=r"out\.csv\.unfinished contains the results of an interrupted run: use --resume to keep its",
    ):
        run(quick, [corpus], "out.csv")


@pytest.mark.parametrize(
    ("target", "owner", "function", "commit_seconds"),
    [
        ("out", outputs.FolderOutput, "add", 0),
        ("out", outputs, "replace", 0),
        ("out", _atomic, "_move", 1_000),  # all results at the end
        ("out.npz", outputs.FileOutput, "add", 0),
    ],
)
@pytest.mark.parametrize("after", [False, True])
def test_interrupted_run_has_saved_what_it_reports(
    quick, corpus, monkeypatch, target, owner, function, commit_seconds, after
):
    """It is interrupted in the second call of a function that saves results, before or after they are saved."""
    calls, original = itertools.count(), getattr(owner, function)

    def interrupt(*arguments):
        interrupted = next(calls) == 1
        if not interrupted or after:
            original(*arguments)
        if interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(owner, function, interrupt)
    monkeypatch.setattr(outputs, "_COMMIT_SECONDS", commit_seconds)
    reported = []
    valid = sorted((corpus / "b").glob("[0-9]*"))
    with pytest.raises(KeyboardInterrupt):
        run(quick, valid, target, add=reported.append)
    _, results = run(quick, valid, target, resume=True)
    assert reported
    assert reported == [path for path, result in results if result is None]


@pytest.fixture(params=["out", "out.npz"])
def interrupted(request, quick, corpus):
    """The target of a run that was interrupted after its first recordings."""

    def interrupt(path):
        if path.name == "06.wav":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(quick, [corpus], request.param, add=interrupt)
    return request.param


def test_only_the_same_options_are_resumed(quick, corpus, interrupted, monkeypatch):
    monkeypatch.setitem(quick.options, "hop_seconds", 0.5)
    with pytest.raises(
        ValueError,
        match=r"was started with hop_seconds 0\.96, but this run has hop_seconds 0\.5: choose a different output",
    ):
        run(quick, [corpus], interrupted, resume=True)


def test_only_the_same_corpus_is_resumed(quick, corpus, interrupted, monkeypatch):
    """Equal names in a different folder, or relative to a different current folder, are different recordings."""
    shutil.copytree(corpus, "elsewhere/corpus")
    with pytest.raises(
        ValueError, match=r"was started with recordings .*corpus, but this run has recordings .*elsewhere/corpus"
    ):
        run(quick, ["elsewhere/corpus"], interrupted, resume=True)
    target = str(Path(interrupted).absolute())
    monkeypatch.chdir("elsewhere")
    with pytest.raises(ValueError, match="was started with recordings"):
        run(quick, ["corpus"], target, resume=True)
    # A different path to the same corpus is accepted.
    summary, _ = run(quick, [Path("..", corpus)], target, resume=True)
    assert summary.skipped > 0


def test_output_that_does_not_identify_its_weights_is_not_resumed(quick, corpus):
    """Its weights may have been different ones at the same path."""
    run(quick, [corpus], "out")
    Path("out/vggish.json").unlink()
    old = {"weights": "w.ckpt", "hop": 0.96, "padding": "same", "dtype": "float32", "postprocess": None}
    Path("out/vggish-keras.json").write_text(json.dumps({**old, "recordings": str(corpus.absolute())}))
    before = {path: path.read_bytes() for path in Path("out").rglob("*.npz")}
    with pytest.raises(ValueError, match=r"^out was started by an earlier version, .*: replace it with --over"):
        run(quick, [corpus], "out", resume=True)
    assert {path: path.read_bytes() for path in Path("out").rglob("*.npz")} == before
    summary, _ = run(quick, [corpus], "out", overwrite=True)
    assert (summary.skipped, summary.embedded) == (0, 11)
    assert not Path("out/vggish-keras.json").exists()
    assert run(quick, [corpus], "out", resume=True)[0].skipped == 11


def test_folder_has_the_same_options_throughout(quick, corpus, monkeypatch):
    run(quick, [corpus], "out")
    monkeypatch.setitem(quick.options, "hop_seconds", 0.5)
    with pytest.raises(ValueError, match="out was started with hop_seconds"):
        run(quick, [corpus], "out", resume=True)
    soundfile.write("new.wav", np.zeros(20_000), 16_000)
    with pytest.raises(ValueError, match="out was started with hop_seconds"):
        run(quick, ["new.wav"], "out")  # which has no embeddings of it


@pytest.mark.parametrize("target", TARGETS)
def test_new_run_keeps_existing_results(eight_bits, corpus, target):
    run(eight_bits, [corpus / "a" / "00.wav", corpus / "b" / "01.wav"], target)
    before = contents()
    expected = "out already contains embeddings of 2" if target == "out" else r"out\S* already exists"
    planned = plan([corpus], target, shards=3 if target == "out.tfrecord" else 1)
    for refused in (planned.check_output, lambda: run(eight_bits, [corpus], target)):
        with pytest.raises(
            FileExistsError,
            match=rf"^{expected}.*: use --resume to keep its embeddings, or --overwrite to replace them$",
        ):
            refused()
    assert contents() == before


@pytest.mark.parametrize("target", TARGETS)
def test_overwrite_replaces_all_options(eight_bits, corpus, target, monkeypatch):
    run(eight_bits, [corpus], target)
    monkeypatch.setitem(eight_bits.options, "hop_seconds", 0.5)
    summary, _ = run(eight_bits, [corpus], target, overwrite=True)
    assert (summary.skipped, summary.embedded) == (0, 11)
    replaced = contents()
    forget()
    run(eight_bits, [corpus], target)
    assert contents() == replaced


def test_overwrite_does_not_mix_options(quick, corpus, monkeypatch):
    """Embeddings of other recordings, and files of others, remain."""
    run(quick, [corpus], "out")
    monkeypatch.setitem(quick.options, "hop_seconds", 0.5)
    before = contents()
    with pytest.raises(
        ValueError, match=r"also contains \.npz files that do not belong .* \(6\), such as out/b/01\.wav\.npz"
    ):
        run(quick, [corpus / "a", corpus / "b" / "zz.wav"], "out", overwrite=True)
    assert contents() == before


def test_shards_of_different_runs_are_not_mixed(eight_bits, corpus):
    run(eight_bits, [corpus / "b" / "01.wav"], "out.tfrecord", shards=2)
    Path("out-00000-of-00002.tfrecord.txt").touch()
    before = contents()
    for shards in (1, 3):
        with pytest.raises(FileExistsError, match=r"^out-00000-of-00002\.tfrecord already exists: use --resume"):
            run(eight_bits, [corpus / "b"], "out.tfrecord", shards=shards)
        with pytest.raises(
            ValueError, match=r"^out-00000-of-00002\.tfrecord is from a run with a different number of --sh"
        ):
            run(eight_bits, [corpus / "b"], "out.tfrecord", shards=shards, resume=True)
    assert contents() == before
    run(eight_bits, [corpus / "b" / "01.wav"], "out.tfrecord", shards=1, overwrite=True)
    assert set(contents()) == {
        "out.tfrecord",
        "out.tfrecord.vggish.json",
        "out-00000-of-00002.tfrecord.txt",
        ".out.tfrecord.lock",
    }


@pytest.mark.parametrize("target", TARGETS)
def test_overwriting_run_is_resumed(eight_bits, corpus, target, monkeypatch):
    run(eight_bits, [corpus / "a"], target)
    old = contents()
    monkeypatch.setitem(eight_bits.options, "hop_seconds", 0.5)

    def interrupt(path):
        if path.name == "08.wav":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(eight_bits, [corpus / "a"], target, overwrite=True, add=interrupt)
    if target != "out":
        assert contents().items() >= old.items()  # until the new file is complete
    summary, _ = run(eight_bits, [corpus / "a"], target, resume=True)
    assert summary.skipped == 4
    resumed = contents()
    forget()
    run(eight_bits, [corpus / "a"], target)
    assert contents() == resumed


@pytest.mark.parametrize("target", TARGETS)
def test_overwrite_replaces_a_damaged_output(eight_bits, corpus, target):
    run(eight_bits, [corpus / "b"], target)
    undisturbed = contents()
    forget()
    for name in [sorted(undisturbed)[-1], f"{target}.unfinished"]:
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"damaged" * 1_000)
    run(eight_bits, [corpus / "b"], target, overwrite=True)
    assert contents() == undisturbed


def test_new_run_replaces_old_results(quick, corpus):
    run(quick, [corpus], "out")
    replaced = corpus / "b" / "11.wav"
    soundfile.write(replaced, np.zeros(20_000), 16_000)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(quick, [corpus], "out", add=interrupt, overwrite=True)
    run(quick, [corpus], "out", resume=True)
    np.testing.assert_array_equal(np.load("out/b/11.wav.npz")["values"], quick.embed(replaced).values)


def test_finished_recordings_must_be_among_the_inputs(quick, corpus, interrupted):
    summary = None
    if interrupted == "out":  # which keeps them
        summary, _ = run(quick, [corpus / "b", corpus / "a" / "00.wav"], interrupted, resume=True)
        assert summary.skipped > 0
        return
    recordings = find_recordings([corpus])._replace(paths=[corpus / "b" / "11.wav"])
    with pytest.raises(
        ValueError,
        match=r"contains recordings that are not among the inputs \(\d\), such as a/00\.wav: include them",
    ):
        outputs.FileOutput(Path(interrupted), recordings, quick.options, "keep", outputs.EmbeddingsWriter())


@pytest.mark.parametrize("target", ["out", "out.npz"])
def test_failed_recordings_are_retried(quick, corpus, target):
    run(quick, [corpus], target)
    shutil.copy(corpus / "a" / "00.wav", corpus / "a" / "04.wav")
    summary, _ = run(quick, [corpus], target, resume=True)
    assert (summary.skipped, summary.embedded) == (11, 1)
    assert list(dict(summary.failures)) == [corpus / "b" / "zz.wav"]
    if target == "out":
        assert Path("out/a/04.wav.npz").exists()
    else:
        assert str(corpus / "a" / "04.wav") in np.load(target)["files"]
    # A new run starts over.
    summary, _ = run(quick, [corpus], target, overwrite=True)
    assert (summary.skipped, summary.embedded) == (0, 12)


@pytest.mark.parametrize("target", ["out", "out.npz", "out.csv"])
def test_failures_are_accepted(quick, corpus, target):
    run(quick, [corpus], target)
    undisturbed = contents()
    forget()
    summary, _ = run(quick, [corpus], target, accept_failures=True)
    assert (summary.embedded, len(summary.failures), summary.unfinished) == (11, 2, None)
    assert contents() == undisturbed
    assert not list(Path().glob("*.unfinished*"))
    assert plan([corpus], target, resume=True).is_complete() == (target != "out")


def test_failures_are_accepted_later(quick, corpus):
    """Without a network, if nothing else is left to embed."""
    summary, _ = run(quick, [corpus], "out.npz")
    assert summary.unfinished == Path("out.npz.unfinished")
    undisturbed = contents()
    again = plan([corpus], "out.npz", resume=True, accept_failures=True)
    shutil.copy("out.npz.unfinished", "kept")
    assert plan([corpus], "out.npz", resume=True).complete_without_failures() == 0
    assert plan([corpus / "b"], "out.npz", resume=True, accept_failures=True).complete_without_failures() == 0
    assert again.complete_without_failures() == 2
    assert contents() == {**undisturbed, "kept": Path("kept").read_bytes()}
    assert again.is_complete()

    Path("kept").rename("out.npz.unfinished")
    soundfile.write(corpus / "new.wav", np.zeros(20_000), 16_000)
    more = plan([corpus], "out.npz", resume=True, accept_failures=True)
    assert more.complete_without_failures() == 0
    summary, _ = run(quick, [corpus], "out.npz", resume=True, accept_failures=True)
    assert (summary.skipped, summary.embedded, len(summary.failures), summary.unfinished) == (11, 1, 2, None)
    assert more.is_complete()


def test_failures_of_an_interrupted_run_are_not_accepted_early(quick, corpus):
    run(quick, [corpus / "b"], "out.npz")

    def interrupt(path):
        if path.name == "new.wav":
            raise KeyboardInterrupt

    soundfile.write(corpus / "b" / "new.wav", np.zeros(20_000), 16_000)
    with pytest.raises(KeyboardInterrupt):
        run(quick, [corpus / "b"], "out.npz", resume=True, add=interrupt)
    again = plan([corpus / "b"], "out.npz", resume=True, accept_failures=True)
    assert again.complete_without_failures() == 0
    run(quick, [corpus / "b"], "out.npz", resume=True, accept_failures=True)
    assert str(corpus / "b" / "new.wav") in np.load("out.npz")["files"]


def test_output_in_use_raises(quick, corpus, interrupted):
    def again(_):
        with pytest.raises(OSError, match="in use by another run"):
            run(quick, [corpus], interrupted, resume=True)

    summary, _ = run(quick, [corpus], interrupted, resume=True, add=again)
    assert summary.embedded > 0


@pytest.mark.parametrize("target", ["out", "out.npz"])
@pytest.mark.parametrize("name", ["atomic_write", "remove_leftovers"])
def test_one_of_two_simultaneous_runs_continues(quick, corpus, target, name, monkeypatch):
    """The second run starts and ends before the first one has written anything."""
    refused = []

    def install(replacement):
        for module in (outputs, audioset):
            monkeypatch.setattr(module, name, replacement, raising=False)

    def start_another(*arguments):
        install(function)
        with pytest.raises(OSError, match=f"{target}: in use by another run"):
            run(quick, [corpus], target)
        refused.append(target)
        return function(*arguments)

    function = getattr(outputs, name)
    install(start_another)
    summary, _ = run(quick, [corpus], target)
    assert refused
    assert summary.embedded == 11


def open_output(target):
    recordings = find_recordings(["corpus"])
    return outputs.open_output(outputs.parse_target(target), outputs.EmbeddingsWriter(), recordings, OPTIONS, "keep")


RUN_THAT_STOPS = """
import sys, time
from tests.fuzz import test_stops
from vggish_keras import corpus


def stop(path, _):
    if path.name == "05.wav":
        print("stops", flush=True)
        time.sleep(1_000)


corpus.embed_corpus(test_stops.Embedder(), corpus.plan(["corpus"], sys.argv[1]), lambda *_: None, stop)
"""


@pytest.fixture
def empty_corpus(tmp_path, monkeypatch):
    """A corpus for the embedder of `test_stops`, which reads no files, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("corpus").mkdir()
    for index in range(12):
        Path(f"corpus/{index:02}.wav").touch()


@pytest.mark.usefixtures("empty_corpus")
@pytest.mark.parametrize("target", ["out", "out.npz"])
def test_killed_process_leaves_no_lock(target):
    test_stops.embed(target)
    undisturbed = contents()
    forget()
    command = [sys.executable, "-c", RUN_THAT_STOPS, target]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "stops\n"
            for options in ({"resume": True}, {"overwrite": True}):
                with pytest.raises(OSError, match=f"^{target}: in use by another run$"):
                    test_stops.embed(target, **options)
        finally:
            process.kill()
    identity = os.stat(lock_of(target)).st_ino
    test_stops.embed(target, resume=True)
    test_stops.embed(target, overwrite=True)
    assert contents() == undisturbed
    assert os.stat(lock_of(target)).st_ino == identity  # never deleted or replaced


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete open files")
def test_database_locks_a_run_whose_lock_file_was_deleted(quick, corpus):
    def again(_):
        Path(".out.npz.lock").unlink(missing_ok=True)
        with pytest.raises(OSError, match="in use by another run"):
            run(quick, [corpus], "out.npz", resume=True)

    assert run(quick, [corpus], "out.npz", add=again)[0].embedded == 11


@pytest.mark.parametrize("target", ["out", "out.npz"])
def test_file_system_without_locks(quick, corpus, target, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", fail)
        with pytest.raises(
            OSError, match=rf"^{lock_of(target)} cannot be locked \(No locks available\): use a folder on"
        ):
            run(quick, [corpus], target)
    assert set(contents()) == {lock_of(target)}
    assert run(quick, [corpus], target)[0].embedded == 11


@pytest.mark.parametrize("target", TARGETS)
def test_results_survive_a_power_failure(eight_bits, corpus, target, assert_durable):
    for options in ({}, {"overwrite": True}, {"resume": True}):
        run(eight_bits, [corpus], target, **options)
    for name in contents().keys() - {lock_of(target)}:
        assert_durable(name)


@pytest.mark.usefixtures("corpus")
def test_database_is_consistent_after_a_power_failure():
    """In SQLite's WAL mode, NORMAL only waits for the disk when the log is moved to the database."""
    with contextlib.closing(open_output("out.npz")) as output:
        settings = [output._database.execute(f"PRAGMA {name}").fetchone() for name in ("journal_mode", "synchronous")]
    assert settings == [("wal",), (1,)]


def test_results_in_a_folder_reach_the_disk_together(quick, corpus, monkeypatch):
    """Once a second."""
    now, visible = 0.0, []

    def add(_):
        nonlocal now
        now += 0.3
        visible.append(len(list(Path("out").glob("[ab]/*.npz"))))

    monkeypatch.setattr(outputs, "time", SimpleNamespace(monotonic=lambda: now))
    files = [f"{corpus}/{'ab'[i % 2]}/{i:02}.wav" for i in range(12) if i != 4]
    run(quick, files, "out", add=add)
    assert visible == [1, 1, 1, 1, 5, 5, 5, 5, 9, 9, 9]
    assert len(list(Path("out").glob("[ab]/*.npz"))) == 11
    assert not Path("out/.vggish.unfinished").exists()


def test_result_that_cannot_be_moved_ends_the_run(quick, corpus, monkeypatch):
    """It was already reported as saved, so it cannot become a failure, and least of all that of a later recording."""
    now = 0.0

    def add(path):
        nonlocal now
        now += 0.6
        if path.name == "02.wav":  # which is moved with the next one
            Path("out/02.wav.npz").mkdir()

    monkeypatch.setattr(outputs, "time", SimpleNamespace(monotonic=lambda: now))
    with pytest.raises(OSError, match=r"Is a directory: 'out/02\.wav\.npz'"):
        run(quick, [corpus / "a"], "out", add=add)


def test_killed_run_is_shown_without_half_of_its_results(quick, corpus):
    run(quick, [corpus], "out")
    before = read_contents("out")
    Path("out/.vggish.unfinished/a").mkdir(parents=True)
    Path("out/.vggish.unfinished/a/12.wav.npz").write_bytes(b"half of it")
    assert read_contents("out") == before


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize("target", ["out", "out.npz"])
def test_only_one_of_many_runs_writes_at_a_time(target):
    open_now, opened, refusals = [], itertools.count(), set()

    def start_and_end():
        for _ in range(40):
            try:
                output = open_output(target)
            except OSError as error:
                refusals.add(str(error))
                continue
            with contextlib.closing(output):
                open_now.append(threading.get_ident())
                next(opened)
                output.finish([], [])
                Path("out/vggish.json").unlink(missing_ok=True)  # the next run creates it again
                time.sleep(0.0005)
                assert open_now == [threading.get_ident()]
                open_now.clear()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(start_and_end) for _ in range(4)]:
            future.result()
    assert next(opened) > 1
    assert refusals <= {f"{target}: in use by another run"}


def test_other_files_in_the_output_folder_are_kept(quick, corpus):
    Path("out").mkdir()
    Path("out/options.json").write_text("mine")
    run(quick, [corpus / "a" / "00.wav"], "out")
    assert Path("out/options.json").read_text() == "mine"
    for content in ("", "[]", "{", "[" * 100_000):
        Path("out/vggish.json").write_text(content)
        with pytest.raises(
            ValueError, match=r"out was not written by vggish: its options cannot be read|was started with"
        ):
            run(quick, [corpus / "a" / "00.wav"], "out", resume=True)


@pytest.mark.parametrize("target", TARGETS)
def test_only_the_output_remains(eight_bits, corpus, target):
    for bad in ("a/04.wav", "b/zz.wav"):
        (corpus / bad).unlink()
    run(eight_bits, [corpus / "b", corpus / "a" / "00.wav"], target)
    names = {str(path) for path in Path().rglob("*") if path.is_file() and "corpus" not in path.parts}
    names.remove(lock_of(target))
    if target == "out":
        assert names == {
            "out/vggish.json",
            "out/a/00.wav.npz",
            *(f"out/b/{i:02}.wav.npz" for i in range(1, 12, 2)),
        }
    elif target == "out.tfrecord":
        assert names == {f"out-0000{index}-of-00003.tfrecord" for index in range(3)} | {"out.tfrecord.vggish.json"}
    elif target == "out.csv":
        assert names == {target, "out.csv.vggish.json"}
    else:
        assert names == {target}


def test_database_that_cannot_be_closed_is_removed(quick, corpus, monkeypatch, file_size_limit):
    """On a full disk, SQLite leaves its log behind when it is closed."""

    class Full(sqlite3.Connection):
        def close(self):
            with file_size_limit(0):
                super().close()
            closed.append(Path("out.npz.unfinished-wal").exists())

    closed = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=Full))
    run(quick, [corpus / "b" / "01.wav"], "out.npz")
    assert closed[0]  # left behind by SQLite
    assert set(contents()) == {"out.npz", ".out.npz.lock"}
    assert not list(Path().glob("*unfinished*"))


def plant_leftover(path):
    """Creates the temporary file that a process leaves when it is killed while writing `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        shutil.copy(partial, "leftover")
    Path("leftover").rename(partial)
    Path(path).unlink()
    return partial


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("out", ["out/vggish.json", "out/failures.csv"]),
        ("out.npz", ["out.npz", "out.npz.failures.csv"]),
        ("out.csv", ["out.csv", "out.csv.vggish.json", "out.csv.failures.csv"]),
        ("out.tfrecord", ["out-00000-of-00003.tfrecord", "out-00002-of-00003.tfrecord", "out.tfrecord.vggish.json"]),
    ],
)
def test_leftovers_of_killed_runs_are_removed(eight_bits, corpus, target, files, resume):
    run(eight_bits, [corpus], target)
    undisturbed = contents()
    forget()
    leftovers = [plant_leftover(Path(file)) for file in files for _ in range(2)]
    Path(lock_of(target)).touch()
    if target == "out":
        leftovers += [Path("out/.vggish.unfinished/a/00.wav.npz"), Path("out/.vggish.unfinished/c/00.wav.npz")]
        for leftover in leftovers[-2:]:
            leftover.parent.mkdir(parents=True)
            leftover.write_bytes(b"half of it")
    others = [plant_leftover(Path("others.npz")), Path(".partial"), Path(leftovers[0].parent, ".x-y.partial")]
    for other in others:
        other.touch()
    run(eight_bits, [corpus], target, resume)
    assert not any(map(os.path.exists, leftovers))
    assert not Path("out/.vggish.unfinished").exists()
    for other in others:
        other.unlink()
    assert contents() == undisturbed


def test_leftovers_beside_a_complete_file_are_removed(quick, corpus):
    run(quick, [corpus / "b" / "01.wav"], "out.npz")
    complete = outputs.parse_target("out.npz"), outputs.EmbeddingsWriter()
    Path("out.npz.unfinished-wal").touch()
    with locked(Path(".out.npz.lock")), pytest.raises(OSError, match=r"^out\.npz: in use by another run$"):
        outputs.is_complete(*complete)
    assert outputs.is_complete(*complete)
    assert sorted(path.name for path in Path().iterdir()) == [".out.npz.lock", "corpus", "out.npz"]


def test_links_at_temporary_paths_are_not_followed(quick, corpus, monkeypatch):
    victim = Path("victim")
    victim.write_text("mine")
    for planted, target in {
        ".out.npz.lock": "out.npz",
        "out.npz.unfinished": "out.npz",
        "out.npz.unfinished-wal": "out.npz",
        "out/.vggish.lock": "out",
        "out/.vggish.unfinished": "out",
    }.items():
        Path(planted).parent.mkdir(exist_ok=True)
        Path(planted).symlink_to(victim.resolve())
        with pytest.raises(OSError, match=rf"{planted} is a link, expected|links: '{planted}'"):
            run(quick, [corpus], target)
        Path(planted).unlink()
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)  # a predictable name
    with atomic_write(Path("out.npz")) as partial:
        pass
    partial.symlink_to(victim.resolve())
    with pytest.raises(FileExistsError, match=r"File exists: 'out\.npz'"), atomic_write(Path("out.npz")):
        pass
    assert victim.read_text() == "mine"
    assert partial.is_symlink()


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_are_inside_the_output_folder(eight_bits, corpus, target):
    Path("work", "links").mkdir(parents=True)
    Path("work/links/b").symlink_to(Path("corpus/b").resolve())
    soundfile.write("work/11.wav", np.zeros(20_000), 16_000)
    inputs = ["corpus/*/../b/11.wav", "work/links/*/../a/00.wav", "work/*/../*.wav", "work/links/b/01.wav"]
    before = set(Path().rglob("*"))
    summary, _ = run(eight_bits, inputs, f"work/made/{target}" if target == "out" else target)
    assert summary.embedded == 4
    made = {str(path) for path in set(Path().rglob("*")) - before if path.is_file()}
    made.remove(f"work/made/{lock_of(target)}" if target == "out" else lock_of(target))
    if target == "out":
        below = ["corpus/b/11.wav", "corpus/a/00.wav", "work/11.wav", "work/links/b/01.wav"]
        assert made == {f"work/made/out/{name}" for name in ["vggish.json", *(f"{path}.npz" for path in below)]}
    else:
        assert all(name.startswith("out") for name in made)


# === Invalid inputs ===


def read_failures(path):
    with open(path, newline="", errors="surrogateescape") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("target", TARGETS)
def test_all_recordings_fail(eight_bits, corpus, target):
    for path in corpus.rglob("*.wav"):
        path.write_bytes(b"no audio")
    summary, _ = run(eight_bits, [corpus], target)
    assert len(summary.failures) == 13
    names = set(contents()) - {lock_of(target)}
    assert names == ({"out/failures.csv", "out/vggish.json"} if target == "out" else {f"{target}.failures.csv"})
    header, *rows = read_failures("out/failures.csv" if target == "out" else f"{target}.failures.csv")
    assert header == ["file", "reason"]
    assert [Path(row[0]) for row in rows] == [path for path, _ in summary.failures]
    assert all("cannot be read as audio" in row[1] for row in rows)


def test_list_of_failures_is_removed_without_failures(quick, corpus):
    run(quick, [corpus / "a"], "out")
    assert Path("out/failures.csv").exists()
    shutil.copy(corpus / "a" / "00.wav", corpus / "a" / "04.wav")
    run(quick, [corpus / "a"], "out", resume=True)
    assert not Path("out/failures.csv").exists()


def test_empty_list_of_failures_is_replaced(quick, corpus):
    Path("out").mkdir()
    Path("out/failures.csv").touch()
    run(quick, [corpus / "a"], "out")
    assert [row[0] for row in read_failures("out/failures.csv")] == ["file", "corpus/a/04.wav"]


def test_a_recording_that_fails_again_is_listed_once(quick, corpus):
    run(quick, [corpus / "a"], "out")
    run(quick, [(corpus / "a").absolute()], "out", resume=True)
    assert [row[0] for row in read_failures("out/failures.csv")] == ["file", str((corpus / "a" / "04.wav").absolute())]


def test_failures_are_kept_until_they_are_retried(quick, corpus):
    """A later run of fewer recordings, and an interrupted one, do not know about them."""
    run(quick, [corpus / "a"], "out")
    failures = read_failures("out/failures.csv")
    run(quick, [corpus / "a" / "00.wav"], "out", resume=True)
    assert read_failures("out/failures.csv") == failures
    (corpus / "a" / "04.wav").unlink()
    run(quick, [corpus / "a" / "00.wav"], "out", resume=True)
    assert not Path("out/failures.csv").exists()


@pytest.mark.parametrize("target", ["out", "out.npz"])
def test_interrupted_run_keeps_the_failures_of_the_one_before(quick, corpus, target):
    def interrupt(path):
        if path.name == "0.wav":
            raise KeyboardInterrupt

    run(quick, [corpus], target)
    list_of_failures = "out/failures.csv" if target == "out" else f"{target}.failures.csv"
    failures = read_failures(list_of_failures)
    assert len(failures) == 3
    soundfile.write(corpus / "0.wav", np.zeros(20_000), 16_000)  # before those that failed
    with pytest.raises(KeyboardInterrupt):
        run(quick, [corpus], target, resume=True, add=interrupt)
    assert sorted(read_failures(list_of_failures)) == sorted(failures)


def test_output_in_a_folder_of_another_is_not_its_part_if_it_has_different_options(quick, corpus):
    run(quick, [corpus / "b"], "out")
    before = read_contents("out")
    run(Embedder(FakeEngine(), hop_seconds=0.5), [corpus / "b"], "out/half")
    assert read_contents("out") == before
    assert read_contents("out/half").rows > before.rows


def test_outputs_in_a_folder_are_read_together(quick, corpus):
    for name in ("a", "b"):
        run(quick, [corpus / name], f"out/{name}")
    together = read_contents("out").rows
    assert together == sum(read_contents(f"out/{name}").rows for name in ("a", "b"))
    run(quick, [corpus], "out", resume=True)
    assert read_contents("out").rows == together


def test_outputs_of_different_options_are_not_read_together(quick, corpus):
    run(quick, [corpus / "a"], "out/a")
    run(Embedder(FakeEngine(), hop_seconds=0.5), [corpus / "b"], "out/b")
    with pytest.raises(ValueError, match=r"^out/a and out/b were made with different options: read one at a time$"):
        read_contents("out")


def test_damaged_options_of_a_subfolder_do_not_matter(quick, corpus):
    run(quick, [corpus], "out")
    before = read_contents("out")
    Path("out/a/vggish.json").touch()
    assert read_contents("out") == before


@pytest.mark.parametrize("target", ["corpus/out", "corpus/out.npz"])
def test_pattern_does_not_match_the_output(quick, corpus, target):
    inputs = ["corpus/b/0*.wav", "corpus/**/*.*"]
    first, _ = run(quick, inputs, target)
    again = plan(inputs, target, resume=True)
    assert again.recordings.paths == find_recordings([inputs[0], "corpus/a/*.wav", "corpus/b/*.wav"]).paths
    assert len(again.recordings.paths) == first.embedded + len(first.failures)


def test_too_long_output_name_is_a_failure(quick, corpus):
    """The name is too long for file systems once the suffix of the output is added."""
    long = corpus / "a" / ("x" * 248 + ".wav")
    shutil.copy(corpus / "a" / "00.wav", long)
    summary, _ = run(quick, [corpus], "out")
    assert (summary.embedded, len(summary.failures)) == (11, 3)
    assert "File name too long" in dict(summary.failures)[long]
    assert run(quick, [corpus], "out.npz")[0].embedded == 12


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_too_long_name_does_not_affect_others(eight_bits, corpus, target, resume):
    """The name already has the maximum length."""
    shutil.rmtree(corpus / "a")
    (corpus / "b" / "zz.wav").unlink()
    long = corpus / "b" / ("x" * 251 + ".wav")
    shutil.copy(corpus / "b" / "01.wav", long)
    run(eight_bits, [corpus / "b" / "01.wav"], target)
    summary, _ = run(eight_bits, [corpus / "b"], target, resume, overwrite=not resume)
    if target != "out":
        assert (summary.embedded, summary.failures) == (7, [])
        return
    assert summary.skipped + summary.embedded == 6
    ((path, reason),) = summary.failures
    assert path == long
    assert f"File name too long: 'out/{long.name}.npz'" in reason
    assert len(list(Path("out").glob("*.npz"))) == 6


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("first", ["00.wav", "00.wav.npz"])
def test_folder_at_the_path_of_an_output_fails_one_recording(quick, corpus, first, resume):
    (corpus / "a" / "00.wav.npz").mkdir()
    shutil.copy(corpus / "a" / "00.wav", corpus / "a" / "00.wav.npz" / "1.wav")
    second = "00.wav.npz/1.wav" if first == "00.wav" else "00.wav"
    for embedded in (5, 0 if resume else 5):
        summary, _ = run(quick, [corpus / "a" / first, corpus / "a"], "out", resume, overwrite=not resume)
        assert summary.embedded == embedded
        assert set(dict(summary.failures)) == {corpus / "a" / second, corpus / "a" / "04.wav"}


def test_equal_names_do_not_collide(quick, corpus):
    """The same name in two folders, and with two suffixes in the same folder."""
    shutil.copy(corpus / "a" / "00.wav", corpus / "b" / "00.wav")
    samples, rate = soundfile.read(corpus / "a" / "02.wav")
    soundfile.write(corpus / "a" / "00.mp3", samples, rate)
    inputs = [corpus / "a", corpus / "b" / "00.wav", corpus / "a" / "00.mp3"]
    run(quick, inputs, "out")
    made = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.npz"))
    assert made == ["a/00.mp3.npz", "a/00.wav.npz", *(f"a/{i:02}.wav.npz" for i in (2, 6, 8, 10)), "b/00.wav.npz"]
    assert len({Path("out", name).read_bytes() for name in made}) == 7


UNUSUAL = [
    "a b.wav",
    "line\nend.wav",
    "quote'\"comma,.wav",
    "[x]*?.wav",
    os.fsdecode(b"\xff\xfe.wav"),
    "-dash.wav",
    "ü.WAV",
]


@pytest.mark.parametrize("target", TARGETS)
def test_unusual_names(eight_bits, tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    folder = Path("corpus")
    folder.mkdir()
    soundfile.write("good.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 20_000), 16_000)
    for name in UNUSUAL:
        shutil.copy("good.wav", folder / name)
        (folder / f"bad {name}").touch()
    Path("good.wav").unlink()
    summary, _ = run(eight_bits, [folder], target, shards=1)
    assert summary.embedded == len(UNUSUAL)
    good = {str(folder / name) for name in UNUSUAL}
    (failures,) = Path().rglob("*failures.csv")
    assert {row[0] for row in read_failures(failures)[1:]} == {str(folder / f"bad {name}") for name in UNUSUAL}
    if target == "out":
        found = {str(folder / path.name[:-4]) for path in Path("out").iterdir() if path.suffix == ".npz"}
    elif target == "out.npz":
        found = set(np.load(target)["files"].tolist())
    elif target == "out.csv":
        with open(target, newline="", errors="surrogateescape") as file:
            found = {row[0] for row in list(csv.reader(file))[1:]}
    elif target == "out.parquet":
        import pyarrow.parquet

        found = set(pyarrow.parquet.read_table(target)["file"].to_pylist())
        good = {name.encode(errors="surrogateescape").decode(errors="backslashreplace") for name in good}
    else:
        found = {record.video_id for record in records.read(target)}
    assert found == good


def test_files_that_change_while_they_are_read(quick, corpus):
    """Files that grow, vanish or are replaced are read as they were opened; a truncated file raises."""
    rng = np.random.default_rng(1)
    paths = [corpus / f"{name}.wav" for name in ("grows", "vanishes", "replaced", "cut")]
    for path in paths:
        soundfile.write(path, rng.uniform(-0.5, 0.5, 900_000), 16_000)
    expected = [quick.embed(path) for path in paths]

    def change(path):
        if path.stem == "grows":
            with path.open("ab") as file:
                file.write(bytes(100_000))
        elif path.stem == "vanishes":
            path.unlink()
        elif path.stem == "replaced":
            soundfile.write("new.wav", rng.uniform(-0.5, 0.5, 900_000), 16_000)
            Path("new.wav").replace(path)
        else:
            os.truncate(path, 300_000)

    for path, embeddings in zip(paths, expected, strict=True):
        changed = []

        def on_audio(*_, path=path, changed=changed):
            if not changed:
                changed.append(change(path))

        ((_, result),) = quick.embed_many([path], on_audio)
        if path.stem == "cut":
            assert isinstance(result, ValueError)
            assert "cut.wav is truncated: it has" in str(result)
        else:
            np.testing.assert_array_equal(result.values, embeddings.values)


def test_wrong_sizes_in_headers(quick, corpus):
    content = (corpus / "a" / "00.wav").read_bytes()  # 40,000 bytes of samples
    expected = quick.embed(corpus / "a" / "00.wav").values

    def with_size(name, size):
        path = corpus / name
        path.write_bytes(content[:40] + int(size).to_bytes(4, "little") + content[44:])
        return path

    paths = [with_size("streamed.wav", 2**32 - 1), with_size("less.wav", 32_000), with_size("more.wav", 50_000)]
    (_, streamed), (_, less), (_, more) = quick.embed_many([*paths])
    np.testing.assert_array_equal(streamed.values, expected)
    np.testing.assert_array_equal(less.values[0], expected[0])
    assert str(more) == f"{paths[2]} is truncated: it has 40000 of 50000 bytes"


def test_truncated_mp3_is_read_to_its_end(quick, corpus):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)
    soundfile.write("whole.mp3", samples, 16_000)
    content = Path("whole.mp3").read_bytes()
    Path("half.mp3").write_bytes(content[: len(content) // 2])
    (_, whole), (_, half) = quick.embed_many([Path("whole.mp3"), Path("half.mp3")])
    assert isinstance(half, ValueError) or 3 <= len(half.times) <= 6
    assert len(whole.times) == 10


@pytest.mark.filterwarnings("ignore::UserWarning")  # about the damage
def test_mutated_files_do_not_affect_others(quick, corpus, monkeypatch):
    """Embeds 500 files with changed, removed or inserted bytes, among valid ones."""
    rng = np.random.default_rng(0)
    good = corpus / "a" / "00.wav"
    expected = dict(quick.embed_many([good]))[good]
    samples, rate = soundfile.read(good)
    originals = []
    for suffix in ("wav", "flac", "ogg", "mp3", "aiff"):
        soundfile.write(f"original.{suffix}", samples, rate)
        originals.append((suffix, Path(f"original.{suffix}").read_bytes()))
    paths = []
    for index in range(500):
        suffix, content = originals[index % len(originals)]
        mutated = bytearray(content)
        for _ in range(rng.integers(1, 8)):
            # Half of the changes are in the header, which decoders trust.
            place = int(rng.integers(0, 64 if rng.random() < 0.5 else len(mutated)))
            change = rng.integers(3)
            if change == 0:
                mutated[place] = rng.integers(256)
            elif change == 1:
                del mutated[place : place + int(rng.integers(1, 200))]
            else:
                mutated[place:place] = rng.bytes(int(rng.integers(1, 200)))
        path = corpus / f"mutated{index:03}.{suffix}"
        path.write_bytes(mutated)
        paths += [path, good] if index % 10 == 0 else [path]
    results = list(quick.embed_many(paths))
    assert [path for path, _ in results] == paths
    failed = 0
    for path, result in results:
        if path == good:
            np.testing.assert_array_equal(result.values, expected.values)
        elif isinstance(result, Exception):
            assert isinstance(result, (ValueError, OSError)), repr(result)
            assert path.name in str(result)
            failed += 1
        else:
            assert isinstance(result, Embeddings)
            assert np.all(np.isfinite(result.values))
    assert 100 < failed < 500

    monkeypatch.setattr("vggish_keras.embedder.Embedder", lambda **_: quick)
    answer = CliRunner().invoke(main, ["embed", *map(str, paths), "-o", "out"])
    assert answer.exit_code == 1
    assert len(read_failures("out/failures.csv")) - 1 == failed
    assert len(list(Path("out").rglob("*.npz"))) == 501 - failed


# === Failing disks ===


@pytest.mark.parametrize("target", ["/proc/nowhere/", "/proc/nowhere.npz"])
def test_unwritable_output_raises_at_once(quick, corpus, target, monkeypatch):
    monkeypatch.setattr(quick, "embed_many", None)
    for start in (lambda: run(quick, [corpus], target), plan([corpus], target).check_output):
        with pytest.raises(OSError, match="/proc/nowhere"):
            start()


@pytest.fixture
def tiny_disk(tmp_path):
    """An 8 MB file system."""
    with mounted_disk(tmp_path / "disk", "8m") as folder:
        yield folder


@pytest.mark.parametrize("target", TARGETS)
def test_read_only_disk_raises(quick, corpus, tiny_disk, target):
    path, lock = tiny_disk / target, tiny_disk / lock_of(target)
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    for start in (lambda: run(quick, [corpus], str(path)), plan([corpus], str(path)).check_output):
        with pytest.raises(OSError, match=f"Read-only file system: '({path}|{lock})'"):
            start()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to write to")
def test_errors_name_the_file(tmp_path):
    def full(_):
        with open("/dev/full", "wb", buffering=0) as file:
            file.write(b"x")

    missing = tmp_path / "missing" / "x.csv"
    for path, write, message in (
        (tmp_path / "x.csv", full, f"No space left on device: '{tmp_path}/x.csv'"),
        (tmp_path / "x.csv", lambda _: Path("other").read_bytes(), "No such file or directory: 'other'"),
        (missing, Path.touch, f"No such file or directory: '{missing}'"),
    ):
        with pytest.raises(OSError, match=message), atomic_write(path) as partial:
            write(partial)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_full_disk_raises_and_keeps_finished_results(eight_bits, corpus, tiny_disk, target):
    ballast = tiny_disk / "ballast"
    done = itertools.count()

    def fill(_):
        if next(done) == 3:
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(1_000)):
                    pass

    path = str(tiny_disk / target)
    with pytest.raises(OSError, match=r"No space left|disk is full") as raised:
        run(eight_bits, [corpus], path, add=fill)
    assert path in str(raised.value)
    ballast.unlink()
    summary, _ = run(eight_bits, [corpus], path, resume=True)
    assert summary.skipped > 0
    assert summary.skipped + summary.embedded == 11
    run(eight_bits, [corpus], target)
    undisturbed = contents()
    for file in tiny_disk.rglob("*"):
        if file.is_file() and file.suffix != ".unfinished":
            assert file.read_bytes() == undisturbed[str(file.relative_to(tiny_disk))]

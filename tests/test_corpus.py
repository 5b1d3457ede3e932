"""Corpus runs that are stopped, and inputs and disks that fail."""

import concurrent.futures
import contextlib
import csv
import itertools
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

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from vggish_keras import records
from vggish_keras._atomic import atomic_write
from vggish_keras.cli import main
from vggish_keras.corpus import audioset, output as outputs
from vggish_keras.corpus.audioset import RecordWriter
from vggish_keras.corpus.run import embed_corpus
from vggish_keras.embedder import Embedder
from vggish_keras.embeddings import Embeddings
from vggish_keras.recordings import find_recordings

OPTIONS = {"weights": "w", "hop": 0.96}
TARGETS = ("out", "out.npz", "out.csv", "out.parquet", "out.tfrecord")


@pytest.fixture
def quick(fake_network):
    return Embedder(None)


@pytest.fixture
def eight_bits(quick, monkeypatch):
    """An embedder whose values are uint8, as every output takes them."""
    embed_full_batch = quick.embed_full_batch
    monkeypatch.setattr(quick, "embed_full_batch", lambda windows: (50 + 20 * embed_full_batch(windows)).astype("u1"))
    monkeypatch.setattr(quick, "_dtype", np.uint8)
    return quick


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """A folder of twelve recordings, two of them bad, as the present one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for index in range(12):
        path = Path("corpus", "ab"[index % 2], f"{index:02}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, 20_000 * (1 + index % 3)), 16_000)
    Path("corpus/a/04.wav").write_bytes(b"no audio")
    Path("corpus/b/zz.wav").touch()  # the last one
    return Path("corpus")


def run(embedder, inputs, target, resume=False, shards=3, add=None):
    """A run as the command line makes it; `add` is called after each recording."""
    recordings = find_recordings(inputs)
    output = outputs.open_output(
        outputs.check_target(target), recordings, OPTIONS, resume, RecordWriter(0.96, shards, None)
    )
    told = []

    def on_result(path, result):
        told.append((path, result))
        if add:
            add(path)

    return embed_corpus(embedder, recordings, output, {}, lambda _: None, on_result), told


def contents():
    """What lies in the present folder beside the corpus, by name."""
    files = [path for path in Path().rglob("*") if path.is_file() and path.parts[0] not in ("corpus", "disk")]
    return {str(path): path.read_bytes() for path in files if ".unfinished" not in path.name}


def forget():
    """Removes what lies in the present folder beside the corpus."""
    for path in Path().iterdir():
        if path.is_dir() and path.name not in ("corpus", "disk"):
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


# === Stopped and taken up ===


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


@pytest.mark.parametrize("target", ["out", "out.npz"])
def test_killed_in_the_middle(corpus, exported_narrow, target):
    """kill -9 of the command line while it runs."""
    for index in range(90):
        shutil.copy(corpus / "b" / "05.wav", corpus / "b" / f"more{index:02}.wav")
    arguments = ["embed", "corpus", "--weights", str(exported_narrow), "--batch-size", "2", "-o", target]
    assert CliRunner().invoke(main, arguments).exit_code == 1  # of the bad files
    undisturbed = contents()
    forget()

    def some_are_finished():
        if target == "out":
            return len(list(Path("out").rglob("*.npz"))) >= 5
        log = Path("out.npz.unfinished-wal")  # of the database, which is locked: some 8 kB for each recording
        return log.exists() and log.stat().st_size > 80_000

    process = subprocess.Popen([Path(sys.executable).with_name("vggish"), *arguments])
    while not some_are_finished():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    result = CliRunner().invoke(main, [*arguments, "--resume"])
    assert result.exit_code == 1
    assert 0 < int(re.search(r", (\d+) were there", result.output)[1]) < 100
    assert contents() == undisturbed


def test_a_stopped_run_is_not_overwritten_by_mistake(quick, corpus):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(quick, [corpus], "out.csv", add=interrupt)
    with pytest.raises(
        FileExistsError, match=r"out\.csv\.unfinished is what a stopped run finished: resume it, or remove"
    ):
        run(quick, [corpus], "out.csv")


@pytest.fixture(params=["out", "out.npz"])
def stopped(request, quick, corpus):
    """The target of a run that was stopped after its first recordings."""

    def interrupt(path):
        if path.name == "06.wav":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(quick, [corpus], request.param, add=interrupt)
    return request.param


def test_only_the_same_options_are_resumed(quick, corpus, stopped, monkeypatch):
    monkeypatch.setitem(OPTIONS, "hop", 0.5)
    with pytest.raises(ValueError, match=r"was begun with hop 0\.96, not with hop 0\.5: give another output"):
        run(quick, [corpus], stopped, resume=True)


def test_only_the_same_corpus_is_resumed(quick, corpus, stopped, monkeypatch):
    """The same names in another folder, or from another working folder, are other recordings."""
    shutil.copytree(corpus, "elsewhere/corpus")
    with pytest.raises(ValueError, match=r"was begun with recordings .*corpus, not with recordings .*elsewhere/corpus"):
        run(quick, ["elsewhere/corpus"], stopped, resume=True)
    target = str(Path(stopped).absolute())
    monkeypatch.chdir("elsewhere")
    with pytest.raises(ValueError, match="was begun with recordings"):
        run(quick, ["corpus"], target, resume=True)
    # However the corpus is named, it is the same.
    summary, _ = run(quick, [Path("..", corpus)], target, resume=True)
    assert summary.skipped > 0


def test_a_folder_of_version_0_1_is_resumed(quick, corpus, monkeypatch):
    run(quick, [corpus], "out")
    options = Path("out/vggish.json").rename("out/vggish-keras.json").read_text()
    summary, _ = run(quick, [corpus], "out", resume=True)
    assert (summary.skipped, summary.embedded) == (11, 0)
    assert Path("out/vggish.json").read_text() == options
    assert not Path("out/vggish-keras.json").exists()
    Path("out/vggish.json").rename("out/vggish-keras.json")
    monkeypatch.setitem(OPTIONS, "hop", 0.5)
    with pytest.raises(ValueError, match=r"was begun with hop 0.96, not with hop 0.5"):
        run(quick, [corpus], "out", resume=True)


def test_options_do_not_mix_in_a_folder(quick, corpus, monkeypatch):
    """Not by a run that is stopped and resumed either."""
    run(quick, [corpus], "out")
    monkeypatch.setitem(OPTIONS, "hop", 0.5)
    for resume in (False, True):
        with pytest.raises(ValueError, match="out was begun with hop"):
            run(quick, [corpus], "out", resume=resume)


def test_a_new_run_keeps_nothing_of_an_old_one(quick, corpus):
    run(quick, [corpus], "out")
    replaced = corpus / "b" / "11.wav"
    soundfile.write(replaced, np.zeros(20_000), 16_000)

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(quick, [corpus], "out", add=interrupt)
    run(quick, [corpus], "out", resume=True)
    np.testing.assert_array_equal(np.load("out/b/11.wav.npz")["values"], quick.embed(replaced).values)


def test_finished_recordings_must_be_named_again(quick, corpus, stopped):
    summary = None
    if stopped == "out":  # where they stay
        summary, _ = run(quick, [corpus / "b", corpus / "a" / "00.wav"], stopped, resume=True)
        assert summary.skipped > 0
        return
    recordings = find_recordings([corpus])._replace(paths=[corpus / "b" / "11.wav"])
    with pytest.raises(ValueError, match=r"holds \d recordings that are not named now, such as a/00\.wav"):
        outputs.FileOutput(Path(stopped), recordings, OPTIONS, resume=True)


@pytest.mark.parametrize("target", ["out", "out.npz"])
def test_what_was_bad_and_is_good_now_is_embedded(quick, corpus, target):
    run(quick, [corpus], target)
    shutil.copy(corpus / "a" / "00.wav", corpus / "a" / "04.wav")
    summary, _ = run(quick, [corpus], target, resume=True)
    assert (summary.skipped, summary.embedded) == (11, 1)
    assert list(dict(summary.failures)) == [corpus / "b" / "zz.wav"]
    if target == "out":
        assert Path("out/a/04.wav.npz").exists()
    else:
        assert str(corpus / "a" / "04.wav") in np.load(target)["files"]
    # A new run begins anew.
    summary, _ = run(quick, [corpus], target)
    assert (summary.skipped, summary.embedded) == (0, 12)


def test_two_runs_do_not_write_to_one_output(quick, corpus, stopped):
    def again(_):
        with pytest.raises(OSError, match="another run writes to it"):
            run(quick, [corpus], stopped, resume=True)

    summary, _ = run(quick, [corpus], stopped, resume=True, add=again)
    assert summary.embedded > 0


@pytest.mark.parametrize("target", ["out", "out.npz"])
@pytest.mark.parametrize("name", ["atomic_write", "remove_leftovers"])
def test_of_two_runs_that_begin_at_once_one_goes_on(quick, corpus, target, name, monkeypatch):
    """The second begins and ends before the first has written anything."""
    refused = []

    def install(replacement):
        for module in (outputs, audioset):
            monkeypatch.setattr(module, name, replacement, raising=False)

    def begin_another(*arguments):
        install(function)
        with pytest.raises(OSError, match=f"{target}: another run writes to it"):
            run(quick, [corpus], target)
        refused.append(target)
        return function(*arguments)

    function = getattr(outputs, name)
    install(begin_another)
    summary, _ = run(quick, [corpus], target)
    assert refused
    assert summary.embedded == 11


def open_quickly(target):
    return outputs.open_output(
        outputs.check_target(target),
        find_recordings(["corpus"]),
        OPTIONS,
        resume=True,
        write_records=RecordWriter(0.96, 1, None),
    )


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize("target", ["out", "out.npz"])
def test_the_lock_of_a_run_that_ends_is_no_lock(target, monkeypatch):
    """A run finds the lock of one that ends, and before it has it, a third begins."""
    first, third = open_quickly(target), []

    def late(descriptor):
        monkeypatch.setattr(outputs, "_try_lock", try_lock)
        first.close()
        third.append(open_quickly(target))
        return try_lock(descriptor)

    try_lock = outputs._try_lock
    monkeypatch.setattr(outputs, "_try_lock", late)
    with pytest.raises(OSError, match="another run writes to it"):
        open_quickly(target)
    third[0].close()
    open_quickly(target).close()
    assert not list(Path().rglob("*lock"))


@pytest.mark.usefixtures("corpus")
@pytest.mark.parametrize("target", ["out", "out.npz"])
def test_no_two_of_many_runs_write_at_once(target):
    open_now, opened, refusals = [], itertools.count(), set()

    def begin_and_end():
        for _ in range(40):
            try:
                output = open_quickly(target)
            except OSError as error:
                refusals.add(str(error))
                continue
            with contextlib.closing(output):
                open_now.append(threading.get_ident())
                next(opened)
                output.finish([], [])
                Path("out/vggish.json").unlink(missing_ok=True)  # the next run makes it anew
                time.sleep(0.0005)
                assert open_now == [threading.get_ident()]
                open_now.clear()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(begin_and_end) for _ in range(4)]:
            future.result()
    assert next(opened) > 1
    assert refusals <= {f"{target}: another run writes to it"}
    assert not list(Path().rglob("*lock"))


def test_the_users_own_files_stay(quick, corpus):
    Path("out").mkdir()
    Path("out/options.json").write_text("mine")
    run(quick, [corpus / "a" / "00.wav"], "out")
    assert Path("out/options.json").read_text() == "mine"
    for content in ("", "[]", "{"):
        Path("out/vggish.json").write_text(content)
        with pytest.raises(
            ValueError, match=r"out is no output of an earlier run: its options cannot be read|was begun with"
        ):
            run(quick, [corpus / "a" / "00.wav"], "out")


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_left_but_the_output(eight_bits, corpus, target):
    for bad in ("a/04.wav", "b/zz.wav"):
        (corpus / bad).unlink()
    run(eight_bits, [corpus / "b", corpus / "a" / "00.wav"], target)
    names = {str(path) for path in Path().rglob("*") if path.is_file() and "corpus" not in path.parts}
    if target == "out":
        assert names == {
            "out/vggish.json",
            "out/a/00.wav.npz",
            *(f"out/b/{i:02}.wav.npz" for i in range(1, 12, 2)),
        }
    elif target == "out.tfrecord":
        assert names == {f"out-0000{index}-of-00003.tfrecord" for index in range(3)}
    else:
        assert names == {target}


def test_a_database_that_cannot_be_closed_is_removed(quick, corpus, monkeypatch, file_size_limit):
    """On a full disk SQLite leaves its log when it is closed."""

    class Full(sqlite3.Connection):
        def close(self):
            with file_size_limit(0):
                super().close()
            closed.append(Path("out.npz.unfinished-wal").exists())

    closed = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=Full))
    run(quick, [corpus / "b" / "01.wav"], "out.npz")
    assert closed[0]  # it would be left
    assert set(contents()) == {"out.npz"}
    assert not list(Path().glob("*unfinished*"))


def plant_leftover(path):
    """What a process that is killed while it writes a file leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as aside:
        shutil.copy(aside, "leftover")
    Path("leftover").rename(aside)
    Path(path).unlink()
    return aside


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("target", "files"),
    [
        ("out", ["out/vggish.json", "out/a/00.wav.npz", "out/b/11.wav.npz", "out/failures.csv"]),
        ("out.npz", ["out.npz", "out.npz.failures.csv"]),
        ("out.tfrecord", ["out-00000-of-00003.tfrecord", "out-00002-of-00003.tfrecord"]),
    ],
)
def test_what_killed_runs_left_goes(eight_bits, corpus, target, files, resume):
    run(eight_bits, [corpus], target)
    undisturbed = contents()
    forget()
    leftovers = [plant_leftover(Path(file)) for file in files for _ in range(2)]
    lock = Path("out/vggish.lock" if target == "out" else f"{target}.unfinished-lock")
    lock.touch()
    others = [plant_leftover(Path("others.npz")), Path(".partial"), Path(leftovers[0].parent, ".x-y.partial")]
    for other in others:
        other.touch()
    run(eight_bits, [corpus], target, resume)
    assert not any(map(os.path.exists, [*leftovers, lock]))
    for other in others:
        other.unlink()
    assert contents() == undisturbed


def test_what_is_left_beside_a_complete_file_goes(quick, corpus):
    run(quick, [corpus / "b" / "01.wav"], "out.npz")
    complete = outputs.check_target("out.npz"), RecordWriter(0.96, 1, None)
    for suffix in ("-lock", "-wal"):
        Path(f"out.npz.unfinished{suffix}").touch()
    assert outputs.is_complete(*complete)
    assert sorted(path.name for path in Path().iterdir()) == ["corpus", "out.npz"]
    with (
        outputs._locked(Path("out.npz.unfinished-lock"), Path("out.npz")),
        pytest.raises(OSError, match="another run writes to it"),
    ):
        outputs.is_complete(*complete)


def test_links_in_place_of_temporary_files_are_not_followed(quick, corpus, monkeypatch):
    victim = Path("victim")
    victim.write_text("mine")
    for planted, target in {
        "out.npz.unfinished": "out.npz",
        "out.npz.unfinished-wal": "out.npz",
        "out.npz.unfinished-lock": "out.npz",
        "out/vggish.lock": "out",
    }.items():
        Path(planted).parent.mkdir(exist_ok=True)
        Path(planted).symlink_to(victim.resolve())
        with pytest.raises(OSError, match=rf"{planted} is a link, expected|links: '{planted}'"):
            run(quick, [corpus], target)
        Path(planted).unlink()
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)  # the name is known
    with atomic_write(Path("out.npz")) as aside:
        pass
    aside.symlink_to(victim.resolve())
    with pytest.raises(FileExistsError, match=r"File exists: 'out\.npz'"), atomic_write(Path("out.npz")):
        pass
    assert victim.read_text() == "mine"
    assert aside.is_symlink()


@pytest.mark.parametrize("target", TARGETS)
def test_outputs_stay_in_the_output_folder(eight_bits, corpus, target):
    Path("work", "links").mkdir(parents=True)
    Path("work/links/b").symlink_to(Path("corpus/b").resolve())
    soundfile.write("work/11.wav", np.zeros(20_000), 16_000)
    inputs = ["corpus/*/../b/11.wav", "work/links/*/../a/00.wav", "work/*/../*.wav", "work/links/b/01.wav"]
    before = set(Path().rglob("*"))
    summary, _ = run(eight_bits, inputs, f"work/made/{target}" if target == "out" else target)
    assert summary.embedded == 4
    made = {str(path) for path in set(Path().rglob("*")) - before if path.is_file()}
    if target == "out":
        below = ["corpus/b/11.wav", "corpus/a/00.wav", "work/11.wav", "work/links/b/01.wav"]
        assert made == {f"work/made/out/{name}" for name in ["vggish.json", *(f"{path}.npz" for path in below)]}
    else:
        assert all(name.startswith("out") for name in made)


# === Bad inputs ===


def read_failures(path):
    with open(path, newline="", errors="surrogateescape") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("target", TARGETS)
def test_every_file_bad(eight_bits, corpus, target):
    for path in corpus.rglob("*.wav"):
        path.write_bytes(b"no audio")
    summary, _ = run(eight_bits, [corpus], target)
    assert len(summary.failures) == 13
    names = set(contents())
    assert names == ({"out/failures.csv", "out/vggish.json"} if target == "out" else {f"{target}.failures.csv"})
    header, *rows = read_failures("out/failures.csv" if target == "out" else f"{target}.failures.csv")
    assert header == ["file", "reason"]
    assert [Path(row[0]) for row in rows] == [path for path, _ in summary.failures]
    assert all("cannot be read as audio" in row[1] for row in rows)


def test_the_list_of_failures_goes_with_the_failures(quick, corpus):
    run(quick, [corpus / "a"], "out")
    assert Path("out/failures.csv").exists()
    run(quick, [corpus / "a" / "00.wav"], "out")
    assert not Path("out/failures.csv").exists()


def test_a_name_that_is_too_long_is_a_failure(quick, corpus):
    """With the suffix of the output it is longer than file systems take."""
    long = corpus / "a" / ("x" * 248 + ".wav")
    shutil.copy(corpus / "a" / "00.wav", long)
    summary, _ = run(quick, [corpus], "out")
    assert (summary.embedded, len(summary.failures)) == (11, 3)
    assert "File name too long" in dict(summary.failures)[long]
    assert run(quick, [corpus], "out.npz")[0].embedded == 12


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_a_name_that_is_too_long_takes_no_other_along(eight_bits, corpus, target, resume):
    """No suffix can be added to it."""
    shutil.rmtree(corpus / "a")
    (corpus / "b" / "zz.wav").unlink()
    long = corpus / "b" / ("x" * 251 + ".wav")
    shutil.copy(corpus / "b" / "01.wav", long)
    run(eight_bits, [corpus / "b" / "01.wav"], target)
    summary, _ = run(eight_bits, [corpus / "b"], target, resume)
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
def test_a_folder_named_as_an_output_is_a_failure_of_one(quick, corpus, first, resume):
    (corpus / "a" / "00.wav.npz").mkdir()
    shutil.copy(corpus / "a" / "00.wav", corpus / "a" / "00.wav.npz" / "1.wav")
    second = "00.wav.npz/1.wav" if first == "00.wav" else "00.wav"
    for embedded in (5, 0 if resume else 5):
        summary, _ = run(quick, [corpus / "a" / first, corpus / "a"], "out", resume)
        assert summary.embedded == embedded
        assert set(dict(summary.failures)) == {corpus / "a" / second, corpus / "a" / "04.wav"}


def test_names_that_collide(quick, corpus):
    """One name in two folders, and two suffixes of one name in one."""
    shutil.copy(corpus / "a" / "00.wav", corpus / "b" / "00.wav")
    samples, rate = soundfile.read(corpus / "a" / "02.wav")
    soundfile.write(corpus / "a" / "00.mp3", samples, rate)
    inputs = [corpus / "a", corpus / "b" / "00.wav", corpus / "a" / "00.mp3"]
    run(quick, inputs, "out")
    made = sorted(str(path.relative_to("out")) for path in Path("out").rglob("*.npz"))
    assert made == ["a/00.mp3.npz", "a/00.wav.npz", *(f"a/{i:02}.wav.npz" for i in (2, 6, 8, 10)), "b/00.wav.npz"]
    assert len({Path("out", name).read_bytes() for name in made}) == 7


ODD = [
    "a b.wav",
    "line\nend.wav",
    "quote'\"comma,.wav",
    "[x]*?.wav",
    os.fsdecode(b"\xff\xfe.wav"),
    "-dash.wav",
    "ü.WAV",
]


@pytest.mark.parametrize("target", TARGETS)
def test_odd_names(eight_bits, tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    folder = Path("corpus")
    folder.mkdir()
    soundfile.write("good.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 20_000), 16_000)
    for name in ODD:
        shutil.copy("good.wav", folder / name)
        (folder / f"bad {name}").touch()
    Path("good.wav").unlink()
    summary, _ = run(eight_bits, [folder], target, shards=1)
    assert summary.embedded == len(ODD)
    good = {str(folder / name) for name in ODD}
    (failures,) = Path().rglob("*failures.csv")
    assert {row[0] for row in read_failures(failures)[1:]} == {str(folder / f"bad {name}") for name in ODD}
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
    """One grows, one vanishes, one is replaced: what was opened is read. One is cut off: that is told."""
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

        def on_audio(_, path=path, changed=changed):
            if not changed:
                changed.append(change(path))

        ((_, result),) = quick.embed_many([path], on_audio)
        if path.stem == "cut":
            assert isinstance(result, ValueError)
            assert "cut.wav is truncated: it has" in str(result)
        else:
            np.testing.assert_array_equal(result.values, embeddings.values)


def test_headers_that_lie(quick, corpus):
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


def test_a_truncated_mp3_gives_what_it_has(quick, corpus):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 160_000)
    soundfile.write("whole.mp3", samples, 16_000)
    content = Path("whole.mp3").read_bytes()
    Path("half.mp3").write_bytes(content[: len(content) // 2])
    (_, whole), (_, half) = quick.embed_many([Path("whole.mp3"), Path("half.mp3")])
    assert isinstance(half, ValueError) or 3 <= len(half.times) <= 6
    assert len(whole.times) == 11


@pytest.mark.filterwarnings("ignore:corpus.mutated:UserWarning")
def test_mutated_files_never_harm_another(quick, corpus, monkeypatch):
    """500 files with bytes changed, cut out or put in, among good ones."""
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
            # Headers are the part that decoders believe.
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

    monkeypatch.setattr("vggish_keras.embedder.Embedder", lambda *_: quick)
    answer = CliRunner().invoke(main, ["embed", *map(str, paths), "-o", "out"])
    assert answer.exit_code == 1
    assert len(read_failures("out/failures.csv")) - 1 == failed
    assert len(list(Path("out").rglob("*.npz"))) == 501 - failed


# === Bad disks ===


@pytest.mark.parametrize("target", ["/proc/nowhere/", "/proc/nowhere.npz"])
def test_an_output_that_cannot_be_written_is_told_at_once(quick, corpus, target, monkeypatch):
    monkeypatch.setattr(quick, "_embed_windows", None)
    with pytest.raises(OSError, match="/proc/nowhere"):
        run(quick, [corpus], target)


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("target", TARGETS)
def test_a_disk_that_cannot_be_written_is_named(quick, corpus, tiny_disk, target):
    path = tiny_disk / target
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with pytest.raises(OSError, match=f"Read-only file system: '{path}"):
        run(quick, [corpus], str(path))


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
        with pytest.raises(OSError, match=message), atomic_write(path) as aside:
            write(aside)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_a_full_disk_is_told_and_what_is_finished_stays(eight_bits, corpus, tiny_disk, target):
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

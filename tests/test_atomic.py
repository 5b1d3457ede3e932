"""Files and folders that are replaced: complete or not at all, and on the disk before they have their names."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vggish_keras import _atomic
from vggish_keras._atomic import atomic_write, remove_leftovers, replace, sync


@pytest.fixture(autouse=True)
def current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_folder(name):
    folder = Path(name)
    (folder / "variables").mkdir(parents=True)
    (folder / "model.pb").write_text(name)
    (folder / "variables" / "data").write_text(name)
    return folder


def contents():
    return {str(path): path.read_text() for path in Path().rglob("*") if path.is_file()}


def test_file_is_on_the_disk_before_it_has_its_name(assert_durable):
    for text in ("old", "new"):
        with atomic_write(Path("x")) as partial:
            partial.write_text(text)
        assert_durable("x")
        assert contents() == {"x": text}


def test_files_are_on_the_disk_before_any_of_them_is_moved(monkeypatch):
    events = []
    fsync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), fsync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append(str(paths[1])), move(*paths)))
    moves = {Path(f"{index}.new"): Path("ab"[index % 2], str(index)) for index in range(20)}
    for new, path in moves.items():
        new.write_text(str(path))
        path.parent.mkdir(exist_ok=True)
    replace(moves)
    folders = ["sync"] * (2 if os.name != "nt" else 0)
    assert events == ["sync"] * 20 + [str(path) for path in moves.values()] + folders  # in the given order
    assert contents() == {str(path): str(path) for path in moves.values()}


def test_folder_is_on_the_disk_before_it_has_its_name(assert_durable):
    for text in ("new", "newer"):
        replace({make_folder(text): Path("x")})
        assert_durable("x")
        assert Path("x/variables/data").read_text() == text
    assert set(contents()) == {
        f"{folder}/{name}" for folder in ("x", "newer.old") for name in ("model.pb", "variables/data")
    }


def test_folder_replaces_a_file_and_no_file_a_folder():
    Path("x").write_text("old")
    replace({make_folder("new"): Path("x")})
    assert Path("x/model.pb").read_text() == "new"
    Path("y").write_text("y")
    with pytest.raises(OSError, match=r"'x'$"):
        replace({Path("y"): Path("x")})
    assert Path("x/model.pb").read_text() == "new"


def test_moved_file_is_on_the_disk(monkeypatch):
    Path("x").write_text("x")
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(os.fstat(descriptor).st_ino), fsync(descriptor)))
    sync(Path("x"))
    assert synced == [os.stat("x").st_ino] + ([os.stat(".").st_ino] if os.name != "nt" else [])


# === Interrupted and failing ===


class Stop(BaseException):
    pass


def test_interrupted_write_keeps_the_old_file():
    def interrupt(partial):
        partial.write_text("ne")
        raise Stop

    Path("x").write_text("old")
    with pytest.raises(Stop), atomic_write(Path("x")) as partial:
        interrupt(partial)
    assert contents() == {"x": "old"}


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_failing_disk_keeps_the_old_file(monkeypatch, name):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    Path("x").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match=r"^\[Errno 5\] .*: 'x'$"), atomic_write(Path("x")) as partial:
            partial.write_text("new")
    assert contents() == {"x": "old"}


@pytest.mark.parametrize("failing", range(3))
def test_file_that_cannot_be_written_keeps_all_old_files(monkeypatch, failing):
    moves = {Path(f"{name}.new"): Path(name) for name in "xyz"}
    for new, path in moves.items():
        new.write_text("new")
        path.write_text("old")
    fails = list(moves)[failing].stat().st_ino
    fsync = os.fsync

    def full(descriptor):
        if os.fstat(descriptor).st_ino == fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{'xyz'[failing]}'$"):
        replace(moves)
    assert [path.read_text() for path in moves.values()] == ["old"] * 3


@pytest.mark.skipif(os.name == "nt", reason="Windows does not sync folders")
def test_file_system_that_cannot_sync_folders(monkeypatch):
    fsync = os.fsync

    def files_only(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            refused.append(descriptor)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    refused = []
    monkeypatch.setattr(os, "fsync", files_only)
    with atomic_write(Path("x")) as partial:
        partial.write_text("new")
    assert refused
    assert contents() == {"x": "new"}


def test_folders_are_not_opened_on_windows(monkeypatch):
    opened = []

    def windows_open(path, flags):
        assert not os.path.isdir(path)
        assert flags & os.O_RDWR  # otherwise Windows does not sync
        opened.append(path)
        return os.open(path, flags)

    windows = SimpleNamespace(**{**vars(os), "name": "nt", "open": windows_open})
    monkeypatch.setattr(_atomic, "os", windows)
    replace({make_folder("new"): Path("x")})
    assert len(opened) == 2


def test_failed_replacement_of_a_folder_restores_the_old_one(monkeypatch):
    make_folder("x")
    new, rename = make_folder("new"), os.rename

    def interrupt(source, target):
        if Path(source) == new:
            raise Stop
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupt)
    with pytest.raises(Stop):
        replace({new: Path("x")})
    assert Path("x/variables/data").read_text() == "x"
    assert not Path("new.old").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from vggish_keras._atomic import atomic_write

moment = sys.argv[1]
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if moment != "write":
    setattr(os, moment, kill)
with atomic_write(Path("x")) as partial:
    partial.write_text("ne")
    if moment == "write":
        kill()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_killed_write_keeps_the_old_file(moment):
    Path("x").write_text("old")
    status = subprocess.run([sys.executable, "-c", KILLED, moment], check=False).returncode
    assert status == -signal.SIGKILL
    assert Path("x").read_text() == "old"
    assert len(list(Path().iterdir())) == 2
    remove_leftovers([Path("x")])
    assert contents() == {"x": "old"}


def test_simultaneous_writes_leave_one_complete_file():
    with contextlib.ExitStack() as stack:
        for text in ("first", "second"):
            stack.enter_context(atomic_write(Path("x"))).write_text(text)
    assert contents() == {"x": "first"}  # which ended last

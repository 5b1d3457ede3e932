"""Locks between processes and threads, and on file systems without them."""

import ast
import concurrent.futures
import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.test_package import MODULES, python
from vggish_keras._lock import locked

HOLD = """
import sys
from pathlib import Path
from vggish_keras._lock import locked

with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def file(tmp_path):
    return tmp_path / ".x.lock"


@contextlib.contextmanager
def held_by_a_process(file):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def refuses(file):
    try:
        with locked(file):
            return False
    except BlockingIOError:
        return True


def test_process_locks_out_others_until_it_ends(file):
    with held_by_a_process(file) as process:
        with pytest.raises(BlockingIOError, match=r"\.x\.lock'$"):
            locked(file).__enter__()
        process.stdin.close()
        process.wait()
        assert not refuses(file)


def test_killed_process_leaves_no_lock(file):
    with held_by_a_process(file) as process:
        identity = file.stat().st_ino
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert file.stat().st_ino == identity
    assert not refuses(file)
    assert file.stat().st_ino == identity


def test_waits_for_a_process(file):
    events = []
    with (
        held_by_a_process(file) as process,
        locked(file, on_wait=lambda: (events.append(refuses(file)), process.kill())),
    ):
        assert refuses(file)
    assert events == [True]


def test_does_not_wait_for_a_free_lock(file):
    with locked(file, on_wait=lambda: pytest.fail("waits")):
        assert refuses(file)


def test_locks_out_its_own_threads(file):
    """Also the same thread, as in a run that starts a run."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with locked(file):
            assert refuses(file)
            assert pool.submit(refuses, file).result()
        assert not pool.submit(refuses, file).result()


def test_is_released_in_a_different_thread(file):
    """As an output whose generator is closed by the garbage collector."""
    lock = locked(file)
    lock.__enter__()
    thread = threading.Thread(target=lock.__exit__, args=(None, None, None))
    thread.start()
    thread.join()
    assert not refuses(file)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete open files")
def test_file_that_is_replaced_while_it_is_locked_is_not_locked_twice(file, monkeypatch):
    """Somebody deletes the file after it was opened, and a different run locks the new one."""
    import fcntl

    def late(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        file.unlink()
        other.enter_context(locked(file))
        return flock(descriptor, operation)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", late)
    with contextlib.ExitStack() as other:
        assert refuses(file)
        assert refuses(file)
    assert not refuses(file)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete open files")
def test_waits_for_the_file_at_its_path(file):
    """A waiting process locks the new file, if somebody replaces the one that it waits for."""

    def replace():
        Path(f"{file}.new").touch()
        Path(f"{file}.new").replace(file)

    with held_by_a_process(file), locked(file, on_wait=replace):
        assert refuses(file)


def test_only_one_of_many_waits_at_a_time(file):
    inside, waited = [], []

    def enter(_):
        with locked(file, on_wait=lambda: waited.append(1)):
            inside.append(threading.get_ident())
            time.sleep(0.01)
            assert inside == [threading.get_ident()]
            inside.clear()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(20)))
    assert waited


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO])
def test_file_system_without_locks(file, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    for on_wait in (None, lambda: None):
        with pytest.raises(
            OSError, match=r"\.x\.lock cannot be locked \(.+\): use a folder on a file system that"
        ) as error:
            locked(file, on_wait).__enter__()
        assert os.strerror(number) in str(error.value)


def test_link_is_not_followed(file, tmp_path):
    file.symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"\.x\.lock"):
        locked(file).__enter__()
    assert not (tmp_path / "victim").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(file):
    file.parent.chmod(0o555)
    with pytest.raises(PermissionError, match=r"\.x\.lock"):
        locked(file).__enter__()


# === Every platform ===


def test_no_module_imports_what_only_some_platforms_have():
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {"fcntl", "msvcrt", "termios", "resource", "pwd", "grp"} & set(names), f"{path}:{node.lineno}"


@pytest.mark.slow
def test_package_is_imported_without_fcntl():
    names = [name for name in MODULES if not name.startswith(("vggish_keras.beam", "vggish_keras.__main__"))]
    script = "import importlib, sys; sys.modules['fcntl'] = None\n" + "".join(
        f"importlib.import_module({name!r})\n" for name in names
    )
    python(script)

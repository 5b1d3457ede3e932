import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from vggish_keras._read_ahead import read_ahead


def counting(source):
    """Yields `source` items; a negative source fails after one."""
    for index in range(abs(source)):
        yield (source, index)
        if source < 0:
            raise ValueError(f"invalid {source}")


def test_all_items_in_order():
    sources = [3, 0, 1, 200, 5] * 30
    got = [(source, list(items)) for source, items in read_ahead(sources, counting, threads=4, max_items=10)]
    assert got == [(source, list(counting(source))) for source in sources]


def test_errors_of_a_source_are_raised_by_its_items():
    got = []
    for source, items in read_ahead([2, -1, 3], counting, threads=2, max_items=10):
        try:
            got.append((source, list(items)))
        except ValueError as error:
            got.append((source, str(error)))
    assert [kind for _, kind in got] == [list(counting(2)), "invalid -1", list(counting(3))]


def test_errors_of_the_iterable_of_sources_are_raised():
    def sources():
        yield 1
        raise RuntimeError("no more sources")

    with pytest.raises(RuntimeError, match="no more sources"):
        [list(items) for _, items in read_ahead(sources(), counting, threads=2, max_items=10)]


def test_reads_ahead_up_to_the_limits():
    produced, requested = [], []

    def endless(source):
        for index in range(10**9):
            produced.append(source)
            yield index

    def sources():
        for source in range(10**9):
            requested.append(source)
            yield source

    files = read_ahead(sources(), endless, threads=3, max_items=10)
    _, items = next(files)
    assert next(items) == 0
    # Per source being read: items used, items waiting, and one item that is held until there is room. The third source
    # is started only if it is at a moment when the second has no ten items.
    current, behind = 1 + 10 + 1, 10 + 1
    deadline = time.monotonic() + 60
    while len(produced) < current + behind and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # to go beyond the limits, if it did
    assert Counter(produced) in ({0: current, 1: behind}, {0: current, 1: behind, 2: behind})
    assert len(requested) <= 64
    files.close()


def test_no_source_is_started_while_enough_items_wait():
    """Sources that end just below the limit do not add up."""
    produced = []

    def nine_items(source):
        for _ in range(9):
            produced.append(source)
            yield source

    files = read_ahead(range(100), nine_items, threads=3, max_items=10)
    _, items = next(files)
    assert next(items) == 0
    deadline = time.monotonic() + 60
    while len(produced) < 18 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    # The current source, one behind it, and one for each thread that started it at the same time.
    assert 9 + 9 <= len(produced) <= 9 + 9 + 3 * 9
    assert [source for source, items in files for _ in items][-9:] == [99] * 9


def test_sources_are_read_concurrently():
    barrier = threading.Barrier(3, timeout=60)

    def together(source):
        barrier.wait()
        yield source

    got = [list(items) for _, items in read_ahead(range(6), together, threads=3, max_items=10)]
    assert got == [[source] for source in range(6)]


@pytest.mark.parametrize("used", [0, 1, 5])
def test_closing_ends_all_threads(used):
    before = set(threading.enumerate())
    files = read_ahead([100] * 100, counting, threads=4, max_items=10)
    for _, (_, items) in zip(range(used), files, strict=False):
        next(items)
    files.close()
    assert set(threading.enumerate()) <= before


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
def test_closing_ends_all_threads_wherever_ctrl_c_interrupts_the_caller():
    def interrupt(*_):
        raise KeyboardInterrupt

    def consume_until_interrupted(items, seconds):
        signal.setitimer(signal.ITIMER_REAL, seconds)
        for _ in items:
            pass

    before, rng = set(threading.enumerate()), random.Random(0)
    old_handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(300):
            files = read_ahead(range(3), lambda source: iter(range(10**9)), threads=2, max_items=3)
            _, items = next(files)
            with pytest.raises(KeyboardInterrupt):
                consume_until_interrupted(items, rng.uniform(1e-4, 2e-3))
            closing = threading.Thread(target=files.close, daemon=True)
            closing.start()
            closing.join(timeout=60)
            assert set(threading.enumerate()) <= before
    finally:
        signal.signal(signal.SIGALRM, old_handler)


def test_unclosed_generator_does_not_keep_the_process_alive():
    script = (
        "from vggish_keras._read_ahead import read_ahead\n"
        "files = read_ahead(range(100), lambda source: iter(range(1_000)), 4, 10)\n"
        "next(files)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

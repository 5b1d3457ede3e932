import subprocess
import sys
import threading
import time

import pytest

from vggish_keras._read_ahead import read_ahead


def counting(source):
    """`source` items; a negative source fails after one."""
    for index in range(abs(source)):
        yield (source, index)
        if source < 0:
            raise ValueError(f"bad {source}")


def test_all_items_in_order():
    sources = [3, 0, 1, 200, 5] * 30
    got = [(source, list(items)) for source, items in read_ahead(sources, counting, threads=4, most_items=10)]
    assert got == [(source, list(counting(source))) for source in sources]


def test_what_fails_is_raised_where_it_is_used():
    got = []
    for source, items in read_ahead([2, -1, 3], counting, threads=2, most_items=10):
        try:
            got.append((source, list(items)))
        except ValueError as error:
            got.append((source, str(error)))
    assert [kind for _, kind in got] == [list(counting(2)), "bad -1", list(counting(3))]


def test_what_fails_to_name_a_source_is_raised():
    def sources():
        yield 1
        raise RuntimeError("no more names")

    with pytest.raises(RuntimeError, match="no more names"):
        [list(items) for _, items in read_ahead(sources(), counting, threads=2, most_items=10)]


def test_reads_ahead_and_no_further_than_is_asked():
    produced, named = [], []

    def endless(source):
        for index in range(10**9):
            produced.append(source)
            yield index

    def sources():
        for source in range(10**9):
            named.append(source)
            yield source

    files = read_ahead(sources(), endless, threads=3, most_items=10)
    _, items = next(files)
    assert next(items) == 0
    time.sleep(0.2)
    # Of each that is read: what was used, what waits, and one that is held until there is room.
    assert {source: produced.count(source) for source in set(produced)} == {0: 12, 1: 11, 2: 11}
    assert len(named) <= 64
    files.close()


def test_sources_run_at_a_time():
    barrier = threading.Barrier(3, timeout=10)

    def together(source):
        barrier.wait()
        yield source

    got = [list(items) for _, items in read_ahead(range(6), together, threads=3, most_items=10)]
    assert got == [[source] for source in range(6)]


@pytest.mark.parametrize("used", [0, 1, 5])
def test_no_thread_is_left_when_it_is_closed(used):
    before = threading.active_count()
    files = read_ahead([100] * 100, counting, threads=4, most_items=10)
    for _, (_, items) in zip(range(used), files, strict=False):
        next(items)
    files.close()
    assert threading.active_count() == before


def test_a_process_ends_though_nobody_closed_it():
    script = (
        "from vggish_keras._read_ahead import read_ahead\n"
        "files = read_ahead(range(100), lambda source: iter(range(1_000)), 4, 10)\n"
        "next(files)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)

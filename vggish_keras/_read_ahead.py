"""Work on many sources in background threads, handed on in order and bounded in memory."""

import collections
import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

_SOURCES_AHEAD = 64


def read_ahead(
    sources: Iterable[S], read: Callable[[S], Iterator[T]], threads: int, most_items: int
) -> Generator[tuple[S, Iterator[T]], None, None]:
    """Reads the next sources while the caller works on this one.

    Args:
        sources: What to read, taken one by one as there is room.
        read: Gives the items of a source. It runs in a background thread.
        threads: How many sources are read at a time.
        most_items: How many items of a source, and as many of all sources that follow it, wait at a time.

    Yields:
        Each source, in order, with an iterator of its items, to be used up before the next source is asked for. It
        raises what `read` raises. When this generator is closed, all threads have ended.
    """
    sources = iter(sources)
    ahead: collections.deque[_Reading[S, T]] = collections.deque()
    started: queue.SimpleQueue[_Reading[S, T] | None] = queue.SimpleQueue()
    # Daemons, so that a generator that nobody closed does not keep the process from ending.
    workers = [threading.Thread(target=_work, args=(started,), daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        while True:
            # The first may wait for its caller; only those behind it are held back.
            while len(ahead) < _SOURCES_AHEAD and (
                not ahead or sum(reading.waiting for reading in itertools.islice(ahead, 1, None)) < most_items
            ):
                try:
                    reading = _Reading(next(sources), read, most_items)
                except StopIteration:
                    break
                ahead.append(reading)
                started.put(reading)
            if not ahead:
                return
            yield ahead[0].source, ahead[0].items()
            ahead.popleft().stop()
    finally:
        for reading in ahead:
            reading.stop()
        for _ in workers:
            started.put(None)
        for worker in workers:
            worker.join()


def _work(started: "queue.SimpleQueue[_Reading[S, T] | None]") -> None:
    while reading := started.get():
        reading.run()
        del reading  # it holds what it was read from


class _Reading(Generic[S, T]):
    """A source that is read in one thread and used in another."""

    def __init__(self, source: S, read: Callable[[S], Iterator[T]], most_items: int) -> None:
        self.source = source
        self._read = read
        self._room = threading.Semaphore(most_items)
        self._stopped = False
        # An item; or, at the end, what was raised or None.
        self._queue: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()

    @property
    def waiting(self) -> int:
        """Items that are read and not used."""
        return self._queue.qsize()

    def run(self) -> None:
        if self._stopped:
            return
        try:
            for item in self._read(self.source):
                self._room.acquire()
                if self._stopped:
                    break
                self._queue.put((item,))
        except BaseException as error:
            self._queue.put(error)
        else:
            self._queue.put(None)

    def items(self) -> Iterator[T]:
        while isinstance(item := self._queue.get(), tuple):
            self._room.release()
            yield item[0]
        if item is not None:
            raise item

    def stop(self) -> None:
        self._stopped = True
        self._room.release()

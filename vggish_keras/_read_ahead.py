"""Read many sources in background threads, in order and in bounded memory."""

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
    sources: Iterable[S], read: Callable[[S], Iterator[T]], threads: int, max_items: int
) -> Generator[tuple[S, Iterator[T]], None, None]:
    """Reads the next sources while the caller processes the current one.

    Args:
        sources: The sources to read, requested one by one as there is room.
        read: Yields the items of a source. It runs in a background thread.
        threads: Number of sources that are read concurrently.
        max_items: Limit of waiting items: of the current source, and of all following sources together.

    Yields:
        Each source, in order, with an iterator of its items, which the caller exhausts before it requests the next
        source. The iterator raises the errors of `read`. Closing this generator ends all threads.
    """
    sources = iter(sources)
    ahead: collections.deque[_Reading[S, T]] = collections.deque()
    started: queue.SimpleQueue[_Reading[S, T] | None] = queue.SimpleQueue()
    # Daemons, so that a generator that is never closed does not keep the process alive.
    workers = [threading.Thread(target=_work, args=(started,), daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        while True:
            # The current source may wait for the caller; only those behind it are held back.
            while len(ahead) < _SOURCES_AHEAD and (
                not ahead or sum(reading.waiting for reading in itertools.islice(ahead, 1, None)) < max_items
            ):
                try:
                    reading = _Reading(next(sources), read, max_items)
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
        del reading  # it holds a reference to its source


class _Reading(Generic[S, T]):
    """A source that one thread reads and a different one consumes."""

    def __init__(self, source: S, read: Callable[[S], Iterator[T]], max_items: int) -> None:
        self.source = source
        self._read = read
        # A queue, because an interrupted `release` of a semaphore can leave its thread waiting forever.
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(max_items):
            self._room.put(None)
        self._stopped = False
        # Items in 1-tuples and, at the end, the error or None.
        self._queue: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()

    @property
    def waiting(self) -> int:
        """Number of items that are read but not consumed."""
        return self._queue.qsize()

    def run(self) -> None:
        if self._stopped:
            return
        try:
            for item in self._read(self.source):
                self._room.get()
                if self._stopped:
                    break
                self._queue.put((item,))
        except BaseException as error:
            self._queue.put(error)
        else:
            self._queue.put(None)

    def items(self) -> Iterator[T]:
        while isinstance(item := self._queue.get(), tuple):
            self._room.put(None)
            yield item[0]
        if item is not None:
            raise item

    def stop(self) -> None:
        self._stopped = True
        self._room.put(None)

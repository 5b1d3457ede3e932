"""Read many sources in background threads, in order and in bounded memory."""

import collections
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")

_SOURCES_AHEAD = 64
_POLL_SECONDS = 0.01


def read_ahead(
    sources: Iterable[S], read: Callable[[S], Iterator[T]], threads: int, max_items: int
) -> Generator[tuple[S, Iterator[T]], None, None]:
    """Reads the next sources while the caller processes the current one.

    Args:
        sources: The sources to read, requested one by one as there is room.
        read: Yields the items of a source. It runs in a background thread.
        threads: Number of sources that are read concurrently.
        max_items: Limit of waiting items per source that is being read. No further source is started while as many
            items wait behind the current one.

    Yields:
        Each source, in order, with an iterator of its items, which the caller exhausts before it requests the next
        source. The iterator raises the errors of `read`. Closing this generator ends all threads.
    """
    sources = iter(sources)
    ahead: collections.deque[_Reading[S, T]] = collections.deque()
    started: queue.SimpleQueue[_Reading[S, T] | None] = queue.SimpleQueue()

    def has_room() -> bool:
        # Whatever is read of the current source; only those behind it are held back.
        return sum(reading.waiting for reading in tuple(ahead)[1:]) < max_items

    # Daemons, so that a generator that is never closed does not keep the process alive.
    workers = [threading.Thread(target=_work, args=(started, has_room), daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        while True:
            while len(ahead) < _SOURCES_AHEAD and has_room():
                try:
                    reading = _Reading(next(sources), read, max_items)
                except StopIteration:
                    break
                ahead.append(reading)
                started.put(reading)
            if not ahead:
                return
            ahead[0].is_current = True
            yield ahead[0].source, ahead[0].items()
            ahead.popleft().stop()
    finally:
        for reading in ahead:
            reading.stop()
        for _ in workers:
            started.put(None)
        for worker in workers:
            worker.join()


def _work(started: "queue.SimpleQueue[_Reading[S, T] | None]", has_room: Callable[[], bool]) -> None:
    while reading := started.get():
        # Asked again and again, because an interrupted notification can leave a thread waiting forever.
        while not (reading.is_current or reading.is_stopped or has_room()):
            time.sleep(_POLL_SECONDS)
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
        self.is_current = False
        self.is_stopped = False
        # Items in 1-tuples and, at the end, the error or None.
        self._queue: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()

    @property
    def waiting(self) -> int:
        """Number of items that are read but not consumed."""
        return self._queue.qsize()

    def run(self) -> None:
        if self.is_stopped:
            return
        try:
            for item in self._read(self.source):
                self._room.get()
                if self.is_stopped:
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
        self.is_stopped = True
        self._room.put(None)

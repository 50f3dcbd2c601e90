"""Items that one thread makes and another one takes, with no more than so many bytes (or items) between them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class GivenUp(Exception):  # noqa: N818 (an end, told by an exception)
    """The thread that makes the items has failed, and says why itself; what was taken so far is of no use."""


class Stream(Generic[Item]):
    """A queue of bounded bytes with one thread at each end. Either may leave; the other sees it at its next step.

    Args:
        most_bytes: `put` waits while so many bytes are in it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._items: deque[tuple[Item, int]] = deque()
        self._num_bytes = 0
        self._lock = threading.RLock()  # taken itself: Ctrl-C inside of a condition's `with` leaves it taken for good
        self._changed = threading.Condition(self._lock)
        self._is_ended = self._is_left = False
        self._error: BaseException | None = None

    @property
    def is_full(self) -> bool:
        """Whether `put` would wait."""
        with self._lock:
            return self._num_bytes >= self._most_bytes

    def put(self, item: Item, num_bytes: int) -> bool:
        """Add an item as soon as there is room; False when nobody takes it any more."""
        with self._lock:
            self._changed.wait_for(lambda: self._is_left or self._num_bytes < self._most_bytes)
            if self._is_left:
                return False
            self._items.append((item, num_bytes))
            self._num_bytes += num_bytes
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """No more items come: those that were put are all, or `error` is raised where the next one would come."""
        with self._lock:
            if not self._is_ended:
                self._is_ended, self._error = True, error
            self._changed.notify_all()

    def leave(self) -> None:
        """Nobody takes items any more; whoever was to take them says so, even if it never began."""
        with self._lock:
            self._is_left = True
            self._items.clear()
            self._num_bytes = 0
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """The items in order. Leaving early, by an error too, ends the stream. Raises what `end` was given."""
        try:
            while True:
                with self._lock:
                    self._changed.wait_for(lambda: self._items or self._is_ended)
                    if not self._items:
                        if self._error is not None:
                            raise self._error
                        return
                    item, num_bytes = self._items.popleft()
                    self._num_bytes -= num_bytes
                    self._changed.notify_all()
                yield item
                del item
        finally:
            self.leave()


def read_ahead(items: Iterator[Item], *, depth: int = 2) -> Iterator[Item]:
    """Yield `items` in order while a thread prepares up to `depth` more. Errors are raised where the item would come.

    Closing the returned generator early stops the thread and closes `items`.
    """
    ready: Stream[Item] = Stream(depth)

    def work() -> None:
        try:
            for item in items:
                if not ready.put(item, 1):
                    break
            ready.end()
        except BaseException as error:  # handed to the consumer, which raises it
            ready.end(error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=work, name="beholder-read-ahead", daemon=True)
    thread.start()
    try:
        yield from ready
    finally:
        ready.leave()
        thread.join()

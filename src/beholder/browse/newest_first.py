"""Work that many ask for: a queue for a few threads, the newest first, each piece done once for all; recent results."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_MOST_WAITING = 512

Result = TypeVar("Result")


class Busy(Exception):  # noqa: N818
    """A wish was pushed out by newer ones."""


@dataclass(eq=False)
class _Piece(Generic[Result]):
    """What is to be done, and who waits for it; `elsewhere`: it goes on in other threads."""

    key: Hashable
    work: Callable[[], Result | Future[Result]]
    askers: list[Future[Result]] = field(default_factory=list)
    elsewhere: Future[Result] | None = None


class NewestFirst(Generic[Result]):
    """A few threads that do the newest piece of work first; when too many wait, the oldest are given up (`Busy`)."""

    def __init__(self, num_threads: int, most_waiting: int = _MOST_WAITING) -> None:
        self._waiting: dict[Hashable, _Piece[Result]] = {}
        self._begun: dict[Hashable, _Piece[Result]] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        self._most = most_waiting
        self._threads = [threading.Thread(target=self._work, daemon=True, name="pictures") for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()

    @property
    def num_waiting(self) -> int:
        """Pieces that no thread has begun."""
        return len(self._waiting)

    def submit(self, key: Hashable, work: Callable[[], Result | Future[Result]]) -> Future[Result]:
        """Have `work` done, unless a piece with this key waits or runs already: then wait for that one.

        A Future that `work` returns is waited for without a thread. Cancelling the result means to wait no more; what nobody
        waits for leaves the queue.
        """
        asker: Future[Result] = Future()
        pushed_out = None
        with self._changed:
            if self._is_closed:
                asker.cancel()
                return asker
            piece = self._begun.get(key)
            if piece is None:
                piece = self._waiting.pop(key, None) or _Piece(key, work)
                self._waiting[key] = piece  # the newest again
                if len(self._waiting) > self._most:
                    pushed_out = self._waiting.pop(next(iter(self._waiting)))
                self._changed.notify()
            piece.askers.append(asker)
        asker.add_done_callback(lambda _: self._leave(piece, asker))
        if pushed_out is not None:
            self._finish(pushed_out, error=Busy())
        return asker

    def close(self, deadline: float | None = None) -> None:
        """End the threads; what waits is cancelled. Threads that are in the middle of a piece are waited for until `deadline`.

        deadline: of `time.monotonic`; None: 5 seconds from now.
        """
        with self._changed:
            self._is_closed = True
            waiting = [asker for piece in self._waiting.values() for asker in piece.askers]
            self._waiting.clear()
            self._changed.notify_all()
        for asker in waiting:
            asker.cancel()
        deadline = time.monotonic() + 5.0 if deadline is None else deadline
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                key, piece = self._waiting.popitem()
                self._begun[key] = piece
            try:
                found = piece.work()
            except BaseException as error:  # it belongs to whoever waits for the result
                self._finish(piece, error=error)
            else:
                if isinstance(found, Future):
                    self._go_on(piece, found)
                else:
                    self._finish(piece, found)
            del piece  # and the picture's bytes with it

    def _go_on(self, piece: _Piece[Result], elsewhere: Future[Result]) -> None:
        """Wait for what goes on in other threads."""

        def done(result: Future[Result]) -> None:
            if result.cancelled():
                self._cancel(piece)
            elif (error := result.exception()) is not None:
                self._finish(piece, error=error)
            else:
                self._finish(piece, result.result())

        with self._changed:
            piece.elsewhere = elsewhere
            is_wanted = bool(piece.askers)
            if not is_wanted:
                self._begun.pop(piece.key, None)
        elsewhere.add_done_callback(done)
        if not is_wanted:
            elsewhere.cancel()

    def _leave(self, piece: _Piece[Result], asker: Future[Result]) -> None:
        """One who asked waits no more."""
        with self._changed:
            if asker not in piece.askers:
                return
            piece.askers.remove(asker)
            if piece.askers:
                return
            if self._waiting.get(piece.key) is piece:
                del self._waiting[piece.key]
            elsewhere = piece.elsewhere
            if elsewhere is not None and self._begun.get(piece.key) is piece:
                del self._begun[piece.key]
        if elsewhere is not None:
            elsewhere.cancel()

    def _taken(self, piece: _Piece[Result]) -> list[Future[Result]]:
        """Those who wait for a piece; nobody joins them any more."""
        with self._changed:
            if self._begun.get(piece.key) is piece:
                del self._begun[piece.key]
            askers, piece.askers = piece.askers, []
            return askers

    def _cancel(self, piece: _Piece[Result]) -> None:
        for asker in self._taken(piece):
            asker.cancel()

    def _finish(self, piece: _Piece[Result], result: Result | None = None, error: BaseException | None = None) -> None:
        for asker in self._taken(piece):
            if not asker.set_running_or_notify_cancel():
                continue
            if error is not None:
                asker.set_exception(error)
            else:
                asker.set_result(result)  # type: ignore[arg-type]


class Recent(Generic[Result]):
    """The last results up to a number of bytes, the newest always. Thread-safe.

    Args:
        most_bytes: of all together.
        size_of: gives the bytes of one.
    """

    def __init__(self, most_bytes: int, size_of: Callable[[Result], int]) -> None:
        self._found: OrderedDict[Hashable, Result] = OrderedDict()
        self._lock = threading.Lock()
        self._most, self._size_of, self.num_bytes = most_bytes, size_of, 0

    def get(self, key: Hashable) -> Result | None:
        """What was kept under `key`."""
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
            return self._found.get(key)

    def put(self, key: Hashable, value: Result) -> None:
        """Keep it, and let go of the oldest."""
        with self._lock:
            if key in self._found:
                self.num_bytes -= self._size_of(self._found.pop(key))
            self._found[key] = value
            self.num_bytes += self._size_of(value)
            while self.num_bytes > self._most and len(self._found) > 1:
                self.num_bytes -= self._size_of(self._found.popitem(last=False)[1])

"""Work that is shared among the cores, with results in the order of what was handed out: the same sums for any number."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from beholder.io.places import in_threads
from beholder.options import MOST_THREADS, all_cores

Item = TypeVar("Item")
Result = TypeVar("Result")


_threads: ContextVar[int | None] = ContextVar("threads", default=None)
_blas_lock = threading.Lock()
_blas_limits: list[Any] = []
_num_blas_users = 0


@contextmanager
def at_most(num_threads: int | None) -> Iterator[None]:
    """Have `in_order` and resamples of this thread, until the end of the block, use no more threads; None: all cores."""
    token = _threads.set(num_threads)
    try:
        yield
    finally:
        _threads.reset(token)


def usable_threads() -> int:
    """How many threads may work: what `at_most` says, or the cores that this process may use."""
    return _threads.get() or all_cores()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let numpy's products run on the thread that asks for them: for small ones, and where others are made meanwhile.

    The limit is the process's: the first that asks for it sets it, and the last takes it back.
    """
    global _num_blas_users
    with _blas_lock:
        if not _num_blas_users:
            _blas_limits.append(threadpool_limits(1, user_api="blas"))
        _num_blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _num_blas_users -= 1
            if not _num_blas_users:
                _blas_limits.pop().restore_original_limits()


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, is_large: Callable[[Item], bool], most: int | None = None
) -> Iterator[tuple[Item, Result]]:
    """Each item with `work(item)`, in their order, on as many threads as may work, with one BLAS thread each.

    At most two items a thread are begun before their turn, so that memory is bounded.

    Args:
        work: may be called on several threads at once.
        items: what is to be worked on.
        is_large: whether the first item is worth threads at all; if not, all are done on the caller's.
        most: threads that there is memory for, >= 1; None: no bound.
    """
    rest = iter(items)
    first = next(rest, None)
    if first is None:
        return
    num_threads = min(usable_threads(), most or MOST_THREADS)
    if not is_large(first):
        yield first, work(first)
        for item in rest:
            yield item, work(item)
        return
    with one_blas_thread():
        yield from in_threads(lambda item: (item, work(item)), chain([first], rest), at_once=num_threads)

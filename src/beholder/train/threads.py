"""Work that is shared among the cores, with results in the order of what was handed out: the same sums for any number."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar, cast

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def one_blas_thread() -> AbstractContextManager[object]:
    """Let numpy's products run on the thread that asks for them: for small ones, and where others are made meanwhile."""
    return cast("AbstractContextManager[object]", threadpool_limits(1, user_api="blas"))


def in_order(
    work: Callable[[Item], Result], items: Iterable[Item], *, is_large: Callable[[Item], bool]
) -> Iterator[tuple[Item, Result]]:
    """Each item with `work(item)`, in their order, on a thread a core with one BLAS thread each.

    At most two items a core are begun before their turn, so that memory is bounded.

    Args:
        work: may be called on several threads at once.
        items: what is to be worked on.
        is_large: whether the first item is worth threads at all; if not, all are done on the caller's.
    """
    rest = iter(items)
    first = next(rest, None)
    if first is None:
        return
    num_threads = len(os.sched_getaffinity(0))
    if num_threads == 1 or not is_large(first):
        yield first, work(first)
        for item in rest:
            yield item, work(item)
        return
    with one_blas_thread(), ThreadPoolExecutor(num_threads) as pool:
        begun: deque[tuple[Item, Future[Result]]] = deque([(first, pool.submit(work, first))])
        for item in rest:
            begun.append((item, pool.submit(work, item)))
            if len(begun) > 2 * num_threads:
                done, task = begun.popleft()
                yield done, task.result()
        while begun:
            done, task = begun.popleft()
            yield done, task.result()

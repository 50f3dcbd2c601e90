"""The threads of pictures: newest wish first, one piece of work for all who ask, cancelled ones never, the oldest given up."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

import pytest

from beholder.browse.newest_first import Busy, NewestFirst

WAIT_S = 20


class Gate:
    """Work that begins, then waits to be let through."""

    def __init__(self) -> None:
        self.begun, self.opened = threading.Event(), threading.Event()

    def work(self) -> int:
        self.begun.set()
        assert self.opened.wait(WAIT_S)
        return -1


def blocked(pool: NewestFirst[int], key: str = "gate") -> tuple[Gate, Future[int]]:
    """A thread of `pool` is busy from now until the gate is opened."""
    gate = Gate()
    result = pool.submit(key, gate.work)
    assert gate.begun.wait(WAIT_S)
    return gate, result


def test_the_newest_comes_first_and_what_was_cancelled_never() -> None:
    pool: NewestFirst[int] = NewestFirst(1)
    order = []

    def work(number: int) -> int:
        order.append(number)
        return number

    gate, _ = blocked(pool)
    waiting = [pool.submit(number, lambda number=number: work(number)) for number in range(1, 6)]  # type: ignore[misc]
    assert waiting[2].cancel()
    assert pool.num_waiting == 4
    again = pool.submit(2, lambda: 99)
    gate.opened.set()
    assert [future.result(WAIT_S) for at, future in enumerate(waiting) if at != 2] == [1, 2, 4, 5]
    assert again.result(WAIT_S) == 2
    assert order == [2, 5, 4, 1], "what is asked for again is the newest again"
    pool.close()


def test_too_many_wishes_push_out_the_oldest() -> None:
    pool: NewestFirst[int] = NewestFirst(1, most_waiting=3)
    gate, _ = blocked(pool)
    waiting = [pool.submit(number, lambda number=number: number) for number in range(5)]  # type: ignore[misc]
    for future in waiting[:2]:
        with pytest.raises(Busy):
            future.result(WAIT_S)
    gate.opened.set()
    assert [future.result(WAIT_S) for future in waiting[2:]] == [2, 3, 4]
    pool.close()


def test_who_asks_for_the_same_waits_for_one_piece_of_work() -> None:
    pool: NewestFirst[int] = NewestFirst(2)
    gate, first = blocked(pool, "same")
    others = [pool.submit("same", lambda: 7) for _ in range(3)]
    assert others[0].cancel()
    assert pool.submit("other", lambda: 8).result(WAIT_S) == 8, "the second thread is free"
    gate.opened.set()
    assert [future.result(WAIT_S) for future in (first, *others[1:])] == [-1] * 3
    assert pool.submit("same", lambda: 7).result(WAIT_S) == 7, "afterwards it is done anew"
    pool.close()


def test_what_goes_on_elsewhere_holds_no_thread_and_ends_when_nobody_waits() -> None:
    pool: NewestFirst[int] = NewestFirst(1)
    beside: NewestFirst[int] = NewestFirst(1)
    gate, _ = blocked(beside)
    slow = pool.submit("slow", lambda: beside.submit("slow", lambda: 3))
    left = pool.submit("left", lambda: beside.submit("left", lambda: 4))
    assert pool.submit("quick", lambda: 5).result(WAIT_S) == 5
    while beside.num_waiting < 2:
        pass
    shared = pool.submit("slow", lambda: 6)
    assert left.cancel()
    assert beside.num_waiting == 1
    gate.opened.set()
    assert [slow.result(WAIT_S), shared.result(WAIT_S)] == [3, 3]
    assert pool.submit("left", lambda: 9).result(WAIT_S) == 9

    def fail() -> int:
        raise LookupError("elsewhere")

    with pytest.raises(LookupError, match="elsewhere"):
        pool.submit("fail", lambda: beside.submit("fail", fail)).result(WAIT_S)
    gate, _ = blocked(beside)
    hanging = pool.submit("x", lambda: beside.submit("x", lambda: 1))
    while not beside.num_waiting:
        pass
    threading.Timer(0.05, gate.opened.set).start()
    beside.close()
    with pytest.raises(CancelledError):
        hanging.result(WAIT_S)
    pool.close()


def test_closing_cancels_what_waits_and_a_failure_is_the_askers() -> None:
    pool: NewestFirst[int] = NewestFirst(1)

    def fail() -> int:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        pool.submit(1, fail).result(WAIT_S)
    assert pool.submit(1, lambda: 7).result(WAIT_S) == 7, "the thread lives on"
    gate, _ = blocked(pool)
    last = pool.submit(2, lambda: 1)
    threading.Timer(0.05, gate.opened.set).start()
    pool.close()
    assert last.cancelled()
    assert pool.submit(3, lambda: 1).cancelled()

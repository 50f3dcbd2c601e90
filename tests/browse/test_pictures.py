"""The threads that make thumbnails: newest wish first, cancelled ones never, the oldest given up; the cache keeps its bound."""

from __future__ import annotations

import threading

import pytest

from beholder.browse.pictures import Busy, NewestFirst, Pictures, Recent, Sent
from beholder.columns import PictureReason
from beholder.images.picture import PictureError


def sent(number: int, size: int = 10) -> Sent:
    return Sent(bytes([number % 256]) * size, "image/webp")


def test_the_newest_comes_first_and_what_was_cancelled_never() -> None:
    pool = NewestFirst(1)
    gate, order = threading.Event(), []

    def work(number: int) -> Sent:
        order.append(number)
        return sent(number)

    blocking = pool.submit(lambda: (gate.wait(20), sent(0))[1])
    while not blocking.running():
        pass
    waiting = [pool.submit(lambda number=number: work(number)) for number in range(1, 6)]
    assert waiting[2].cancel()
    gate.set()
    assert [future.result(20).data[0] for at, future in enumerate(waiting) if at != 2] == [1, 2, 4, 5]
    assert order == [5, 4, 2, 1]
    pool.close()


def test_too_many_wishes_push_out_the_oldest() -> None:
    pool = NewestFirst(1, most_waiting=3)
    gate = threading.Event()
    blocking = pool.submit(lambda: (gate.wait(20), sent(0))[1])
    while not blocking.running():
        pass
    waiting = [pool.submit(lambda number=number: sent(number)) for number in range(5)]
    for future in waiting[:2]:
        with pytest.raises(Busy):
            future.result(20)
    gate.set()
    assert [future.result(20).data[0] for future in waiting[2:]] == [2, 3, 4]
    pool.close()


def test_closing_cancels_what_waits_and_a_failure_is_the_askers() -> None:
    pool = NewestFirst(1)

    def fail() -> Sent:
        raise PictureError(PictureReason.MISSING, "gone")

    with pytest.raises(PictureError, match="gone"):
        pool.submit(fail).result(20)
    assert pool.submit(lambda: sent(7)).result(20).data[0] == 7, "the thread lives on"
    gate = threading.Event()
    blocking = pool.submit(lambda: (gate.wait(20), sent(0))[1])
    while not blocking.running():
        pass
    last = pool.submit(lambda: sent(1))
    threading.Timer(0.05, gate.set).start()
    pool.close()
    assert last.cancelled()


def test_the_cache_keeps_to_its_bytes_and_lets_go_of_the_oldest() -> None:
    recent = Recent(most_bytes=3_000)
    for number in range(20):
        recent.put(("s", number), sent(number, 300))
        assert recent.get(("s", 0)) is not None or number >= 6
        assert recent.num_bytes <= 3_000
    assert recent.get(("s", 19)) == sent(19, 300)
    assert recent.get(("s", 3)) is None
    recent.put(("s", 19), sent(1, 50))
    recent.put(("t", 1), sent(2, 5_000))
    assert recent.get(("t", 1)) is None, "larger than all"
    assert recent.num_bytes >= 0


def test_a_thumbnail_is_made_once() -> None:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (400, 100), "red").save(buffer, "PNG")
    asked: list[str] = []

    class Finder:
        def read(self, sample: str) -> bytes:
            asked.append(sample)
            return buffer.getvalue()

    pictures = Pictures(Finder(), num_threads=2)
    small = pictures.thumbnail("a", 160).result(20)
    assert Image.open(io.BytesIO(small.data)).size == (160, 40)
    assert pictures.kept_thumbnail("a", 160) == small
    assert pictures.kept_thumbnail("a", 320) is None
    assert pictures.picture("a").result(20) == Sent(buffer.getvalue(), "image/png")
    assert asked == ["a", "a"]
    pictures.close()

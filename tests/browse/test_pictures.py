"""Pictures for the page: made once, slow and large ones beside the others, those that failed given up; the cache's bound."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from beholder.browse.newest_first import Recent
from beholder.browse.pictures import Pictures, Sent
from beholder.columns import PictureReason
from beholder.pixels.picture import PictureError
from beholder.sources.fetch import ReadLimits
from oracles.made_pictures import encoded, smooth
from oracles.odd_thumbnails import NAME as ODD
from oracles.odd_thumbnails import ordered

WAIT_S = 60
PNG, TIFF = encoded(smooth(90, 60), "PNG"), encoded(smooth(90, 60), "TIFF")
LARGE = encoded(Image.new("1", (6000, 5600)), "PNG")
LARGE_TIFF = encoded(Image.new("1", (6000, 5600)), "TIFF", compression="group4")


class Finder:
    """Pictures by name, as `read` gives them; notes what is read."""

    def __init__(self, read: Callable[[str], bytes]) -> None:
        self.asked: list[str] = []
        self.limits: list[ReadLimits] = []
        self._read = read

    def read(self, sample: str, limits: ReadLimits) -> bytes:
        self.asked.append(sample)
        self.limits.append(limits)
        return self._read(sample)


@contextlib.contextmanager
def looking(read: Callable[[str], bytes], **how: Any) -> Iterator[tuple[Pictures, Finder]]:
    finder = Finder(read)
    pictures = Pictures(finder, **{"num_workers": 2, "decoder": ODD, **how})
    try:
        yield pictures, finder
    finally:
        pictures.close()


def sent(number: int, size: int = 10) -> Sent:
    return Sent(bytes([number % 256]) * size, "image/webp")


def test_the_cache_keeps_to_its_bytes_and_lets_go_of_the_oldest() -> None:
    recent = Recent(3_000, lambda sent: len(sent.data) + 200)
    for number in range(20):
        recent.put(("s", number), sent(number, 300))
        assert recent.get(("s", 0)) is not None or number >= 6
        assert recent.num_bytes <= 3_000
    assert recent.get(("s", 19)) == sent(19, 300)
    assert recent.get(("s", 3)) is None
    recent.put(("s", 19), sent(1, 50))
    recent.put(("t", 1), sent(2, 5_000))
    assert recent.get(("t", 1)) is not None, "larger than all, but the newest"
    assert recent.get(("s", 19)) is None
    recent.put(("t", 2), sent(3, 50))
    assert recent.get(("t", 1)) is None
    assert recent.num_bytes == 250


def test_a_thumbnail_is_made_once() -> None:
    data = encoded(Image.new("RGB", (400, 100), "red"), "PNG")
    with looking(lambda _: data) as (pictures, finder):
        small = pictures.thumbnail("a", 160).result(WAIT_S)
        assert Image.open(io.BytesIO(small.data)).size == (160, 40)
        assert pictures.thumbnail("a", 160).result(0) is small, "kept"
        assert pictures.picture("a").result(WAIT_S) == Sent(data, "image/png")
        assert finder.asked == ["a", "a"]


def test_slow_reading_holds_up_neither_other_thumbnails_nor_the_large_view() -> None:
    slow = threading.Event()

    def read(sample: str) -> bytes:
        assert not sample.startswith("slow") or slow.wait(WAIT_S)
        return PNG

    with looking(read, timeout_s=2 * WAIT_S) as (pictures, finder):
        waiting = [pictures.thumbnail(f"slow{number}", 160) for number in range(6)]
        while len(finder.asked) < 6:
            pass
        assert pictures.thumbnail("good", 160).result(WAIT_S)
        waiting += [pictures.thumbnail(f"slow{number}", 160) for number in range(6, 40)]
        assert pictures.picture("good").result(WAIT_S).data == PNG
        assert not any(future.done() for future in waiting)
        assert len(finder.asked) <= 10, "threads are few"
        slow.set()
        assert all(future.result(WAIT_S) for future in waiting)
        assert {limits.timeout_s for limits in finder.limits} == {2 * WAIT_S}


def test_what_reading_took_is_of_the_pictures_time() -> None:
    def read(sample: str) -> bytes:
        if sample == "late":
            time.sleep(0.6)
        return TIFF

    with looking(read, timeout_s=0.5) as (pictures, _):
        for wish in (lambda: pictures.thumbnail("late", 160), lambda: pictures.picture("late")):
            with pytest.raises(PictureError, match=r"reading and decoding took longer than 0.5 s") as caught:
                wish().result(WAIT_S)
            assert caught.value.reason == PictureReason.TIMED_OUT


def test_what_was_not_read_in_time_is_not_read_again() -> None:
    def read(sample: str) -> bytes:
        raise PictureError(PictureReason.TIMED_OUT if sample == "late" else PictureReason.MISSING, "no whole answer")

    with looking(read) as (pictures, finder):
        for sample in ("late", "gone"):
            for wish in (lambda: pictures.thumbnail(sample, 160), lambda: pictures.thumbnail(sample, 320),  # noqa: B023
                         lambda: pictures.picture(sample)):  # noqa: B023  # fmt: skip
                with pytest.raises(PictureError, match="no whole answer"):
                    wish().result(WAIT_S)
        assert finder.asked == ["late", "gone", "gone", "gone"], "a file may come back; a slow server is given up"


@pytest.mark.slow
def test_a_picture_that_hung_is_given_up_in_all_sizes() -> None:
    with looking(lambda sample: ordered(PNG if sample == "png" else TIFF, "hang"), timeout_s=1.0) as (pictures, finder):
        for sample in ("tiff", "png"):
            with pytest.raises(PictureError, match="took longer"):
                pictures.thumbnail(sample, 160).result(WAIT_S)
        workers, num_read = pictures.process_ids, len(finder.asked)
        for sample in ("tiff", "png"):
            for side in (160, 240, 640):
                known = pictures.thumbnail(sample, side)
                assert known.done()
                assert isinstance(known.exception(), PictureError)
        assert len(finder.asked) == num_read
        with pytest.raises(PictureError, match="took longer"):
            pictures.picture("tiff").result(WAIT_S)
        assert pictures.picture("png").result(WAIT_S).media_type == "image/png", "nothing decodes it here"
        assert pictures.process_ids == workers, "no other was started or ended"


def test_two_who_ask_for_one_thumbnail_take_one_worker() -> None:
    with looking(lambda sample: PNG if sample == "good" else ordered(PNG, "hang"), timeout_s=WAIT_S) as (pictures, finder):
        pictures.thumbnail("good", 160).result(WAIT_S)
        hanging = [pictures.thumbnail("bad", 160) for _ in range(4)]
        assert pictures.thumbnail("good", 240).result(WAIT_S), "the other worker is free"
        assert finder.asked.count("bad") == 1
        assert not any(future.done() for future in hanging)


def test_large_pictures_wait_beside_the_small_ones() -> None:
    def read(sample: str) -> bytes:
        kind = sample.rstrip("0123456789")
        return {"small": PNG, "hanging": ordered(LARGE, "hang"), "large": LARGE, "scan": LARGE_TIFF}[kind]

    with looking(read, timeout_s=WAIT_S, num_readers=2) as (pictures, finder):
        hanging = pictures.thumbnail("hanging", 160)
        waiting = [pictures.thumbnail(f"large{number}", 160) for number in range(9)]
        waiting += [pictures.picture(f"scan{number}") for number in range(3)]
        for number in range(5):
            assert pictures.thumbnail(f"small{number}", 160).result(WAIT_S)
            assert pictures.picture(f"small{number}").result(WAIT_S)
        assert not any(future.done() for future in (hanging, *waiting)), "one large one at a time"
        while len(finder.asked) < 23:
            pass
        assert len(pictures.process_ids) <= 2


def test_large_pictures_are_made_one_after_the_other(tmp_path: Any) -> None:
    notes = tmp_path / "notes"
    with looking(lambda _: ordered(LARGE, "note", str(notes)), num_workers=4) as (pictures, _):
        made = [pictures.thumbnail(f"large{number}", 160) for number in range(8)]
        assert {Image.open(io.BytesIO(future.result(WAIT_S).data)).size for future in made} == {(160, 149)}
        assert notes.read_text().split() == ["begins", "ends"] * 8

"""Thumbnails made in processes: the bytes of this process, whatever pictures, workers, threads and the caller do."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from beholder.errors import BeholderError, InputError
from beholder.pixels.picture import PictureError
from beholder.pixels.thumbnail import Thumbnail, make_thumbnail
from beholder.workers.pool import ThumbnailPool
from oracles.made_pictures import encoded, noise, smooth
from oracles.odd_thumbnails import NAME as ODD
from oracles.odd_thumbnails import ordered
from oracles.processes import is_running, wait_until_gone
from oracles.tiers import mostly_slow

TESTS = Path(__file__).resolve().parents[1]
GOOD = encoded(smooth(90, 60), "PNG")


def photographs() -> list[Path]:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    found = sorted(path for path in (Path(spec.origin).parent / "data").iterdir() if path.suffix in (".png", ".jpg", ".tif"))
    assert len(found) >= 9
    return found


def outcome(make: Callable[[bytes], Thumbnail], data: bytes) -> Thumbnail | tuple[str, str]:
    try:
        return make(data)
    except PictureError as error:
        return error.reason, str(error)


def failure(pool: ThumbnailPool, data: bytes) -> tuple[str, str]:
    with pytest.raises(PictureError) as caught:
        pool.make(data)
    assert "\n" not in str(caught.value)
    return caught.value.reason, str(caught.value)


@pytest.mark.slow
def test_photographs_give_the_same_bytes_as_in_this_process(thumbnails: ThumbnailPool) -> None:
    num_made = 0
    for path in photographs():
        data = path.read_bytes()
        for how in ({}, {"longest_px": 64, "quality": 92, "kind": "jpeg"}):
            wanted = outcome(partial(make_thumbnail, **how), data)  # type: ignore[arg-type]
            assert outcome(partial(thumbnails.make, **how), data) == wanted, (path.name, how)  # type: ignore[arg-type]
            num_made += isinstance(wanted, Thumbnail)
    assert num_made >= 18


def test_pictures_of_every_kind_and_what_is_none_as_in_this_process(thumbnails: ThumbnailPool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    datas = [encoded(noise(mode, 70, 50, 3), "PNG") for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")]
    datas += [encoded(noise("CMYK", 70, 50, 4), "TIFF"), encoded(Image.new("F", (70, 50)), "TIFF")]
    datas += [encoded(smooth(99, 44), kind) for kind in ("JPEG", "WEBP", "GIF", "BMP", "PPM", "AVIF")]
    datas += [encoded(smooth(50, 20), "JPEG", exif=exif), b"", b"no picture at all, but text", GOOD[: len(GOOD) // 2]]
    datas += [encoded(Image.new("1", (20_000, 20_000)), "PNG"), GOOD[:8] + bytes(100), b"\xff\xd8\xff" + os.urandom(500)]
    num_failed = 0
    for data in datas:
        wanted = outcome(make_thumbnail, data)
        assert outcome(thumbnails.make, data) == wanted
        num_failed += isinstance(wanted, tuple)
    assert num_failed == 7


def test_no_picture_starts_no_process_and_one_picture_one() -> None:
    with ThumbnailPool(num_workers=3) as pool:
        assert pool.process_ids == []
    with ThumbnailPool(num_workers=3) as pool:
        for _ in range(3):
            assert pool.make(GOOD) == make_thumbnail(GOOD)
            assert len(pool.process_ids) == 1
        assert failure(pool, b"")[0] == "empty"
    assert pool.process_ids == []
    with pytest.raises(RuntimeError, match="closed"):
        pool.make(GOOD)
    pool.close()


@pytest.mark.parametrize("num_workers", [1, 3])
def test_many_threads_ask(num_workers: int) -> None:
    datas = [encoded(noise("RGB", 40 + number, 90, number), "JPEG") for number in range(30)]
    with ThumbnailPool(num_workers=num_workers) as pool, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(pool.make, datas)) == [make_thumbnail(data) for data in datas]
        assert 1 <= len(pool.process_ids) <= num_workers


@pytest.mark.parametrize(
    ("order", "argument", "reason", "words"),
    mostly_slow(
        [
            ("segfault", "", "crashed", "the decoder crashed on it, 2 times (SIGSEGV"),
            ("abort", "", "crashed", "2 times (SIGABRT"),
            ("leave", "3", "crashed", "2 times (exit status 3; last words)"),
            ("hang", "", "timed_out", "reading and decoding took longer than 0.7 s"),
            ("spin", "", "timed_out", "reading and decoding took longer than 0.7 s"),
            ("stop", "", "timed_out", "reading and decoding took longer than 0.7 s"),
            ("fail", "", "crashed", "the decoder failed: ZeroDivisionError: told to fail"),
            ("refuse", "", "damaged", "told to be damaged"),
            ("lie", "html", "crashed", "the decoder crashed on it, 2 times"),
            ("lie", "huge", "crashed", "the decoder crashed on it, 2 times"),
            ("lie", "garbage", "crashed", "the decoder crashed on it, 2 times"),
            ("lie", "nothing", "crashed", "the decoder crashed on it, 2 times"),
        ],
        quick=5,
    ),
)
def test_a_hostile_picture_costs_itself_alone(
    order: str, argument: str, reason: str, words: str, odd_thumbnails: ThumbnailPool
) -> None:
    assert odd_thumbnails.make(GOOD) == make_thumbnail(GOOD)
    found = failure(odd_thumbnails, ordered(GOOD, order, argument))
    assert found[0] == reason
    assert words in found[1]
    assert odd_thumbnails.make(GOOD) == make_thumbnail(GOOD)


def test_a_picture_that_crashes_one_of_several_workers_gets_a_fresh_one(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with ThumbnailPool(num_workers=2, decoder=ODD) as pool, ThreadPoolExecutor(2) as threads:
        while len(pool.process_ids) < 2:
            list(threads.map(pool.make, [ordered(GOOD, "note", str(notes))] * 2))
        list(threads.map(pool.make, [GOOD] * 4))  # neither is fresh
        assert failure(pool, ordered(GOOD, "segfault"))[0] == "crashed"
        assert pool.make(GOOD) == make_thumbnail(GOOD)


def test_a_picture_whose_workers_were_killed_is_made_by_another(tmp_path: Path) -> None:
    with ThumbnailPool(num_workers=1, decoder=ODD) as pool:
        assert pool.make(ordered(GOOD, "die_at_first", str(tmp_path / "marks"))) == make_thumbnail(GOOD)
        assert (tmp_path / "marks").read_text() == "x" * 4


def test_a_picture_that_eats_memory_is_too_large_and_its_worker_is_replaced() -> None:
    with ThumbnailPool(num_workers=1, memory_bytes=256 << 20, decoder=ODD) as pool:
        pool.make(GOOD)
        before = pool.process_ids
        assert failure(pool, ordered(GOOD, "eat")) == ("too_large", "decoding needs more memory than it may use")
        assert pool.make(GOOD) == make_thumbnail(GOOD)
        assert not set(before) & set(pool.process_ids)


def test_workers_that_are_killed_while_they_wait_cost_no_picture(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with ThumbnailPool(num_workers=2, decoder=ODD) as pool, ThreadPoolExecutor(2) as threads:
        while len(pool.process_ids) < 2:
            list(threads.map(pool.make, [ordered(GOOD, "note", str(notes))] * 2))
        process_ids = pool.process_ids
        for process_id in process_ids:
            os.kill(process_id, signal.SIGKILL)
        wait_until_gone(process_ids, 10)
        assert pool.make(GOOD) == make_thumbnail(GOOD)


@pytest.mark.slow
def test_waiting_for_a_worker_does_not_count() -> None:
    with ThumbnailPool(num_workers=1, timeout_s=0.6, decoder=ODD) as pool, ThreadPoolExecutor(8) as threads:
        hanging = [threads.submit(failure, pool, ordered(GOOD, "hang")) for _ in range(3)]
        waiting = [threads.submit(pool.make, GOOD) for _ in range(5)]
        assert [future.result()[0] for future in hanging] == ["timed_out"] * 3
        assert [future.result() for future in waiting] == [make_thumbnail(GOOD)] * 5


def test_time_that_reading_took_counts() -> None:
    with ThumbnailPool(num_workers=1, timeout_s=5) as pool:
        with pytest.raises(PictureError, match="^reading and decoding took longer than 5 s$"):
            pool.make(GOOD, spent_s=5.0)
        assert pool.process_ids == []
        assert pool.make(GOOD, spent_s=0.1) == make_thumbnail(GOOD)


def test_a_worker_outlives_the_thread_that_first_asked() -> None:
    """The system ends workers with the thread that started them."""
    with ThumbnailPool(num_workers=1) as pool:
        thread = threading.Thread(target=pool.make, args=(GOOD,))
        thread.start()
        thread.join()
        before = pool.process_ids
        time.sleep(0.2)
        assert pool.make(GOOD) == make_thumbnail(GOOD)
        assert pool.process_ids == before


def test_large_pictures_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    large = ordered(encoded(Image.new("1", (6000, 5600)), "PNG"), "note", str(notes))
    with ThumbnailPool(num_workers=3, decoder=ODD) as pool, ThreadPoolExecutor(3) as threads:
        assert len(list(threads.map(pool.make, [large] * 3))) == 3
        assert notes.read_text().split() == ["begins", "ends"] * 3


def test_what_a_worker_is(odd_thumbnails: ThumbnailPool) -> None:
    for order in ("check", "spam", "check"):
        assert odd_thumbnails.make(ordered(GOOD, order)) == make_thumbnail(GOOD)


def left_over() -> tuple[int, int]:
    """Open files, threads."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def test_closing_ends_what_hangs_and_leaves_nothing() -> None:
    with ThumbnailPool(num_workers=1) as pool:
        pool.make(GOOD)
    gc.collect()
    before = left_over()
    pool = ThumbnailPool(num_workers=2, timeout_s=300, decoder=ODD)
    with ThreadPoolExecutor(5) as threads:
        hanging = [threads.submit(pool.make, ordered(GOOD, order)) for order in ("hang", "spin", "hang", "stop", "hang")]
        while len(process_ids := pool.process_ids) < 2:
            time.sleep(0.01)
        pool.close()
        for future in hanging:
            with pytest.raises(RuntimeError, match="closed"):
                future.result(30)
    assert not any(Path(f"/proc/{process_id}").exists() for process_id in process_ids)  # no zombies either
    del hanging
    gc.collect()
    assert left_over() == before


def test_workers_that_cannot_start_are_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThumbnailPool(num_workers=1, decoder=ODD) as pool:
        monkeypatch.setenv("ODD_THUMBNAILS_FAIL_TO_START", "1")
        with pytest.raises(BeholderError) as caught:
            pool.make(GOOD)
        assert not isinstance(caught.value, InputError)
        assert "told not to start" in str(caught.value)
        assert "\n" not in str(caught.value)
        monkeypatch.delenv("ODD_THUMBNAILS_FAIL_TO_START")
        assert pool.make(GOOD) == make_thumbnail(GOOD)


def test_options_and_requests_that_make_no_sense() -> None:
    for wrong in ({"num_workers": 0}, {"timeout_s": 0.0}, {"timeout_s": float("nan")}):
        with pytest.raises(InputError):
            ThumbnailPool(**wrong)  # type: ignore[arg-type]
    with ThumbnailPool() as pool:
        for wrong in ({"longest_px": 0}, {"longest_px": 1 << 20}, {"quality": 101}, {"kind": "gif"}):
            with pytest.raises(InputError):
                pool.make(GOOD, **wrong)  # type: ignore[arg-type]
        assert pool.process_ids == []


CALLER = f"""
import sys, threading, time
sys.path.insert(0, {str(TESTS)!r})
from beholder.workers.pool import ThumbnailPool
from oracles.odd_thumbnails import NAME, ordered
from oracles.made_pictures import encoded, smooth

def run():
    good = encoded(smooth(90, 60), "PNG")
    with ThumbnailPool(num_workers=3, timeout_s=float(sys.argv[1]), decoder=NAME) as pool:
        for order in ("hang", "spin"):
            threading.Thread(target=pool.make, args=(ordered(good, order),), daemon=True).start()
        while len(pool.process_ids) < 2:
            time.sleep(0.01)
        pool.make(good)
        time.sleep(0.3)
        print(*pool.process_ids, flush=True)
        time.sleep(300)
try:
    run()
except KeyboardInterrupt:
    sys.exit(130)
"""


@contextlib.contextmanager
def calling(timeout_s: float) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A program with three workers, of which two hang."""
    line = [sys.executable, "-c", textwrap.dedent(CALLER), str(timeout_s)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as caller:
        try:
            assert caller.stdout is not None
            process_ids = [int(word) for word in caller.stdout.readline().split()]
            assert len(process_ids) == 3
            assert all(map(is_running, process_ids))
            yield caller, process_ids
        finally:
            caller.kill()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_no_worker_outlives_its_caller(sent: signal.Signals) -> None:
    with calling(300) as (caller, process_ids):
        caller.send_signal(sent)
        assert caller.wait(20) == (130 if sent == signal.SIGINT else -sent)
    wait_until_gone(process_ids, 10)


@pytest.mark.soak
def test_a_worker_that_hangs_ends_by_itself_when_its_caller_is_stopped() -> None:
    with calling(4) as (caller, process_ids):
        caller.send_signal(signal.SIGSTOP)
        end = time.monotonic() + 30
        while sum(map(is_running, process_ids)) > 1:  # the third waits for work
            assert time.monotonic() < end
            time.sleep(0.1)

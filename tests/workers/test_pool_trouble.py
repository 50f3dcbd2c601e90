"""Pictures and workers that hang, crash, leave or cannot start: they cost nothing but themselves, and nothing is left over."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.errors import BeholderError, HeadError
from beholder.pixels.picture import MAX_PIXELS, PixelOptions
from beholder.sources.reader import PictureRef
from beholder.workers.pool import DecodePool
from oracles.odd_decoders import pixels_of
from oracles.odd_pools import SIZE_PX, assert_right, pool_of, refs_of, run


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_transform_that_cannot_be_made_here_ends_the_pool_before_any_picture(num_workers: int) -> None:
    """As on a node whose library is of another version, or is not there."""
    of_another = json.dumps({"library": "transformers", "opens_rgb": True, "class": "NoSuchProcessor", "config": {}})
    with (
        pytest.raises(HeadError, match=r"cannot make its transform: AttributeError: .*NoSuchProcessor") as caught,
        DecodePool(PixelOptions(size_px=32, transform=of_another), num_workers=num_workers),
    ):
        raise AssertionError("it has begun")
    assert "\n" not in str(caught.value)


def test_hanging_crashing_leaving_and_failing_pictures_cost_nothing_but_themselves() -> None:
    datas = [b"good %d" % number for number in range(300)]
    odd = {
        5: (b"sleep:60", "timed_out", "reading and decoding took longer than 0.5 s"),
        6: (b"signal:11", "crashed", "SIGSEGV"),
        7: (b"signal:6", "crashed", "SIGABRT"),
        60: (b"exit:3", "crashed", "exit status 3; last words"),
        61: (b"signal:19", "timed_out", "reading and decoding took longer than 0.5 s"),
        100: (b"bad:", "damaged", "told to be damaged"),
        101: (b"bug:", "crashed", "ZeroDivisionError: told to fail"),
        299: (b"signal:9", "crashed", "5 times (SIGKILL)"),
    }
    for number, (data, _, _) in odd.items():
        datas[number] = data
    datas[200:202] = [b"environment:", b"spam:"]
    with pool_of(2, timeout_s=0.5) as pool:
        found = run(pool, refs_of(datas))
        for number, data in enumerate(datas):
            if number in odd:
                assert found[number][0] == odd[number][1], number
                assert odd[number][2] in found[number][1]
            else:
                np.testing.assert_array_equal(found[number], pixels_of(data, SIZE_PX))
        assert pool.stats.num_restarts == 2 + 2 * 3 + 5


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_picture_whose_workers_were_killed_is_made_by_another(num_workers: int, tmp_path: Path) -> None:
    datas = [b"a", b"killed:4:" + os.fsencode(tmp_path / "marks"), b"b", b"c"]
    with pool_of(num_workers) as pool:
        assert_right(run(pool, refs_of(datas)), datas)
        assert pool.stats.num_restarts == 4


def test_harm_that_shows_later_is_blamed_on_no_other_picture() -> None:
    datas = [b"sleep:0.005:%d" % number for number in range(80)]
    harmful = {number: b"later:%d" % number for number in (3, 4, 30, 79)}
    for number, data in harmful.items():
        datas[number] = data
    with pool_of(2) as pool:
        found = run(pool, refs_of(datas))
        assert pool.stats.num_restarts >= 2
    for number, data in enumerate(datas):
        if number in harmful and isinstance(found[number], tuple):  # it showed while it was still at hand
            assert found[number][0] == "crashed"
        else:
            np.testing.assert_array_equal(found[number], pixels_of(data, SIZE_PX), err_msg=f"picture {number}")


def test_a_worker_that_talks_nonsense_is_replaced() -> None:
    with pool_of(1) as pool:
        found = run(pool, refs_of([b"a", b"nonsense:", b"b"]))
        assert found[1][0] == "crashed"
        for number, data in ((0, b"a"), (2, b"b")):
            np.testing.assert_array_equal(found[number], pixels_of(data, SIZE_PX))
        assert 2 <= pool.stats.num_restarts <= 5  # it is read only after more was made


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited on Linux only")
def test_a_picture_that_eats_memory_is_too_large() -> None:
    with pool_of(1, memory_bytes=512 << 20, max_bytes=1000) as pool:
        found = run(pool, refs_of([b"a", b"eat:", b"x" * 1001, b"b"]))
        assert [found[1][0], found[2][0]] == ["too_large", "too_large"]
        assert "1,001 bytes" in found[2][1]
        np.testing.assert_array_equal(found[3], pixels_of(b"b", SIZE_PX))
        assert pool.stats.num_restarts == 1  # what it took, it did not give back


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited on Linux only")
def test_what_a_picture_may_take_follows_its_own_pixels() -> None:
    """1 GiB and 32 bytes a pixel, however many `max_pixels` are; of one whose header tells no size, as of the largest."""
    webp = b"RIFF\x14\0\0\0WEBPVP8L\x08\0\0\0/" + (999 | 999 << 14).to_bytes(4, "little") + bytes(3)
    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 8192, 8192)
    datas = [b"no size", webp, png, webp, b"no size"]
    with pool_of(1, decoder="oracles.odd_decoders:room") as pool:
        found = [outcome.reply.width for outcome in pool.map(refs_of(datas))]
    wanted = [32 * MAX_PIXELS >> 20, 1024 + (32 * 1000**2 >> 20), 1024 + (32 * 8192**2 >> 20)]
    assert found == [pytest.approx(mib, abs=150) for mib in (*wanted, wanted[1], wanted[0])]


@pytest.mark.soak
def test_every_picture_is_made_though_workers_are_killed_at_random() -> None:
    rng, kills = random.Random(7), random.Random(8)
    datas = [rng.choice([b"", b"sleep:0.01:"]) + rng.randbytes(rng.choice([10, 1000, 100_000])) for _ in range(600)]
    stop = threading.Event()

    def kill(pool: DecodePool) -> None:
        for _ in range(20):
            running = pool.process_ids
            for process_id in kills.sample(running, min(len(running), kills.randint(0, 2))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process_id, signal.SIGKILL)
            if stop.wait(kills.uniform(0.0, 0.4)):
                return

    found: dict[int, Any] = {}
    with pool_of(2, num_slots=100) as pool:
        assert_right(run(pool, refs_of([b"up"])), [b"up"])
        killer = threading.Thread(target=kill, args=(pool,), daemon=True)
        killer.start()
        try:
            for outcome in pool.map(refs_of(datas)):
                assert outcome.error is None
                found[outcome.tag] = outcome.pixels.copy()
                outcome.release()
        finally:
            stop.set()
            killer.join()
        assert pool.stats.num_restarts >= 4
    assert_right(found, datas)


def test_workers_that_cannot_start_end_the_job_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_DECODERS_FAIL_TO_START", "1")
    with pool_of(2) as pool, pytest.raises(BeholderError) as caught:
        run(pool, refs_of([b"x"]))
    assert "cannot be started" in str(caught.value)
    assert "told not to start" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_workers_that_die_without_end_end_the_job_with_one_line() -> None:
    with pool_of(2, most_deaths=4) as pool, pytest.raises(BeholderError, match="died 5 times") as caught:
        run(pool, refs_of([b"exit:5"] * 100))
    assert "exit status 5" in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "large").write_bytes(bytes(2000))
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        wanted = {
            "none": "missing", "file/below": "missing", "zero\0byte": "missing", ".": "unreadable", "pipe": "unreadable",
            "socket": "unreadable", "large": "too_large",
        }  # fmt: skip
        refs = [(name, PictureRef(path=str(tmp_path / name))) for name in wanted]
        file = str(tmp_path / "file")
        refs += [("device", PictureRef(path="/dev/zero")), ("past", PictureRef(path=file, offset=3, length=9))]
        refs += [("tail", PictureRef(path=file, offset=3)), ("empty", PictureRef(path=str(tmp_path / "empty")))]
        for num_workers in (0, 1):
            with pool_of(num_workers, max_bytes=1999, timeout_s=5) as pool:
                found = run(pool, iter(refs))
            reasons = {name: result[0] for name, result in found.items() if isinstance(result, tuple)}
            assert reasons == {**wanted, "device": "unreadable", "past": "truncated"}
            assert all("\n" not in result[1] for result in found.values() if isinstance(result, tuple))
            np.testing.assert_array_equal(found["tail"], pixels_of(b"45", SIZE_PX))
            np.testing.assert_array_equal(found["empty"], pixels_of(b"", SIZE_PX))

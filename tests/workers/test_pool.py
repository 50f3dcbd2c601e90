"""The decode pool: pixels and facts in order, exact, and never more on their way than allowed."""

from __future__ import annotations

import io
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.pixels.picture import PixelOptions
from beholder.sources.reader import PictureRef
from beholder.workers.pool import DecodePool
from oracles.odd_decoders import pixels_of
from oracles.odd_pools import SIZE_PX, assert_right, pool_of, refs_of, run


@pytest.mark.parametrize("num_workers", [0, 3])
def test_pixels_and_facts_in_order_from_bytes_files_and_ranges(num_workers: int, tmp_path: Path) -> None:
    datas = [b"picture %d" % number * (number % 9 + 1) for number in range(90)]
    refs: list[PictureRef] = []
    archive, at = tmp_path / "archive \N{SNOWMAN}.tar", 0
    archive.write_bytes(b"".join(datas))
    for number, data in enumerate(datas):
        file = tmp_path / f"{number}.bin"
        file.write_bytes(data)
        name = f"file://{file}" if number % 2 else str(file)
        inside = PictureRef(path=str(archive), offset=at, length=len(data))
        refs.append([PictureRef(data=data), PictureRef(path=name), inside][number % 3])
        at += len(data)
    with pool_of(num_workers) as pool:
        for number, outcome in enumerate(pool.map(enumerate(refs))):
            assert outcome.tag == number
            np.testing.assert_array_equal(outcome.pixels, pixels_of(datas[number], SIZE_PX))
            length = len(datas[number])
            assert (outcome.reply.width, outcome.reply.height, outcome.reply.num_bytes) == (length, length % 7 + 1, length)
            assert outcome.reply.traits == length % 32
            batch = np.zeros((2, SIZE_PX, SIZE_PX, 3), np.uint8)
            outcome.take(batch[1])
            np.testing.assert_array_equal(batch[1], pixels_of(datas[number], SIZE_PX))
            assert not batch[0].any()
            outcome.release()
        assert number == 89
        assert pool.stats.num_restarts == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_real_decoder_gives_what_it_gives_without_a_pool(num_workers: int) -> None:
    from PIL import Image

    from beholder.pixels.decode import prepare
    from beholder.pixels.picture import PictureError

    rng, datas = np.random.default_rng(3), []
    for number in range(24):
        size = tuple(int(side) for side in rng.integers(1, 300, 2))
        picture = Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))
        file = io.BytesIO()
        picture.save(file, ["JPEG", "PNG", "WEBP"][number % 3])
        datas.append(file.getvalue())
    datas += [b"", b"not a picture", datas[1][: len(datas[1]) // 2]]
    options = PixelOptions(size_px=56)
    with DecodePool(options, num_workers=num_workers) as pool:
        for number, outcome in enumerate(pool.map(refs_of(datas))):
            if number >= 24:
                with pytest.raises(PictureError) as caught:
                    prepare(datas[number], options)
                assert outcome.error is not None
                assert (outcome.error.reason, str(outcome.error)) == (caught.value.reason, str(caught.value))
                continue
            wanted = prepare(datas[number], options)
            np.testing.assert_array_equal(outcome.pixels, wanted.pixels)
            assert (outcome.reply.width, outcome.reply.height, outcome.reply.traits) == (
                wanted.width,
                wanted.height,
                wanted.traits,
            )
            outcome.release()
    assert number == 26


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_picture_one_picture_and_errors_that_the_source_knew(num_workers: int) -> None:
    known = PictureRef(error=(PictureReason.UNREADABLE, "a broken archive"))
    with pool_of(num_workers) as pool:
        assert run(pool, iter([])) == {}
        assert_right(run(pool, refs_of([b"one"])), [b"one"])
        assert run(pool, iter([("a", known), ("b", known)])) == dict.fromkeys("ab", known.error)
        found = run(pool, enumerate([known, PictureRef(data=b"x"), PictureRef(), known]))
        assert [found[number][0] for number in (0, 2, 3)] == ["unreadable", "missing", "unreadable"]
        np.testing.assert_array_equal(found[1], pixels_of(b"x", SIZE_PX))


def test_no_more_workers_are_started_than_there_are_pictures() -> None:
    datas = [b"picture %d" % number for number in range(3)]
    with pool_of(40) as pool:
        assert pool.process_ids == []
        assert_right(run(pool, refs_of(datas[:1])), datas[:1])
        assert len(pool.process_ids) == 1
        assert_right(run(pool, refs_of(datas)), datas)
        assert 1 <= len(pool.process_ids) <= 3


@pytest.mark.slow
def test_an_endless_iterator_is_read_no_further_than_there_are_slots() -> None:
    pulled = 0

    def endless() -> Iterator[tuple[int, PictureRef]]:
        nonlocal pulled
        for number in itertools.count():
            pulled += 1
            yield number, PictureRef(data=b"%d" % number)

    with pool_of(num_slots=10) as pool:
        outcomes, held = pool.map(endless()), []
        for number, outcome in enumerate(outcomes):
            held.append(outcome)
            if len(held) == 7:
                time.sleep(0.02 if number < 60 else 0)
                assert number + 1 <= pulled <= number + 1 - 7 + 10
                for one in held:
                    np.testing.assert_array_equal(one.pixels, pixels_of(b"%d" % one.tag, SIZE_PX))
                    one.release()
                held.clear()
            if number == 1000:
                break
        outcomes.close()  # type: ignore[attr-defined]


def test_bytes_that_wait_are_bounded_too() -> None:
    pulled = 0

    def data_of(number: int) -> bytes:
        return (b"sleep:0.5:" if number == 0 else b"%d" % number) + bytes(1 << 20)

    def large() -> Iterator[tuple[int, PictureRef]]:
        nonlocal pulled
        for number in range(60):
            pulled += 1
            yield number, PictureRef(data=data_of(number))

    with pool_of(1, num_slots=64, ahead_bytes=6 << 20) as pool:
        for outcome in pool.map(large()):
            if outcome.tag == 0:
                assert 4 <= pulled <= 8
            np.testing.assert_array_equal(outcome.pixels, pixels_of(data_of(outcome.tag), SIZE_PX))
            outcome.release()
    assert pulled == 60


def test_the_bytes_of_the_group_that_is_read_and_of_the_one_before_it_count() -> None:
    """Groups of 4 MiB in 16: three that wait leave room for no two more."""
    num_pulled = 0

    def groups() -> Iterator[list[tuple[int, PictureRef]]]:
        nonlocal num_pulled
        for number in range(8):
            num_pulled += 1
            start = b"sleep:0.5:" if number == 0 else b"%d" % number
            yield [(4 * number + at, PictureRef(data=start + bytes((1 << 20) - len(start)))) for at in range(4)]

    seen = []
    with pool_of(1, num_slots=64, ahead_bytes=16 << 20) as pool:
        for outcomes in pool.map_groups(groups()):
            if not seen:
                assert 2 <= num_pulled <= 3
            seen += [outcome.tag for outcome in outcomes]
            for outcome in outcomes:
                outcome.release()
    assert seen == list(range(32))


def test_a_group_larger_than_all_that_may_wait_is_taken() -> None:
    large = [[(4 * number + at, PictureRef(data=b"%d" % at + bytes(1 << 20))) for at in range(4)] for number in range(3)]
    with pool_of(1, num_slots=2, ahead_bytes=1 << 20) as pool:
        seen = []
        for outcomes in pool.map_groups(iter(large)):
            seen += [outcome.tag for outcome in outcomes]
            for outcome in outcomes:
                outcome.release()
    assert seen == list(range(12))


def test_large_bytes_arrive_whole_and_their_memory_is_given_back(odd_pool: DecodePool) -> None:
    rng = np.random.default_rng(5)
    sizes = [*map(int, rng.integers(5 << 20, 6 << 20, 8)), (64 << 10) - 1, 64 << 10, (64 << 10) + 1]
    datas = [rng.bytes(size) for size in sizes]
    assert_right(run(odd_pool, refs_of(datas)), datas)
    spool = odd_pool._dispatcher._spool.handle  # type: ignore[union-attr]
    assert os.fstat(spool).st_blocks * 512 < 1 << 20


def test_what_the_iterator_raises_comes_after_the_outcomes_before_it() -> None:
    closed = []

    def failing() -> Iterator[tuple[int, PictureRef]]:
        try:
            yield from refs_of([b"%d" % number for number in range(40)])
            raise InputError("the list ends in the middle")
        finally:
            closed.append(True)

    with pool_of(2, num_slots=8) as pool:
        seen, outcomes = [], pool.map(failing())
        for outcome in itertools.islice(outcomes, 40):
            seen.append(outcome.tag)
            outcome.release()
        with pytest.raises(InputError, match="in the middle"):
            next(outcomes)
        assert seen == list(range(40))
        assert closed == [True]
        assert_right(run(pool, refs_of([b"again"])), [b"again"])


def test_a_map_that_is_left_early_leaves_the_pool_as_new() -> None:
    with pool_of(2, num_slots=6, timeout_s=5) as pool:
        for lap in range(5):
            outcomes = pool.map((number, PictureRef(data=b"lap %d %d" % (lap, number))) for number in itertools.count())
            for _ in range(lap * 3 + 1):
                next(outcomes).release()
            kept = next(outcomes)
            with pytest.raises(RuntimeError, match="one map at a time"):
                next(pool.map(iter([])))
            outcomes.close()  # type: ignore[attr-defined]
            np.testing.assert_array_equal(kept.pixels, pixels_of(b"lap %d %d" % (lap, lap * 3 + 1), SIZE_PX))
            kept.release()
        datas = [b"%d" % number for number in range(50)]
        assert_right(run(pool, refs_of(datas)), datas)
        assert sorted(pool._free) == list(range(6))
    with pytest.raises(RuntimeError, match="closed"):
        next(pool.map(refs_of([b"late"])))
    with pytest.raises(RuntimeError, match="with statement"):
        next(pool_of(1).map(refs_of([b"early"])))


def test_a_map_that_is_left_within_a_group_keeps_no_slot() -> None:
    """Outcomes that came together with the last one that was looked at hold slots, too."""
    with pool_of(1, num_slots=68) as pool:
        for lap in range(8):
            outcomes = pool.map((number, PictureRef(data=b"lap %d %d" % (lap, number))) for number in itertools.count())
            for _ in range(3):
                next(outcomes).release()
            time.sleep(0.1)  # many are done by now, and come together
            next(outcomes).release()
            outcomes.close()  # type: ignore[attr-defined]
        datas = [b"%d" % number for number in range(200)]
        assert_right(run(pool, refs_of(datas)), datas)
        assert sorted(pool._free) == list(range(68))


@pytest.mark.slow
def test_stats_tell_where_the_time_goes() -> None:
    with pool_of(2) as pool:
        run(pool, refs_of([b"sleep:0.1:%d" % number for number in range(16)]))
        stats = pool.stats
        assert stats.decode_s >= 1.6 > stats.read_s
        assert stats.wait_s >= 0.7
        assert stats.read_s + stats.decode_s > stats.idle_s
        assert stats.slowest == "decode"

    def slow() -> Iterator[tuple[int, PictureRef]]:
        for number in range(8):
            time.sleep(0.2)
            yield number, PictureRef(data=b"%d" % number)

    with pool_of(2) as pool:
        run(pool, slow())
        stats = pool.stats
        assert stats.source_s >= 1.6
        # Once they are up, workers wait for the source.
        assert replace(stats, wait_s=2.0, decode_s=0.1, idle_s=3.0).slowest == "read"


def test_options_that_make_no_sense() -> None:
    for wrong in ({"num_workers": -1}, {"num_slots": 0}, {"timeout_s": 0.0}, {"num_readers": 0}):
        with pytest.raises(InputError):
            DecodePool(PixelOptions(), **{"num_workers": 1, **wrong})

"""How far a job is: exact where sizes are known, estimated from bytes where they are not, with earlier runs counted in."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from beholder.scoring.shards import Shard, ShardResult
from beholder.scoring.summary import PartSize, ShardCounts, Tally
from oracles.tar_making import tar as tar_of


def shard(part: int, start: int = 0, stop: int | None = None) -> Shard:
    return Shard(f"{part}-{start}", part, start, stop)


def result(num_rows: int, num_rejected: int = 0) -> ShardResult:
    reasons = {"damaged": num_rejected} if num_rejected else {}
    return ShardResult(num_rows, num_rows - num_rejected, num_rejected, reasons)


def tar(num_bytes: int, *, is_plain: bool = True) -> PartSize:
    return PartSize(num_rows=None, num_bytes=num_bytes, is_plain=is_plain)


def test_known_sizes_add_up() -> None:
    shards = [shard(0, 0, 60), shard(0, 60, 100), shard(1, 0, 50)]
    tally = Tally(shards, [PartSize(num_rows=100), PartSize(num_rows=50)])
    assert tally.total() == (150, True)
    tally.resume({"0-0": result(60, 7)})
    tally.add(shards[1], 40, 4000, 2)
    tally.add(shards[2], 10, 1000, 0)
    assert tally.total() == (150, True)
    assert (tally.num_done, tally.num_new, tally.num_bytes, tally.num_rejected, tally.part) == (110, 50, 5000, 9, 2)


def test_a_tar_tells_of_itself_and_then_of_the_others() -> None:
    shards = [shard(0), shard(1), shard(2)]
    tally = Tally(shards, [tar(100_000), tar(200_000), tar(400_000)])
    assert tally.total() == (None, False)
    for _ in range(5):
        tally.add(shards[0], 1, 100, 0)  # 512 bytes of header, and 100 padded to 512: 700,000 hold 683.6
    assert tally.total() == (684, False)
    for _ in range(45):
        tally.add(shards[0], 1, 100, 0)
    tally.add(shards[1], 0, 0, 0)  # so there were 50 in 100,000 bytes: 2000 each, with what stands between them
    assert tally.total() == (50 + 600_000 // 2000, False)
    for _ in range(100):
        tally.add(shards[1], 1, 513, 0)  # by now 150 in 100,000 + 100 * 1536
    assert tally.total() == (50 + round(600_000 * 150 / 253_600), False)
    for _ in range(1000):
        tally.add(shards[2], 1, 1, 0)
    tally.end()
    assert tally.total() == (1150, True)


def test_small_pictures_of_a_tar_are_counted_with_headers_and_padding(tmp_path: Path) -> None:
    members = [(f"{number:04}.jpg", bytes(1 + 7 * number % 700)) for number in range(1000)]
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of(members))
    only = shard(0)
    tally = Tally([only], [tar(path.stat().st_size)])
    for _, data in members[:500]:
        tally.add(only, 1, len(data), 0)
    total, is_certain = tally.total()
    assert not is_certain
    assert total == pytest.approx(1000, rel=0.03)


def test_a_compressed_tar_tells_nothing_before_its_end() -> None:
    shards = [shard(0), shard(1)]
    tally = Tally(shards, [tar(1000, is_plain=False), tar(3000, is_plain=False)])
    tally.add(shards[0], 20, 90_000, 0)
    assert tally.total() == (None, False)
    tally.add(shards[1], 1, 50, 0)
    assert tally.total() == (20 + 60, False)
    tally.add(shards[1], 99, 50, 0)  # more than was thought
    assert tally.total() == (120, False)


def test_finished_tars_of_an_earlier_run_tell_of_the_rest() -> None:
    shards = [shard(0), shard(1), shard(2), shard(3)]
    tally = Tally(shards, [tar(1000), tar(1000), tar(500), PartSize(num_rows=5)])
    tally.resume({"1-0": result(10, 1)})
    assert tally.total() == (10 + 10 + 5 + 5, False)
    assert (tally.num_done, tally.num_new, tally.num_rejected) == (10, 0, 1)


def test_estimates_of_headers_stand_until_the_part_is_read() -> None:
    shards = [shard(0), shard(1)]
    tally = Tally(shards, [PartSize(num_rows=None, about_rows=90), PartSize(num_rows=None, about_rows=10)])
    assert tally.total() == (100, False)
    tally.add(shards[0], 95, 0, 0)
    assert tally.total() == (100, False)
    tally.add(shards[1], 1, 0, 0)
    assert tally.total() == (95 + 10, False)
    tally.add(shards[1], 11, 0, 0)
    tally.end()
    assert tally.total() == (107, True)


def test_without_any_size_there_is_no_total_until_the_end() -> None:
    shards = [shard(0)]
    tally = Tally(shards, [tar(0)])
    tally.add(shards[0], 3, 99, 0)
    assert tally.total() == (None, False)
    tally.end()
    assert tally.total() == (3, True)
    assert Tally([], []).total() == (0, True)


def test_a_total_that_somebody_knows_counts() -> None:
    tally = Tally([shard(0)], [tar(1000)])
    tally.tell_total(7)
    assert tally.total() == (7, True)
    tally.add(shard(0), 9, 1, 0)
    assert tally.total() == (9, True)


def test_a_total_is_asked_for_while_another_thread_counts() -> None:
    """Parts of 4 rows come and go, 300 of them; what is asked meanwhile neither fails nor falls below what is done."""
    shards = [shard(part) for part in range(300)]
    tally = Tally(shards, [tar(2048)] * 300)
    over = threading.Event()

    def count() -> None:
        for _ in range(30):
            for one in shards:
                tally.put(one, ShardCounts(4, 100, 0, 4))
            for one in shards:
                tally.put(one, ShardCounts(4, 100, 0, 4), is_done=True)
        over.set()

    thread = threading.Thread(target=count)
    thread.start()
    while not over.is_set():
        total, _ = tally.total()
        assert total is None or total >= 4
    thread.join()
    assert tally.total() == (1200, True)

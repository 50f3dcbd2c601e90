"""The index of finished shards: what it has need not be opened, and nothing is lost with it."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from beholder.io import records
from beholder.scoring import index
from beholder.scoring.folder import RunFolder
from beholder.scoring.shards import EarlierShard, Shard, ShardResult
from oracles.score_jobs import ROWS, run
from oracles.tiers import mostly_slow


def segments(out: Path) -> list[Path]:
    return sorted((out / "done").glob("index-*.jsonl.zst"))


def change_unseen(path: Path, data: bytes) -> None:
    """Other bytes, of the same number and time: what no listing shows."""
    status = path.stat()
    assert len(data) == status.st_size
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def job(tmp_path: Path, small_head: Path) -> Any:
    """Scores an array of 300 rows into ten shards, of which three have rejects."""
    rows = ROWS[:300].copy()
    rows[[5, 6, 100, 299]] = 0
    np.save(tmp_path / "x.npy", rows)
    return lambda out="out", **more: run(tmp_path / "x.npy", tmp_path / out, small_head, shard_rows=30, **more)


def test_what_the_index_has_is_not_opened(tmp_path: Path, job: Any) -> None:
    first, out = job(), tmp_path / "out"
    assert len(segments(out)) == 1
    markers = sorted((out / "done").glob("*.json"))
    for marker in markers:
        change_unseen(marker, b"x" * marker.stat().st_size)
    again = job()
    assert (again.num_new, again.num_read, again.damaged, again.reasons) == (0, 300, [], {"zero_norm": 4})
    assert again.to_json()["scores"] == first.to_json()["scores"]
    assert len(segments(out)) == 1, "and nothing was written"
    segments(out)[0].unlink()
    assert len(job().damaged) == 10, "(so they were opened now)"


def test_what_looks_otherwise_is_read(tmp_path: Path, job: Any) -> None:
    job()
    files = sorted((tmp_path / "out" / "scores").iterdir())
    os.utime(files[0])  # only touched
    files[1].write_bytes(files[1].read_bytes()[:-1] + b"x")
    files[2].unlink()
    files[3].write_bytes(b"")
    os.utime(tmp_path / "out" / "done" / f"{files[4].stem}.json")
    (tmp_path / "out" / "done" / f"{files[5].stem}.json").unlink()
    again = job()
    assert again.damaged == [files[number].stem for number in (1, 2, 3)]
    assert again.num_new == 4 * 30
    assert (job().num_new, job().damaged) == (0, [])


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "changed": lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "another": lambda data: b"PK\x03\x04" + data,
    "text": lambda data: b'{"format": "beholder-index"}\n',
}


@pytest.mark.parametrize("damage", mostly_slow(DAMAGE, quick=3))
def test_a_damaged_segment_costs_nothing_but_time(tmp_path: Path, job: Any, damage: str) -> None:
    first, out = job(), tmp_path / "out"
    (segment,) = segments(out)
    segment.write_bytes(DAMAGE[damage](segment.read_bytes()))
    again = job()
    assert (again.num_new, again.num_read, again.damaged) == (0, 300, [])
    assert again.to_json()["scores"] == first.to_json()["scores"]
    assert len(segments(out)) == 2, "what was read is in the index again"
    flipped = bytearray((out / "scores" / "x-from-000000000030.parquet").read_bytes())
    flipped[100] ^= 1
    (out / "scores" / "x-from-000000000030.parquet").write_bytes(flipped)
    assert job().damaged == ["x-from-000000000030"]


def test_every_changed_byte_of_a_segment_is_noticed(tmp_path: Path, job: Any) -> None:
    """Whatever it says of a shard then: what is found is what the markers say, or nothing."""
    job()
    (segment,) = segments(tmp_path / "out")
    whole = segment.read_bytes()
    folder = RunFolder(tmp_path / "out")
    names = sorted(folder.finished_names())
    print_of = folder.marked_shard(names[0]).fingerprint
    expected = [folder.marked_shard(name).to_json() for name in names]
    for at in range(0, len(whole), 7):
        segment.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        folder.look()
        found = list(folder.finished_shards(names, print_of))
        assert [one.to_json() for one in found if isinstance(one, EarlierShard)] == expected, at


def test_many_segments_become_one(tmp_path: Path, job: Any) -> None:
    job()
    for number in range(24):
        (tmp_path / "out" / "done" / f"x-from-{30 * (number % 10):012d}.json").unlink()
        assert job().num_new == 30
        assert len(segments(tmp_path / "out")) <= 10
    assert (job().num_new, job().num_read) == (0, 300)


def test_overwrite_removes_the_index(tmp_path: Path, job: Any) -> None:
    job()
    (before,) = segments(tmp_path / "out")
    assert job(overwrite=True).num_new == 300
    (after,) = segments(tmp_path / "out")
    assert after != before
    assert job("out.parquet").num_new == 300
    assert not list(tmp_path.glob("*.partial"))


class Writer:
    """Writes a text for each shard."""

    models = ("sha",)

    def write(self, shard: Shard, computed: Any, folder: str) -> ShardResult:
        place = Path(folder) / "scores" / f"{shard.name}.csv"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"sample,{computed}\n")
        return ShardResult(1, 1, 0, {}, {f"scores/{shard.name}.csv": place.stat().st_size})


def test_several_write_shards_and_segments_at_once(tmp_path: Path) -> None:
    """As worker processes do, without a lock; some shards are done by two of them."""

    def work(numbers: range) -> None:
        folder = RunFolder(tmp_path / "run")
        for number in numbers:
            shard = Shard(f"s{number}", 0, number, number + 1, {"name": "x"}, number)
            done = folder.write_shard(Writer(), shard, number, "print")
            assert done.shard.result.sha256.keys() == {f"scores/s{number}.csv"}
            folder.note(done)
            if number % 7 == 0:
                folder.save_index()
        folder.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, [range(30), range(20, 60), range(60, 80), range(50, 90)]))
    folder = RunFolder(tmp_path / "run")
    names = [f"s{number}" for number in range(90)]
    assert folder.finished_names() == set(names)
    for path in (tmp_path / "run" / "done").glob("*.json"):
        change_unseen(path, b" " * path.stat().st_size)
    found = list(folder.finished_shards(names, "print"))
    in_index = [one for one in found if isinstance(one, EarlierShard)]
    assert len(in_index) > 70, "(of those that two have done the index may have the other's looks)"
    assert all(one.result.num_read == 1 for one in in_index)
    with folder.locked():
        list(folder.finished_shards(names, "print"))
    assert len(segments(tmp_path / "run")) < 12


def test_of_what_is_set_aside_no_index_is_kept(tmp_path: Path) -> None:
    """A run that was killed had set many shards aside; the next one reads, and later removes, all that is there."""
    done = tmp_path / "_earlier" / "00000" / "done"
    done.mkdir(parents=True)
    (done.parent / "beholder.json").write_bytes(records.sealed({}))
    names = [f"s{number:04}" for number in range(index.MOST_WAITING + 1)]
    for name in names:
        earlier = EarlierShard("", name, {}, ShardResult(0, 0, 0), "f", ())
        (done / f"{name}.json").write_bytes(records.sealed(earlier.to_json()))
    folder = RunFolder(tmp_path)
    (place,) = folder.places_aside()
    assert len([found for found in place.finished_shards(names, "f") if isinstance(found, EarlierShard)]) == len(names)
    folder.remove_set_aside()
    assert not list(tmp_path.iterdir())


MOMENTS = ("mean", "sum_squared_deviations", "minimum", "maximum")


@pytest.mark.parametrize(
    ("at", "changed"),
    [
        (2, {"more": [{}, None, {}, {}]}), (2, {"more": [{"a": "b"}, {}, {}, {}]}), (2, {"counts": [1.5, 1.5, 0]}), (2,
            {"files": 5}),
        (2, {"more": [{}, {"s": {"bins": "1:2:!", "mean": 1}}, {}, {}]}), (2, {"more": [{}, {"s": {"bins": "", "mean": []}}, {},
            {}]}),
        (2, {"more": [{}, {"s": {"bins": "1:5:AQ==", "mean": 1.5}}, {}, {}]}),
        (2, {"more": [{}, {"s": dict.fromkeys(MOMENTS) | {"bins": "1:5:AQ==", "count": 1}}, {}, {}]}),
        (2, {"more": [{}, {"s": dict.fromkeys(MOMENTS, 1.5) | {"bins": "1:5:AQ==", "count": 1.5}}, {}, {}]}),
        (2, {"more": [{}, {"s": dict.fromkeys(MOMENTS, 10**400) | {"bins": "1:5:AQ==", "count": 28}}, {}, {}]}),
        (2, {"counts": [10**400, 10**400, 0]}),
        (2, {"of": [1]}), (1, "text"), (1, []), (1, ["f", [], [{"a": 1}]]), (1, [5, [], {}]), (1, ["f", [5], {}]),
    ],
)  # fmt: skip
def test_a_segment_with_other_things_than_we_write(at: int, changed: Any, tmp_path: Path, job: Any) -> None:
    """Its checksum is right, so somebody has made it; it is passed over as damaged ones are."""
    first = job()
    (segment,) = segments(tmp_path / "out")
    with pa.CompressedInputStream(pa.BufferReader(segment.read_bytes()), "zstd") as source:
        lines = source.read().splitlines()[:-1]
    lines[at] = json.dumps(json.loads(lines[at]) | changed if isinstance(changed, dict) else changed).encode()
    text = b"\n".join([*lines, b""])
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as out:
        out.write(text + json.dumps({"sha256": hashlib.sha256(text).hexdigest()}).encode() + b"\n")
    segment.write_bytes(bytes(sink.getvalue()))
    again = job()
    assert (again.num_new, again.num_read, again.damaged) == (0, 300, [])
    assert again.to_json()["scores"] == first.to_json()["scores"]

"""Large tars are cut into ranges: whatever the cut, the same pictures with the same names and labels."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.sources.labels import join_labels
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions
from beholder.sources.tar import TarReader
from oracles.tar_making import png, tar
from oracles.tiers import mostly_slow

OPTIONS = SourceOptions(block_rows=5)


SMALL_IS_LARGE = TarReader(ranged_bytes=1000, mark_rows=3)


def part_of(path: Path, reader: TarReader = TarReader()) -> PicturePart:  # noqa: B008 (it is frozen)
    return reader.inspect(str(path), path.name, OPTIONS)


def read(part: PicturePart, start: int = 0, stop: int | None = None) -> tuple[list[PictureRef], list[dict[str, Any]]]:
    blocks = list(TarReader().blocks(part, start, stop, OPTIONS))
    rows = join_labels([block.labels for block in blocks]).to_pylist() if blocks else []
    return [ref for block in blocks for ref in block.refs], [{k: v for k, v in r.items() if v is not None} for r in rows]


def odd_members() -> list[tuple[str, bytes]]:
    """Keys that come again, several pictures of a key with their JSON before, between and behind, names without a suffix."""
    members: list[tuple[str, bytes]] = []
    for i in range(12):
        said = json.dumps({"n": i, **({"odd": True} if i % 4 == 1 else {})}).encode()
        members += [(f"{i % 5}.json", said), (f"{i % 5}.png", png(i)), (f"{i % 5}.b.png", png(100 + i))]
        members += [(f"{i % 5}.txt", b"of %d" % i), (f"{i % 5}.c.png", png(200 + i)), (f".hidden{i}", b"x")]
        members += [(f"late{i}.jpg", png(300 + i)), (f"late{i}.json", said), (f"plain{i}", png(400 + i)), (f"no{i}", b"words")]
    members += [(f"many.{i}.png", png(i)) for i in range(70)] + [("many.cls", b"7"), ("many.x.png", png(1))]
    return [("many.json", b'{"first": 1}'), *members, ("0#2.png", png(9)), ("0.png", png(9))]


@pytest.mark.parametrize("table", mostly_slow([None, "all", "some"]))
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_range_is_what_the_whole_has_there(tmp_path: Path, table: str | None, form: int) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar([("d" * 150 + "/1.png", png(5)), *odd_members()], format=form))
    if table is not None:
        keys = [f"{i}" for i in range(5)] + [f"late{i}" for i in range(12 if table == "all" else 3)]
        pq.write_table(pa.table({"key": keys, "n": list(range(len(keys)))}), tmp_path / "x.parquet")
    one_shard = part_of(path)
    assert one_shard.num_rows is None
    refs, rows = read(one_shard)
    part = part_of(path, SMALL_IS_LARGE)
    assert part.num_rows == len(refs) == 1 + 12 * 5 + 71 + 2
    assert len(part.detail["index"].rows) > 10
    assert {row["sample"] for row in rows} >= {f"{path}/0#2", f"{path}/0#3", f"{path}/0#2#2"}
    for step in (1, 7, 40):
        found = [read(part, low, min(low + step, len(refs))) for low in range(0, len(refs), step)]
        assert [ref for some, _ in found for ref in some] == refs
        assert [row for _, some in found for row in some] == rows
    for low in range(0, len(refs), 3):  # without what inspecting told, too
        assert read(one_shard, low, low + 3) == (refs[low : low + 3], rows[low : low + 3])


def test_the_broken_end_of_a_tar_is_in_its_last_range(tmp_path: Path) -> None:
    whole = tar(odd_members())
    for cut in (*np.random.default_rng(0).integers(3000, len(whole) - 20_000, 6).tolist(), -10_240 - 20):
        path = tmp_path / "x.tar"
        path.write_bytes(whole[:cut])
        refs, rows = read(part_of(path))
        part = part_of(path, SMALL_IS_LARGE)
        assert part.num_rows == len(refs)
        found = [read(part, low, min(low + 4, len(refs))) for low in range(0, len(refs), 4)]
        assert [ref for some, _ in found for ref in some] == refs
        assert [row for _, some in found for row in some] == rows
        assert [ref.error is None for ref in refs] == [True] * (len(refs) - 1) + [False]


def test_what_lies_long_before_a_range_is_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar([(f"{i}.png", png(i)) for i in range(50)]))
    part = part_of(path, SMALL_IS_LARGE)
    before = read(part, 40, 50)
    data = bytearray(path.read_bytes())
    data[3 * 1024 : 4 * 1024] = b"?" * 1024  # the fourth member
    path.write_bytes(data)
    assert read(part, 40, 50) == before
    assert len(read(part, 0, 50)[0]) == 4


def test_a_header_for_all_that_follows_is_not_skipped(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"path": "one.png"}) as archive:
        for i in range(20):
            info = tarfile.TarInfo(f"é{i}.png" if i % 2 else f"{i}.png")  # the first has a header of its own
            info.size = len(png(i))
            archive.addfile(info, io.BytesIO(png(i)))
    path = tmp_path / "x.tar"
    path.write_bytes(stream.getvalue())
    part = part_of(path, SMALL_IS_LARGE)
    assert [row["sample"] for row in read(part)[1]][:3] == [f"{path}/one", f"{path}/é1", f"{path}/one#2"]
    assert read(part, 15, 20)[1] == read(part)[1][15:]


def test_only_large_plain_local_tars_are_counted(tmp_path: Path) -> None:
    data = tar([(f"{i}.png", png(i)) for i in range(5)])
    (tmp_path / "x.tar").write_bytes(data)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(data))
    (tmp_path / "none.tar").write_bytes(tar([("a.txt", b"x" * 2000)]))
    assert part_of(tmp_path / "x.tar").num_rows is None
    small = TarReader(ranged_bytes=100)
    assert [part_of(tmp_path / name, small).num_rows for name in ("x.tar", "x.tar.gz", "none.tar")] == [5, None, None]

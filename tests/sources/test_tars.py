"""Tars of all kinds: exact names, samples and places, in any range of rows."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beholder.sources.reader import SourceOptions, picture_reader
from beholder.sources.tar import TarReader
from beholder.sources.tar_file import split_key
from oracles.tar_making import base_plus_ext, png, tar
from oracles.tar_reading import data_of, img2dataset_tar, part_of, read, samples, write


def test_places_of_a_plain_local_tar(tmp_path: Path) -> None:
    members = [("a/1.png", png(1)), ("a/2.PNG", png(2)), ("3.jpg", b"not a picture, but named as one"), ("4.webp", b"")]
    path = write(tmp_path / "x.tar", tar(members))
    refs, rows, _ = read(path)
    assert samples(rows) == [f"{path}/a/1", f"{path}/a/2", f"{path}/3", f"{path}/4"]
    assert [row["key"] for row in rows] == ["a/1", "a/2", "3", "4"]
    assert [data_of(ref) for ref in refs] == [data for _, data in members]
    with tarfile.open(path) as archive:
        assert [(ref.offset, ref.length) for ref in refs[:3]] == [(m.offset_data, m.size) for m in archive][:3]
    assert {ref.path for ref in refs[:3]} == {str(path)}


def test_the_part(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", tar([("1.png", png(1))]))
    part = part_of(path)
    assert (part.kind, part.num_rows, part.num_bytes, part.name) == ("tar", None, path.stat().st_size, "x.tar")
    before = part.identity
    assert json.dumps(before)
    write(path, tar([("1.png", png(2))]))
    assert part_of(path).identity != before
    assert picture_reader("tar").inspect(str(path), "n", SourceOptions()).name == "n"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(tmp_path: Path, form: int) -> None:
    names = ["ü/猫.png", "d" * 90 + "/" + "e" * 60 + ".png", "x.png"]
    if form != tarfile.USTAR_FORMAT:
        names.append("f/" * 120 + "g" * 200 + ".png")
    path = write(tmp_path / "x.tar", tar([(name, png(i)) for i, name in enumerate(names)], format=form))
    refs, rows, _ = read(path)
    assert samples(rows) == [f"{path}/{name.removesuffix('.png')}" for name in names]
    assert [data_of(ref) for ref in refs] == [png(i) for i in range(len(names))]


def test_a_name_that_is_not_utf8_becomes_valid_text(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.tar", tar([("caf\udce9.png", png(1)), ("b", b""), ("caf\\xe9.png", png(2))], format=tarfile.GNU_FORMAT)
    )
    _, rows, _ = read(path)
    assert samples(rows) == [f"{path}/caf\\xe9", f"{path}/caf\\xe9#2"]


def test_keys_end_before_the_first_dot_and_pictures_of_one_key_have_names_of_their_own(tmp_path: Path) -> None:
    members = [
        ("a.b/x.y.png", png(1)), ("a.b/x.seg.png", png(2)), ("a.b/x.txt", b"both"), ("z.jpg", png(3)), ("z.png", png(4)),
        ("z.webp", png(5)),
    ]  # fmt: skip
    path = write(tmp_path / "x.tar", tar(members))
    _, rows, _ = read(path)
    assert samples(rows) == [f"{path}/a.b/x", f"{path}/a.b/x.seg.png", f"{path}/z", f"{path}/z.png", f"{path}/z.webp"]
    assert [row["caption"] for row in rows] == ["both", "both", None, None, None]


@given(st.lists(st.text("ab./_", min_size=1, max_size=10), max_size=20))
def test_keys_are_those_of_webdataset(names: list[str]) -> None:
    for name in names:
        key, ext = base_plus_ext(name)
        ours = split_key(name)
        if key is not None and not name.rsplit("/", 1)[-1].startswith("."):
            assert ours == (key, ext) or name.startswith("__")
        elif ours is not None:
            assert "." not in name.rsplit("/", 1)[-1]
            assert ours == (name, "")


def test_only_pictures_by_name_or_content(tmp_path: Path) -> None:
    members = [
        ("1.picture", png(1)), ("2", png(2)), ("3.unknown", b"words"), ("4.npy", png(4)), ("5.mp4", b"x"), ("__MACOSX/6.png",
        png(6)),
        ("d/._7.png", b"x"), (".8.png", png(8)), ("9.jpg/", b""), ("__meta__", b"x"), ("./10.gif", png(10)), ("/11.gif",
        png(11)),
    ]  # fmt: skip
    path = write(tmp_path / "x.tar", tar([member for member in members if not member[0].endswith("/")]))
    _, rows, _ = read(path)
    assert samples(rows) == [f"{path}/{key}" for key in ("1", "2", "10", "11")]


def test_repeated_keys_stay_apart(tmp_path: Path) -> None:
    members = [("a.png", png(1)), ("b.png", png(2)), ("a.png", png(3)), ("c.png", png(4)), ("a.png", png(5))]
    path = write(tmp_path / "x.tar", tar(members))
    refs, rows, _ = read(path)
    assert samples(rows) == [f"{path}/{key}" for key in ("a", "b", "a#2", "c", "a#3")]
    assert [data_of(ref) for ref in refs] == [png(i) for i in range(1, 6)]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, None])
def test_any_cut_gives_the_same_rows(tmp_path: Path, pack: Any) -> None:
    plain = img2dataset_tar(tmp_path, count=23)
    path = write(tmp_path / "0.tar.x", pack(plain.read_bytes())) if pack else plain
    pq.write_table(pq.read_table(tmp_path / "00000.parquet"), tmp_path / "0.parquet")
    whole_refs, whole, _ = read(path)
    assert [data_of(ref) for ref in whole_refs] == [png(i) for i in range(23) if i not in (3, 7)]
    assert all((ref.data is None) == (pack is None) for ref in whole_refs)
    rng = np.random.default_rng(0)
    for _ in range(4):
        edges = [0, *sorted(rng.integers(0, 22, 3).tolist()), None]
        refs, rows = [], []
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            some_refs, some_rows, _ = read(path, low, high, block_rows=4, block_bytes=300)
            refs += some_refs
            rows += some_rows
        assert refs == whole_refs
        assert rows == whole
    assert read(path, 1000, None)[0] == []


def test_what_lies_before_start_is_not_read(tmp_path: Path) -> None:
    path = img2dataset_tar(tmp_path, count=40, failed=())
    packed = write(tmp_path / "p.tar.gz", gzip.compress(path.read_bytes()))
    part = part_of(packed)
    reader = TarReader()
    from beholder.sources import tar_file

    asked: list[str] = []
    original = tar_file.TarFile.read
    tar_file.TarFile.read = lambda self, member, most=None: (asked.append(member.name), original(self, member, most))[1]  # type: ignore[assignment, method-assign, func-returns-value]
    try:
        (block,) = reader.blocks(part, 30, 35, SourceOptions())
    finally:
        tar_file.TarFile.read = original  # type: ignore[method-assign]
    assert len(block.refs) == 5
    assert {int(name.split(".")[0]) for name in asked} <= set(range(29, 35))


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "gnu"])
def test_sparse_members(tmp_path: Path, version: str) -> None:
    """Sparse files as GNU tar stores them: holes are zeros again."""
    content = b"A" * 512 + bytes(1024) + b"B" * 512
    stored, stretches = b"A" * 512 + b"B" * 512, [(0, 512), (1536, 512)]
    info = tarfile.TarInfo("s.tiff")
    if version == "gnu":
        info.size, info.type = len(stored), tarfile.GNUTYPE_SPARSE
        head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        for i, (offset, length) in enumerate(stretches):
            head[386 + 24 * i : 386 + 24 * i + 24] = b"%011o\0%011o\0" % (offset, length)
        head[483:495] = b"%011o\0" % len(content)
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        data = bytes(head) + stored
    else:
        if version == "0.0":
            # tarfile reads repeated keys from the raw header, so it is written by hand
            pairs = b"".join(_pax("GNU.sparse.offset", str(o)) + _pax("GNU.sparse.numbytes", str(n)) for o, n in stretches)
            raw = _pax("GNU.sparse.size", str(len(content))) + _pax("GNU.sparse.numblocks", "2") + pairs
        elif version == "0.1":
            raw = _pax("GNU.sparse.size", str(len(content))) + _pax("GNU.sparse.map", "0,512,1536,512")
        else:
            raw = _pax("GNU.sparse.major", "1") + _pax("GNU.sparse.minor", "0") + _pax("GNU.sparse.realsize", str(len(content)))
            stored = b"2\n0\n512\n1536\n512\n".ljust(512, b"\0") + stored
        extended = tarfile.TarInfo("x")
        extended.size, extended.type = len(raw), tarfile.XHDTYPE
        info.size = len(stored)
        data = extended.tobuf(tarfile.USTAR_FORMAT) + raw.ljust(512, b"\0") + info.tobuf(tarfile.USTAR_FORMAT) + stored
    path = write(tmp_path / "x.tar", data + tar([("z.png", png(3))]))
    refs, rows, _ = read(path)
    assert samples(rows) == [f"{path}/s", f"{path}/z"]
    assert [data_of(ref) for ref in refs] == [content, png(3)]


@pytest.mark.parametrize("name", ["s.png", "0.json", "0.txt"])
@pytest.mark.parametrize("size", [1 << 20, 900 << 20, 1 << 62])
def test_members_of_holes_are_no_pictures_and_say_nothing(tmp_path: Path, name: str, size: int) -> None:
    """512 stored bytes can be a member of any size; only so small a one is filled."""
    content = b'{"n": 1}'.ljust(512) if name.endswith("json") else png(1).ljust(512, b"\0")
    raw = _pax("GNU.sparse.size", str(size)) + _pax("GNU.sparse.map", "0,512")
    extended = tarfile.TarInfo("x")
    extended.size, extended.type = len(raw), tarfile.XHDTYPE
    info = tarfile.TarInfo(name)
    info.size = 512
    sparse = extended.tobuf(tarfile.USTAR_FORMAT) + raw.ljust(512, b"\0") + info.tobuf(tarfile.USTAR_FORMAT) + content
    path = write(tmp_path / "x.tar", tar([("0.png", png(3))], end=False) + sparse + bytes(1024))
    tracemalloc.start()
    refs, rows, _ = read(path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    assert data_of(refs[0]) == png(3)
    if name != "s.png":
        assert [(row["sample"], row.get("n")) for row in rows] == [(f"{path}/0", None)]
    elif size == 1 << 20:
        assert data_of(refs[1]) == content + bytes(size - 512)
    else:
        assert refs[1].error is not None
        assert f"{size:,} bytes" in refs[1].error[1]


def _pax(key: str, value: str) -> bytes:
    body = f" {key}={value}\n"
    length = len(body) + len(str(len(body) + 2))
    return f"{length}{body}".encode()


def test_joined_tars_and_tars_without_an_end(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", tar([("a.png", png(1))]) + bytes(3 * 512) + tar([("b.png", png(2))], end=False))
    refs, rows, _ = read(path)
    assert samples(rows) == [f"{path}/a", f"{path}/b"]
    assert [data_of(ref) for ref in refs] == [png(1), png(2)]


def test_a_tar_without_pictures(tmp_path: Path) -> None:
    for i, data in enumerate([tar([]), tar([("a.txt", b"x")])]):
        assert read(write(tmp_path / f"{i}.tar", data))[0] == []


def test_blocks_stay_small(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar.gz", gzip.compress(tar([(f"{i}.bmp", b"BM" + bytes(40_000)) for i in range(30)])))
    options = SourceOptions(block_bytes=100_000)
    sizes = [len(block.refs) for block in TarReader().blocks(part_of(path), 0, None, options)]
    assert sizes == [3] * 10
    same_key = write(tmp_path / "y.tar", tar([(f"img.{i}.png", png(i)) for i in range(300)]))
    _, rows, _ = read(same_key, block_rows=50)
    assert samples(rows)[:2] == [f"{same_key}/img", f"{same_key}/img.1.png"]
    assert len(set(samples(rows))) == 300

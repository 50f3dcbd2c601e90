"""Tars of all kinds: exact samples, places, labels; broken and hostile ones end with one error and raise nothing."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beholder import InputError
from beholder.images.labels import join_labels
from beholder.images.picture import PicturePart, PictureRef, SourceOptions
from beholder.images.sources import reader_of
from beholder.images.tar_members import split_key
from beholder.images.tars import TarReader
from oracles.tar_making import base_plus_ext, png, tar


def part_of(path: Path | str, **options: Any) -> PicturePart:
    return TarReader().inspect(str(path), Path(path).name, SourceOptions(**options))


def read(
    path: Path | str, start: int = 0, stop: int | None = None, **options: Any
) -> tuple[list[PictureRef], list[dict[str, Any]], pa.Table]:
    """Refs, rows and joined labels of a tar."""
    chosen = SourceOptions(**options)
    blocks = list(TarReader().blocks(part_of(path, **options), start, stop, chosen))
    if not blocks:
        return [], [], pa.table({})
    assert all(len(block.refs) == block.labels.num_rows <= chosen.block_rows for block in blocks)
    assert all(block.labels.column_names[0] == "sample" for block in blocks)
    labels = join_labels([block.labels for block in blocks])
    return [ref for block in blocks for ref in block.refs], labels.to_pylist(), labels


def data_of(ref: PictureRef) -> bytes:
    if ref.data is not None:
        return ref.data
    assert ref.path is not None
    assert ref.offset is not None
    assert ref.length is not None
    return Path(ref.path).read_bytes()[ref.offset : ref.offset + ref.length]


def samples(rows: list[dict[str, Any]]) -> list[str]:
    return [row["sample"] for row in rows]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def img2dataset_tar(folder: Path, shard: int = 0, count: int = 20, *, failed: tuple[int, ...] = (3, 7)) -> Path:
    """A shard as img2dataset writes it: failed rows are in the Parquet file and not in the tar."""
    members, rows = [], []
    for i in range(count):
        key = f"{shard:05d}{i:04d}"
        row = {
            "url": f"http://x/{i}.jpg", "caption": f"of {i}", "key": key,
            "status": "failed_to_download" if i in failed else "success",
            "error_message": "404" if i in failed else None, "width": None if i in failed else 256 + i,
        }  # fmt: skip
        rows.append(row)
        if i not in failed:
            members += [(f"{key}.jpg", png(i)), (f"{key}.json", json.dumps(row).encode()), (f"{key}.txt", f"of {i}".encode())]
    schema = pa.schema([("url", pa.string()), ("caption", pa.string()), ("key", pa.string()), ("status", pa.string()),
                        ("error_message", pa.string()), ("width", pa.int32())])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{shard:05d}.parquet")
    return write(folder / f"{shard:05d}.tar", tar(members))


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
    assert reader_of("tar").inspect(str(path), "n", SourceOptions()).name == "n"


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


def test_an_img2dataset_shard_is_joined_by_key(tmp_path: Path) -> None:
    path = img2dataset_tar(tmp_path)
    _, rows, labels = read(path, block_rows=5)
    assert len(rows) == 18
    for row in rows:
        i = int(row["key"])
        assert row == {
            "sample": f"{path}/{i:09d}", "key": f"{i:09d}", "url": f"http://x/{i}.jpg", "caption": f"of {i}",
            "status": "success",
            "error_message": None, "width": 256 + i,
        }  # fmt: skip
    assert labels.schema.field("width").type == pa.int32()
    assert labels.schema.field("error_message").type == pa.string()


def test_pictures_that_the_parquet_file_does_not_list_are_described_by_their_json(tmp_path: Path) -> None:
    write(tmp_path / "0.tar", tar([
        ("1.png", png(1)), ("1.json", b'{"width": 5, "caption": "one"}'), ("2.png", png(2)),
        ("2.json", b'{"width": "7", "caption": 9, "more": [1]}'), ("3.png", png(3)),
            ("3.json", b'{"width": 3.5, "caption": "three"}'),
    ]))  # fmt: skip
    table = pa.table({"key": ["1"], "width": pa.array([11], pa.int16()), "caption": ["told"]})
    pq.write_table(table, tmp_path / "0.parquet")
    _, rows, labels = read(tmp_path / "0.tar")
    assert [row["width"] for row in rows] == [11, None, None]
    assert [row["caption"] for row in rows] == ["told", "9", "three"]
    assert [row["more"] for row in rows] == [None, "[1]", None]
    assert labels.schema.field("width").type == pa.int16()


def test_columns_from_json_txt_and_cls(tmp_path: Path) -> None:
    members = []
    for i in range(10):
        fields: dict[str, Any] = {"n": i, "x": i / 2, "flag": i % 2 == 0, "word": f"w{i}", "deep": {"a": [i]}, "none": None}
        fields["mixed"] = i if i < 6 else "text"
        fields["int then float"] = i if i < 6 else i + 0.5
        if i == 7:
            fields["late"] = 1
        members += [(f"{i}.png", png(i)), (f"{i}.json", json.dumps(fields).encode()), (f"{i}.txt", f"caption {i}\n".encode()),
                    (f"{i}.cls", str(i).encode())]  # fmt: skip
    path = write(tmp_path / "x.tar", tar(members))
    for block_rows in (3, 100):
        _, rows, labels = read(path, block_rows=block_rows)
        types = {field.name: field.type for field in labels.schema}
        assert types == {
            "sample": pa.large_string(), "key": pa.string(), "n": pa.int64(), "x": pa.float64(), "flag": pa.bool_(),
            "word": pa.string(), "deep": pa.string(), "none": pa.string(), "mixed": pa.string(), "int then float": pa.float64(),
            "caption": pa.string(), "cls": pa.int64(), "late": pa.int64(),
        }  # fmt: skip
        assert rows[7] == {
            "sample": f"{path}/7", "key": "7", "n": 7, "x": 3.5, "flag": False, "word": "w7", "deep": '{"a": [7]}',
            "none": None,
            "mixed": "text", "int then float": 7.5, "caption": "caption 7", "cls": 7, "late": 1,
        }  # fmt: skip
        assert rows[5]["mixed"] == "5"
        assert rows[5]["int then float"] == 5.0
        assert rows[6]["late"] is None


def test_json_that_is_hostile_says_nothing(tmp_path: Path) -> None:
    bad = [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000,
           b'{"sample": "x", "key": "y", "big": 99999999999999999999999, "s": "\\ud800"}',
           b'{"nan": NaN, "": 1}', b'"text"']  # fmt: skip
    members = [member for i, data in enumerate(bad) for member in ((f"{i}.png", png(i)), (f"{i}.json", data))]
    path = write(tmp_path / "x.tar", tar(members))
    _, rows, labels = read(path)
    assert samples(rows) == [f"{path}/{i}" for i in range(len(bad))]
    assert [row["key"] for row in rows] == [str(i) for i in range(len(bad))]
    assert rows[4]["big"] == "99999999999999999999999"
    assert rows[4]["s"] == "\\ud800"
    assert np.isnan(rows[5]["nan"])
    assert labels.num_rows == len(bad)


def test_named_columns(tmp_path: Path) -> None:
    path = img2dataset_tar(tmp_path)
    _, rows, _ = read(path, columns=("width", "url"))
    assert list(rows[0]) == ["sample", "width", "url"]
    assert rows[0]["width"] == 256
    _, rows, _ = read(path, columns=())
    assert list(rows[0]) == ["sample"]
    plain = write(tmp_path / "plain.tar", tar([("1.png", png(1)), ("1.json", b'{"punsafe": 0.5}'), ("2.png", png(2))]))
    _, rows, labels = read(plain, columns=("punsafe", "sample"))
    assert rows == [{"sample": f"{plain}/1", "punsafe": 0.5}, {"sample": f"{plain}/2", "punsafe": None}]
    _, rows, labels = read(plain, columns=("punsafe",), block_rows=1)
    assert labels.schema.field("punsafe").type == pa.float64()


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
    from beholder.images import tar_members

    asked: list[str] = []
    original = tar_members.TarFile.read
    tar_members.TarFile.read = lambda self, member, most=None: (asked.append(member.name), original(self, member, most))[1]  # type: ignore[assignment, method-assign, func-returns-value]
    try:
        (block,) = reader.blocks(part, 30, 35, SourceOptions())
    finally:
        tar_members.TarFile.read = original  # type: ignore[method-assign]
    assert len(block.refs) == 5
    assert {int(name.split(".")[0]) for name in asked} <= set(range(29, 35))


def broken(path: Path, **options: Any) -> tuple[list[str], PictureRef]:
    """Samples of a broken tar, and its last ref, the only one with an error."""
    refs, rows, _ = read(path, **options)
    assert [ref.error is None for ref in refs] == [True] * (len(refs) - 1) + [False]
    return samples(rows), refs[-1]


@pytest.mark.parametrize("pack", [None, gzip.compress, bz2.compress, lzma.compress])
def test_a_tar_cut_anywhere_gives_what_is_whole_and_one_error(tmp_path: Path, pack: Any) -> None:
    noise = [png(i) + np.random.default_rng(i).bytes(900) for i in range(5)]
    members = [member for i in range(5) for member in ((f"{i}.png", noise[i]), (f"{i}.txt", b"t" * 700))]
    data = tar(members)
    whole = pack(data) if pack else data
    rng, refusals = np.random.default_rng(1), []
    for cut in sorted(rng.integers(600 if pack is None else 60, len(whole) - (10240 if pack is None else 9), 40).tolist()):
        path = write(tmp_path / f"{cut}.tar", whole[:cut])
        try:
            refs, rows, _ = read(path)
        except InputError as error:
            refusals.append((pack is not None, str(error)))  # not even the first block comes out of it
            continue
        good = [ref for ref in refs if ref.error is None]
        assert samples(rows)[: len(good)] == [f"{path}/{i}" for i in range(len(good))]
        assert [data_of(ref) for ref in good] == noise[: len(good)]
        bad = [ref for ref in refs if ref.error is not None]
        assert len(bad) == (0 if pack is None and cut % 512 == 0 and _is_edge(data, cut) else 1)
        if bad:
            assert refs[-1] is bad[0]
            assert bad[0].error is not None
            assert bad[0].error[0] == "truncated"
            assert samples(rows)[-1] in (f"{path}/{len(good)}", f"{path}#broken")
            assert "\n" not in bad[0].error[1]
    assert all(is_packed and "cannot be decompressed" in line for is_packed, line in refusals)
    assert len(refusals) < 15 or pack is bz2.compress  # cut inside the first header (bz2: inside the only block)


def _is_edge(data: bytes, cut: int) -> bool:
    """Whether a member begins at byte `cut`."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return cut in {member.offset for member in archive}


def test_a_picture_that_is_cut_off_is_named(tmp_path: Path) -> None:
    data = tar([("a.png", png(1)), ("b.png", png(2, 90))])
    path = write(tmp_path / "x.tar", data[: 512 * 3 + 10])
    names, ref = broken(path)
    assert names == [f"{path}/a", f"{path}/b"]
    assert ref.error is not None
    assert ref.error[0] == "truncated"
    assert ref.error[1].startswith("the tar breaks off: 10 of the ")


def test_a_sidecar_that_is_cut_off_is_the_tars_own_error(tmp_path: Path) -> None:
    data = tar([("a.png", png(1)), ("a.txt", b"x" * 600)])
    path = write(tmp_path / "x.tar", data[: 512 * 3 + 10])
    names, _ = broken(path)
    assert names == [f"{path}/a", f"{path}#broken"]


def test_damage_in_the_middle(tmp_path: Path) -> None:
    data = bytearray(tar([(f"{i}.png", png(i)) for i in range(6)]))
    data[3 * 1024 + 20] ^= 0xFF
    path = write(tmp_path / "x.tar", bytes(data))
    names, ref = broken(path)
    assert names == [f"{path}/0", f"{path}/1", f"{path}/2", f"{path}#broken"]
    assert ref.error is not None
    assert ref.error[0] == "unreadable"
    assert "damaged near byte 3072" in ref.error[1]


def test_random_damage_raises_nothing(tmp_path: Path) -> None:
    clean = tar([(f"{'long' * 60}{i}.png", png(i)) for i in range(4)] + [("a.json", b"{}")])
    packed = gzip.compress(clean)
    rng, refusals = np.random.default_rng(2), []
    for i in range(120):
        data = bytearray(packed if i % 3 == 0 else clean)
        for at in rng.integers(512 if i % 3 else 12, len(data), 3):
            data[at] = int(rng.integers(256))
        path = write(tmp_path / "x.tar", bytes(data))
        try:
            refs, rows, _ = read(path)
        except InputError as error:
            refusals.append((i % 3, str(error)))
            continue
        assert len(set(samples(rows))) == len(rows) <= 6
        assert sum(ref.error is not None for ref in refs) <= 1
    assert all(kind == 0 and re.search("cannot be decompressed|is not a tar", line) for kind, line in refusals)


def test_hostile_headers(tmp_path: Path) -> None:
    def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
        info = tarfile.TarInfo(name)
        info.size, info.type = size, kind
        return info.tobuf(tarfile.GNU_FORMAT)

    first = tar([("a.png", png(1))], end=False)
    for hostile in (
        header("b.png", 1 << 60),
        header("b.png", 1 << 40, tarfile.XHDTYPE),
        header("b.png", (8 << 30) + 5, tarfile.GNUTYPE_LONGNAME),
        header("x", 0, tarfile.XHDTYPE) * 3000,
        header("x", 512, tarfile.XHDTYPE) + b"9999999999999 path=x\n".ljust(512, b"\0") + header("b.png", 0),
        header("x", 512, tarfile.XHDTYPE) + b"20 GNU.sparse.map=a\n".ljust(512, b"\0") + header("b.png", 0),
    ):
        path = write(tmp_path / "x.tar", first + hostile + bytes(1024))
        refs, rows, _ = read(path)
        assert samples(rows)[0] == f"{path}/a"
        assert len(refs) <= 3
        assert all(ref.error is None or ref.error[0] in ("unreadable", "truncated") for ref in refs)


def test_links_in_a_tar_are_errors_of_their_own(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = len(png(1))
        archive.addfile(info, io.BytesIO(png(1)))
        for name, kind in (
            ("b.png", tarfile.SYMTYPE),
            ("c.png", tarfile.LNKTYPE),
            ("d", tarfile.DIRTYPE),
            ("e.png", tarfile.FIFOTYPE),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "../../etc/passwd"
            archive.addfile(link)
        info.name = "f.png"
        archive.addfile(info, io.BytesIO(png(1)))
    path = write(tmp_path / "x.tar", stream.getvalue())
    refs, rows, _ = read(path)
    assert samples(rows) == [f"{path}/{key}" for key in "abcf"]
    assert [ref.error and ref.error[0].value for ref in refs] == [None, "unreadable", "unreadable", None]
    assert data_of(refs[3]) == png(1)


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


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is empty"):
        part_of(write(tmp_path / "a.tar", b""))
    with pytest.raises(InputError, match="is not a tar: it starts with b'not at a"):
        part_of(write(tmp_path / "b.tar", b"not at all a tar" * 100))
    with pytest.raises(InputError, match="is not a tar"):
        part_of(write(tmp_path / "c.tar.gz", gzip.compress(b"words" * 1000)))
    with pytest.raises(InputError, match="cannot be decompressed"):
        part_of(write(tmp_path / "d.tar.gz", b"\x1f\x8b" + b"?" * 600))
    good = write(tmp_path / "e.tar", tar([("1.png", png(1))]))
    write(tmp_path / "e.parquet", b"PAR1 cut")
    with pytest.raises(InputError, match=r"e\.parquet is not a whole Parquet file"):
        part_of(good)


def test_a_parquet_file_without_keys_beside_is_no_table_of_the_tar(tmp_path: Path) -> None:
    path = write(tmp_path / "e.tar", tar([("1.png", png(1))]))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "e.parquet")
    assert read(path)[1] == [{"sample": f"{path}/1", "key": "1"}]


def test_blocks_stay_small(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar.gz", gzip.compress(tar([(f"{i}.bmp", b"BM" + bytes(40_000)) for i in range(30)])))
    options = SourceOptions(block_bytes=100_000)
    sizes = [len(block.refs) for block in TarReader().blocks(part_of(path), 0, None, options)]
    assert sizes == [3] * 10
    same_key = write(tmp_path / "y.tar", tar([(f"img.{i}.png", png(i)) for i in range(300)]))
    _, rows, _ = read(same_key, block_rows=50)
    assert samples(rows)[:2] == [f"{same_key}/img", f"{same_key}/img.1.png"]
    assert len(set(samples(rows))) == 300

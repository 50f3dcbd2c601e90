"""Zips: stored members as places, packed ones as bytes, whatever is wrong with one as its own error."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder import InputError
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions
from beholder.sources.zip import ZipReader
from oracles.tar_making import png


def part_of(path: Path) -> PicturePart:
    return ZipReader().inspect(str(path), path.name, SourceOptions())


def read(path: Path, start: int = 0, stop: int | None = None, **options: Any) -> tuple[list[str], list[PictureRef]]:
    blocks = list(ZipReader().blocks(part_of(path), start, stop, SourceOptions(**options)))
    return [n for b in blocks for n in b.labels.column("sample").to_pylist()], [ref for b in blocks for ref in b.refs]


def data_of(ref: PictureRef) -> bytes:
    if ref.data is not None:
        return ref.data
    assert ref.path is not None
    assert ref.offset is not None
    assert ref.length is not None
    return Path(ref.path).read_bytes()[ref.offset : ref.offset + ref.length]


def make(path: Path, members: dict[str, bytes], packing: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


MEMBERS = {
    "b/2.png": png(2), "a.jpg": b"named as a picture", "日本.webp": png(3), "noname": png(4), "words": b"words", "x.txt": b"x",
    "__MACOSX/._a.jpg": b"x", ".hidden.png": png(5), "empty.png": b"", "d/": b"",
}  # fmt: skip
NAMES = ["b/2.png", "a.jpg", "日本.webp", "noname", "empty.png"]


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_members(tmp_path: Path, packing: int) -> None:
    path = make(tmp_path / "x.zip", MEMBERS, packing)
    part = part_of(path)
    assert (part.kind, part.num_rows, part.num_ignored, part.num_bytes) == ("zip", 5, 2, path.stat().st_size)
    assert json.dumps(part.identity)
    names, refs = read(path)
    assert names == [f"{path}/{name}" for name in NAMES]
    assert [data_of(ref) for ref in refs] == [MEMBERS[name] for name in NAMES]
    assert [ref.path is not None for ref in refs] == [packing == zipfile.ZIP_STORED] * 4 + [False]
    for edge in range(6):
        left, right = read(path, 0, edge, block_rows=2), read(path, edge, None, block_bytes=1)
        assert (left[0] + right[0], left[1] + right[1]) == (names, refs)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip64_and_repeated_names(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(3):
            with archive.open(zipfile.ZipInfo("a.png"), "w", force_zip64=True) as member:
                member.write(png(i))
    names, refs = read(path)
    assert names == [f"{path}/a.png", f"{path}/a.png#2", f"{path}/a.png#3"]
    assert [data_of(ref) for ref in refs] == [png(i) for i in range(3)]


def test_bad_members_are_errors_of_their_own(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", {f"{i}.png": png(i, 30) * 3 for i in range(6)}, zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\1\2")
    entries = [central]
    while (following := data.find(b"PK\1\2", entries[-1] + 4)) >= 0:
        entries.append(following)
    data[infos[1].header_offset + 45] ^= 0xFF  # packed bytes
    data[entries[2] + 8] |= 1  # encrypted
    data[infos[2].header_offset + 6] |= 1
    data[entries[3] + 10] = 99  # a packing that is not known
    data[entries[4] + 24 : entries[4] + 28] = b"\xff\xff\xff\x7f"  # two gigabytes
    data[infos[5].header_offset] = 0  # no member there
    path.write_bytes(data)
    names, refs = read(path)
    assert names == [f"{path}/{i}.png" for i in range(6)]
    assert [ref.error and ref.error[0].value for ref in refs] == [
        None,
        "damaged",
        "unreadable",
        "unreadable",
        "unreadable",
        "damaged",
    ]
    assert data_of(refs[0]) == png(0, 30) * 3
    assert all("\n" not in ref.error[1] for ref in refs if ref.error)


def test_random_damage_raises_nothing_but_one_line(tmp_path: Path) -> None:
    clean = make(tmp_path / "c.zip", {f"{i}.png": png(i) for i in range(3)} | {"n": png(4)}, zipfile.ZIP_DEFLATED).read_bytes()
    stored = make(tmp_path / "s.zip", {f"{i}.png": png(i) for i in range(3)} | {"n": png(4)}).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for i in range(200):
        data = bytearray(stored if i % 2 else clean)
        for at in rng.integers(0, len(data), 4):
            data[at] = int(rng.integers(256))
        (tmp_path / "x.zip").write_bytes(data)
        try:
            names, _ = read(tmp_path / "x.zip")
        except InputError as error:
            refused += "\n" not in str(error)
            continue
        assert len(names) == len(set(names)) <= 4
    assert refused < 150


def test_what_is_no_zip_of_pictures_is_refused(tmp_path: Path) -> None:
    def line(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            part_of(path)
        return str(caught.value)

    whole = make(tmp_path / "w.zip", {"a.png": png(1)}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-10])
    assert "is not a whole zip file" in line(tmp_path / "cut.zip")
    np.savez(tmp_path / "a.npz", np.ones(3))
    assert "holds numpy arrays, no pictures" in line(tmp_path / "a.npz")
    assert "holds no pictures" in line(make(tmp_path / "t.zip", {"a.txt": b"x"}))
    assert "holds no pictures" in line(make(tmp_path / "e.zip", {}))


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_directory_is_read_once(tmp_path: Path, packing: int) -> None:
    """Without its directory a zip that was inspected still gives every picture, those without a suffix included."""
    path = make(tmp_path / "x.zip", MEMBERS, packing)
    before = read(path)
    part = part_of(path)
    data = path.read_bytes()
    directory = data.index(b"PK\1\2")
    path.write_bytes(data[:directory] + b"?" * (len(data) - directory))
    for edge in range(6):
        found = [*ZipReader().blocks(part, 0, edge, SourceOptions()), *ZipReader().blocks(part, edge, None, SourceOptions())]
        assert [name for block in found for name in block.labels.column("sample").to_pylist()] == before[0]
        assert [ref for block in found for ref in block.refs] == before[1]


def test_names_of_old_zips_and_from_extra_fields(tmp_path: Path) -> None:
    """Code page 437, and Info-ZIP's field 0x7075, which newer Pythons prefer: packed members are found by the stored name."""
    path = make(tmp_path / "x.zip", {"caf1.png": png(1), "x.png": png(2)}, zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes().replace(b"caf1", b"caf\x82"))
    names, refs = read(path)
    assert names == [f"{path}/café.png", f"{path}/x.png"]
    assert [data_of(ref) for ref in refs] == [png(1), png(2)]
    extra = struct.pack("<HHBL", 0x7075, 5 + 5, 1, zlib.crc32(b"y.png")) + b"z.png"
    with zipfile.ZipFile(tmp_path / "y.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("y.png")
        info.compress_type, info.extra = zipfile.ZIP_DEFLATED, extra
        archive.writestr(info, png(3))
    names, refs = read(tmp_path / "y.zip")
    with zipfile.ZipFile(tmp_path / "y.zip") as archive:
        assert names == [f"{tmp_path}/y.zip/{name}" for name in archive.namelist()]
    assert [data_of(ref) for ref in refs] == [png(3)]


def test_a_member_without_a_name(tmp_path: Path) -> None:
    data = make(tmp_path / "x.zip", {"?": png(1), "b.png": png(2), "!": b"no picture"}).read_bytes()
    for mark in (b"?", b"!"):  # local headers have the name's length at 26, those of the directory at 28
        for start, at in ((b"PK\3\4", 26), (b"PK\1\2", 28)):
            head = next(
                i for i in range(len(data)) if data.startswith(start, i) and data.startswith(mark, i + at + 4 + 14 * (at == 28))
            )
            length = 30 if at == 26 else 46
            data = data[: head + at] + b"\0\0" + data[head + at + 2 : head + length] + data[head + length + 1 :]
            end = data.rindex(b"PK\5\6")
            if at == 26:
                data = data[: end + 16] + struct.pack("<I", struct.unpack_from("<I", data, end + 16)[0] - 1) + data[end + 20 :]
                data = _moved(data, head)
            else:
                data = data[: end + 12] + struct.pack("<I", struct.unpack_from("<I", data, end + 12)[0] - 1) + data[end + 16 :]
    (tmp_path / "x.zip").write_bytes(data)
    names, refs = read(tmp_path / "x.zip")
    assert names == [f"{tmp_path}/x.zip/", f"{tmp_path}/x.zip/b.png"]
    assert [data_of(ref) for ref in refs] == [png(1), png(2)]
    assert part_of(tmp_path / "x.zip").num_ignored == 1


def _moved(data: bytes, behind: int) -> bytes:
    """The archive with members behind a place one byte nearer in its directory."""
    at = struct.unpack_from("<I", data, data.rindex(b"PK\5\6") + 16)[0]
    found = bytearray(data)
    while found.startswith(b"PK\1\2", at):
        (offset,) = struct.unpack_from("<I", found, at + 42)
        if offset > behind:
            struct.pack_into("<I", found, at + 42, offset - 1)
        at += 46 + sum(struct.unpack_from("<HHH", found, at + 28))
    return bytes(found)


def test_a_packed_member_that_is_damaged_or_swells(tmp_path: Path) -> None:
    path = make(tmp_path / "x.zip", {"a.png": png(1, 200), "b.png": png(2)}, zipfile.ZIP_LZMA)
    data = bytearray(path.read_bytes())
    at = data.index(b"a.png") + 5 + 9  # behind version, length and properties of LZMA
    data[at : at + 100] = bytes(255 - byte for byte in data[at : at + 100])
    path.write_bytes(data)
    _, (first, second) = read(path)
    assert first.error is not None
    assert data_of(second) == png(2)
    make(tmp_path / "y.zip", {"a.bmp": b"BM" + bytes(70 << 20)}, zipfile.ZIP_DEFLATED)
    _, (swollen,) = read(tmp_path / "y.zip")
    assert swollen.error is not None
    assert swollen.error[0] == "too_large"
    assert "unpacks to 73,400,322 bytes out of" in swollen.error[1]

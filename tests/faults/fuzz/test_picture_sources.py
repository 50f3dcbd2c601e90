"""Mutated tars, zips, tables and lists of pictures: all their pictures are counted, or they are refused in one line."""

from __future__ import annotations

import base64
import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles import inside_formats as inside
from oracles.fuzzing import Target, check
from oracles.source_reads import everything, tar_in_ranges, without_network
from oracles.tar_making import png, tar
from oracles.tiers import mostly_slow

TAR = (
    *b"ustar\0 00000000000\0 77777777777\0 \x80\0\0\0\0\0\0\0 ././@LongLink path= size= GNU.sparse.map=".split(),
    *b".json .txt ../ / 5 S x g L".split(),
    *(b"ustar  \0", b"20 path=a.png\n", b"hdrcharset=BINARY\n"),
)
ZIP = tuple(b"PK\1\2 PK\3\4 PK\5\6 PK\6\6 PK\6\7 PK\7\x08 \1\0\x10\0 \xff\xff\xff\xff .png ../".split())
PARQUET = tuple(b"PAR1 ARROW:schema image bytes path huggingface element list \x15\0 \x19\x1c \x18".split())
PLACES = (
    *b's3:// http:// https://[ file:// data:image/png;base64, {0..9} * ~ %2e \\ \0 # ../ // ? hf:// path url , " \xff'.split(),
    b"\t",
)
JSON = tuple(b'null NaN [ ] { } "path" "url" \\u0000 \\ud800 1e400 , :'.split())
PNGS = [png(number) for number in range(6)]
MEMBERS = [
    ("a/0.png", PNGS[0]), ("a/0.json", b'{"caption": "one", "n": 1, "of": [1, {"a": 2}]}'), ("a/0.txt", b"text of it"),
    ("a/1.png", PNGS[1]), ("a/1.cls", b"7"), ("b/2.jpg", PNGS[2]), ("b/3.seg.png", PNGS[3]), ("lone.json", b'{"x": null}'),
    ("b/4", PNGS[4]), ("n" * 120 + "/5.png", PNGS[5]),
]  # fmt: skip


def _tar(kind: int) -> bytes:
    return tar(MEMBERS, format=kind)


def _old_tar() -> bytes:
    """Version 7: no magic word, no prefix."""
    found = b""
    for name, data in MEMBERS[:8]:
        block = bytearray(512)
        block[: len(name)] = name.encode()
        block[100:136] = b"0000644\00000000\00000000\0" + b"%011o\0" % len(data)
        block[136:148] = b"00000000000\0"
        found += inside.with_tar_checksum(bytes(block)) + data.ljust(-(-len(data) // 512) * 512, b"\0")
    return found + bytes(1024)


def _sparse_tar() -> bytes:
    """GNU's sparse files: the old kind, and version 1.0 in pax headers."""
    block = bytearray(tar([("s.png", PNGS[0].ljust(512, b"\0"))], format=tarfile.GNU_FORMAT)[:512])
    block[156:157] = b"S"
    block[386:410] = b"%011o\0%011o\0" % (0, 512)
    block[483:495] = b"%011o\0" % 1024
    old = inside.with_tar_checksum(bytes(block)) + PNGS[0].ljust(512, b"\0")
    info = tarfile.TarInfo("GNUSparseFile.0/t.png")
    stored = b"1\n0\n512\n".ljust(512, b"\0") + PNGS[1].ljust(512, b"\0")
    info.size = len(stored)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "t.png",
        "GNU.sparse.realsize": "900",
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(stored))
    return old + file.getvalue()


def _linked_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as archive:
        for name, data in MEMBERS[:4]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind, target in (
            ("l.png", tarfile.LNKTYPE, "a/0.png"),
            ("s.png", tarfile.SYMTYPE, "../a/1.png"),
            ("d", tarfile.DIRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return file.getvalue()


def _zip(packing: int, *, zip64: bool = False, streamed: bool = False) -> bytes:
    class _Forward(io.RawIOBase):
        """Cannot go back, so that sizes follow the data."""

        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    file: Any = _Forward() if streamed else io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for number, data in enumerate(PNGS):
            with archive.open(f"d/{number}é.png" if number % 2 else f"d/{number}", "w", force_zip64=zip64) as member:
                member.write(data)
        archive.writestr("notes.txt", "of all")
    return bytes(file.data) if streamed else bytes(file.getvalue())


def _parquet(columns: dict[str, Any], **options: Any) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data, row_group_size=4, **options)
    return data.getvalue()


def _packed() -> list[bytes]:
    cells = [{"bytes": data, "path": f"p/{number}.png"} for number, data in enumerate(PNGS)]
    said = {"caption": [f"of {number}" for number in range(6)], "n": range(6), "tags": [["a", "b"]] * 6}
    return [
        _parquet({"image": cells, **said}),
        _parquet({"key": list("abcdef"), "jpg": PNGS, **said}, compression="none"),
        _parquet({"image": [cells[:2], [], cells[2:3], None, cells[3:5], cells[5:]], **said}, compression="zstd"),
        _parquet({"image": pa.array(PNGS, pa.binary()).dictionary_encode(), **said}),
        _parquet({"image": [list(data) for data in PNGS], **said}),
    ]


def _listed() -> list[bytes]:
    paths = [f"{number}.png" for number in range(6)]
    urls = [f"http://127.0.0.1:9/{number}.png" for number in range(6)]
    return [
        _parquet({"path": paths, "caption": paths}),
        _parquet({"url": urls, "key": paths, "n": range(6)}, compression="none"),
    ]


def _texts(kind: str) -> list[bytes]:
    paths = [f"{number}.png" for number in range(6)]
    written = ["data:image/png;base64," + base64.b64encode(data).decode() for data in PNGS]
    rows = [{"path": path, "caption": 'a, "b"\nc', "n": number} for number, path in enumerate(paths)]
    match kind:
        case "txt":
            return [
                "\n".join(paths).encode(),
                ("# all\n" + "\r\n".join(["http://127.0.0.1:9/a.png?x=1", *paths, written[0]])).encode(),
            ]
        case "csv" | "tsv":
            found = []
            for places in (paths, written):
                text = io.StringIO()
                writer = csv.DictWriter(text, ["path", "caption", "n"], delimiter="," if kind == "csv" else "\t")
                writer.writeheader()
                writer.writerows([{**row, "path": place} for row, place in zip(rows, places, strict=True)])
                found.append(text.getvalue().encode())
            return found
        case "json":
            return [json.dumps(rows).encode()]
        case _:
            return [
                "\n".join(map(json.dumps, rows)).encode(),
                "\n".join(json.dumps({"image": text}) for text in written).encode(),
            ]


def _among_pictures(path: Path) -> Hashable:
    """A list, in a folder that has some of its pictures."""
    without_network()
    home = path.parent.parent / "home"
    home.mkdir(exist_ok=True)
    for number, data in enumerate(PNGS[:4]):
        (home / f"{number}.png").write_bytes(data)
    return everything(shutil.copy(path, home))


def _named(path: Path) -> Hashable:
    """The first line is the source; `@` in it is a folder with pictures, a list of them and an array."""
    without_network()
    home = path.parent.parent / "home"
    if not home.exists():
        home.mkdir()
        for number, data in enumerate(PNGS):
            (home / f"{number}.png").write_bytes(data)
        (home / "list.txt").write_text("\n".join(str(home / f"{number}.png") for number in range(6)))
        (home / "sources.txt").write_text(f"{home}/*.png\n")
    return everything(path.read_text("utf-8", "surrogateescape").split("\n")[0].replace("@", str(home)))


def _folder(path: Path) -> Hashable:
    """Each line is the name of a file in a folder."""
    home = path.parent.parent / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    for number, name in enumerate(path.read_bytes().split(b"\n")[:12]):
        pieces = [piece[:200] for piece in name.replace(b"\0", b"").split(b"/") if piece not in (b"", b".", b"..")][:4]
        place = home
        for piece in pieces[:-1]:
            place = place / piece.decode("utf-8", "surrogateescape")
        if pieces and not (place.exists() and not place.is_dir()):
            try:
                place.mkdir(parents=True, exist_ok=True)
                (place / pieces[-1].decode("utf-8", "surrogateescape")).write_bytes(PNGS[number % 6])
            except OSError:
                continue
    return everything(home)


def _table_beside_tar(path: Path) -> Hashable:
    """The Parquet file of img2dataset beside a sound tar."""
    home = path.parent.parent / "home"
    home.mkdir(exist_ok=True)
    (home / "00000.tar").write_bytes(_tar(tarfile.PAX_FORMAT))
    shutil.copy(path, home / "00000.parquet")
    return everything(home)


def _shard_tables() -> Sequence[bytes]:
    keys = ["a/0", "a/1", "b/2", "gone"]
    return [_parquet({"key": keys, "url": keys, "caption": keys, "status": ["success"] * 4, "width": [1, 2, 3, None]})]


HEADERS = (inside.in_tar_header, inside.in_tar_field)
ZIPPED = (inside.in_zip_member, inside.in_zip_directory, inside.in_zip_name)
PACKED = (inside.in_parquet_footer, inside.in_parquet_pages)
NAMES = "\n".join(
    ["a.png", "b/c.jpg", ".hidden.png", "ünï.png", "photo {1..3}.jpg", "x*.png", "@eaDir/t.png", "e.npy"]
).encode()
SOURCES = (
    b"s3://bucket/key/*.tar http://127.0.0.1:9/{00000..00012}.tar gs://b/a.parquet pipe:cat hf://datasets/a/b/x.parquet "
    b"memory://a/{a..c}.jpg ~nobody/x.png file:///x.npy zip://a.png::s3://b/x.zip data:,x"
).split()
TARGETS = {
    "tar": Target(
        read=everything,
        seeds=lambda: [_tar(tarfile.PAX_FORMAT), _tar(tarfile.GNU_FORMAT), _tar(tarfile.USTAR_FORMAT)],
        name="x.tar",
        tokens=TAR,
        insides=HEADERS,
        count=33,
    ),
    "old, sparse and linked tars": Target(
        read=everything,
        seeds=lambda: [_old_tar(), _sparse_tar() + bytes(1024), _linked_tar()],
        name="x.tar",
        tokens=TAR,
        insides=HEADERS,
        count=17,
    ),
    "tar in ranges": Target(
        read=tar_in_ranges,
        seeds=lambda: [_tar(tarfile.PAX_FORMAT), _tar(tarfile.GNU_FORMAT), _linked_tar(), _sparse_tar() + bytes(1024)],
        name="x.tar",
        tokens=TAR,
        insides=HEADERS,
        count=17,
    ),
    "packed tar": Target(
        read=everything,
        seeds=lambda: [
            pack(_tar(tarfile.PAX_FORMAT)) for pack in (lambda data: gzip.compress(data, mtime=0), bz2.compress, lzma.compress)
        ],
        name="x.tar.gz",
        tokens=TAR,
        insides=(inside.in_gzip,),
    ),
    "table beside a tar": Target(
        read=_table_beside_tar, seeds=_shard_tables, name="00000.parquet", tokens=PARQUET, insides=PACKED
    ),
    "zip": Target(
        read=everything,
        seeds=lambda: [_zip(zipfile.ZIP_STORED), _zip(zipfile.ZIP_STORED, zip64=True), _zip(zipfile.ZIP_STORED, streamed=True)],
        name="x.zip",
        tokens=ZIP,
        insides=ZIPPED,
    ),
    "packed zip": Target(
        read=everything,
        seeds=lambda: [_zip(packing) for packing in (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)],
        name="x.zip",
        tokens=ZIP,
        insides=ZIPPED,
    ),
    "pictures in parquet": Target(read=everything, seeds=_packed, name="x.parquet", tokens=PARQUET, insides=PACKED),
    "places in parquet": Target(read=_among_pictures, seeds=_listed, name="x.parquet", tokens=PARQUET, insides=PACKED),
    **{
        kind: Target(
            read=_among_pictures,
            seeds=lambda kind=kind: _texts(kind),
            name=f"x.{kind}",
            tokens=PLACES + (JSON if "json" in kind else ()),
            insides=(inside.in_json_value,) if "json" in kind else (),
            is_text=True,
            names_file=kind != "txt",
        )
        for kind in ("txt", "csv", "tsv", "json", "jsonl")
    },
    "folder": Target(
        read=_folder,
        seeds=lambda: [NAMES],
        name="names",
        tokens=PLACES,
        is_text=True,
        names_file=False,
        refuses=False,
        count=7,
    ),
    "source": Target(
        read=_named,
        seeds=lambda: [b"@", b"@/*.png", b"@/{0..4}.png", b"@/list.txt", b"file://@/sources.txt", b"@/3.png"],
        name="source",
        tokens=(*PLACES, *SOURCES),
        is_text=True,
        names_file=False,
    ),
}


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)

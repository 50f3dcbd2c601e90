"""Members of tars as Python's `tarfile` reads them, whatever their headers look like."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from beholder.sources.tar_file import TarBroken, TarFile

NAMES = [
    "a.jpg",
    "./b/c.jpg",
    "d" * 90 + ".jpg",
    "e" * 60 + "/" + "f" * 95 + ".jpg",
    "g" * 120 + "/" + "h" * 130,
    "ü/ß.jpg",
    "/i.jpg",
]
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar_of(names: list[str], kind: int, *, mtime: float = 1.6e9, headers: dict[str, str] | None = None) -> bytes:
    """A tar with files of these names, of growing sizes."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind, pax_headers=headers) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode, info.uid = 300 * number, mtime, 0o640, 1000 + number
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    return file.getvalue()


def of_tarfile(data: bytes) -> list[tuple[str, int, int]]:
    """(name, where its bytes begin, size) of all files, up to where the tar is broken."""
    found: list[tuple[str, int, int]] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:", ignore_zeros=False) as tar:
            for info in tar:
                if info.isreg():
                    found.append((info.name.encode("utf-8", "replace").decode(), info.offset_data, info.size))
    except (tarfile.TarError, ValueError, OverflowError):
        pass
    return found


def of_ours(path: Path) -> list[tuple[str, int, int]]:
    """The same by `TarFile`; a leading "./" or "/" is not in its names."""
    found: list[tuple[str, int, int]] = []
    try:
        with TarFile(str(path), path.stat().st_size) as tar:
            found.extend((one.name, one.offset, one.size) for one in tar.members() if one.link is None)
    except TarBroken:
        pass
    return found


@pytest.mark.parametrize("kind", FORMATS)
def test_names_and_places_are_those_of_tarfile(tmp_path: Path, kind: str) -> None:
    names = [name for name in NAMES if kind != "ustar" or len(name) < 250]
    path = tmp_path / "one.tar"
    path.write_bytes(tar_of(names, FORMATS[kind], mtime=1.6e9 if kind != "pax" else 1.6e9 + 0.5))
    wanted = [(name.removeprefix("./").lstrip("/"), *rest) for name, *rest in of_tarfile(path.read_bytes())]
    assert of_ours(path) == wanted
    assert [size for _, _, size in wanted] == [300 * number for number in range(len(names))]


def test_what_is_said_of_all_members_counts_for_plain_headers_too(tmp_path: Path) -> None:
    path = tmp_path / "one.tar"
    path.write_bytes(tar_of(["a.jpg", "b.jpg"], tarfile.PAX_FORMAT, headers={"path": "same.jpg"}))
    assert [name for name, _, _ in of_ours(path)] == ["same.jpg", "same.jpg"]


def test_changed_headers_are_read_as_by_tarfile(tmp_path: Path) -> None:
    """Bytes of headers changed at random, with a checksum that fits: what is read up to the damage is the same."""
    make = random.Random(5)
    path = tmp_path / "one.tar"
    whole = tar_of(["a.jpg", "b.jpg", "c.jpg"], tarfile.USTAR_FORMAT)
    num_alike = 0
    for _ in range(400):
        data = bytearray(whole)
        at = 512  # the second member's header: the first has no bytes
        for _ in range(make.choice((1, 1, 2, 4))):
            data[at + make.choice((make.randrange(512), make.randrange(100, 157)))] = make.choice(
                b"\0 0123456789axgLSKVD\xff\x80"
            )
        if make.random() < 0.8:
            data[at + 148 : at + 156] = b"%06o\0 " % (256 + sum(data[at : at + 148]) + sum(data[at + 156 : at + 512]))
        path.write_bytes(data)
        ours, theirs = of_ours(path), of_tarfile(bytes(data))
        ours_first = [one for one in ours if one[1] <= at + 512]
        theirs_first = [(name.removeprefix("./").lstrip("/"), *rest) for name, *rest in theirs if rest[0] <= at + 512]
        is_whole = all(offset + size <= len(data) for _, offset, size in theirs_first)  # (ours says where it breaks off)
        if is_whole and all(name.isascii() for name, _, _ in theirs_first):
            assert ours_first == theirs_first
            num_alike += 1
    assert num_alike > 300

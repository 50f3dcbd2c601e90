"""Tars that are cut off, damaged or hostile, and what is no tar: what came before, one error, and nothing raised."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder import InputError
from beholder.sources.reader import PictureRef
from oracles.tar_making import png, tar
from oracles.tar_reading import data_of, part_of, read, samples, write


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

"""Where samples may lead: roots, moved folders, confinement; what belongs to a picture; many tars, many threads."""

from __future__ import annotations

import gzip
import os
import random
import tarfile
import threading
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError
from beholder.columns import PictureReason
from beholder.io.user_folders import cache_folder
from beholder.locate.locate import PictureFinder
from beholder.pixels.picture import PictureError
from beholder.sources import tar_file
from oracles.locating import MEMBERS, fill, members, outcome, record
from oracles.tar_making import png, tar


def test_what_a_record_may_not_hold_is_left_out(here: Path) -> None:
    (here / "a.jpg").write_bytes(png(1))
    for said in (5, {"sources": 5}, {"sources": [1]}, {"folder": 5}, {"sources": None, "sample_column": 5}):
        with PictureFinder({"pictures": said}) as finder:
            assert finder.read("a.jpg") == png(1)


@pytest.mark.soak
def test_what_lies_beside_pictures_in_a_zip(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(here / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(40):
            archive.writestr(f"{i}.jpg", png(i))
        archive.writestr("0.txt", "zero")
        archive.writestr("1.json", bytes(tar_file.MOST_MEMBER_BYTES + 1))
    read: list[zipfile.ZipFile] = []
    whole = zipfile.ZipFile._RealGetContents
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", lambda self: read.append(self) or whole(self))
    with PictureFinder(record("z.zip")) as finder:
        places = finder.locate([f"z.zip/{i}.jpg" for i in range(40)], with_belongings=True)
    assert len(read) == 2  # its directory: for the pictures, and for what lies beside them; not once for each
    assert [len(place.files) for place in places] == [2, 2] + [1] * 38
    assert outcome(places[0].files[1].ref) == b"zero"
    assert outcome(places[1].files[1].ref) == PictureReason.UNREADABLE


def test_without_a_record_names_are_paths(here: Path) -> None:
    fill(here / "photos")
    (here / "x.tar").write_bytes(tar(MEMBERS))
    with PictureFinder(None) as finder:
        refs = finder.find(["photos/a.jpg", "x.tar/1", "photos/nothing.jpg", "#4", "https://h.example/a.jpg", "/"])
    assert [outcome(ref) for ref in refs[:2]] == [png(0), png(1)]
    assert all(ref.error is not None and ref.error[0] == PictureReason.MISSING for ref in (refs[2], refs[3]))
    assert refs[4].path == "https://h.example/a.jpg"
    assert refs[5].error is not None
    with PictureFinder(None, offline=True) as finder:
        assert finder.find(["https://h.example/a.jpg", "s3://b/x.tar/k"])[0].error is not None


def test_relative_names_count_from_the_root_or_a_folder_that_is_clear(here: Path) -> None:
    fill(here / "run" / "photos")
    (here / "run" / "keys.csv").write_text("key,image_path\nk,photos/a.jpg\n")
    other = here / "other"
    other.mkdir()
    os.chdir(other)
    said = record("photos", folder=here / "run")
    assert PictureFinder(said).read("photos/b/c.png") == png(1)
    assert PictureFinder(record("keys.csv", folder=here / "run")).read("k") == png(0)
    assert PictureFinder({"pictures": {"sources": None, "folder": str(here / "run")}}).read("photos/a.jpg") == png(0)
    fill(other / "photos")
    (other / "photos" / "b" / "c.png").write_bytes(png(77))
    with pytest.raises(InputError, match=r"'photos' is there both in the current folder and in .*run.*--root"):
        PictureFinder(said).find(["photos/b/c.png"])
    assert PictureFinder(said, root=".").read("photos/b/c.png") == png(77)
    assert PictureFinder(said, root=str(here / "run")).read("photos/b/c.png") == png(1)
    (here / "run").rename(here / "away")
    assert PictureFinder(said).read("photos/b/c.png") == png(77)
    (other / "photos" / "b" / "c.png").unlink()
    with pytest.raises(PictureError, match=r"photos/b/c.png does not exist") as caught:
        PictureFinder(said).read("photos/b/c.png")
    assert caught.value.reason == PictureReason.MISSING


def test_pictures_that_were_moved_since(here: Path) -> None:
    fill(here / "new" / "place")
    (here / "new" / "tars").mkdir()
    (here / "new" / "tars" / "0.tar").write_bytes(tar(MEMBERS))
    said = record("photos", "tars")
    with PictureFinder(said, pictures=["new/place", "new/tars/"]) as finder:
        assert finder.read("photos/b/c.png") == png(1)
        assert finder.read("tars/0.tar/x/0") == png(0)
    with PictureFinder(None, pictures=["new/place"]) as finder:
        assert finder.read("b/c.png") == png(1)
        assert finder.read("new/place/b/c.png") == png(1)
        assert finder.find(["../place/a.jpg"])[0].error is not None
    with PictureFinder({}, pictures=["new/tars/0.tar"]) as finder:
        assert finder.read("2") == png(3)
        assert [name for name, _ in members(finder, "x/0")] == ["x/0.jpg", "x/0.json", "x/0.txt"]


def test_what_belongs_to_a_picture(here: Path) -> None:
    fill(here / "photos")
    for name in ("a.txt", "a.jpg.json", "a.html", "b/c.json", "b/c.jpg", "b/d/e.f.txt", "b/d/e.txt"):
        (here / "photos" / name).write_bytes(name.encode())
    (here / "x.tar.gz").write_bytes(gzip.compress(tar(MEMBERS)))
    (here / "x.tar").write_bytes(tar(MEMBERS))
    with PictureFinder(record("photos", "x.tar", "x.tar.gz")) as finder:
        found = [[(name, outcome(ref)) for name, ref in members(finder, sample)]
                 for sample in ("photos/a.jpg", "photos/b/c.png", "photos/b/d/e.f.jpg")]  # fmt: skip
        assert found[0] == [("a.jpg", png(0)), ("a.jpg.json", b"a.jpg.json"), ("a.txt", b"a.txt")]
        assert found[1] == [("c.png", png(1)), ("c.json", b"b/c.json")]
        assert found[2] == [("e.f.jpg", png(5)), ("e.f.txt", b"b/d/e.f.txt")]
        assert finder.locate(["photos/b/c.png"], with_belongings=True)[0].files[1].owners == 2
        for name in ("x.tar", "x.tar.gz"):
            got = [(member, outcome(ref)) for member, ref in members(finder, f"{name}/x/0")]
            assert got == [("x/0.jpg", png(0)), ("x/0.json", b'{"n": 0}'), ("x/0.txt", b"nought")]
            assert [member for member, _ in members(finder, f"{name}/2")] == ["2.webp", "2.cls"]


def test_places_say_where_below_their_source(here: Path) -> None:
    fill(here / "photos")
    (here / "tars" / "s").mkdir(parents=True)
    (here / "tars" / "s" / "0.tar").write_bytes(tar(MEMBERS))
    with PictureFinder(record("photos", "tars", str(here / "photos" / "a.jpg"))) as finder:
        first, second, third = finder.locate(["photos/b/c.png", "tars/s/0.tar/x/0", str(here / "photos" / "a.jpg")])
    assert (first.kind, first.source, first.inside, first.files[0].size) == ("file", 0, "b/c.png", len(png(1)))
    assert (second.kind, second.source, second.inside, second.files[0].name) == ("tar", 1, "s/0.tar", "x/0.jpg")
    assert (third.kind, third.source, third.inside) == ("file", 2, "a.jpg")


def test_confined_reads_nothing_outside_the_sources(here: Path) -> None:
    fill(here / "photos")
    (here / "secret.jpg").write_bytes(png(66))
    (here / "photos2").mkdir()
    (here / "photos2" / "x.jpg").write_bytes(png(67))
    (here / "photos" / "link.jpg").symlink_to(here / "secret.jpg")
    (here / "photos" / "up").symlink_to(here)
    (here / "photos" / "fine.jpg").symlink_to("a.jpg")
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "../secret.jpg"}]}, schema=pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})), here / "photos2" / "p.parquet")  # fmt: skip
    hostile = ["photos/link.jpg", "photos/up/secret.jpg", "photos/../secret.jpg", "secret.jpg", str(here / "secret.jpg"),
               "photos/../photos2/x.jpg", f"file://{here}/secret.jpg", "photos//../secret.jpg", "photos/\0", "", "/etc/passwd",
               "~/x.jpg", "../secret.jpg"]  # fmt: skip
    with PictureFinder(record("photos"), confined=True) as finder:
        for sample, ref in zip(hostile, finder.find(hostile), strict=True):
            assert ref.error is not None, sample
        assert finder.read("photos/fine.jpg") == png(0)
        assert "outside of the sources" in (finder.find(["photos/link.jpg"])[0].error or ("", ""))[1]
    with PictureFinder(record("photos/*.jpg"), confined=True) as finder:
        assert finder.read("photos/a.jpg") == png(0)
        assert finder.find(["photos/b/c.png"])[0].error is not None
    with PictureFinder(record("photos2/p.parquet"), confined=True) as finder:
        assert (finder.find(["../secret.jpg"])[0].error or ("", ""))[1].find("leads out of") >= 0
    (here / "list.txt").write_text("photos/a.jpg\nphotos/link.jpg\n")
    with PictureFinder(record("list.txt"), confined=True) as finder:
        assert finder.read("photos/a.jpg") == png(0)
        assert finder.find(["photos/b/c.png"])[0].error is not None
    with PictureFinder(None, root=str(here / "photos"), confined=True) as finder:
        assert finder.read("a.jpg") == png(0)
        assert finder.find(["../secret.jpg"])[0].error is not None


def test_confined_knows_addresses_that_lead_back_to_files_of_this_machine(here: Path) -> None:
    (here / "inside").mkdir()
    (here / "out").mkdir()
    (here / "inside" / "fine.png").write_bytes(png(0))
    (here / "out" / "private.png").write_bytes(png(1))
    (here / "out" / "x.tar").write_bytes(tar([("1.jpg", png(2))]))
    with zipfile.ZipFile(here / "out" / "z.zip", "w") as archive:
        archive.writestr("a.png", png(3))
    out = here / "out"
    hostile = [
        f"file://{out}/private.png", f"local://{out}/private.png", f"simplecache::file://{out}/private.png",
        f"filecache::local://{out}/private.png", f"zip://a.png::file://{out}/z.zip", f"simplecache::file://{out}/x.tar/1.jpg",
        f"dir://private.png::file://{out}", f"LOCAL://{out}/private.png", f"s3://bucket/x::file://{out}/private.png",
        "data://image/png;base64,iVBORw0KGgo=",
    ]  # fmt: skip
    pq.write_table(pa.table({"image": [{"bytes": None, "path": f"simplecache::file://{out}/private.png"}]}, schema=pa.schema(
        {"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})), here / "inside" / "p.parquet")  # fmt: skip
    with PictureFinder(None, root=str(here / "inside"), confined=True) as finder:
        for sample, ref in zip(hostile, finder.find(hostile), strict=True):
            assert "outside of the sources" in (ref.error or ("", ""))[1], sample
        assert finder.read("fine.png") == png(0)
        assert finder.read(f"local://{here}/inside/fine.png") == png(0)
    fsspec.filesystem("memory").pipe("/of-a-test/fine.png", png(4))
    with PictureFinder(record("memory://of-a-test"), confined=True) as finder:  # named, so it is meant
        assert finder.read("memory:///of-a-test/fine.png") == png(4)
        for sample in ("memory:///elsewhere/fine.png", "memory:///of-a-test/../elsewhere/fine.png"):
            assert finder.find([sample])[0].error is not None
    with PictureFinder(record("inside/p.parquet"), confined=True) as finder:
        (ref,) = finder.find([f"simplecache::file://{out}/private.png"])
        assert "outside of the sources" in (ref.error or ("", ""))[1]
    with PictureFinder(None) as finder:  # without a fence they are read
        assert finder.read(f"local://{out}/private.png") == png(1)
        assert finder.read(f"simplecache::file://{out}/private.png") == png(1)


def kept_tables() -> list[Path]:
    """Of the members of each tar that was gone through, as the cache folder has them."""
    return list((cache_folder() / "tar-members").glob("*.arrow"))


def test_a_tar_is_gone_through_once(here: Path) -> None:
    (here / "x.tar").write_bytes(tar(MEMBERS))
    written: dict[Path, int] = {}
    for _ in range(2):
        with PictureFinder(record("x.tar")) as finder:
            assert finder.read("x.tar/1") == png(1)
            assert finder.read("x.tar/2") == png(3)
        (kept,) = kept_tables()
        assert written.setdefault(kept, kept.stat().st_mtime_ns) == kept.stat().st_mtime_ns
    (here / "x.tar").write_bytes(tar([("1.jpg", png(50)), ("2.jpg", png(51))]))
    with PictureFinder(record("x.tar")) as finder:
        assert finder.read("x.tar/2") == png(51)
    assert len(kept_tables()) == 2


def test_few_pictures_of_many_tars_leave_the_others_alone(here: Path) -> None:
    (here / "tars").mkdir()
    for i in range(300):
        (here / "tars" / f"{i:05d}.tar").write_bytes(tar([(f"{i:05d}{k:04d}.jpg", png(k)) for k in range(3)]))
    with PictureFinder(record("tars/{00000..00299}.tar")) as finder:
        assert finder.read("tars/00123.tar/001230002") == png(2)
    assert len(kept_tables()) == 1


def test_many_threads_may_ask(here: Path) -> None:
    fill(here / "photos")
    (here / "x.tar.gz").write_bytes(gzip.compress(tar(MEMBERS)))
    pq.write_table(pa.table({"jpg": [png(i) for i in range(40)], "key": [f"k{i}" for i in range(40)]}), here / "p.parquet")
    wanted = {"photos/b/c.png": png(1), "x.tar.gz/2": png(3), "p.parquet": None, "k31": png(31), "x.tar.gz/1": png(1)}
    del wanted["p.parquet"]
    failures: list[str] = []

    def ask(finder: PictureFinder, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(15):
            sample = chance.choice(list(wanted))
            if finder.read(sample) != wanted[sample]:
                failures.append(sample)

    with PictureFinder(record("photos", "x.tar.gz", "p.parquet")) as finder:
        threads = [threading.Thread(target=ask, args=(finder, seed)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def _with_holes(size: int, name: str = "s.png") -> bytes:
    """A tar with a sparse file of 512 stored bytes; always of the same length."""
    said = b"".join(f"{len(text) + 4} {text}\n".encode() for text in (f"GNU.sparse.size={size:09d}", "GNU.sparse.map=0,512"))
    extended, info = tarfile.TarInfo("x"), tarfile.TarInfo(name)
    extended.size, extended.type, info.size = len(said), tarfile.XHDTYPE, 512
    headers = extended.tobuf(tarfile.USTAR_FORMAT) + said.ljust(512, b"\0") + info.tobuf(tarfile.USTAR_FORMAT)
    return headers + png(1).ljust(512, b"\0") + bytes(1024)


def test_a_sparse_member_is_held_to_the_bounds_as_it_is_now(here: Path) -> None:
    """Where its tar was changed behind our back: of the same size and time, which is how a tar is known again."""
    path = here / "x.tar"
    outcomes = []
    for data in (_with_holes(4096), _with_holes(900 << 20), _with_holes(4096, "t.png"), bytes(3072)):
        path.write_bytes(data.ljust(3072, b"\0"))
        os.utime(path, ns=(10**18, 10**18))
        with PictureFinder(record("x.tar")) as finder:
            (contents,) = finder.contents(finder.locate(["x.tar/s"]))
        outcomes.append(outcome(contents[0][1]))
    assert outcomes == [png(1).ljust(4096, b"\0"), PictureReason.TOO_LARGE, PictureReason.MISSING, PictureReason.MISSING]


def test_what_lies_beside_pictures_in_a_zip_is_held_to_the_bounds(here: Path) -> None:
    with zipfile.ZipFile(here / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.jpg", png(0))
        archive.writestr("0.txt", bytes(65 << 20))
    with PictureFinder(record("z.zip")) as finder:
        (place,) = finder.locate(["z.zip/0.jpg"], with_belongings=True)
    assert outcome(place.files[1].ref) == PictureReason.UNREADABLE

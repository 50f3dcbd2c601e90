"""Samples lead back to the bytes that were scored: what reading the sources in order gives is the truth to compare with."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
import threading
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError
from beholder.columns import PictureReason
from beholder.images import tar_index, tar_members
from beholder.images.fetch_bytes import ReadLimits, read_bytes
from beholder.images.locate import PictureFinder
from beholder.images.picture import PictureError, PictureRef, SourceOptions
from beholder.images.sources import find_pictures, reader_of
from oracles.tar_making import png, tar


def record(*sources: str, folder: Path | None = None, **options: Any) -> dict[str, Any]:
    return {"pictures": {"sources": list(sources), "folder": str(folder or Path.cwd()), **options}}


def outcome(ref: PictureRef) -> Any:
    try:
        return read_bytes(ref, ReadLimits())
    except PictureError as error:
        return error.reason


def truth(*sources: str, **options: Any) -> list[tuple[str, Any]]:
    """(sample, bytes or reason) of every picture, as scoring reads them."""
    found = []
    settings = SourceOptions(**options)
    for part in find_pictures(sources, settings):
        for block in reader_of(part.kind).blocks(part, 0, None, settings):
            found += [(name, outcome(ref)) for name, ref in zip(block.labels["sample"].to_pylist(), block.refs, strict=True)]
    return found


def check(*sources: str, **options: Any) -> list[str]:
    """All samples, all at once and a handful at a time in any order, lead to the same bytes or reasons. Returns the samples."""
    expected = dict(truth(*sources, **options))
    samples = list(expected)
    random.Random(1).shuffle(samples)
    assert samples
    said = {"sample_column": options.get("sample_column"), "picture_column": options.get("picture_column")}
    for pieces in (1, len(samples)):
        with PictureFinder(record(*sources, **said)) as finder:
            for at in range(0, len(samples), -(-len(samples) // pieces)):
                few = samples[at : at + -(-len(samples) // pieces)]
                for sample, ref in zip(few, finder.find(few), strict=True):
                    assert outcome(ref) == expected[sample], sample
    return samples


def fill(folder: Path) -> Path:
    for i, name in enumerate(
        ["a.jpg", "b/c.png", "b/ö.webp", "b/-x.jpg", "b/no suffix", "b/d/e.f.jpg", "n#2.jpg", "b/new\nline.png"]
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(i))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


MEMBERS = [("x/0.jpg", png(0)), ("x/0.json", b'{"n": 0}'), ("x/0.txt", b"nought"), ("1.png", png(1)), ("1.seg.png", png(2)),
           ("2.cls", b"7"), ("2.webp", png(3)), ("é.jpg", png(4)), ("1.png", png(5)), ("noname", png(6)), ("e.jpg", b""),
           ("__meta__/x.jpg", png(8)), (".hidden.jpg", png(9)), ("words.html", b"-")]  # fmt: skip


def test_folders_files_and_globs(here: Path) -> None:
    fill(here / "photos")
    (here / "photos" / "link.png").symlink_to("b/c.png")
    (here / "photos" / "gone.jpg").symlink_to("nowhere.jpg")
    for sources in (["photos"], ["photos/"], ["./photos"], [str(here / "photos")], ["."], [f"file://{here}/photos"],
                    ["photos/*.jpg"], ["photos/**/*.[jp][pn]g"], ["photos/b/c.png", "photos/a.jpg"],
                    ["photos/b", "photos/a.jpg"]):  # fmt: skip
        check(*sources)
    os.chdir("photos")
    check("*.jpg")
    check("../photos/b")


def test_names_that_are_not_utf8(here: Path) -> None:
    folder = os.fsencode(fill(here / "photos"))
    for name, number in ((b"\xff.jpg", 20), (b"\\xff.jpg", 21), (b"b/\xfe\xfd.png", 22)):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(png(number))
    samples = check("photos")
    assert "photos/\\xff.jpg#2" in samples


@pytest.mark.parametrize("packing", ["plain", "gz", "xz"])
def test_tars(here: Path, packing: str) -> None:
    data = tar(MEMBERS)
    for name in ("a", "sub/b"):
        (here / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        if packing == "plain":
            (here / "t" / f"{name}.tar").write_bytes(data)
        elif packing == "gz":
            (here / "t" / f"{name}.tar.gz").write_bytes(gzip.compress(data))
        else:
            import lzma

            (here / "t" / f"{name}.tar.xz").write_bytes(lzma.compress(data))
    suffix = ".tar" if packing == "plain" else f".tar.{packing}"
    pq.write_table(pa.table({"key": ["x/0", "1"], "url": ["u", "v"]}), here / "t" / "a.parquet")
    for sources in (["t"], [f"t/a{suffix}"], ["t/*" + suffix], [f"./t/a{suffix}", f"t/sub/b{suffix}"], [f"t/{{a..a}}{suffix}"]):
        check(*sources)
    check(f"t/a{suffix}", columns=("key",))


def test_odd_tars(here: Path) -> None:
    (here / "cut.tar").write_bytes(tar([(f"{i}.png", png(i, 30)) for i in range(5)])[:4000])
    samples = check("cut.tar")
    assert any("#broken" in sample or sample.startswith("cut.tar/") for sample in samples)
    (here / "cut2.tar").write_bytes(tar([(f"{i}.png", png(i)) for i in range(3)], end=False) + b"\1" * 700)
    assert "cut2.tar#broken" in check("cut2.tar")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for kind, name in ((tarfile.SYMTYPE, "l.jpg"), (tarfile.LNKTYPE, "h.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "0.jpg"
            archive.addfile(info)
        long = "d" * 150 + "/" + "n" * 90 + ".jpg"
        info = tarfile.TarInfo(long)
        info.size = len(png(3))
        archive.addfile(info, io.BytesIO(png(3)))
    (here / "links.tar").write_bytes(stream.getvalue())
    check("links.tar")
    (here / "same.tar").write_bytes(tar([("a.jpg", png(i)) if i % 2 else (f"{i}.jpg", png(i)) for i in range(8)]))
    assert "same.tar/a#2" in check("same.tar")


def test_what_a_record_may_not_hold_is_left_out(here: Path) -> None:
    (here / "a.jpg").write_bytes(png(1))
    for said in (5, {"sources": 5}, {"sources": [1]}, {"folder": 5}, {"sources": None, "sample_column": 5}):
        with PictureFinder({"pictures": said}) as finder:
            assert finder.read("a.jpg") == png(1)


def test_what_lies_beside_pictures_in_a_zip(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(here / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(40):
            archive.writestr(f"{i}.jpg", png(i))
        archive.writestr("0.txt", "zero")
        archive.writestr("1.json", bytes(tar_members.MOST_MEMBER_BYTES + 1))
    read: list[zipfile.ZipFile] = []
    whole = zipfile.ZipFile._RealGetContents
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", lambda self: read.append(self) or whole(self))
    with PictureFinder(record("z.zip")) as finder:
        places = finder.locate([f"z.zip/{i}.jpg" for i in range(40)], with_belongings=True)
    assert len(read) == 2  # its directory: for the pictures, and for what lies beside them; not once for each
    assert [len(place.files) for place in places] == [2, 2] + [1] * 38
    assert outcome(places[0].files[1].ref) == b"zero"
    assert outcome(places[1].files[1].ref) == PictureReason.UNREADABLE


def test_zips(here: Path) -> None:
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(here / f"z{packing}.zip", "w", packing) as archive:
            for i, name in enumerate(("a.jpg", "b/c.png", "b/c.txt", "ö.jpg", "b/no suffix")):
                archive.writestr(name, png(i) if not name.endswith("txt") else b"words")
        check(f"z{packing}.zip")
    check("z0.zip", "z8.zip")
    check("*.zip")
    with PictureFinder(record("z8.zip")) as finder:
        assert [(name, outcome(ref)) for name, ref in finder.members("z8.zip/b/c.png")] == [
            ("b/c.png", png(1)),
            ("b/c.txt", b"words"),
        ]


def test_parquet_with_bytes(here: Path) -> None:
    (here / "img").mkdir()
    (here / "img" / "p.png").write_bytes(png(99))
    structs = [{"bytes": png(i) if i != 3 else None, "path": f"n{i // 2}.png" if i != 3 else "img/p.png"} for i in range(20)]
    pq.write_table(pa.table({"image": structs, "label": list(range(20))}), here / "hf.parquet", row_group_size=7)
    bare = [{"bytes": png(i), "path": None} for i in range(9)]
    pq.write_table(pa.table({"image": bare}), here / "bare.parquet", row_group_size=4)
    keyed = {"jpg": [png(i) for i in range(12)], "key": [f"k{i // 3}" if i % 5 else None for i in range(12)]}
    pq.write_table(pa.table(keyed), here / "keyed.parquet", row_group_size=5)
    numbered = {"jpg": [png(i) for i in range(5)], "id": [7, 8, 9, 10, 11], "name": list("abcde")}
    pq.write_table(pa.table(numbered), here / "numbered.parquet")
    for name in ("hf", "bare", "keyed", "numbered"):
        check(f"{name}.parquet")
    check("hf.parquet", "bare.parquet", "keyed.parquet")
    check("numbered.parquet", sample_column="name")
    (here / "d" / "s").mkdir(parents=True)
    for name in ("d/x", "d/s/x"):
        pq.write_table(pa.table({"image": bare}), here / f"{name}.parquet")
    check("d")
    check("d/x.parquet", "d/s/x.parquet")


def test_lists_and_tables(here: Path) -> None:
    fill(here / "photos")
    names = ["photos/a.jpg", "photos/b/c.png", "photos/b/ö.webp", "photos/a.jpg", "photos/missing.jpg"]
    (here / "list.txt").write_text("\n".join(names))
    (here / "t.csv").write_text("image_path,caption\n" + "".join(f"{name},c\n" for name in names))
    (here / "keys.csv").write_text("key,image_path\n" + "".join(f"k{i // 2},{name}\n" for i, name in enumerate(names)))
    pq.write_table(pa.table({"path": names, "n": list(range(5))}), here / "t.parquet", row_group_size=2)
    (here / "photos" / "beside.csv").write_text("file_name\na.jpg\nb/c.png\n")
    for source in ("list.txt", "t.csv", "keys.csv", "t.parquet", "photos/beside.csv"):
        check(source)
    (here / "x.tar").write_bytes(tar(MEMBERS))
    (here / "sources.txt").write_text("# two\nphotos\nx.tar\n")
    check("sources.txt")


def test_one_name_for_two_pictures_is_not_guessed(here: Path) -> None:
    for i, name in enumerate("ab"):
        pq.write_table(pa.table({"jpg": [png(i), png(7 + i)], "key": ["same", f"own{i}"]}), here / f"{name}.parquet")
    with PictureFinder(record("a.parquet", "b.parquet")) as finder:
        same, own = finder.find(["same", "own1"])
    assert own.data == png(8)
    assert same.error is not None
    assert "several pictures" in same.error[1]


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
        assert [name for name, _ in finder.members("x/0")] == ["x/0.jpg", "x/0.json", "x/0.txt"]


def test_what_belongs_to_a_picture(here: Path) -> None:
    fill(here / "photos")
    for name in ("a.txt", "a.jpg.json", "a.html", "b/c.json", "b/c.jpg", "b/d/e.f.txt", "b/d/e.txt"):
        (here / "photos" / name).write_bytes(name.encode())
    (here / "x.tar.gz").write_bytes(gzip.compress(tar(MEMBERS)))
    (here / "x.tar").write_bytes(tar(MEMBERS))
    with PictureFinder(record("photos", "x.tar", "x.tar.gz")) as finder:
        found = [[(name, outcome(ref)) for name, ref in finder.members(sample)]
                 for sample in ("photos/a.jpg", "photos/b/c.png", "photos/b/d/e.f.jpg")]  # fmt: skip
        assert found[0] == [("a.jpg", png(0)), ("a.jpg.json", b"a.jpg.json"), ("a.txt", b"a.txt")]
        assert found[1] == [("c.png", png(1)), ("c.json", b"b/c.json")]
        assert found[2] == [("e.f.jpg", png(5)), ("e.f.txt", b"b/d/e.f.txt")]
        assert finder.locate(["photos/b/c.png"], with_belongings=True)[0].files[1].owners == 2
        for name in ("x.tar", "x.tar.gz"):
            got = [(member, outcome(ref)) for member, ref in finder.members(f"{name}/x/0")]
            assert got == [("x/0.jpg", png(0)), ("x/0.json", b'{"n": 0}'), ("x/0.txt", b"nought")]
            assert [member for member, _ in finder.members(f"{name}/2")] == ["2.webp", "2.cls"]


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


def test_a_tar_is_gone_through_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "x.tar").write_bytes(tar(MEMBERS))
    walks = []
    real = tar_index._gone_through
    monkeypatch.setattr(tar_index, "_gone_through", lambda path, size: walks.append(path) or real(path, size))
    for _ in range(2):
        with PictureFinder(record("x.tar")) as finder:
            assert finder.read("x.tar/1") == png(1)
            assert finder.read("x.tar/2") == png(3)
    assert len(walks) == 1
    (here / "x.tar").write_bytes(tar([("1.jpg", png(50)), ("2.jpg", png(51))]))
    with PictureFinder(record("x.tar")) as finder:
        assert finder.read("x.tar/2") == png(51)
    assert len(walks) == 2


def test_few_pictures_of_many_tars_are_found_quickly(here: Path) -> None:
    (here / "tars").mkdir()
    for i in range(300):
        (here / "tars" / f"{i:05d}.tar").write_bytes(tar([(f"{i:05d}{k:04d}.jpg", png(k)) for k in range(3)]))
    started = time.perf_counter()
    with PictureFinder(record("tars/{00000..00299}.tar")) as finder:
        assert finder.read("tars/00123.tar/001230002") == png(2)
        assert not finder._archives.knows("tars/00122.tar")
    assert time.perf_counter() - started < 1


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


def samples_of(result: Path) -> Sequence[str]:
    return pq.read_table(result, columns=["sample"]).column(0).to_pylist()


def test_what_score_wrote_is_found_again(here: Path, small_tower: Path, plain_head: Path) -> None:
    from beholder.jobs.options import ScoreOptions
    from beholder.jobs.score import score
    from beholder.scores.score_set import open_scores

    fill(here / "photos")
    (here / "x.tar").write_bytes(tar(MEMBERS))
    options = ScoreOptions(
        sources=("photos", "x.tar"),
        out="out.parquet",
        heads=(str(plain_head),),
        backbone=str(small_tower),
        device="cpu",
        workers=0,
    )
    score(options)
    expected = dict(truth("photos", "x.tar"))
    with open_scores("out.parquet") as scores, PictureFinder(scores.record) as finder:
        samples = [name for names in scores.samples() for name in names.to_pylist()]
        assert len(samples) >= 13
        sizes = pq.read_table("out.parquet").column("num_bytes").to_pylist()
        for sample, size, ref in zip(samples, sizes, finder.find(samples), strict=True):
            assert outcome(ref) == expected[sample]
            assert size == len(expected[sample])
    assert json.loads((here / "out.parquet.beholder.json").read_text())["pictures"]["sources"] == ["photos", "x.tar"]


def test_pictures_on_a_server(here: Path) -> None:
    """A real file system of fsspec that is not this machine's, as far as beholder can tell."""
    import fsspec

    server = fsspec.filesystem("memory")
    for path, data in {
        "/b/f/a.jpg": png(0), "/b/f/s/c.png": png(1), "/b/t/0.tar": tar(MEMBERS), "/b/t/1.tar.gz": gzip.compress(tar(MEMBERS)),
    }.items():  # fmt: skip
        server.pipe(path, data)
    try:
        for sources in (["memory://b/f"], ["memory://b/t"], ["memory://b/t/0.tar"], ["memory://b/f/a.jpg"]):
            samples = check(*sources)
            with PictureFinder(record(*sources), offline=True) as finder:
                assert all(ref.error is not None and "--offline" in ref.error[1] for ref in finder.find(samples))
        (here / "list.txt").write_text("memory://b/f/a.jpg\nmemory://b/f/s/c.png\nmemory://b/f/none.png\n")
        check("list.txt")
        check("memory://b/t/*.tar*")
        with PictureFinder(record("memory://b/t")) as finder:
            sample = next(name for name, _ in truth("memory://b/t") if name.endswith("gz/x/0"))
            assert [name for name, _ in finder.members(sample)] == ["x/0.jpg", "x/0.json", "x/0.txt"]
    finally:
        server.rm("/b", recursive=True)

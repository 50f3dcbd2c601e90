"""Samples lead back to the bytes that were scored: what reading the sources in order gives is the truth to compare with."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.locate.locate import PictureFinder
from oracles.locating import MEMBERS, check, fill, members, outcome, record, truth
from oracles.tar_making import png, tar


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


def test_zips(here: Path) -> None:
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(here / f"z{packing}.zip", "w", packing) as archive:
            for i, name in enumerate(("a.jpg", "b/c.png", "b/c.txt", "ö.jpg", "b/no suffix")):
                archive.writestr(name, png(i) if not name.endswith("txt") else b"words")
        check(f"z{packing}.zip")
    check("z0.zip", "z8.zip")
    check("*.zip")
    with PictureFinder(record("z8.zip")) as finder:
        assert [(name, outcome(ref)) for name, ref in members(finder, "z8.zip/b/c.png")] == [
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


@pytest.mark.slow
def test_what_score_wrote_is_found_again(here: Path, small_tower: Path, plain_head: Path) -> None:
    from beholder.scoreset.score_set import open_scores
    from beholder.scoring.options import ScoreOptions
    from beholder.scoring.score import score

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
            assert [name for name, _ in members(finder, sample)] == ["x/0.jpg", "x/0.json", "x/0.txt"]
    finally:
        server.rm("/b", recursive=True)


def test_addresses_of_a_column_lead_past_the_sources_that_are_named(here: Path) -> None:
    fill(here / "photos")
    (here / "more").mkdir()
    (here / "more" / "x.png").write_bytes(png(9))
    outside = here.parent / "outside.png"
    outside.write_bytes(png(10))
    with PictureFinder(record("photos"), addresses=True) as finder:
        assert finder.read("photos/b/c.png") == (here / "photos" / "b" / "c.png").read_bytes()
        assert finder.read("more/x.png") == png(9)
        assert finder.locate(["http://127.0.0.1:1/x.png"])[0].kind == "url"
    with PictureFinder(record("photos")) as finder:
        assert finder.locate(["http://127.0.0.1:1/x.png", "more/x.png"])[0].kind == "none"
    with PictureFinder({}, addresses=True, pictures=["more"], confined=True) as finder:
        assert finder.read("x.png") == png(9)
        assert finder.locate(["http://127.0.0.1:1/x.png"])[0].kind == "url"
        assert finder.locate([str(outside)])[0].kind == "none"
        assert finder.locate(["simplecache::file:///etc/passwd"])[0].kind == "none"

"""Single files, globs, ranges, lists and folders of archives: exact parts, samples and places; else one clear line."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError
from beholder.sources.find import find as find_any
from beholder.sources.reader import ReadOptions, SourceOptions, picture_reader
from oracles.picture_sources import find, put, read, refused, samples
from oracles.tar_making import png, tar


def test_single_files_make_one_part_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in/b.jpg", "in/a.jpg", "x.png"):
        put(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (part,) = find("in/b.jpg", "in/a.jpg", "./x.png")
    assert read(part)[0] == ["in/b.jpg", "in/a.jpg", "./x.png"]
    (part,) = find("in/b.jpg")
    assert (part.name, part.path, part.num_rows) == ("b.jpg", "in/b.jpg", 1)
    first, middle, last = find("in/b.jpg", put(tmp_path / "t.tar", tar([("1.png", png(1))])), "x.png")
    assert [first.kind, middle.kind, last.kind] == ["files", "tar", "files"]
    assert read(find("https://x.org/a/b.jpg?size=3", "s3://bucket/c.PNG")[0])[0] == [
        "https://x.org/a/b.jpg?size=3",
        "s3://bucket/c.PNG",
    ]


def test_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("10.jpg", "9.jpg", "~home.jpg", "note.md", "d/x.jpg", "d/y.png", "unknown"):
        put(tmp_path / name)
    put(tmp_path / "words", b"words")
    monkeypatch.chdir(tmp_path)
    (part,) = find("*.jpg")
    assert read(part)[0] == ["9.jpg", "10.jpg", "./~home.jpg"]
    assert part.path == "*.jpg"
    (part,) = find("**/*.jpg")
    assert read(part)[0] == ["9.jpg", "10.jpg", "d/x.jpg", "./~home.jpg"]
    parts = find("*")
    assert [name for part in parts for name in read(part)[0]] == [
        "9.jpg",
        "10.jpg",
        "d/x.jpg",
        "d/y.png",
        "unknown",
        "./~home.jpg",
    ]
    assert sum(part.num_ignored for part in parts) == 2
    assert "nothing matches *.gif" in refused("*.gif")
    assert "*.md matches 1 files, none of them a picture" in refused("*.md")
    put(tmp_path / "odd[1].jpg")
    assert samples("odd[1].jpg") == ["odd[1].jpg"]


def test_brace_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        put(tmp_path / f"{i:05d}.tar", tar([(f"{i}.png", png(i))]))
    parts = find("{00000..00011}.tar")
    assert [part.path for part in parts] == [f"{i:05d}.tar" for i in range(12)]
    assert [read(part)[0] for part in parts] == [[f"{i:05d}.tar/{i}"] for i in range(12)]
    assert [part.name for part in find("0000{3..5}.tar")] == ["00003.tar", "00004.tar", "00005.tar"]
    assert "00012.tar does not exist" in refused("{00000..00012}.tar")
    assert "names 1,000,000,000 files" in refused("{000000000..999999999}.tar")
    put(tmp_path / "{1..2}.jpg")
    put(tmp_path / "{a,b}.jpg")
    assert samples("{1..2}.jpg", "{a,b}.jpg") == ["{1..2}.jpg", "{a,b}.jpg"]


def test_a_folder_of_shards_is_these(tmp_path: Path) -> None:
    for i in (10, 9):
        put(tmp_path / "d" / f"{i}.tar", tar([(f"{i}.png", png(i))]))
        pq.write_table(pa.table({"key": [str(i)], "url": [f"u{i}"]}), tmp_path / "d" / f"{i}.parquet")
        put(tmp_path / "d" / f"{i}_stats.json", b"{}")
    parts = find(tmp_path)
    assert [part.name for part in parts] == ["d/9.tar", "d/10.tar"]
    assert [part.num_ignored for part in parts] == [0, 0] or parts[0].num_ignored == 2
    blocks = [next(picture_reader("tar").blocks(part, 0, None, SourceOptions())) for part in parts]
    assert [block.labels.to_pylist() for block in blocks] == [
        [{"sample": f"{tmp_path}/d/{i}.tar/{i}", "key": str(i), "url": f"u{i}"}] for i in (9, 10)
    ]
    put(tmp_path / "loose.jpg")
    line = refused(tmp_path)
    assert "holds both pictures (1) and tars (2); say which with a glob" in line
    assert len(find(f"{tmp_path}/**/*.tar")) == 2


def test_a_folder_of_parquet_files_with_pictures_is_these(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [{"bytes": png(1), "path": "a.png"}]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    (part,) = find(tmp_path)
    assert (part.kind, part.name, part.num_rows, part.num_ignored) == ("parquet", "b.parquet", 1, 1)
    pq.write_table(pa.table({"url": ["http://x/1.jpg"]}), tmp_path / "c.parquet")
    assert [part.name for part in find(tmp_path)] == ["b.parquet"]
    (tmp_path / "b.parquet").unlink()
    assert [(part.name, part.kind) for part in find(tmp_path)] == [("c.parquet", "table")]
    put(tmp_path / "x.jpg")
    assert [(part.kind, part.num_ignored) for part in find(tmp_path)] == [("files", 2)]


def test_a_folder_of_zips_is_these(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.png", png(1))
    assert samples(tmp_path) == [f"{tmp_path}/a.zip/x.png"]
    put(tmp_path / "x.jpg")
    (part,) = find(tmp_path)
    assert (part.kind, part.num_ignored) == ("files", 1)


def test_kinds_are_told_by_content(tmp_path: Path) -> None:
    packed = put(tmp_path / "noname", gzip.compress(tar([("1.png", png(1))])))
    plain = put(tmp_path / "shard.bin", tar([("2.png", png(1))]))
    picture = put(tmp_path / "p.bin")
    assert [part.kind for part in find(packed, plain, picture)] == ["tar", "tar", "files"]
    assert samples(packed) == [f"{packed}/1"]


def test_the_same_thing_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in" / "d" / "x.jpg")
    monkeypatch.chdir(tmp_path)
    assert "named twice" in refused("in/d/x.jpg", "./in/d/x.jpg")
    assert "named twice" in refused("in", "in/")
    assert "named twice, once as a part of" in refused("in", "in/d/x.jpg")
    assert "named twice, once as a part of" in refused("in/d", "in")


def test_names_of_parts_are_unique(tmp_path: Path) -> None:
    for name in ("a/in/x.jpg", "b/in/x.jpg"):
        put(tmp_path / name)
    for name in ("a/0.tar", "b/0.tar"):
        put(tmp_path / name, tar([("1.png", png(1))]))
    parts = find(tmp_path / "a" / "in", tmp_path / "b" / "in", tmp_path / "a" / "0.tar", tmp_path / "b" / "0.tar")
    inside = str(tmp_path).lstrip("/")
    assert [part.name for part in parts] == [f"{inside}/a/in", f"{inside}/b/in", f"{inside}/a/0.tar", f"{inside}/b/0.tar"]


def test_what_holds_no_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty holds no pictures" in refused(tmp_path / "empty")
    assert "no.jpg does not exist; check the path" in refused(tmp_path / "no.jpg")
    assert "is of no kind that is known" in refused(put(tmp_path / "x.dat", b"words"))
    assert "x.cfg is empty" in refused(put(tmp_path / "x.cfg", b""))
    assert "is not .zip inside" in refused(put(tmp_path / "x.zip", b"words"))
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    assert "is of no kind that is known" in refused(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", np.ones((2, 3)))
    assert "holds numpy arrays, no pictures" in refused(tmp_path / "x.npz")


def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "in" / "a.jpg")
    put(tmp_path / "in" / "b.jpg")
    put(tmp_path / "t.tar", tar([("1.png", png(1))]))
    (tmp_path / "pictures.txt").write_text(
        "\ufeff# pictures\n\nin/b.jpg\r\n  in/a.jpg \nhttps://x.org/c.png?x=1\nmissing.jpg\nin/b.jpg\n", "utf-8"
    )
    (part,) = find("pictures.txt")
    assert (part.kind, part.num_rows) == ("table", 5)
    names, refs = read(part)
    assert names == ["in/b.jpg", "in/a.jpg", "https://x.org/c.png?x=1", "missing.jpg", "in/b.jpg#2"]
    assert [ref.path for ref in refs] == ["in/b.jpg", "in/a.jpg", "https://x.org/c.png?x=1", "missing.jpg", "in/b.jpg"]
    (tmp_path / "sources.txt").write_text("t.tar\nin\npictures2.txt\n")
    (tmp_path / "pictures2.txt").write_text("other.jpg\n")
    assert [part.kind for part in find("sources.txt")] == ["tar", "files", "table"]
    (tmp_path / "globs.txt").write_text("in/*.jpg\n")
    assert samples("globs.txt") == ["in/a.jpg", "in/b.jpg"]
    (tmp_path / "self.txt").write_text("self.txt\n")
    assert "self.txt lists itself" in refused("self.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    assert "empty.txt lists nothing" in refused("empty.txt")
    (tmp_path / "latin.txt").write_bytes("é.jpg".encode("latin-1"))
    assert "latin.txt is not UTF-8 text" in refused("latin.txt")
    assert "has no columns" in refused("pictures.txt", sample_column="x")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".png", "a./" * 2000 + "b.tar", "~nobody-of-that-name/x.tar"])
def test_names_that_no_file_can_have_are_not_there(here: Path, name: str) -> None:
    assert "does not exist" in refused(name)
    (here / "sources.txt").write_text(f"{name}\n", "utf-8")
    if name.endswith(".png"):
        assert [part.kind for part in find("sources.txt")] == ["table"]
    else:
        assert "does not exist" in refused("sources.txt")


@pytest.mark.parametrize("name", ["x\0.tar", "x\0*.png", "x{0..3}\0.png", "x\0", "~x\0/y.png"])
def test_zero_bytes_in_sources_are_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"^~?x.*\\x00.* has a zero byte, which no path has"):
        find_any([name], SourceOptions(), ReadOptions())


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("zip://a.png::file:///nowhere/x.zip", "cannot read zip://a.png::file:///nowhere/x.zip"),
        ("zip://a.png::s3://b/x.zip", "zip://a.png::s3://b/x.zip cannot be opened"),
        ("nonsense://x/a.png", "nonsense://x/a.png: "),
    ],
)
def test_addresses_that_no_back_end_opens_are_one_line(address: str, line: str) -> None:
    pytest.importorskip("s3fs")
    with pytest.raises(InputError) as caught:
        find_any([f"{address}/*"], SourceOptions(), ReadOptions())
    assert str(caught.value).startswith(line.replace("x.zip", "x.zip/*").replace("a.png: ", "a.png/*: "))

"""Folders of pictures: exact samples, order, names and identity; links, pipes and what systems leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from beholder.io import locations
from beholder.sources.folder import natural_order
from beholder.sources.reader import SourceOptions, picture_reader
from oracles.picture_sources import find, put, read, refused, samples
from oracles.tar_making import png


def test_a_folder_in_natural_order(tmp_path: Path) -> None:
    names = ["10.jpg", "9.jpg", "b/2.png", "b/10.webp", "b/c/1.GIF", "a.tif", "009.jpg"]
    for name in names:
        put(tmp_path / "in" / name)
    (part,) = find(tmp_path / "in")
    assert (part.kind, part.name, part.path, part.num_rows, part.num_ignored) == ("files", "in", str(tmp_path / "in"), 7, 0)
    assert part.num_bytes == sum((tmp_path / "in" / name).stat().st_size for name in names)
    found, refs = read(part)
    assert found == [
        f"{tmp_path}/in/{name}" for name in ("009.jpg", "9.jpg", "10.jpg", "a.tif", "b/2.png", "b/10.webp", "b/c/1.GIF")
    ]
    assert [ref.path for ref in refs] == found
    assert {(ref.data, ref.offset, ref.length, ref.error) for ref in refs} == {(None, None, None, None)}
    assert json.dumps(part.identity)


@pytest.mark.parametrize("given", [".", "./in", "in", "in/", "in//", "~/in", "file://{}/in"])
def test_samples_begin_as_the_user_gave_the_folder(tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in" / "a b.jpg")
    put(tmp_path / "in" / "~x.jpg")
    monkeypatch.chdir(tmp_path / "in" if given == "." else tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = {".": "./", "./in": "./in/", "in": "in/", "in/": "in/", "in//": "in/"}.get(given, f"{tmp_path}/in/")
    assert samples(given.format(tmp_path)) == [f"{wanted}a b.jpg", f"{wanted}~x.jpg"]
    (part,) = find(given.format(tmp_path))
    assert part.name == "in"
    assert all(locations.local_path(ref.path or "").read_bytes().startswith(b"\x89PNG") for ref in read(part)[1])


def test_pictures_are_found_by_content_too(tmp_path: Path) -> None:
    for name, data in {
        "plain": png(1), "x.unknown": png(2), "words": b"words", "x.dat": b"\0\1\2", "empty": b"", "x.py": png(3),
        "a.txt": b"of a",
        "a.jpg": b"no picture at all", "a.json": b"{}", "a.jpg.xmp": b"<x/>", "orphan.txt": b"x", "x.mp4": b"",
        "raw.nef": b"II*\0",
        "empty.png": b"", "new.jxl": b"\xff\x0a",
    }.items():  # fmt: skip
        put(tmp_path / name, data)
    (part,) = find(tmp_path)
    assert [Path(name).name for name in read(part)[0]] == ["a.jpg", "empty.png", "new.jxl", "plain", "x.unknown"]
    assert part.num_ignored == len(["words", "x.dat", "empty", "x.py", "orphan.txt", "x.mp4", "raw.nef"])


def test_what_systems_leave_behind_is_not_looked_at(tmp_path: Path) -> None:
    for name in (
        ".hidden.jpg",
        ".git/x.jpg",
        "__MACOSX/x.jpg",
        "Thumbs.db",
        "a/.thumbnails/x.png",
        "@eaDir/x.jpg",
        "._a.jpg",
        "ok.jpg",
    ):
        put(tmp_path / name)
    (part,) = find(tmp_path)
    assert read(part)[0] == [f"{tmp_path}/ok.jpg"]
    assert part.num_ignored == 0


def test_names_that_are_not_ascii_and_not_utf8(tmp_path: Path) -> None:
    names = ["日本/猫.jpg".encode(), "é.png".encode(), b"caf\xe9.jpg", rb"caf\xe9.jpg", b"a\nb.jpg", b"\xff/\xfe.png"]
    for name in names:
        put(tmp_path / os.fsdecode(name), png(1))
    (part,) = find(tmp_path)
    found, refs = read(part)
    assert {os.fsencode(ref.path or "") for ref in refs} == {os.fsencode(tmp_path) + b"/" + name for name in names}
    assert all(Path(ref.path or "").read_bytes() == png(1) for ref in refs)
    texts = {Path(name).relative_to(tmp_path).as_posix() for name in found}
    assert texts == {"日本/猫.jpg", "é.png", r"caf\xe9.jpg", r"caf\xe9.jpg#2", "a\nb.jpg", r"\xff/\xfe.png"}
    assert read(part, 2, 5)[0] == found[2:5]


def test_links_are_followed_once(tmp_path: Path) -> None:
    root, outside = tmp_path / "in", tmp_path / "outside"
    put(root / "z.jpg")
    put(root / "sub" / "y.jpg")
    put(outside / "o.jpg")
    put(outside / "p.jpg")
    (root / "a.jpg").symlink_to("z.jpg")
    (root / "c1.jpg").symlink_to(outside / "p.jpg")
    (root / "c2.jpg").symlink_to(outside / "p.jpg")
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "gone.jpg").symlink_to("nothing.jpg")
    (root / "gone.txt").symlink_to("nothing.txt")
    (root / "again").symlink_to("sub")
    (root / "before").symlink_to(outside)
    (root / "then").symlink_to(outside)
    (root / "sub" / "up").symlink_to("..")
    (root / "sub" / "top").symlink_to("/")
    (outside / "back").symlink_to(root)
    os.link(root / "z.jpg", root / "hard.jpg")
    names, _ = read(find(root)[0])
    assert [Path(name).relative_to(root).as_posix() for name in names] == [
        "before/o.jpg", "before/p.jpg", "gone.jpg", "hard.jpg", "loop.jpg", "sub/y.jpg", "z.jpg",
    ]  # fmt: skip
    (outside / "back").unlink()
    assert samples(root / "before") == [f"{root}/before/o.jpg", f"{root}/before/p.jpg"]


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.jpg")
    put(tmp_path / "x.jpg")
    (part,) = find(tmp_path)
    assert (part.num_rows, part.num_ignored) == (1, 2)
    assert "not a file but a pipe" in refused(tmp_path / "pipe.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="needs not to be root")
def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "x.jpg")
    (tmp_path / "closed").mkdir(mode=0)
    assert "closed: permission denied" in refused(tmp_path)


def test_results_of_earlier_runs_are_left_out(tmp_path: Path) -> None:
    put(tmp_path / "x.jpg")
    put(tmp_path / "scores" / "thumbnail.jpg")
    put(tmp_path / "scores" / "beholder.json", b'{"format": "beholder-score-set"}')
    put(tmp_path / "mine" / "y.jpg")
    put(tmp_path / "mine" / "beholder.json", b'{"format": "something else"}')
    put(tmp_path / "broken" / "z.jpg")
    put(tmp_path / "broken" / "beholder.json", b"{")
    assert [Path(name).name for name in samples(tmp_path)] == ["z.jpg", "y.jpg", "x.jpg"]


def test_identity_tells_other_names_and_sizes_apart(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    put(tmp_path / "b.jpg")
    before = find(tmp_path)[0].identity
    assert find(tmp_path)[0].identity == before
    put(tmp_path / "b.jpg", b"longer than before" * 100)
    changed = find(tmp_path)[0].identity
    assert changed != before
    (tmp_path / "b.jpg").rename(tmp_path / "c.jpg")
    assert find(tmp_path)[0].identity not in (before, changed)


def test_identity_tells_a_file_written_again_apart(tmp_path: Path) -> None:
    """Other bytes of the same number: only the time says so."""
    first = put(tmp_path / "in" / "a.jpg", b"one")
    other = put(tmp_path / "in" / "b.jpg", b"two")
    put(tmp_path / "out.jpg", b"out")
    (tmp_path / "in" / "c.jpg").symlink_to(tmp_path / "out.jpg")
    for path in (first, other, tmp_path / "out.jpg"):
        os.utime(path, ns=(0, 1_000_000_000))
    for sources, changed in (
        ([tmp_path / "in"], other),
        ([tmp_path / "in"], tmp_path / "out.jpg"),
        ([first], first),
        ([f"{tmp_path}/in/*.jpg"], other),
        ([first, other], other),
    ):
        before = [part.identity for part in find(*sources)]
        assert [part.identity for part in find(*sources)] == before
        changed.write_bytes(b"new")
        os.utime(changed, ns=(0, 1_000_000_001))
        assert [part.identity for part in find(*sources)] != before
        os.utime(changed, ns=(0, 1_000_000_000))


def test_any_cut_of_a_folder_gives_the_same(tmp_path: Path) -> None:
    for i in range(50):
        put(tmp_path / f"{i}.jpg")
    (part,) = find(tmp_path)
    whole = read(part)
    for low, middle in ((0, 1), (3, 3), (7, 50), (0, 49)):
        pieces = [
            read(part, 0, low, block_rows=7),
            read(part, low, middle, block_rows=7),
            read(part, middle, None, block_rows=7),
        ]
        assert ([n for names, _ in pieces for n in names], [r for _, refs in pieces for r in refs]) == whole
    assert read(part, 50, None) == ([], [])
    sizes = [len(b.refs) for b in picture_reader("files").blocks(part, 0, None, SourceOptions(block_rows=20))]
    assert sizes == [20, 20, 10]


def test_natural_order_is_that_of_numbers() -> None:
    names = [
        b"img_10.jpg",
        b"img_9.jpg",
        b"img_09.jpg",
        b"img_1/2",
        b"img_1/10",
        b"img_18446744073709551616",
        b"img_99",
        b"\xff1",
        b"\xff01",
    ]
    ordered = [names[i] for i in natural_order(pa.array(names, pa.large_binary())).to_pylist()]
    assert ordered == [
        b"img_1/2",
        b"img_1/10",
        b"img_09.jpg",
        b"img_9.jpg",
        b"img_10.jpg",
        b"img_99",
        b"img_18446744073709551616",
        b"\xff01",
        b"\xff1",
    ]


def test_columns_of_a_folder_are_null(tmp_path: Path) -> None:
    put(tmp_path / "in" / "x.jpg")
    (tmp_path / "t.csv").write_text(f"path,caption\n{tmp_path}/in/x.jpg,hello\n")
    parts = find(tmp_path / "in", tmp_path / "t.csv", columns=("caption",))
    tables = [
        next(picture_reader(part.kind).blocks(part, 0, None, SourceOptions(columns=("caption",)))).labels for part in parts
    ]
    assert [table.column("caption").to_pylist() for table in tables] == [[None], ["hello"]]
    assert "no source has a column 'width'; they have: path, caption" in refused(
        tmp_path / "in", tmp_path / "t.csv", columns=("width",)
    )
    assert "no source has a column 'x'; they have none" in refused(tmp_path / "in", columns=("x",))


@pytest.mark.soak
def test_a_large_folder_takes_little_memory_and_time(tmp_path: Path) -> None:
    """60,000 files in a process of its own: under 60 MB more than ten files take (names of 30 bytes)."""
    script = f"""
import os, resource, sys
from beholder.sources.find import find_pictures
from beholder.sources.reader import picture_reader
from beholder.sources.reader import SourceOptions
for name, count in (("few", 10), ("many", 60_000)):
    folder = os.path.join({str(tmp_path)!r}, name)
    os.mkdir(folder)
    for i in range(count):
        os.close(os.open(f"{{folder}}/some picture number {{i}}.jpg", os.O_CREAT | os.O_WRONLY))
    (part,) = find_pictures([folder], SourceOptions())
    assert part.num_rows == count
    assert sum(len(block.refs) for block in picture_reader("files").blocks(part, 0, None, SourceOptions())) == count
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    few, many = map(int, done.stdout.split())
    assert (many - few) * 1024 < 60_000_000

"""Which files `beholder predict` reads, and in which order: beside birder 0.8.4's own listing of the same folders."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from beholder.errors import InputError
from beholder.scoring.birder import list_pictures
from beholder.sources.folder import FilesReader
from beholder.sources.reader import PicturePart, SourceOptions
from oracles.peers import PEERS, needs_peers

LISTING = """
import json, sys
from birder.common.fs_ops import collect_samples_from_paths
print("FOUND " + json.dumps([collect_samples_from_paths(paths) for paths in json.loads(sys.argv[1])]))
"""
GIVEN = [
    ["in"], ["in/"], ["./in//"], ["in/b", "in/a"], ["in/a-1/9.jpg", "in/a", "in/x.gif", "in/a-1/10.JPG"], ["in/a/1.png"], ["."],
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders with names that natural order, hidden names, links and endings put elsewhere, or leave out."""
    names = """a/1.png a/10.png a/9.png a/B.jpeg a/b.Webp a-1/9.jpg a-1/10.JPG a-1/z.tif b/x.ppm b/x.txt b/.hidden.png b/.jpg
        .dot/1.bmp __MACOSX/._1.jpg b/größe.tiff b/many.dots.pgm x.gif y.avif z.heic noending notes.md t.tar b/p.parquet
        b/1.jfif b/01.jpg b/1.jpg b/1.jpg.png"""
    for name in names.split():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"GIF89a" + bytes(20))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "l.png").write_bytes(b"x")
    (tmp_path / "in" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "b" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "b" / "file.png").symlink_to(tmp_path / "in" / "a" / "1.png")
    (tmp_path / "in" / "b" / "nowhere.png").symlink_to(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def samples_of(part: PicturePart) -> list[str]:
    options = SourceOptions(columns=(), block_rows=3)
    return [name for block in FilesReader().blocks(part, 0, None, options) for name in block.labels["sample"].to_pylist()]


def listed(*paths: str) -> tuple[PicturePart, list[str]]:
    found = list_pictures(paths)
    assert found is not None
    return found


@needs_peers("birder is")
def test_files_and_order_are_birders(place: Path) -> None:
    result = subprocess.run(
        [str(PEERS), "-c", LISTING, json.dumps(GIVEN)], cwd=place, capture_output=True, text=True, check=True, timeout=120
    )
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("FOUND ")]
    for paths, expected in zip(GIVEN, json.loads(line.removeprefix("FOUND ")), strict=True):
        part, _ = listed(*paths)
        assert samples_of(part) == expected, paths
        assert part.num_rows == len(expected)
    assert len(samples_of(listed("in")[0])) == 20


def test_what_is_left_out_is_said(place: Path) -> None:
    part, notes = listed("in")
    (note,) = notes
    assert note.startswith("6 pictures are left out, as birder leaves them out: 1 ")
    kinds = note.split(": ")[1].removesuffix(" (`beholder embed` takes every kind)").split(", ")
    assert set(kinds) == {
        "1 .gif", "1 .avif", "1 .heic", "1 .jfif", "1 without such an ending", "1 links that lead nowhere"
    }  # fmt: skip
    assert part.num_ignored == 3  # notes.md, t.tar, p.parquet; x.txt belongs to x.ppm
    assert listed("in/a")[1] == []
    sizes = sum(Path(name).stat().st_size for name in samples_of(part))
    assert part.num_bytes == sizes


def test_order_of_arguments_changes_nothing(place: Path) -> None:
    one, other = listed("in/a", "in/b")[0], listed("in/b", "in/a")[0]
    assert (one.path, one.name, one.identity) == (other.path, other.name, other.identity)
    assert listed("in/a")[0].identity != listed("in/b")[0].identity


def test_a_folder_inside_itself_is_listed_once(place: Path) -> None:
    (place / "elsewhere" / "up").symlink_to(place / "elsewhere")
    part, notes = listed("elsewhere")
    assert samples_of(part) == ["elsewhere/l.png"]
    assert len(notes) == 1
    assert "not followed" in notes[0]


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["in", "in/a"], "in/a/1.png is named twice"),
        (["in/x.gif"], r"in/x.gif: no picture that birder predict takes .*--wds; 1 picture is left out"),
        (["in/t.tar"], "no picture that birder predict takes"),
    ],
)
def test_what_cannot_be_done_is_one_line(place: Path, paths: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        list_pictures(paths)
    assert "\n" not in str(caught.value)


def test_what_birder_cannot_read_is_left_to_others(place: Path) -> None:
    for paths in (["s3://bucket/folder"], ["in/a/*.png"], ["nowhere"], ["in", "https://host/x.jpg"]):
        assert list_pictures(paths) is None

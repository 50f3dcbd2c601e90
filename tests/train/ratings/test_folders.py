"""Folders of liked and disliked pictures, marks of `browse`, and stars in XMP."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from beholder.browse.marks import Mark, MarkBook
from beholder.errors import InputError
from beholder.io.xmp import with_rating
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.read import read_ratings


def picture(path: Path, packet: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "JPEG", **({} if packet is None else {"xmp": packet}))
    path.write_bytes(file.getvalue())


def values(ratings: Ratings) -> dict[str, float]:
    return dict(zip(ratings.samples.to_pylist(), ratings.values.tolist(), strict=True))


def said(ratings: Ratings) -> list[str]:
    return [str(finding) for finding in ratings.findings]


@pytest.mark.parametrize("names", [("liked", "disliked"), ("Keep", "DROP"), ("good", "bad")])
def test_two_folders_in_a_folder(names: tuple[str, str], tmp_path: Path) -> None:
    for name in ("a.jpg", "day/b.jpg"):
        picture(tmp_path / names[0] / name)
    picture(tmp_path / names[1] / "c.jpg")
    (tmp_path / names[1] / "notes.txt").write_text("no picture")
    found = read_ratings(tmp_path)
    assert found.kind == "decisions"
    assert values(found) == {"a.jpg": 1, "day/b.jpg": 1, "c.jpg": 0}
    assert said(found) == ["1 file among the disliked is no picture, and passed over (notes.txt)."]


def test_two_folders_anywhere(tmp_path: Path) -> None:
    picture(tmp_path / "best" / "a.jpg")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / "other" / name)
    picture(tmp_path / "best" / "d.jpg")
    found = read_ratings(tmp_path / "best", RatingsOptions(disliked=str(tmp_path / "other")))
    assert values(found) == {"d.jpg": 1, "b.jpg": 0, "c.jpg": 0}
    assert [(each.what, each.count) for each in found.findings] == [("duplicated", 1), ("contradicting", 1)]
    with pytest.raises(InputError, match="nowhere is no folder"):
        read_ratings(tmp_path / "best", RatingsOptions(disliked="nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no pictures"):
        read_ratings(tmp_path / "best", RatingsOptions(disliked=str(tmp_path / "empty")))


def test_marks_of_browse(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    book = MarkBook(path, 4, lambda names: {name: [int(name[0])] for name in names}, has_unique_names=True)
    book.set([0, 1, 2], ["0.jpg", "1.jpg", "2.jpg"], Mark.KEEP)
    book.set([1, 3], ["1.jpg", "3.jpg"], Mark.DROP)
    book.set([2], ["2.jpg"], Mark.NONE)
    found = read_ratings(path)
    assert (found.kind, found.layout) == ("decisions", "marks of `beholder browse`")
    assert values(found) == {"0.jpg": 1, "1.jpg": 0, "3.jpg": 0}


def test_marks_all_alike_or_none(tmp_path: Path) -> None:
    path = tmp_path / "marks.jsonl"
    path.write_text("".join(json.dumps({"sample": name, "mark": "keep"}) + "\n" for name in "abc"))
    with pytest.raises(InputError, match="all 3 decisions are keep, so there is nothing to learn from; decide on some to drop"):
        read_ratings(path)
    path.write_text('{"sample": "a", "mark": null}\n')
    with pytest.raises(InputError, match="holds no marks; mark pictures to keep and to drop in `beholder browse` first"):
        read_ratings(path)


def test_stars(tmp_path: Path) -> None:
    picture(tmp_path / "inside.jpg", with_rating(None, 5))
    picture(tmp_path / "beside.jpg")
    (tmp_path / "beside.jpg.xmp").write_bytes(with_rating(None, 2))
    picture(tmp_path / "trip" / "stem.JPG")
    (tmp_path / "trip" / "stem.xmp").write_bytes(with_rating(None, 4))
    (tmp_path / "raw.NEF").write_bytes(b"raw")
    (tmp_path / "raw.xmp").write_bytes(with_rating(None, 3))
    (tmp_path / "elsewhere.xmp").write_bytes(with_rating(None, 1))
    picture(tmp_path / "unrated.jpg", with_rating(None, 0))
    picture(tmp_path / "rejected.jpg", with_rating(None, -1))
    picture(tmp_path / "plain.jpg")
    found = read_ratings(tmp_path)
    assert found.kind == "mean"
    assert found.layout == "stars (xmp:Rating) in 4 sidecars and in 3 pictures"
    assert values(found) == {
        "beside.jpg": 2, "elsewhere": 1, "inside.jpg": 5, "raw.NEF": 3, "rejected.jpg": 0, "trip/stem.JPG": 4,
    }  # fmt: skip
    assert said(found) == [
        "1 picture is unrated (0 stars), and left out (unrated.jpg).",
        "1 picture is rejected (-1), and counts as 0 (--rejected-as) (rejected.jpg).",
    ]
    without = read_ratings(tmp_path, RatingsOptions(rejected_as=float("nan")))
    assert "rejected.jpg" not in values(without)
    assert said(without)[1] == "1 picture is rejected (-1), and left out (rejected.jpg)."


def test_the_closest_word_on_stars_counts(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", with_rating(None, 1))
    (tmp_path / "a.jpg.xmp").write_bytes(with_rating(None, 3))
    (tmp_path / "a.xmp").write_bytes(with_rating(None, 5))
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.jpg", with_rating(None, 2).replace(b'"2"', b'"ten"'))
    (tmp_path / "c.xmp").write_bytes(b"<html>")
    picture(tmp_path / "d.jpg", b"no xml")
    found = read_ratings(tmp_path)
    assert values(found) == {"a.jpg": 3, "a.png": 5}
    assert said(found) == [
        "1 sidecar is no XMP that can be read, and passed over (c.xmp).",
        "the XMP in 1 picture cannot be read, and is passed over (d.jpg).",
        "1 file has a rating that is no number from -1 to 5, and left out (b.jpg: 'ten').",
        "1 picture has other stars inside than in the sidecar, which counts (a.jpg).",
    ]


def test_folders_without_stars(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is an empty folder"):
        read_ratings(tmp_path)
    picture(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="has no stars: of 1 picture none has an XMP sidecar, or XMP inside, with xmp:Rating"):
        read_ratings(tmp_path)
    picture(tmp_path / "a.jpg", with_rating(None, 0))
    with pytest.raises(InputError, match=r"has no stars: all 1 pictures with XMP are unrated \(0\) or rejected \(-1\)"):
        read_ratings(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / name, with_rating(None, 5))
    with pytest.raises(InputError, match="all 2 stars are 5, so there is nothing to learn from them"):
        read_ratings(tmp_path)

"""Ratings matched to the rows of a set: ways, doubts, counts, and a set of many rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from beholder.errors import InputError
from beholder.train.ratings.match import Matched, NameReader, match_ratings
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.read import read_ratings


def ratings(names: Sequence[str]) -> Ratings:
    return read_ratings(pd.DataFrame({"image": list(names), "rating": np.arange(len(names)) % 5}))


def reader(names: Sequence[str | None], piece: int = 3) -> NameReader:
    def read() -> Iterator[pa.ChunkedArray]:
        for start in range(0, len(names), piece):
            yield pa.chunked_array([pa.array(list(names[start : start + piece]), pa.string())])

    return read


def matched(mine: Sequence[str], names: Sequence[str | None]) -> Matched:
    return match_ratings(ratings(mine), reader(names), fewest=1)


def test_exact_names() -> None:
    found = matched(["c", "a", "x", "y"], ["a", "b", "c", None, "d"])
    assert found.row_of.tolist() == [2, 0, -1, -1]
    assert found.rows.tolist() == [0, 2]
    assert found.places.tolist() == [1, 0]
    assert (found.ways, found.num_matched, found.num_rows) == ({"exactly": 2}, 2, 5)
    assert found.lines()[0] == "2 of 4 rated pictures are in the set of 5."
    assert [str(each) for each in found.findings] == [
        "2 rated pictures of 4 are not in the set (x, y).",
        "3 pictures of 5 of the set have no rating (b, #3, d).",
    ]


@pytest.mark.parametrize(
    ("mine", "theirs", "way"),
    [
        (" a.jpg ", "a.jpg", "without blanks at the ends and with / between folders"),
        ("x\\a.jpg", "x/a.jpg", "without blanks at the ends and with / between folders"),
        ("./x/a.jpg", "x/a.jpg", "without blanks at the ends and with / between folders"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg", "without blanks at the ends and with / between folders"),
        ("/home/me/p/q/r/a.jpg", "/mnt/p/q/r/a.jpg", "by the file's name and 3 folders before it"),
        ("q/a.jpg", "/mnt/p/q/a.jpg", "by the file's name and 1 folder before it"),
        ("a.jpg", "https://example.com/p/a.jpg?size=2", "by the file's name"),
        ("C:\\photos\\a.jpg", "a.jpg", "by the file's name"),
        ("A.JPG", "p/a.jpg", "by the file's name in any case"),
        ("a.png", "p/a.jpg", "by the file's name without the extension"),
        ("953619", "ava/953619.jpg", "by the file's name without the extension"),
        ("A.png", "p/a.jpg", "by the file's name without the extension, in any case"),
        ("12", "00000/000000012", "by the number in the file's name"),
        ("12.0", "p/0012.webp", "by the number in the file's name"),
    ],
)
def test_ways(mine: str, theirs: str, way: str) -> None:
    found = matched([mine, "zzz"], ["other.jpg", "p/more.jpg", theirs, "98.jpg"])
    assert found.row_of.tolist() == [2, -1]
    assert found.ways == {"exactly": 0, way: 1}
    assert str(found.findings[0]) == f"1 rated picture matched {way}, where only one fits."


def test_nothing_is_taken_where_several_fit() -> None:
    found = matched(
        ["a.jpg", "B.jpg", "c.png", "c.gif", "zzz", "x/d.jpg"],
        ["p/a.jpg", "q/a.jpg", "b.JPG", "b.jPg", "c.jpg", "x/d.jpg", "y/d.jpg"],
    )
    assert found.row_of.tolist() == [-1, -1, -1, -1, -1, 5]
    assert str(found.findings[0]) == (
        "4 rated pictures fit several pictures of the set, or several fit one; none is taken (a.jpg, B.jpg, c.png, ...)."
    )


def test_what_matches_exactly_is_not_taken_again() -> None:
    found = matched(["a.jpg", "b.jpg"], ["a.jpg", "sub/b.png"])
    assert found.row_of.tolist() == [0, 1]
    found = matched(["p/a.jpg", "A.JPG"], ["p/a.jpg", "b.jpg"])
    assert found.row_of.tolist() == [0, -1]


def test_of_rows_with_one_name_the_first_is_rated() -> None:
    assert matched(["a", "b"], ["b", "a", "a"]).row_of.tolist() == [1, 0]


def test_ratings_that_match_nothing() -> None:
    with pytest.raises(InputError) as refused:
        match_ratings(ratings(["x/1.jpg", "x/2.jpg"]), reader(["a", "b", "c"]))
    assert str(refused.value) == (
        "the frame: none of its 2 rated pictures is among the 3 of the set; here they are named as 'x/1.jpg', there as 'a'; "
        "name the column with the same names with --ratings-sample-column, or give the set that was rated"
    )
    with pytest.raises(InputError, match="the set has no rows that ratings could belong to"):
        match_ratings(ratings(["a", "b"]), reader([]))


def test_too_few() -> None:
    with pytest.raises(InputError) as refused:
        match_ratings(ratings(["a", "b", "c"]), reader(["a", "b", "c", "d"]))
    assert str(refused.value) == (
        "the frame: 3 rated pictures are in the set, too few to learn from or to measure with; at least 5 are needed, and some "
        "hundred for anything that can be trusted"
    )
    pairs = read_ratings(pd.DataFrame({"better": list("abcdef"), "worse": list("bcdefa")}))
    with pytest.raises(InputError, match="the frame: 4 pairs are in the set, too few"):
        match_ratings(pairs, reader(list("abcde")))
    assert match_ratings(pairs, reader(list("abcdef"))).row_of.tolist() == [0, 1, 2, 3, 4, 5]


def test_ratings_by_place() -> None:
    given = read_ratings(pa.table({"embedding": [[0.0, 1.0]] * 7, "rating": [1, 2, 3, None, 5, 6, 7]}))
    found = match_ratings(given, reader([None] * 4 + ["x", "y", "z"]))
    assert found.row_of.tolist() == [0, 1, 2, 4, 5, 6]
    assert found.ways == {"by the number of the row": 6}
    assert [str(each) for each in found.findings] == ["1 picture of 7 of the set has no rating (#3)."]
    with pytest.raises(InputError, match="has ratings for 7 rows and more, the set has 6; ratings by place need as many rows"):
        match_ratings(given, reader(["x"] * 6))


@pytest.mark.parametrize("piece", [29, 1000])
def test_pieces_do_not_matter(piece: int) -> None:
    rng = np.random.default_rng(3)
    names = [f"d{number % 7}/{number:06d}.jpg" for number in rng.permutation(500)]
    mine = [f"{number}.png" for number in range(0, 600, 5)] + names[:40]
    found = match_ratings(ratings(mine), reader(names, piece))
    where = {int(name[3:9]): row for row, name in enumerate(names)}
    exact = set(names[:40])
    for name, row in zip(mine, found.row_of.tolist(), strict=True):
        if name in exact:
            assert names[row] == name
            continue
        number = int(name[:-4])
        taken = f"d{number % 7}/{number:06d}.jpg" in exact
        assert row == (-1 if number >= 500 or taken else where[number])


@pytest.mark.slow
def test_a_million_names_are_matched_in_seconds() -> None:
    count = 1_000_000
    names = pa.array(np.arange(count)).cast(pa.string())
    names = pa.compute.binary_join_element_wise("photos/", names, ".jpg", "")
    given = ratings([f"{number}.JPG" for number in range(0, count, 10)])
    found = match_ratings(given, lambda: iter([names.slice(start, 100_000) for start in range(0, count, 100_000)]))
    assert found.row_of.tolist() == list(range(0, count, 10))


def test_names_that_all_fit_several_pictures_are_told_so() -> None:
    with pytest.raises(
        InputError, match=r"2 rated pictures fit several .* \(a.jpg, b.jpg\); name the pictures with their folders"
    ):
        matched(["a.jpg", "b.jpg"], ["x/a.jpg", "y/a.jpg", "x/b.jpg", "y/b.jpg"])

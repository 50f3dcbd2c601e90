"""Label Studio's tasks, Simulacra's SQLite and arrays, compared with values typed in by hand."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.errors import InputError
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.read import read_ratings


def values(ratings: Ratings) -> dict[str, float]:
    return dict(zip(ratings.samples.to_pylist(), ratings.values.tolist(), strict=True))


def rated(image: str, *answers: tuple[Any, Any], **more: Any) -> dict[str, Any]:
    """A task with a rating of each of these people."""
    result = [
        {
            "completed_by": who,
            "was_cancelled": False,
            "result": [{"id": "x", "from_name": "rating", "to_name": "image", "type": "rating", "value": {"rating": stars}}],
            **more,
        }
        for who, stars in answers
    ]
    return {"id": 1, "data": {"image": image}, "annotations": result, "predictions": [], "project": 3}


def test_label_studio_ratings(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    tasks = [
        rated("/data/upload/3/1a2b3c4d-cat%20one.jpg", (1, 4), ({"id": 2, "email": "b@c.d"}, 5)),
        rated("/data/local-files/?d=photos/dog.jpg", (1, 2)),
        rated("https://example.com/x/bird.jpg", (1, 3)),
        rated("s3://bucket/none.jpg"),
        rated("s3://bucket/skipped.jpg", (1, 1), was_cancelled=True),
        rated("s3://bucket/empty.jpg", (1, None)),
        {
            "data": {"image": "y.jpg"},
            "annotations": [{"completed_by": 1, "result": [{"type": "choices", "value": {"choices": ["a"]}}]}],
        },
    ]
    path.write_text(json.dumps(tasks))
    found = read_ratings(path)
    assert found.kind == "raters"
    assert values(found) == {"cat one.jpg": 4.5, "photos/dog.jpg": 2, "https://example.com/x/bird.jpg": 3}
    assert found.votes is not None
    assert found.votes.raters == ("1", "b@c.d")
    assert [str(each) for each in found.findings] == [
        "1 task without an annotation is left out.",
        "1 annotation that was cancelled or skipped is left out.",
        "1 result of other kinds than rating and pairwise is left out.",
        "1 result without a picture or a value is left out.",
    ]


def compared(one: str, other: str, selected: str | None) -> dict[str, Any]:
    value = {} if selected is None else {"selected": selected}
    result = [{"from_name": "pw", "to_name": "image1", "type": "pairwise", "value": value}]
    return {"data": {"image1": one, "image2": other}, "annotations": [{"completed_by": 1, "result": result}]}


def test_label_studio_pairs(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(
        json.dumps([compared("a.jpg", "b.jpg", "left"), compared("a.jpg", "c.jpg", "right"), compared("b.jpg", "c.jpg", None)])
    )
    found = read_ratings(path)
    assert found.pairs is not None
    names = found.samples.to_pylist()
    assert [(names[one], names[other]) for one, other in zip(found.pairs.better, found.pairs.worse, strict=True)] == [
        ("a.jpg", "b.jpg"), ("c.jpg", "a.jpg"),
    ]  # fmt: skip
    both = [compared("a.jpg", "b.jpg", "left"), rated("a.jpg", (1, 4)), rated("b.jpg", (1, 2))]
    path.write_text(json.dumps(both))
    with pytest.raises(InputError, match="holds 2 ratings and 1 pairs; say which with --ratings-kind raters or pairs"):
        read_ratings(path)
    assert values(read_ratings(path, RatingsOptions(ratings_kind="raters"))) == {"a.jpg": 4, "b.jpg": 2}
    assert read_ratings(path, RatingsOptions(ratings_kind="pairs")).kind == "pairs"


def test_label_studio_without_ratings(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps([rated("a.jpg")]))
    with pytest.raises(
        InputError, match="holds tasks of Label Studio, but no result of its Rating or Pairwise tag: 1 task without"
    ):
        read_ratings(path)


def simulacra(path: Path, script: str) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
    return path


def test_simulacra(tmp_path: Path) -> None:
    path = simulacra(
        tmp_path / "sac.sqlite",
        """CREATE TABLE generations (id INTEGER PRIMARY KEY, prompt TEXT);
        CREATE TABLE images (id INTEGER PRIMARY KEY, gid INTEGER, idx INTEGER);
        CREATE TABLE paths (iid INTEGER, path TEXT);
        CREATE TABLE ratings (sid INTEGER, iid INTEGER, rating INTEGER, verified INTEGER);
        INSERT INTO images VALUES (10, 1, 0), (11, 1, 1), (12, 1, 2);
        INSERT INTO paths VALUES (10, 'a/x.png'), (11, 'a/y.png');
        INSERT INTO ratings VALUES (1, 10, 7, 1), (2, 10, 9, 1), (1, 11, 3, 1), (1, 12, 5, 1), (1, 12, NULL, 1),
            (1, 99, 5, 1);""",
    )
    found = read_ratings(path)
    assert (found.kind, found.layout) == ("raters", "a row per rater, tables of Simulacra Aesthetic Captions")
    assert values(found) == {"a/x.png": 8, "a/y.png": 3, "12": 5}
    assert found.votes is not None
    assert found.votes.raters == ("1", "2")
    assert [(each.what, each.count) for each in found.findings] == [("unmatched", 1), ("missing", 1)]


def test_another_sqlite_file(tmp_path: Path) -> None:
    path = simulacra(tmp_path / "other.db", "CREATE TABLE things (id INTEGER); INSERT INTO things VALUES (1);")
    with pytest.raises(InputError, match="is an SQLite file with the tables things; ratings and images, as Simulacra"):
        read_ratings(path)
    path.write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(InputError, match="cannot be read as SQLite"):
        read_ratings(path)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_an_array(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "y_ratings.npy"
    np.save(path, np.array([5.5, np.nan, 4, 6.25]).reshape(shape))
    found = read_ratings(path)
    assert found.is_by_row
    assert (found.layout, values(found)) == ("one rating a row, by place, for 4 rows", {"0": 5.5, "2": 4, "3": 6.25})
    assert [str(each) for each in found.findings] == ["1 row has no finite rating; it is left out (1)."]


@pytest.mark.parametrize(
    ("array", "line"),
    [
        (np.zeros((4, 768)), "ratings of shape (N,) or (N, 1) were expected; are these the embeddings?"),
        (np.array(["a", "b"]), "has shape (2,) and type <U1; ratings of shape (N,) or (N, 1) were expected"),
        (np.zeros(0), "has no rows"),
        (np.ones(3), "all 3 ratings are 1, so there is nothing to learn from them"),
        (np.full(3, np.nan), "has no rating that can be used: 3 rows have no finite rating"),
    ],
)
def test_other_arrays(array: np.ndarray[Any, Any], line: str, tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    np.save(path, array)
    with pytest.raises(InputError) as refused:
        read_ratings(path)
    assert line in str(refused.value)


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    np.save(path, np.array([{}, 1], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"cannot be read as .npy: Object arrays cannot be loaded"):
        read_ratings(path)


ODD_TASKS: dict[str, Any] = {
    "no answers": {"annotations": 5}, "answers in an object": {"annotations": {"a": 1}},
    "answers that are none": {"annotations": [1, None, "x"]},
    "results that are none": {"annotations": [{"completed_by": 1, "result": 7}]}, "no data": {"data": None},
    "a result of another kind": {"annotations": [{"result": ["rating", {"type": "rating", "value": [1]}]}]},
    "a number without bounds": {"annotations": [{"result": [{"type": "rating", "value": {"rating": 10**400}}]}]},
    "no number": {"annotations": [{"result": [{"type": "rating", "value": {"rating": float("nan")}}]}]},
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD_TASKS)
def test_label_studio_with_parts_of_other_kinds(kind: str, tmp_path: Path) -> None:
    """They are counted as what holds no rating; the other tasks are read."""
    path = tmp_path / "export.json"
    good = [rated(f"{stars}.jpg", (1, stars)) for stars in range(1, 5)]
    path.write_text(json.dumps([*good, rated("x.jpg", (1, 1)) | ODD_TASKS[kind]]))
    assert values(read_ratings(path)) == {"1.jpg": 1, "2.jpg": 2, "3.jpg": 3, "4.jpg": 4}


def test_halves_of_letters_in_json(tmp_path: Path) -> None:
    """JSON can hold half of a pair of surrogates; in names they are shown as they stand there."""
    path = tmp_path / "r.json"
    rows = [{"image": f"{i}\ud800.jpg", "rating": 1 + i % 5, "odd\ud800": [i]} for i in range(9)]
    path.write_text(json.dumps(rows))
    assert read_ratings(path).samples.to_pylist() == [f"{i}\\ud800.jpg" for i in range(9)]
    path.write_text(json.dumps([rated(f"{stars}\ud800.jpg", ("\udfff", stars)) for stars in range(1, 5)]))
    assert read_ratings(path).samples.to_pylist() == [f"{stars}\\ud800.jpg" for stars in range(1, 5)]


def test_simulacra_with_paths_that_are_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE ratings (sid, iid, rating); CREATE TABLE images (id); CREATE TABLE paths (iid, path)"
        )
        connection.executemany("INSERT INTO ratings VALUES (1, ?, ?)", [(i, 1 + i % 5) for i in range(6)])
        connection.executemany("INSERT INTO images VALUES (?)", [(i,) for i in range(6)])
        connection.executemany(
            "INSERT INTO paths VALUES (?, ?)", [(0, 2.5), (1, 7), (2, b"a.jpg"), (3, None), (4, "d.jpg"), (5, "e")]
        )
        connection.commit()
    assert sorted(read_ratings(path).samples.to_pylist()) == ["2.5", "3", "7", "a.jpg", "d.jpg", "e"]


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f8', 'fortran", b"(" * 50, b"{'descr': '<f8', 'shape': (1" + b"0" * 60, b"\xff\xfe"]
)
def test_damaged_arrays_of_ratings(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "y.npy"
    path.write_bytes(b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(80))
    with pytest.raises(InputError, match="y.npy cannot be read as .npy: .") as caught:
        read_ratings(path)
    assert len(str(caught.value).splitlines()) == 1


def test_simulacra_with_ratings_that_are_no_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE ratings (iid, rating); CREATE TABLE images (id)")
        connection.executemany("INSERT INTO ratings VALUES (?, ?)", [(i, 1 + i % 5) for i in range(6)] + [(6, float("inf"))])
        connection.executemany("INSERT INTO images VALUES (?)", [(i,) for i in range(7)])
        connection.commit()
    assert sorted(read_ratings(path).samples.to_pylist()) == ["0", "1", "2", "3", "4", "5"]
    data = path.read_bytes()
    path.write_bytes(data.replace(b"images", b"im\xffges"))
    with pytest.raises(InputError, match="x.sqlite cannot be read as SQLite"):
        read_ratings(path)

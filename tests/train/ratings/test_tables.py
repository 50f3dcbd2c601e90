"""Tables of ratings, each compared with values typed in by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.errors import InputError
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.read import read_ratings


def file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def said(ratings: Ratings) -> list[str]:
    return [str(finding) for finding in ratings.findings]


MEAN = "image,rating\na.jpg,4.5\nb.jpg,2\nc.jpg,3.25\n"


def test_one_mean_a_picture(tmp_path: Path) -> None:
    found = read_ratings(file(tmp_path, "r.csv", MEAN))
    assert found.kind == "mean"
    assert found.layout == "one rating a picture, column 'rating'"
    assert found.samples.to_pylist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert found.values.tolist() == [4.5, 2.0, 3.25]
    assert found.scale == "2 to 4.5, with fractions"
    assert (found.counts, found.deviations, found.votes, found.pairs, found.histogram, found.findings) == (*[None] * 5, ())


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow", "parquet", "json", "jsonl", "tsv", "utf-16", "object", "lazy"])
def test_every_file_and_frame_gives_the_same(kind: str, tmp_path: Path) -> None:
    rows = {"image": ["a.jpg", "b.jpg", "c.jpg"], "rating": [4.5, 2.0, 3.25]}
    objects = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    path = tmp_path / f"r.{kind}"
    source: object = str(path)
    if kind == "pandas":
        source = pd.DataFrame(rows)
    elif kind == "object":
        source = pd.DataFrame({"image": pd.Categorical(rows["image"]), "rating": ["4.5", " 2 ", "3.25"]})
    elif kind in ("polars", "lazy"):
        source = pl.LazyFrame(rows) if kind == "lazy" else pl.DataFrame(rows)
    elif kind == "arrow":
        source = pa.table(rows)
    elif kind == "parquet":
        pq.write_table(pa.table({**rows, "embedding": [[1.0, 2.0]] * 3}), path)
    elif kind == "json":
        path.write_text(json.dumps(objects, indent=1))
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, objects)))
    elif kind == "tsv":
        path.write_text(MEAN.replace(",", "\t"))
    else:
        path = tmp_path / "r.csv"
        path.write_text(MEAN, encoding="utf-16")
        source = path
    found = read_ratings(source)
    assert found.samples.to_pylist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert found.values.tolist() == [4.5, 2.0, 3.25]


def test_votes_and_deviations_beside_a_mean(tmp_path: Path) -> None:
    text = "file_name,mos,num_votes,std\na,3,10,0.5\nb,4,,0.25\nc,2,-1,1\nd,5,0,1\ne,1,2,-3\n"
    found = read_ratings(file(tmp_path, "r.csv", text))
    assert found.layout == "one rating a picture, column 'mos', votes in 'num_votes', deviations in 'std'"
    assert found.samples.to_pylist() == ["a", "b", "e"]
    assert found.values.tolist() == [3, 4, 1]
    assert found.counts is not None
    assert found.counts.tolist() == [10, 1, 2]
    assert found.deviations is not None
    np.testing.assert_equal(found.deviations, [0.5, 0.25, np.nan])
    assert said(found) == [
        "1 row has a negative number of votes in 'num_votes'; it is left out (c).",
        "1 row has 0 votes in 'num_votes'; it is left out (d).",
        "1 row without a number of votes in 'num_votes' counts as one vote (b).",
        "1 row has no standard deviation in 'std' that can be used (e).",
    ]


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    text = "image,rating\na,4\n,3\nb,\nc,good\nd,nan\ne,inf\nf,2\n  ,1\ng,N/A\nh,1e400\n"
    found = read_ratings(file(tmp_path, "r.csv", text))
    assert found.samples.to_pylist() == ["a", "f"]
    assert [(finding.what, finding.count) for finding in found.findings] == [("unnamed", 2), ("missing", 3), ("text", 3)]
    assert said(found) == [
        "2 rows name no picture; they are left out (a row without a name, a row without a name).",
        "3 rows have no rating in 'rating'; they are left out (b, d, g).",
        "3 rows have something in 'rating' that is no number; they are left out ('good', 'inf', '1e400').",
    ]


def test_pictures_that_are_there_twice_are_averaged(tmp_path: Path) -> None:
    found = read_ratings(file(tmp_path, "r.csv", "image,rating\na,4\nb,1\na,5\na,3\n"))
    assert found.samples.to_pylist() == ["a", "b"]
    assert found.values.tolist() == [4, 1]
    assert found.counts is not None
    assert found.counts.tolist() == [3, 1]
    assert found.deviations is not None
    np.testing.assert_equal(found.deviations, [1, np.nan])  # 4, 5, 3: variance (0 + 1 + 1) / 2
    assert said(found) == [
        "1 picture is rated more than once, in 3 rows without a column of raters; they are averaged, each row as a vote (a)."
    ]


def test_pictures_that_are_there_twice_are_pooled_by_their_votes(tmp_path: Path) -> None:
    found = read_ratings(file(tmp_path, "r.csv", "image,rating,count,std\na,2,2,1\nb,1,5,0.5\na,5,4,2\n"))
    assert found.values.tolist() == [4, 1]  # (2 * 2 + 4 * 5) / 6
    assert found.counts is not None
    assert found.counts.tolist() == [6, 5]
    assert found.deviations is not None  # squares: 1 * 1 + 3 * 4 + 2 * (2 - 4)^2 + 4 * (5 - 4)^2 = 25, over 5
    np.testing.assert_allclose(found.deviations, [np.sqrt(5), 0.5])


def test_names_that_are_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image_id": [953619.0, np.nan, 7.0], "score": [1, 2, 3]})
    assert read_ratings(frame).samples.to_pylist() == ["953619", "7"]
    assert read_ratings(pd.DataFrame({"id": [12, 7], "score": [1, 2]})).samples.to_pylist() == ["12", "7"]


def test_the_rating_column_is_found_among_others(tmp_path: Path) -> None:
    text = "index,Filename,photographer,Beauty_Score\n0,a,x,4\n1,b,y,5\n"
    found = read_ratings(file(tmp_path, "r.csv", text))
    assert (found.samples.to_pylist(), found.values.tolist()) == (["a", "b"], [4, 5])
    only = read_ratings(file(tmp_path, "s.csv", "name,wow\na,4\nb,5\n"))
    assert only.layout == "one rating a picture, column 'wow'"
    chosen = read_ratings(
        file(tmp_path, "t.csv", "picture,rating,score\na,4,1\nb,5,9\n"), RatingsOptions(rating_column="score")
    )
    assert chosen.values.tolist() == [1, 9]


def test_ratings_beside_embeddings_go_by_place() -> None:
    found = read_ratings(pa.table({"embedding": [[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]], "personal_score": [1, None, 5]}))
    assert found.is_by_row
    assert found.samples.to_pylist() == ["0", "2"]
    assert found.values.tolist() == [1, 5]


def test_ratings_outside_the_scale(tmp_path: Path) -> None:
    path = file(tmp_path, "r.csv", "image,rating\na,0\nb,1\nc,5\nd,9\n")
    found = read_ratings(path, RatingsOptions(lowest=1, highest=5))
    assert found.samples.to_pylist() == ["b", "c"]
    assert said(found) == [
        "1 row has a rating below --lowest-rating 1; it is left out (a).",
        "1 row has a rating above --highest-rating 5; it is left out (d).",
    ]


@pytest.mark.parametrize("words", [("keep", "drop"), ("Liked", "disliked"), ("true", "false"), ("1", "0"), ("yes", "no")])
def test_decisions_in_a_table(words: tuple[str, str], tmp_path: Path) -> None:
    keep, drop = words
    text = f"image,label\na,{keep}\nb,{drop}\nc,{keep}\nd,\na,{keep}\ne,{keep}\ne,{drop}\n"
    found = read_ratings(file(tmp_path, "r.csv", text))
    assert found.kind == "decisions"
    assert found.samples.to_pylist() == ["a", "b", "c"]
    assert found.values.tolist() == [1, 0, 1]
    assert found.scale == "keep (1) or drop (0)"
    assert said(found) == [
        "1 row has no rating in 'label'; it is left out (d).",
        "2 pictures are rated more than once, in 4 rows without a column of raters; they are counted by their majority (a, e).",
        "1 picture is kept as often as dropped, and left out (e).",
    ]


RATERS = "worker,image,rating\nann,a,1\nann,b,3\nbob,a,4\nbob,b,5\nbob,c,3\ncy,c,2\n"


def test_a_row_per_rater(tmp_path: Path) -> None:
    found = read_ratings(file(tmp_path, "r.csv", RATERS))
    assert found.kind == "raters"
    assert found.layout == "a row per rater, column 'worker', ratings in 'rating'"
    assert found.samples.to_pylist() == ["a", "b", "c"]
    assert found.values.tolist() == [2.5, 4, 2.5]
    assert found.counts is not None
    assert found.counts.tolist() == [2, 2, 2]
    assert found.deviations is not None
    np.testing.assert_allclose(found.deviations, np.sqrt([4.5, 2, 0.5]))
    assert found.votes is not None
    assert found.votes.raters == ("ann", "bob", "cy")
    assert found.votes.rater.tolist() == [0, 0, 1, 1, 1, 2]
    assert found.votes.sample.tolist() == [0, 1, 0, 1, 2, 2]
    assert found.votes.value.tolist() == [1, 3, 4, 5, 3, 2]
    assert found.scale == "1 to 5, whole numbers"


def test_raters_are_centred(tmp_path: Path) -> None:
    found = read_ratings(file(tmp_path, "r.csv", RATERS), RatingsOptions(per_rater="centre"))
    # ann's mean is 2, bob's 4; cy gave one rating. The mean of the other five is 3.2.
    assert found.votes is not None
    assert found.votes.raters == ("ann", "bob")
    np.testing.assert_allclose(found.votes.value, [2.2, 4.2, 3.2, 4.2, 2.2])
    np.testing.assert_allclose(found.values, [2.7, 4.2, 2.2])
    assert said(found) == [
        "1 rater gave one rating only, or the same to all; by itself that says nothing, so it is left out (cy)."
    ]


def test_raters_are_standardised(tmp_path: Path) -> None:
    text = "user,image,rating\nu,a,1\nu,b,3\nv,a,10\nv,b,20\nv,c,30\n"
    found = read_ratings(file(tmp_path, "r.csv", text), RatingsOptions(per_rater="standardise"))
    assert found.votes is not None
    whole = np.array([1, 3, 10, 20, 30.0])
    scores = np.array([-1, 1, -np.sqrt(1.5), 0, np.sqrt(1.5)])
    np.testing.assert_allclose(found.votes.value, whole.mean() + whole.std() * scores)


def test_one_rater_rating_twice_is_one_vote(tmp_path: Path) -> None:
    found = read_ratings(file(tmp_path, "r.csv", "rater,image,rating\nu,a,1\nu,b,3\nu,a,2\nv,a,4\n"))
    assert found.values.tolist() == [2.75, 3]
    assert found.counts is not None
    assert found.counts.tolist() == [2, 1]
    assert said(found) == ["1 picture was rated more than once by one rater, whose ratings are averaged to one (a)."]


def test_rows_without_a_rater_are_counted(tmp_path: Path) -> None:
    found = read_ratings(file(tmp_path, "r.csv", "rater,image,rating\nu,a,1\n,b,3\nv,b,4\n"))
    assert found.values.tolist() == [1, 4]
    assert said(found) == ["1 row does not say who rated; it is left out (b)."]


def test_scales_that_are_mixed_are_told() -> None:
    five = [{"rater": "u", "image": f"a{n}", "rating": 1 + n % 5} for n in range(20)]
    ten = [{"rater": "v", "image": f"a{n}", "rating": 1 + n % 10} for n in range(20)]
    few = [{"rater": "w", "image": "a1", "rating": 1}, {"rater": "w", "image": "a2", "rating": 2}]
    (finding,) = read_ratings(pd.DataFrame(five + ten + few)).findings
    assert finding.what == "mixed-scales"
    assert str(finding) == (
        "1 rater never goes above 5 and 1 goes up to 10: scales of 1 to 5 and of 1 to 10 seem to be mixed; bring them to one "
        "scale, or use --per-rater standardise (u)."
    )
    assert read_ratings(pd.DataFrame(ten + few)).findings == ()
    by_source = pd.DataFrame(
        {
            "image": [f"a{n}" for n in range(40)],
            "source": ["x"] * 20 + ["y"] * 20,
            "score": [1 + n % 5 for n in range(20)] + [1 + n % 10 for n in range(20)],
        }
    )
    (finding,) = read_ratings(by_source).findings
    assert str(finding) == (
        "1 source never goes above 5 and 1 goes up to 10: scales of 1 to 5 and of 1 to 10 seem to be mixed; bring them to one "
        "scale before they are used together (x)."
    )


def test_several_files_are_one_table(tmp_path: Path) -> None:
    for number, top in enumerate((5, 10)):
        rows = "".join(f"p{number}-{row}.jpg,{1 + row % top}\n" for row in range(20))
        file(tmp_path, f"part{number}.csv", "image,rating\n" + rows)
    for source in (tmp_path, tmp_path / "*.csv"):
        found = read_ratings(source)
        assert found.num_samples == 40
        assert found.values[20:].tolist() == [1 + row % 10 for row in range(20)]
        assert found.source == f"{tmp_path / 'part0.csv'} and 1 other file"
        (finding,) = found.findings
        assert finding.text.startswith("1 file never goes above 5 and 1 goes up to 10: scales of 1 to 5 and of 1 to 10 seem")
    pq.write_table(pa.table({"rating": [3, 4], "image": ["x", "y"]}), tmp_path / "part2.parquet")
    assert read_ratings(tmp_path).values[-2:].tolist() == [3, 4]
    file(tmp_path, "part3.csv", "image,rating,more\na,1,2\n")
    with pytest.raises(
        InputError, match=r"part3.csv has other columns than .*part0.csv \(more\); ratings from several files need"
    ):
        read_ratings(tmp_path)
    with pytest.raises(InputError, match="nothing matches"):
        read_ratings(tmp_path / "*.tsv")
    (tmp_path / "part.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"part.npy: of several files only .csv, .tsv and .parquet are read together"):
        read_ratings(tmp_path / "part.*")


def test_columns_of_pictures_are_no_names() -> None:
    pictures = pa.array([{"bytes": b"x", "path": "a"}, {"bytes": b"y", "path": "b"}])
    table = pa.table({"image": pictures, "picture": [b"1", b"2"], "key": ["a", "b"], "rating": [1, 2]})
    assert read_ratings(table).samples.to_pylist() == ["a", "b"]
    with pytest.raises(InputError, match="the frame: which column names the pictures\\? Name it with --ratings-sample-column"):
        read_ratings(table.drop_columns(["key"]))


def test_the_lines_of_a_summary(tmp_path: Path) -> None:
    path = file(tmp_path, "r.csv", RATERS)
    assert read_ratings(path).lines() == [
        f"{path} holds 3 pictures: a row per rater, column 'worker', ratings in 'rating'; 1 to 5, whole numbers.",
        "The mean is 3, the standard deviation between pictures 0.707.",
        "With 2 votes a picture the means have a reliability of 0.000 (of a single vote 0.000): the standard deviation of "
        "votes for one picture is 1.53.",
    ]
    assert read_ratings(pd.DataFrame({"image": list("abc"), "label": [1, 0, 1]})).lines() == [
        "the frame holds 3 pictures: keep or drop, column 'label'; keep (1) or drop (0).",
        "2 are kept and 1 dropped.",
    ]
    pairs = read_ratings(pd.DataFrame({"better": ["a"], "worse": ["b"]}))
    assert pairs.lines() == [
        "the frame holds 1 pair of 2 pictures: pairs, columns 'better' and 'worse'; which of two is better."
    ]


@pytest.mark.parametrize(("last", "far"), [("5", 0), ("1000", 1), ("-1000", 1)])
def test_a_rating_far_from_all_others_is_told(last: str, far: int, tmp_path: Path) -> None:
    lines = "".join(f"{number}.jpg,{1 + number % 5}\n" for number in range(40))
    found = read_ratings(file(tmp_path, "r.csv", f"image,rating\n{lines}last.jpg,{last}\n"))
    told = [one for one in found.findings if one.what == "outlying"]
    assert len(told) == far
    assert all(one.examples == (f"last.jpg: {last}",) for one in told)

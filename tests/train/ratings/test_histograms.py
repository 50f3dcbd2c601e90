"""Histograms of votes in the layouts of AVA, KonIQ, TANet and NIMA, compared with values typed in by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from beholder.errors import InputError
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.read import read_ratings

AVA = "1 953619 0 1 5 17 38 36 15 6 5 1 1 22 1396\n2 953958 10 7 15 26 26 21 10 8 1 2 15 21 1396\n\n"
"""The first two lines of AVA.txt; the means are 5.637 (124 votes) and 4.698 (126 votes)."""


def test_ava(tmp_path: Path) -> None:
    path = tmp_path / "AVA.txt"
    path.write_text(AVA)
    found = read_ratings(path)
    assert found.kind == "histogram"
    assert found.layout == "a histogram of votes for 1 to 10 stars, AVA.txt's layout"
    assert found.samples.to_pylist() == ["953619", "953958"]
    assert found.counts is not None
    assert found.counts.tolist() == [124, 126]
    np.testing.assert_allclose(found.values, [699 / 124, 592 / 126])
    votes = np.repeat(np.arange(1, 11), [0, 1, 5, 17, 38, 36, 15, 6, 5, 1])
    assert found.deviations is not None
    assert found.deviations[0] == pytest.approx(votes.std(ddof=1))
    assert found.histogram is not None
    assert found.histogram[1].tolist() == [10, 7, 15, 26, 26, 21, 10, 8, 1, 2]
    assert found.levels is not None
    assert found.levels.tolist() == list(range(1, 11))
    assert found.scale == "1 to 10, whole numbers"


def test_ava_with_another_line(tmp_path: Path) -> None:
    path = tmp_path / "AVA.txt"
    path.write_text(AVA + "a.jpg 4\n")
    with pytest.raises(InputError, match=r"AVA.txt, line 4: expected the 15 whole numbers of AVA.txt"):
        read_ratings(path)


def test_koniq(tmp_path: Path) -> None:
    path = tmp_path / "koniq10k_scores_and_distributions.csv"
    path.write_text(
        '"image_name","c1","c2","c3","c4","c5","c_total","MOS","SD","MOS_zscore"\n'
        '"10004473376.jpg",0,0,25,73,7,105,3.82857142857143,0.527278447,77.38\n'
        '"10007357496.jpg",0,3,45,47,1,96,3.47916666666667,0.580003780,66.53\n'
        '"10007903636.jpg",1,0,20,73,2,97,3.78350515463918,0.578,70.0\n'
    )
    found = read_ratings(path)
    assert found.layout == "a histogram of votes for 1 to 5, columns 'c1' to 'c5'"
    assert found.counts is not None
    assert found.counts.tolist() == [105, 96, 96]
    np.testing.assert_allclose(found.values, [402 / 105, 334 / 96, 363 / 96])
    assert found.deviations is not None
    np.testing.assert_allclose(found.deviations[:2], [0.527278447, 0.580003780], atol=1e-6)
    assert [str(finding) for finding in found.findings] == [
        "1 row has another number of votes in 'c_total' than the histogram, which counts (10007903636.jpg)."
    ]
    by_mean = read_ratings(path, RatingsOptions(rating_column="MOS_zscore"))
    assert by_mean.kind == "mean"
    assert by_mean.values.tolist() == [77.38, 66.53, 70]


def test_a_mean_that_disagrees_is_told() -> None:
    found = read_ratings(pd.DataFrame({"image": ["a", "b"], "c1": [1, 0], "c2": [0, 0], "c3": [1, 1], "MOS": [2.01, 2.5]}))
    assert found.values.tolist() == [2, 3]
    assert [str(each) for each in found.findings] == ["1 row has another mean in 'MOS' than the histogram, which counts (b)."]


@pytest.mark.parametrize("first", [1, 2])
def test_score1_to_10_and_the_trap_of_tanet(first: int, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    names = ",".join(f"score{number}" for number in range(first, first + 10))
    path.write_text(f"image,{names}\n953619,0,1,5,17,38,36,15,6,5,1\n7,10,0,0,0,0,0,0,0,0,0\n")
    found = read_ratings(path)
    np.testing.assert_allclose(found.values, [699 / 124, 1])
    assert [str(finding) for finding in found.findings] == (
        []
        if first == 1
        else [
            "columns score2 to score11 are taken for 1 to 10 stars, as in the tables of TANet, whose numbers are those of the "
            "fields in AVA.txt."
        ]
    )


@pytest.mark.parametrize("kind", ["list", "lines"])
def test_nimas_json(kind: str, tmp_path: Path) -> None:
    rows = [
        {"image_id": "231893", "label": [2, 8, 19, 36, 76, 52, 23, 9, 3, 2]},
        {"image_id": "746672", "label": [1, 0, 0, 0, 0, 0, 0, 0, 0, 3]},
        {"image_id": "12", "label": [1, 2]},
        {"image_id": "13", "label": None},
        {"image_id": "14", "label": [None, 0, 0, 0, 0, 0, 0, 0, 0, 3]},
    ]
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(rows) if kind == "list" else "\n".join(map(json.dumps, rows)))
    found = read_ratings(path)
    assert found.layout == "a histogram of votes for 1 to 10, lists in 'label'"
    assert found.samples.to_pylist() == ["231893", "746672"]
    np.testing.assert_allclose(found.values, [1191 / 230, 31 / 4])
    assert [(each.what, each.count) for each in found.findings] == [("missing", 1), ("wrong-length", 1), ("text", 1)]


def test_shares_have_no_number_of_votes() -> None:
    found = read_ratings(pa.table({"image": ["a", "b"], "histogram": [[0.5, 0.0, 0.5], [0.25, 0.25, 0.5]]}))
    assert found.layout == "a histogram of shares of votes for 1 to 3, lists in 'histogram'"
    assert found.counts is None
    np.testing.assert_allclose(found.values, [2, 2.25])
    assert found.deviations is not None
    np.testing.assert_allclose(found.deviations, [1, np.sqrt(0.25 * 1.25**2 + 0.25 * 0.25**2 + 0.5 * 0.75**2)])


def test_damaged_histograms_are_counted() -> None:
    frame = pd.DataFrame(
        {
            "image": ["a", "b", "c", "d", "e", "a"],
            "1": ["1", "0", "-1", "x", "", "0"],
            "2": [1, 0, 4, 1, 1, 2],
            "3": [2, 0, 4, 1, 1, 1],
        }
    )
    found = read_ratings(frame)
    assert found.samples.to_pylist() == ["a"]
    assert found.histogram is not None
    assert found.histogram.tolist() == [[1, 3, 3]]
    assert found.values.tolist() == [16 / 7]
    assert [str(finding) for finding in found.findings] == [
        "1 row has a text for a number of votes; it is left out (d).",
        "1 row lacks a number of votes; it is left out (e).",
        "1 row has a negative number of votes; it is left out (c).",
        "1 row has a histogram that sums to zero; it is left out (b).",
        "1 picture is rated more than once, in 2 rows without a column of raters; they are added up (a).",
    ]


def test_embeddings_are_no_histogram() -> None:
    wide = {f"{number}": [0.1, 0.2] for number in range(64)}
    assert read_ratings(pd.DataFrame({"image": ["a", "b"], "rating": [1, 2], **wide})).kind == "mean"


@pytest.mark.parametrize("line", ["7", "7 8", " ".join(["7"] * 16), "9" * 5000])
def test_ava_with_other_than_15_numbers(line: str, tmp_path: Path) -> None:
    """One number alone was once taken for all fifteen."""
    path = tmp_path / "AVA.txt"
    path.write_text(f"{AVA}{line}\n")
    with pytest.raises(InputError, match=r"AVA.txt, line 4: expected the 15 whole numbers of AVA.txt"):
        read_ratings(path)


@pytest.mark.parametrize("votes", ["1e308", "1" + "0" * 40, "-1e308"])
def test_more_votes_than_there_are_people(votes: str, tmp_path: Path) -> None:
    """Such rows are left out, and said; their sums would be no numbers."""
    path = tmp_path / "r.csv"
    lines = [f"{i}.jpg,{1 + i % 3},2,{3 + i % 2}" for i in range(9)]
    path.write_text("\n".join(["image,score1,score2,score3", *lines, f"x.jpg,{votes},{votes},1"]) + "\n")
    found = read_ratings(path)
    assert found.samples.to_pylist() == [f"{i}.jpg" for i in range(9)]
    assert found.reliability is not None
    words = "negative" if votes.startswith("-") else "more votes than there are people"
    assert any(words in str(line) for line in found.findings)

"""Tables of pairs, compared with values typed in by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from beholder.errors import ChoiceNeededError, InputError
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.read import read_ratings

Row = tuple[str, str, bool, float]


def rows(ratings: Ratings) -> list[Row]:
    """(better, worse, whether a tie, votes) by name."""
    assert ratings.kind == "pairs"
    assert ratings.pairs is not None
    names, pairs = ratings.samples.to_pylist(), ratings.pairs
    columns = (pairs.better.tolist(), pairs.worse.tolist(), pairs.is_tie.tolist(), pairs.votes.tolist())
    return [(names[one], names[other], tie, votes) for one, other, tie, votes in zip(*columns, strict=True)]


def test_better_and_worse() -> None:
    found = read_ratings(pd.DataFrame({"better": ["a", "b", "a", "c"], "worse": ["b", "c", "b", "c"]}))
    assert found.layout == "pairs, columns 'better' and 'worse'"
    assert rows(found) == [("a", "b", False, 2), ("b", "c", False, 1)]
    assert found.values.tolist() == [1, 1 / 3, 0]
    assert [str(each) for each in found.findings] == ["1 row pairs a picture with itself; it is left out (c)."]
    assert found.scale == "which of two is better"


def test_targets_of_minus_one_to_one() -> None:
    frame = pd.DataFrame({"image_a": ["a", "a", "b", "d"], "image_b": ["b", "c", "c", "a"], "target": [1, -1, 0, None]})
    found = read_ratings(frame)
    assert found.layout == "pairs, columns 'image_a' and 'image_b', the better one in 'target'"
    assert rows(found) == [("a", "b", False, 1), ("c", "a", False, 1), ("b", "c", True, 1)]
    assert found.values.tolist() == [0.5, 0.25, 0.75]
    assert [str(each) for each in found.findings] == ["1 row has nothing in 'target'; it is left out (d)."]


def test_targets_of_degrees_are_votes() -> None:
    found = read_ratings(pd.DataFrame({"left": ["a", "a", "b"], "right": ["b", "c", "c"], "label": [2, -1, 0]}))
    assert rows(found) == [("a", "b", False, 2), ("c", "a", False, 1), ("b", "c", True, 1)]


def test_left_right_and_votes() -> None:
    found = read_ratings(pd.DataFrame({"LEFT": ["a", "b", "c"], "RIGHT": ["b", "c", "a"], "votes": [3, -2, 0]}))
    assert rows(found) == [("a", "b", False, 3), ("c", "b", False, 2)]
    assert [str(each) for each in found.findings] == [
        "1 row has 0 in 'votes'; it is left out (c).",
        "no column says which of the two is better, so the first one of each pair is taken for it.",
    ]


def test_votes_for_either_side() -> None:
    found = read_ratings(pd.DataFrame({"left": ["a", "b"], "right": ["b", "c"], "left_votes": [3, 0], "right_votes": [1, 2]}))
    assert rows(found) == [("a", "b", False, 3), ("b", "a", False, 1), ("c", "b", False, 2)]
    assert [str(each) for each in found.findings] == [
        "1 pair of 2 is decided both ways (1 of 6 votes go against the others); all votes count (a / b)."
    ]


@pytest.mark.parametrize(
    "choices",
    [("left", "right", "tie"), ("a.jpg", "c.jpg", "equal"), ("A", "B", "both"), ("image_1", "image_2", "neither")],
)
def test_choices_in_words(choices: tuple[str, str, str]) -> None:
    frame = pd.DataFrame(
        {
            "image_1": ["a.jpg", "b.jpg", "a.jpg", "a.jpg"],
            "image_2": ["b.jpg", "c.jpg", "c.jpg", "d.jpg"],
            "chosen_image": [*choices, "??"],
        }
    )
    frame["preference_strength"] = [1, 2, 3, 1]
    found = read_ratings(frame)
    assert rows(found) == [("a.jpg", "b.jpg", False, 1), ("c.jpg", "b.jpg", False, 2), ("a.jpg", "c.jpg", True, 3)]
    assert [str(each) for each in found.findings] == [
        "1 row has something in 'chosen_image' that is neither of the two pictures; it is left out ('??')."
    ]


def test_toloka() -> None:
    frame = pd.DataFrame(
        {
            "INPUT:image_a": ["u/1.jpg", "u/1.jpg"],
            "INPUT:image_b": ["u/2.jpg", "u/3.jpg"],
            "OUTPUT:result": ["image_b", "image_a"],
            "ASSIGNMENT:worker_id": ["x", "y"],
        }
    )
    assert rows(read_ratings(frame)) == [("u/2.jpg", "u/1.jpg", False, 1), ("u/1.jpg", "u/3.jpg", False, 1)]


def test_first_or_second_in_numbers() -> None:
    frame = pd.DataFrame({"left": ["a", "b"], "right": ["b", "c"], "winner": [1, 2]})
    assert rows(read_ratings(frame)) == [("a", "b", False, 1), ("c", "b", False, 1)]
    frame["winner"] = [1, 0]
    with pytest.raises(ChoiceNeededError) as asked:
        read_ratings(frame)
    assert str(asked.value) == (
        "the frame: 'winner' holds only 0 and 1; is 0 a tie, or is the second picture better then? Say --zero-means tie or "
        "--zero-means second"
    )
    assert rows(read_ratings(frame, RatingsOptions(zero_means="tie"))) == [("a", "b", False, 1), ("b", "c", True, 1)]
    assert rows(read_ratings(frame, RatingsOptions(zero_means="second"))) == [("a", "b", False, 1), ("c", "b", False, 1)]


def test_columns_that_are_named() -> None:
    frame = pd.DataFrame({"ja": ["a", "c"], "nein": ["b", "a"]})
    assert rows(read_ratings(frame, RatingsOptions(pair_columns="ja, nein"))) == [("a", "b", False, 1), ("c", "a", False, 1)]
    with pytest.raises(InputError, match="the frame has no column 'nope'; it has ja, nein"):
        read_ratings(frame, RatingsOptions(pair_columns="ja,nope"))
    with pytest.raises(
        InputError, match="has no columns of pairs such as better, worse or left, right; name them with --pair-columns"
    ):
        read_ratings(frame, RatingsOptions(ratings_kind="pairs"))


def test_vectors_name_no_pictures() -> None:
    frame = pd.DataFrame({"embedding_a": [[0.0, 1.0]], "embedding_b": [[1.0, 0.0]], "target": [1]})
    with pytest.raises(InputError, match="column 'embedding_a' holds vectors; pairs are joined to embeddings by name"):
        read_ratings(frame)


def test_contradictions_are_counted() -> None:
    frame = pd.DataFrame({"better": ["a"] * 5 + ["b"] * 2 + ["c"], "worse": ["b"] * 5 + ["a"] * 2 + ["a"]})
    found = read_ratings(frame)
    (finding,) = found.findings
    assert str(finding) == "1 pair of 2 is decided both ways (2 of 8 votes go against the others); all votes count (a / b)."
    assert rows(found) == [("a", "b", False, 5), ("b", "a", False, 2), ("c", "a", False, 1)]


def test_nothing_but_ties() -> None:
    with pytest.raises(InputError, match="all 2 pairs are ties, so there is nothing to learn from them"):
        read_ratings(pd.DataFrame({"left": ["a", "b"], "right": ["b", "c"], "winner": ["tie", "tie"]}))

"""Wrong input: one clear line each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from beholder.errors import ChoiceNeededError, InputError
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.read import read_ratings

LINES = {
    "two rating columns": (
        "image,rating,score\na,1,2\nb,2,3\n",
        "r.csv: which column holds the ratings? Name it with --rating-column: rating, score",
    ),
    "two columns of numbers": (
        "image,one,two\na,1,2\nb,2,3\n",
        "r.csv: which column holds the ratings? Name it with --rating-column: one, two",
    ),
    "no column of numbers": (
        "image,caption\na,x\nb,y\n",
        "r.csv: which column holds the ratings? Name it with --rating-column: caption",
    ),
    "decimal commas": (
        'image,rating\na,"3,5"\nb,"4,25"\n',
        "r.csv: column 'rating' has decimal commas ('3,5', '4,25'); write its numbers with a point",
    ),
    "numbers that are no ratings": (
        "image,rating\na,1e300\nb,3\n",
        "r.csv: the ratings go from 3 to 1e+300, which is no scale that people rate on; is it the right column?",
    ),
    "numbers that hardly differ": (
        "image,rating\na,1e-300\nb,3e-300\n",
        "r.csv: the ratings go from 1e-300 to 3e-300, which is no scale that people rate on; is it the right column?",
    ),
    "only names": ("image\na\nb\n", "r.csv has no column with ratings"),
    "no names": (
        "rating,other\n1,2\n2,3\n",
        "r.csv: which column names the pictures? Name it with --ratings-sample-column: other",
    ),
    "nothing but ratings": (
        "rating\n1\n2\n",
        "r.csv: which column names the pictures? Name it with --ratings-sample-column; it has none beside the ratings",
    ),
    "two texts": (
        "one,two,rating\na,x,1\nb,y,2\n",
        "r.csv: which column names the pictures? Name it with --ratings-sample-column: one, two",
    ),
    "all text": (
        "image,rating\na,great\nb,awful\nc,\n",
        "r.csv: column 'rating' holds text, not one number ('great', 'awful'); name the column with the ratings "
        "with --rating-column",
    ),
    "all the same": (
        "image,rating\na,5\nb,5\nc,5\n",
        "r.csv: all 3 ratings are 5, so there is nothing to learn from them; is it the right column?",
    ),
    "all missing": (
        "image,rating\na,\nb,nan\n",
        "r.csv has no rating that can be used: 2 rows have no rating in 'rating'; they are left out (a, b)",
    ),
    "histograms that sum to zero": (
        "image,score1,score2,score3\na,0,0,0\nb,0,0,0\n",
        "r.csv has no rating that can be used: 2 rows have histograms that sum to zero; they are left out (a, b)",
    ),
    "histograms all the same": (
        "image,score1,score2,score3\na,1,0,1\nb,2,0,2\n",
        "r.csv: all 2 mean ratings are 2, so there is nothing to learn from them; is it the right column?",
    ),
    "a header only": ("image,rating\n", "r.csv has no rows; a row for each rating was expected"),
    "two columns of one name": ("image,rating,rating\na,1,2\n", "r.csv has two columns named 'rating'; rename one"),
}


@pytest.mark.parametrize("case", LINES)
def test_tables(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, line = LINES[case]
    monkeypatch.chdir(tmp_path)
    Path("r.csv").write_text(text)
    with pytest.raises(InputError) as refused:
        read_ratings("r.csv")
    assert str(refused.value) == line


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.csv").write_bytes(b"")
    Path("notes.pdf").write_text("x")
    Path("list.json").write_text("[]")
    Path("text.json").write_text('"hello"')
    for name, line in (
        ("", "the name of the ratings is empty (an unset variable?)"),
        ("nowhere.csv", "nowhere.csv does not exist; name a file with ratings, or a folder of rated pictures"),
        ("empty.csv", "empty.csv is empty (0 bytes); ratings were expected"),
        (
            "notes.pdf",
            "notes.pdf: ratings are read from .csv, .tsv, .parquet, .json, .jsonl, .npy, .sqlite, AVA.txt, or a folder",
        ),
        ("list.json", "list.json holds no rows; a list of objects, or an object a line, was expected"),
        ("text.json", "text.json: line 1 is a JSON text; expected JSON lines"),
    ):
        with pytest.raises(InputError) as refused:
            read_ratings(name)
        assert str(refused.value).startswith(line)


def test_options() -> None:
    frame = pd.DataFrame({"image": ["a", "b"], "rating": [1, 2]})
    for options, line in (
        (RatingsOptions(rating_column="mos"), "the frame has no column 'mos'; it has image, rating"),
        (RatingsOptions(rater_column="who"), "the frame has no column 'who'; it has image, rating"),
        (RatingsOptions(lowest=5, highest=1), "--lowest-rating 5 is not below --highest-rating 1"),
        (RatingsOptions(pair_columns="image"), "--pair-columns image: give two columns, BETTER,WORSE"),
        (RatingsOptions(rejected_as=float("inf")), "--rejected-as inf: give a number, or nan to leave rejected pictures out"),
        (RatingsOptions(ratings_kind="histogram"), "the frame has no histogram of votes: columns such as score1 ... score10"),
        (RatingsOptions(lowest=10), "the frame has no rating that can be used: 2 rows have ratings below --lowest-rating 10"),
    ):
        with pytest.raises(InputError) as refused:
            read_ratings(frame, options)
        assert str(refused.value).startswith(line)
    with pytest.raises(ChoiceNeededError, match="which column says who rated\\? Name it with --rater-column: image, rating"):
        read_ratings(frame, RatingsOptions(ratings_kind="raters"))
    with pytest.raises(TypeError, match=r"read_ratings\(\) takes a path or a polars, pandas or Arrow table, not int"):
        read_ratings(3)


def test_raters_who_all_say_the_same_thing() -> None:
    frame = pd.DataFrame({"image": ["a", "b", "a", "b"], "rater": ["u", "u", "v", "v"], "rating": [1, 1, 2, 2]})
    with pytest.raises(InputError, match="no rater gave two different ratings, so --per-rater centre leaves nothing"):
        read_ratings(frame, RatingsOptions(per_rater="centre"))

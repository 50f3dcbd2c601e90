"""Marks that name no row of the set: said as a note, whether it is all of them or some; the rows are as without those."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from beholder.curate.options import SelectRules
from beholder.curate.select.selection import select_rows
from beholder.scoreset.score_set import open_scores

TABLE = pa.table({"sample": ["a", "b", "c", None], "aesthetic_score": pa.array([3, 4, 5, 6], pa.float32())})


@pytest.mark.parametrize(
    ("marks", "note"),
    [
        ({"x": "drop", "y": "keep"}, "none of its 2 samples was among the rows"),
        ({"a": "drop", "y": "keep", "z": "drop"}, "2 of its 3 samples were not among the rows"),
        ({"z": "drop"}, "its only sample was not among the rows"),
        ({"a": "drop", "#3": "keep", "z": "drop"}, "1 of its 3 samples was not among the rows"),
        ({"a": "drop", "#3": "keep"}, None),
        ({"a": "drop", "x": None}, None),
        ({}, None),
    ],
)
def test_marks_of_no_row_are_told(tmp_path: Path, marks: dict[str, str | None], note: str | None) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps({"sample": name, "mark": mark}) + "\n" for name, mark in marks.items()))
    with open_scores(TABLE) as scores, select_rows(scores, SelectRules(marks=str(path))) as selection:
        assert selection.notes == ([] if note is None else [f"--marks {path}: {note}"])
        assert selection.kept.tolist() == [marks.get("a") != "drop", True, True, True]


def test_a_mark_that_several_rows_have_is_one(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"sample": "a", "mark": "drop"}\n{"sample": "q", "mark": "drop"}\n')
    twice = pa.table({"sample": ["a", "a", "b"], "aesthetic_score": pa.array([3, 4, 5], pa.float32())})
    with open_scores(twice) as scores, select_rows(scores, SelectRules(marks=str(path))) as selection:
        assert selection.notes == [f"--marks {path}: 1 of its 2 samples was not among the rows"]
        assert selection.kept.tolist() == [False, False, True]


def test_marks_and_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"sample": "a", "mark": "keep"}\n')
    with open_scores(TABLE.slice(0, 0)) as scores, select_rows(scores, SelectRules(marks=str(path))) as selection:
        assert selection.notes == [f"--marks {path}: its only sample was not among the rows"]
        assert selection.num_kept == 0


def test_lists_and_groups_of_one_and_of_several(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("x\n")
    two.write_text("x\ny\n")
    rules = SelectRules(exclude=(str(one), str(two)), top=1, per="folder")
    with open_scores(TABLE) as scores, select_rows(scores, rules) as selection:
        assert selection.notes == [
            f"--exclude {one}: its only sample was not among the rows that were left",
            f"--exclude {two}: none of its 2 samples was among the rows that were left",
        ]
        assert [step.note for step in selection.funnel] == ["1 sample in the list", "2 samples in the list", "1 group"]
    table = TABLE.append_column("kind", pa.array(["x", "x", "y", None]))
    for column, balanced, notes in (("kind", False, "3 groups"), ("kind", True, "1 of each of 3 groups")):
        rules = SelectRules(balance=column) if balanced else SelectRules(top=1, per=column)
        with open_scores(table) as scores, select_rows(scores, rules) as selection:
            assert [step.note for step in selection.funnel] == [notes]
    with open_scores(TABLE) as scores, select_rows(scores, SelectRules(balance="folder")) as selection:
        assert [step.note for step in selection.funnel] == ["4 of each of 1 group"]


def test_rows_marked_keep_stay_through_every_later_rule_and_the_funnel_says_so(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"sample": "a", "mark": "keep"}\n')
    rules = SelectRules(marks=str(path), where=("sample <> 'a'",), min_score=4.5, quantile=0.5, top=1)
    with open_scores(TABLE) as scores, select_rows(scores, rules) as selection:
        assert selection.kept.tolist() == [True, False, False, False]
        assert selection.funnel[0].note == "1 marked keep, which no later rule drops"
    path.write_text('{"sample": "a", "mark": "drop"}\n')
    with open_scores(TABLE) as scores, select_rows(scores, SelectRules(marks=str(path))) as selection:
        assert selection.funnel[0].note == "none marked keep"

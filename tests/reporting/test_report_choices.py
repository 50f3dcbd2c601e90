"""Selections and groups of near-duplicates in a report: told as they were decided, or refused in words."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.errors import InputError
from beholder.models.catalog import DEFAULT_HEAD
from beholder.reporting.report import report
from oracles.report_page import MakeSet, page_of, shown, some_scores, table_rows
from oracles.score_records import V1_HEAD


def test_a_selection_is_shown(make_set: MakeSet, tmp_path: Path) -> None:
    scores = some_scores(300)
    path = make_set({"aesthetic_score": scores}, columns={"kind": ["a", "b", "c"] * 100})
    decisions, kept, rank = tmp_path / "decisions.parquet", *decided(scores)
    record = {
        "format": "beholder-selection",
        "rules": {"where": ["kind = 'a'"], "min_score": 5.0},
        "funnel": [
            {
                "rule": "where",
                "text": "where kind <> 'a'",
                "rows_in": 300,
                "dropped": 100,
                "left": 200,
                "threshold": None,
                "note": "",
            },
            {"rule": "min_score", "text": "score >= 5", "rows_in": 200, "dropped": 200 - kept.sum(), "left": kept.sum()},
        ],
    }
    reasons = np.where(kept, None, np.where(np.arange(300) % 3 == 0, "where", "min_score"))
    table = pa.table(
        {"sample": [f"photos/{i:05d}.jpg" for i in range(300)], "rank": rank, "kept": kept, "dropped_by": reasons.tolist()}
    )
    pq.write_table(table.replace_schema_metadata({b"beholder": json.dumps(record, default=int).encode()}), decisions)
    page = page_of(path, folder=tmp_path, decisions=decisions, no_thumbnails=True)
    rows = table_rows(page, "Rules")
    assert rows[1] == ["where kind <> 'a'", "300", "100", "200"]
    assert rows[2] == ["score >= 5", "200", str(200 - kept.sum()), str(kept.sum())]
    order = np.argsort(rank)
    names = table.column("sample").to_pylist()
    assert shown(page, "just kept") == [names[row] for row in order[::-1] if kept[row]][:12]
    for label, rule in (("just dropped", "min_score"), ("best that other rules dropped", "where")):
        assert shown(page, label) == [names[row] for row in order if reasons[row] == rule][:12]
        tags = page.root.one("ul", **{"aria-label": label}).all("span", class_="tag")
        assert {tag.text for tag in tags} == {rule.replace("_", " ")}
    assert len(page.root.all("g", class_="kept")) == 2  # the bars, and the legend's
    assert [row.inside[0].text for row in page.root.all("tr", class_="chosen")] == ["5"]


def decided(scores: Any) -> tuple[Any, Any]:
    kept = (np.arange(len(scores)) % 3 != 0) & (scores >= 5)
    rank = np.empty(len(scores), np.uint32)
    rank[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return kept, rank


def test_a_selection_of_other_scores_is_refused(make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set({"aesthetic_score": some_scores(3)})
    decisions = tmp_path / "decisions.parquet"
    for table, words in (
        ({"sample": ["x"] * 4, "kept": [True] * 4}, "4 rows, the scores have 3"),
        ({"sample": ["x", "y"], "kept": [True, False]}, "2 rows, the scores have 3"),
        ({"sample": ["x", "y"], "kept": [True, True]}, "lists rows that stay.*--decisions-out FILE"),
        ({"sample": ["x", "y", "z"], "kept": [True] * 3}, "of another score set"),
        ({"sample": ["x", "y", "z"]}, "no column 'kept'"),
    ):
        pq.write_table(pa.table(table), decisions)
        with pytest.raises(InputError, match=words):
            report(path, tmp_path / "x.html", decisions=decisions)
    with pytest.raises(InputError, match="does not exist"):
        report(path, tmp_path / "x.html", decisions=tmp_path / "none.parquet")
    (tmp_path / "kept.txt").write_text("x\ny\n")
    with pytest.raises(InputError, match=r"kept\.txt lists rows that stay"):
        report(path, tmp_path / "x.html", decisions=tmp_path / "kept.txt")


def test_near_duplicate_groups_are_shown(make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set({"aesthetic_score": np.linspace(4, 6, 30)})
    groups = tmp_path / "groups.parquet"
    members = [
        (7, 3, 1.0, True),
        (7, 4, 0.97, False),
        (2, 5, 1.0, True),
        (2, 6, 0.98, False),
        (2, 8, 0.99, False),
        (2, 99, 0.96, False),
    ]
    table = {
        "group": [group for group, *_ in members],
        "sample": [f"photos/{row:05d}.jpg" for _, row, *_ in members],
        "similarity": pa.array([similarity for _, _, similarity, _ in members], pa.float32()),
        "kept": [kept for *_, kept in members],
        "row": [row for _, row, *_ in members],
    }
    pq.write_table(pa.table(table), groups)
    page = page_of(path, folder=tmp_path, groups=groups, no_thumbnails=True)
    section = page.root.one("section", id="duplicates")
    assert "2 groups hold 6 pictures, of which 4 go" in section.text
    pictures = page.json("pictures")
    found = [
        [pictures[shot.attributes["data-picture"]]["name"][-9:-4] for shot in gallery.all("button")]
        for gallery in section.all("ul", class_="gallery")
    ]
    assert found == [["00005", "00008", "00006", "00099"], ["00003", "00004"]]
    assert [tag.text for tag in section.all("span", class_="tag")][:3] == ["stays", "goes, 0.990 alike", "goes, 0.980 alike"]
    pq.write_table(pa.table({"sample": ["a"]}), groups)
    with pytest.raises(InputError, match="no column 'group'"):
        report(path, tmp_path / "x.html", groups=groups)


def test_files_that_are_no_decisions_or_groups_are_refused_in_words(tmp_path: Path) -> None:
    scores, path = pa.table({"sample": ["a", "b"], "aesthetic_score": [1.0, 2.0]}), tmp_path / "d.parquet"
    for column, values in (
        ("kept", ["yes", "no"]),
        ("kept", [[1], [2]]),
        ("kept", pa.array([Decimal(1), Decimal(0)], pa.decimal128(3, 0))),
        ("kept", pa.array([Decimal(1), Decimal(0)], pa.decimal256(50, 0))),
        ("kept", np.array([1, 0], np.float16)),
        ("rank", ["a", "b"]),
        ("rank", pa.array([Decimal(1), Decimal(2)], pa.decimal128(3, 0))),
        ("dropped_by", [["a"], ["b"]]),
    ):
        pq.write_table(pa.table({"sample": ["a", "b"]} | {"kept": [True, False]} | {column: values}), path)
        with pytest.raises(
            InputError, match=f"column '{column}' is .*; --decisions takes what `beholder select --decisions-out`"
        ):
            report(scores, tmp_path / "r.html", decisions=path, no_thumbnails=True)
    pq.write_table(pa.table({"group": [[1], [1]], "sample": ["a", "b"], "kept": [True, False]}), path)
    assert page_of(scores, folder=tmp_path, groups=path, no_thumbnails=True).root.one("section", id="duplicates")


def test_a_selection_of_one_head_says_nothing_of_the_other(make_set: MakeSet, tmp_path: Path) -> None:
    first, second = some_scores(60, 1), some_scores(60, 2)
    path = make_set({"v2": first, "v1": second}, heads=[DEFAULT_HEAD, V1_HEAD])
    record = {"rules": {"min_score": 5.3, "score": "laion-v2"}, "funnel": []}
    table = pa.table({"sample": [f"photos/{i:05d}.jpg" for i in range(60)], "kept": first >= 5.3})
    pq.write_table(table.replace_schema_metadata({b"beholder": json.dumps(record).encode()}), tmp_path / "d.parquet")
    page = page_of(path, folder=tmp_path, decisions=tmp_path / "d.parquet", no_thumbnails=True)
    sections = page.root.all("section", class_="head-section")
    legends = [
        [item.text for item in section.all("li") if "the threshold" in item.text or "example" in item.text]
        for section in sections
    ]
    assert set(legends[0]) == {"the threshold"}
    assert set(legends[1]) == {"a threshold, as an example"}
    assert f"{int((first >= 5.3).sum())} of 60 rows stay" in page.root.one("section", id="selection").text


def test_members_of_groups_that_the_set_names_otherwise_are_told_without_scores(make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set({"aesthetic_score": [4.0, 5.0, 6.0]})
    table = {"group": [1, 1], "sample": ["photos/00002.jpg", "another.jpg"], "similarity": [1.0, 0.99], "kept": [True, False]}
    pq.write_table(pa.table(table | {"row": [2, 1]}), tmp_path / "groups.parquet")
    page = page_of(path, folder=tmp_path, groups=tmp_path / "groups.parquet", no_thumbnails=True)
    shots = page.root.one("section", id="duplicates").all("button")
    assert [shot.all("b")[0].text for shot in shots] == ["6.000", "no score"]

"""A report on some of the rows, and with the columns of other tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import beholder
from beholder.errors import InputError
from beholder.reporting.report import report
from oracles.report_page import MakeSet, page_of, shown, table_rows

NUM = 400


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(4)
    return pd.DataFrame(
        {
            "sample": [f"photos/{row:03d}.jpg" for row in range(NUM)],
            "score": rng.normal(5, 0.7, NUM).astype(np.float32),
            "width": rng.integers(100, 2000, NUM).astype(np.int32),
        }
    )


@pytest.fixture
def scores(frame: pd.DataFrame, make_set: MakeSet) -> Path:
    return make_set(
        {"aesthetic_score": frame.score.to_numpy()},
        frame["sample"].tolist(),
        columns={"width": pa.array(frame.width), "bytes": [b"\xff"] * NUM},
        rejects=[("gone.jpg", "missing", "gone"), ("bad.jpg", "corrupt", "bad")],
        record={"result": {"num_read": NUM + 2}},
    )


def test_a_page_about_the_rows_that_meet_conditions(scores: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    wanted = frame[(frame.width >= 900) & (frame.score < 6)]
    where = ["width >= 900", "aesthetic_score < 6"]
    page = page_of(str(scores), folder=tmp_path, at=5, where=where, no_thumbnails=True)
    ordered = wanted.sort_values("score", ascending=False)
    assert shown(page, "best") == ordered["sample"].head(18).tolist()
    below = ordered[ordered.score < 5]
    assert shown(page, "just dropped") == below["sample"].head(12).tolist()
    assert f"{len(wanted):,} of {NUM:,} rows" in page.root.one("header", class_="top").text
    assert [code.text for code in page.root.one("header", class_="top").all("code")] == where
    moments = dict(zip(*table_rows(page, "Moments"), strict=True))
    assert (moments["scored"], moments["mean"]) == (f"{len(wanted):,}", f"{wanted.score.astype(float).mean():.3f}")
    kept = {row[0]: row[2] for row in table_rows(page, "What a threshold keeps")[1:]}
    assert kept["5"] == f"{int((wanted.score >= 5).sum()):,}"
    assert "2 of 402 were read and not scored" in page.root.one("section", id="rejects").text  # of the whole set


def test_counts_in_the_summary(scores: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    summary = report(scores, tmp_path / "page.html", where="width < 500", no_thumbnails=True)
    num = int((frame.width < 500).sum())
    assert (summary.num_rows_that_meet, summary.num_rows, summary.num_scored) == (num, NUM, num)
    assert summary.num_scored_by_column == {"aesthetic_score": num}
    assert summary.num_rejected == 2


@pytest.mark.parametrize("is_table", [False, True])
def test_joined_columns_are_conditions_and_facts(scores: Path, frame: pd.DataFrame, tmp_path: Path, is_table: bool) -> None:
    meta = tmp_path / "meta.csv"
    meta.write_text("sample,lang,width\n" + "".join(f"{name},{'de' if i % 3 else 'en'},{i}\n" for i, name in
                    enumerate(frame["sample"]) if i < 300))  # fmt: skip
    source: Any = pa.table({"sample": frame["sample"], "aesthetic_score": frame.score, "width": frame.width})
    page = page_of(
        source if is_table else str(scores), folder=tmp_path, join=meta, where="lang = 'en' and meta_width >= 30",
        columns="lang", no_thumbnails=True,
    )  # fmt: skip
    wanted = frame.iloc[[i for i in range(30, 300) if i % 3 == 0]]
    assert set(shown(page, "best")) == set(wanted.sort_values("score", ascending=False)["sample"].head(18))
    facts = {picture["name"]: dict(picture["facts"]) for picture in page.json("pictures").values()}
    assert facts["photos/030.jpg"]["lang"] == "en"
    assert facts["photos/030.jpg"]["meta_width"] == "30"
    notes = " ".join(note.text for note in page.root.all("p", class_="warn"))
    assert f"{meta} lacks 100 of 400 rows" in notes
    assert "joined column 'width' is called 'meta_width' here" in notes


def test_rows_without_a_name_keep_the_number_they_have_in_the_set(make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set({"aesthetic_score": [4.0, 5.0, 6.0, 7.0]}, ["a", None, "c", None])  # type: ignore[list-item]
    page = page_of(str(path), folder=tmp_path, where="aesthetic_score > 5.5", no_thumbnails=True)
    assert shown(page, "best") == ["#3", "c"]


def test_a_selection_and_groups_beside_conditions(scores: Path, frame: pd.DataFrame, tmp_path: Path) -> None:
    decisions, groups = tmp_path / "decisions.parquet", tmp_path / "groups.parquet"
    with beholder.select(scores, min_score=5, top=100) as selection:
        pq.write_table(selection.decisions(), decisions)
    names = frame["sample"].tolist()
    wide = [name for name, width in zip(names, frame.width, strict=True) if width >= 900]
    narrow = [name for name, width in zip(names, frame.width, strict=True) if width < 900]
    pq.write_table(
        pa.table(
            {
                "group": [0, 0, 1, 1],
                "sample": [wide[0], narrow[0], narrow[1], narrow[2]],
                "kept": [True, False, True, False],
            }
        ),
        groups,
    )
    page = page_of(str(scores), folder=tmp_path, selection=decisions, groups=groups, where="width >= 900", no_thumbnails=True)
    kept = frame.sort_values(["score", "sample"], ascending=[False, True]).query("score >= 5").head(100)
    mine = kept[kept.width >= 900]
    section = page.root.one("section", id="selection").text
    assert f"{len(mine)} of {len(wide)} rows stay" in section
    dropped = {row[0]: row[1] for row in table_rows(page, "Dropped rows by the first rule")[1:]}
    wide_rows = frame[frame.width >= 900]
    below = int((wide_rows.score < 5).sum())
    assert dropped == {"min score": str(below), "top": str(len(wide) - len(mine) - below)}
    assert shown(page, "just kept") == mine["sample"].tolist()[::-1][:12]
    duplicates = page.root.one("section", id="duplicates")
    assert "1 groups hold 2 pictures" in duplicates.text or "1 group holds 2 pictures" in duplicates.text


def test_no_row_meets_the_conditions(scores: Path, tmp_path: Path) -> None:
    page = page_of(str(scores), folder=tmp_path, where="width > 99999")
    assert "0 of 400 rows" in page.root.one("header", class_="top").text
    assert "There are no scores" in page.root.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "height > 3"}, "--where 'height > 3'"),
        ({"where": ""}, "--where is empty"),
        ({"where": "CAST(sample AS INTEGER) > 3"}, "--where 'CAST"),
        ({"join": "nowhere.csv"}, "nowhere.csv does not exist"),
    ],
)
def test_what_cannot_be_asked_is_said_in_one_line(scores: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        report(scores, tmp_path / "page.html", no_thumbnails=True, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "--memory" not in str(raised.value)
    assert not (tmp_path / "page.html").exists()

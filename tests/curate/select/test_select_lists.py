"""Lists that go in and out: exclude lists, marks, joined metadata, and what is written, read back by other libraries."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.curate.options import OutputOptions, SelectRules
from beholder.curate.select.selection import check_outputs, select, select_rows, write_lists
from beholder.errors import InputError, OutputError
from beholder.scoreset.score_set import open_scores

HEADS = [{"name": "sac+logos+ava1-l14-linearMSE", "sha256": "x"}, {"name": "sa_0_4_vit_l_14_linear"}]


@pytest.fixture
def table() -> pa.Table:
    return pa.table({
        "sample": ["b.jpg", 'a"q,.jpg', "ü.jpg", "c\nd.jpg", "a;b.jpg"],
        "aesthetic_score": pa.array([5, 4.7, 5, None, 1e-7], pa.float32()),
        "caption": ["x", None, 'say "hi", ü', "", "1"],
        "tags": pa.array([["a"], [], None, ["b", "ü"], ["c"]]),
        "ratio": pa.array([1.0, None, float("nan"), 2.5, 1e20]),
        "picture": pa.array([b"1", b"2", b"3", b"4", b"5"]),
        "rank": [9, 8, 7, 6, 5],
    })  # fmt: skip


def write(table: pa.Table, out: Path, **rules: Any) -> None:
    with open_scores(table) as scores, select_rows(scores, SelectRules(**rules)) as selection:
        write_lists(selection, OutputOptions(out=str(out), overwrite=True))


def test_csv_is_what_vdc_reads(table: pa.Table, tmp_path: Path) -> None:
    write(table, tmp_path / "k.csv", min_score=0)
    text = (tmp_path / "k.csv").read_bytes().decode()
    assert text.splitlines()[0] == "sample,aesthetic_score,rank,kept,dropped_by,caption,tags,ratio,source_rank"
    rows = list(csv.DictReader((tmp_path / "k.csv").open(newline="", encoding="utf-8")))
    assert [row["sample"] for row in rows] == ["b.jpg", "ü.jpg", 'a"q,.jpg', "a;b.jpg"]
    assert [row["aesthetic_score"] for row in rows] == ["5.0", "5.0", "4.7", "1e-7"]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["kept"] for row in rows} == {"true"}
    assert {row["dropped_by"] for row in rows} == {""}
    assert [row["ratio"] for row in rows] == ["1.0", "", "", "1e+20"]
    assert rows[1]["caption"] == 'say "hi", ü'
    assert json.loads(rows[3]["tags"]) == ["c"]
    frame = pl.read_csv(tmp_path / "k.csv")
    assert frame["aesthetic_score"].dtype == pl.Float64
    assert "picture" not in text.splitlines()[0]


def test_parquet_says_where_it_is_from_and_can_be_selected_from_again(table: pa.Table, tmp_path: Path) -> None:
    write(table, tmp_path / "k.parquet", top=3)
    record = json.loads(pq.read_schema(tmp_path / "k.parquet").metadata[b"beholder"])
    assert record["format"] == "beholder-selection"
    assert record["rules"] == {"top": 3}
    third = float(np.float32(4.7))
    assert record["funnel"][-1] == {
        "rule": "top", "text": "top 3", "rows_in": 4, "dropped": 1, "left": 3, "threshold": third, "note": "",
        "lowest_left": third,
    }  # fmt: skip
    with select(str(tmp_path / "k.parquet"), top=1) as again:
        found = again.kept_rows()
    assert found.column("sample").to_pylist() == ["b.jpg"]
    assert found.column_names.count("rank") == 1
    assert "source_rank" in found.column_names
    assert duckdb.sql(f"select count(*) from '{tmp_path / 'k.parquet'}'").fetchall() == [(3,)]


def test_json_lines_and_text(table: pa.Table, tmp_path: Path) -> None:
    write(table, tmp_path / "k.jsonl", min_score=0)
    lines = [json.loads(line) for line in (tmp_path / "k.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["sample"] for line in lines] == ["b.jpg", "ü.jpg", 'a"q,.jpg', "a;b.jpg"]
    assert lines[1]["ratio"] is None
    assert lines[0]["tags"] == ["a"]
    assert lines[0]["source_rank"] == 9
    write(table, tmp_path / "k.txt", min_score=0)
    assert (tmp_path / "k.txt").read_bytes().decode() == 'b.jpg\nü.jpg\na"q,.jpg\na;b.jpg\n'
    marks = tmp_path / "m.jsonl"
    marks.write_text(json.dumps({"sample": "c\nd.jpg", "mark": "keep"}) + "\n")
    with pytest.raises(OutputError, match="line break"):
        write(table, tmp_path / "new.txt", marks=str(marks))
    assert not (tmp_path / "new.txt").exists()


def test_decisions_and_dropped(table: pa.Table, tmp_path: Path) -> None:
    options = OutputOptions(decisions_out=str(tmp_path / "d.parquet"), dropped_out=str(tmp_path / "x.csv"))
    with open_scores(table) as scores, select_rows(scores, SelectRules(min_score=4.7, max_score=4.9)) as selection:
        assert write_lists(selection, options) == [options.decisions_out, options.dropped_out]
    frame = pd.read_parquet(tmp_path / "d.parquet")
    assert frame["sample"].tolist() == table.column("sample").to_pylist()
    assert frame["dropped_by"].fillna("").tolist() == ["max_score", "", "max_score", "no_score", "min_score"]
    assert frame["kept"].tolist() == [False, True, False, False, False]
    assert frame["rank"].fillna(0).tolist() == [1, 3, 2, 0, 4]
    rows = list(csv.reader((tmp_path / "x.csv").open(newline="", encoding="utf-8")))
    assert rows[0] == ["sample", "aesthetic_score", "rank", "kept", "dropped_by"]
    assert [(row[0], row[1], row[4]) for row in rows[1:]] == [
        ("b.jpg", "5.0", "max_score"),
        ("ü.jpg", "5.0", "max_score"),
        ("c\nd.jpg", "", "no_score"),
        ("a;b.jpg", "1e-7", "min_score"),
    ]  # fmt: skip


def test_nothing_stays(table: pa.Table, tmp_path: Path) -> None:
    for name in ("k.csv", "k.parquet", "k.jsonl", "k.txt"):
        write(table, tmp_path / name, min_score=100)
    assert pq.read_table(tmp_path / "k.parquet").num_rows == 0
    assert (tmp_path / "k.csv").read_text().count("\n") == 1
    assert (tmp_path / "k.txt").read_bytes() == (tmp_path / "k.jsonl").read_bytes() == b""


def test_outputs_are_checked_before_any_work(tmp_path: Path) -> None:
    here = tmp_path / "scores.parquet"
    here.write_bytes(b"x")
    cases = [
        (OutputOptions(out=str(tmp_path / "k.zip")), ".txt, .csv, .parquet, .jsonl"),
        (OutputOptions(decisions_out=str(tmp_path / "k.txt")), "a list is written as"),
        (OutputOptions(out=str(here)), "is a file of the scores"),
        (OutputOptions(out=str(here), overwrite=True), "is a file of the scores"),
        (OutputOptions(out="a.csv", dropped_out="a.csv"), "both name a.csv"),
    ]
    for options, text in cases:
        with pytest.raises((InputError, OutputError), match=text):
            check_outputs(options, str(here))
    other = tmp_path / "other.csv"
    other.write_text("x")
    with pytest.raises(OutputError, match="--overwrite"):
        check_outputs(OutputOptions(out=str(other)), str(here))
    check_outputs(OutputOptions(out=str(other), overwrite=True), str(here))


def test_exclude_lists_of_every_kind(table: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("\ufeffb.jpg\r\n\nü.jpg\nnowhere\nb.jpg".encode())
    (tmp_path / "x.csv").write_text('n,key\n1,"a""q,.jpg"\n2,a;b.jpg\n', encoding="utf-8")
    pq.write_table(pa.table({"sample": ["c\nd.jpg", None]}), tmp_path / "x.parquet")
    with select(table, exclude=str(tmp_path / "x.txt")) as found:
        assert found.kept.tolist() == [False, True, False, False, True]
        assert "3 samples" in found.funnel[1].note
    with select(table, exclude=[tmp_path / "x.csv", tmp_path / "x.parquet"], min_score=-1) as found:
        assert [step.dropped for step in found.funnel] == [1, 2, 0, 0]
    for name, text in (("no.txt", "does not exist"), ("x.json", "a list of samples is")):
        (tmp_path / "x.json").write_text("{}")
        with pytest.raises(InputError, match=text):
            select(table, exclude=str(tmp_path / name))
    (tmp_path / "n.csv").write_text("number\n1\n")
    with pytest.raises(InputError, match="names rows"):
        select(table, exclude=str(tmp_path / "n.csv"))


def test_marks(table: pa.Table, tmp_path: Path) -> None:
    marks = tmp_path / "m.jsonl"
    marks.write_text('{"sample": "a;b.jpg", "mark": "keep"}\n{"sample": "b.jpg", "mark": "drop"}\n{"sample": "ü.jp', "utf-8")
    with select(table, marks=str(marks), top=2) as found:
        assert found.kept_rows().column("sample").to_pylist() == ["ü.jpg", "a;b.jpg"]
    marks.write_text('{"sample": "a"}\n{"sample": "b", "mark": "drop"}\n')
    with pytest.raises(InputError, match="line 1"):
        select(table, marks=marks)


def test_joined_metadata(table: pa.Table, tmp_path: Path) -> None:
    meta = tmp_path / "meta.parquet"
    pq.write_table(
        pa.table({
            "key": ["ü.jpg", "b.jpg", "unknown", "a;b.jpg"], "caption": ["C", "B", "U", "A"], "size": [30, 20, 1, 10],
            "class": ["x", "y", "x", None],
        }),
        meta,
    )  # fmt: skip
    more = tmp_path / "more.csv"
    more.write_text("sample,note\nb.jpg,hello\n")
    with select(table, join=[meta, more], where="size > 5", per="class", top=1) as found:
        rows = found.kept_rows().to_pylist()
        assert [(row["sample"], row["meta_caption"], row["note"]) for row in rows] == [
            ("b.jpg", "B", "hello"), ("ü.jpg", "C", None), ("a;b.jpg", "A", None),
        ]  # fmt: skip
        assert rows[0]["caption"] == "x"
        assert "meta_caption" in found.selection.notes[0]
    with select(table, join=meta, budget=25, size_column="size") as found:
        assert found.kept_rows().column("sample").to_pylist() == ["b.jpg"]
    pq.write_table(pa.table({"sample": ["b.jpg", "b.jpg"], "x": [1, 2]}), meta)
    with pytest.raises(InputError, match=r"'b.jpg' twice"):
        select(table, join=meta, top=1)
    pq.write_table(pa.table({"sample": ["elsewhere"], "x": [1]}), meta)
    with pytest.raises(InputError, match="none of the scores' samples"):
        select(table, join=meta, top=1)


@pytest.mark.slow
def test_joined_metadata_of_many_rows_stays_in_order(tmp_path: Path) -> None:
    num = 300_000
    order = np.random.default_rng(0).permutation(num)
    scores = pa.table({"sample": [f"{i}" for i in range(num)], "aesthetic_score": np.arange(num, dtype=np.float32)})
    pq.write_table(pa.table({"sample": [f"{i}" for i in order], "half": order // 2}), tmp_path / "m.parquet")
    pq.write_table(scores, tmp_path / "s.parquet", row_group_size=50_000)
    with select(tmp_path / "s.parquet", join=tmp_path / "m.parquet", top=1, per="half", where="half % 3 = 0") as found:
        rows = found.kept_rows()
        assert rows.column("half").to_pylist() == sorted({i // 2 for i in range(num) if i // 2 % 3 == 0}, reverse=True)
        assert rows.column("sample").to_pylist() == [str(2 * half + 1) for half in rows.column("half").to_pylist()]


def test_several_heads() -> None:
    table = pa.table({
        "sample": ["a", "b", "c"],
        HEADS[0]["name"]: pa.array([3, 2, 1], pa.float32()),
        HEADS[1]["name"]: pa.array([1, None, 9], pa.float32()),
        "laion": [1, 2, 3],
    })  # fmt: skip
    record = {"score_columns": [head["name"] for head in HEADS], "heads": HEADS}
    table = table.replace_schema_metadata({b"beholder": json.dumps(record).encode()})
    with pytest.raises(InputError, match="several scores"):
        select(table, top=1)
    with select(table, top=1, score="laion-v1") as found:
        rows = found.kept_rows()
        assert rows.column_names[:3] == ["sample", HEADS[0]["name"], HEADS[1]["name"]]
        assert rows.column("sample").to_pylist() == ["c"]
    with select(table, top=2, rank_by="0.9*laion-v2 + .1 * `sa_0_4_vit_l_14_linear`") as found:
        assert found.kept_rows().column("sample").to_pylist() == ["a", "c"]
        assert found.rank.tolist() == [1, 0, 2]
    with pytest.raises(InputError, match="--min-score goes by one score"):
        select(table, min_score=1, rank_by="laion-v2")
    with select(table, min_score=2.5, score="laion-v2", rank_by="laion-v1 - laion") as found:
        assert found.kept_rows().column("sample").to_pylist() == ["a"]
    for text, why in (
        ("laion-v3 + nothing", "'v3'|no column"), ("1 + 2", "names no column"), ("laion-v1 +", "breaks off"),
        ("(laion-v1", "not closed"), ("laion-v1)", "not expected"), ("laion-v1 & 2", "not expected"), ("$", "neither"),
        ("(" * 300 + "laion-v1" + ")" * 300, "too many"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=why):
            select(table, top=1, rank_by=text)
    with pytest.raises(InputError, match="no such score"):
        select(table, top=1, score="nobody")


def test_frames_of_every_kind(table: pa.Table, tmp_path: Path) -> None:
    plain = table.drop_columns("picture")
    pq.write_table(plain, tmp_path / "s.parquet")
    expected = ["b.jpg", "ü.jpg"]
    with select(pl.from_arrow(plain), top=2) as found:
        kept = found.kept_rows()
        assert isinstance(kept, pl.DataFrame)
        assert kept["sample"].to_list() == expected
        assert found.decisions()["dropped_by"].to_list() == [None, "top", None, "no_score", "top"]
    with select(pl.from_arrow(plain).lazy(), top=2) as found:
        assert found.kept_rows()["sample"].to_list() == expected
    frame = plain.to_pandas().drop(columns=["tags"])
    frame.index = [5, 5, 5, 1, 0]
    with select(frame, top_share=0.5) as found:
        kept = found.kept_rows()
        assert isinstance(kept, pd.DataFrame)
        assert kept["sample"].tolist() == expected
        assert kept["rank"].tolist() == [1, 2]
    for source in (plain, tmp_path / "s.parquet", str(tmp_path / "s.parquet"), plain.to_batches()[0]):
        with select(source, top=2, where="sample <> ''") as found:
            assert isinstance(found.kept_rows(), pa.Table)
            assert found.kept_rows().column("sample").to_pylist() == expected
            assert "2 of 5 rows" in repr(found)
    with pytest.raises(TypeError, match="no rule 'topp'"):
        select(plain, topp=2)
    with pytest.raises(TypeError, match="not dict"):
        select({}, top=2)
    with pytest.raises(InputError, match="no rule says"):
        select(plain)


def test_rows_without_a_name_and_numbers_as_names() -> None:
    table = pa.table({"sample": [None, "b", None], "aesthetic_score": pa.array([1, 2, 3], pa.float32())})
    with select(table, top=2) as found:
        assert found.kept_rows().column("sample").to_pylist() == ["#2", "b"]
    table = pa.table({"key": [10, 9, None], "aesthetic_score": pa.array([1, 1, 1], pa.float32())})
    with select(table, top=3) as found:
        assert found.kept_rows().column("sample").to_pylist() == ["#2", "10", "9"]


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"where": "widht > 1"}, "widht"),
        ({"where": "1; DROP TABLE x"}, "';'"),
        ({"where": "sample = 'a' -- x"}, "'--'"),
        ({"where": ""}, "empty"),
        ({"where": "(1=1))"}, "brackets"),
        ({"where": "1=1) FROM scores, (SELECT 1"}, "brackets"),
        ({"where": "sum(rank) > 1"}, "(?i)aggregate|WHERE clause"),
        ({"where": "CAST(sample AS INTEGER) > 1"}, "(?i)convert|cast"),
        ({"top": 0}, "at least 1"),
        ({"top_share": "110%"}, "at most 100%"),
        ({"top_share": 10}, "did you mean 10%"),
        ({"top_share": "x"}, "no share"),
        ({"quantile": 90}, "between 0 and 1"),
        ({"per": "caption"}, "how many of each"),
        ({"per": "nobody", "top": 1}, "no such column"),
        ({"per": "tags", "top": 1}, "cannot be put into groups"),
        ({"balance": "caption", "per": "caption", "top": 1}, "exclude each other"),
        ({"budget": 1}, "num_bytes"),
        ({"min_score": 5, "max_score": 4}, "nothing could stay"),
        ({"sample": 1, "temperature": 0}, "above 0"),
        ({"per": "aspect", "top": 1}, "width and height"),
        ({"dedup": 0.9}, "--keep-embeddings"),
        ({"dedup": 95}, "0.95"),
        ({"per": "cluster", "top": 1}, "--clusters K"),
        ({"top": 1, "clusters": 3}, "which nothing uses"),
        ({"memory": 10, "top": 1}, "256MB"),
        ({"top": 1, "seed": 3}, "--draw"),
        ({"min_score": float("nan")}, "no number"),
        ({"budget": 1, "size_column": "caption"}, "not numbers"),
        ({"top": 1, "join": "nowhere.parquet"}, "does not exist"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(table: pa.Table, rules: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        select(table, **rules)
    assert "\n" not in str(caught.value)


def test_conditions_are_sql_over_any_column(table: pa.Table) -> None:
    for text, expected in (
        ("sample LIKE '%;%' OR sample = 'ü.jpg'", ["ü.jpg", "a;b.jpg"]),
        ("list_contains(tags, 'a')", ["b.jpg"]),
        ("caption IS NULL", ['a"q,.jpg']),
        ("rank > (SELECT avg(rank) FROM scores)", ["b.jpg", 'a"q,.jpg']),
        ("beholder_row < 2 AND aesthetic_score >= 4.7", ["b.jpg", 'a"q,.jpg']),
        ("true", ["b.jpg", "ü.jpg", 'a"q,.jpg', "a;b.jpg"]),
    ):
        with select(table, where=text) as found:
            assert found.kept_rows().column("sample").to_pylist() == expected, text

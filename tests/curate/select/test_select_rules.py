"""Every rule, alone and in random company, against the slow oracle: ties, NULL, NaN, empty groups, no rows, marks."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.curate.select.row_mask import RULES
from beholder.curate.select.selection import select
from beholder.errors import InputError
from oracles.selection import Found, Oracle, percentiles

MANY = settings(max_examples=20)
SOME = settings(max_examples=12)

NAMES = st.one_of(
    st.sampled_from(
        ["a", "b", "a/b", "a/b.jpg", "ä/ö.jpg", "é", "z", "x.tar/k1", "x.tar/k2", "日本/図", "p.parquet:7", "a\0", "s3://u/v/w"]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20),
)
SCORES = st.one_of(
    st.sampled_from([5.0, 4.5, 4.7, 5.25, 6.0, 0.0, -0.0, -1.5]),
    st.floats(-10, 10, width=32),
    st.sampled_from([None, math.nan, math.inf, -math.inf]),
)
GROUPS = st.sampled_from(["a", "b", "ü", None, "only"])
SIZES = st.sampled_from([None, -1, 0, 1, 2, 10, 100, 1000, 1 << 50])
PIXELS = st.sampled_from([None, 0, 100, 200, 300, 512, 640, 1024])


@st.composite
def tables(draw: st.DrawFn, scores: st.SearchStrategy[Any] = SCORES, max_size: int = 25) -> pa.Table:
    num = draw(st.integers(0, max_size))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=num, max_size=num))

    return pa.table({
        "sample": pa.array(column(NAMES), pa.string()),
        "aesthetic_score": pa.array(column(scores), pa.float32()),
        "other": pa.array(column(scores), pa.float32()),
        "kind": pa.array(column(GROUPS), pa.string()),
        "number": pa.array(column(st.sampled_from([None, 1, 2, 3])), pa.int32()),
        "width": pa.array(column(PIXELS), pa.int32()),
        "height": pa.array(column(PIXELS), pa.int32()),
        "num_bytes": pa.array(column(SIZES), pa.int64()),
    })  # fmt: skip


def oracle_of(table: pa.Table, rank_by: Any = None) -> Oracle:
    frame = pd.DataFrame({name: table.column(name).to_pylist() for name in table.column_names})
    for name in ("aesthetic_score", "other"):
        frame[name] = np.array([np.nan if v is None else v for v in table.column(name).to_pylist()], np.float32)
    for name in ("width", "height", "num_bytes", "number"):
        frame[name] = pd.array(table.column(name).to_pylist(), dtype="Int64")
    ranking = frame["aesthetic_score"] if rank_by is None else rank_by(frame)
    return Oracle(frame, "aesthetic_score", ranking)


def judged(oracle: Oracle, rules: dict[str, Any], extra: dict[str, Any]) -> Found:
    """Apply the rules in the order of the contract."""
    oracle.keep = {row for row, name in enumerate(oracle.frame["sample"]) if name in extra.get("keep", ())}
    oracle.no_score()
    if "excluded" in extra:
        oracle.exclude(extra["excluded"])
    if "drop" in extra:
        oracle.marked(extra["drop"])
    if "where" in rules:
        oracle.where(extra["where"](oracle.frame))
    for word in ("min_score", "max_score", "quantile"):
        if word in rules:
            getattr(oracle, word)(rules[word])
    per = rules.get("per")
    if "balance" in rules:
        oracle.balance(rules["balance"], rules.get("top"))
    oracle.best(None if "balance" in rules else rules.get("top"), rules.get("top_share"), per)
    if "sample" in rules:
        oracle.sample(rules["sample"], rules.get("seed", 0), rules.get("temperature", 1.0), per)
    if "budget" in rules:
        oracle.budget(rules["budget"])
    return oracle.found()


def compare(source: Any, found: Found, rules: dict[str, Any]) -> None:
    column = None if "rank_by" in rules else "aesthetic_score"
    with select(source, score_column=column, repeated="all", **rules) as selection:  # names repeat; see test_repeated
        assert [RULES[number] for number in selection.dropped_by] == found.words
        assert [(s.word, s.rows_in, s.dropped) for s in selection.funnel] == found.steps
        for step, lowest in zip(selection.funnel, found.lowest, strict=True):
            assert step.lowest == (None if lowest is None else pytest.approx(lowest, rel=1e-12))
            assert step.left == step.rows_in - step.dropped
        assert selection.num_kept == len(found.order) == int(selection.kept.sum())
        kept = selection.kept_rows()
        assert selection.selection.order().tolist() == found.order
        assert [rank or 0 for rank in kept.column("rank").to_pylist()] == [found.ranks[row] for row in found.order]
        assert selection.rank.tolist() == found.ranks
        decided = selection.decisions()
        assert [word or "" for word in decided.column("dropped_by").to_pylist()] == found.words
        if isinstance(source, pa.Table):
            assert decided.column("sample").to_pylist() == source.column("sample").to_pylist()
            assert kept.column("sample").to_pylist() == [source.column("sample")[row].as_py() for row in found.order]
            for name in ("kind", "num_bytes"):
                assert kept.column(name).to_pylist() == [source.column(name)[row].as_py() for row in found.order]


def check(table: pa.Table, rules: dict[str, Any], **extra: Any) -> None:
    compare(table, judged(oracle_of(table), rules, extra), rules)


@MANY
@given(tables(), st.sampled_from([5.0, 4.7, -0.0, 0.0, 7, -100, math.inf, -math.inf]))
def test_min_and_max(table: pa.Table, edge: float) -> None:
    check(table, {"min_score": edge})
    check(table, {"max_score": edge})


@MANY
@given(tables(), st.one_of(st.sampled_from([0.0, 1.0, 0.5, 0.25, 0.9]), st.floats(0, 1)))
def test_quantile(table: pa.Table, quantile: float) -> None:
    check(table, {"quantile": quantile})


@MANY
@given(tables(), st.integers(1, 30), st.sampled_from([None, "kind", "number", "folder", "source", "aspect", "score_bucket"]))
def test_top(table: pa.Table, number: int, per: str | None) -> None:
    check(table, {"top": number} | ({"per": per} if per else {}))


@MANY
@given(tables(), st.sampled_from(["10%", "0.1", "100%", "33.3%", "1e-9", "50%"]), st.sampled_from([None, "kind", "folder"]))
def test_top_share(table: pa.Table, share: str, per: str | None) -> None:
    check(table, {"top_share": share} | ({"per": per} if per else {}))


@MANY
@given(tables(), st.sampled_from(["kind", "number", "score_bucket", "source"]), st.one_of(st.none(), st.integers(1, 30)))
def test_balance(table: pa.Table, column: str, number: int | None) -> None:
    check(table, {"balance": column} | ({"top": number} if number else {}))


@MANY
@given(
    tables(), st.integers(1, 20), st.sampled_from([0, 1, -5, 2**70]), st.sampled_from([1.0, 0.1, math.inf, 100]),
    st.sampled_from([None, "kind"]),
)  # fmt: skip
def test_sample(table: pa.Table, number: int, seed: int, temperature: float, per: str | None) -> None:
    rules = {"sample": number, "seed": seed, "temperature": temperature}
    check(table, rules | ({"per": per} if per else {}))


@MANY
@given(tables(), st.sampled_from([0, 1, 10, 111, 1000, 1 << 40, 1 << 62]))
def test_budget(table: pa.Table, budget: int) -> None:
    check(table, {"budget": budget})


def test_a_budget_of_exabytes_is_kept_by_sizes_whose_sum_no_machine_number_holds() -> None:
    names = [f"{number:02d}" for number in range(80)]
    columns = {"sample": names, "aesthetic_score": pa.array([5.0] * 80, pa.float32()), "num_bytes": [2**58] * 80}
    with select(pa.table(columns), budget=2**60 - 1) as found:
        assert np.flatnonzero(found.kept).tolist() == [0, 1, 2]


@SOME
@given(tables())
def test_where_takes_null_for_false(table: pa.Table) -> None:
    def wide(frame: pd.DataFrame) -> list[bool]:
        return [not pd.isna(w) and not pd.isna(h) and w >= h for w, h in zip(frame["width"], frame["height"], strict=True)]

    check(table, {"where": "width >= height"}, where=wide)
    check(
        table,
        {"where": "kind NOT IN ('a', 'ü')"},
        where=lambda frame: [not pd.isna(v) and v not in "aü" for v in frame["kind"]],
    )


def files(folder: str, excluded: set[str], keep: set[str], drop: set[str]) -> dict[str, Any]:
    """An exclude list and a file of marks, with an older event that a newer one takes back, and a torn last line."""
    listed, marks = Path(folder) / "bad.parquet", Path(folder) / "marks.jsonl"
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"sample": pa.array(sorted(excluded), pa.string())}), listed)
    lines = [{"sample": name, "mark": "keep"} for name in sorted(drop)]
    lines += [{"sample": name, "mark": "drop", "time": "2026-01-01T00:00:00Z"} for name in sorted(keep | drop)]
    lines += [{"sample": name, "mark": "keep"} for name in sorted(keep)]
    lines += [{"sample": "z", "mark": "drop"}, {"sample": "z", "mark": None}] if "z" not in keep | drop else []
    text = "".join(json.dumps(line) + "\n" for line in lines)
    marks.write_text(text + '{"sample": "a", "ma', encoding="utf-8")
    return {"exclude": (str(listed),), "marks": str(marks)}


RANDOM_RULES = st.fixed_dictionaries(
    {},
    optional={
        "min_score": st.sampled_from([0.0, 4.7, 5.0]),
        "max_score": st.sampled_from([5.0, 6.0, 9.0]),
        "quantile": st.sampled_from([0.1, 0.5]),
        "top_share": st.sampled_from(["50%", "70%", "0.3"]),
        "sample": st.integers(1, 15),
        "budget": st.sampled_from([0, 5, 120, 2000]),
        "top": st.integers(1, 20),
        "where": st.just("number IS NOT NULL AND width > 100"),
        "grouping": st.sampled_from([("per", "kind"), ("balance", "kind"), ("balance", "number"), ("per", "folder")]),
    },
)


@settings(max_examples=40)
@given(tables(), RANDOM_RULES, st.data())
def test_random_combinations_with_lists_and_marks(table: pa.Table, rules: dict[str, Any], data: st.DataObject) -> None:
    grouping = rules.pop("grouping", None)
    if grouping is not None and (grouping[0] == "balance" or {"top", "top_share", "sample"} & rules.keys()):
        rules[grouping[0]] = grouping[1]
    names = sorted(set(table.column("sample").to_pylist()) | {"nowhere"})
    chosen = data.draw(
        st.lists(st.sampled_from(["", "", "", "excluded", "keep", "drop"]), min_size=len(names), max_size=len(names))
    )
    sets = {word: {n for n, c in zip(names, chosen, strict=True) if c == word} for word in ("excluded", "keep", "drop")}

    def condition(frame: pd.DataFrame) -> list[bool]:
        return [
            not pd.isna(number) and not pd.isna(width) and width > 100
            for number, width in zip(frame["number"], frame["width"], strict=True)
        ]

    with tempfile.TemporaryDirectory() as folder:
        rules |= files(folder, sets["excluded"], sets["keep"], sets["drop"])
        found = judged(oracle_of(table), rules, {**sets, "where": condition})
        compare(table, found, rules)


@SOME
@given(tables(), st.integers(1, 10))
def test_rank_by_percentiles(table: pa.Table, number: int) -> None:
    def ranking(frame: pd.DataFrame) -> pd.Series:
        return 0.7 * percentiles(frame["aesthetic_score"]) + 0.3 * percentiles(frame["other"])

    rules = {"rank_by": "0.7*aesthetic_score + 0.3 * `other`", "top": number}
    compare(table, judged(oracle_of(table, ranking), rules, {}), rules)

    def by_wide(frame: pd.DataFrame) -> pd.Series:
        sizes = frame["num_bytes"].astype("float64").where(frame["num_bytes"].notna(), np.nan)
        return -percentiles(sizes) / (percentiles(frame["other"]) + 1)

    rules = {"rank_by": '-"num_bytes"/(other+1)', "top": number, "min_score": 4.7}
    compare(table, judged(oracle_of(table, by_wide), rules, {}), rules)


@pytest.mark.parametrize(
    "rules", [{"top": 3}, {"quantile": 0.5}, {"sample": 2}, {"budget": 10}, {"balance": "kind"}, {"min_score": 5.0}]
)
@pytest.mark.parametrize("num_rows", [0, 1])
def test_no_row_and_one_row(rules: dict[str, Any], num_rows: int) -> None:
    table = pa.table({
        "sample": pa.array(["ä"] * num_rows, pa.string()),
        "aesthetic_score": pa.array([5.0] * num_rows, pa.float32()),
        "other": pa.array([5.0] * num_rows, pa.float32()),
        "kind": pa.array([None] * num_rows, pa.string()),
        "number": pa.array([1] * num_rows, pa.int32()),
        "width": pa.array([1] * num_rows, pa.int32()),
        "height": pa.array([1] * num_rows, pa.int32()),
        "num_bytes": pa.array([10] * num_rows, pa.int64()),
    })  # fmt: skip
    check(table, rules)


def test_infinite_scores_are_none() -> None:
    scores = pa.array([math.inf, 5.0, -math.inf, math.nan, 4.0, None], pa.float32())
    table = pa.table({"sample": list("abcdef"), "aesthetic_score": scores, "wide": scores.cast(pa.float64())})
    for rules in ({"top": 3}, {"min_score": -math.inf}, {"rank_by": "wide", "top": 3}):
        found = select(table, **rules).decisions()
        assert found.column("sample").filter(found.column("kept")).to_pylist() == ["b", "e"], rules


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"join": pa.table({"sample": ["a"]}), "top": 1}, "select\\(\\) takes texts and paths for join, no Table"),
        ({"where": 5, "top": 1}, "select\\(\\) takes texts and paths for where, no int"),
    ],
)
def test_what_is_no_path_is_refused_by_name(rules: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        select(pa.table({"sample": ["a"], "aesthetic_score": [5.0]}), **rules)
    with pytest.raises(InputError, match="--min-score 'five' is no number and no landmark; the landmarks are .*sd-v1"):
        select(pa.table({"sample": ["a"], "aesthetic_score": [5.0]}), min_score="five")


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("width => 500", "there is no operator =>; write >="),
        ("width =< 500", "there is no operator =<; write <="),
        ("width === 500", "there is no operator ===; write ="),
        ("!width", "there is no operator !; write not"),
        ("width >< 500", "there is no operator ><"),
        ("width > 1 && width < 5", "for && write and"),
        ("width > 1 || width < 5", "for || write or"),
    ],
)
def test_operators_of_other_languages_are_told_with_that_of_sql(condition: str, said: str) -> None:
    frame = pa.table({"sample": ["a", "b"], "aesthetic_score": [1.0, 2.0], "width": [400, 600]})
    with pytest.raises(InputError) as error:
        select(frame, where=condition)
    assert str(error.value).startswith(f"--where '{condition}': ")
    assert str(error.value).endswith(said)

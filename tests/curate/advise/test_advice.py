"""The grid, the published column, landmarks, and the threshold whose price is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.curate.advise.advice import advise
from beholder.errors import InputError
from beholder.scoreset.score_set import open_scores
from oracles.advice_tables import V1, V2, normal, table_of


def like_laion() -> np.ndarray:
    """474,000 scores with as many at or above each published threshold as LAION-2B-en has, divided by 5,000."""
    at_least = {6.5: 125, 6.25: 600, 6.0: 2_400, 5.0: 120_000, 4.75: 187_800, 4.5: 240_000, 3.0: 474_000}
    pieces, before = [], 0
    for low, count in at_least.items():
        pieces.append(np.full(count - before, low, np.float32))
        before = count
    return np.concatenate(pieces)


def test_the_laion_column_is_the_published_table() -> None:
    advice = advise(table_of(like_laion(), V2), with_price=False)
    published = {row.threshold: row for row in advice.grid if row.laion_2b_en is not None}
    told = {threshold: f"{100 * (row.laion_2b_en or 0):.2g} %" for threshold, row in published.items()}
    assert told == {4.5: "51 %", 4.75: "40 %", 5.0: "25 %", 6.0: "0.51 %", 6.25: "0.13 %", 6.5: "0.026 %"}
    for row in published.values():  # the set was made to have just these shares
        assert row.share_kept == row.laion_2b_en
    assert [row.num_kept for row in published.values()] == [240_000, 187_800, 120_000, 2_400, 600, 125]
    assert advice.at == 5.0  # keeps most nearly a quarter, as LAION's 5+
    assert "none was asked for" in advice.at_reason


def test_v1_has_the_unit_buckets_of_three_sets() -> None:
    advice = advise(table_of(normal(mean=5, deviation=1.3), V1), with_price=False)
    row = next(row for row in advice.grid if row.threshold == 7)
    assert {name: round(share or 0, 5) for name, share in row.published.items()} == {
        "LAION-2B-en": round(54.83 / 2170.14, 5),
        "LAION-2B-multi": round(54.21 / 2148.41, 5),
        "LAION-1B-nolang": round(28.70 / 1231.40, 5),
    }
    assert all(share is None for share in next(row for row in advice.grid if row.threshold == 5.5).published.values())
    assert {row.landmark.key for row in advice.landmarks} == {"internvid", "laion-v1-good", "laion-aesthetic-v1", "laion-art"}


def test_coyo_is_shown_with_its_range_and_no_share() -> None:
    advice = advise(table_of(normal(), V2), with_price=False)
    coyo = next(item for item in advice.published if item.dataset == "COYO-700M")
    assert (coyo.has_shares, coyo.mean, coyo.minimum, coyo.maximum) == (False, 4.769132, 1.171712, 8.082607)
    assert all("COYO-700M" not in row.published for row in advice.grid)


def test_counts_are_exact_and_landmarks_know_strict_from_not() -> None:
    scores = [4.5, 4.75, 5.0, 5.0, np.nextafter(np.float32(5), np.float32(6)), 6.0, None, float("nan")]
    advice = advise(table_of(scores, V2), with_price=False)
    assert (advice.num_rows, advice.num_scored) == (8, 6)
    kept = {row.landmark.key: row.num_kept for row in advice.landmarks}
    assert kept["sd-v1"] == 2  # > 5
    assert kept["laion-5plus"] == kept["data-juicer"] == 4  # >= 5
    assert kept["laion-coco"] == 4
    assert kept["laion-4.75plus"] == 5


def test_thresholds_are_rounded_to_float32_as_scores_are() -> None:
    # float32 4.7 is 4.6999998, below the float64 4.7, and yet what is stored as 4.7 has to be kept at 4.7.
    single = advise(table_of([4.7, 5.0]), thresholds=[4.7], with_price=False)
    double = advise(pa.table({"sample": ["a", "b"], "score": pa.array([4.7, 5.0])}), thresholds=[4.7], with_price=False)
    assert [row.num_kept for row in single.grid] == [2]
    assert [row.num_kept for row in double.grid] == [2]


@pytest.mark.parametrize(
    ("scores", "most", "first", "last"),
    [
        (normal(), 20, 3.75, 6.75),
        (normal(5000) / 10, 24, 0.375, 0.69),
        (normal() * 5, 24, 18, 35),
        (normal() * 1e6, 24, 3.5e6, 7e6),
        ([5.0] * 10, 1, 5.0, 5.0),
        ([5.1], 2, 5.0, 5.25),
    ],
    ids=["usual", "tenths", "not normalised", "huge", "all alike", "one"],
)
def test_the_grid_lies_around_the_scores(scores: Any, most: int, first: float, last: float) -> None:
    advice = advise(table_of(scores), with_price=False)
    grid = [row.threshold for row in advice.grid]
    assert 1 <= len(grid) <= most
    assert grid == sorted(set(grid))
    assert first * 0.9 <= grid[0] <= first * 1.1
    assert last * 0.9 <= grid[-1] <= last * 1.1
    plain = np.asarray(scores, np.float64)
    for row in advice.grid:
        assert row.num_kept == (np.asarray(scores, np.float32) >= np.float32(row.threshold)).sum()
        assert row.share_kept == row.num_kept / len(plain)


def test_asked_thresholds_replace_the_grid_and_at_joins_it() -> None:
    advice = advise(table_of(normal(), V2), thresholds=[5.3, 4, 5.3], at=5.1, with_price=False)
    assert [(row.threshold, row.is_wanted) for row in advice.grid] == [(4.0, True), (5.1, True), (5.3, True)]
    assert advice.at == 5.1
    assert advice.num_kept == next(row.num_kept for row in advice.grid if row.threshold == 5.1)


def test_at_by_the_name_of_a_landmark() -> None:
    advice = advise(table_of(normal(), V2), at="SD-v2", with_price=False)
    assert (advice.at, advice.at_reason) == (4.5, "asked for: Stable Diffusion v2-base")
    assert not [line for line in advice.warnings if "another" in line]
    assert advise(table_of(normal(), V2), at="5.25", with_price=False).at == 5.25


@pytest.mark.parametrize("at", ["sd-v9", "", "nan", float("inf")])
def test_at_that_is_nothing_is_refused(at: Any) -> None:
    with pytest.raises(InputError, match="--min-score"):
        advise(table_of(normal()), at=at)


def test_no_rows_no_scores_one_row() -> None:
    none = advise(table_of([], V2))
    assert (none.num_rows, none.num_scored, none.at, none.mean, none.tables) == (0, 0, None, None, ())
    assert [row.num_kept for row in none.grid] == [0] * 6
    empty = advise(table_of([None, float("nan"), float("inf"), float("-inf")]), at=5)
    assert (empty.num_rows, empty.num_scored, empty.at) == (4, 0, 5)
    one = advise(table_of([5.5], kind=["a"]), at=5)
    assert (one.num_scored, one.num_kept, one.tables) == (1, 1, ())
    assert {item.column for item in one.left_out} == {"sample", "kind"}
    for advice in (none, empty, one):
        json.dumps(advice.to_json(), allow_nan=False)


def test_statistics_are_numpys() -> None:
    scores = normal(5000)
    advice = advise(table_of(scores), with_price=False)
    assert advice.mean == pytest.approx(scores.mean(dtype=np.float64))
    assert advice.standard_deviation == pytest.approx(scores.std(dtype=np.float64))
    assert (advice.minimum, advice.maximum) == (scores.min(), scores.max())
    for q, value in advice.quantiles.items():
        assert value == pytest.approx(np.quantile(scores, float(q)), rel=2**-9)


def test_conditions_leave_rows_out_of_everything() -> None:
    scores = normal(1000)
    width = np.arange(1000)
    table = table_of(scores, V2, width=pa.array([None if w % 10 == 0 else w for w in width]), kind=["ab"[w % 2] for w in width])
    advice = advise(table, at=5, where=["width >= 500", "kind = 'a' or kind = 'b'"])
    chosen = scores[(width >= 500) & (width % 10 != 0)]
    assert (advice.num_rows, advice.num_rows_that_meet, advice.num_kept) == (1000, 450, (chosen >= 5).sum())
    assert sum(group.num_rows for group in advice.tables[0].groups) == 450
    assert advise(table, at=5, where="width IS NULL", with_price=False).num_rows_that_meet == 100


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ("width >", "syntax error"),
        ("width > 1; DROP VIEW rows", "--where"),
        ("width), (1", "--where"),
        ("width > 1 -- so", "--where"),
        ("nothing > 1", "nothing"),
        ("sample::INT > 1", "Could not convert"),
        ("true) FROM scores UNION SELECT (1", "--where"),
        ("", "--where"),
        ("sample", "where sample: Could not convert"),
        ("(width, sample)", "cast"),
    ],
)
def test_conditions_that_are_none_are_one_clear_line(where: str, text: str) -> None:
    with pytest.raises(InputError, match="(?s)" + text) as caught:
        advise(table_of(normal(), width=list(range(2000))), where=where)
    assert "\n" not in str(caught.value)


def test_joined_tables_bring_columns(tmp_path: Path) -> None:
    scores = normal(400)
    meta = pd.DataFrame({"key": [f"s{i}" for i in range(0, 400, 2)], "language": ["de", "en"] * 100, "aesthetic_score": 1.0})
    meta.to_parquet(tmp_path / "meta.parquet", index=False)
    pd.DataFrame({"sample": [f"s{i}" for i in range(400)], "stars": [i % 5 for i in range(400)]}).to_csv(
        tmp_path / "stars.csv", index=False
    )
    advice = advise(
        table_of(scores), at=5, join=[str(tmp_path / "meta.parquet"), str(tmp_path / "stars.csv")], where="stars != 4"
    )
    assert (advice.num_rows, advice.num_rows_that_meet) == (400, 320)
    sizes = {table.column: {group.value: group.num_rows for group in table.groups} for table in advice.tables}
    chosen = [i for i in range(400) if i % 5 != 4]
    assert sizes["language"] == {
        "de": sum(i % 4 == 0 for i in chosen),
        "en": sum(i % 4 == 2 for i in chosen),
        None: sum(i % 2 for i in chosen),
    }
    assert sizes["stars"] == {str(star): 80 for star in range(4)}
    assert "meta_aesthetic_score" in sizes  # where a name is taken, as `beholder select` has it


def test_tables_that_cannot_be_joined(tmp_path: Path) -> None:
    def written(**columns: Any) -> str:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        pq.write_table(pa.table(columns), path)
        return str(path)

    table = table_of(normal(10))
    with pytest.raises(InputError, match="'s1' twice"):
        advise(table, join=written(sample=["s1", "s1", "s2"], x=[1, 2, 3]))
    with pytest.raises(InputError, match="none of the scores' samples"):
        advise(table, join=written(sample=["other"], x=[1]))
    with pytest.raises(InputError, match="no column that names rows"):
        advise(table, join=written(x=[1]))
    with pytest.raises(InputError, match="adds no column"):
        advise(table, join=written(sample=["s1"]))
    with pytest.raises(InputError, match="does not exist"):
        advise(table, join=str(tmp_path / "none.parquet"))


def test_several_heads_need_a_choice() -> None:
    record = {"score_columns": [V1, V2], "heads": [{"name": V1}, {"name": V2}]}
    table = pa.table({"sample": ["a", "b"], V1: pa.array([6.0, 7.0]), V2: pa.array([4.0, 5.0])})
    table = table.replace_schema_metadata({"beholder": json.dumps(record)})
    with pytest.raises(InputError, match="several heads"):
        advise(table)
    assert advise(table, score="laion-v1").mean == 6.5
    chosen = advise(table, score=V2)
    assert (chosen.mean, chosen.head) == (4.5, V2)
    with pytest.raises(InputError, match="no scores named 'other'"):
        advise(table, score="other")


def test_every_kind_of_table_gives_the_same() -> None:
    frame = pd.DataFrame(
        {"sample": [f"d{i % 3}/{i}" for i in range(600)], "aesthetic_score": normal(600), "kind": list("abc") * 200}
    )
    with open_scores(pa.Table.from_pandas(frame, preserve_index=False)) as scores:
        expected = advise(scores, at=5)
    assert {table.column for table in expected.tables} == {"sample", "kind"}
    polars = pl.from_pandas(frame)
    for given in (
        frame,
        pa.Table.from_pandas(frame),
        pa.RecordBatch.from_pandas(frame),
        polars,
        polars.lazy(),
        frame.set_index(pd.RangeIndex(5, 605)),
    ):
        assert advise(given, at=5) == expected
    for wrong in ([1, 2, 3], frame.kind, polars["kind"], None):
        with pytest.raises(TypeError, match=type(wrong).__name__):
            advise(wrong)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(InputError, match="at least 256MB"):
        advise(table_of(normal()), memory=1000)


def test_unknown_columns_are_named() -> None:
    with pytest.raises(InputError, match="'colour'"):
        advise(table_of(normal(), kind=["a"] * 2000), columns=["colour"])


def test_the_aspect_is_that_of_select() -> None:
    from beholder.curate.options import SelectRules
    from beholder.curate.select.grouping import ASPECTS, group_rows
    from beholder.curate.select.rules import SelectionInput

    rng = np.random.default_rng(4)
    sizes = {
        "width": rng.integers(0, 40, 3000),
        "height": pa.array(rng.integers(1, 40, 3000), pa.int64(), mask=rng.random(3000) < 0.05),
    }
    table = table_of(normal(3000), **sizes)
    with open_scores(table) as scores:
        rows = SelectionInput(scores, SelectRules(top=1, per="aspect"))
        codes = group_rows("aspect", rows.reader, rows.names, None, rows.database, "--per").codes
        rows.close()
    found = next(found for found in advise(table, at=5, columns=["aspect"]).tables if found.column == "aspect")
    values = [*ASPECTS, None]
    assert {group.value: group.num_rows for group in found.groups} == {
        value: int((codes == code).sum()) for code, value in enumerate(values) if (codes == code).any()
    }
    assert [group.value for group in sorted(found.groups, key=lambda group: group.order)] == values


def test_only_the_columns_asked_for(tmp_path: Path) -> None:
    table = table_of(normal(), kind=["a", "b"] * 1000, other=["c", "d"] * 1000)
    pq.write_table(table.set_column(0, "sample", pa.array([f"{i % 2}/{i}" for i in range(2000)])), tmp_path / "s.parquet")
    assert [found.column for found in advise(tmp_path / "s.parquet", columns=["kind"]).tables] == ["kind"]
    assert {found.column for found in advise(tmp_path / "s.parquet", columns=["kind", "sample"]).tables} == {"kind", "sample"}

"""Tables of many pieces: names that do not ascend and tie in long runs, files of many row groups, scratch files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.curate.options import SelectRules
from beholder.curate.select import grouping
from beholder.curate.select.ranking import Ranking, by_name
from beholder.curate.select.rules import SelectionInput
from beholder.curate.select.selection import select, select_rows
from beholder.curate.select.tables import RowTables
from beholder.curate.select.values import read_keys
from beholder.errors import InputError
from beholder.kernels import ordering, texts
from beholder.kernels.texts import text_buffers
from beholder.scoreset import row_reader
from beholder.scoreset.row_names import Names
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import open_scores
from oracles.tiers import mostly_slow


def made(num_rows: int, seed: int = 3, decimals: int = 2) -> pa.Table:
    """Rows with long common beginnings, names that begin alike and end early, many ties, some nulls."""
    rng = np.random.default_rng(seed)
    parts = np.array(["", "a", "a\0", "ab", "é", "shard/0001.tar/", "shard/0001.tar/000", "z" * 40, "z" * 33 + "y"])
    names = [f"set/{parts[i]}{parts[j]}{k}" for i, j, k in rng.integers(0, [9, 9, 60], (num_rows, 3))]
    scores = np.round(rng.normal(5, 1, num_rows), decimals).astype(np.float32)
    scores[rng.random(num_rows) < 0.01] = np.nan
    return pa.table({
        "sample": names,
        "aesthetic_score": pa.array(scores, from_pandas=True),
        "width": rng.integers(1, 2000, num_rows),
        "kind": rng.choice(["a", "b", "c"], num_rows),
        "tags": pa.array([[str(k)] * (k % 3) for k in range(num_rows)]),
        "num_bytes": pa.array(rng.integers(1, 1000, num_rows).astype(float), mask=rng.random(num_rows) < 0.02),
    })  # fmt: skip


def write_files(table: pa.Table, folder: Path) -> str:
    """Three files with small row groups, the second without the column width."""
    third = table.num_rows // 3
    for number, (start, stop) in enumerate([(0, third), (third, 2 * third), (2 * third, table.num_rows)]):
        part = table.slice(start, stop - start)
        pq.write_table(part.drop_columns("width") if number == 1 else part, folder / f"p_{number}.parquet", row_group_size=777)
    return str(folder)


def in_order(table: pa.Table) -> list[int]:
    """Rows with a score, best first, by pandas and bytes."""
    frame = pd.DataFrame({"score": table.column("aesthetic_score").to_pandas(), "row": np.arange(table.num_rows)})
    frame["name"] = [name.encode() for name in table.column("sample").to_pylist()]
    frame = frame[frame["score"].notna()]
    return frame.sort_values(["score", "name", "row"], ascending=[False, True, True])["row"].tolist()


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return made(20_000)


@pytest.mark.parametrize("few_rows", mostly_slow([500, 10**9, 0]))
@pytest.mark.parametrize("decimals", mostly_slow([0, 2]))
def test_ties_are_told_apart_by_windows_of_names(few_rows: int, decimals: int) -> None:
    table = made(20_000, decimals=decimals)
    with open_scores(table) as scores:
        reader = RowReader(scores, num_threads=2)
        keys = read_keys(reader, "aesthetic_score")
        ranking = Ranking(keys, Names(reader), 2, few_rows)
        expected = in_order(table)
        ranks = ranking.ranks()
        assert [
            int(row) for row in np.argsort(np.where(ranks == 0, 1 << 31, ranks), kind="stable")[: len(expected)]
        ] == expected
        dropped = (np.random.default_rng(1).random(table.num_rows) < 0.9).astype(np.uint8)
        order, kept_ranks = ranking.kept_in_order(dropped)
        valued = [row for row in expected if dropped[row] == 0]
        assert order[: len(valued)].tolist() == valued
        assert kept_ranks[: len(valued)].tolist() == ranks[valued].tolist()
        assert set(order[len(valued) :].tolist()) == {
            row for row in range(table.num_rows) if dropped[row] == 0 and ranks[row] == 0
        }


def test_names_that_ascend_are_not_sorted_again() -> None:
    table = made(5000).sort_by("sample")
    with open_scores(table) as scores:
        reader = RowReader(scores, num_threads=2)
        names = Names(reader)
        assert names.scan().ascending
        assert names.scan().common == b"set/"
        ranking = Ranking(read_keys(reader, "aesthetic_score"), names, 2, 0)
        expected = in_order(table)
        assert (
            np.argsort(np.where(ranking.ranks() == 0, 1 << 31, ranking.ranks()), kind="stable")[: len(expected)].tolist()
            == expected
        )


@pytest.mark.parametrize(
    "rules",
    [
        {"top": 500},
        {"where": "width > 1000", "min_score": 4.5},
        {"top": 100, "per": "kind"},
        {"balance": "kind"},
        {"sample": 700, "per": "kind"},
        {"budget": 100_000},
        {"max_score": 4.0, "top_share": "1%"},
        {"rank_by": "aesthetic_score + width", "top": 50},
    ],
)
@pytest.mark.parametrize("memory", [3_000_000_000, 256_000_000])
def test_files_give_what_a_table_gives(table: pa.Table, tmp_path: Path, rules: dict[str, Any], memory: int) -> None:
    middle = pa.array(np.arange(table.num_rows) // (table.num_rows // 3) == 1)
    import pyarrow.compute as pc

    same = table.set_column(2, "width", pc.if_else(middle, None, table.column("width")))
    source = write_files(same, tmp_path)
    with select(same, **rules, num_threads=1) as whole, select(source, **rules, num_threads=3, memory=memory) as parts:
        assert np.array_equal(whole.dropped_by, parts.dropped_by)
        one, two = whole.kept_rows(), parts.kept_rows()
        names = ["sample", "rank", "kind", "width", "tags", "num_bytes"]
        assert one.select(names).to_pylist() == two.select(names).to_pylist()
        assert whole.num_kept == one.num_rows == two.num_rows


@pytest.mark.parametrize(("group_rows", "large_bytes"), [(1 << 17, 192 << 20), (2000, 192 << 20), (2000, 3000), (1, 30_000)])
def test_large_row_groups_are_read_in_batches(
    table: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_rows: int, large_bytes: int
) -> None:
    limits = {"GROUP_ROWS": group_rows, "LARGE_GROUP_BYTES": large_bytes, "SMALL_FILE_BYTES": 0}
    for name, value in limits.items():
        monkeypatch.setattr(row_reader, name, value)
    with open_scores(write_files(table, tmp_path)) as scores:
        pieces = list(RowReader(scores, num_threads=2).map(["kind", "sample"], lambda first, part: (first, part)))
    assert np.array_equal([first for first, _ in pieces], np.cumsum([0, *(part.num_rows for _, part in pieces)])[:-1])
    read = pa.concat_tables([part for _, part in pieces])
    for name in ("kind", "sample"):
        assert read.column(name).to_pylist() == table.column(name).to_pylist()


def test_a_file_that_changed_is_told(table: pa.Table, tmp_path: Path) -> None:
    source = write_files(table, tmp_path)
    with open_scores(source) as scores:
        pq.write_table(table.slice(0, 5), tmp_path / "p_2.parquet")
        with pytest.raises(InputError, match=r"p_2.parquet has 5 rows where"):
            read_keys(RowReader(scores), "aesthetic_score")


@pytest.mark.parametrize("rules", [{"min_score": 4.0}, {"top": 7000}, {"where": "width > 900"}, {"budget": 4_000_000}])
def test_results_go_through_scratch_files(table: pa.Table, tmp_path: Path, rules: dict[str, Any]) -> None:
    source = write_files(table, tmp_path)
    with select(source, **rules) as selection:
        one, inner = selection.kept_rows(), selection.selection
        tables = list(inner.kept_tables(num_rows=1000))
        assert len(tables) >= one.num_rows // 1000
        assert {part.num_rows for part in tables} <= set(range(1001))
        assert pa.concat_tables(tables).equals(one)
        given = inner._kept_in_order if "where" in rules else None
        scattered = RowTables(inner._runner)
        scattered.budget = 1000
        tables = list(scattered.in_order(given, only_samples=False, num_rows=1000))
        assert {part.num_rows for part in tables} <= set(range(1001))
        assert pa.concat_tables(tables).equals(one)


def test_equal_keys_stay_in_row_order() -> None:
    rng = np.random.default_rng(0)
    for keys in (
        rng.integers(0, 1 << 32, 200_000, dtype=np.uint32),
        rng.integers(5, 9, 200_000, dtype=np.uint32),
        np.zeros(0, np.uint32),
        np.array([3], np.uint32),
    ):
        inverted, order = ordering.sort_best_first(keys)
        expected = np.argsort(~keys, kind="stable")
        assert np.array_equal(order, expected)
        assert np.array_equal(~inverted, keys[expected])
        some = np.flatnonzero(keys % 3 == 1).astype(np.uint32)
        order = ordering.sort_best_first(keys[some], some)[1]
        assert np.array_equal(order, some[np.argsort(~keys[some], kind="stable")])


def test_keys_are_in_the_order_of_floats() -> None:
    floats = np.array([np.nan, -np.inf, -3.4e38, -1, -1e-45, -0.0, 0.0, 1e-45, 1, 5, 3.4e38, np.inf], np.float32)
    keys = ordering.ordered_keys(floats.copy())
    assert keys[0] == 0
    assert (np.diff(keys[1:].astype(np.int64)) >= 0).all()
    assert keys[5] == keys[6]
    assert len(set(keys.tolist())) == len(keys) - 1
    assert np.array_equal(ordering.scores_of(keys), floats, equal_nan=True)
    assert ordering.key_of(5.0) == keys[9]


@pytest.mark.parametrize("is_whole", [False, True])
def test_the_lowest_that_stays_is_that_of_a_sort(is_whole: bool) -> None:
    scores = np.random.default_rng(5).normal(5, 1, 50_000).astype(np.float32)
    table = pa.table({"sample": [f"{number:05d}" for number in range(len(scores))], "aesthetic_score": scores})
    best = np.sort(scores)[::-1]
    with open_scores(table) as opened:
        for number in (1, 2, 777, 25_000, 49_999):
            with select_rows(opened, SelectRules(top=number, min_score=-100), is_whole=is_whole) as selection:
                assert selection.thresholds["top"] == best[number - 1]
                assert [step.lowest for step in selection.done_steps] == [best[-1], best[number - 1]]
        for quantile in (0.0, 0.25, 0.999):
            with select_rows(opened, SelectRules(quantile=quantile, min_score=4.5), is_whole=is_whole) as selection:
                left = best[best >= 4.5].astype(np.float64)
                assert selection.thresholds["quantile"] == pytest.approx(np.quantile(left, quantile), rel=1e-15)
                assert selection.num_kept == (left >= selection.thresholds["quantile"]).sum()
                assert selection.done_steps[-1].lowest == left[left >= selection.thresholds["quantile"]].min()


def test_windows_compare_as_bytes_do() -> None:
    names = sorted({b"", b"a", b"a\0", b"a\0\0", b"abcdefg", b"abcdefgh", b"abcdefg\0", b"abcdefgi", b"\xff" * 9, b"ab"})
    array = pa.array(names, pa.large_binary())
    offsets = np.frombuffer(array.buffers()[1], np.int64)[: len(names) + 1]
    data = np.frombuffer(array.buffers()[2], np.uint8)
    windows = np.empty(len(names), np.uint64)
    texts.fill_windows(offsets, data, 0, windows)
    for i in range(len(names)):
        for j in range(i):
            assert windows[j] <= windows[i]
            assert (windows[j] == windows[i]) == (names[i][:7] == names[j][:7] and len(names[i]) > 7 and len(names[j]) > 7)


def test_rows_of_one_name_stay_in_row_order() -> None:
    table = pa.table({"sample": ["b", "a", "b", "a"], "aesthetic_score": pa.array([1, 1, 1, 1], pa.float32())})
    with open_scores(table) as scores:
        names = Names(RowReader(scores))
        assert by_name(names, np.arange(4, dtype=np.uint32)).tolist() == [1, 3, 0, 2]
        assert text_buffers(names.of(np.array([2], np.uint32)))[1].tobytes() == b"b"


def test_groups_with_very_many_values(monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({
        "sample": [f"{i:05d}" for i in range(6000)],
        "aesthetic_score": pa.array(np.random.default_rng(0).random(6000), pa.float32()),
        "pair": pa.array([None if i % 5000 == 0 else float(i // 2) for i in range(6000)]),
    })  # fmt: skip
    values = table.column("pair").to_pylist()
    with open_scores(table) as scores:
        rows = SelectionInput(scores, SelectRules(top=1, per="pair"))
        for most_listed in (1_000_000, 1500):
            monkeypatch.setattr(grouping, "MOST_LISTED", most_listed)
            found = grouping.group_rows("pair", rows.reader, rows.names, None, rows.database, "--per")
            assert found.num_groups == len(set(values)) == len(set(zip(values, found.codes.tolist(), strict=True)))
        rows.close()

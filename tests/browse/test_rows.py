"""Rows out of the mapped file against pyarrow's own reading of the source, and their order against plain Python."""

from __future__ import annotations

import datetime
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.browse.rows import RowStore, as_json, best_first
from beholder.scoreset.score_set import open_scores


def test_any_rows_in_any_order_across_files_and_batches(tmp_path: Path) -> None:
    whole = pa.table({"sample": [f"s{i}" for i in range(50)], "score": np.arange(50) / 7, "n": list(range(50))})
    (tmp_path / "set").mkdir()
    pq.write_table(whole.slice(0, 23), tmp_path / "set/part_2.parquet", row_group_size=10)
    pq.write_table(whole.slice(23).drop_columns(["n"]), tmp_path / "set/part_10.parquet")
    with open_scores(str(tmp_path / "set")) as scores:
        store = RowStore(scores, tmp_path, batch_rows=7)
    assert not list(tmp_path.glob("*.arrow")), "the file is gone while it is mapped"
    wanted = np.random.default_rng(1).integers(0, 50, 200)
    found = store.fetch(wanted, ["n", "sample"])
    assert found.column("sample").to_pylist() == [f"s{i}" for i in wanted]
    assert found.column("n").to_pylist() == [int(i) if i < 23 else None for i in wanted]
    assert store.fetch(wanted[:0], ["sample"]).num_rows == 0
    assert store.num_rows == 50


def test_every_type_is_shown_or_left_out_and_nothing_is_lost_in_json(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([7, None], pa.int64()),
            "score": pa.array([5.5, None], pa.float64()),
            "large": pa.array([2**60, -1], pa.int64()),
            "nan": pa.array([float("nan"), float("inf")]),
            "when": pa.array([datetime.datetime(2026, 1, 2), None], pa.timestamp("us")),
            "word": pa.array(["a", "b"]).dictionary_encode(),
            "half": pa.array(np.array([1.5, 2], np.float16)),
            "nothing": pa.nulls(2),
            "tags": pa.array([["x", "y"], None]),
            "box": pa.array([{"x": 1}, None]),
            "embedding": pa.array([[0.1, 0.2], [0.3, 0.4]], pa.list_(pa.float32(), 2)),
            "jpg": pa.array([b"\xff\xd8", b""]),
            "long": ["z" * 9000, "é"],
        }
    )
    with open_scores(table) as scores:
        store = RowStore(scores, tmp_path)
    assert store.left_out == ["embedding", "jpg"]
    assert store.samples(np.array([0, 1])) == ["7", "#1"]
    first, second = store.row(0), store.row(1)
    json.dumps([first, second], allow_nan=False)
    assert first["large"] == str(2**60)
    assert (first["nan"], second["nan"]) == (None, "inf")
    assert first["when"] == "2026-01-02 00:00:00"
    assert (first["word"], first["half"], first["nothing"], second["tags"]) == ("a", 1.5, None, None)
    assert first["long"].endswith("(9,000 characters)")
    assert second["long"] == "é"
    assert store.table.schema.field("id").type == pa.int64(), "conditions see the numbers of the set"


def test_no_rows(tmp_path: Path) -> None:
    with open_scores(pa.table({"sample": pa.array([], pa.string()), "score": pa.array([], pa.float32())})) as scores:
        store = RowStore(scores, tmp_path)
    assert store.num_rows == 0
    assert store.samples(np.array([], np.int64)) == []


def test_no_rows_and_some_of_nested_extension_types(tmp_path: Path) -> None:
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(range(16))] * 2, pa.binary(16)))
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), ids)
    columns = {"sample": ["a", "b"], "aesthetic_score": pa.array([1.0, 2.0], pa.float32()), "ids": lists}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    with open_scores(str(tmp_path / "s.parquet")) as scores:
        store = RowStore(scores, tmp_path)
        for wanted in ([], [1, 0]):
            found = store.fetch(np.array(wanted, np.int64), ["ids"])
            assert found.schema.field("ids").type == lists.type
            assert found.num_rows == len(wanted)


def test_float32_has_the_digits_that_a_csv_has_and_eight_at_most(tmp_path: Path) -> None:
    numbers = [5.0954670906066895, 5.1, 0.1, -1e-30, 16777216.0, 123456792.0, 0.0, 1000.00006, math.inf, math.nan, None]
    single, double = pa.array(numbers, pa.float32()), pa.array(numbers, pa.float64())
    table = pa.table({"sample": [f"s{i}" for i in range(len(numbers))], "score": single, "wide": double})
    with open_scores(table) as scores:
        store = RowStore(scores, tmp_path)
    rows = [store.row(number) for number in range(len(numbers))]
    shown = [row["score"] for row in rows]
    assert shown[:9] == [5.095467, 5.1, 0.1, -1e-30, 16777216.0, 123456790.0, 0.0, 1000.0001, "inf"]
    assert shown[9:] == [None, None]
    assert shown[:7] == [float(text) for text in single.cast(pa.string()).to_pylist()[:7]], "as pyarrow writes CSV"
    assert [row["wide"] for row in rows][:8] == numbers[:8], "of double nothing is lost"


def test_json_values() -> None:
    assert as_json(True) is True
    assert as_json(3) == 3
    assert as_json(-0.5) == -0.5
    assert as_json(b"x") == "b'x'"


SCORES = st.one_of(st.sampled_from([4.5, 5.0, 5.1, math.nan, -0.0, 0.0, math.inf, -math.inf]), st.floats(3, 7, width=32))
NAMES = st.text(alphabet="abÅ猫😀/.", max_size=4)


def store_of(names: list[str | None], scores: list[float], folder: Path) -> RowStore:
    table = pa.table({"sample": pa.array(names, pa.string()), "aesthetic_score": pa.array(scores, pa.float32())})
    with open_scores(table) as found:
        return RowStore(found, folder)


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, SCORES), min_size=1, max_size=40))
def test_rows_come_best_first_with_ties_by_name_in_bytes_then_by_row(tmp_path_factory, pairs) -> None:
    names, scores = [name for name, _ in pairs], np.array([score for _, score in pairs], np.float32)
    rows = best_first(scores, store_of(names, scores.tolist(), tmp_path_factory.mktemp("s")))
    wanted = [row for row in range(len(scores)) if math.isfinite(scores[row])]
    wanted.sort(key=lambda row: (-scores[row], names[row].encode(), row))
    assert rows.tolist() == wanted

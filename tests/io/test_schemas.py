"""Columns of other types: dictionaries with the values at hand only, and types that hold the values of two columns."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.io.schemas import as_text, common_schema, fit_table, num_bytes_of, pieces_of, schema_of, without_unused
from beholder.sources.parquet import ParquetReader
from beholder.sources.reader import ReadOptions
from oracles.score_jobs import D, read_scores, run

INTEGERS = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [pa.decimal128(3, 2), pa.decimal128(38, 0), pa.decimal128(38, 38), pa.decimal128(15, 4), pa.decimal256(70, 10)]
OTHERS = [
    pa.bool_(),
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.int64()),
]


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    """Any value that a type holds."""
    if pa.types.is_dictionary(kind):
        return values_of(kind.value_type)
    if pa.types.is_list(kind):
        return st.lists(values_of(kind.value_type), max_size=3)
    if pa.types.is_integer(kind):
        bits = kind.bit_width
        signed = pa.types.is_signed_integer(kind)
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else st.integers(0, (1 << bits) - 1)
    if pa.types.is_floating(kind):
        return st.floats(width=kind.bit_width, allow_nan=False)
    if pa.types.is_decimal(kind):
        most = 10**kind.precision - 1
        return st.integers(-most, most).map(lambda n: Decimal((n < 0, tuple(map(int, str(abs(n)))), -kind.scale)))
    return st.booleans() if pa.types.is_boolean(kind) else st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


KINDS = st.sampled_from([*INTEGERS, *FLOATS, *DECIMALS, *OTHERS])
KINDS_AND_LISTS = KINDS | st.sampled_from([*INTEGERS, *FLOATS, pa.string()]).map(pa.list_)


def is_same(value: Any, found: Any, width: int) -> bool:
    """Whether what is found says the value: the same number, or the text of it."""
    if isinstance(found, str) and isinstance(value, list):
        found = json.loads(found, parse_float=str, parse_int=str)
    if isinstance(value, list):
        return len(value) == len(found) and all(map(is_same, value, found, [width] * len(value)))
    if isinstance(value, bool) or isinstance(found, bool):
        return found in (value, str(value).lower())
    if isinstance(value, str) or not isinstance(found, str):
        return bool(value == found)
    if isinstance(value, float):
        return bool(np.dtype(f"f{width // 8}").type(found) == value) and (
            not math.isfinite(value) or "." in found or "e" in found
        )
    return Decimal(found) == value


@settings(max_examples=400, deadline=None)
@given(st.data(), st.sampled_from([lambda table: table.schema, schema_of]))
def test_values_of_any_two_types_survive(data: st.DataObject, seen: Callable[[pa.Table], pa.Schema]) -> None:
    kinds = [data.draw(KINDS_AND_LISTS), data.draw(KINDS_AND_LISTS)]
    columns = [data.draw(st.lists(st.none() | values_of(kind), min_size=1, max_size=3)) for kind in kinds]
    tables = [pa.table({"c": pa.array(column, kind)}) for column, kind in zip(columns, kinds, strict=True)]
    schema = common_schema(map(seen, tables))
    assert schema == common_schema(map(seen, reversed(tables)))
    for table, kind, column in zip(tables, kinds, columns, strict=True):
        fitted, remarks = fit_table(table, schema)
        assert (remarks, fitted.schema) == ({}, schema)
        inside = kind.value_type if pa.types.is_list(kind) else kind
        width = inside.bit_width if pa.types.is_floating(inside) else 0
        for value, found in zip(column, fitted["c"].to_pylist(), strict=True):
            assert (found is None) == (value is None)
            assert value is None or is_same(value, found, width), (value, found, schema)


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (pa.int8(), pa.int32(), pa.int32()),
        (pa.int32(), pa.uint32(), pa.int64()),
        (pa.int64(), pa.uint64(), pa.decimal128(20, 0)),
        (pa.int32(), pa.float64(), pa.float64()),
        (pa.int16(), pa.float32(), pa.float32()),
        (pa.int32(), pa.float32(), pa.float64()),
        (pa.int64(), pa.float64(), pa.string()),
        (pa.int64(), pa.decimal128(3, 2), pa.decimal128(22, 2)),
        (pa.decimal128(38, 0), pa.decimal128(38, 38), pa.decimal256(76, 38)),
        (pa.decimal128(3, 2), pa.float64(), pa.string()),
        (pa.list_(pa.int64()), pa.list_(pa.float64()), pa.string()),
        (pa.list_(pa.int64(), 2), pa.list_(pa.int64(), 3), pa.list_(pa.int64())),
        (pa.null(), pa.list_(pa.int64()), pa.list_(pa.int64())),
    ],
)
def test_the_type_of_two(one: pa.DataType, other: pa.DataType, found: pa.DataType) -> None:
    schemas = [pa.schema([("c", one)]), pa.schema([("c", other)])]
    assert common_schema(schemas).field("c").type == common_schema(schemas[::-1]).field("c").type == found


@pytest.mark.parametrize(("most", "found"), [(2**53, pl.Float64), (2**53 + 1, pl.String)])
def test_integers_and_fractions_of_two_files_are_fractions_where_none_changes(
    tmp_path: Path, small_head: Path, most: int, found: pl.DataType
) -> None:
    """Pandas makes fractions of whole numbers with a missing one; widths stay numbers, 64-bit hashes stay what they are."""
    rows = np.random.default_rng(0).standard_normal((3, D)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), D)
    for name, values in (("a", pa.array([1, most, None])), ("b", pa.array([0.5, None, 3.0]))):
        pq.write_table(pa.table({"width": values, "embedding": lists}), tmp_path / f"{name}.parquet")
    run(tmp_path, tmp_path / "out", small_head, columns=("width",))
    column = read_scores(tmp_path / "out")["width"]
    assert column.dtype == found
    numbers = [1.0, float(most), None, 0.5, None, 3.0]
    texts = ["1", str(most), None, "0.5", None, "3.0"]
    assert column.to_list() == (numbers if found == pl.Float64 else texts)


def test_values_as_text() -> None:
    uuid = pa.array([b"0" * 16], pa.uuid())
    written = [
        (pa.array([0.1, 1, 1e20, None], pa.float32()), ["0.1", "1.0", "1e+20", None]),
        (pa.array([0.1], pa.float16()), ["0.1"]),
        (pa.array([0.1, 1.0, 1e-7]), ["0.1", "1.0", "1e-07"]),
        (pa.array([[0.1, 2]], pa.list_(pa.float32())), ["[0.1, 2.0]"]),
        (pa.array([["x", "é"], None]), ['["x", "é"]', None]),
        (pa.array([{"a": 1, "b": None}]), ['{"a": 1, "b": null}']),
        (uuid, ["30303030-3030-3030-3030-303030303030"]),
        (pa.ListArray.from_arrays([0, 1], uuid), ['["30303030-3030-3030-3030-303030303030"]']),
        (pa.array([b"a", b"\xff"]), ["a", "\\xff"]),
        (pa.array([Decimal("1.10")]), ["1.10"]),
        (pa.array([[datetime.date(2020, 1, 2)]]), ['["2020-01-02"]']),
    ]
    for array, texts in written:
        assert as_text(pa.chunked_array([array])).to_pylist() == texts


def categories(codes: list[int | None], values: list[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(values))


def test_rows_of_a_file_bring_along_the_categories_that_they_name(tmp_path: Path, small_head: Path) -> None:
    """A row group of 4,000 categories of 1 kB each: a batch of it is not to hold the 4 MB of all."""
    captions = [f"{number} " + "c" * 1000 for number in range(4000)]
    vectors = np.random.default_rng(0).standard_normal((4000, D)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D)
    table = pa.table({"caption": categories(list(range(4000)), captions), "embedding": lists})
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd")
    reader, wanted = ParquetReader(), ReadOptions(columns=("caption",), block_bytes=1 << 20)
    part = reader.inspect(str(tmp_path / "x.parquet"), "x.parquet", wanted)
    num_blocks = 0
    for block in reader.blocks(part, 0, None, wanted):
        assert pa.types.is_dictionary(block.labels.schema.field("caption").type)
        num_bytes = sum(chunk.dictionary.nbytes for chunk in block.labels["caption"].chunks)
        assert num_bytes < 1100 * block.labels.num_rows
        assert num_bytes_of(block.labels) > num_bytes
        num_blocks += 1
    assert num_blocks > 3
    run(tmp_path / "x.parquet", tmp_path / "out", small_head, columns=("caption",), memory_bytes=64 * 10**6)
    assert read_scores(tmp_path / "out")["caption"].to_list() == captions


def test_pieces_of_categories_are_cut_by_what_they_hold() -> None:
    column = categories([*range(1000), None], ["v" * 1000 + str(number) for number in range(1200)])
    table = pa.table({"caption": column, "number": np.arange(1001)})
    pieces = list(pieces_of(table, 100_000))
    assert max(map(num_bytes_of, pieces)) <= 100_000
    assert len(pieces) == 16
    assert pa.concat_tables(pieces).to_pylist() == table.to_pylist()


def test_a_long_value_of_all_rows_makes_no_piece_of_each() -> None:
    table = pa.table({"caption": categories([0, 1] * 500, ["v" * 100_000, "w" * 100_000, "unused"])})
    pieces = list(pieces_of(table, 150_000))
    assert [piece.num_rows for piece in pieces] == [1000]
    assert num_bytes_of(pieces[0]) > 200_000


def test_unused_categories_are_left_out() -> None:
    array = categories([3, None, 1, 3], ["a" * 50, "b", "c" * 50, "d"])
    ordered = pa.DictionaryArray.from_arrays(array.indices.cast(pa.int8()), array.dictionary, ordered=True)
    for column in (array, array.slice(1), ordered, array.slice(0, 0), categories([None, None], ["e" * 50])):
        table = pa.table({"c": column})
        found = without_unused(table)
        assert found.schema == table.schema
        assert found.to_pylist() == table.to_pylist()
        assert all(len(chunk.dictionary) == len(chunk.drop_null().unique()) for chunk in found["c"].chunks)

"""Columns of every Arrow type with values at the edges, and tables in which they stand where others are expected."""

from __future__ import annotations

import datetime
import io
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = ("", " ", "a", "nan", "NaN", "inf", "-1", "1e999", "0x10", "1,5", "true", "null", "é猫", "a\nb", "a\0b", "\u202e",
         "x" * 3000,
         "../../etc/passwd", "s3://b/k", "http://x/y.jpg", "a/b.jpg", '"', "'", ";", "2020-01-01", "[1, 2]", '{"a": 1}',
         "\\x00")  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"), 6.5, 2**53 + 1.0)
_MOMENTS = (0, 1, -1, 2**31, -(2**31), 2**62, -(2**62), 2**63 - 1, -(2**63))


def _some(values: Sequence[Any], rng: random.Random, count: int) -> list[Any]:
    share = rng.choice((0.0, 0.0, 0.1, 0.9, 1.0))
    return [None if rng.random() < share else rng.choice(values) for _ in range(count)]


def _integers(kind: pa.DataType) -> tuple[int, ...]:
    bits, is_signed = kind.bit_width, pa.types.is_signed_integer(kind)
    least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if is_signed else (0, (1 << bits) - 1)
    return least, most, 0, 1, 5


def _moments(kind: pa.DataType, rng: random.Random, count: int) -> pa.Array:
    base = pa.int32() if kind.bit_width == 32 else pa.int64()
    limit = 2 ** (kind.bit_width - 1)
    values = [value for value in _MOMENTS if -limit <= value < limit]
    if pa.types.is_time(kind):
        values = [0, 1, 3600]
    return pa.array(_some(values, rng, count), base).view(kind)


_MOMENT_KINDS = (
    pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.timestamp("s"),
    pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "Mars/X"),
    pa.duration("s"), pa.duration("ns"),
)  # fmt: skip
_INTEGER_KINDS = tuple(getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64))


def _plain(rng: random.Random, count: int) -> pa.Array:
    match rng.randrange(12):
        case 0:
            return pa.nulls(count)
        case 1:
            return pa.array(_some((True, False), rng, count), pa.bool_())
        case 2:
            kind = rng.choice(_INTEGER_KINDS)
            return pa.array(_some(_integers(kind), rng, count), kind)
        case 3:
            return pa.array(_some(FLOATS, rng, count), rng.choice((pa.float32(), pa.float64(), pa.float16())))
        case 4:
            return _moments(rng.choice(_MOMENT_KINDS), rng, count)
        case 5:
            kind = rng.choice((pa.decimal128(38, 10), pa.decimal256(76, 0), pa.decimal128(5, -2), pa.decimal128(3, 3)))
            return pa.array(
                _some([Decimal("0"), Decimal("0.1")] if kind.scale > 0 else [Decimal(0), Decimal(100)], rng, count), kind
            )
        case 6:
            kind = rng.choice((pa.binary(), pa.large_binary(), pa.binary(3), pa.binary_view()))
            return pa.array(_some((b"abc", b"\xff\xfe\0"), rng, count), kind)
        case 7 | 8:
            return pa.array(_some(TEXTS, rng, count), rng.choice((pa.string(), pa.large_string(), pa.string_view())))
        case 9:
            return pa.array(_some((datetime.timedelta(days=1), datetime.timedelta(0)), rng, count), pa.duration("us"))
        case 10:
            return pa.array(
                _some((pa.MonthDayNano([1, 2, 3]), pa.MonthDayNano([-1, 0, 0])), rng, count), pa.month_day_nano_interval()
            )
        case _:
            return pa.array(_some(FLOATS[:4], rng, count), pa.float32())


def column(rng: random.Random, count: int, depth: int = 2) -> pa.Array | pa.ChunkedArray:
    """A column of `count` rows."""
    kind = rng.randrange(14) if depth else 13
    if kind > 9:
        return _plain(rng, count)
    if kind == 0:
        offsets = sorted(rng.choices(range(2 * count + 1), k=count + 1))
        inside = column(rng, 2 * count, depth - 1)
        return rng.choice((pa.ListArray, pa.LargeListArray)).from_arrays(offsets, inside)
    if kind == 1:
        size = rng.choice((0, 1, 3))
        return (
            pa.FixedSizeListArray.from_arrays(column(rng, count * size, depth - 1), size)
            if size
            else pa.array([[]] * count, pa.list_(pa.int8(), 0))
        )
    if kind == 2:
        names = rng.sample(("bytes", "path", "a", "", "element", "a.b", "sample"), 2)
        return pa.StructArray.from_arrays([column(rng, count, depth - 1) for _ in names], names)
    if kind == 3:
        keys = pa.array([rng.choice(TEXTS) for _ in range(count)])
        return pa.MapArray.from_arrays(list(range(count + 1)), keys, column(rng, count, depth - 1))
    if kind == 4:
        words = (
            pa.array(list(dict.fromkeys(rng.choices(TEXTS, k=3))))
            if rng.random() < 0.6
            else pa.array(sorted(set(rng.choices((0.5, 1.5, 2.5), k=3))))
        )
        return pa.DictionaryArray.from_arrays(pa.array(_some(range(len(words)), rng, count), pa.int8()), words)
    if kind == 5 and count:
        values = _plain(rng, count)
        return pa.RunEndEncodedArray.from_arrays(pa.array(range(1, count + 1), pa.int32()), values)
    if kind == 6:
        return pa.array([[]] * count, pa.list_view(pa.int32()))
    if kind == 7:
        types = pa.array([0] * count, pa.int8())
        return pa.UnionArray.from_sparse(types, [pa.array(range(count)), pa.array(["x"] * count)])
    if kind == 8:
        storage = pa.array(_some((0, 1), rng, count), pa.int8())
        return pa.ExtensionArray.from_storage(pa.bool8(), storage)
    storage = pa.array([bytes(16)] * count, pa.binary(16))
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def changed(table: pa.Table, rng: random.Random, names: Sequence[str] = ()) -> pa.Table:
    """The table with one to three columns of other types, names, places, twice or not there; seldom without rows."""
    count = table.num_rows
    for _ in range(rng.choice((1, 1, 2, 3))):
        if not table.num_columns:
            break
        at = rng.randrange(table.num_columns)
        match rng.randrange(8):
            case 0:
                table = table.remove_column(at)
            case 1:
                table = table.append_column(
                    rng.choice((table.column_names[at], "", "a.b", *names, *TEXTS[:8])), column(rng, count)
                )
            case 2:
                new = [
                    rng.choice((*names, "x", "", name.upper(), name + " ", '"', "a\nb")) if place == at else name
                    for place, name in enumerate(table.column_names)
                ]
                table = table.rename_columns(new)
            case 3:
                table = table.set_column(at, table.column_names[at], _lost(table.column(at), rng))
            case _:
                table = table.set_column(at, table.column_names[at], column(rng, count))
    return table.slice(0, rng.choice((0, 1, 2))) if rng.random() < 0.08 else table


def _lost(found: pa.ChunkedArray, rng: random.Random) -> pa.ChunkedArray:
    """The column with some values gone, or all the same."""
    values = found.to_pylist()
    if rng.random() < 0.5:
        return pa.chunked_array([pa.array([None if rng.random() < 0.5 else value for value in values], found.type)])
    return pa.chunked_array([pa.array([values[0]] * len(values) if values else [], found.type)])


def parquet(make: Callable[[], pa.Table], rng: random.Random, tries: int = 20) -> bytes:
    """A Parquet file of the first of some tables that Parquet can hold, written in any of the usual ways."""
    for _ in range(tries):
        out = io.BytesIO()
        try:
            pq.write_table(
                make(), out, row_group_size=rng.choice((3, 7, 1000)), store_schema=rng.random() < 0.7,
                compression=rng.choice(("none", "snappy", "zstd", "gzip", "brotli", "lz4")), use_dictionary=rng.random() < 0.6,
                version=rng.choice(("1.0", "2.4", "2.6")), data_page_version=rng.choice(("1.0", "2.0")),
                use_deprecated_int96_timestamps=rng.random() < 0.1, write_statistics=rng.random() < 0.7,
            )  # fmt: skip
        except (pa.ArrowException, ValueError, OverflowError):
            continue
        return out.getvalue()
    raise ValueError("no such table can be written")

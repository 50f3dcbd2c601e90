"""Rows best first and what is to stay of pictures that are alike in; the rows in the order in which they are kept out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.select.budget import sizes_of
from beholder.curate.select.options import BYTES, KEEP_WORDS, OLDEST, PIXELS, SCORE
from beholder.errors import InputError
from beholder.io import storage
from beholder.scoreset import database
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ROW

if TYPE_CHECKING:
    from beholder.curate.select.rules import Rows

Order = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]

_UNKNOWN = np.iinfo(np.int64).max
_FLAG = "--dedup-keep"
_NAMED_AT_ONCE = 65_536
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "BOOLEAN")


def in_order_of_claim(rows: Rows, order: Order, num_always: int) -> tuple[Order, list[str]]:
    """Put rows into the order in which `--dedup` goes through them: of rows that are alike the first one stays.

    Most pixels, most bytes, the oldest file or the highest value of the expression come first, as `dedup_keep` says. Rows for
    which that is equal stay as they are ranked (by value, then by sample, then by row), and so do those for which it is not
    known, which come last. The first `num_always` rows, which stay in any case, stay in front.

    Args:
        rows: the score set, and what was asked for.
        order: (M,) rows, best first.
        num_always: how many at its head always stay.

    Returns:
        (M,) the same rows; lines worth telling.

    Raises:
        InputError: a column that is not there, or that holds no numbers; an expression that is none; no file time is known.
    """
    keep = rows.rules.dedup_keep
    if keep == SCORE or not len(order):
        return order, []
    if keep == PIXELS:
        places, what = _largest_first(pixels_of(rows.reader, f"{_FLAG} {PIXELS}")), "size in pixels"
    elif keep == BYTES:
        _check_column(rows.reader, columns.NUM_BYTES, f"{_FLAG} {BYTES}")
        places, what = _largest_first(recorded_bytes(rows.reader)), "number of bytes"
    elif keep == OLDEST:
        places, what = _file_times(rows, order), "file time"
    else:
        places, what = _places_by_expression(rows, keep), "value"
    places = places[order]
    parts = (places[:num_always], places[num_always:])
    by = np.concatenate([np.argsort(parts[0], kind="stable"), num_always + np.argsort(parts[1], kind="stable")])
    notes = []
    unknown = int((places == _UNKNOWN).sum())
    if unknown:
        shown = keep if keep in KEEP_WORDS else f"{' '.join(keep.split())!r}"
        why = " (no local file of its own, or one that has gone)" if keep == OLDEST else ""
        notes.append(
            f"{_FLAG} {shown}: the {what} of {unknown:,} of {len(order):,} rows is not known{why}; all others go before them"
        )
    return order[by], notes


def _largest_first(values: Places) -> Places:
    """Numbers that are smallest for the largest values; -1 is what is not known."""
    return np.where(values < 0, _UNKNOWN, -values)


def has_pixels(reader: RowReader) -> bool:
    """Whether the set has columns of width and height."""
    return all(name in reader.schema.names and reader.holds_numbers(name) for name in (columns.WIDTH, columns.HEIGHT))


def pixels_of(reader: RowReader, flag: str) -> Places:
    """(N,) int64 width times height of each row, -1 where it is not known. Raises InputError."""
    for name in (columns.WIDTH, columns.HEIGHT):
        _check_column(reader, name, flag)
    found = np.full(reader.num_rows, -1, np.int64)

    def put(first: int, table: pa.Table) -> None:
        sides = []
        for name in (columns.WIDTH, columns.HEIGHT):
            column = pc.fill_null(reader.numbers_in(table, name).cast(pa.float64(), safe=False), math.nan)
            sides.append(column.combine_chunks().to_numpy(zero_copy_only=False))
        with np.errstate(invalid="ignore", over="ignore"):
            pixels = sides[0] * sides[1]
            is_known = (sides[0] > 0) & (sides[1] > 0) & (pixels < 2.0**62)
            found[first : first + table.num_rows] = np.where(is_known, pixels, -1.0).astype(np.int64)

    for _ in reader.map([columns.WIDTH, columns.HEIGHT], put):
        pass
    return found


def recorded_bytes(reader: RowReader) -> Places:
    """(N,) int64 bytes of each picture as they were recorded, -1 where they are not known."""
    found = np.full(reader.num_rows, -1, np.int64)
    if columns.NUM_BYTES not in reader.schema.names or not reader.holds_numbers(columns.NUM_BYTES):
        return found

    def put(first: int, table: pa.Table) -> None:
        found[first : first + table.num_rows] = sizes_of(reader, table)

    for _ in reader.map([columns.NUM_BYTES], put):
        pass
    return np.maximum(found, -1)


def _check_column(reader: RowReader, name: str, flag: str) -> None:
    if name not in reader.schema.names:
        has = ", ".join(reader.metadata_columns[:20]) or "no metadata"
        raise InputError(f"{flag} needs the column {name}, which is not there ({has}); --join can bring it")
    if not reader.holds_numbers(name):
        raise InputError(f"{flag} needs numbers in the column {name}; it holds {reader.schema.field(name).type}")


def _places_by_expression(rows: Rows, expression: str) -> Places:
    """(N,) int64 0 for the highest value, 1 for the next, ...; `_UNKNOWN` for NULL and NaN."""
    named = f"{_FLAG} {' '.join(expression.split())!r}"
    connection, view = rows.database()
    try:
        fitted = database.check_expression(connection, expression, view, _FLAG, rows.untyped)
    except InputError as error:
        if expression.strip().isidentifier():
            raise InputError(f"{error}; words that are no columns: {', '.join(KEEP_WORDS)}") from None
        raise
    with database.clear_errors(named):
        described = database.first_row(connection, f"DESCRIBE SELECT (\n{fitted}\n) AS value FROM {view}")
        kind = str(described[1]) if described is not None else ""
        if kind.removeprefix("U") not in _NUMBERS and not kind.startswith("DECIMAL"):
            hint = "; TRY_CAST(... AS DOUBLE) makes numbers of text" if kind == "VARCHAR" else ""
            raise InputError(f"{named} gives values of {kind}, not numbers that could be compared{hint}")
        value = "CASE WHEN isnan(value) THEN NULL ELSE value END" if kind in ("FLOAT", "DOUBLE") else "value"
        query = (
            f"SELECT {ROW}, CASE WHEN value IS NULL THEN NULL ELSE dense_rank() OVER (ORDER BY value DESC NULLS LAST) END "
            f"FROM (SELECT {ROW}, {value} AS value FROM (SELECT {ROW}, (\n{fitted}\n) AS value FROM {view}))"
        )
        found = np.full(rows.scores.num_rows, _UNKNOWN, np.int64)
        for batch in database.batches_of(connection, query, 1 << 20):
            number, place = (batch.column(at) for at in (0, 1))
            found[number.to_numpy(zero_copy_only=False)] = pc.fill_null(place, _UNKNOWN).to_numpy(zero_copy_only=False)
    return found


def _file_times(rows: Rows, order: Order) -> Places:
    """(N,) int64 when each picture's file was last changed, in ns since 1970; `_UNKNOWN` for what is no local file."""
    found = np.full(rows.scores.num_rows, _UNKNOWN, np.int64)
    rows.stage("file times")
    with rows.finder() as finder:
        for at, samples in named_pieces(rows, np.sort(order)):
            for row, place in zip(at.tolist(), finder.locate(samples), strict=True):
                ref = place.files[0].ref
                if place.kind == "file" and ref is not None and ref.path is not None and storage.is_local(ref.path):
                    try:
                        found[row] = storage.local_path(ref.path).stat().st_mtime_ns
                    except (OSError, ValueError):
                        continue  # it has gone; counted with those that are not known
            rows.tell("file times", len(at))
    if (found == _UNKNOWN).all():
        raise InputError(
            f"{_FLAG} {OLDEST}: no picture is a local file whose time is known (in archives, tables and on servers it is not); "
            "--pictures or --root say where they are now, or keep by another rule"
        )
    return found


def named_pieces(rows: Rows, ascending: Order) -> Iterator[tuple[Order, list[str]]]:
    """Ascending rows and their samples, some tens of thousands at a time."""
    for start in range(0, len(ascending), _NAMED_AT_ONCE):
        part = ascending[start : start + _NAMED_AT_ONCE]
        yield part, rows.names.of(part).to_pylist()

"""The group of each row, by a column of the set or of metadata, or by one made of what is known; and how many each may have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.errors import InputError
from beholder.io.schemas import as_values, in_type, is_bytes, value_type
from beholder.kernels import ordering
from beholder.scoreset.database import WITH_FLAG, clear_errors, count_of, do, rows_of
from beholder.scoreset.row_names import Names
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ROW, quoted

if TYPE_CHECKING:
    import duckdb

Codes = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int64]
Sides = npt.NDArray[np.float64]
Number = TypeVar("Number", np.int32, np.int64)

FOLDER, SOURCE, ASPECT, SCORE_BUCKET, CLUSTER = "folder", "source", "aspect", "score_bucket", "cluster"
DERIVED = (FOLDER, SOURCE, ASPECT, SCORE_BUCKET, CLUSTER)
"""Columns that need not be there; a real column of the name wins."""

ASPECTS = ("9:21", "1:2", "9:16", "2:3", "3:4", "4:5", "1:1", "5:4", "4:3", "3:2", "16:9", "2:1", "21:9")
"""Width to height, from the tallest to the widest."""

MOST_LISTED = 1_000_000
"""Columns with more values are numbered by DuckDB, out of core."""


@dataclass(frozen=True)
class Groups:
    """The group of each row: (N,) int32 codes from 0, and how many groups there are."""

    codes: Codes
    num_groups: int


def group_rows(
    column: str,
    reader: RowReader,
    names: Names,
    score_keys: npt.NDArray[np.uint32] | None,
    database: Callable[[], tuple[duckdb.DuckDBPyConnection, str]],
    flag: str,
) -> Groups:
    """Groups by a real column, or by `folder`, `source`, `aspect` or `score_bucket`.

    Args:
        column: as the user named it.
        reader: the rows.
        names: their samples.
        score_keys: keys of the scores, for score_bucket.
        database: gives a connection and the view of the rows in it; asked for columns with very many values.
        flag: what asked for it, for messages.

    Raises:
        InputError: no such column, or one whose values cannot be compared.
    """
    if column == columns.SAMPLE and column not in reader.schema.names:
        column = reader.scores.sample_column
    if column in reader.schema.names:
        return _by_column(column, reader, database, flag)
    if column in (FOLDER, SOURCE):
        return _by_part(column, names, reader.num_rows)
    if column == ASPECT:
        return _by_aspect(reader, flag)
    if column == SCORE_BUCKET:
        if score_keys is None:
            raise InputError(f"{flag} score_bucket needs one score; choose it with --score")
        return _by_bucket(score_keys)
    known = ", ".join([*reader.schema.names[:20], *(name for name in DERIVED if name not in reader.schema.names)])
    raise InputError(f"{flag} {column}: there is no such column; there are {known}")


def _collect(num_rows: int, pieces: Iterable[tuple[int, npt.NDArray[Any], Sequence[Any]]], most_listed: int) -> Groups | None:
    """Put pieces together: (first row, code of each row in the piece, the piece's values); None: there are too many values."""
    codes, numbers = np.empty(num_rows, np.int32), dict[Any, int]()
    for first, inside, values in pieces:
        found = np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int32)
        if len(numbers) > most_listed:
            return None
        codes[first : first + len(inside)] = found[inside]
    return Groups(codes, len(numbers))


_FEW_TEXTS = (pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int32(), pa.large_string()))
"""How files give texts of which there are few. Dictionaries of others may have indices too narrow to be put together."""


def _by_column(
    column: str,
    reader: RowReader,
    database: Callable[[], tuple[duckdb.DuckDBPyConnection, str]],
    flag: str,
) -> Groups:
    kind = reader.schema.field(column).type
    inside = value_type(kind)
    if pa.types.is_nested(inside) or is_bytes(inside):
        raise InputError(f"{flag} {column}: rows cannot be put into groups by a column of {kind}")

    def encode(first: int, table: pa.Table) -> tuple[int, npt.NDArray[Any], list[Any]]:
        found = table.column(0)
        if found.type not in _FEW_TEXTS:
            found = as_values(found).dictionary_encode()
        encoded = found.unify_dictionaries().combine_chunks()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        indices = encoded.indices
        values = [None if value != value else value for value in encoded.dictionary.to_pylist()]  # NaN counts as null
        if indices.null_count:
            indices, values = pc.fill_null(indices, len(values)), [*values, None]
        return first, indices.to_numpy(zero_copy_only=False), values

    groups = _collect(reader.num_rows, reader.map([column], encode, encoded=[column]), MOST_LISTED)
    return groups if groups is not None else _by_database(column, reader, *database())


def _by_database(column: str, reader: RowReader, connection: duckdb.DuckDBPyConnection, source: str) -> Groups:
    """The same for a column with very many values, out of core."""
    value = quoted(column)
    if pa.types.is_floating(reader.schema.field(column).type):
        value = f"CASE WHEN isnan({value}) THEN NULL ELSE {value} END"
    codes = np.empty(reader.num_rows, np.int32)
    with clear_errors(f"groups by {column}", WITH_FLAG):
        distinct = f"SELECT DISTINCT {value} AS value FROM {source}"
        numbers = f"SELECT value, row_number() OVER () - 1 AS number FROM ({distinct})"
        do(connection, f"CREATE OR REPLACE TABLE group_numbers AS {numbers}")
        count = count_of(connection, "group_numbers")
        query = (
            f"SELECT r.{ROW} * {1 << 31} + g.number FROM (SELECT {ROW}, {value} AS value FROM {source}) AS r "
            "JOIN group_numbers AS g ON r.value IS NOT DISTINCT FROM g.value"
        )
        for found in rows_of(connection, query):
            codes[found >> 31] = found & ((1 << 31) - 1)
        connection.execute("DROP TABLE group_numbers")
    return Groups(codes, count)


def _by_part(column: str, names: Names, num_rows: int) -> Groups:
    from beholder.kernels import texts

    def encode(first: int, found: pa.LargeStringArray) -> tuple[int, npt.NDArray[Any], list[Any]]:
        numbers, offsets, data = texts.leading_parts(*texts.text_buffers(found), by_source=column == SOURCE)
        parts = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
        encoded = parts.dictionary_encode()
        return first, encoded.indices.to_numpy()[numbers], encoded.dictionary.to_pylist()

    groups = _collect(num_rows, names.map(column, encode), MOST_LISTED)
    if groups is None:
        raise InputError(f"the samples have more than {MOST_LISTED:,} values of {column}; that is too many for groups")
    return groups


def aspect_edges() -> Sides:
    """Width over height between neighbours of `ASPECTS`, ascending."""
    ratios = np.array([int(w) / int(h) for w, h in (text.split(":") for text in ASPECTS)])
    found: Sides = np.sqrt(ratios[1:] * ratios[:-1])
    return found


def _by_aspect(reader: RowReader, flag: str) -> Groups:
    for name in (columns.WIDTH, columns.HEIGHT):
        if name not in reader.schema.names:
            raise InputError(f"{flag} aspect needs the columns width and height; there is no {name} (--join can bring it)")
    edges = aspect_edges()

    def aspects(width: Sides, height: Sides) -> npt.NDArray[Any]:
        return np.where((width > 0) & (height > 0), np.searchsorted(edges, width / height), len(ASPECTS))

    return Groups(by_sides(reader, aspects, np.int32), len(ASPECTS) + 1)


def by_sides(reader: RowReader, work: Callable[[Sides, Sides], npt.NDArray[Any]], kind: type[Number]) -> npt.NDArray[Number]:
    """(N,) what `work` makes of the width and height of rows, some at a time; NaN where one is not known."""

    def made(table: pa.Table) -> npt.NDArray[Any]:
        columns_of = (in_type(reader.numbers_in(table, name), pa.float64()) for name in (columns.WIDTH, columns.HEIGHT))
        sides = [pc.fill_null(column, math.nan).combine_chunks().to_numpy(zero_copy_only=False) for column in columns_of]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return work(*sides)

    return reader.gathered([columns.WIDTH, columns.HEIGHT], made, kind)


def _by_bucket(score_keys: npt.NDArray[np.uint32]) -> Groups:
    """Half points, as far as there are any; what has no score is a group of its own."""

    def pieces() -> Iterable[tuple[int, npt.NDArray[Any], list[Any]]]:
        for first in range(0, len(score_keys), 1 << 20):
            scores = ordering.scores_of(score_keys[first : first + (1 << 20)]).astype(np.float64)
            values, inside = np.unique(np.floor(scores * 2), return_inverse=True)
            yield first, inside, [None if math.isnan(value) else value for value in values.tolist()]

    groups = _collect(len(score_keys), pieces(), len(score_keys))
    assert groups is not None
    return groups


def share_of(sizes: Counts, share: Fraction) -> Counts:
    """ceil(share * size) of each group, exactly."""
    found, inverse = np.unique(sizes, return_inverse=True)
    return np.array([math.ceil(share * size) for size in found.tolist()], np.int64)[inverse]


def equal_quotas(sizes: Counts, held: Counts, number: int | None, best_first: Callable[[Counts], Counts]) -> tuple[Counts, int]:
    """How many rows each group may have: as many as the others, as long as it has them.

    Args:
        sizes: (G,) rows of each group.
        held: (G,) rows that stay in any case (marked keep); they count.
        number: rows in all; None: every group is cut to the size of the smallest that has any.
        best_first: puts the numbers of groups in the order of their best rows; asked only for the last few rows, which
            cannot be shared out evenly.

    Returns:
        (G,) rows, and the common number.
    """

    def filled(level: int) -> Counts:
        return np.maximum(np.minimum(sizes, level), held)

    if number is None:
        level = int(sizes[sizes > 0].min()) if sizes.any() else 0
        return filled(level), level
    low, high = 0, int(sizes.max(initial=0))  # the largest level that does not take more than `number`
    while low < high:
        middle = (low + high + 1) // 2
        if int(filled(middle).sum()) <= number:
            low = middle
        else:
            high = middle - 1
    found = filled(low)
    rest = number - int(found.sum())
    if rest > 0:
        more = np.flatnonzero((sizes > low) & (held <= low))
        if rest < len(more):
            more = best_first(more)[:rest]
        found[more] += 1
    return found, low

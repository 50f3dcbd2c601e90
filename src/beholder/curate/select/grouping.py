"""The name of a column in, the group of each row out: a column of the set or of metadata, or one made of what is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.errors import InputError
from beholder.io.schemas import as_values, in_type, value_type
from beholder.kernels import ordering, texts
from beholder.scoreset.database import WITH_FLAG, clear_errors, count_of, do, rows_of
from beholder.scoreset.row_names import Names
from beholder.scoreset.row_reader import RowReader, text_buffers
from beholder.scoreset.score_set import ROW, quoted

if TYPE_CHECKING:
    import duckdb

Codes = npt.NDArray[np.int32]

FOLDER, SOURCE, ASPECT, SCORE_BUCKET, CLUSTER = "folder", "source", "aspect", "score_bucket", "cluster"
DERIVED = (FOLDER, SOURCE, ASPECT, SCORE_BUCKET, CLUSTER)
"""Columns that need not be there; a real column of the name wins."""

ASPECTS = ("9:21", "1:2", "9:16", "2:3", "3:4", "4:5", "1:1", "5:4", "4:3", "3:2", "16:9", "2:1", "21:9")
"""Width to height, from the tallest to the widest."""

_MANY_VALUES = 1_000_000
"""Columns with more values are numbered by DuckDB, out of core."""


@dataclass(frozen=True)
class Groups:
    """The group of each row.

    Attributes:
        column: its name.
        codes: (N,) int32 group of each row, from 0.
        values: the value of each group, None for NULL; None where there are too many to list.
        num_groups: how many there are.
    """

    column: str
    codes: Codes
    values: list[Any] | None
    num_groups: int


@dataclass
class _Numbering:
    """Values numbered in the order in which they come."""

    numbers: dict[Any, int] = field(default_factory=dict)

    def codes_of(self, values: Sequence[Any]) -> Codes:
        numbers = self.numbers
        return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int32)


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


def _collect(
    column: str, num_rows: int, pieces: Iterable[tuple[int, npt.NDArray[Any] | None, Sequence[Any], int]]
) -> Groups | None:
    """Put pieces together: (first row, code of each row in the piece or None for 0, the piece's values, rows)."""
    codes, numbering = np.empty(num_rows, np.int32), _Numbering()
    for first, inside, values, count in pieces:
        if len(numbering.numbers) + len(values) > _MANY_VALUES and len(values) > 1000:
            numbering.codes_of(values)
            if len(numbering.numbers) > _MANY_VALUES:
                return None
        found = numbering.codes_of(values)
        codes[first : first + count] = found[inside] if inside is not None else found[0] if count else 0
    return Groups(column, codes, list(numbering.numbers), len(numbering.numbers))


def _by_column(
    column: str, reader: RowReader, database: Callable[[], tuple[duckdb.DuckDBPyConnection, str]], flag: str
) -> Groups:
    kind = reader.schema.field(column).type
    inside = value_type(kind)
    if pa.types.is_nested(inside) or pa.types.is_binary(inside) or pa.types.is_large_binary(inside):
        raise InputError(f"{flag} {column}: rows cannot be put into groups by a column of {kind}")

    def encode(first: int, table: pa.Table) -> tuple[int, npt.NDArray[Any], list[Any], int]:
        found = as_values(table.column(0))
        if pa.types.is_floating(found.type):
            found = pc.if_else(pc.is_nan(found), None, found)
        encoded = found.combine_chunks().dictionary_encode(null_encoding="encode")
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        values = encoded.dictionary
        return first, encoded.indices.to_numpy(zero_copy_only=False), values.to_pylist(), len(found)

    groups = _collect(column, reader.num_rows, reader.map([column], encode))
    return groups if groups is not None else _by_database(column, reader, *database())


def _by_database(column: str, reader: RowReader, connection: duckdb.DuckDBPyConnection, source: str) -> Groups:
    """The same for a column with very many values, out of core."""
    name = quoted(column)
    plain = (
        f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END" if pa.types.is_floating(reader.schema.field(column).type) else name
    )
    with clear_errors(f"groups by {column}", WITH_FLAG):
        return _numbered_by_database(column, plain, reader.num_rows, connection, source)


def _numbered_by_database(column: str, plain: str, num_rows: int, connection: duckdb.DuckDBPyConnection, source: str) -> Groups:
    do(connection, f"CREATE OR REPLACE TABLE group_values AS SELECT DISTINCT {plain} AS value FROM {source}")
    do(
        connection,
        "CREATE OR REPLACE TABLE group_numbers AS SELECT value, row_number() OVER () - 1 AS number FROM group_values",
    )
    count = count_of(connection, "group_numbers")
    codes = np.empty(num_rows, np.int32)
    query = (
        f"SELECT r.{ROW} * {1 << 31} + g.number FROM (SELECT {ROW}, {plain} AS value FROM {source}) AS r "
        "JOIN group_numbers AS g ON r.value IS NOT DISTINCT FROM g.value"
    )
    for found in rows_of(connection, query):
        codes[found >> 31] = found & ((1 << 31) - 1)
    connection.execute("DROP TABLE group_values; DROP TABLE group_numbers")
    return Groups(column, codes, None, count)


def _by_part(column: str, names: Names, num_rows: int) -> Groups:
    def encode(first: int, found: pa.LargeStringArray) -> tuple[int, npt.NDArray[Any] | None, list[Any], int]:
        if not len(found):
            return first, None, [], 0
        numbers, offsets, data = texts.leading_parts(*text_buffers(found), by_source=column == SOURCE)
        parts = pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
        encoded = parts.dictionary_encode()
        return first, encoded.indices.to_numpy()[numbers], encoded.dictionary.to_pylist(), len(found)

    groups = _collect(column, num_rows, names.stream(column, encode))
    if groups is None:
        raise InputError(f"the samples have more than {_MANY_VALUES:,} values of {column}; that is too many for groups")
    return groups


def _by_aspect(reader: RowReader, flag: str) -> Groups:
    for name in (columns.WIDTH, columns.HEIGHT):
        if name not in reader.schema.names:
            raise InputError(f"{flag} aspect needs the columns width and height; there is no {name} (--join can bring it)")
    ratios = np.array([int(w) / int(h) for w, h in (text.split(":") for text in ASPECTS)])
    edges = np.sqrt(ratios[1:] * ratios[:-1])
    codes = np.empty(reader.num_rows, np.int32)

    def put(first: int, table: pa.Table) -> None:
        width, height = (
            pc.fill_null(in_type(reader.numbers_in(table, name), pa.float64()), 0)
            .combine_chunks()
            .to_numpy(zero_copy_only=False)
            for name in (columns.WIDTH, columns.HEIGHT)
        )
        known = (width > 0) & (height > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.searchsorted(edges, width / height)
        codes[first : first + table.num_rows] = np.where(known, found, len(ASPECTS))

    for _ in reader.map([columns.WIDTH, columns.HEIGHT], put):
        pass
    return Groups(ASPECT, codes, [*ASPECTS, None], len(ASPECTS) + 1)


def _by_bucket(score_keys: npt.NDArray[np.uint32]) -> Groups:
    def pieces() -> Iterable[tuple[int, npt.NDArray[Any], list[Any], int]]:
        for first in range(0, len(score_keys), 1 << 20):
            scores = ordering.scores_of(score_keys[first : first + (1 << 20)]).astype(np.float64)
            values, inside = np.unique(np.floor(scores * 2) / 2, return_inverse=True)
            yield first, inside, [None if np.isnan(v) else float(v) for v in values], len(scores)

    groups = _collect(SCORE_BUCKET, len(score_keys), pieces())
    assert groups is not None
    return groups

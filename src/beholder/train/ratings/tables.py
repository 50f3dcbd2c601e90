"""Tables of ratings: files and data frames, of which only the columns that are needed are read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError, number_of
from beholder.io import remote, schemas, storage
from beholder.io.tables import check_names, header_of, open_table, read_objects
from beholder.scoreset.row_names import whole
from beholder.sources.labels import valid_text
from beholder.train.ratings.findings import Findings
from beholder.train.ratings.ratings import Floats
from beholder.train.ratings.rows import Mask, Rows, mask_of, number_names

PARQUET, CSV, JSON = (".parquet", ".pq"), (".csv", ".tsv"), (".json", ".jsonl", ".ndjson")
FILE = "(file)"
"""The column of `files_table` that says which file a row is of."""
AVA_COLUMNS = ("index", "image_id", *(f"score{stars}" for stars in range(1, 11)), "tag1", "tag2", "challenge")
"""What the fields of AVA.txt are (Murray, Marchesotti and Perronnin, "AVA", CVPR 2012); the file has no header."""

_NO_VALUE = pa.array(["", "nan", "na", "n/a", "null", "none", "-", "?"], pa.large_string())
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


@dataclass(frozen=True)
class RatingTable:
    """A table whose columns are read when they are asked for.

    Attributes:
        named: where it is from, for messages.
        kind: `CSV`, `Parquet`, `JSON`, `AVA.txt` or `frame`.
        schema: names and types of all columns; of CSV all are text.
        read: names -> these columns, with all rows.
    """

    named: str
    kind: str
    schema: pa.Schema
    read: Callable[[Sequence[str]], pa.Table]

    def columns(self, *names: str | None) -> pa.Table:
        """These columns with all rows, each once; None is passed over."""
        return self.read(list(dict.fromkeys(name for name in names if name is not None)))

    def sample_rows(self, data: pa.Table, sample: str | None, findings: Findings) -> Rows:
        """The rows of `data` that name a picture in the column `sample`; None: all, by their numbers. Raises InputError."""
        names = number_names(data.num_rows) if sample is None else names_of(data[sample], self.named, sample)
        return Rows.of(self.named, names, findings)


def file_table(path: str) -> RatingTable:
    """A table in a CSV, TSV or Parquet file, local or remote. Raises InputError."""
    if path.lower().endswith(PARQUET):
        return _parquet(path)
    names = header_of(path)
    return RatingTable(path, "CSV", pa.schema([(name, pa.large_string()) for name in names]), functools.partial(_csv, path))


def files_table(paths: Sequence[str]) -> RatingTable:
    """Tables of the same columns as one, in this order, with the column `FILE`. Raises InputError where columns differ."""
    parts = [file_table(path) for path in paths]
    if len(parts) == 1:
        return parts[0]
    names = parts[0].schema.names
    for part in parts[1:]:
        if set(part.schema.names) != set(names):
            odd = sorted(set(part.schema.names) ^ set(names))
            raise InputError(
                f"{part.named} has other columns than {parts[0].named} ({', '.join(odd[:5])}); ratings from several files need "
                "the same"
            )
    is_same = all(part.schema.field(item.name).type == item.type for part in parts for item in parts[0].schema)

    def read(wanted: Sequence[str]) -> pa.Table:
        pieces = []
        for part in parts:
            inside = [name for name in wanted if name != FILE] or names[:1]
            table = part.read(inside)
            if not is_same:
                table = pa.table({name: schemas.as_text(table[name]) for name in inside})
            pieces.append(table.append_column(FILE, pa.array([part.named] * table.num_rows, pa.large_string())))
        return pa.concat_tables(pieces).select(list(wanted))

    fields = [(item.name, item.type if is_same else pa.large_string()) for item in parts[0].schema]
    named = f"{parts[0].named} and {number_of(len(parts) - 1, 'other file')}"
    return RatingTable(named, parts[0].kind, pa.schema([*fields, (FILE, pa.large_string())]), read)


def frame_table(table: pa.Table, named: str, kind: str = "frame") -> RatingTable:
    """A table in memory."""
    check_names(table.column_names, named)
    return RatingTable(named, kind, table.schema, lambda names: table.select(list(names)))


def objects_table(rows: Sequence[dict[str, Any]], path: str) -> RatingTable:
    """A table of JSON objects: a column for each key, null where a row lacks it."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    columns = {valid_text(name): _column([row.get(name) for row in rows]) for name in names}
    return frame_table(pa.table(columns), path, "JSON")


def read_json(path: str) -> list[dict[str, Any]]:
    """All objects of a JSON list or of JSON lines. Raises InputError."""
    return [row for rows in read_objects(path) for row in rows]


def ava_table(path: str) -> RatingTable:
    """AVA.txt: lines of 15 whole numbers, separated by blanks (`AVA_COLUMNS`). Raises InputError for other texts."""
    with remote.read_errors(path), storage.open_binary(path) as file:
        lines = file.read().split(b"\n")
    numbers = np.empty((len(lines), len(AVA_COLUMNS)), np.int64)
    count = 0
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        try:
            if len(fields) != len(AVA_COLUMNS):
                raise ValueError(fields)
            numbers[count] = [int(each) for each in fields]
        except (ValueError, OverflowError):
            raise InputError(
                f"{path}, line {number}: expected the {len(AVA_COLUMNS)} whole numbers of AVA.txt (index, image, ten counts, "
                "two tags, challenge); save other ratings as .csv with a row of column names"
            ) from None
        count += 1
    return frame_table(pa.table(dict(zip(AVA_COLUMNS, numbers[:count].T.copy(), strict=True))), path, "AVA.txt")


def _parquet(path: str) -> RatingTable:
    with remote.read_errors(path), storage.open_parquet(path) as file:
        schema = file.schema_arrow
    check_names(schema.names, path)

    def read(names: Sequence[str]) -> pa.Table:
        with remote.read_errors(path), storage.open_parquet(path) as opened:
            batches = list(opened.iter_batches(columns=list(names)))
        return pa.Table.from_batches(batches, pa.schema([schema.field(name) for name in names])).select(list(names))

    return RatingTable(path, "Parquet", schema.remove_metadata(), read)


def _csv(path: str, names: Sequence[str]) -> pa.Table:
    with open_table(path, {}) as (schema, batches):
        wanted = pa.schema([schema.field(name) for name in names])
        return pa.Table.from_batches([batch.select(list(names)) for batch in batches], wanted)


def _column(values: list[Any]) -> pa.Array:
    """An Arrow array of JSON values; where they are of several kinds, their texts."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, TypeError, UnicodeError):
        texts = [
            None if value is None else valid_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for value in values
        ]
        return pa.array(texts, pa.large_string())


def names_of(column: pa.ChunkedArray, named: str, name: str) -> pa.LargeStringArray:
    """Names as large strings, null where there is none; whole numbers that are stored as fractions lose their `.0`.

    Raises InputError for columns that hold no names.
    """
    column = schemas.as_values(column)
    if schemas.is_list(column.type) or pa.types.is_struct(column.type):
        raise InputError(
            f"{named}: column {name!r} holds lists, no names of pictures; say which does with --ratings-sample-column"
        )
    if pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        known = column.drop_null()
        if pc.all(pc.equal(known, pc.round(known))).as_py() and pc.all(pc.less(pc.abs(known), 2.0**53)).as_py():
            column = column.cast(pa.int64())
    texts = schemas.as_text(column)
    array = whole(texts)
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(array), ""), pa.scalar(None, pa.large_string()), array)


@dataclass(frozen=True)
class NumberColumn:
    """A column as numbers.

    Attributes:
        values: (N,) float64; NaN where there is none.
        is_missing: (N,) bool: nothing, or a word for nothing (`nan`, `null`, `n/a`).
        is_text: (N,) bool: something that is no finite number.
        texts: (N,) large strings of a column of text, else None.
    """

    values: Floats
    is_missing: Mask
    is_text: Mask
    texts: pa.LargeStringArray | None

    def examples(self, rows: Mask) -> list[str]:
        """What stands in the first three of these rows."""
        first = np.flatnonzero(rows)[:3]
        if self.texts is not None:
            return [repr(self.texts[int(row)].as_py()) for row in first]
        return [f"{self.values[row]:g}" for row in first]


def numbers_of(column: pa.ChunkedArray) -> NumberColumn:
    """Numbers of a column of any simple type; texts with a dot for fractions."""
    column = schemas.as_values(column)
    kind = column.type
    if schemas.is_number(kind) or pa.types.is_boolean(kind):
        numbers = column.cast(pa.uint8()) if pa.types.is_boolean(kind) else column
        values = np.array(numbers.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(), np.float64)
        is_missing, is_text = np.isnan(values), np.isinf(values)
        values[is_text] = np.nan
        return NumberColumn(values, is_missing, is_text, None)
    texts = pc.utf8_trim_whitespace(whole(schemas.as_text(column)))
    is_missing = ~mask_of(pc.invert(pc.is_in(pc.utf8_lower(texts), value_set=_NO_VALUE)).fill_null(False))
    is_missing |= mask_of(pc.is_null(texts))
    is_number = mask_of(pc.match_substring_regex(texts, _NUMBER).fill_null(False))
    values = np.full(len(texts), np.nan)
    values[is_number] = texts.filter(pa.array(is_number)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    too_large = np.isinf(values)
    values[too_large] = np.nan
    return NumberColumn(values, is_missing, (~is_missing & ~is_number) | too_large, texts)

"""Names and other columns of the rows of sources: tables with `sample` first, of pictures and of embeddings."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.columns import SAMPLE
from beholder.errors import InputError
from beholder.io import remote
from beholder.io.schemas import (
    add_counts,
    common_schema,
    fit_table,
    is_bytes,
    is_list,
    num_rows_of,
    schema_of,
    without_unused,
)
from beholder.io.storage import covering_row_groups, open_parquet, rows_within
from beholder.sources.reader import LateLabels, Part, PicturePart, ReadOptions, SourceOptions


def valid_text(name: str | bytes) -> str:
    r"""A name as valid UTF-8 text. Bytes that are none (file names of old systems) become `\xNN`, always the same way."""
    if isinstance(name, bytes):
        return name.decode("utf-8", "backslashreplace")
    try:
        name.encode()
    except UnicodeEncodeError:
        try:
            return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        except UnicodeEncodeError:
            return name.encode("utf-8", "backslashreplace").decode()
    return name


def is_heavy(kind: pa.DataType) -> bool:
    """Whether a column of this type holds bytes (pictures, masks): such columns are never passed through."""
    if pa.types.is_struct(kind):
        return any(is_heavy(kind.field(i).type) for i in range(kind.num_fields))
    if is_list(kind):
        return is_heavy(kind.value_type)
    return is_bytes(kind) or bool(pa.types.is_binary_view(kind))


def passable(schema: pa.Schema, *left_out: str) -> pa.Schema:
    """The columns that can be passed through: all but those that hold bytes, and `left_out`."""
    return pa.schema([item for item in schema if item.name not in left_out and not is_heavy(item.type)])


def passed_columns(available: Iterable[str], sample: str | None, options: SourceOptions) -> list[str]:
    """Columns to pass through, in order: with "*" all but the one that names the samples, else the named ones that exist.

    The source's own columns keep their names, whatever they are called; only `sample` is always what names the picture.
    """
    available = list(available)
    if "*" in options.columns:
        return [name for name in available if name not in (sample, SAMPLE)]
    return [name for name in options.columns if name in available and name != SAMPLE]


def check_columns(parts: Sequence[PicturePart], options: SourceOptions) -> None:
    """Raise InputError when a named column is in no part; `detail["columns"]` of a part lists what it has."""
    known = list(dict.fromkeys(name for part in parts for name in part.detail.get("columns", ())))
    has_tables = any(part.kind in ("table", "parquet") for part in parts)  # these have checked the two themselves
    for wanted in (*options.columns, *(() if has_tables else (options.sample_column, options.picture_column))):
        if wanted not in (None, "*", SAMPLE) and wanted not in known:
            what = f"they have: {listing(known)}" if known else "they have none"
            raise InputError(f"no source has a column {wanted!r}; {what}")


def listing(names: Sequence[str], most: int = 12) -> str:
    """Names in one line, cut after `most`."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def block_labels(samples: Sequence[str] | pa.Array, passed: dict[str, Any], options: SourceOptions) -> pa.Table:
    """`sample` (large_string) first, then `passed`; columns that were asked for by name and are not there are null text."""
    names = samples if isinstance(samples, pa.Array) else pa.array(samples, pa.large_string())
    columns = dict(passed)
    if "*" not in options.columns:
        for name in options.columns:
            if name != SAMPLE and name not in columns:
                columns[name] = pa.nulls(len(names), pa.string())
        columns = {name: columns[name] for name in options.columns if name != SAMPLE}
    return without_unused(pa.table({SAMPLE: names, **columns}))


def renames(names: pa.ChunkedArray, fallback: Callable[[int], str]) -> dict[int, str]:
    """New names of the rows that need one: null -> `fallback(row)`; the second "a" -> "a#2", the third -> "a#3"."""
    changed = {int(row): fallback(int(row)) for row in np.flatnonzero(pc.is_null(names).to_numpy(zero_copy_only=False))}
    encoded = names.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    valid = codes[codes >= 0]
    counts = np.bincount(valid) if len(valid) else np.zeros(0, int)
    if not changed and (not len(counts) or counts.max() <= 1):
        return changed
    texts = encoded.dictionary if changed else encoded.dictionary.filter(pc.match_substring(encoded.dictionary, "#"))
    taken = set(texts.to_pylist())
    for row, name in list(changed.items()):
        changed[row] = _free(name, taken, 2) if name in taken else name
        taken.add(changed[row])
    seen: dict[int, int] = {}
    again = np.flatnonzero((codes >= 0) & np.isin(codes, np.flatnonzero(counts > 1)))
    for at in again.tolist():
        code = int(codes[at])
        seen[code] = seen.get(code, 0) + 1
        if seen[code] > 1:
            changed[at] = _free(encoded.dictionary[code].as_py(), taken, seen[code])
            taken.add(changed[at])
    return changed


def _free(name: str, taken: set[str], number: int) -> str:
    while f"{name}#{number}" in taken:
        number += 1
    return f"{name}#{number}"


class UniqueNames:
    """Gives every name that comes by once as it is, and later ones of the same text with `#2`, `#3`, ..."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def take(self, name: str) -> str:
        """`name`, or `name#k` when it was given before."""
        count = self._counts.get(name, 0) + 1
        self._counts[name] = count
        if count == 1:
            return name
        while f"{name}#{count}" in self._counts:
            count += 1
        self._counts[name] = count
        self._counts[f"{name}#{count}"] = 1
        return f"{name}#{count}"


def column_of(values: Sequence[Any], wanted: pa.DataType | None = None) -> pa.Array:
    """JSON values as a column.

    Args:
        values: null, bool, int, float, str, or anything else JSON holds.
        wanted: the column's type where another file says it; values that do not fit become null.

    Returns:
        Of `wanted`, or: all null -> null; all bool -> bool; all int -> int64; numbers -> float64; anything else ->
        string, with everything that is no text as its JSON text.
    """
    if wanted is not None:
        return _as_type(values, wanted)
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int} and all(value is None or -(1 << 63) <= value < 1 << 63 for value in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float} and float in kinds and all(not isinstance(v, int) or abs(v) <= 1 << 53 for v in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else as_text(value) for value in values], pa.string())


def as_text(value: Any) -> str:
    """A JSON value as a column of text has it: text as it is, all else as JSON."""
    return valid_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _as_type(values: Sequence[Any], wanted: pa.DataType) -> pa.Array:
    is_text = pa.types.is_string(wanted) or pa.types.is_large_string(wanted)
    is_nested = pa.types.is_nested(wanted)
    fitted = []
    for value in values:
        if is_nested and isinstance(value, str):
            value = _parsed(value)
        if is_text and value is not None:
            value = as_text(value)
        elif isinstance(value, float) and pa.types.is_integer(wanted) and not value.is_integer():
            value = None
        try:
            pa.scalar(value, wanted)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            value = None
        fitted.append(value)
    return pa.array(fitted, wanted)


def _parsed(text: str) -> Any:
    """A list or object that stands as JSON text; None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def picture_labels_schema(parts: Sequence[PicturePart], options: SourceOptions) -> pa.Schema:
    """The columns that all shards of these parts get, from what their headers and first pictures say: `sample` first.

    A named column that no part knows is text.
    """
    schemas = []
    for part in parts:
        fields = {item.name: item for item in part.detail.get("schema", ())}
        chosen = passed_columns(fields, part.detail.get("sample"), options)
        schemas.append(pa.schema([fields[name] for name in chosen]))
    found = common_schema(schemas)
    if "*" not in options.columns:
        kinds = {item.name: item.type for item in found}
        named = dict.fromkeys(name for name in options.columns if name != SAMPLE)
        found = pa.schema([(name, kinds.get(name, pa.string())) for name in named])
    return pa.schema([(SAMPLE, pa.large_string()), *found])


def join_labels(
    tables: Sequence[pa.Table],
    schema: pa.Schema | None = None,
    *,
    late: Sequence[LateLabels] = (),
    remarks: dict[str, int] | None = None,
) -> pa.Table:
    """Labels of consecutive blocks as one table, though JSON fields may come and go or change their type.

    Args:
        tables: one or more, each with `sample` first.
        schema: the columns of the result; None: all that are there, of `schemas.common_type`.
        late: see `reader.PictureBlock`.
        remarks: takes up what was lost, as `schemas.fit_table` tells it.
    """
    if schema is None:
        schema = common_schema(map(schema_of, (*tables, *(one.said for one in late))))
    fitted = []
    for table in tables:
        rows, lost = fit_table(table, schema)
        fitted.append(rows)
        add_counts({} if remarks is None else remarks, lost)
    joined = pa.concat_tables(fitted)
    for one in late:
        known, lost = fit_table(one.said, schema)
        add_counts({} if remarks is None else remarks, lost)
        places = np.full(joined.num_rows, -1, np.int64)
        places[one.rows] = np.arange(len(one.rows))
        taken = known.take(pa.array(places, mask=places < 0))
        filled = [
            pc.coalesce(column, more) if name in one.said.column_names else column
            for name, column, more in zip(schema.names, joined.columns, taken.columns, strict=True)
        ]
        joined = pa.Table.from_arrays(filled, schema=schema)
    return joined


_PIECE_BYTES = 16 << 20
_PLAIN_ROWS = 1 << 18


def row_names(part_name: str, start: int, stop: int) -> pa.Array:
    """Names of rows that have none of their own: "<part name>#<row>", as large_string."""
    from beholder.kernels.decimals import numbered

    offsets, data = numbered(f"{part_name}#".encode(), start, stop)
    return pa.Array.from_buffers(pa.large_string(), stop - start, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def refuse_columns(part: Part, options: ReadOptions) -> None:
    """Raise InputError when columns were asked for of a part without any metadata."""
    wanted = [name for name in (*options.columns, options.sample_column) if name not in ("*", None)]
    if wanted:
        raise InputError(f"{part.path} has no metadata, so no column {wanted[0]!r}")


def embedding_labels_schema(parts: Iterable[Part], options: ReadOptions) -> pa.Schema:
    """The columns that all shards of these parts get, from what their headers say: `sample` first."""
    schemas = []
    for part in parts:
        kinds = {item.name: item for item in part.detail.get("labels", ())}
        sample = choose_sample_column(kinds, options.sample_column, part.path) if kinds else None
        chosen = choose_label_columns(kinds, options, part.path) if kinds else []
        schemas.append(pa.schema([kinds[name] for name in chosen if name not in (sample, columns.SAMPLE)]))
    found = common_schema(schemas)
    if "*" not in options.columns:
        found = pa.schema([found.field(name) for name in dict.fromkeys(options.columns) if name in found.names])
    return pa.schema([(columns.SAMPLE, pa.large_string()), *found])


def choose_sample_column(names: Iterable[str], wanted: str | None, where: str) -> str | None:
    """The column that names the rows: the wanted one, else the first known one, else None. Raises InputError."""
    names = list(names)
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"{where} has no column {wanted!r}; it has: {listing(names)}")
        return wanted
    return next((name for name in columns.SAMPLE_COLUMN_NAMES if name in names), None)


def choose_label_columns(names: Iterable[str], options: ReadOptions, where: str) -> list[str]:
    """Columns to read for the labels: the sample column first (if any), then the pass-through ones. Raises InputError."""
    names = list(names)
    sample = choose_sample_column(names, options.sample_column, where)
    passed_on = set(names) if "*" in options.columns else {sample, *options.columns}
    twice = sorted({name for name in names if name in passed_on and names.count(name) > 1})
    if twice:
        raise InputError(f"{where} has two columns called {twice[0]!r}; name the columns to pass one by one, or rename one")
    if "*" in options.columns:
        if sample != columns.SAMPLE and columns.SAMPLE in names:
            raise InputError(
                f"{where} has a column 'sample' besides --sample-column {sample}; name the columns to pass one by one"
            )
        passed = [name for name in names if name != sample]
    else:
        missing = [name for name in options.columns if name not in names]
        if missing:
            raise InputError(f"{where} has no column {missing[0]!r}; it has: {listing(names)}")
        passed = [name for name in options.columns if name != sample]
    return ([sample] if sample else []) + passed


def select_labels(table: pa.Table | None, part: Part, start: int, stop: int, options: ReadOptions) -> pa.Table:
    """`sample` (large_string, never null) first, then the asked-for columns of `table`, which has the rows [start, stop).

    Where there is no table, or one without columns, rows are named by their numbers.
    """
    numbers = row_names(part.name, start, stop)
    if table is None or not table.num_columns:
        return pa.table({columns.SAMPLE: numbers})
    chosen = choose_label_columns(table.column_names, options, part.path)
    sample = choose_sample_column(table.column_names, options.sample_column, part.path)
    names = pa.chunked_array([numbers])
    if sample is not None:
        names = names_as_text(table.column(sample), part.path, sample)
        if names.null_count:
            names = pc.if_else(pc.is_valid(names), names, numbers)
    passed = {name: table.column(name) for name in chosen if name not in (sample, columns.SAMPLE)}
    return without_unused(pa.table({columns.SAMPLE: names, **passed}))


def names_as_text(values: pa.ChunkedArray, path: str, column: str) -> pa.ChunkedArray:
    """A column of names as large_string. Raises InputError when it holds none."""
    try:
        return values.cast(pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InputError(
            f"{path}: column {column!r} ({values.type}) does not hold names as text; choose another --sample-column"
        ) from None


def _label_pieces(part: Part, start: int, stop: int, options: ReadOptions) -> Generator[pa.Table, None, None]:
    """Labels of rows [start, stop) from the part's metadata file, in tables of about `_PIECE_BYTES` at most."""
    chosen: list[str] = []
    if part.metadata_path is not None:
        with remote.read_errors(part.metadata_path), open_parquet(part.metadata_path, streamed=True) as file:
            chosen = choose_label_columns(file.schema_arrow.names, options, part.metadata_path)
            groups, at = covering_row_groups(file.metadata, start, stop)

            def batches() -> Iterator[pa.RecordBatch]:
                for group in groups if chosen else ():
                    num_rows = num_rows_of(file.metadata.row_group(group), _PIECE_BYTES, chosen)
                    yield from file.iter_batches(num_rows, [group], chosen, most_bytes=_PIECE_BYTES)

            for low, batch in rows_within(batches(), at, start, stop):
                table = pa.Table.from_batches([batch])
                yield select_labels(table.select(chosen), part, low, low + batch.num_rows, options)
    if not chosen:
        for low in range(start, stop, _PLAIN_ROWS):
            yield select_labels(None, part, low, min(stop, low + _PLAIN_ROWS), options)


class ConsecutiveLabels:
    """The labels of consecutive blocks of rows, for which the part's metadata file is read once from front to back.

    Args:
        part: with a metadata file of its own, or without one.
        start: the first row of the first block.
        stop: where the last block ends.
        options: columns to pass through.
    """

    def __init__(self, part: Part, start: int, stop: int, options: ReadOptions) -> None:
        self._none = select_labels(None, part, 0, 0, options)
        self._pieces = _label_pieces(part, start, stop, options)
        self._rest: pa.Table | None = None

    def take(self, num_rows: int) -> Iterator[pa.Table]:
        """The labels of the next `num_rows` rows, in tables of about `_PIECE_BYTES` at most, fewer at the end of the file."""
        while num_rows:
            piece = next(self._pieces, None) if self._rest is None else self._rest
            if piece is None:
                return
            taken = piece.slice(0, num_rows)
            self._rest = piece.slice(num_rows) if piece.num_rows > num_rows else None
            num_rows -= taken.num_rows
            yield taken

    def table(self, num_rows: int) -> pa.Table:
        """The labels of the next rows as one table."""
        pieces = list(self.take(num_rows))
        return pa.concat_tables(pieces) if pieces else self._none

    def close(self) -> None:
        """Let go of the file."""
        self._pieces.close()

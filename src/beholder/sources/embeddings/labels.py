"""Rows' names and pass-through columns: tables of metadata in, tables with `sample` first out."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.errors import InputError
from beholder.io import storage
from beholder.io.schemas import common_schema, num_rows_of, without_unused
from beholder.io.storage import covering_row_groups, open_parquet
from beholder.kernels.names import numbered
from beholder.sources.embeddings.reader import Part, ReadOptions

_PIECE_BYTES = 16 << 20
_PLAIN_ROWS = 1 << 18


def row_names(part_name: str, start: int, stop: int) -> pa.Array:
    """Names of rows that have none of their own: "<part name>#<row>", as large_string."""
    offsets, data = numbered(f"{part_name}#".encode(), start, stop)
    return pa.Array.from_buffers(pa.large_string(), stop - start, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def plain_labels(part: Part, start: int, stop: int) -> pa.Table:
    """Labels of rows [start, stop) where nothing else names them: their row numbers."""
    return pa.table({columns.SAMPLE: row_names(part.name, start, stop)})


def refuse_columns(part: Part, options: ReadOptions) -> None:
    """Raise InputError when columns were asked for of a part without any metadata."""
    wanted = [name for name in (*options.columns, options.sample_column) if name not in ("*", None)]
    if wanted:
        raise InputError(f"{part.path} has no metadata, so no column {wanted[0]!r}")


def labels_schema(parts: Iterable[Part], options: ReadOptions) -> pa.Schema:
    """The columns that all shards of these parts get, from what their headers say: `sample` first."""
    schemas = []
    for part in parts:
        kinds = _label_types(part)
        sample = choose_sample_column(kinds, options.sample_column, part.path) if kinds else None
        chosen = choose_label_columns(kinds, options, part.path) if kinds else []
        schemas.append(pa.schema([kinds[name] for name in chosen if name not in (sample, columns.SAMPLE)]))
    found = common_schema(schemas)
    if "*" not in options.columns:
        found = pa.schema([found.field(name) for name in dict.fromkeys(options.columns) if name in found.names])
    return pa.schema([(columns.SAMPLE, pa.large_string()), *found])


def _label_types(part: Part) -> dict[str, pa.Field]:
    """The columns that are not part of the embedding; those of CSV are text."""
    if part.kind == "csv":
        taken = set(part.detail["embedding"])
        return {name: pa.field(name, pa.large_string()) for at, name in enumerate(part.detail["names"]) if at not in taken}
    return {field.name: field for field in part.detail.get("labels", ())}


def choose_sample_column(names: Iterable[str], wanted: str | None, where: str) -> str | None:
    """The column that names the rows: the wanted one, else the first known one, else None. Raises InputError."""
    names = list(names)
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"{where} has no column {wanted!r}; it has: {_listing(names)}")
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
            raise InputError(f"{where} has no column {missing[0]!r}; it has: {_listing(names)}")
        passed = [name for name in options.columns if name != sample]
    return ([sample] if sample else []) + passed


def select_labels(table: pa.Table, part: Part, first_row: int, options: ReadOptions) -> pa.Table:
    """`sample` (large_string, never null) first, then the asked-for columns of `table`, whose row 0 is row `first_row`."""
    chosen = choose_label_columns(table.column_names, options, part.path)
    sample = choose_sample_column(table.column_names, options.sample_column, part.path)
    numbered_names = row_names(part.name, first_row, first_row + table.num_rows)
    if sample is None:
        names = pa.chunked_array([numbered_names])
    else:
        try:
            names = table.column(sample).cast(pa.large_string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            kind = table.schema.field(sample).type
            raise InputError(
                f"{part.path}: column {sample!r} ({kind}) does not hold names as text; choose another --sample-column"
            ) from None
        if names.null_count:
            names = pc.if_else(pc.is_valid(names), names, numbered_names)
        chosen = chosen[1:]
    passed = {name: table.column(name) for name in chosen if name != columns.SAMPLE}
    return without_unused(pa.table({columns.SAMPLE: names, **passed}))


def read_metadata(part: Part, start: int, stop: int, options: ReadOptions) -> pa.Table:
    """Labels of rows [start, stop) from the part's own metadata file, or plain row numbers when it has none."""
    with contextlib.closing(ConsecutiveLabels(part, start, stop, options)) as metadata:
        return metadata.table(stop - start)


def metadata_pieces(part: Part, start: int, stop: int, options: ReadOptions) -> Generator[pa.Table, None, None]:
    """The same as tables of consecutive rows, each of about `_PIECE_BYTES` at most."""
    chosen: list[str] = []
    if part.metadata_path is not None:
        with storage.remote_errors(part.metadata_path), open_parquet(part.metadata_path, streamed=True) as file:
            chosen = choose_label_columns(file.schema_arrow.names, options, part.metadata_path)
            groups, at = covering_row_groups(file.metadata, start, stop)
            for group in groups if chosen else ():
                rows = num_rows_of(file.metadata.row_group(group), _PIECE_BYTES, chosen)
                for batch in file.iter_batches(rows, [group], chosen, most_bytes=_PIECE_BYTES):
                    low, high = max(start, at), min(stop, at + batch.num_rows)
                    if high > low:
                        table = pa.Table.from_batches([batch.slice(low - at, high - low)])
                        yield select_labels(table.select(chosen), part, low, options)
                    at += batch.num_rows
    if not chosen:
        for low in range(start, stop, _PLAIN_ROWS):
            yield plain_labels(part, low, min(stop, low + _PLAIN_ROWS))


class ConsecutiveLabels:
    """The labels of consecutive blocks of rows, for which the part's metadata file is read once from front to back.

    Args:
        part: with a metadata file of its own, or without one.
        start: the first row of the first block.
        stop: where the last block ends.
        options: columns to pass through.
    """

    def __init__(self, part: Part, start: int, stop: int, options: ReadOptions) -> None:
        self._part = part
        self._pieces = metadata_pieces(part, start, stop, options)
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
        return pa.concat_tables(pieces) if pieces else plain_labels(self._part, 0, 0)

    def close(self) -> None:
        """Let go of the file."""
        self._pieces.close()


def _listing(names: list[str], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return shown + (f", ... ({len(names)} in all)" if len(names) > most else "")

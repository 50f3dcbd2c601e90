"""Scores of one shard in, Parquet or CSV text and a rejects table out; shards joined to one file at the end."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder import columns
from beholder.errors import InputError, OutputError
from beholder.io import records, storage
from beholder.io.schemas import as_text, common_schema, empty_table, fit_table, num_bytes_of, num_rows_of, pieces_of
from beholder.io.tables import open_table

REJECTS_SCHEMA = pa.schema([
    (columns.SAMPLE, pa.string()), (columns.STAGE, pa.string()), (columns.REASON, pa.string()), (columns.MESSAGE, pa.string())
])  # fmt: skip
_ROW_GROUP_ROWS = 1 << 20
_ROW_GROUP_BYTES = 64 << 20
"""A row group ends when it has so many rows or bytes; it is held in memory until then."""
_CSV_BYTES = 8 << 20
"""Bytes of columns that are made to text at a time, of which there are several copies then."""


def shard_files(stem: str, *, as_csv: bool) -> list[str]:
    """Where the scores and the rejects of a shard are written, relative to the run's folder."""
    return [
        f"{columns.SCORES_FOLDER}/{stem}.{'csv' if as_csv else 'parquet'}",
        f"{columns.REJECTS_FOLDER}/{stem}.parquet",
    ]


def scores_table(labels: pa.Table, scores: npt.NDArray[np.float32], names: Sequence[str]) -> pa.Table:
    """`sample`, then one float32 column per head, then the other columns of `labels`. scores: (N, H) float32."""
    table = {columns.SAMPLE: labels.column(columns.SAMPLE)}
    for position, name in enumerate(names):
        table[name] = pa.array(np.ascontiguousarray(scores[:, position]))
    for name in labels.column_names[1:]:
        table[name] = labels.column(name)
    return pa.table(table)


def rejects_table(samples: pa.ChunkedArray, stages: Sequence[str], reasons: Sequence[str], messages: Sequence[str]) -> pa.Table:
    """The rejects table: N samples, and for each where it failed, the fixed word, and the text."""
    texts = [pa.array(list(column), pa.string()) for column in (stages, reasons, messages)]
    return pa.table([samples.cast(pa.string()), *texts], schema=REJECTS_SCHEMA)


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Samples differ in every row, so a dictionary only costs; statistics of scores let readers skip row groups."""
    dictionary = [f.name for f in schema if f.name != columns.SAMPLE and not pa.types.is_floating(f.type)]
    return {"compression": "zstd", "compression_level": 1, "use_dictionary": dictionary, "write_page_checksum": True}


class ParquetRows:
    """Rows in, as they come, a Parquet file with row groups of bounded rows and bytes out. `close` ends the file."""

    def __init__(self, path: Path, schema: pa.Schema, metadata: Mapping[str, Any]) -> None:
        self._schema = schema.with_metadata({b"beholder": json.dumps(metadata).encode()})
        self._writer = pq.ParquetWriter(path, self._schema, **_parquet_options(self._schema))
        self._waiting: list[pa.Table] = []
        self._num_rows = self._num_bytes = 0

    def write(self, table: pa.Table) -> None:
        """Take rows of the file's columns."""
        for piece in pieces_of(table, _ROW_GROUP_BYTES // 4):
            self._waiting.append(piece)
            self._num_rows += piece.num_rows
            self._num_bytes += num_bytes_of(piece)
            while self._num_rows >= _ROW_GROUP_ROWS or self._num_bytes >= _ROW_GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        """Write what waits, but no more than the rows of one row group."""
        table = pa.concat_tables(self._waiting).replace_schema_metadata(self._schema.metadata)
        self._writer.write_table(table.slice(0, _ROW_GROUP_ROWS), row_group_size=_ROW_GROUP_ROWS)
        rest = table.slice(_ROW_GROUP_ROWS)
        self._waiting = [rest] if rest.num_rows else []
        self._num_rows, self._num_bytes = rest.num_rows, num_bytes_of(rest) if rest.num_rows else 0
        del table, rest
        pa.default_memory_pool().release_unused()

    def close(self, *, is_whole: bool = True) -> None:
        """Write the rest and the footer; of a file that is given up only let go of it."""
        if is_whole and self._num_rows:
            self._flush()
        self._writer.close()


@contextlib.contextmanager
def parquet_rows(path: Path, schema: pa.Schema, metadata: Mapping[str, Any]) -> Iterator[ParquetRows]:
    """Write a Parquet file row by row, whole or not at all; `metadata` goes into its schema as `beholder`."""
    with storage.write_whole(str(path)) as temporary:
        rows, is_whole = ParquetRows(temporary, schema, metadata), False
        try:
            yield rows
            is_whole = True
        finally:
            rows.close(is_whole=is_whole)


def write_parquet(path: Path, table: pa.Table, metadata: Mapping[str, Any]) -> int:
    """Write a table with `parquet_rows`. Returns the file's bytes."""
    with parquet_rows(path, table.schema, metadata) as out:
        out.write(table)
    return path.stat().st_size


def read_shard(path: Path, score_names: Sequence[str]) -> Iterator[tuple[pa.Table, npt.NDArray[np.float32]]]:
    """Rows of a Parquet file of scores, in pieces: labels (`sample` first) and scores, (N, H) float32."""
    with storage.open_parquet(str(path)) as file:
        for batch in file.iter_batches():
            table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
            yield table.drop_columns(list(score_names)), _columns(table, score_names)


def read_csv_shard(path: Path, score_names: Sequence[str]) -> Iterator[tuple[pa.Table, npt.NDArray[np.float32], list[str]]]:
    """Rows of a CSV file of scores, in pieces: labels (text), scores (N, H) float32 with NaN where rejected, and statuses."""
    with open_table(str(path), dict.fromkeys(score_names, pa.float32()), empty_is_null=True) as (_, batches):
        for batch in batches:
            table = pa.Table.from_batches([batch])
            words: list[str] = table.column(columns.STATUS).to_pylist()
            yield table.drop_columns([*score_names, columns.STATUS]), _columns(table, score_names), words


def read_rejects(path: Path) -> pa.Table:
    """A table of rejects."""
    with storage.open_parquet(str(path)) as file:
        return file.read().replace_schema_metadata(None)


def _columns(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.float32]:
    if not names:
        return np.empty((table.num_rows, 0), np.float32)
    found = [pc.fill_null(table.column(name), float("nan")).to_numpy() for name in names]
    return np.stack(found, axis=1).astype(np.float32, copy=False)


def scores_schema(labels: pa.Schema, names: Sequence[str]) -> pa.Schema:
    """The columns of `scores_table`. Raises InputError when a passed-through column has a score column's name."""
    twice = [name for name in labels.names if name in names]
    if twice:
        raise InputError(f"column {twice[0]!r} is in the metadata and the name of a score; name the columns to pass one by one")
    return pa.schema([labels.field(columns.SAMPLE), *((name, pa.float32()) for name in names), *list(labels)[1:]])


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """A record as the text of a `beholder.json`, with its checksum."""
    return records.sealed(record, indent=2)


def is_ours(path: str) -> bool:
    """Whether a Parquet file, local or remote, was written by this program."""
    try:
        with storage.open_parquet(path) as file:
            return b"beholder" in (file.schema_arrow.metadata or {})
    except (InputError, pa.ArrowException, OSError):
        return False


def check_csv_names(names: Iterable[str]) -> None:
    """Raise InputError for a passed-through column that a CSV cannot have."""
    for name in names:
        if name == columns.STATUS:
            raise InputError("column 'status' is the CSV's own; name the columns to pass one by one, or write .parquet")
        if "\n" in name or "\r" in name:
            raise InputError(f"column {name!r} has a line break in its name, which a CSV header cannot hold; leave it out")


def csv_columns(table: pa.Table, words: npt.NDArray[np.object_], score_names: Sequence[str]) -> pa.Table:
    """The table as text columns for a CSV: `sample`, scores (empty where rejected), `status`, then the others.

    words: (N,) the status of each row: "ok", or the reason why it was rejected.

    Scores are the shortest text that reads back as the same float32, always with a dot (5.0, never 5): tools that guess
    a column's type from its first rows would take it for integers and fail at the first fraction.
    """
    ready: dict[str, Any] = {columns.SAMPLE: table.column(columns.SAMPLE)}
    for name in score_names:
        text = pc.cast(table.column(name), pa.large_string())
        text = pc.if_else(
            pc.match_substring_regex(text, "[.e]"), text, pc.binary_join_element_wise(text, _text("0"), _text("."))
        )
        ready[name] = pc.if_else(pa.array(words == columns.STATUS_OK), text, _text(None))
    ready[columns.STATUS] = pa.array(words, pa.large_string())
    for name in table.column_names:
        if name not in ready:
            ready[name] = as_text(table.column(name))
    return pa.table(ready)


def _text(value: str | None) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())


def _quoted(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """RFC 4180: quotes around values that hold a comma, quote or line break, quotes doubled; null is empty."""
    text = pc.fill_null(pc.cast(text, pa.large_string()), "")
    needed = pc.match_substring_regex(text, '[",\r\n]')
    if not pc.any(needed).as_py():
        return text
    wrapped = pc.binary_join_element_wise(_text(""), pc.replace_substring(text, '"', '""'), _text(""), _text('"'))
    return pc.if_else(needed, wrapped, text)


class CsvRows:
    """Rows in, as they come, CSV text with a header out. Quotes stand only where they are needed.

    Args:
        out: a binary file.
        schema: of the rows, as `scores_table` makes them.
        score_names: which of its columns are scores.
    """

    def __init__(self, out: IO[bytes], schema: pa.Schema, score_names: Sequence[str]) -> None:
        self._out, self._names = out, score_names
        header = csv_columns(empty_table(schema), np.empty(0, object), score_names).column_names
        names = _quoted(pa.chunked_array([pa.array(header, pa.large_string())]))
        out.write((",".join(names.to_pylist()) + "\n").encode())

    def write(self, table: pa.Table, words: npt.NDArray[np.object_]) -> None:
        """Write rows; words: see `csv_columns`."""
        at = 0
        for piece in pieces_of(table, _CSV_BYTES):
            self._write_piece(csv_columns(piece, words[at : at + piece.num_rows], self._names))
            at += piece.num_rows

    def _write_piece(self, table: pa.Table) -> None:
        cells = [_quoted(column) for column in table.columns]
        lines = pc.binary_join_element_wise(*cells, _text(","))
        for chunk in pc.binary_join_element_wise(lines, _text(""), _text("\n")).chunks:
            if len(chunk):
                self._out.write(_text_bytes(chunk))


@contextlib.contextmanager
def csv_rows(path: Path, schema: pa.Schema, score_names: Sequence[str]) -> Iterator[CsvRows]:
    """Write a CSV file row by row, whole or not at all."""
    with storage.write_whole(str(path)) as temporary, temporary.open("wb") as out:
        yield CsvRows(out, schema, score_names)


def _text_bytes(array: pa.Array) -> memoryview:
    """The bytes of all values of a large_string array without nulls, one after the other."""
    _, offsets, data = array.buffers()
    edges = np.frombuffer(offsets, np.int64)[[array.offset, array.offset + len(array)]]
    return memoryview(data)[edges[0] : edges[1]]


def join_csv(target: str, parts: Sequence[Path], scratch: Path) -> None:
    """Join CSV parts of one header, in order, to one file; whole or not at all. Raises OutputError when headers differ."""
    header: bytes | None = None
    with storage.write_whole(target, scratch=scratch) as temporary, temporary.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                line = source.readline()
                if header is None:
                    header = line
                    out.write(header)
                elif line != header:
                    raise OutputError(
                        f"{target}: parts have different columns, which one CSV cannot hold; choose .parquet, or other columns"
                    )
                shutil.copyfileobj(source, out, 1 << 20)


def join_parquet(target: str, parts: Sequence[Path], metadata: Mapping[str, Any], scratch: Path) -> None:
    """Join Parquet parts of one schema, in order, to one file; whole or not at all. Small parts share row groups.

    The parts already carry `metadata`, so a single one is taken as it is.
    """
    with storage.write_whole(target, scratch=scratch) as temporary:
        if len(parts) == 1:
            shutil.copyfile(parts[0], temporary)
            return
        schema = common_schema(pq.read_schema(part) for part in parts)
        rows = ParquetRows(temporary, schema, metadata)
        for part in parts:
            with storage.open_parquet(str(part)) as source:
                for group in range(source.num_row_groups):
                    size = num_rows_of(source.metadata.row_group(group), _ROW_GROUP_BYTES // 4)
                    for batch in source.iter_batches(batch_size=size, row_groups=[group]):
                        rows.write(fit_table(pa.Table.from_batches([batch]), schema)[0])
        rows.close()

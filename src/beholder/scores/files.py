"""Scores of one shard in, Parquet or CSV text and a rejects table out; shards joined to one file at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder import columns, records, storage
from beholder.errors import InputError, OutputError

REJECTS_SCHEMA = pa.schema([
    (columns.SAMPLE, pa.string()), (columns.STAGE, pa.string()), (columns.REASON, pa.string()), (columns.MESSAGE, pa.string())
])  # fmt: skip
_ROW_GROUP_ROWS = 1 << 20


def shard_files(stem: str, *, as_csv: bool) -> list[str]:
    """Where the scores and the rejects of a shard are written, relative to the run's folder."""
    return [
        f"{columns.SCORES_FOLDER}/{stem}.{'csv' if as_csv else 'parquet'}",
        f"{columns.REJECTS_FOLDER}/{stem}.parquet",
    ]


def scores_table(labels: pa.Table, scores: npt.NDArray[np.float32], names: Sequence[str]) -> pa.Table:
    """`sample`, then one float32 column per head, then the other columns of `labels`. scores: (N, H) float32.

    Raises InputError when a passed-through column has a score column's name.
    """
    twice = [name for name in labels.column_names if name in names]
    if twice:
        raise InputError(f"column {twice[0]!r} is in the metadata and the name of a score; name the columns to pass one by one")
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


def write_parquet(path: Path, table: pa.Table, metadata: Mapping[str, Any]) -> int:
    """Write one Parquet file, whole or not at all; `metadata` goes into its schema as `beholder`. Returns its bytes."""
    with storage.write_whole(str(path)) as temporary:
        table = table.replace_schema_metadata({b"beholder": json.dumps(metadata).encode()})
        pq.write_table(table, temporary, row_group_size=_ROW_GROUP_ROWS, **_parquet_options(table.schema))
    return path.stat().st_size


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


def csv_columns(table: pa.Table, words: npt.NDArray[np.object_], score_names: Sequence[str]) -> pa.Table:
    """The table as text columns for a CSV: `sample`, scores (empty where rejected), `status`, then the others.

    words: (N,) the status of each row: "ok", or the reason why it was rejected.

    Scores are the shortest text that reads back as the same float32, always with a dot (5.0, never 5): tools that guess
    a column's type from its first rows would take it for integers and fail at the first fraction.
    """
    for name in table.column_names:
        if name == columns.STATUS:
            raise InputError("column 'status' is the CSV's own; name the columns to pass one by one, or write .parquet")
        if "\n" in name or "\r" in name:
            raise InputError(f"column {name!r} has a line break in its name, which a CSV header cannot hold; leave it out")
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
            ready[name] = _as_text(table.column(name))
    return pa.table(ready)


def _text(value: str | None) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return pc.cast(column, pa.large_string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # lists, structs, binary that is no text
        return pa.chunked_array([pa.array([None if v is None else str(v) for v in column.to_pylist()], pa.large_string())])


def _quoted(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """RFC 4180: quotes around values that hold a comma, quote or line break, quotes doubled; null is empty."""
    text = pc.fill_null(pc.cast(text, pa.large_string()), "")
    needed = pc.match_substring_regex(text, '[",\r\n]')
    if not pc.any(needed).as_py():
        return text
    wrapped = pc.binary_join_element_wise(_text(""), pc.replace_substring(text, '"', '""'), _text(""), _text('"'))
    return pc.if_else(needed, wrapped, text)


def write_csv_part(path: Path, table: pa.Table) -> int:
    """Write a table of text columns as CSV with a header, quotes only where needed. Returns the file's bytes."""
    header = pa.chunked_array([pa.array(table.column_names, pa.large_string())])
    with storage.write_whole(str(path)) as temporary, temporary.open("wb") as out:
        out.write((",".join(_quoted(header).to_pylist()) + "\n").encode())
        for batch in table.to_batches(max_chunksize=_ROW_GROUP_ROWS):
            cells = [_quoted(pa.chunked_array([column])) for column in batch.columns]
            lines = pc.binary_join_element_wise(*cells, _text(","))
            for chunk in pc.binary_join_element_wise(lines, _text(""), _text("\n")).chunks:
                out.write(chunk.buffers()[2])
    return path.stat().st_size


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
        schema = _common_schema([pq.read_schema(part).remove_metadata() for part in parts])
        schema = schema.with_metadata({b"beholder": json.dumps(metadata).encode()})
        with pq.ParquetWriter(temporary, schema, **_parquet_options(schema)) as writer:
            waiting: list[pa.Table] = []
            for part in parts:
                with storage.open_parquet(str(part)) as source:
                    for group in range(source.num_row_groups):
                        waiting.append(_as_schema(source.read_row_group(group), schema))
                        if sum(table.num_rows for table in waiting) >= _ROW_GROUP_ROWS:
                            writer.write_table(pa.concat_tables(waiting), row_group_size=_ROW_GROUP_ROWS)
                            waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting), row_group_size=_ROW_GROUP_ROWS)


def _common_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """All columns of all parts; those whose types have nothing in common (numbers here, text there) become text."""
    fields: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            if field.name not in fields:
                fields[field.name] = field
                continue
            both = [pa.schema([fields[field.name]]), pa.schema([field])]
            try:
                fields[field.name] = pa.unify_schemas(both, promote_options="permissive").field(0)
            except (pa.ArrowTypeError, pa.ArrowInvalid):
                fields[field.name] = pa.field(field.name, pa.large_string())
    return pa.schema(list(fields.values()))


def _as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with exactly these columns; those it lacks are null."""
    present = {name: table.column(name) for name in table.column_names}
    columns_ = [
        _cast(present[field.name], field.type) if field.name in present else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns_, schema=schema)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    return _as_text(column) if pa.types.is_large_string(kind) else column.cast(kind)

"""Tables written as one file by the end of its name: .txt, .csv, .parquet, .jsonl, each whole or not at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder import columns
from beholder.errors import OutputError
from beholder.io import schemas, storage
from beholder.io.arrow_types import as_values

_ROW_GROUP_ROWS = 1 << 20


def write_table(path: str, tables: Iterable[pa.Table], schema: pa.Schema, record: dict[str, Any]) -> None:
    """Write tables of one schema as one file, by the end of its name; `record` goes into Parquet files."""
    kind = PurePosixPath(path).suffix.lower()
    with storage.write_whole(path) as temporary:
        if kind == ".parquet":
            _write_parquet(temporary, tables, schema, record)
            return
        write = {".csv": _csv_lines, ".jsonl": _json_lines, ".txt": _text_lines}[kind]
        with temporary.open("wb") as file:
            if kind == ".csv":
                file.write((",".join(_quoted(pa.array(schema.names, pa.large_string())).to_pylist()) + "\n").encode())
            for table in tables:
                for start in range(0, table.num_rows, _ROW_GROUP_ROWS):
                    write(table.slice(start, _ROW_GROUP_ROWS), file)


def _write_parquet(path: Path, tables: Iterable[pa.Table], schema: pa.Schema, record: dict[str, Any]) -> None:
    schema = schema.with_metadata({b"beholder": json.dumps(record, default=str).encode()})
    plain = [item.name for item in schema if item.name != columns.SAMPLE and not pa.types.is_floating(item.type)]
    dictionary = [name for name in plain if name != "rank"]
    with pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=dictionary, write_page_checksum=True) as writer:
        for table in _gathered(tables):
            writer.write_table(table.cast(schema), row_group_size=_ROW_GROUP_ROWS)


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Small tables put together, so that row groups are not small."""
    waiting: list[pa.Table] = []
    num_rows = 0
    for table in tables:
        waiting.append(table)
        num_rows += table.num_rows
        if num_rows >= _ROW_GROUP_ROWS // 2:
            yield pa.concat_tables(waiting)
            waiting, num_rows = [], 0
    if num_rows:
        yield pa.concat_tables(waiting)


def _text(value: str | None) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as CSV has them: numbers with fractions always with a dot, truth as true and false, NaN and null as null."""
    column = as_values(column)
    kind = column.type
    if pa.types.is_floating(kind):
        text = pc.cast(column, pa.large_string())
        text = pc.if_else(
            pc.match_substring_regex(text, "[.enf]"), text, pc.binary_join_element_wise(text, _text("0"), _text("."))
        )
        return pc.if_else(pc.is_nan(column), _text(None), text)
    return schemas.as_text(column)


def _quoted(text: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """RFC 4180: quotes around values that hold a comma, quote or line break, quotes doubled; null is empty."""
    text = pc.fill_null(text, "")
    needed = pc.match_substring_regex(text, '[",\r\n]')
    if not pc.any(needed).as_py():
        return text
    wrapped = pc.binary_join_element_wise(_text(""), pc.replace_substring(text, '"', '""'), _text(""), _text('"'))
    return pc.if_else(needed, wrapped, text)


def _csv_lines(table: pa.Table, file: IO[bytes]) -> None:
    cells = [_quoted(as_text(column)) for column in table.columns]
    _put_lines(pc.binary_join_element_wise(*cells, _text(",")) if len(cells) > 1 else cells[0], file)


def _text_lines(table: pa.Table, file: IO[bytes]) -> None:
    names = table.column(columns.SAMPLE)
    if pc.any(pc.match_substring_regex(names, "[\r\n]")).as_py():
        raise OutputError("a sample has a line break in its name, which a list of lines cannot hold; write .csv or .parquet")
    _put_lines(names, file)


def _put_lines(lines: pa.ChunkedArray | pa.Array, file: IO[bytes]) -> None:
    found = pc.binary_join_element_wise(lines, _text(""), _text("\n"))
    for chunk in found.chunks if isinstance(found, pa.ChunkedArray) else [found]:
        if len(chunk):
            _, offsets, data = chunk.buffers()
            ends = np.frombuffer(offsets, np.int64)[[chunk.offset, chunk.offset + len(chunk)]]
            file.write(memoryview(data)[int(ends[0]) : int(ends[1])])


def _json_lines(table: pa.Table, file: IO[bytes]) -> None:
    names = table.column_names
    lists = [column.to_pylist() for column in table.columns]
    for values in zip(*lists, strict=True):
        line = {name: _plain(value) for name, value in zip(names, values, strict=True)}
        file.write((json.dumps(line, ensure_ascii=False, default=str) + "\n").encode(errors="surrogatepass"))


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value

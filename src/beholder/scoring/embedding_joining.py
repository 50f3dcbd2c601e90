"""Shards of one embedding set in, one file out: streamed, in memory that does not grow with the number of rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beholder.errors import OutputError
from beholder.io import storage
from beholder.io.schemas import common_schema, fit_table
from beholder.scoring.embedding_layouts import group_rows, parquet_options, stamped
from beholder.sources.embeddings.npy import check_array, read_header

_COPY_BYTES = 1 << 20
_HEADER_BYTES = 1 << 16


def join_shards(parts: Sequence[Path], target: str, stamp: Mapping[str, Any], *, scratch: Path | None = None) -> None:
    """Join files that `write_shard` wrote, in this order, to one; whole or not at all.

    Args:
        parts: at least one; all `.npy`, all `.csv` or all `.parquet` (for "npy" that is the metadata, joined on its own).
        target: a local path or a URL.
        stamp: for the schema metadata of Parquet.
        scratch: where the temporary file stands; see `storage.write_whole`.

    Raises:
        OutputError: no parts, parts that do not fit together, or the target cannot be written.
    """
    suffixes = {part.suffix for part in parts}
    if len(suffixes) != 1:
        raise OutputError(
            f"cannot write {target}: nothing was embedded" if not parts else f"{target}: parts of different kinds"
        )
    with storage.write_whole(target, scratch=scratch) as temporary:
        if suffixes == {".npy"}:
            _join_npy(parts, temporary, target)
        elif suffixes == {".csv"}:
            _join_csv(parts, temporary, target)
        else:
            _join_parquet(parts, temporary, target, stamp)


def cut_shard(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write rows of a joined Parquet file, with its schema, as a shard's file again."""
    with storage.write_whole(str(path)) as temporary, pq.ParquetWriter(temporary, schema, **parquet_options(schema)) as writer:
        for table in tables:
            writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=group_rows(schema))


def _join_npy(parts: Sequence[Path], temporary: Path, target: str) -> None:
    headers = []
    for part in parts:
        with part.open("rb") as source:
            shape, _, dtype, offset = read_header(source.read(_HEADER_BYTES), str(part))
        check_array(shape, dtype, str(part))
        headers.append((shape, dtype, offset))
    if len({(shape[1], dtype.str) for shape, dtype, _ in headers}) > 1:
        raise OutputError(f"{target}: parts have different dimensions or types; use --overwrite to start anew")
    num_rows, ((_, dim), dtype, _) = sum(shape[0] for shape, _, _ in headers), headers[0]
    with temporary.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, {"descr": dtype.str, "fortran_order": False, "shape": (num_rows, dim)})
        for part, (_, _, offset) in zip(parts, headers, strict=True):
            with part.open("rb") as source:
                source.seek(offset)
                shutil.copyfileobj(source, out, _COPY_BYTES)


def _join_csv(parts: Sequence[Path], temporary: Path, target: str) -> None:
    header: bytes | None = None
    with temporary.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                line = source.readline()
                if header is None:
                    header = line
                    out.write(header)
                elif line != header:
                    raise OutputError(f"{target}: parts have different columns; use --overwrite to start anew")
                shutil.copyfileobj(source, out, _COPY_BYTES)


def _join_parquet(parts: Sequence[Path], temporary: Path, target: str, stamp: Mapping[str, Any]) -> None:
    """Row groups are filled across parts: many small shards would give as many small groups."""
    schema = stamped(_common_schema([pq.read_schema(part).remove_metadata() for part in parts], target), stamp)
    most = group_rows(schema)
    waiting: list[pa.Table] = []
    num_waiting = 0
    with pq.ParquetWriter(temporary, schema, **parquet_options(schema)) as writer:
        for part in parts:
            with storage.open_parquet(str(part)) as source:
                for batch in source.iter_batches(batch_size=most):
                    waiting.append(fit_table(pa.Table.from_batches([batch]), schema)[0])
                    num_waiting += batch.num_rows
                    while num_waiting >= most:
                        table = pa.concat_tables(waiting)
                        writer.write_table(table.slice(0, most), row_group_size=most)
                        waiting, num_waiting = [table.slice(most)], num_waiting - most
        if num_waiting:
            writer.write_table(pa.concat_tables(waiting), row_group_size=most)


def _common_schema(schemas: Sequence[pa.Schema], target: str) -> pa.Schema:
    """All columns of all parts, embeddings last; those whose types have nothing in common become text."""
    kinds: dict[str, set[pa.DataType]] = {}
    for item in (item for schema in schemas for item in schema):
        kinds.setdefault(item.name, set()).add(item.type)
    if any(len(found) > 1 and any(map(pa.types.is_fixed_size_list, found)) for found in kinds.values()):
        raise OutputError(f"{target}: parts have embeddings of different kinds; use --overwrite to start anew")
    return pa.schema(sorted(common_schema(schemas), key=lambda item: pa.types.is_fixed_size_list(item.type)))

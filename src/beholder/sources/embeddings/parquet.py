"""A Parquet file in, blocks of the embeddings it holds out: one list column, or one column per dimension."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder.columns import RowStatus
from beholder.errors import InputError
from beholder.io import storage
from beholder.io.schemas import group_bytes, num_rows_of
from beholder.io.storage import covering_row_groups, open_parquet
from beholder.io.stream import read_ahead
from beholder.kernels.scoring import ColumnBlock, Embeddings
from beholder.sources.embeddings.labels import choose_label_columns, plain_labels, select_labels
from beholder.sources.embeddings.reader import Block, Part, ReadOptions
from beholder.sources.embeddings.wide import choose_embedding_columns

_MOST_FETCHED_BYTES = 64 << 20
_MOST_TOLD = 3
_PREFERRED = ("embedding", "embeddings", "img_emb", "image_embedding", "image_embeddings", "clip_embedding")


class ParquetReader:
    """Reads Parquet with a fixed-size-list, list, large-list or tensor column, or with one float column per dimension."""

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Choose the embedding column(s) from the schema; for lists of free length look at the first rows."""
        num_bytes = storage.size(path)
        with storage.remote_errors(path), open_parquet(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            layout, names, value_type = _choose_layout(schema, options.embedding_column, path)
            if layout == "wide":
                dim = len(names)
            elif pa.types.is_fixed_size_list(_stored(schema.field(names[0]).type)):
                dim = _stored(schema.field(names[0]).type).list_size
            else:
                dim = _first_length(file, names[0], path)
            cuts, at = [], 0
            for group in range(metadata.num_row_groups - 1):
                at += metadata.row_group(group).num_rows
                cuts.append(at)
            others = pa.schema([field for field in file.schema_with_ranges if field.name not in set(names)])
            file.check_dictionaries(columns=choose_label_columns(others.names, options, path))
            num_rows = metadata.num_rows
            largest = max((group_bytes(metadata.row_group(group)) for group in range(metadata.num_row_groups)), default=0)
        if dim == 0 and num_rows:
            raise InputError(f"{path}: the embeddings in column {names[0]!r} have no dimensions")
        dtype = _dtype_of(value_type)
        return Part(path, name, "parquet", num_rows, dim, dtype, num_bytes, cuts=tuple(cuts),
                    detail={"layout": layout, "columns": names, "labels": others, "group_bytes": largest})  # fmt: skip

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop); decoded by a thread of its own, a few batches ahead."""
        return read_ahead(_batches(part, start, part.num_rows if stop is None else stop, options), depth=1)


def _stored(kind: pa.DataType) -> pa.DataType:
    """What a column of an extension type (fixed-shape tensors) is stored as; others as they are."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _dtype_of(value_type: pa.DataType) -> str:
    """The dtype in which such numbers are scored; whole ones exactly."""
    if pa.types.is_float16(value_type):
        return "float16"
    is_wide = pa.types.is_float64(value_type) or (pa.types.is_integer(value_type) and value_type.bit_width > 16)
    return "float64" if is_wide else "float32"


def _list_value_type(kind: pa.DataType) -> pa.DataType | None:
    kind = _stored(kind)
    is_list = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return kind.value_type if is_list else None


def _choose_layout(schema: pa.Schema, wanted: str | None, path: str) -> tuple[str, list[str], pa.DataType]:
    """("list" or "wide", embedding column names, element type). Raises InputError when it is not clear."""
    lists = {field.name: _list_value_type(field.type) for field in schema if _list_value_type(field.type) is not None}
    floats = [name for name, value_type in lists.items() if pa.types.is_floating(value_type)]
    whole = [name for name, value_type in lists.items() if pa.types.is_integer(value_type)]
    if wanted is not None and wanted in lists:
        if wanted not in floats and wanted not in whole:
            raise InputError(f"{path}: column {wanted!r} is {schema.field(wanted).type}, expected a list of floats")
        return _as_list(schema, wanted, path)
    if wanted is None and floats:
        preferred = [name for name in _PREFERRED if name in floats] or floats
        if len(floats) > 1 and preferred is floats:
            raise InputError(f"{path}: which column holds the embeddings? Name it with --embedding-column: {', '.join(floats)}")
        return _as_list(schema, preferred[0], path)
    for name in [wanted] if wanted is not None else _PREFERRED:
        if name in schema.names and name not in floats:
            hint = _whole_numbers(name) if name in whole else ""
            raise InputError(f"{path}: column {name!r} is {schema.field(name).type}, expected a list of floats{hint}")
    numeric = [pa.types.is_floating(field.type) for field in schema]
    try:
        names = choose_embedding_columns(schema.names, numeric, wanted, path)
    except InputError as error:
        if whole:
            kind = schema.field(whole[0]).type
            raise InputError(f"{path}: column {whole[0]!r} is {kind}, no list of floats{_whole_numbers(whole[0])}") from None
        odd = [f"{field.name!r} is {field.type}" for field in schema if pa.types.is_nested(_stored(field.type))]
        raise InputError(f"{error}; column {', '.join(odd[:_MOST_TOLD])}" if odd else str(error)) from None
    types = {schema.field(name).type for name in names}
    odd = [name for name in names if not pa.types.is_floating(schema.field(name).type)]
    if odd:
        raise InputError(
            f"{path}: column {odd[0]!r} is {schema.field(odd[0]).type}; embeddings must be float16, float32 or float64"
        )
    return "wide", names, max(types, key=lambda kind: kind.bit_width)


def _as_list(schema: pa.Schema, name: str, path: str) -> tuple[str, list[str], pa.DataType]:
    """The layout of a list column. Raises InputError for tensors that are no vectors."""
    kind = schema.field(name).type
    shape = getattr(kind, "shape", None)
    if shape is not None and sum(length > 1 for length in shape) > 1:
        raise InputError(f"{path}: column {name!r} holds a tensor of shape {list(shape)} a row, expected a vector")
    value_type = _list_value_type(kind)
    assert value_type is not None
    return "list", [name], value_type


def _whole_numbers(name: str) -> str:
    """What to do about a column of whole numbers."""
    return (
        ": whole numbers are quantised embeddings, whose scale is not known; convert them to floats with their scale, "
        f"or score them as they are with --embedding-column {name}"
    )


def _first_length(file: pq.ParquetFile, name: str, path: str) -> int:
    """Length of the first list that is neither null nor empty; 0 when there is none."""
    for batch in file.iter_batches(batch_size=1024, columns=[name]):
        lengths = pc.list_value_length(_storage(batch.column(0)))
        if pc.max(lengths).as_py():
            first = next(length for length in lengths.to_pylist() if length)
            return int(first)
    if file.metadata.num_rows:
        raise InputError(f"{path}: every embedding in column {name!r} is null or empty")
    return 0


def _batches(part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
    names: list[str] = part.detail["columns"]
    is_list, large = part.detail["layout"] == "list", part.detail["group_bytes"] > _MOST_FETCHED_BYTES
    with storage.remote_errors(part.path), open_parquet(part.path, streamed=is_list and large) as file:
        others = [name for name in file.schema_arrow.names if name not in set(names)]
        labels = choose_label_columns(others, options, part.path)
        groups, at = covering_row_groups(file.metadata, start, stop)
        batches = _record_batches(file, groups, labels + names, part, options)
        for batch in batches:
            low, high = max(start, at), min(at + batch.num_rows, at + batch.num_rows if stop is None else stop)
            if high > low:
                rows = batch.slice(low - at, high - low)
                embeddings, statuses = _wide(rows, names) if part.detail["layout"] == "wide" else _lists(rows, names[0], part)
                if labels:
                    table = select_labels(pa.Table.from_batches([rows.select(labels)]), part, low, options)
                else:
                    table = plain_labels(part, low, high)
                yield Block(embeddings, table, statuses)
            at += batch.num_rows
            if stop is not None and at >= stop:
                return


def _record_batches(
    file: pq.ParquetFile, groups: Sequence[int], names: list[str], part: Part, options: ReadOptions
) -> Iterator[pa.RecordBatch]:
    """Row groups in order: as a whole where one fits into a block, which decodes a quarter faster; else in batches."""
    row_bytes = part.dim * np.dtype(part.dtype).itemsize
    labels = set(names) - set(part.detail["columns"])
    for group in groups:
        metadata = file.metadata.row_group(group)
        label_bytes = group_bytes(metadata, labels)
        num_bytes = metadata.num_rows * row_bytes + label_bytes
        is_small = num_bytes <= options.block_bytes and label_bytes <= options.block_bytes // 8
        if is_small and file.fits([group], names):
            yield from file.read_row_group(group, columns=names).combine_chunks().to_batches()
            continue
        most = options.block_bytes // 8
        rows = min(max(1, most // row_bytes), num_rows_of(metadata, most, labels))
        yield from file.iter_batches(rows, [group], names, most_bytes=most)


def _storage(column: pa.Array) -> pa.Array:
    """The lists behind a column of tensors; others as they are."""
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _wide(batch: pa.RecordBatch, names: list[str]) -> tuple[Embeddings, npt.NDArray[np.uint8] | None]:
    missing: npt.NDArray[np.bool_] | None = None
    arrays: list[npt.NDArray[Any]] = []
    for name in names:
        column = batch.column(name)
        if column.null_count:
            nulls = column.is_null().to_numpy(zero_copy_only=False)
            missing = nulls if missing is None else missing | nulls
            column = column.fill_null(0)
        arrays.append(column.to_numpy(zero_copy_only=True))
    widest = max((array.dtype for array in arrays), key=lambda dtype: dtype.itemsize)
    if any(array.dtype != widest for array in arrays):
        arrays = [array.astype(widest) for array in arrays]
    statuses = None if missing is None else np.where(missing, RowStatus.MISSING, 0).astype(np.uint8)
    return ColumnBlock(tuple(arrays)), statuses


def _lists(batch: pa.RecordBatch, name: str, part: Part) -> tuple[Embeddings, npt.NDArray[np.uint8] | None]:
    column, dtype, dim = _storage(batch.column(name)), np.dtype(part.dtype), part.dim
    num_rows = len(column)
    values = column.flatten()  # without the lists that are null; heeds the slice, which `.values` does not
    if pa.types.is_integer(values.type):
        values = values.cast(pa.from_numpy_dtype(dtype), safe=False)
    if pa.types.is_fixed_size_list(column.type):
        lengths = np.full(num_rows, dim)
    else:
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if not column.null_count and not values.null_count and bool((lengths == dim).all()):
        return values.to_numpy(zero_copy_only=True).reshape(num_rows, dim), None

    valid = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.where(valid, lengths, 0)
    statuses = np.where(valid, np.where(lengths == dim, 0, RowStatus.WRONG_DIMENSION), RowStatus.MISSING).astype(np.uint8)
    null_at = values.is_null().to_numpy(zero_copy_only=False)
    flat = values.fill_null(0).to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    embeddings = np.zeros((num_rows, dim), dtype)
    for row in np.flatnonzero(statuses == 0):
        inside = slice(starts[row], starts[row] + dim)
        if null_at[inside].any():
            statuses[row] = RowStatus.MISSING
        else:
            embeddings[row] = flat[inside]
    return embeddings, statuses

"""Arrow columns of any type in; the same values in types that Arrow computes with, as values to group by, or as text, out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError

_UUID, _BOOL8 = "arrow.uuid", "arrow.bool8"
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DIGITS = [at for at in range(36) if at not in (8, 13, 18, 23)]


def usual_type(kind: pa.DataType) -> pa.DataType:
    """The type without views of strings, bytes and lists, and run ends, for which Arrow and others lack most functions."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_run_end_encoded(kind):
        return usual_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        stored = usual_type(kind.storage_type)
        return kind if stored == kind.storage_type else stored
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, usual_type(kind.value_type), kind.ordered)
    if pa.types.is_map(kind):
        key, item = usual_type(kind.key_type), usual_type(kind.item_type)
        return kind if (key, item) == (kind.key_type, kind.item_type) else pa.map_(key, item, kind.keys_sorted)
    if pa.types.is_struct(kind):
        return pa.struct([item.with_type(usual_type(item.type)) for item in kind])
    if not (pa.types.is_nested(kind) and kind.num_fields == 1 and hasattr(kind, "value_field")):
        return kind
    inside = kind.value_field.with_type(usual_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inside, kind.list_size)
    return pa.large_list(inside) if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind) else pa.list_(inside)


def in_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column in another type that holds its values; whole numbers become the nearest floats."""
    if pa.types.is_run_end_encoded(column.type):
        column = pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], column.type.value_type)
    if _has_list_view(column.type):
        column = pa.chunked_array([_listed(chunk) for chunk in column.chunks], usual_type(column.type))
    return column if column.type == kind else column.cast(kind, safe=not pa.types.is_floating(kind))


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _has_list_view(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_list_view(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _has_list_view(kind.value_type)
    return _is_list_view(kind) or any(_has_list_view(kind.field(i).type) for i in range(kind.num_fields))


def _listed(array: pa.Array) -> pa.Array:
    """An array with list views as lists, which Arrow's own cast leaves half done (its offsets are too few)."""
    kind, wanted = array.type, usual_type(array.type)
    if not _has_list_view(kind):
        return array.cast(wanted)
    if _is_list_view(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        is_large = pa.types.is_large_list(wanted)
        offsets = np.zeros(len(array) + 1, np.int64 if is_large else np.int32)
        np.cumsum(pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False), out=offsets[1:])
        made = pa.LargeListArray if is_large else pa.ListArray
        return made.from_arrays(pa.array(offsets), _listed(array.flatten()), type=wanted, mask=array.is_null())
    if pa.types.is_struct(kind):
        inside = [_listed(array.field(i)) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(inside, fields=list(wanted), mask=array.is_null())
    return pa.array(array.to_pylist(), wanted)  # maps, dictionaries and the like of list views, which are rare


def empty_table(schema: pa.Schema) -> pa.Table:
    """No rows of a schema, of any type (`Schema.empty_table` cannot make lists of extension types)."""
    return pa.table([pa.chunked_array([], item.type) for item in schema], schema=schema)


def as_values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values that can be compared and shown: a dictionary's own, uuid as its text, bool8 as bool, else what is stored."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_values(column.cast(kind.value_type))
    if not isinstance(kind, pa.BaseExtensionType):
        return column
    if kind.extension_name == _UUID:
        return pa.chunked_array([_uuid_texts(chunk.storage) for chunk in column.chunks], pa.large_string())
    return as_values(column.cast(pa.bool_() if kind.extension_name == _BOOL8 else kind.storage_type))


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of `as_values` of a column of this one."""
    return as_values(pa.chunked_array([], kind)).type


def as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values as large strings. Raises Arrow's NotImplemented for types that have no text, Invalid for bytes that are none."""
    values = as_values(column)
    return values if pa.types.is_large_string(values.type) else values.cast(pa.large_string())


def as_numbers(column: pa.ChunkedArray, name: str, source: str) -> pa.ChunkedArray:
    """Numbers that stand as text, as float64; null where there is no text but spaces, or `nan`. Raises InputError."""
    texts = pc.utf8_trim_whitespace(as_texts(column))
    texts = pc.if_else(pc.is_in(pc.utf8_lower(texts), pa.array(["", "nan"], texts.type)), None, texts)
    try:
        return texts.cast(pa.float64())
    except pa.ArrowInvalid:
        for text in texts.unique().drop_null():
            try:
                text.cast(pa.float64())
            except pa.ArrowInvalid:
                raise InputError(f"{source}: column {name!r} holds {text.as_py()[:40]!r}, which is no number") from None
        raise


def _uuid_texts(stored: pa.FixedSizeBinaryArray) -> pa.LargeStringArray:
    """16 bytes each as `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` (RFC 9562, section 4)."""
    count = len(stored)
    data = stored.buffers()[1]
    if not count or data is None:
        return pa.nulls(count, pa.large_string())
    values = np.frombuffer(data, np.uint8)[16 * stored.offset : 16 * (stored.offset + count)].reshape(count, 16)
    text = np.full((count, 36), ord("-"), np.uint8)
    text[:, _DIGITS] = _HEX[np.stack([values >> 4, values & 15], axis=2).reshape(count, 32)]
    offsets = np.arange(0, 36 * (count + 1), 36, dtype=np.int64)
    made = pa.LargeStringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(text))
    return pc.if_else(stored.is_valid(), made, None) if stored.null_count else made

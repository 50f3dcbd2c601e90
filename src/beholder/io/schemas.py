"""Types of Arrow columns: the one schema that holds several tables, tables fitted to it, values of any type as text."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_MOST_BATCH_ROWS = 65536

_INT_DIGITS = {8: 3, 16: 5, 32: 10, 64: 20}
"""Decimal digits of integers by their bits, without a sign or with it."""
_FLOATS = [(11, pa.float16()), (24, pa.float32()), (53, pa.float64())]
"""Up to how many bits of an integer each type of fractional numbers holds."""
_MOST_EXACT = 1 << 53
_SMALL = {b"beholder": b"small integers"}


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both: null gives way, numbers widen as long as none is changed, else it is text."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    plain = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in (one, other)]
    if plain != [one, other] and not (plain[0] == plain[1] and pa.types.is_dictionary(one) and pa.types.is_dictionary(other)):
        return common_type(*plain)
    found = _common(one, other)
    if found is not None and all(_can_cast(kind, found) for kind in (one, other)):
        return found
    is_large = any(pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) for kind in plain)
    return pa.large_string() if is_large else pa.string()


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """What holds the values of two unequal types, none of them null; None: only text does."""
    kinds = (one, other)
    if all(map(is_number, kinds)):
        return _common_number(one, other)
    if all(map(is_list, kinds)):
        inside = _inside(one.value_type, other.value_type)
        is_large = any(map(pa.types.is_large_list, kinds))
        return None if inside is None else pa.large_list(inside) if is_large else pa.list_(inside)
    if all(map(pa.types.is_struct, kinds)):
        fields: dict[str, pa.DataType | None] = {}
        for item in (item for kind in kinds for item in kind):
            fields[item.name] = _inside(fields[item.name], item.type) if item.name in fields else item.type
        return None if None in fields.values() else pa.struct(list(fields.items()))
    if any(map(pa.types.is_nested, kinds)):
        return None
    try:
        return pa.unify_schemas([pa.schema([("", kind)]) for kind in kinds], promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _inside(one: pa.DataType | None, other: pa.DataType) -> pa.DataType | None:
    """The type of values inside lists and structs; None where they would have to become text: then the whole does."""
    if one is None or one == other or pa.types.is_null(other):
        return one
    return other if pa.types.is_null(one) else _common(one, other)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column of this type holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds bytes."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column of this type holds integers, floats or decimals."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _common_number(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the numbers of both exactly; None: there is none."""
    kinds = (one, other)
    if not any(map(pa.types.is_floating, kinds)):
        if all(map(pa.types.is_integer, kinds)) and not (
            pa.uint64() in kinds and any(map(pa.types.is_signed_integer, kinds))
        ):  # int64 holds all integers but those of uint64
            is_signed = any(map(pa.types.is_signed_integer, kinds))
            bits = [kind.bit_width * (2 if is_signed and pa.types.is_unsigned_integer(kind) else 1) for kind in kinds]
            return getattr(pa, f"{'' if is_signed else 'u'}int{max(bits)}")()
        scale = max(_scale(kind) for kind in kinds)
        digits = scale + max(_whole_digits(kind) for kind in kinds)
        return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale) if digits <= 76 else None
    least = max(kind.bit_width for kind in kinds if pa.types.is_floating(kind))
    others = [kind for kind in kinds if not pa.types.is_floating(kind)]
    if others and pa.types.is_decimal(others[0]):
        return None  # Arrow's cast of 3.01 is not the float64 next to it
    needed = others[0].bit_width if others else 0
    return next((kind for most, kind in _FLOATS if most >= needed and kind.bit_width >= least), None)


def _scale(kind: pa.DataType) -> int:
    return max(0, kind.scale) if pa.types.is_decimal(kind) else 0


def _whole_digits(kind: pa.DataType) -> int:
    """How many digits may stand before the point."""
    return int(kind.precision - kind.scale if pa.types.is_decimal(kind) else _INT_DIGITS[kind.bit_width])


def _can_cast(kind: pa.DataType, wanted: pa.DataType) -> bool:
    try:
        pa.nulls(1, kind).cast(wanted)
        return True
    except pa.ArrowException:
        return False


def common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """All columns of all schemas in the order of their first appearance, without metadata; where all is null, as text.

    Integers of 64 bits and fractional numbers are float64 where all the integers are known to be small (`small_integers`).
    """
    fields: dict[str, list[pa.Field]] = {}
    for field in (field for schema in schemas for field in schema):
        fields.setdefault(field.name, []).append(field)
    kinds = {name: reduce(common_type, _without_small(same)) for name, same in fields.items()}
    return pa.schema([(name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in kinds.items()])


def small_integers(field: pa.Field) -> pa.Field:
    """The field of a column of integers, marked as one whose values float64 holds: none is beyond 2**53."""
    return field.with_metadata(_SMALL)


def is_small(least: int, most: int) -> bool:
    """Whether float64 holds all integers from `least` to `most`."""
    return max(-least, most) <= _MOST_EXACT


def schema_of(table: pa.Table) -> pa.Schema:
    """The table's columns, with small integers marked."""
    fields = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_integer(field.type):
            ends = pc.min_max(column).as_py()
            if ends["min"] is None or is_small(ends["min"], ends["max"]):
                field = small_integers(field)
        fields.append(field)
    return pa.schema(fields)


def _without_small(fields: Sequence[pa.Field]) -> list[pa.DataType]:
    """The types of a column in several schemas, with small integers as float64 where others are fractional."""
    kinds = [field.type for field in fields]
    wide = [pa.types.is_integer(kind) and kind.bit_width == 64 for kind in kinds]
    if any(map(pa.types.is_floating, kinds)) and all(
        field.metadata == _SMALL for field, is_wide in zip(fields, wide, strict=True) if is_wide
    ):
        return [pa.float64() if is_wide else kind for kind, is_wide in zip(kinds, wide, strict=True)]
    return kinds


def fit_table(table: pa.Table, schema: pa.Schema) -> tuple[pa.Table, dict[str, int]]:
    """The table with exactly the columns of `schema`, in their order and of their types.

    Columns that it lacks are null, as are values that cannot be had in the column's type; columns that are not in the schema
    are left out.

    Returns:
        The table, and how many values were lost, by a line that says why.
    """
    columns, remarks = [], {}
    table = without_unused(table)
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        fitted = fit_column(column, field.type)
        columns.append(fitted)
        if lost := fitted.null_count - column.null_count:
            remarks[f"values that column {field.name!r} ({field.type}) cannot hold are null"] = lost
    for name in table.column_names:
        if name not in schema.names and (lost := table.num_rows - table.column(name).null_count):
            remarks[f"values of column {name!r}, met after the columns were decided, are left out"] = lost
    return pa.Table.from_arrays(columns, schema=schema), remarks


def fit_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The values in another type, null where they cannot be had in it; as text all of them can."""
    if column.type == kind:
        return column
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return as_text(column, kind)
    return pa.chunked_array([_fit(chunk, kind) for chunk in column.chunks], kind)


def _fit(array: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        fitted = array.cast(kind)
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):  # 0012 is no number, and 1 not true
            again = fit_column(pa.chunked_array([fitted]), array.type).combine_chunks()
            fitted = pc.if_else(pc.equal(again, array), fitted, pa.scalar(None, kind))
        return fitted
    except pa.ArrowNotImplementedError:
        return pa.nulls(len(array), kind)
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, kind)
        half = len(array) // 2
        return pa.concat_arrays([_fit(array.slice(0, half), kind), _fit(array.slice(half), kind)])


def as_text(column: pa.ChunkedArray, kind: pa.DataType | None = None) -> pa.ChunkedArray:
    r"""The values as text (`kind`: string, or large_string, the default).

    Fractional numbers are the shortest that read back as the same value of their own width, always with a dot or exponent;
    lists and structs are JSON; bytes that are no text have `\xNN` in it.
    """
    kind, given = pa.large_string() if kind is None else kind, column.type
    if pa.types.is_dictionary(given):
        return as_text(column.cast(given.value_type), kind)
    is_odd = pa.types.is_floating(given) or pa.types.is_nested(given) or isinstance(given, pa.BaseExtensionType)
    if not is_odd:
        try:
            return pc.cast(column, kind)
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # bytes that are no text
            pass
    chunks = [pa.array([_value_text(value, given) for value in chunk.to_pylist()], kind) for chunk in column.chunks]
    return pa.chunked_array(chunks, kind)


def _value_text(value: Any, kind: pa.DataType) -> str | None:
    plain = _json_value(value, kind)
    if plain is None or isinstance(plain, str):
        return plain
    if isinstance(plain, float) and not math.isfinite(plain):
        return str(plain)
    return json.dumps(plain, ensure_ascii=False, default=str)


def _json_value(value: Any, kind: pa.DataType) -> Any:
    """A value as `to_pylist` gives it, in JSON's types: fractions as the shortest of their width, what JSON has not as text."""
    if value is None:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    if pa.types.is_floating(kind):
        return float(str(kind.to_pandas_dtype()(value)))
    if pa.types.is_map(kind):
        return [[_json_value(key, kind.key_type), _json_value(item, kind.item_type)] for key, item in value]
    if pa.types.is_struct(kind):
        return {field.name: _json_value(value[field.name], field.type) for field in kind}
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_json_value(item, kind.value_type) for item in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if isinstance(value, str | bool | int) else str(value)


def num_bytes_of(table: pa.Table | pa.RecordBatch) -> int:
    """Bytes of the rows of a table, or of a slice of one; dictionaries with all their values, each once."""
    return sum(_plain_and_dictionary_bytes(table))


def _plain_and_dictionary_bytes(table: pa.Table | pa.RecordBatch) -> tuple[int, int]:
    """Bytes of the rows, of dictionaries only the indices; and those of the values of all dictionaries."""
    plain, dictionaries = 0, {}
    for column in table.columns:
        if not pa.types.is_dictionary(column.type):
            plain += column.nbytes
            continue
        plain += len(column) * column.type.index_type.bit_width // 8
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            values = chunk.dictionary
            at = (values.offset, len(values), *(buffer.address for buffer in values.buffers() if buffer is not None))
            dictionaries[at] = values.nbytes
    return plain, sum(dictionaries.values())


def without_unused(table: pa.Table) -> pa.Table:
    """The table with dictionaries of no more values than its rows name: each batch of a file has all those of its row group."""
    for at, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type):
            chunks = [_without_unused(chunk) for chunk in column.chunks]
            table = table.set_column(at, table.schema.field(at), pa.chunked_array(chunks, column.type))
    return table


def _without_unused(array: pa.DictionaryArray) -> pa.DictionaryArray:
    codes, values = array.indices, array.dictionary
    if values.nbytes <= len(codes) * array.type.index_type.bit_width // 8:
        return array
    is_used = np.zeros(len(values), bool)
    is_used[codes.drop_null().to_numpy()] = True
    if is_used.all():
        return array
    places = pa.array(np.cumsum(is_used) - 1).cast(array.type.index_type, safe=False)  # (an unused one may be -1)
    return pa.DictionaryArray.from_arrays(places.take(codes), values.filter(pa.array(is_used)), ordered=array.type.ordered)


def pieces_of(table: pa.Table, most_bytes: int) -> Iterator[pa.Table]:
    """Consecutive rows of a table, at most `most_bytes` or one row at a time; more where all rows share long values."""
    plain, dictionaries = _plain_and_dictionary_bytes(table)
    if table.num_rows <= 1 or plain + dictionaries <= most_bytes:
        yield table
        return
    half = table.num_rows // 2
    halves = [without_unused(table.slice(0, half)), without_unused(table.slice(half))]
    if plain <= most_bytes and sum(_plain_and_dictionary_bytes(some)[1] for some in halves) > dictionaries * 3 // 2:
        yield table
        return
    for some in halves:
        yield from pieces_of(some, most_bytes)


def num_rows_of(group: pq.RowGroupMetaData, most_bytes: int, names: Iterable[str] | None = None) -> int:
    """How many rows of a row group have about `most_bytes` in these columns (None: all), by the sizes its metadata tell."""
    return max(1, min(_MOST_BATCH_ROWS, most_bytes * int(group.num_rows) // max(1, group_bytes(group, names))))


def group_bytes(group: pq.RowGroupMetaData, names: Iterable[str] | None = None) -> int:
    """Bytes of these columns (None: all) of a row group when unpacked, by its metadata; repeated values may count once."""
    wanted = None if names is None else set(names)
    chunks = (group.column(index) for index in range(group.num_columns))
    return sum(
        int(chunk.total_uncompressed_size)
        for chunk in chunks
        if wanted is None or chunk.path_in_schema in wanted or chunk.path_in_schema.split(".")[0] in wanted
    )


def add_counts(total: dict[str, int], more: Mapping[str, int]) -> None:
    """Add the counts of `more` to `total`."""
    for text, count in more.items():
        total[text] = total.get(text, 0) + count


def schema_to_json(schema: pa.Schema) -> dict[str, Any]:
    """JSON-ready: the types by column, for people, and all of the schema as Arrow writes it."""
    return {
        "types": {field.name: str(field.type) for field in schema},
        "arrow": base64.b64encode(schema.serialize().to_pybytes()).decode(),
    }


def schema_of_json(record: Any) -> pa.Schema | None:
    """The schema that `schema_to_json` wrote; None for anything else."""
    try:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["arrow"], validate=True)))
    except (TypeError, KeyError, ValueError, pa.ArrowException, OSError, EOFError):
        return None


_UUID = "arrow.uuid"
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DIGITS = [at for at in range(36) if at not in (8, 13, 18, 23)]


def usual_type(kind: pa.DataType, name: str = "") -> pa.DataType:
    """The type without views of strings and bytes, for which Arrow and others lack most functions.

    Raises InputError for views of lists and for run ends, with which they can do less still.
    """
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_run_end_encoded(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        column = f"column {name!r}" if name else "a column"
        raise InputError(f"{column} is of type {kind}, which is not read; write it as plain values or lists, or leave it out")
    if isinstance(kind, pa.BaseExtensionType):
        stored = usual_type(kind.storage_type, name)
        return kind if stored == kind.storage_type else stored
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, usual_type(kind.value_type, name), kind.ordered)
    if pa.types.is_map(kind):
        key, item = usual_type(kind.key_type, name), usual_type(kind.item_type, name)
        return kind if (key, item) == (kind.key_type, kind.item_type) else pa.map_(key, item, kind.keys_sorted)
    if pa.types.is_struct(kind):
        return pa.struct([item.with_type(usual_type(item.type, name)) for item in kind])
    if not (pa.types.is_nested(kind) and kind.num_fields == 1 and hasattr(kind, "value_field")):
        return kind
    inside = kind.value_field.with_type(usual_type(kind.value_type, name))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inside, kind.list_size)
    return pa.large_list(inside) if pa.types.is_large_list(kind) else pa.list_(inside)


def in_type(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """The column in another type that holds its values; whole numbers become the nearest floats."""
    return column if column.type == kind else column.cast(kind, safe=not pa.types.is_floating(kind))


def empty_table(schema: pa.Schema) -> pa.Table:
    """No rows of a schema, of any type (`Schema.empty_table` cannot make lists of extension types)."""
    return pa.table([pa.chunked_array([], item.type) for item in schema], schema=schema)


def as_values(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values that can be compared and shown: a dictionary's own, uuid as its text, else what is stored."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_values(column.cast(kind.value_type))
    if not isinstance(kind, pa.BaseExtensionType):
        return column
    if kind.extension_name == _UUID:
        return pa.chunked_array([_uuid_texts(chunk.storage) for chunk in column.chunks], pa.large_string())
    return as_values(column.cast(kind.storage_type))


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

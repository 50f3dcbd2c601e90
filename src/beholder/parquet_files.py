"""A Parquet file in, its rows out a batch at a time: no dictionary of long values fills the memory, and damage is one line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder.errors import DamagedError, InputError, damaged

_BATCH_BYTES = 128 << 20
"""What the rows of one batch may take out of a dictionary."""
_MOST_UNPACKED_BYTES = 1 << 30
"""A column that unpacks to more in one row group is refused where it is mostly repetition (`_LEAST_RATIO`) of long values."""
_LEAST_RATIO = 16
_LONG_VALUE_BYTES = 16 << 10
_BLOAT_HINT = "write it without that column"
_DICTIONARY_PAGE = 2
_PAGE_HEADER_BYTES = 32


class ParquetFile(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file as pyarrow's, whose reading methods raise DamagedError for what pyarrow cannot make sense of.

    A text column holds UTF-8. A dictionary of long values is unpacked a few rows at a time; where that would never end
    (5 MB that unpack to 100 GB) it is refused.

    Args:
        path: for messages.
        source: a local path, or a file opened for reading.
        options: of pyarrow's.

    Raises:
        InputError: no Parquet file, or not a whole one.
    """

    def __init__(self, path: str, source: Any, **options: Any) -> None:
        self._path, self._from, self._options = path, source, options
        self._pages: int | None = None
        try:
            with damaged(lambda why: InputError(f"{path} is not a whole Parquet file: {why}; write it again")):
                try:
                    super().__init__(source, page_checksum_verification=True, **options)
                    self._leaves = self._leaves_of_bytes()
                except pa.ArrowNotImplementedError as error:  # whole numbers of 128 bits, of polars
                    why = " ".join(str(error).split())[:200].rstrip(".")
                    raise InputError(
                        f"{path} has a column of a type that cannot be read: {why}; write it without, or as another type"
                    ) from None
        except BaseException:
            if hasattr(source, "close"):
                source.close()
            raise

    def _leaves_of_bytes(self) -> dict[int, str]:
        """Number and path of the columns of bytes or text. Raises for a footer that contradicts itself."""
        self.schema_arrow.names  # noqa: B018 (raises for names that are no text)
        groups = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
        if min((0, *groups)) < 0 or sum(groups) != self.metadata.num_rows:
            raise ValueError(f"its row groups have {sum(groups)} rows, and it says {self.metadata.num_rows}")
        self._first_rows = [0, *accumulate(groups)]
        found = [self.schema.column(i) for i in range(self.metadata.num_columns)]
        return {i: leaf.path for i, leaf in enumerate(found) if leaf.physical_type == "BYTE_ARRAY"}

    def close(self, force: bool = False) -> None:
        """Let go of the file."""
        if self._pages is not None:
            os.close(self._pages)
            self._pages = None
        super().close(force)

    def iter_batches(
        self,
        batch_size: int = 65536,
        row_groups: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        **options: Any,
    ) -> Iterator[pa.RecordBatch]:
        """Batches of at most `batch_size` rows, fewer where their values are long. Raises DamagedError."""
        for group in range(self.metadata.num_row_groups) if row_groups is None else row_groups:
            yield from self._batches_of(group, batch_size, columns, _LONG_VALUE_BYTES, options)

    def read_row_groups(self, row_groups: Sequence[int], columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """Row groups as one table. Raises DamagedError."""
        groups = list(row_groups)
        first = self._first_rows[groups[0]] if groups else 0
        if all(self._rows_at_once(group, self._num_rows(group), columns, 0)[0] >= self._num_rows(group) for group in groups):
            with self._damage(first):
                table = super().read_row_groups(groups, columns=columns, **options)
            self._check(table.schema, table.columns, first)
            return table
        with self._damage():
            empty = super().read_row_groups([], columns=columns)
        batches = [
            batch for group in groups for batch in self._batches_of(group, self._num_rows(group), columns, 0, {})
        ]  # fmt: skip
        return pa.Table.from_batches(batches, empty.schema)

    def read_row_group(self, i: int, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """One row group. Raises DamagedError."""
        return self.read_row_groups([i], columns, **options)

    def read(self, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """The whole file. Raises DamagedError."""
        return self.read_row_groups(range(self.metadata.num_row_groups), columns, **options)

    def check_dictionaries(self, path: str | None = None, columns: Sequence[str] | None = None) -> None:
        """Raise DamagedError, naming `path`, where a column of long values unpacks to far more than the file holds.

        For readers other than this one, which would unpack it whole, and to know it before anything is done. `columns`: only
        these are looked at. Only what looks so by its sizes is read.
        """
        try:
            for group in range(self.metadata.num_row_groups):
                for leaf in self._leaves_in(columns):
                    chunk, num_bytes = self.metadata.row_group(group).column(leaf), self._dictionary_bytes(group, leaf)
                    if _is_bloated(num_bytes * chunk.num_values, self._num_rows(group), chunk, _LONG_VALUE_BYTES):
                        self._check_bloat(group, leaf, self._longest(group, leaf), _LONG_VALUE_BYTES)
        except DamagedError as error:
            raise DamagedError(path or self._path, error.why, hint=_BLOAT_HINT) from None

    def _check_bloat(self, group: int, leaf: int, longest: int, floor: int) -> None:
        """Raise DamagedError where a column is bloated; `longest`: bytes of its longest value."""
        chunk, num_rows = self.metadata.row_group(group).column(leaf), self._num_rows(group)
        if not _is_bloated(longest * chunk.num_values, num_rows, chunk, floor):
            return
        unpacked = 0
        with self._damage(), self._as_dictionaries() as file:
            for batch in file.iter_batches(row_groups=[group], columns=[self._leaves[leaf]]):
                values = _leaf_of(batch.column(0))
                if isinstance(values, pa.DictionaryArray):
                    lengths = pc.fill_null(pc.binary_length(values.dictionary), 0).cast(pa.int64())
                    unpacked += pc.sum(lengths.take(values.indices.drop_null())).as_py() or 0
        if _is_bloated(unpacked, num_rows, chunk, floor):
            raise DamagedError(self._path, _bloat(self._leaves[leaf], unpacked, chunk), hint=_BLOAT_HINT)

    def _leaves_in(self, columns: Sequence[str] | None) -> list[int]:
        """Numbers of the columns of bytes or text in these columns; None: in all."""
        if columns is None:
            return list(self._leaves)
        names = tuple(f"{name}." for name in columns)
        return [leaf for leaf, path in self._leaves.items() if f"{path}.".startswith(names)]

    def _num_rows(self, group: int) -> int:
        return int(self.metadata.row_group(group).num_rows)

    def _damage(self, near_row: int | None = None, what: str = "") -> AbstractContextManager[None]:
        return damaged(lambda why: DamagedError(self._path, what + why, near_row=near_row))

    def _batches_of(
        self, group: int, batch_size: int, columns: Sequence[str] | None, floor: int, options: dict[str, Any]
    ) -> Iterator[pa.RecordBatch]:
        """Batches of one row group; `floor`: values as short as that are never too many."""
        rows, long_leaves = self._rows_at_once(group, batch_size, columns, floor)
        first = self._first_rows[group]
        with self._damage(first):
            batches = super().iter_batches(rows, [group], columns=columns, **options)
        unpacked, at = dict.fromkeys(long_leaves, 0), 0
        while True:
            with self._damage(first + at):
                batch = next(batches, None)
            if batch is None:
                return
            self._check(batch.schema, batch.columns, first + at)
            at += batch.num_rows
            for leaf in long_leaves:
                top = self._leaves[leaf].split(".")[0]
                unpacked[leaf] += batch.column(batch.schema.get_field_index(top)).nbytes
                chunk = self.metadata.row_group(group).column(leaf)
                if _is_bloated(unpacked[leaf], at, chunk, floor):
                    raise DamagedError(self._path, _bloat(self._leaves[leaf], unpacked[leaf], chunk), hint=_BLOAT_HINT)
            yield batch

    def _check(self, schema: pa.Schema, columns: Iterable[Any], at: int) -> None:
        """Raise DamagedError for text that is not UTF-8, and for lists that lead outside of their values."""
        for field, column in zip(schema, columns, strict=True):
            if pa.types.is_primitive(field.type):
                continue
            with self._damage(at, f"column {field.name!r}: "):
                try:
                    column.validate(full=True)
                except pa.ArrowInvalid as error:
                    if "UTF8" not in str(error):
                        raise
                    raise ValueError("text that is not UTF-8") from None

    def _rows_at_once(self, group: int, batch_size: int, columns: Sequence[str] | None, floor: int) -> tuple[int, list[int]]:
        """Rows of a batch of at most `batch_size`, and the columns for whose sake they are fewer."""
        rows, long_leaves = batch_size, []
        for leaf in self._leaves_in(columns):
            num_values = self.metadata.row_group(group).column(leaf).num_values
            a_row = max(1.0, num_values / max(1, self._num_rows(group)))
            most = min(batch_size, self._num_rows(group)) * a_row
            longest = self._dictionary_bytes(group, leaf)
            if longest * most > _BATCH_BYTES and (isinstance(self._from, str) or not self._has_long_values(group, leaf)):
                longest = self._longest(group, leaf)
                self._check_bloat(group, leaf, longest, floor)
            if longest * most > _BATCH_BYTES:
                rows = min(rows, max(1, int(_BATCH_BYTES / (longest * a_row))))
                long_leaves.append(leaf)
        return rows, long_leaves

    def _has_long_values(self, group: int, leaf: int) -> bool:
        """Whether values are so long (pictures) that a few rows at a time are read as fast as many."""
        chunk = self.metadata.row_group(group).column(leaf)
        return bool(chunk.total_uncompressed_size > _LONG_VALUE_BYTES * chunk.num_values)

    def _dictionary_bytes(self, group: int, leaf: int) -> int:
        """Bytes that the dictionary of a column unpacks to, as its page says; 0: it has none."""
        chunk = self.metadata.row_group(group).column(leaf)
        start = chunk.data_page_offset
        if chunk.dictionary_page_offset is not None and 0 < chunk.dictionary_page_offset < start:
            start = chunk.dictionary_page_offset
        kind, num_bytes = _page(self._bytes_at(start) if start >= 0 else b"")
        if kind is None or num_bytes is None:
            return int(chunk.total_uncompressed_size)
        return num_bytes if kind == _DICTIONARY_PAGE else 0

    def _bytes_at(self, start: int) -> bytes:
        """A few bytes of the file."""
        if not isinstance(self._from, str):
            self._from.seek(start)
            data: bytes = self._from.read(_PAGE_HEADER_BYTES)
            return data
        if self._pages is None:
            self._pages = os.open(self._from, os.O_RDONLY | os.O_CLOEXEC)
        return os.pread(self._pages, _PAGE_HEADER_BYTES, start)

    def _longest(self, group: int, leaf: int) -> int:
        """Bytes of the longest value in the dictionary of a column."""
        with self._damage(), self._as_dictionaries() as file:
            batch = next(file.iter_batches(1, [group], columns=[self._leaves[leaf]]), None)
            values = _leaf_of(batch.column(0)) if batch is not None else None
            if not isinstance(values, pa.DictionaryArray):
                return 0
            return pc.max(pc.binary_length(values.dictionary)).as_py() or 0

    def _as_dictionaries(self) -> pq.ParquetFile:
        """The file once more; its columns of bytes come as dictionaries."""
        options = {**self._options, "pre_buffer": False, "buffer_size": 0 if self._options.get("memory_map") else 1 << 20}
        return pq.ParquetFile(self._from, read_dictionary=list(self._leaves.values()), **options)


def _leaf_of(array: pa.Array) -> pa.Array:
    """The values at the bottom of structs and lists of one field."""
    while not isinstance(array, pa.DictionaryArray) and pa.types.is_nested(array.type):
        array = array.field(0) if pa.types.is_struct(array.type) else array.values
    return array


def _is_bloated(unpacked: int, num_rows: int, chunk: Any, floor: int) -> bool:
    return bool(unpacked > max(_MOST_UNPACKED_BYTES, _LEAST_RATIO * chunk.total_uncompressed_size, floor * num_rows))


def _bloat(column: str, unpacked: int, chunk: Any) -> str:
    return (
        f"column {column!r} unpacks to {unpacked:,} bytes and more out of {chunk.total_uncompressed_size:,}, "
        "because its rows name a few long values again and again"
    )


def _page(head: bytes) -> tuple[int | None, int | None]:
    """Kind of a page and the bytes that it unpacks to, from the start of its header (Thrift's compact protocol)."""
    found: dict[int, int] = {}
    at = field = 0
    while field < 2 and at < len(head) and head[at] & 15 == 5 and head[at] >> 4:  # 32-bit integers, each with its step
        field += head[at] >> 4
        value = shift = 0
        at += 1
        while at < len(head) and shift < 35:
            value |= (head[at] & 127) << shift
            shift += 7
            at += 1
            if not head[at - 1] & 128:
                break
        found[field] = (value >> 1) ^ -(value & 1)
    return found.get(1), found.get(2)

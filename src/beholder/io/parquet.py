"""Parquet files, read so that none unpacks without end into memory, and damage is one line."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beholder.errors import DamagedError, InputError, OversizedError, damaged
from beholder.io.parquet_footer import CheckedFooter, footer_fields, integer_range, take_struct
from beholder.io.ranges_file import RangesFile
from beholder.io.schemas import is_small, small_integers

_BATCH_BYTES = 128 << 20
"""What the rows of one batch may take where a column unpacks to more than the file holds."""
_LEAST_BATCH_BYTES = 16 << 20
_MOST_UNPACKED_BYTES = 1 << 30
"""A column that unpacks to more in one row group is refused where it is mostly repetition (`_LEAST_RATIO`) of long values."""
_LEAST_RATIO = 16
_LONG_VALUE_BYTES = 128 << 10
"""Values as short as that may be repeated in any number of rows: a workflow of 100 kB beside each picture."""
_PICTURE_BYTES = 16 << 10
_BLOAT_HINT = "write it without that column"
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}
_BUFFER_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
"""Read at a time from a server where a dictionary alone is wanted."""
_HEADER_BYTES = (256, 4096, 1 << 20)
_MOST_PAGES = 1 << 16
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_DELTA_BYTE_ARRAY = 7


@dataclass(frozen=True)
class _Leaf:
    """A column as it is stored.

    Attributes:
        path: with the names of structs and lists around it.
        column: number of the column of the table that it belongs to.
        width: bytes of a value; None where each has its own.
    """

    path: str
    column: int
    width: int | None


@dataclass(frozen=True)
class _Pages:
    """What the pages of a column unpack to in a row group, in bytes.

    Attributes:
        dictionary: of its dictionary; 0: it has none.
        delta: of the largest page whose values are told by how they differ from the one before; 0: there is none.
        total: of all pages.
    """

    dictionary: int
    delta: int
    total: int


class ParquetFile(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file as pyarrow's, whose reading methods raise DamagedError for what pyarrow cannot make sense of.

    A text column holds UTF-8. Columns whose values are stored once and named many times (dictionaries, DELTA_BYTE_ARRAY) come
    a few rows at a time where they are long; where that would never end (5 MB that unpack to 100 GB) they are refused, by
    OversizedError.

    Args:
        path: for messages.
        source: a local path, or a file opened for reading.
        read_range: gives bytes [start, stop) of such a file, and reads no more; None: the file itself is read. What the
            footer of such a file says about sizes and encodings is believed where a look at the pages would take requests.
        options: of pyarrow's.

    Raises:
        InputError: no Parquet file, or not a whole one.
    """

    def __init__(
        self, path: str, source: Any, *, read_range: Callable[[int, int], bytes] | None = None, **options: Any
    ) -> None:
        if isinstance(known := options.get("metadata"), CheckedFooter):
            options["metadata"] = known.plain
        self._path, self._from, self._options, self._read_range = path, source, options, read_range
        self._close_pages: weakref.finalize[..., Any] | None = None
        self._descriptor = -1
        self._num_bytes = 0 if read_range is None else int(source.seek(0, os.SEEK_END))
        self._known_pages: dict[tuple[int, int], _Pages] = {}
        self._known_longest: dict[tuple[int, int], int] = {}
        self._dictionaries: pq.ParquetFile | None = None
        self._footer: CheckedFooter | None = None
        self._first_rows: list[int] = []
        try:
            with damaged(lambda why: InputError(f"{path} is not a whole Parquet file: {why}; write it again")):
                try:
                    super().__init__(source, page_checksum_verification=True, **options)
                    self._leaves = self._found_leaves()
                except pa.ArrowNotImplementedError as error:  # whole numbers of 128 bits, of polars
                    why = " ".join(str(error).split())[:200].rstrip(".")
                    raise InputError(
                        f"{path} has a column of a type that cannot be read: {why}; write it without, or as another type"
                    ) from None
        except BaseException:
            if hasattr(source, "close"):
                source.close()
            raise

    @property
    def metadata(self) -> Any:
        """The footer, as `pyarrow.parquet.FileMetaData`; where it is damaged in a row group, its columns raise DamagedError."""
        if self._footer is None:
            path, firsts = self._path, self._first_rows  # not self, which would live as long as its garbage
            self._footer = CheckedFooter(super().metadata, lambda at, why: DamagedError(path, why, near_row=firsts[at]))
        return self._footer

    def schema_with_ranges(self, columns: Collection[str] | None = None) -> pa.Schema:
        """`schema_arrow`, with columns of integers marked that have no large ones by the file's statistics.

        Args:
            columns: only these are looked at; None: all.
        """
        schema = self.schema_arrow
        wanted = {
            leaf.column: number
            for number, leaf in enumerate(self._leaves)
            if pa.types.is_integer(schema.field(leaf.column).type) and (columns is None or schema.names[leaf.column] in columns)
        }
        small = self._small_of(wanted) if wanted else set()
        fields = [small_integers(field) if at in small else field for at, field in enumerate(schema)]
        return pa.schema(fields, metadata=schema.metadata)

    def _small_of(self, wanted: Mapping[int, int]) -> set[int]:
        """Columns whose integers are small by the statistics of all row groups; `wanted`: column -> number as stored."""
        try:
            groups = footer_fields(self._footer_bytes(), wanted.values())
        except ValueError:
            return set()
        small = set()
        for column, leaf in wanted.items():
            is_signed = not pa.types.is_unsigned_integer(self.schema_arrow.field(column).type)
            ranges = (integer_range(group[leaf], is_signed=is_signed) for group in groups)
            if all(ends is not None and (not ends or is_small(*ends)) for ends in ranges):
                small.add(column)
        return small

    def _footer_bytes(self) -> bytes:
        """The footer as it stands in the file; what was fetched last of one on a server, which has not let go of it."""
        if isinstance(self._from, str):
            num_bytes = Path(self._from).stat().st_size
            size = int.from_bytes(self._bytes_at(num_bytes - 8, num_bytes - 4), "little")
            return self._bytes_at(num_bytes - 8 - size, num_bytes - 8)
        size = int.from_bytes(self._read_aside(-8, 4, os.SEEK_END), "little")
        return self._read_aside(-8 - size, size, os.SEEK_END)

    def _read_aside(self, place: int, size: int, whence: int = os.SEEK_SET) -> bytes:
        """Bytes of a file object, whose position stays as it is: pyarrow reads from it as well."""
        before = self._from.tell()
        try:
            self._from.seek(place, whence)
            data: bytes = self._from.read(size)
            return data
        finally:
            self._from.seek(before)

    def _found_leaves(self) -> list[_Leaf]:
        """The columns as they are stored. Raises for a footer that contradicts itself."""
        self.schema_arrow.names  # noqa: B018 (raises for names that are no text)
        groups = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
        if min((0, *groups)) < 0 or sum(groups) != self.metadata.num_rows:
            raise ValueError(f"its row groups have {sum(groups)} rows, and it says {self.metadata.num_rows}")
        self._first_rows[:] = [0, *accumulate(groups)]
        owners = [number for number, field in enumerate(self.schema_arrow) for _ in range(_num_leaves(field.type))]
        stored = [self.schema.column(i) for i in range(self.metadata.num_columns)]
        if len(owners) != len(stored):
            raise ValueError(f"it stores {len(stored)} columns where its schema has {len(owners)}")
        return [
            _Leaf(
                leaf.path,
                owner,
                leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else _WIDTHS.get(leaf.physical_type),
            )
            for leaf, owner in zip(stored, owners, strict=True)
        ]

    def close(self, force: bool = False) -> None:
        """Let go of the file."""
        if self._close_pages is not None:
            self._close_pages()
            self._close_pages = None
        if self._dictionaries is not None:
            self._dictionaries.close()
            self._dictionaries = None
        super().close(force)

    def iter_batches(
        self,
        batch_size: int = 65536,
        row_groups: Sequence[int] | None = None,
        columns: Sequence[str] | None = None,
        *,
        most_bytes: int = _BATCH_BYTES,
        **options: Any,
    ) -> Iterator[pa.RecordBatch]:
        """Batches of at most `batch_size` rows; fewer, of about `most_bytes` at most, where a column unpacks to far more.

        Raises DamagedError.
        """
        most_bytes = max(most_bytes, _LEAST_BATCH_BYTES)
        for group in range(self.metadata.num_row_groups) if row_groups is None else row_groups:
            yield from self._batches_of(group, batch_size, columns, options, most_bytes=most_bytes)

    def fits(self, row_groups: Sequence[int], columns: Sequence[str] | None = None) -> bool:
        """Whether row groups may be read whole: no column unpacks to far more than the file holds. Raises OversizedError."""
        return all(self._cut(group, self._num_rows(group), columns)[0] >= self._num_rows(group) for group in row_groups)

    def read_row_groups(self, row_groups: Sequence[int], columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """Row groups as one table. Raises DamagedError; OversizedError for what should come by `iter_batches` (see `fits`)."""
        groups = list(row_groups)
        first = self._first_rows[groups[0]] if groups else 0
        if self.fits(groups, columns):
            with self._damage(first):
                table = super().read_row_groups(groups, columns=columns, **options)
            self._check(table.schema, table.columns, first)
            if table.num_columns:
                self._check_end(first, table.num_rows, sum(map(self._num_rows, groups)))
            return table
        with self._damage():
            empty = super().read_row_groups([], columns=columns)
        batches = [
            batch for group in groups for batch in self._batches_of(group, self._num_rows(group), columns, {}, floor=0)
        ]  # fmt: skip
        return pa.Table.from_batches(batches, empty.schema)

    def read_row_group(self, i: int, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """One row group. Raises DamagedError."""
        return self.read_row_groups([i], columns, **options)

    def read(self, columns: Sequence[str] | None = None, **options: Any) -> pa.Table:
        """The whole file. Raises DamagedError."""
        return self.read_row_groups(range(self.metadata.num_row_groups), columns, **options)

    def check_dictionaries(
        self, path: str | None = None, columns: Sequence[str] | None = None, *, all_encodings: bool = False
    ) -> None:
        """Raise OversizedError, naming `path`, where a column of long values unpacks to far more than the file holds.

        For readers other than this one, which would unpack it whole, and to know it before anything is done. Only what looks
        so by its sizes is read. Of files that are not local nothing is read: reading them will tell.

        Args:
            path: for the message, where the file is a copy.
            columns: only these are looked at.
            all_encodings: also at columns without a dictionary, which takes reading them.
        """
        if not isinstance(self._from, str):
            return
        try:
            for group in range(self.metadata.num_row_groups):
                for number in self._leaves_in(columns):
                    if not self._is_bloated(group, number, self._most(group, number)):
                        continue
                    self._check_bloat(group, number)
                    if all_encodings and self._leaves[number].width is None and self._pages_of(group, number).delta:
                        for _ in self._batches_of(group, 65536, [self._leaves[number].path], {}):
                            pass
        except OversizedError as error:
            raise OversizedError(path or self._path, error.why, hint=_BLOAT_HINT) from None

    def _leaves_in(self, columns: Sequence[str] | None) -> list[int]:
        """Numbers of what is stored of these columns; None: of all."""
        if columns is None:
            return list(range(len(self._leaves)))
        names = tuple(f"{name}." for name in columns)
        return [number for number, leaf in enumerate(self._leaves) if f"{leaf.path}.".startswith(names)]

    def _num_rows(self, group: int) -> int:
        return int(self.metadata.row_group(group).num_rows)

    def _num_values(self, group: int, leaf: int) -> int:
        return int(self.metadata.row_group(group).column(leaf).num_values)

    def _damage(self, near_row: int | None = None, what: str = "") -> AbstractContextManager[None]:
        return damaged(lambda why: DamagedError(self._path, what + why, near_row=near_row))

    def _batches_of(
        self,
        group: int,
        batch_size: int,
        columns: Sequence[str] | None,
        options: dict[str, Any],
        *,
        most_bytes: int = _BATCH_BYTES,
        floor: int = _LONG_VALUE_BYTES,
    ) -> Iterator[pa.RecordBatch]:
        """Batches of one row group; `floor`: values as short as that are never too many."""
        rows, cut = self._cut(group, batch_size, columns, most_bytes)
        first = self._first_rows[group]
        with self._damage(first):
            batches = super().iter_batches(rows, [group], columns=columns, **options)
        unpacked, at = dict.fromkeys(cut, 0), 0
        while True:
            with self._damage(first + at):
                batch = next(batches, None)
            if batch is None:
                if columns is None or columns:
                    self._check_end(first, at, self._num_rows(group))
                return
            self._check(batch.schema, batch.columns, first + at)
            at += batch.num_rows
            for leaf in cut:
                name = self.schema_arrow.names[self._leaves[leaf].column]
                unpacked[leaf] += sum(batch.column(i).nbytes for i in batch.schema.get_all_field_indices(name))
                if self._is_bloated(group, leaf, unpacked[leaf], at, floor):
                    raise self._oversized(group, leaf, unpacked[leaf])
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

    def _check_end(self, first: int, found: int, expected: int) -> None:
        """Raise DamagedError for rows that did not come: pyarrow takes the end of a file cut short for the last page."""
        if found != expected:
            raise DamagedError(self._path, f"it ends after {found:,} of {expected:,} rows", near_row=first + found)

    def _cut(
        self, group: int, batch_size: int, columns: Sequence[str] | None, most_bytes: int = _BATCH_BYTES
    ) -> tuple[int, list[int]]:
        """Rows of a batch of at most `batch_size`, and the stored columns for whose sake they are fewer.

        Raises OversizedError for a column that is known to unpack to too much.
        """
        rows, cut = batch_size, []
        num_rows = max(1, self._num_rows(group))
        for leaf in self._leaves_in(columns):
            share = min(1.0, batch_size / num_rows)
            if self._most_by_footer(group, leaf) * share <= 2 * most_bytes:
                continue
            most = int(self._most(group, leaf) * share)
            is_fixed = self._leaves[leaf].width is not None
            if most <= 2 * most_bytes or (is_fixed and most <= 2 * share * self._pages_of(group, leaf).total):
                continue
            if self._can_look(group, leaf, most):
                self._check_bloat(group, leaf)
                most = int(self._most(group, leaf, is_exact=True) * share)
            if most > most_bytes:
                rows = min(rows, max(1, int(num_rows * share * most_bytes / most)))
                cut.append(leaf)
        return rows, cut

    def _most_by_footer(self, group: int, leaf: int) -> int:
        """The same as `_most`, and nothing of a file on a server is read for it."""
        if self._leaves[leaf].width is not None or isinstance(self._from, str):
            return self._most(group, leaf)
        chunk = self.metadata.row_group(group).column(leaf)
        return int(chunk.total_uncompressed_size) * self._num_values(group, leaf)

    def _most(self, group: int, leaf: int, *, is_exact: bool = False) -> int:
        """Bytes that a column may take in a row group because its values are stored once and named many times.

        `is_exact`: the dictionary is read for its longest value.
        """
        a_value = self._leaves[leaf].width
        if a_value is None:
            pages = self._pages_of(group, leaf)
            a_value = max(self._longest(group, leaf) if is_exact else pages.dictionary, pages.delta)
        return a_value * self._num_values(group, leaf)

    def _can_look(self, group: int, leaf: int, most: int) -> bool:
        """Whether to read the dictionary for its own sake where it may make `most` bytes.

        From a server that is fetching it twice: not where a few rows at a time are read as fast as many (pictures, or little
        in all).
        """
        if isinstance(self._from, str) or self._leaves[leaf].width is not None:
            return True
        size = self._pages_of(group, leaf).total
        is_short = size <= _PICTURE_BYTES * self._num_values(group, leaf)
        return self._read_range is not None and most > 8 * _BATCH_BYTES and is_short

    def _is_bloated(
        self, group: int, leaf: int, unpacked: int, num_rows: int | None = None, floor: int = _LONG_VALUE_BYTES
    ) -> bool:
        """Whether what a column unpacks to in (the first `num_rows` of) a row group is too much."""
        if unpacked <= _MOST_UNPACKED_BYTES:
            return False
        rows = self._num_rows(group) if num_rows is None else num_rows
        return unpacked > max(_LEAST_RATIO * self._pages_of(group, leaf).total, floor * rows)

    def _oversized(self, group: int, leaf: int, unpacked: int) -> OversizedError:
        stored = self._pages_of(group, leaf).total
        return OversizedError(
            self._path,
            f"column {self._leaves[leaf].path!r} takes {unpacked:,} bytes and more, stored as {stored:,}, because its rows "
            "name a few long values again and again",
            hint=_BLOAT_HINT,
        )

    def _check_bloat(self, group: int, leaf: int) -> None:
        """Raise OversizedError where the dictionary of a column, or the length of its values, makes it unpack to too much."""
        width = self._leaves[leaf].width
        unpacked = (self._longest(group, leaf) if width is None else width) * self._num_values(group, leaf)
        if not self._is_bloated(group, leaf, unpacked):
            return
        if width is None:
            unpacked, rows = 0, max(1, min(65536, _BATCH_BYTES // max(1, self._pages_of(group, leaf).delta)))
            with self._damage():
                for batch in self._as_dictionaries().iter_batches(rows, row_groups=[group], columns=[self._leaves[leaf].path]):
                    values = _leaf_of(batch.column(0))
                    if isinstance(values, pa.DictionaryArray):
                        lengths = pc.fill_null(pc.binary_length(values.dictionary), 0).cast(pa.int64())
                        unpacked += pc.sum(lengths.take(values.indices.drop_null())).as_py() or 0
        if self._is_bloated(group, leaf, unpacked):
            raise self._oversized(group, leaf, unpacked)

    def _pages_of(self, group: int, leaf: int) -> _Pages:
        """What the pages of a column unpack to."""
        known = self._known_pages.get((group, leaf))
        if known is None:
            chunk = self.metadata.row_group(group).column(leaf)
            start = chunk.data_page_offset
            if chunk.dictionary_page_offset is not None and 0 < chunk.dictionary_page_offset < start:
                start = chunk.dictionary_page_offset
            if isinstance(self._from, str):
                known = self._walked(start, start + chunk.total_compressed_size)
            else:
                known = self._first_page(start, chunk)
            if known is None:  # what is no page will be said by reading it
                size = int(chunk.total_uncompressed_size)
                known = _Pages(size, size, size)
            self._known_pages[group, leaf] = known
        return known

    def _walked(self, start: int, stop: int) -> _Pages | None:
        """The pages in these bytes of a local file, by their headers; None where they make no sense."""
        dictionary = delta = total = 0
        for _ in range(_MOST_PAGES):
            if start >= stop:
                return _Pages(dictionary, delta, total)
            for most in _HEADER_BYTES:
                header, size = _header_of(self._bytes_at(start, start + most) if start >= 0 else b"")
                if size is not None:
                    break
            unpacked, packed = _number(header, 2), _number(header, 3)
            if size is None or unpacked < 0 or packed < 0:
                return None
            num_bytes = max(unpacked, packed)
            total += num_bytes
            if _number(header, 1) == _DICTIONARY_PAGE:
                dictionary = max(dictionary, num_bytes)
            elif _encoding_of(header) == _DELTA_BYTE_ARRAY:
                delta = max(delta, num_bytes)
            start += size + packed
        return None

    def _first_page(self, start: int, chunk: Any) -> _Pages | None:
        """What the header of the first page and the footer say."""
        header, _ = _header_of(self._bytes_at(start, start + _HEADER_BYTES[0]) if start >= 0 else b"")
        kind, unpacked, total = _number(header, 1), _number(header, 2), int(chunk.total_uncompressed_size)
        if kind < 0 or unpacked < 0:
            return None
        is_delta = "DELTA_BYTE_ARRAY" in chunk.encodings or _encoding_of(header) == _DELTA_BYTE_ARRAY
        return _Pages(unpacked if kind == _DICTIONARY_PAGE else 0, total if is_delta else 0, total)

    def _bytes_at(self, start: int, stop: int) -> bytes:
        """A few bytes of the file."""
        if not isinstance(self._from, str):
            if self._read_range is not None:
                return self._read_range(start, stop)
            return self._read_aside(start, stop - start)
        if self._close_pages is None:
            self._descriptor = os.open(self._from, os.O_RDONLY | os.O_CLOEXEC)
            self._close_pages = weakref.finalize(self, os.close, self._descriptor)
        return os.pread(self._descriptor, stop - start, start)

    def _longest(self, group: int, leaf: int) -> int:
        """Bytes of the longest value in the dictionary of a column."""
        if self._leaves[leaf].width is not None or not self._pages_of(group, leaf).dictionary:
            return 0
        known = self._known_longest.get((group, leaf))
        if known is None:
            with self._damage():
                path = self._leaves[leaf].path
                batch = next(self._as_dictionaries().iter_batches(1, [group], columns=[path], use_threads=False), None)
                values = _leaf_of(batch.column(0)) if batch is not None else None
                known = 0
                if isinstance(values, pa.DictionaryArray):
                    known = pc.max(pc.binary_length(values.dictionary)).as_py() or 0
            self._known_longest[group, leaf] = known
        return known

    def _as_dictionaries(self) -> pq.ParquetFile:
        """The file once more; its columns of bytes come as dictionaries."""
        if self._dictionaries is None:
            buffer = _BUFFER_BYTES if isinstance(self._from, str) else _PIECE_BYTES
            paths = [leaf.path for leaf in self._leaves if leaf.width is None]
            more = {"pre_buffer": False, "buffer_size": buffer, "metadata": super().metadata, "read_dictionary": paths}
            source = self._from if isinstance(self._from, str) else RangesFile(self._bytes_at, self._num_bytes)
            self._dictionaries = pq.ParquetFile(source, **(self._options | more))
        return self._dictionaries


def _num_leaves(kind: pa.DataType) -> int:
    """Under how many columns Parquet stores a column of this type."""
    if isinstance(kind, pa.BaseExtensionType):
        return _num_leaves(kind.storage_type)
    return sum(_num_leaves(kind.field(i).type) for i in range(kind.num_fields)) if pa.types.is_nested(kind) else 1


def _leaf_of(array: pa.Array) -> pa.Array:
    """The values at the bottom of structs and lists of one field."""
    while not isinstance(array, pa.DictionaryArray) and pa.types.is_nested(array.type):
        array = array.field(0) if pa.types.is_struct(array.type) else array.values
    return array


def _number(header: dict[int, Any], field: int) -> int:
    """A number in the header of a page; -1: it has none there."""
    value = header.get(field)
    return value if isinstance(value, int) else -1


def _encoding_of(header: dict[int, Any]) -> int:
    """How the values of a data page are encoded, as its header says; -1: it does not."""
    place, field = {_DATA_PAGE: (5, 2), _DATA_PAGE_V2: (8, 4)}.get(_number(header, 1), (0, 0))
    inner = header.get(place)
    return _number(inner, field) if isinstance(inner, dict) else -1


def _header_of(data: bytes) -> tuple[dict[int, Any], int | None]:
    """The header of a page (a struct of Thrift's compact protocol) by number of field, and its bytes; None: it goes on."""
    found: dict[int, Any] = {}
    try:
        return found, take_struct(data, 0, found)
    except (IndexError, ValueError):
        return found, None

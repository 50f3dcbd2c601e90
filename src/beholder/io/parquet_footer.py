"""What Parquet says of its columns: structs of Thrift's compact protocol, in footers and in the headers of pages.

pyarrow is asked about a footer so that a damaged one does not end the process. It makes what it says of a column in C++ that
throws where it contradicts itself (histograms of another length than the column has levels, statistics of another width), and
nothing catches that on the way to Python: the process is aborted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container
from typing import Any

import pyarrow.parquet as pq

from beholder.errors import reason_of
from beholder.io.ranges_file import RangesFile

_LEFT_TO_READING = ("Invalid column metadata", "Support for codec", "support for codec")
"""What else opening a column can find: places outside of the file, a packing that is not there."""
_REACHED = "File too short: expected to be able to read"
"""All that the footer says was made sense of; now its bytes are asked for."""
_ROW_GROUPS, _COLUMNS, _META_DATA, _TYPE, _STATISTICS = 4, 1, 3, 1, 12
_MAX, _MIN, _NULL_COUNT, _MAX_VALUE, _MIN_VALUE = 1, 2, 3, 5, 6
_NUM_VALUES = 5
_WIDTHS = {1: 4, 2: 8}
"""Fields, and the types INT32 and INT64 with their bytes, in parquet.thrift (parquet-format 2.11)."""


class CheckedFooter:
    """A `pyarrow.parquet.FileMetaData` whose row groups raise where pyarrow's would abort the process.

    Args:
        found: what pyarrow has read.
        wrong: (row group, why) -> what is raised for a row group that contradicts itself.
    """

    def __init__(self, found: pq.FileMetaData, wrong: Callable[[int, str], Exception]) -> None:
        self._found, self._wrong = found, wrong
        self._reasons: dict[int, str] = {}
        self._columns: pq.ParquetFile | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)

    @property
    def plain(self) -> pq.FileMetaData:
        """What pyarrow has read, for another file object of the same file."""
        return self._found

    def row_group(self, number: int) -> Any:
        """A `pyarrow.parquet.RowGroupMetaData`; its `column` raises `wrong` of a row group that contradicts itself."""
        return _CheckedGroup(self._found.row_group(number), lambda: self._check(number))

    def _check(self, group: int) -> None:
        reason = self._reasons.get(group)
        if reason is None:
            reason = self._reasons[group] = self._reason_of(group)
        if reason:
            raise self._wrong(group, reason)

    def _reason_of(self, group: int) -> str:
        """What is wrong with a row group; "" with nothing: then its columns can be opened, as far as their first byte."""
        why = self._opened(group, None)
        if not any(text in why for text in _LEFT_TO_READING):
            return why
        paths = (self._found.schema.column(number).path for number in range(self._found.num_columns))
        reasons = (self._opened(group, [path]) for path in paths)
        return next((why for why in reasons if why and not any(text in why for text in _LEFT_TO_READING)), "")

    def _opened(self, group: int, paths: list[str] | None) -> str:
        """What pyarrow says when columns (None: all) are opened, where it catches what its C++ throws; "" of sound ones."""
        try:
            if self._columns is None:
                # It gives no bytes and raises nothing: pyarrow keeps what a file raises, with all frames that led there.
                self._columns = pq.ParquetFile(
                    RangesFile(lambda _start, _stop: b"", 1 << 62), metadata=self._found, buffer_size=1
                )
            next(self._columns.iter_batches(1, [group], columns=paths, use_threads=False), None)
        except Exception as error:  # pyarrow raises what it does
            return "" if _REACHED in str(error) else reason_of(error)
        return ""


class _CheckedGroup:
    def __init__(self, found: pq.RowGroupMetaData, check: Callable[[], None]) -> None:
        self._found, self._check = found, check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)

    def column(self, number: int) -> Any:
        """What the footer says of a column."""
        self._check()
        return self._found.column(number)


def footer_fields(footer: bytes, columns: Collection[int]) -> list[dict[int, dict[int, Any]]]:
    """What a footer says of ranges of these columns in each row group.

    All other columns are passed over, as there may be a thousand. Raises ValueError for bytes that are no footer of such.

    Returns:
        Of each row group the fields of `ColumnMetaData` by number, by column; {} of what is encrypted.
    """
    found: dict[int, Any] = {}
    order = sorted(set(columns))
    wanted = ((_ROW_GROUPS,), None, (_COLUMNS,), frozenset(order), (_META_DATA,), (_TYPE, _NUM_VALUES, _STATISTICS))
    try:
        take_struct(footer, 0, found, wanted=wanted)
        return [
            {at: column.get(_META_DATA, {}) for at, column in zip(order, group.get(_COLUMNS, []), strict=True)}
            for group in found.get(_ROW_GROUPS, [])
        ]
    except (IndexError, AttributeError, TypeError):  # it breaks off; a field is of another kind than it should be
        raise ValueError("the footer makes no sense") from None


def integer_range(said: dict[int, Any], *, is_signed: bool) -> tuple[int, ...] | None:
    """(least, largest) of a column of integers by its statistics; () where it has no values; None where that is not known.

    `said`: as `footer_fields` gives it.
    """
    statistics, width = said.get(_STATISTICS), _WIDTHS.get(said[_TYPE] if isinstance(said.get(_TYPE), int) else -1)
    if not isinstance(statistics, dict) or width is None:
        return None
    ends: list[Any] = [statistics.get(_MIN_VALUE), statistics.get(_MAX_VALUE)]
    if None in ends and is_signed:  # older writers; of numbers without a sign they had them in the wrong order
        ends = [statistics.get(_MIN), statistics.get(_MAX)]
    if None in ends:
        return () if said.get(_NUM_VALUES) == statistics.get(_NULL_COUNT) == 0 else None
    found = [int.from_bytes(end, "little", signed=is_signed) for end in ends if isinstance(end, bytes) and len(end) == width]
    return tuple(found) if len(found) == len(ends) else None


Wanted = tuple[Container[int] | None, ...]
"""Numbers of fields of a struct, or of items of a list; then of what is in these, and so on; None, and at the end: all."""
_MOST_DEPTH = 8


def take_struct(data: bytes, at: int, found: dict[int, Any], depth: int = 0, wanted: Wanted = ()) -> int:
    """Put the fields of the struct at `at` into `found`, by number; returns where it ends.

    What is not wanted is passed over, in a fraction of the time.

    Raises:
        IndexError: the data end before it does.
        ValueError: it is none.
    """
    if depth > _MOST_DEPTH:
        raise ValueError("structs in structs without end")
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return at
        number += head >> 4
        if not head >> 4:
            number, at = _varint(data, at)
            number = _signed(number)
        if _is_wanted(number, wanted):
            at = _take_value(data, at, head & 15, found, number, depth, wanted[1:])
        else:
            at = _behind_value(data, at, head & 15, depth)


def _is_wanted(number: int, wanted: Wanted) -> bool:
    return not wanted or wanted[0] is None or number in wanted[0]


def _take_value(data: bytes, at: int, kind: int, found: dict[int, Any], number: int, depth: int, wanted: Wanted) -> int:
    """Put the value at `at` into `found`; returns where it ends."""
    if kind in (1, 2):  # true and false
        found[number] = kind == 1
    elif kind == 3:
        at += 1
    elif kind in (4, 5, 6):
        value, at = _varint(data, at)
        found[number] = _signed(value)
    elif kind == 7:
        at += 8
    elif kind == 8:
        num_bytes, at = _varint(data, at)
        found[number] = data[at : at + num_bytes]
        at += num_bytes
    elif kind in (9, 10):
        found[number], at = _take_list(data, at, depth, wanted)
    elif kind == 12:
        inner = found[number] = {}
        at = take_struct(data, at, inner, depth + 1, wanted)
    else:
        raise ValueError("no kind of value that a header has")
    return at


def _take_list(data: bytes, at: int, depth: int, wanted: Wanted) -> tuple[list[Any], int]:
    """The wanted values of the list at `at`, and where it ends; truth values are not told apart."""
    num_items, kind, at = _list_head(data, at, depth)
    items: dict[int, Any] = {}
    for number in range(num_items):
        if at >= len(data):
            raise IndexError
        if kind in (1, 2):
            at += 1
        elif _is_wanted(number, wanted):
            at = _take_value(data, at, kind, items, number, depth + 1, wanted[1:])
        else:
            at = _behind_value(data, at, kind, depth + 1)
    return list(items.values()), at


def _list_head(data: bytes, at: int, depth: int) -> tuple[int, int, int]:
    """How many items the list at `at` has, of which kind, and where the first one is."""
    if depth > _MOST_DEPTH:
        raise ValueError("lists in lists without end")
    num_items, kind = data[at] >> 4, data[at] & 15
    at += 1
    if num_items == 15:
        num_items, at = _varint(data, at)
    return num_items, kind, at


def _behind_struct(data: bytes, at: int, depth: int) -> int:
    """Where the struct at `at` ends. Raises as `take_struct` does."""
    if depth > _MOST_DEPTH:
        raise ValueError("structs in structs without end")
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return at
        if head < 16:
            at = _behind_number(data, at)
        at = _behind_value(data, at, head & 15, depth)


def _behind_value(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where the value at `at` ends."""
    if 4 <= kind <= 6:
        return _behind_number(data, at)
    if kind == 8:
        num_bytes, at = _varint(data, at)
        return at + num_bytes
    if kind == 12:
        return _behind_struct(data, at, depth + 1)
    if kind in (9, 10):
        return _behind_list(data, at, depth)
    if kind in (1, 2, 3, 7):
        return at + (0, 0, 0, 1, 0, 0, 0, 8)[kind]
    raise ValueError("no kind of value that a header has")


def _behind_list(data: bytes, at: int, depth: int) -> int:
    num_items, kind, at = _list_head(data, at, depth)
    if kind in (1, 2, 3):
        return at + num_items
    for _ in range(num_items):
        if at >= len(data):
            raise IndexError
        at = _behind_value(data, at, kind, depth + 1)
    return at


def _behind_number(data: bytes, at: int) -> int:
    while data[at] > 127:
        at += 1
    return at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without end")


def _signed(value: int) -> int:
    return (value >> 1) ^ -(value & 1)

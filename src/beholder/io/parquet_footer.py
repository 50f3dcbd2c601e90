"""What the footer of a Parquet file says of its columns, asked so that a damaged one does not end the process.

pyarrow makes what it says of a column in C++ that throws where it contradicts itself (histograms of another length than the
column has levels, statistics of another width), and nothing catches that on the way to Python: the process is aborted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pyarrow.parquet as pq

from beholder.errors import reason_of
from beholder.io.ranges_file import RangesFile
from beholder.io.thrift import take_struct

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

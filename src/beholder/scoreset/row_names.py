"""The samples of a score set: names of chosen rows, whether all ascend, windows of their bytes, their hashes.

Names are never all in memory: they are streamed, and kept only for rows that are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.scoreset.row_reader import Chosen, RowReader

if TYPE_CHECKING:
    from beholder.kernels.texts import NameScan

Rows = npt.NDArray[np.uint32]
T = TypeVar("T")

FEW_ROWS = 4_000_000
"""So many rows' names may be held in memory."""


class Names:
    """The samples of a set. `on_rows` hears of rows that were read, with what for."""

    def __init__(self, reader: RowReader, on_rows: Callable[[str, int], None] | None = None) -> None:
        self._reader = reader
        self._column = reader.scores.sample_column
        self._on_rows = on_rows
        self._scan: NameScan | None = None
        self._kept_rows: Rows | None = None
        self._kept = pa.array([], pa.large_string())

    def map(
        self, what: str, work: Callable[[int, pa.LargeStringArray], T], wanted: Callable[[int, int], bool] | None = None
    ) -> Iterator[T]:
        """`work(first row, names)` on pieces, by several threads at once; results in order."""

        def do(first: int, table: pa.Table) -> T:
            return work(first, whole(self._reader.scores.names_in(table.column(0), first)))

        def tell(num_rows: int) -> None:
            if self._on_rows is not None:
                self._on_rows(what, num_rows)

        return self._reader.map([self._column], do, wanted=wanted, on_rows=tell)

    def of(self, rows: Rows) -> pa.LargeStringArray:
        """Names of these rows, which ascend; they are kept for the next call. For up to about FEW_ROWS."""
        found = self.remembered(rows)
        if found is not None:
            return found
        chosen = Chosen(rows)

        def take(first: int, names: pa.LargeStringArray) -> pa.LargeStringArray:
            return names.take(pa.array(rows[chosen.within(first, first + len(names))] - np.uint32(first)))

        pieces = list(self.map("names", take, chosen.any))
        self._kept = pa.concat_arrays(pieces) if pieces else pa.array([], pa.large_string())
        self._kept_rows = rows
        assert len(self._kept) == len(rows)
        return self._kept

    def remembered(self, rows: Rows) -> pa.LargeStringArray | None:
        """The names of these ascending rows, if the last call of `of` was about all of them; else None."""
        if self._kept_rows is None or len(rows) > len(self._kept_rows):
            return None
        places = np.searchsorted(self._kept_rows, rows)
        if len(rows) and (places[-1] >= len(self._kept_rows) or not np.array_equal(self._kept_rows[places], rows)):
            return None
        return self._kept if len(rows) == len(self._kept_rows) else self._kept.take(pa.array(places))

    def scan(self) -> NameScan:
        """Whether all names ascend in row order, and what they all begin with. One pass, done once."""
        if self._scan is None:
            self._scan = _joined(self.map("order of names", _looked))
        return self._scan

    def windows(self, skip: int, out: npt.NDArray[np.uint64]) -> None:
        """`texts.fill_windows` for every row of the set; out: (N,)."""
        from beholder.kernels import texts

        def fill(first: int, names: pa.LargeStringArray) -> None:
            texts.fill_windows(*texts.text_buffers(names), skip, out[first : first + len(names)])

        for _ in self.map("names that tie", fill):
            pass

    def first_windows(self, out: npt.NDArray[np.uint64]) -> int | None:
        """Windows of what comes after the bytes that all names begin with; out: (N,). N is at least 1.

        Returns:
            how many bytes that are; None where the names ascend in row order, and `out` holds nothing.
        """
        guess = self._scan or self._first_scan()
        if guess.ascending:
            guess = self.scan()
            if guess.ascending:
                return None
        skip = len(guess.common)
        if self._scan is not None:
            self.windows(skip, out)
            return skip

        from beholder.kernels import texts

        def look(first: int, names: pa.LargeStringArray) -> NameScan | None:
            offsets, data = texts.text_buffers(names)
            texts.fill_windows(offsets, data, skip, out[first : first + len(names)])
            return texts.scan_names(offsets, data) if len(names) else None

        self._scan = _joined(self.map("names that tie", look))
        if len(self._scan.common) < skip:  # what the first names share, others do not
            skip = len(self._scan.common)
            self.windows(skip, out)
        return skip

    def _first_scan(self) -> NameScan:
        """Of the names that are read first."""
        return _joined(self.map("order of names", _looked, lambda start, _: start == 0))

    def hashed(self, seed: int, use: Callable[[int, npt.NDArray[np.uint64]], None]) -> None:
        """`use(first row, hashes)` on pieces of `texts.name_hashes`, by several threads at once."""
        from beholder.kernels import texts

        def do(first: int, names: pa.LargeStringArray) -> None:
            use(first, texts.name_hashes(*texts.text_buffers(names), seed))

        for _ in self.map("drawing", do):
            pass


def _looked(_: int, names: pa.LargeStringArray) -> NameScan | None:
    from beholder.kernels import texts

    return texts.scan_names(*texts.text_buffers(names)) if len(names) else None


def _joined(scans: Iterator[NameScan | None]) -> NameScan:
    from beholder.kernels import texts

    found = [scan for scan in scans if scan is not None]
    return reduce(texts.join_scans, found) if found else texts.NameScan(True, b"", b"", b"")


def whole(column: pa.ChunkedArray) -> pa.LargeStringArray:
    """A chunked array as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)

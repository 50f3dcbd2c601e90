"""A score set's samples in; names of chosen rows, whether all ascend, windows of their bytes and their hashes out.

Names are never all in memory: they are streamed, and kept only for rows that are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.curation.selecting.reading import RowReader, as_names, text_buffers
from beholder.kernels import texts

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
        self._scan: texts.NameScan | None = None
        self._kept_rows: Rows | None = None
        self._kept = pa.array([], pa.large_string())

    def _map(
        self, what: str, work: Callable[[int, pa.LargeStringArray], T], wanted: Callable[[int, int], bool] | None = None
    ) -> Iterator[T]:
        """`work(first row, names)` on pieces, in order."""

        def do(first: int, table: pa.Table) -> T:
            return work(first, whole(as_names(table.column(0), first)))

        def tell(num_rows: int) -> None:
            if self._on_rows is not None:
                self._on_rows(what, num_rows)

        return self._reader.map([self._column], do, wanted=wanted, on_rows=tell)

    def of(self, rows: Rows) -> pa.LargeStringArray:
        """Names of these rows, which ascend; they are kept for the next call. For up to about FEW_ROWS."""
        found = self.remembered(rows)
        if found is not None:
            return found
        edges = _Edges(rows)

        def take(first: int, names: pa.LargeStringArray) -> pa.LargeStringArray:
            start, stop = edges.of(first, first + len(names))
            return names.take(pa.array(rows[start:stop] - np.uint32(first)))

        pieces = list(self._map("names", take, lambda start, stop: edges.any(start, stop)))
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

    def scan(self) -> texts.NameScan:
        """Whether all names ascend in row order, and what they all begin with. One pass, done once."""
        if self._scan is None:

            def look(first: int, names: pa.LargeStringArray) -> texts.NameScan | None:
                return texts.scan_names(*text_buffers(names)) if len(names) else None

            found = [scan for scan in self._map("order of names", look) if scan is not None]
            self._scan = reduce(texts.join_scans, found) if found else texts.NameScan(True, b"", b"", b"")
        return self._scan

    def windows(self, skip: int, out: npt.NDArray[np.uint64]) -> None:
        """`texts.fill_windows` for every row of the set; out: (N,)."""

        def fill(first: int, names: pa.LargeStringArray) -> None:
            offsets, data = text_buffers(names)
            texts.fill_windows(offsets, data, skip, out[first : first + len(names)])

        for _ in self._map("names that tie", fill):
            pass

    def hashed(self, seed: int, use: Callable[[int, npt.NDArray[np.uint64]], None]) -> None:
        """`use(first row, hashes)` on pieces of `texts.name_hashes`, by several threads at once."""

        def do(first: int, names: pa.LargeStringArray) -> None:
            use(first, texts.name_hashes(*text_buffers(names), seed))

        for _ in self._map("drawing", do):
            pass

    def stream(self, what: str, work: Callable[[int, pa.LargeStringArray], T]) -> Iterator[T]:
        """`work(first row, names)` on all pieces, by several threads at once; results in order."""
        return self._map(what, work)


class _Edges:
    """Where the rows of a stretch stand among ascending rows."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def of(self, start: int, stop: int) -> tuple[int, int]:
        low, high = np.searchsorted(self._rows, [start, stop])
        return int(low), int(high)

    def any(self, start: int, stop: int) -> bool:
        low, high = self.of(start, stop)
        return low < high


def whole(column: pa.ChunkedArray) -> pa.LargeStringArray:
    """A chunked array as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)

"""Keys of all rows and their names in; rows best first out: by key, then by name, then by row. Names are read where keys tie.

Ties are told apart without holding the names: 7 bytes of each tied name are read at a time and compared as numbers
(`texts.fill_windows`), until no two rows are undecided. Where names ascend in row order, the stable sort has done it already.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.kernels import choosing, ordering, texts
from beholder.scoreset.row_names import FEW_ROWS, Names
from beholder.scoreset.row_reader import text_buffers

Rows = npt.NDArray[np.uint32]
Keys = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]


@dataclass
class Ranking:
    """The order of rows.

    Attributes:
        keys: (N,) uint32, larger is better; 0: without a value, which comes last and has no rank.
        names: the rows' samples.
        num_threads: for sorting.
        few_rows: so many rows' names may be held in memory.
    """

    keys: Keys
    names: Names
    num_threads: int = 1
    few_rows: int = FEW_ROWS
    _everything: tuple[Keys, Rows] | None = field(default=None, repr=False)

    @property
    def num_ranked(self) -> int:
        """Rows with a value."""
        return int(np.count_nonzero(self.keys))

    def by_key(self, rows: Rows | None = None) -> tuple[Keys, Rows]:
        """Rows (all, or the given ascending ones) by key alone, equal ones in row order: (sorted inverted keys, rows)."""
        if rows is not None:
            return ordering.sort_best_first(self.keys[rows], rows, num_threads=self.num_threads)
        if self._everything is None:
            self._everything = ordering.sort_best_first(self.keys, num_threads=self.num_threads)
        return self._everything

    def forget(self) -> None:
        """Free what `by_key` keeps for all rows."""
        self._everything = None

    def best_first(self, rows: Rows) -> Rows:
        """The given ascending rows, best first, ties by name, then row."""
        keys, order = self.by_key(rows)
        self._settle(order, *ordering.mark_ties(keys, order))
        return order

    def kept_best_first(self, dropped: Bytes) -> Rows:
        """Rows with dropped == 0, best first, those without a value last: `kept_in_order` without ranks, which is less work."""
        ordered = self.best_first(choosing.left_rows(self.keys, dropped, with_key=True))
        return np.concatenate([ordered, self._valueless(dropped)])

    def _valueless(self, dropped: Bytes) -> Rows:
        """Rows with dropped == 0 that have no value, by name."""
        return by_name(self.names, choosing.left_rows(self.keys, dropped, with_key=False))

    def kept_in_order(self, dropped: Bytes) -> tuple[Rows, Rows]:
        """Rows with dropped == 0, best first, and the rank of each among all rows: 1 for the best, 0 for none (those last)."""
        num_valued, num_without, least = choosing.survey(self.keys, dropped, self.num_threads)
        without = self._valueless(dropped) if num_without else np.empty(0, np.uint32)
        if not num_valued:
            return without, np.zeros(len(without), np.uint32)
        at_least = choosing.count_at_least(self.keys, least, self.num_threads)
        if self._everything is None and at_least < len(self.keys) // 2:
            keys, order = self.by_key(choosing.rows_at_least(self.keys, least, self.num_threads))
        else:
            keys, order = self.by_key()
            keys, order = keys[:at_least], order[:at_least]
            self.forget()
        flags, count = ordering.mark_ties(keys, order, dropped)
        del keys
        if count > 0 and at_least <= self.few_rows:  # all names at one reading: those that stay are wanted for the result, too
            self.names.of(np.sort(order))
        self._settle(order, flags, count)
        rows, ranks = choosing.left_in_order(order, dropped, num_valued)
        if not len(without):
            return rows, ranks
        return np.concatenate([rows, without]), np.concatenate([ranks, np.zeros(len(without), np.uint32)])

    def ranks(self) -> npt.NDArray[np.uint32]:
        """(N,) the rank of every row, 0 for those without a value."""
        keys, order = self.by_key()
        num = self.num_ranked
        self.forget()
        order = order[:num]
        flags, count = ordering.mark_ties(keys[:num], order)
        del keys
        self._settle(order, flags, count)
        return ordering.numbered(order, len(self.keys))

    def _settle(self, order: Rows, flags: Bytes, count: int) -> None:
        """Put rows that tie in the order of their names, in place; flags, count: as `ordering.mark_ties` gives them."""
        if not count:
            return
        if count <= self.few_rows:
            places = ordering.places_in_runs(flags, count)
            order[places] = self._settled_few(order[places], flags[places])
            return
        windows = np.empty(len(self.keys), np.uint64)
        skip = self.names.first_windows(windows)
        if skip is None:
            return
        while True:
            still = ordering.sort_runs(order, flags, windows, self.num_threads)
            if not still:
                return
            if 2 * still <= self.few_rows:
                del windows
                count = int(np.count_nonzero(flags | np.append(flags[1:], np.uint8(0))))
                places = ordering.places_in_runs(flags, count)
                order[places] = self._settled_few(order[places], flags[places])
                return
            skip += texts.WINDOW_BYTES
            self.names.windows(skip, windows)

    def _settled_few(self, order: Rows, flags: Bytes) -> Rows:
        """Rows in runs that tie, put in the order of their names; their names are read at once."""
        rows, ids = ordering.rows_and_ids(order, len(self.keys))
        names = self.names.of(rows)
        _sort_by_names(ids, flags, names, self.num_threads)
        return rows[ids]


def _sort_by_names(ids: Rows, flags: Bytes, names: pa.LargeStringArray, num_threads: int) -> None:
    """Sort the runs of `flags` by the names of the ids, then by id, in place."""
    offsets, data = text_buffers(names)
    windows = np.empty(len(names), np.uint64)
    skip = len(texts.scan_names(offsets, data).common)
    while True:
        texts.fill_windows(offsets, data, skip, windows)
        if not ordering.sort_runs(ids, flags, windows, num_threads):
            return
        skip += texts.WINDOW_BYTES


def by_name(names: Names, rows: Rows) -> Rows:
    """The given ascending rows in the order of their names, equal names in row order."""
    if len(rows) < 2:
        return rows
    ids = np.arange(len(rows), dtype=np.uint32)
    flags = np.ones(len(rows), np.uint8)
    flags[0] = 0
    _sort_by_names(ids, flags, names.of(rows), 1)
    return rows[ids]

"""The order of rows: by key, then by name, then by row; names are read only where keys tie. And the keys of a weighted draw.

Ties are told apart without holding the names: 7 bytes of each tied name are read at a time and compared as numbers
(`texts.fill_windows`), until no two rows are undecided. Where names ascend in row order, the stable sort has done it already.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.curate.select.values import Values
from beholder.kernels import ordering
from beholder.kernels.bits import ordered_bits
from beholder.kernels.ordering import Bytes, Keys, Rows
from beholder.scoreset.row_names import FEW_ROWS, Names


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

    def _by_key(self) -> tuple[Keys, Rows]:
        """All rows by key alone, equal ones in row order: (sorted inverted keys, rows)."""
        if self._everything is None:
            self._everything = ordering.sort_best_first(self.keys)
        return self._everything

    def best_first(self, rows: Rows) -> Rows:
        """The given ascending rows, best first, ties by name, then row."""
        keys, order = ordering.sort_best_first(self.keys[rows], rows)
        self._settle(order, *ordering.mark_ties(keys, order))
        return order

    def kept_best_first(self, dropped: Bytes) -> Rows:
        """Rows with dropped == 0, best first, those without a value last: `kept_in_order` without ranks, which is less work."""
        left = np.flatnonzero(dropped == 0).astype(np.uint32)
        has_value = self.keys[left] > 0
        return np.concatenate([self.best_first(left[has_value]), by_name(self.names, left[~has_value])])

    def kept_in_order(self, dropped: Bytes) -> tuple[Rows, Rows]:
        """Rows with dropped == 0, best first, and the rank of each among all rows: 1 for the best, 0 for none (those last)."""
        left = np.flatnonzero(dropped == 0).astype(np.uint32)
        keys_left = self.keys[left]
        without = by_name(self.names, left[keys_left == 0])
        no_ranks = np.zeros(len(without), np.uint32)
        if len(without) == len(left):
            return without, no_ranks
        least = keys_left[keys_left > 0].min()
        del left, keys_left
        at_least = np.flatnonzero(self.keys >= least).astype(np.uint32) if self._everything is None else None
        if at_least is not None and len(at_least) < len(self.keys) // 2:
            keys, order = ordering.sort_best_first(self.keys[at_least], at_least)
        else:
            keys, order = self._by_key()
            count = int(np.searchsorted(keys, ~least, side="right"))
            keys, order = keys[:count], order[:count]
            self._everything = None
        flags, count = ordering.mark_ties(keys, order, dropped)
        del keys, at_least
        if count and len(order) <= self.few_rows:  # all names at one reading: those that stay are wanted again for the result
            self.names.of(np.sort(order))
        self._settle(order, flags, count)
        places = np.flatnonzero(dropped[order] == 0)
        ranks = (places + 1).astype(np.uint32)
        return np.concatenate([order[places], without]), np.concatenate([ranks, no_ranks])

    def ranks(self) -> npt.NDArray[np.uint32]:
        """(N,) the rank of every row, 0 for those without a value."""
        keys, order = self._by_key()
        self._everything = None
        num = int(np.count_nonzero(self.keys))
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
            self._settle_few(order, flags)
            return
        from beholder.kernels import texts, ties

        windows = np.empty(len(self.keys), np.uint64)
        skip = self.names.first_windows(windows)
        if skip is None:
            return
        while still := ties.sort_runs(order, flags, windows, self.num_threads):
            if 2 * still <= self.few_rows:
                del windows
                self._settle_few(order, flags)
                return
            skip += texts.WINDOW_BYTES
            self.names.windows(skip, windows)

    def _settle_few(self, order: Rows, flags: Bytes) -> None:
        """The same for rows whose names are read at once."""
        places = ordering.in_runs(flags)
        rows, at = ordering.places_of(order[places])
        ids = np.empty(len(rows), np.uint32)
        ids[at] = np.arange(len(rows), dtype=np.uint32)
        ordering.sort_by_names(ids, flags[places], self.names.of(rows), self.num_threads)
        order[places] = rows[ids]


def by_name(names: Names, rows: Rows) -> Rows:
    """The given ascending rows in the order of their names, equal names in row order."""
    return rows[order_of(np.zeros(len(rows), np.uint32), names.of(rows))] if len(rows) > 1 else rows


def order_of(inverted: Keys, names: pa.LargeStringArray, num_threads: int = 1) -> Rows:
    """The order of rows in memory: by ascending inverted key, ties by name, then as they stand."""
    keys, order = ordering.sort_best_first(~inverted)
    flags, count = ordering.mark_ties(keys, order)
    if count:
        ordering.sort_by_names(order, flags, names, num_threads)
    return order


class GumbelSampler:
    """A weighted draw without replacement, by numbers that every row gets: the largest ones win.

    A row's number is value / temperature + g, with g a Gumbel number made of the seed and the row's name alone. The N largest
    are a sample without replacement with weights exp(value / temperature): Vieira 2014, "Gumbel-max trick and weighted
    reservoir sampling", and Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them",
    https://arxiv.org/abs/1903.06059. So the same rows win in whatever order they come.
    """

    def __init__(self, values: Values, ranking: Ranking, seed: int, temperature: float) -> None:
        self._values, self._ranking, self._seed, self._temperature = values, ranking, seed, temperature

    def _bits(self, rows: slice | Rows, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """The numbers of rows as uint64 in the same order; 0 for rows without a value."""
        values = self._values.rank_values(rows)
        uniform = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
        gumbel = -np.log(-np.log(uniform))
        numbers = gumbel + (values / self._temperature if np.isfinite(self._temperature) else 0.0)
        return np.where(np.isnan(values), np.uint64(0), ordered_bits(numbers))

    def keys(self) -> Keys:
        """(N,) keys of all rows: the upper 32 bits of their numbers."""
        found = np.zeros(len(self._ranking.keys), np.uint32)

        def put(first: int, hashes: npt.NDArray[np.uint64]) -> None:
            part = slice(first, first + len(hashes))
            found[part] = self._bits(part, hashes) >> np.uint64(32)

        self._ranking.names.hashed(self._seed, put)
        return found

    def in_order(self, rows: Rows) -> Rows:
        """Ascending rows, the largest number first; equal ones in the order of the ranking."""
        from beholder.kernels import texts

        hashes = texts.name_hashes(*texts.text_buffers(self._ranking.names.of(rows)), self._seed)
        ranked = self._ranking.best_first(rows)
        numbers = self._bits(rows, hashes)[np.searchsorted(rows, ranked)]
        return ranked[np.argsort(~numbers, kind="stable")]

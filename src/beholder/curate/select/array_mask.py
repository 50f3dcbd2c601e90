"""Which rows of a set are left, by a key and a byte of every row: any rows can be dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.curate.select.ranking import Ranking
from beholder.curate.select.row_mask import (
    LOW_BITS,
    NO_RULE,
    NUM_BINS,
    NUMBER,
    Counts,
    Flags,
    OnSizes,
    RowMask,
    counted,
    lower_counts,
    nth,
    sizes_of,
)
from beholder.kernels.ordering import MOST_KEY, Bytes, Keys, Rows
from beholder.scoreset.row_names import FEW_ROWS
from beholder.scoreset.row_reader import RowReader

Codes = npt.NDArray[np.int32]
T = TypeVar("T")
_BLOCK = 1 << 20


class ArrayMask(RowMask):
    """Which rows are left, by a byte of each row.

    Attributes:
        ranking: of the rows.
        dropped: (N,) uint8, the number of the rule that dropped a row, 0 while it is left.
        protected: (N,) whether a row stays in any case; None when none does.
    """

    def __init__(self, ranking: Ranking, reader: RowReader, value_of: Callable[[int], float]) -> None:
        super().__init__(len(ranking.keys), value_of)
        self.ranking, self._reader = ranking, reader
        self.dropped: Bytes = np.full(len(ranking.keys), NO_RULE, np.uint8)
        self.protected: Flags | None = None

    @property
    def num_protected(self) -> int:  # type: ignore[override]
        """Rows left that stay in any case."""
        return 0 if self.protected is None else int(np.count_nonzero((self.dropped == NO_RULE) & self.protected))

    def protect(self, rows: npt.NDArray[np.int64]) -> None:
        """These rows stay whatever rules come."""
        if len(rows):
            self.protected = np.zeros(len(self.dropped), np.bool_)
            self.protected[rows] = True

    def rows(self, *, protected: bool | None = None) -> Rows:
        """(K,) the rows left, ascending; only those that stay in any case, or only the others."""
        if protected is None:
            return np.flatnonzero(self.dropped == NO_RULE).astype(np.uint32)
        parts = [np.flatnonzero(self._free(part)) + part.start for part in self._parts()]
        free = np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.uint32)
        return np.setdiff1d(self.rows(), free, assume_unique=True) if protected else free

    def _parts(self) -> Iterator[slice]:
        for start in range(0, len(self.dropped), _BLOCK):
            yield slice(start, min(start + _BLOCK, len(self.dropped)))

    def _free(self, part: slice) -> Flags:
        """Which rows of a part may still be dropped."""
        free: Flags = self.dropped[part] == NO_RULE
        if self.protected is not None:
            free &= ~self.protected[part]
        return free

    def drop_rows(self, word: str, rows: npt.NDArray[Any], *, protected_too: bool = False) -> int:
        """Drop those of the rows that are left; returns how many that were."""
        rows = rows[self.dropped[rows] == NO_RULE]
        if self.protected is not None and not protected_too:
            rows = rows[~self.protected[rows]]
        self.dropped[rows] = NUMBER[word]
        return len(rows)

    def _drop_where(self, word: str, gone: Callable[[slice], Flags]) -> int:
        count = 0
        for part in self._parts():
            found = self._free(part) & gone(part)
            self.dropped[part][found] = NUMBER[word]
            count += int(np.count_nonzero(found))
        return count

    def keep_between(self, word: str, keys: Keys | None = None, *, least: int = 1, most: int = MOST_KEY) -> int:
        """As of RowMask."""
        by = self.ranking.keys if keys is None else keys
        return self._drop_where(word, lambda part: (by[part] < least) | (by[part] > most))

    def drop_unmarked(self, word: str, mask: Flags) -> int:
        """Drop rows for which the mask is false; returns how many."""
        return self._drop_where(word, lambda part: ~mask[part])

    def _keys_left(self, keys: Keys | None, *, protected_too: bool) -> Iterator[Keys]:
        by = self.ranking.keys if keys is None else keys
        for part in self._parts():
            left = by[part][self.dropped[part] == NO_RULE if protected_too else self._free(part)]
            yield left[left > 0]

    def nth_best(self, place: int, keys: Keys | None = None, *, protected_too: bool = False) -> tuple[int, int, int]:
        """As of RowMask."""
        upper = np.zeros(NUM_BINS, np.int64)
        for left in self._keys_left(keys, protected_too=protected_too):
            least, counts = counted(left >> LOW_BITS)
            upper[least : least + len(counts)] += counts

        def lower(number: int) -> Counts:
            counts = np.zeros(1 << LOW_BITS, np.int64)
            for left in self._keys_left(keys, protected_too=protected_too):
                counts += lower_counts(left, number)
            return counts

        return nth(place, upper, lower)

    def num_with_key(self, keys: Keys | None = None) -> int:
        """As of RowMask."""
        return sum(len(left) for left in self._keys_left(keys, protected_too=True))

    def lowest(self) -> int:
        """As of RowMask."""
        found = min((int(left.min(initial=MOST_KEY)) for left in self._keys_left(None, protected_too=True)), default=MOST_KEY)
        return 0 if found == MOST_KEY else found

    def best_first(self, rows: Rows) -> Rows:
        """As of RowMask, for rows of any keys."""
        return self.ranking.best_first(rows)

    def with_sizes(self, column: str, work: OnSizes[T]) -> Iterator[T]:
        """As of RowMask."""

        def do(first: int, table: pa.Table) -> T:
            part = slice(first, first + table.num_rows)
            free = self._free(part)
            always = (self.dropped[part] == NO_RULE) & ~free
            return work(first, self.ranking.keys[part], free, always, sizes_of(self._reader, table, column))

        return self._reader.map([column], do)

    def _keep_first_of(self, word: str, key: int, number: int, keys: Keys | None, order: Callable[[Rows], Rows] | None) -> None:
        by = self.ranking.keys if keys is None else keys
        parts = [np.flatnonzero(self._free(part) & (by[part] == key)) + part.start for part in self._parts()]
        tied = np.concatenate(parts).astype(np.uint32)
        self._remember_names(tied)
        self.dropped[(order or self.best_first)(tied)[number:]] = NUMBER[word]

    def _remember_names(self, tied: Rows) -> None:
        """Where few rows are left, read all their names now: they will be needed for the result."""
        if len(tied) > 1 and np.count_nonzero(self.dropped == NO_RULE) <= FEW_ROWS:
            self.ranking.names.of(self.rows())

    def _cut(self, word: str, key: int, kept: Rows, gone: Rows) -> None:
        self.keep_between(word, least=key)
        self.dropped[gone] = NUMBER[word]

    def _drop_unsized(self, first: int, unknown: Flags) -> None:
        self.dropped[first : first + len(unknown)][unknown] = NUMBER["no_size"]

    def _know_sizes(self, column: str) -> None:
        pass

    def group_sizes(self, codes: Codes, num_groups: int, *, protected: bool | None = None) -> Counts:
        """(G,) rows left of each group; only those that stay in any case, or only the others."""
        return np.bincount(codes[self.rows(protected=protected)], minlength=num_groups)

    def keep_best_of_groups(
        self,
        word: str,
        codes: Codes,
        quotas: Counts,
        keys: Keys | None = None,
        order: Callable[[Rows], Rows] | None = None,
    ) -> int:
        """Keep the best rows of each group, as many as `quotas` (G,) says, those that stay in any case first.

        keys, order: as of `keep_best`. Returns how many rows were dropped.
        """
        by = self.ranking.keys if keys is None else keys
        num_groups = len(quotas)
        if self.protected is not None:
            quotas = quotas - self.group_sizes(codes, num_groups, protected=True)
        pairs, starts, sizes = _sorted_in_groups(by, codes, self.rows(protected=False), num_groups)
        quotas = np.clip(quotas, 0, sizes)
        edges = np.full(num_groups, -1, np.int64)  # the inverted key of the last row of each group that fits
        some = np.flatnonzero(quotas)
        last = pairs[starts[some] + quotas[some] - 1]
        edges[some] = (last & np.uint64(MOST_KEY)).astype(np.int64)
        with_key = np.searchsorted(pairs, last, "right") - np.searchsorted(pairs, last, "left")
        fitting = np.zeros(num_groups, np.int64)  # rows of that key that fit, where not all do
        below = np.searchsorted(pairs, last, "left") - starts[some]
        fitting[some] = np.where(quotas[some] - below < with_key, quotas[some] - below, 0)
        del pairs
        dropped, ties = 0, [np.zeros(0, np.int64)]
        for part in self._parts():
            free, inverted, edge = self._free(part), (~by[part]).astype(np.int64), edges[codes[part]]
            gone = free & (inverted > edge)
            self.dropped[part][gone] = NUMBER[word]
            dropped += int(np.count_nonzero(gone))
            ties.append(np.flatnonzero(free & (inverted == edge) & (fitting[codes[part]] > 0)) + part.start)
        tied = np.concatenate(ties).astype(np.uint32)
        if not len(tied):
            return dropped
        self._remember_names(tied)
        ordered = (order or self.best_first)(tied)
        ordered = ordered[np.argsort(codes[ordered], kind="stable")]
        groups = codes[ordered]
        places = np.arange(len(groups)) - np.searchsorted(groups, groups)
        late = ordered[places >= fitting[groups]]
        self.dropped[late] = NUMBER[word]
        return dropped + len(late)

    def groups_best_first(self, codes: Codes, groups: Counts) -> Counts:
        """The numbers of groups in the order of their best rows left."""
        rows = self.rows()
        rows = rows[np.isin(codes[rows], groups)]
        num_groups = int(codes.max(initial=-1)) + 1
        pairs, starts, sizes = _sorted_in_groups(self.ranking.keys, codes, rows, num_groups)
        best = np.zeros(num_groups, np.uint32)
        best[sizes > 0] = pairs[starts[sizes > 0]].astype(np.uint32)
        ranked = self.best_first(rows[~self.ranking.keys[rows] == best[codes[rows]]])
        found, first = np.unique(codes[ranked], return_index=True)
        return found[np.argsort(first)].astype(np.int64)


def _sorted_in_groups(by: Keys, codes: Codes, rows: Rows, num_groups: int) -> tuple[npt.NDArray[np.uint64], Counts, Counts]:
    """(group << 32 | inverted key) of the rows, ascending; where each group starts there, and its size."""
    sizes = np.bincount(codes[rows], minlength=num_groups)
    pairs = np.left_shift(codes[rows], np.uint64(32), dtype=np.uint64, casting="unsafe")
    pairs |= ~by[rows]
    pairs.sort()
    return pairs, np.cumsum(sizes) - sizes, sizes

"""Which rows of a set are left, by a range of keys: nothing is held for each row, so memory does not grow with the rows.

What is left are the rows whose key lies in the range, of those with the lowest key perhaps only the first by name, and after a
budget only those of a known size. Keys are counted by their upper bits while the scores are read once, and by their lower bits
in a second reading where a cut falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa

from beholder.curate.select.ranking import by_name
from beholder.curate.select.row_mask import (
    LOW_BITS,
    NUM_BINS,
    Counts,
    Flags,
    OnSizes,
    RowMask,
    counted,
    lower_counts,
    nth,
    sizes_of,
)
from beholder.curate.select.values import keys_in
from beholder.errors import InputError
from beholder.kernels.ordering import MOST_KEY, Chosen, Keys, Rows
from beholder.scoreset.row_names import Names
from beholder.scoreset.row_reader import RowReader

T = TypeVar("T")


class RangeMask(RowMask):
    """Which rows are left, by a range of keys of the score; names and sizes are read again where they decide.

    Args:
        reader, names: of the rows.
        score: the column that they are ranked by.
        repeated: (K,) uint32, ascending rows that are not left.
        cuts: keys that the range will be cut at, of which the exact counts are wanted.

    Attributes:
        least, most: the range; rows without a score have key 0.
        size_column: rows without a size in this column are not left; None: whatever their size.
        most_in_bin: the most rows of one bin of keys.
    """

    def __init__(
        self,
        reader: RowReader,
        names: Names,
        score: str,
        repeated: Rows,
        cuts: list[int],
        value_of: Callable[[int], float],
        on_rows: Callable[[int], None],
    ) -> None:
        super().__init__(reader.num_rows, value_of)
        self.reader, self.score = reader, score
        self._names, self._repeated, self._on_rows = names, Chosen(repeated), on_rows
        self.least, self.most = 0, MOST_KEY
        self.size_column: str | None = None
        self._num_tied: int | None = None
        self._tied: Chosen | None = None
        self._smallest = MOST_KEY
        self._bins = np.zeros(NUM_BINS, np.int64)
        self._lower: dict[int, Counts] = {}
        self._count(sorted({key >> LOW_BITS for key in cuts if key <= MOST_KEY}), is_first=True)
        self.most_in_bin = int(self._bins.max())

    def keys_of(self, first: int, table: pa.Table) -> Keys:
        """The keys of a piece that was read."""
        keys = keys_in(self.reader, table, self.score)
        keys[self._repeated.inside(first, len(keys))] = 0
        return keys

    def _count(self, numbers: list[int], *, is_first: bool = False) -> None:
        """Read the scores: the counts of all bins, or only of the keys in the named ones."""

        def count(first: int, table: pa.Table) -> tuple[int, int, Counts, list[Counts], int]:
            keys = self.keys_of(first, table)
            keys = keys[keys > 0]
            bins = counted(keys >> LOW_BITS) if is_first else (0, np.zeros(0, np.int64))
            lower = [lower_counts(keys, number) for number in numbers]
            return table.num_rows, *bins, lower, int(keys.min(initial=MOST_KEY))

        found = {number: np.zeros(1 << LOW_BITS, np.int64) for number in numbers}
        num_rows = 0
        for piece_rows, least, bins, lower, smallest in self.reader.map([self.score], count, on_rows=self._on_rows):
            num_rows += piece_rows
            self._bins[least : least + len(bins)] += bins
            self._smallest = min(self._smallest, smallest)
            for number, counts in zip(numbers, lower, strict=True):
                found[number] += counts
        if num_rows != self.reader.num_rows:
            raise InputError(
                f"{self.reader.scores.source}: {num_rows:,} rows were read where {self.reader.num_rows:,} were counted; "
                "did a file change?"
            )
        self._lower |= found

    def _lower_of(self, number: int) -> Counts:
        if self._bins[number] and number not in self._lower:
            self._count([number])
        return self._lower.get(number, np.zeros(1 << LOW_BITS, np.int64))

    def num_at_least(self, key: int) -> int:
        """How many rows have at least this key, which is above 0."""
        if key > MOST_KEY:
            return 0
        number = key >> LOW_BITS
        return int(self._bins[number + 1 :].sum() + self._lower_of(number)[key & ((1 << LOW_BITS) - 1) :].sum())

    @property
    def num_above(self) -> int:
        """How many rows have a key above the range."""
        return self.num_at_least(self.most + 1)

    def bins(self) -> tuple[Keys, Counts]:
        """(B,) the smallest inverted key of each bin, ascending, and (B,) about how many rows of the range are in it."""
        numbers = np.flatnonzero(self._bins)
        numbers = numbers[(numbers >= self.least >> LOW_BITS) & (numbers <= self.most >> LOW_BITS)][::-1]
        highest = (numbers.astype(np.uint64) << np.uint64(LOW_BITS)) | np.uint64((1 << LOW_BITS) - 1)
        return ~highest.astype(np.uint32), self._bins[numbers]

    def keep_between(self, word: str, keys: Keys | None = None, *, least: int = 1, most: int = MOST_KEY) -> int:
        """As of RowMask."""
        if least > self.least:
            self.least, self._num_tied, self._tied = least, None, None
        self.most = min(most, self.most)
        return self.left - self.num_with_key()

    def num_with_key(self, keys: Keys | None = None) -> int:
        """As of RowMask, before a tie was cut."""
        return max(0, self.num_at_least(max(self.least, 1)) - self.num_above)

    def nth_best(self, place: int, keys: Keys | None = None, *, protected_too: bool = False) -> tuple[int, int, int]:
        """As of RowMask."""
        num_above = self.num_above
        key, above, count = nth(place + num_above, self._bins, self._lower_of)
        return key, above - num_above, count

    def lowest(self) -> int:
        """As of RowMask."""
        if self.size_column is not None:
            found = min(
                self._pieces([], lambda first, table: int(self._keys_left(first, table).min(initial=MOST_KEY))),
                default=MOST_KEY,
            )
        elif self._smallest >= self.least:
            found = self._smallest
        else:
            count = self.num_with_key()
            found = self.nth_best(count)[0] if count else MOST_KEY
        return found if found <= self.most and found != MOST_KEY else 0

    def _keys_left(self, first: int, table: pa.Table) -> Keys:
        keys = self.keys_of(first, table)
        return keys[self._left_of(first, keys, table)]

    def between(self, keys: Keys) -> Flags:
        """Which keys are in the range."""
        return (keys >= max(self.least, 1)) & (keys <= self.most)

    def _left_of(self, first: int, keys: Keys, table: pa.Table) -> Flags:
        """Which rows of a piece are left; ties have been cut."""
        left = self.between(keys)
        if self._tied is not None:
            left &= keys > self.least
            left[self._tied.inside(first, len(keys))] = True
        if self.size_column is not None:
            left &= sizes_of(self.reader, table, self.size_column) >= 0
        return left

    def left_in(self, first: int, table: pa.Table) -> Flags:
        """Which rows of a piece are left; the table has the columns of `columns`."""
        return self._left_of(first, self.keys_of(first, table), table)

    @property
    def columns(self) -> list[str]:
        """What tells whether a row is left."""
        return list(dict.fromkeys([self.score, *([self.size_column] if self.size_column is not None else [])]))

    def _pieces(self, more: list[str], work: Callable[[int, pa.Table], T]) -> Iterator[T]:
        self.cut_ties()
        return self.reader.map(list(dict.fromkeys([*self.columns, *more])), work)

    def kept(self) -> Flags:
        """(N,) whether each row is left."""
        return np.concatenate([np.zeros(0, np.bool_), *self._pieces([], self.left_in)])

    def cut_ties(self) -> None:
        """Find out which of the rows with the lowest key are left, where not all are: the first by name."""
        if self._num_tied is None or self._tied is not None:
            return

        def tied(first: int, table: pa.Table) -> Rows:
            return (np.flatnonzero(self.keys_of(first, table) == self.least) + first).astype(np.uint32)

        rows = np.concatenate([np.zeros(0, np.uint32), *self.reader.map([self.score], tied)])
        self._tied = Chosen(np.sort(self.best_first(rows)[: self._num_tied]))

    def best_first(self, rows: Rows) -> Rows:
        """As of RowMask."""
        return by_name(self._names, rows)

    def with_sizes(self, column: str, work: OnSizes[T]) -> Iterator[T]:
        """As of RowMask."""

        def do(first: int, table: pa.Table) -> T:
            keys = self.keys_of(first, table)
            free = self._left_of(first, keys, table)
            return work(first, keys, free, np.zeros(len(free), np.bool_), sizes_of(self.reader, table, column))

        return self._pieces([column], do)

    def _keep_first_of(self, word: str, key: int, number: int, keys: Keys | None, order: Callable[[Rows], Rows] | None) -> None:
        self._num_tied, self._tied = number, None

    def _cut(self, word: str, key: int, kept: Rows, gone: Rows) -> None:
        self.least, self._num_tied, self._tied = key, len(kept), Chosen(np.sort(kept))

    def _drop_unsized(self, first: int, unknown: Flags) -> None:
        pass

    def _know_sizes(self, column: str) -> None:
        self.size_column = column

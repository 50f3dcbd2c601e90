"""Which rows are left, the ways of dropping that the rules are made of, and counts of what each rule did.

Two masks do the same. `ArrayMask` holds a key and a byte of every row, and can drop any rows. `RangeMask` holds neither, so
its memory does not grow with the rows: what it leaves are the rows whose key lies in a range, of those with the lowest key
perhaps only the first by name, and after a budget only those of a known size. It counts keys by their upper bits while it reads
the scores once, and by their lower bits in a second reading where a cut falls.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.act.messages import bytes_text
from beholder.curate.select.ranking import Ranking, by_name
from beholder.curate.select.values import keys_in
from beholder.errors import InputError
from beholder.kernels import ordering
from beholder.kernels.ordering import MOST_KEY, Bytes, Keys, Rows
from beholder.scoreset.row_names import FEW_ROWS, Names
from beholder.scoreset.row_reader import RowReader

Counts = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int32]
T = TypeVar("T")
OnSizes = Callable[[int, Keys, Flags, Flags, Counts], T]
"""Called with the first row of a piece; its keys; which rows may be dropped; which stay in any case; their sizes."""

RULES = (
    "", "repeated", "no_score", "excluded", "marked", "where", "min_score", "max_score", "quantile", "near_reference",
    "duplicate", "balance", "top", "top_share", "sample", "no_size", "budget",
)  # fmt: skip
"""The words of the column `dropped_by`, in the order in which the rules work; the empty one is for rows that stay."""

REJECTING = ("marked", "min_score", "quantile", "duplicate", "balance", "top", "top_share", "budget")
"""Rules that drop a picture because others are better, or it was marked so; the others say what is not looked at."""

NUMBER = {word: number for number, word in enumerate(RULES)}
NO_RULE = 0
NO_KEY = MOST_KEY + 1
_BLOCK = 1 << 20
_LOW_BITS = 12
_NUM_BINS = 1 << (32 - _LOW_BITS)
_MOST_BYTES = 1 << 60


@dataclass(frozen=True)
class Step:
    """What one rule did.

    Attributes:
        word: the rule's word.
        text: the rule as people write it.
        rows_in, dropped, left: rows before, rows it dropped, rows after.
        threshold: what it found out, where it did: the lowest score kept, rows of each group; None otherwise.
        note: more to say about it, or "".
        lowest: the lowest ranking value among the rows left; None where none has one.
        counts: more numbers that it found out, by name: of a budget `used_bytes` and `budget_bytes`.
    """

    word: str
    text: str
    rows_in: int
    dropped: int
    left: int
    threshold: float | None = None
    note: str = ""
    lowest: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "rule": self.word,
            "text": self.text,
            "rows_in": self.rows_in,
            "dropped": self.dropped,
            "left": self.left,
            "threshold": _finite(self.threshold),
            "note": self.note,
            "lowest_left": _finite(self.lowest),
            **self.counts,
        }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return None if value is None or not np.isfinite(value) else value


class RowMask(ABC):
    """Which rows are left.

    Attributes:
        steps: what was done so far.
        left: how many rows are left.
        num_protected: how many of them stay in any case.
    """

    num_protected = 0

    def __init__(self, num_rows: int, value_of: Callable[[int], float]) -> None:
        self._value_of = value_of
        self.steps: list[Step] = []
        self.left = num_rows

    def note(
        self,
        word: str,
        text: str,
        dropped: int,
        threshold: float | None = None,
        note: str = "",
        *,
        is_cut: bool = False,
        **counts: int,
    ) -> float | None:
        """Add a step, whose rows have been dropped; returns the lowest value left, which is the threshold of a cut."""
        least = self.lowest()
        lowest = self._value_of(least) if least else None
        threshold = lowest if is_cut else threshold
        self.steps.append(Step(word, text, self.left, dropped, self.left - dropped, threshold, note, lowest, counts))
        self.left -= dropped
        return lowest

    def keep_best(self, word: str, number: int, keys: Keys | None = None, order: Callable[[Rows], Rows] | None = None) -> int:
        """Keep the best `number` rows, rows that stay in any case first; returns how many were dropped.

        keys: what the best are told by (None: the ranking); order: puts ascending rows with equal keys in their order.
        """
        others, quota = self.left - self.num_protected, max(0, number - self.num_protected)
        if quota >= others:
            return 0
        if quota == 0:
            return self.keep_between(word, keys, least=NO_KEY)
        key, above, count = self.nth_best(quota, keys)
        self.keep_between(word, keys, least=key)
        if above + count > quota:
            self._keep_first_of(word, key, quota - above, keys, order)
        return others - quota

    def keep_within(self, reader: RowReader, budget: int, size_column: str | None) -> None:
        """Drop rows without a known size, then all behind the longest best-first run of rows that fits the budget in bytes.

        Rows that stay in any case come first and count, however large they are. Sizes below 0, NULL and NaN are unknown.

        Raises:
            InputError: no column of sizes.
        """
        column = _size_column(reader, size_column)
        most = min(budget, _MOST_BYTES)

        def survey(first: int, keys: Keys, free: Flags, always: Flags, sizes: Counts) -> tuple[int, int, int, Counts]:
            unknown = free & (sizes < 0)
            self._drop_unsized(first, unknown)
            known = free & ~unknown
            held = sum(np.maximum(sizes[always], 0).tolist())
            bins = keys[known] >> _LOW_BITS
            least = int(bins.min(initial=_NUM_BINS - 1))
            return int(unknown.sum()), held, least, _sums(bins - np.uint32(least), sizes[known])

        bins, num_unknown, used = np.zeros((3, _NUM_BINS), np.int64), 0, 0
        for unknown, held, least, sums in self.with_sizes(column, survey):
            bins[:, least : least + sums.shape[1]] += sums
            num_unknown += unknown
            used += held
        self._know_sizes(column)
        self.note("no_size", f"a known size in column {column}", num_unknown)
        text, counts = f"at most {bytes_text(budget)}", {"budget_bytes": budget}
        if used > budget:  # the rows that stay in any case took more than all
            dropped = self.left - self.num_protected
            self.keep_between("budget", least=NO_KEY)
            note = "what is marked keep takes more than that"
        else:
            note, dropped = "nothing was too much", 0
            for number in np.flatnonzero(bins[0])[::-1].tolist():
                size = _total(bins, number)
                if used + size > most:
                    used, size, kept = self._cut_in_bin(column, number, used, most)
                    dropped = int(bins[0, : number + 1].sum()) - kept
                    note = f"the next picture, of {bytes_text(size)}, would not fit"
                    if size > budget:
                        note = "the next picture alone is larger than that"
                    break
                used += size
            note = f"{bytes_text(used)} used; {note}"
            counts["used_bytes"] = used
        self.note("budget", text, dropped, note=note, is_cut=True, **counts)

    def _cut_in_bin(self, column: str, number: int, used: int, budget: int) -> tuple[int, int, int]:
        """Cut where the sum passes the budget: somewhere among the keys of one bin.

        Returns the bytes of all that is left, those of the first row that is not, and how many rows of the bin are left.
        """

        def take(first: int, keys: Keys, free: Flags, _: Flags, sizes: Counts) -> tuple[Rows, Keys, Counts]:
            inside = np.flatnonzero(free & (keys >> _LOW_BITS == number) & (sizes >= 0))
            return (inside + first).astype(np.uint32), keys[inside], sizes[inside]

        pieces = list(self.with_sizes(column, take))
        rows, keys, sizes = (np.concatenate([piece[at] for piece in pieces]) for at in range(3))
        inverted, order = ordering.sort_best_first(keys)
        rows, sizes = rows[order], np.minimum(sizes[order], budget + 1)
        over = int(np.argmax(used + np.cumsum(sizes) > budget))  # the first: later sums may be larger than int64 holds
        start, stop = np.searchsorted(inverted, inverted[over], "left"), np.searchsorted(inverted, inverted[over], "right")
        used += int(sizes[:start].sum())
        tied = rows[start:stop]
        ordered = self.best_first(tied)
        sizes = sizes[start:stop][np.searchsorted(tied, ordered)]
        fitting = int(np.argmax(used + np.cumsum(sizes) > budget))
        self._cut("budget", int(~inverted[over]), ordered[:fitting], ordered[fitting:])
        return used + int(sizes[:fitting].sum()), int(sizes[fitting]), int(start) + fitting

    @abstractmethod
    def keep_between(self, word: str, keys: Keys | None = None, *, least: int = 1, most: int = MOST_KEY) -> int:
        """Drop rows whose key (of the ranking, or of `keys`) lies outside [least, most]; returns how many."""

    @abstractmethod
    def nth_best(self, place: int, keys: Keys | None = None, *, protected_too: bool = False) -> tuple[int, int, int]:
        """The key at `place` (from 1, the best) among the rows left that have one: (key, rows with a better one, with it)."""

    @abstractmethod
    def num_with_key(self, keys: Keys | None = None) -> int:
        """How many rows are left that have a key."""

    @abstractmethod
    def lowest(self) -> int:
        """The smallest key of the ranking among the rows left that have one, 0 where none has."""

    @abstractmethod
    def best_first(self, rows: Rows) -> Rows:
        """Ascending rows of one key in the order of their names."""

    @abstractmethod
    def with_sizes(self, column: str, work: OnSizes[T]) -> Iterator[T]:
        """`work` on pieces of the set with a column of bytes, in order of rows."""

    @abstractmethod
    def _keep_first_of(self, word: str, key: int, number: int, keys: Keys | None, order: Callable[[Rows], Rows] | None) -> None:
        """Of the rows left with this key keep the first `number`."""

    @abstractmethod
    def _cut(self, word: str, key: int, kept: Rows, gone: Rows) -> None:
        """Drop rows below the key, and of those with it the rows `gone`."""

    @abstractmethod
    def _drop_unsized(self, first: int, unknown: Flags) -> None:
        """Drop rows of a piece that have no known size."""

    @abstractmethod
    def _know_sizes(self, column: str) -> None:
        """From now on rows of the ranking without a known size are not left."""


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
        upper = np.zeros(_NUM_BINS, np.int64)
        for left in self._keys_left(keys, protected_too=protected_too):
            least, counts = _counted(left >> _LOW_BITS)
            upper[least : least + len(counts)] += counts

        def lower(number: int) -> Counts:
            counts = np.zeros(1 << _LOW_BITS, np.int64)
            for left in self._keys_left(keys, protected_too=protected_too):
                counts += _lower_counts(left, number)
            return counts

        return _nth(place, upper, lower)

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
        self._names, self._repeated, self._on_rows = names, repeated, on_rows
        self.least, self.most = 0, MOST_KEY
        self.size_column: str | None = None
        self._num_tied: int | None = None
        self._tied: Rows | None = None
        self._smallest = MOST_KEY
        self._bins = np.zeros(_NUM_BINS, np.int64)
        self._lower: dict[int, Counts] = {}
        self._count(sorted({key >> _LOW_BITS for key in cuts if key <= MOST_KEY}), is_first=True)
        self.most_in_bin = int(self._bins.max())

    def keys_of(self, first: int, table: pa.Table) -> Keys:
        """The keys of a piece that was read."""
        keys = keys_in(self.reader, table, self.score)
        low, high = np.searchsorted(self._repeated, np.array([first, first + len(keys)], np.uint32))
        keys[self._repeated[low:high] - np.uint32(first)] = 0
        return keys

    def _count(self, numbers: list[int], *, is_first: bool = False) -> None:
        """Read the scores: the counts of all bins, or only of the keys in the named ones."""

        def count(first: int, table: pa.Table) -> tuple[int, int, Counts, list[Counts], int]:
            keys = self.keys_of(first, table)
            keys = keys[keys > 0]
            bins = _counted(keys >> _LOW_BITS) if is_first else (0, np.zeros(0, np.int64))
            lower = [_lower_counts(keys, number) for number in numbers]
            return table.num_rows, *bins, lower, int(keys.min(initial=MOST_KEY))

        found = {number: np.zeros(1 << _LOW_BITS, np.int64) for number in numbers}
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
        return self._lower.get(number, np.zeros(1 << _LOW_BITS, np.int64))

    def num_at_least(self, key: int) -> int:
        """How many rows have at least this key, which is above 0."""
        if key > MOST_KEY:
            return 0
        number = key >> _LOW_BITS
        return int(self._bins[number + 1 :].sum() + self._lower_of(number)[key & ((1 << _LOW_BITS) - 1) :].sum())

    @property
    def num_above(self) -> int:
        """How many rows have a key above the range."""
        return self.num_at_least(self.most + 1)

    def bins(self) -> tuple[Keys, Counts]:
        """(B,) the smallest inverted key of each bin, ascending, and (B,) about how many rows of the range are in it."""
        numbers = np.flatnonzero(self._bins)
        numbers = numbers[(numbers >= self.least >> _LOW_BITS) & (numbers <= self.most >> _LOW_BITS)][::-1]
        highest = (numbers.astype(np.uint64) << np.uint64(_LOW_BITS)) | np.uint64((1 << _LOW_BITS) - 1)
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
        key, above, count = _nth(place + num_above, self._bins, self._lower_of)
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
            low, high = np.searchsorted(self._tied, np.array([first, first + len(keys)], np.uint32))
            left[self._tied[low:high] - np.uint32(first)] = True
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
        self._tied = np.sort(self.best_first(rows)[: self._num_tied])

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
        self.least, self._num_tied, self._tied = key, len(kept), np.sort(kept)

    def _drop_unsized(self, first: int, unknown: Flags) -> None:
        pass

    def _know_sizes(self, column: str) -> None:
        self.size_column = column


def _counted(numbers: npt.NDArray[Any]) -> tuple[int, Counts]:
    """How often each number is there, from the least one on; and that."""
    least = int(numbers.min()) if len(numbers) else 0
    return least, np.bincount(numbers - np.uint32(least))


def _lower_counts(keys: Keys, number: int) -> Counts:
    """How often each key of a bin is there."""
    inside = keys[keys >> _LOW_BITS == number] & np.uint32((1 << _LOW_BITS) - 1)
    return np.bincount(inside, minlength=1 << _LOW_BITS)


def _nth(place: int, bins: Counts, lower_of: Callable[[int], Counts]) -> tuple[int, int, int]:
    """The key at a place, counted from the largest: (key, how many are above, how many are equal)."""
    number, above = _bin_of_place(bins, place, 0)
    lower = lower_of(number)
    low, above = _bin_of_place(lower, place, above)
    return (number << _LOW_BITS) | low, above, int(lower[low])


def _bin_of_place(counts: Counts, place: int, above: int) -> tuple[int, int]:
    """The bin that holds the place, counted from the last bin down, and how many places are above that bin."""
    reached = above + np.cumsum(counts[::-1])
    number = int(np.searchsorted(reached, place))
    assert number < len(counts), "fewer rows than the place asked for"
    return len(counts) - 1 - number, int(reached[number - 1]) if number else above


def _sums(numbers: npt.NDArray[Any], sizes: Counts) -> Counts:
    """(3, B) for each number: how many sizes, the sum of their lower 32 bits, and that of the upper ones; all exact."""
    sums = np.zeros((3, int(numbers.max(initial=0)) + 1), np.int64)
    for start in range(0, len(numbers), _BLOCK):  # more at once, and float64 would not hold the sums
        part, some = numbers[start : start + _BLOCK], sizes[start : start + _BLOCK]
        for row, weights in enumerate((None, some & MOST_KEY, some >> 32)):
            found = np.bincount(part, weights)
            sums[row, : len(found)] += found.astype(np.int64)
    return sums


def _total(sums: Counts, number: int) -> int:
    return (int(sums[2, number]) << 32) + int(sums[1, number])


def _size_column(reader: RowReader, size_column: str | None) -> str:
    name = size_column or columns.NUM_BYTES
    if name in reader.schema.names:
        if reader.holds_numbers(name):
            return name
        raise InputError(
            f"--budget: column {name!r} holds {reader.schema.field(name).type}, not numbers of bytes; "
            "name another with --size-column"
        )
    has = ", ".join(reader.metadata_columns[:20]) or "no metadata"
    raise InputError(
        f"--budget needs a column with each picture's bytes, and {name!r} is not there ({has}); use --size-column or --join"
    )


def sizes_of(reader: RowReader, table: pa.Table, name: str) -> Counts:
    """A column of bytes as int64, -1 where unknown; fractions count as a whole byte."""
    column = reader.numbers_in(table, name)
    if not pa.types.is_integer(column.type):
        floats = pc.ceil(column.cast(pa.float64()))
        column = pc.if_else(pc.is_finite(floats), pc.min_element_wise(floats, float(_MOST_BYTES)), None)
    elif pa.types.is_uint64(column.type):
        column = pc.min_element_wise(column, pa.scalar(_MOST_BYTES, pa.uint64()))
    found = pc.fill_null(column.cast(pa.int64()), -1).combine_chunks().to_numpy(zero_copy_only=False)
    sizes: Counts = np.maximum(found, -1)
    return sizes

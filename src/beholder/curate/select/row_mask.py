"""Which rows are left, the ways of dropping that the rules are made of, and counts of what each rule did.

Two masks do the same: `ArrayMask` (`array_mask.py`) holds a key and a byte of every row, and can drop any rows; `RangeMask`
(`range_mask.py`) holds neither.
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
from beholder.errors import InputError
from beholder.io.records import finite
from beholder.kernels import ordering
from beholder.kernels.ordering import MOST_KEY, Keys, Rows
from beholder.scoreset.row_reader import RowReader

Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
T = TypeVar("T")
LOW_BITS = 12
"""Keys are counted by their upper bits, in so many bins, and where a cut falls by these lower ones."""
NUM_BINS = 1 << (32 - LOW_BITS)
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
            "threshold": finite(self.threshold),
            "note": self.note,
            "lowest_left": finite(self.lowest),
            **self.counts,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Step:
        """What `to_json` made, but for `lowest` and `counts`. Raises KeyError, TypeError, ValueError for anything else."""
        threshold = said.get("threshold")
        return cls(
            word=str(said["rule"]),
            text=str(said["text"]),
            rows_in=int(said["rows_in"]),
            dropped=int(said["dropped"]),
            left=int(said["left"]),
            threshold=None if threshold is None else float(threshold),
            note=str(said.get("note") or ""),
        )


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
            bins = keys[known] >> LOW_BITS
            least = int(bins.min(initial=NUM_BINS - 1))
            return int(unknown.sum()), held, least, _sums(bins - np.uint32(least), sizes[known])

        bins, num_unknown, used = np.zeros((3, NUM_BINS), np.int64), 0, 0
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
            inside = np.flatnonzero(free & (keys >> LOW_BITS == number) & (sizes >= 0))
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


def counted(numbers: npt.NDArray[Any]) -> tuple[int, Counts]:
    """How often each number is there, from the least one on; and that."""
    least = int(numbers.min()) if len(numbers) else 0
    return least, np.bincount(numbers - np.uint32(least))


def lower_counts(keys: Keys, number: int) -> Counts:
    """How often each key of a bin is there."""
    inside = keys[keys >> LOW_BITS == number] & np.uint32((1 << LOW_BITS) - 1)
    return np.bincount(inside, minlength=1 << LOW_BITS)


def nth(place: int, bins: Counts, lower_of: Callable[[int], Counts]) -> tuple[int, int, int]:
    """The key at a place, counted from the largest: (key, how many are above, how many are equal)."""
    number, above = _bin_of_place(bins, place, 0)
    lower = lower_of(number)
    low, above = _bin_of_place(lower, place, above)
    return (number << LOW_BITS) | low, above, int(lower[low])


def _bin_of_place(counts: Counts, place: int, above: int) -> tuple[int, int]:
    """The bin that holds the place, counted from the last bin down, and how many places are above that bin."""
    reached = above + np.cumsum(counts[::-1])
    number = int(np.searchsorted(reached, place))
    assert number < len(counts), "fewer rows than the place asked for"
    return len(counts) - 1 - number, int(reached[number - 1]) if number else above


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

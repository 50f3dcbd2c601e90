"""Rows that are left in, fewer rows out: the ways of dropping that the rules are made of, with counts of what each one did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.curate.select.grouping import Codes
from beholder.curate.select.ranking import Ranking
from beholder.kernels import choosing, choosing_groups, ordering
from beholder.kernels.choosing import NOBODY
from beholder.scoreset.row_names import FEW_ROWS, Names

Keys = npt.NDArray[np.uint32]
Rows = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]

RULES = (
    "", "repeated", "no_score", "excluded", "marked", "where", "min_score", "max_score", "quantile", "near_reference",
    "duplicate", "balance", "top", "top_share", "sample", "no_size", "budget",
)  # fmt: skip
"""The words of the column `dropped_by`, in the order in which the rules work; the empty one is for rows that stay."""

NUMBER = {word: number for number, word in enumerate(RULES)}


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
        found = {"rule": self.word, "text": self.text, "rows_in": self.rows_in, "dropped": self.dropped, "left": self.left}
        return {
            **found,
            "threshold": _finite(self.threshold),
            "note": self.note,
            "lowest_left": _finite(self.lowest),
            **self.counts,
        }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return None if value is None or not np.isfinite(value) else value


class Sieve:
    """Which rows are left, and by which rule the others were dropped.

    Args:
        ranking: of the rows.
        num_threads: to use.
        value_of: gives the ranking value that has a key.

    Attributes:
        dropped: (N,) uint8, the number of the rule that dropped a row, 0 while it is left.
        pinned: (N,) uint8, 1 for rows that stay in any case; empty when there are none.
        steps: what was done so far.
    """

    def __init__(self, ranking: Ranking, num_threads: int, value_of: Callable[[int], float]) -> None:
        self.ranking = ranking
        self._value_of = value_of
        self.num_threads = num_threads
        self.dropped: Bytes = np.zeros(len(ranking.keys), np.uint8)
        self.pinned: Bytes = NOBODY
        self.steps: list[Step] = []
        self.left = len(ranking.keys)

    @property
    def names(self) -> Names:
        """The rows' samples."""
        return self.ranking.names

    @property
    def num_pinned(self) -> int:
        """Rows left that stay in any case."""
        return int(np.count_nonzero((self.dropped == 0) & (self.pinned != 0))) if len(self.pinned) else 0

    def note(self, word: str, text: str, dropped: int, threshold: float | None = None, note: str = "", **counts: int) -> None:
        """Add a step, whose rows have been dropped."""
        lowest = self.lowest_value()
        self.steps.append(Step(word, text, self.left, dropped, self.left - dropped, threshold, note, lowest, counts))
        self.left -= dropped

    def pin(self, rows: npt.NDArray[np.int64]) -> None:
        """These rows stay whatever rules come."""
        if len(rows):
            self.pinned = np.zeros(len(self.dropped), np.uint8)
            self.pinned[rows] = 1

    def drop_rows(self, word: str, rows: npt.NDArray[Any], *, pinned_too: bool = False) -> int:
        """Drop those of the rows that are left; returns how many that were."""
        rows = rows[self.dropped[rows] == 0]
        if len(self.pinned) and not pinned_too:
            rows = rows[self.pinned[rows] == 0]
        self.dropped[rows] = NUMBER[word]
        return len(rows)

    def drop_outside(self, word: str, keys: Keys, *, least: int = 1, most: int = 0xFFFFFFFF) -> int:
        """Drop rows whose key lies outside [least, most]; returns how many."""
        return choosing.drop_outside(
            keys, self.dropped, NUMBER[word], least=least, most=most, pinned=self.pinned, num_threads=self.num_threads
        )

    def drop_unmarked(self, word: str, mask: npt.NDArray[np.bool_]) -> int:
        """Drop rows for which the mask is false; returns how many."""
        return choosing.drop_unmarked(mask, self.dropped, NUMBER[word], self.pinned)

    def group_sizes(self, codes: Codes, num_groups: int, which: str = "all") -> npt.NDArray[np.int64]:
        """Rows left of each group: "all", "pinned" ones, or the "others"."""
        return choosing_groups.group_sizes(codes, self.dropped, num_groups, pinned=self.pinned, which=which)

    def keep_best(self, word: str, number: int, keys: Keys | None = None, order: Callable[[Rows], Rows] | None = None) -> int:
        """Keep the best `number` rows, rows that stay in any case first; returns how many were dropped.

        keys: what the best are told by (None: the ranking); order: puts ascending rows with equal keys in their order.
        """
        by = self.ranking.keys if keys is None else keys
        num_pinned = self.num_pinned
        others, quota = self.left - num_pinned, max(0, number - num_pinned)
        if quota >= others:
            return 0
        if quota == 0:
            return self.drop_outside(word, by, least=1 << 32)
        key, above, count = choosing.nth_best(by, self.dropped, quota, pinned=self.pinned, num_threads=self.num_threads)
        self.drop_outside(word, by, least=key)
        if above + count > quota:
            tied = choosing.rows_with(by, self.dropped, key, count, self.pinned)
            self._remember_names(tied)
            self.dropped[(order or self.ranking.best_first)(tied)[quota - above :]] = NUMBER[word]
        return others - quota

    def _remember_names(self, tied: Rows) -> None:
        """Where few rows are left, read all their names now: they will be needed for the result."""
        left = choosing.survey(self.ranking.keys, self.dropped, self.num_threads)
        if len(tied) > 1 and left[0] + left[1] <= FEW_ROWS:
            self.names.of(choosing.left_rows(self.ranking.keys, self.dropped))

    def keep_best_of_groups(
        self,
        word: str,
        codes: Codes,
        quotas: npt.NDArray[np.int64],
        keys: Keys | None = None,
        order: Callable[[Rows], Rows] | None = None,
    ) -> int:
        """Keep the best rows of each group, as many as `quotas` (G,) says, those that stay in any case first."""
        before = self.left
        quotas = np.maximum(0, quotas - self.group_sizes(codes, len(quotas), "pinned"))
        by = self.ranking.keys if keys is None else keys
        least = max(1, self.lowest(by))
        rows, quotas = choosing_groups.drop_below_edges(
            by, codes, self.dropped, quotas, NUMBER[word], pinned=self.pinned, least=least, num_threads=self.num_threads
        )
        cut = choosing_groups.GroupCut(*ordering.sort_best_first(by[rows], rows, num_threads=self.num_threads), codes, quotas)
        count = cut.cut(self.dropped, NUMBER[word], self.pinned)
        if count:
            tied = cut.tied_rows(count, self.dropped, self.pinned)
            self._remember_names(tied)
            cut.drop_extra((order or self.ranking.best_first)(tied), self.dropped, NUMBER[word])
        num_with, num_without, _ = choosing.survey(self.ranking.keys, self.dropped, self.num_threads)
        return before - num_with - num_without

    def _sorted(self) -> tuple[Keys, Rows]:
        """At least all rows that are left, by key."""
        if 2 * self.left >= len(self.dropped):
            return self.ranking.by_key()
        return self.ranking.by_key(choosing.left_rows(self.ranking.keys, self.dropped))

    def groups_best_first(self, codes: Codes, groups: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The numbers of groups in the order of their best rows left."""
        inverted, order = self._sorted()
        best = choosing_groups.best_rows(inverted, order, codes, self.dropped, groups)
        ranked = self.ranking.best_first(best)
        found, first = np.unique(codes[ranked], return_index=True)
        by_place: npt.NDArray[np.int64] = found[np.argsort(first)].astype(np.int64)
        return by_place[np.isin(by_place, groups)]

    def lowest_value(self) -> float | None:
        """The lowest ranking value among the rows left, None where none has one."""
        least = self.lowest(self.ranking.keys)
        return self._value_of(least) if least else None

    def lowest(self, keys: Keys) -> int:
        """The smallest key among the rows left that have one, 0 where none has."""
        num_with, _, least = choosing.survey(keys, self.dropped, self.num_threads)
        return least if num_with else 0

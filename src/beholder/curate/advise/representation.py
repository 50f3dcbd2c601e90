"""Counts of rows and kept rows per group in; which groups shrink or grow by a threshold, with intervals and tests, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from beholder.curate.advise import intervals
from beholder.curate.advise.intervals import Counts, Numbers

Kind = Literal["value", "bin", "word", "element", "domain", "folder", "year"]
Verdict = Literal["shrinks", "grows", "unclear"]

FALSE_DISCOVERY_RATE = 0.05
"""Of the groups that are said to shrink or grow, in all columns together, at most so many are expected to be wrong."""

MOST_LISTED = 40
"""Groups of a column that a table lists: of a longer one those that shrink or grow most."""

METHOD = (
    "Shares kept: Wilson intervals. Ratios: Koopman's score intervals of the relative risk against all other rows. Both 95 %, "
    "each for its own group. A group shrinks or grows when its test (chi-squared; exact where few rows are expected) stands "
    "after Benjamini-Hochberg at 5 % over all groups of all columns. Order: by the end of the ratio's interval that is "
    "nearer to 1, so small groups do not come first by chance."
)


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of rows and what a threshold does to it.

    Attributes:
        value: what its rows have in common, as text; None for NULL.
        order: its place among the groups of its column: bins ascending, others the largest first.
        num_rows, num_kept: rows with a score, and of them those at or above the threshold.
        share_kept, share_kept_low, share_kept_high: num_kept / num_rows and its 95 % interval.
        share_of_all: num_rows over all rows with a score.
        share_of_kept: num_kept over all kept rows; None where nothing is kept.
        ratio, ratio_low, ratio_high: share_of_kept / share_of_all and its 95 % interval; None where nothing is kept.
        p_value: of "kept as often as all other rows", for this group alone.
        q_value: the same after Benjamini-Hochberg over all groups of all columns.
        verdict: "shrinks" or "grows" where q_value is at most `FALSE_DISCOVERY_RATE`.
    """

    value: str | None
    order: int
    num_rows: int
    num_kept: int
    share_kept: float
    share_kept_low: float
    share_kept_high: float
    share_of_all: float
    share_of_kept: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    p_value: float
    q_value: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class ColumnTable:
    """What a threshold does to the groups of one column.

    Attributes:
        column: its name.
        kind: how rows were grouped: by value, quantile bin, word or element (rows may be in several groups), domain of a URL,
            folder, or year.
        num_rows, num_kept: rows that were looked at, and of them those at or above the threshold.
        one_row_in: 1, or k where only every k-th row (by a hash) was looked at.
        num_groups: groups that were tested.
        num_shrinking, num_growing: of them.
        note: what else there is to say: words left out as rare, values put together.
        groups: those that shrink most first, those that grow most last; of many groups the outer ones.
    """

    column: str
    kind: Kind
    num_rows: int
    num_kept: int
    one_row_in: int
    num_groups: int
    num_shrinking: int
    num_growing: int
    note: str
    groups: tuple[Group, ...]

    @property
    def shrinking(self) -> tuple[Group, ...]:
        """Listed groups that shrink, the most first."""
        return tuple(group for group in self.groups if group.verdict == "shrinks")

    @property
    def growing(self) -> tuple[Group, ...]:
        """Listed groups that grow, the most first."""
        return tuple(group for group in self.groups[::-1] if group.verdict == "grows")

    @property
    def strength(self) -> float:
        """How far the clearest of its groups is from its fair share, as a logarithm; 0 where none is clear."""
        return max((abs(_evidence(group)) for group in self.groups), default=0.0)


@dataclass(frozen=True, kw_only=True)
class GroupCounts:
    """One column's counts, before anything is concluded.

    Attributes:
        column, kind, one_row_in, note: see `ColumnTable`.
        values: what each group has in common; None for NULL.
        rows, kept: (G,) int64.
        num_rows, num_kept: of all rows that were looked at; not the sums where rows may be in several groups.
    """

    column: str
    kind: Kind
    values: Sequence[str | None]
    rows: Counts
    kept: Counts
    num_rows: int
    num_kept: int
    one_row_in: int = 1
    note: str = ""


def represent(counted: Sequence[GroupCounts], *, most_listed: int = MOST_LISTED) -> tuple[ColumnTable, ...]:
    """Test every group of every column; tables in the order of how much a threshold changes them."""
    tests = [intervals.p_values(item.kept, item.rows, item.num_kept, item.num_rows) for item in counted]
    adjusted = intervals.false_discovery(np.concatenate([np.empty(0), *tests]))
    places = np.cumsum([0, *(len(test) for test in tests)])
    tables = [
        _table(item, test, adjusted[start : start + len(test)], most_listed)
        for item, test, start in zip(counted, tests, places, strict=False)
    ]
    return tuple(sorted(tables, key=lambda table: (-table.strength, table.column)))


def _table(counts: GroupCounts, p: Numbers, q: Numbers, most_listed: int) -> ColumnTable:
    """One column's table."""
    low, high = intervals.wilson(counts.kept, counts.rows)
    ratio, ratio_low, ratio_high = intervals.representation_ratio(counts.kept, counts.rows, counts.num_kept, counts.num_rows)
    clear = q <= FALSE_DISCOVERY_RATE
    groups = []
    for at, value in enumerate(counts.values):
        known = counts.num_kept > 0
        verdict: Verdict = "unclear"
        if clear[at] and known:
            verdict = "grows" if ratio[at] > 1 else "shrinks"
        rows, kept = int(counts.rows[at]), int(counts.kept[at])
        groups.append(
            Group(
                value=value,
                order=at,
                num_rows=rows,
                num_kept=kept,
                share_kept=kept / rows,
                share_kept_low=float(low[at]),
                share_kept_high=float(high[at]),
                share_of_all=rows / counts.num_rows,
                share_of_kept=kept / counts.num_kept if known else None,
                ratio=float(ratio[at]) if known else None,
                ratio_low=float(ratio_low[at]) if known else None,
                ratio_high=float(ratio_high[at]) if known else None,
                p_value=float(p[at]),
                q_value=float(q[at]),
                verdict=verdict,
            )
        )
    groups.sort(key=lambda group: (_evidence(group), -group.num_rows, group.order))
    return ColumnTable(
        column=counts.column,
        kind=counts.kind,
        num_rows=counts.num_rows,
        num_kept=counts.num_kept,
        one_row_in=counts.one_row_in,
        num_groups=len(groups),
        num_shrinking=sum(group.verdict == "shrinks" for group in groups),
        num_growing=sum(group.verdict == "grows" for group in groups),
        note=counts.note,
        groups=_listed(groups, most_listed),
    )


def _evidence(group: Group) -> float:
    """Logarithm of the end of the ratio's interval that is nearer to 1; 0 where the group is not clearly changed."""
    if group.verdict == "unclear" or group.ratio_low is None or group.ratio_high is None:
        return 0.0
    if group.verdict == "grows":
        return max(float(np.log(group.ratio_low)), 0.0) if group.ratio_low > 0 else 0.0
    return min(float(np.log(group.ratio_high)), 0.0) if group.ratio_high > 0 else 0.0


def _listed(groups: list[Group], most: int) -> tuple[Group, ...]:
    """The outer groups of a sorted list: half of those listed from each end, more from one where the other has fewer."""
    if len(groups) <= most:
        return tuple(groups)
    shrinking = [group for group in groups if group.verdict == "shrinks"]
    growing = [group for group in groups if group.verdict == "grows"]
    unclear = [group for group in groups if group.verdict == "unclear"]
    num_growing = min(len(growing), max(most // 2, most - len(shrinking)))
    num_shrinking = min(len(shrinking), most - num_growing)
    rest = unclear[: most - num_growing - num_shrinking]
    return (*shrinking[:num_shrinking], *rest, *growing[len(growing) - num_growing :])

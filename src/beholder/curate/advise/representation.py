"""Which groups shrink or grow by a threshold, with confidence intervals and tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

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


def represent(counted: Sequence[GroupCounts]) -> tuple[ColumnTable, ...]:
    """Test every group of every column; tables in the order of how much a threshold changes them."""
    tests = [p_values(item.kept, item.rows, item.num_kept, item.num_rows) for item in counted]
    adjusted = false_discovery(np.concatenate([np.empty(0), *tests]))
    places = np.cumsum([0, *(len(test) for test in tests)])
    tables = [
        _table(item, test, adjusted[start : start + len(test)])
        for item, test, start in zip(counted, tests, places, strict=False)
    ]
    return tuple(sorted(tables, key=lambda table: (-table.strength, table.column)))


def _table(counts: GroupCounts, p: Numbers, q: Numbers) -> ColumnTable:
    """One column's table."""
    low, high = wilson(counts.kept, counts.rows)
    ratio, ratio_low, ratio_high = representation_ratio(counts.kept, counts.rows, counts.num_kept, counts.num_rows)
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
        groups=_listed(groups),
    )


def _evidence(group: Group) -> float:
    """Logarithm of the end of the ratio's interval that is nearer to 1; 0 where the group is not clearly changed."""
    if group.verdict == "unclear" or group.ratio_low is None or group.ratio_high is None:
        return 0.0
    if group.verdict == "grows":
        return max(float(np.log(group.ratio_low)), 0.0) if group.ratio_low > 0 else 0.0
    return min(float(np.log(group.ratio_high)), 0.0) if group.ratio_high > 0 else 0.0


def _listed(groups: list[Group]) -> tuple[Group, ...]:
    """The outer groups of a sorted list: half of those listed from each end, more from one where the other has fewer."""
    if len(groups) <= MOST_LISTED:
        return tuple(groups)
    shrinking = [group for group in groups if group.verdict == "shrinks"]
    growing = [group for group in groups if group.verdict == "grows"]
    unclear = [group for group in groups if group.verdict == "unclear"]
    num_growing = min(len(growing), max(MOST_LISTED // 2, MOST_LISTED - len(shrinking)))
    num_shrinking = min(len(shrinking), MOST_LISTED - num_growing)
    rest = unclear[: MOST_LISTED - num_growing - num_shrinking]
    return (*shrinking[:num_shrinking], *rest, *growing[len(growing) - num_growing :])


Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

Z = 1.959963984540054
"""The standard normal quantile of 0.975: two-sided intervals of 95 %."""

LEAST_EXPECTED = 5.0
"""Where a cell of the 2 x 2 table is expected to hold fewer rows, the exact test is used (W. G. Cochran, "Some methods
for strengthening the common chi-squared tests", Biometrics 10, 1954)."""

_BISECTIONS = 60
_MOST_TERMS = 20_000
_TINY = 1e-300


def wilson(kept: Counts, rows: Counts) -> tuple[Numbers, Numbers]:
    """The 95 % score interval of a share, (N,) low and high in [0, 1]; (0, 1) where there are no rows.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    k, n = kept.astype(np.float64), np.maximum(rows, 1).astype(np.float64)
    middle = (k + Z * Z / 2) / (n + Z * Z)
    half = Z / (n + Z * Z) * np.sqrt(k * (n - k) / n + Z * Z / 4)
    low, high = np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)
    none = rows == 0
    return np.where(none | (kept == 0), 0.0, low), np.where(none | (kept == rows), 1.0, high)


def relative_risk(kept: Counts, rows: Counts, other_kept: Counts, other_rows: Counts) -> tuple[Numbers, Numbers]:
    """The 95 % score interval of (kept / rows) / (other_kept / other_rows), (N,) low and high; high may be inf.

    The ratios that the score test does not reject: P. A. R. Koopman, "Confidence intervals for the ratio of two binomial
    proportions", Biometrics 40, 1984. It needs no correction where nothing, or everything, is kept. (0, inf) where one
    of the two has no rows, or nothing is kept in both.
    """
    k, n, m, x = (numbers.astype(np.float64) for numbers in (kept, rows, other_rows, other_kept))
    unknown = (rows == 0) | (other_rows == 0) | (kept + other_kept == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = np.where(unknown, 1.0, np.where(x > 0, (k / n) / (x / m), np.inf))
    known = np.clip(estimate, 1e-9, 1e9)
    bounds = []
    for sign in (-1.0, 1.0):
        inner, outer = np.log(known), np.log(known) + sign * 45.0
        for _ in range(_BISECTIONS):
            middle = (inner + outer) / 2
            accepted = _score_squared(np.exp(middle), k, n, x, m) <= Z * Z
            inner, outer = np.where(accepted, middle, inner), np.where(accepted, outer, middle)
        bounds.append(np.exp((inner + outer) / 2))
    low = np.where(unknown | (kept == 0), 0.0, np.minimum(bounds[0], estimate))
    high = np.where(unknown | (other_kept == 0), np.inf, np.maximum(bounds[1], estimate))
    return low, high


def _score_squared(ratio: Numbers, k: Numbers, n: Numbers, x: Numbers, m: Numbers) -> Numbers:
    """Koopman's chi-squared statistic of the hypothesis (share of the group) = ratio * (share of the others)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # The likelihood's maximum under the hypothesis: a q^2 - b q + c = 0 for the others' share q, the smaller root.
        a = (n + m) * ratio
        b = ratio * (n + x) + k + m
        c = k + x
        share = 2 * c / (b + np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)))
        share = np.clip(share, 0.0, np.minimum(1.0, 1.0 / ratio))
        mine = ratio * share
        variance = mine * (1 - mine) / n + ratio * ratio * share * (1 - share) / m
        difference = k / n - ratio * x / m
        squared = difference * difference / np.maximum(variance, _TINY)
    return np.where(difference == 0, 0.0, squared)


def representation_ratio(kept: Counts, rows: Counts, all_kept: int, all_rows: int) -> tuple[Numbers, Numbers, Numbers]:
    """Share of the group among the kept over its share among all, and the 95 % interval of that ratio: (N,) each.

    With w = rows / all_rows and r the relative risk against all other rows it is r / (w r + 1 - w), which grows with r,
    so the interval is that of `relative_risk`, mapped. Exactly 1 for a group that is everything. NaN where nothing is kept.
    """
    if not all_kept:
        nothing = np.full(len(rows), np.nan)
        return nothing, nothing, nothing
    weight = rows / all_rows
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (kept / all_kept) / weight
        bounds = []
        for risk in relative_risk(kept, rows, all_kept - kept, all_rows - rows):
            mapped = 1.0 / (weight + (1.0 - weight) / risk)
            bounds.append(np.where(np.isinf(risk), 1.0 / weight, np.where(risk == 0, 0.0, mapped)))
    whole = rows == all_rows
    return ratio, np.where(whole, 1.0, bounds[0]), np.where(whole, 1.0, bounds[1])


def p_values(kept: Counts, rows: Counts, all_kept: int, all_rows: int) -> Numbers:
    """Two-sided p of "the group is kept as often as all other rows", (N,) in [0, 1].

    Pearson's chi-squared test without correction, which is the score test of the two intervals above; where an expected
    count is below `LEAST_EXPECTED`, twice the smaller tail of Fisher's exact test. 1 where there is nothing to compare.
    """
    k, n = kept.astype(np.float64), rows.astype(np.float64)
    total, chosen = float(all_rows), float(all_kept)
    found = np.ones(len(rows))
    comparable = (rows > 0) & (rows < all_rows) & (0 < all_kept < all_rows)
    if not comparable.any():
        return found
    expected = n * chosen / total
    cells = (expected, n - expected, chosen - expected, total - n - chosen + expected)
    is_exact = comparable & (np.min(cells, axis=0) < LEAST_EXPECTED)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = expected * (1 - chosen / total) * (1 - n / total)
        scores = np.abs(k - expected) / np.sqrt(variance)
    normal = np.array([math.erfc(score / math.sqrt(2)) for score in np.where(comparable, scores, 0.0)])
    found = np.where(comparable, normal, found)
    if is_exact.any():
        found[is_exact] = _exact(kept[is_exact], rows[is_exact], all_kept, all_rows)
    return np.clip(found, 0.0, 1.0)


def _exact(kept: Counts, rows: Counts, all_kept: int, all_rows: int) -> Numbers:
    """Twice the smaller tail of the hypergeometric distribution: `kept` of `rows` drawn from `all_kept` of `all_rows`."""
    k, n, big_k, big_n = kept.astype(np.float64), rows.astype(np.float64), float(all_kept), float(all_rows)
    here = np.exp(
        _log_choose(np.full(len(k), big_k), k)
        + _log_choose(np.full(len(k), big_n - big_k), n - k)
        - _log_choose(np.full(len(k), big_n), n)
    )
    tails: list[Numbers] = []
    for step in (-1.0, 1.0):
        tail, term, at = here.copy(), here.copy(), k.copy()
        for _ in range(_MOST_TERMS):
            with np.errstate(divide="ignore", invalid="ignore"):
                if step > 0:
                    factor = (big_k - at) * (n - at) / ((at + 1) * (big_n - big_k - n + at + 1))
                else:
                    factor = at * (big_n - big_k - n + at) / ((big_k - at + 1) * (n - at + 1))
            term = np.where(np.isfinite(factor) & (factor > 0), term * np.where(np.isfinite(factor), factor, 0.0), 0.0)
            tail += term
            at += step
            if not np.any(term > tail * 1e-17):
                break
        tails.append(tail)
    doubled: Numbers = 2 * np.minimum(tails[0], tails[1])
    return np.minimum(1.0, doubled)


def _log_choose(n: Numbers, k: Numbers) -> Numbers:
    """Logarithm of n over k, 0 <= k <= n."""
    return np.array([math.lgamma(a + 1) - math.lgamma(b + 1) - math.lgamma(a - b + 1) for a, b in zip(n, k, strict=True)])


def false_discovery(p: Numbers) -> Numbers:
    """Adjusted p-values (N,): calling all at or below q found, a share of at most q of these is expected to be false.

    Y. Benjamini, Y. Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57, 1995.
    """
    count = len(p)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * count / np.arange(1, count + 1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted

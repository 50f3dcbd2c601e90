"""Counts of kept rows in, as arrays; confidence intervals, p-values and false-discovery control out.

A group of n rows of which k are kept is compared with all other rows, m of which l are kept, as two binomial samples.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

CONFIDENCE = 0.95
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

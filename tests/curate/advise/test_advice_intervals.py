"""Intervals and tests of counts, against scipy and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from beholder.curate.advise import representation


def counts(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_wilson_by_hand() -> None:
    # 8 of 10: z^2 = 3.841459; middle (8 + 1.920729) / 13.841459 = 0.716740; half 1.959964 / 13.841459 * sqrt(1.6 + 0.960365)
    # = 0.141601 * 1.600114 = 0.226577.
    low, high = representation.wilson(counts(8), counts(10))
    assert low[0] == pytest.approx(0.490162, abs=1e-5)
    assert high[0] == pytest.approx(0.943318, abs=1e-5)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=20))
@settings(max_examples=60)
def test_wilson_is_scipys(pairs: list[tuple[int, int]]) -> None:
    rows = [max(pair) for pair in pairs]
    kept = [min(pair) for pair in pairs]
    low, high = representation.wilson(counts(*kept), counts(*rows))
    for at, (k, n) in enumerate(zip(kept, rows, strict=True)):
        if n == 0:
            assert (low[at], high[at]) == (0, 1)
            continue
        expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
        assert low[at] == pytest.approx(expected.low, abs=1e-12)
        assert high[at] == pytest.approx(expected.high, abs=1e-12)
        assert low[at] <= k / n <= high[at]


def slow_score_squared(ratio: float, k: int, n: int, x: int, m: int) -> float:
    """The score statistic, its nuisance parameter found by maximising the likelihood numerically."""

    def minus_log_likelihood(share: float) -> float:
        mine = ratio * share
        parts = ((k, mine), (n - k, 1 - mine), (x, share), (m - x, 1 - share))
        return -sum(count * math.log(max(value, 1e-300)) for count, value in parts if count)

    most = min(1.0, 1.0 / ratio)
    found = optimize.minimize_scalar(minus_log_likelihood, bounds=(0, most), method="bounded", options={"xatol": 1e-13})
    share = float(found.x)
    mine = ratio * share
    variance = mine * (1 - mine) / n + ratio**2 * share * (1 - share) / m
    return (k / n - ratio * x / m) ** 2 / variance


@pytest.mark.parametrize(
    ("k", "n", "x", "m"),
    [(36, 40, 16, 80), (3, 10, 50, 100), (10, 3000, 2, 4000), (199, 200, 150, 300), (1, 3, 400, 1000), (5, 5, 50, 100)],
)
def test_ratio_interval_is_where_the_score_test_just_does_not_reject(k: int, n: int, x: int, m: int) -> None:
    low, high = representation.relative_risk(counts(k), counts(n), counts(x), counts(m))
    estimate = (k / n) / (x / m)
    assert low[0] < estimate < high[0]

    def excess(ratio: float) -> float:
        return slow_score_squared(ratio, k, n, x, m) - stats.norm.ppf(0.975) ** 2

    assert low[0] == pytest.approx(optimize.brentq(excess, estimate * 1e-4, estimate * (1 - 1e-9)), rel=1e-5)
    assert high[0] == pytest.approx(optimize.brentq(excess, estimate * (1 + 1e-9), estimate * 1e3), rel=1e-5)


def test_ratio_interval_comes_near_scipys_for_many_rows() -> None:
    k, n, x, m = 40_000, 100_000, 300_000, 900_000
    expected = stats.contingency.relative_risk(k, n, x, m).confidence_interval(0.95)
    low, high = representation.relative_risk(counts(k), counts(n), counts(x), counts(m))
    assert low[0] == pytest.approx(expected.low, rel=2e-4)
    assert high[0] == pytest.approx(expected.high, rel=2e-4)


def test_ratio_interval_at_the_corners() -> None:
    low, high = representation.relative_risk(
        counts(0, 5, 0, 0, 5), counts(10, 10, 10, 0, 10), counts(5, 0, 0, 5, 5), counts(50, 50, 50, 50, 0)
    )
    assert low[0] == 0
    assert 0 < high[0] < 10
    assert low[1] > 1
    assert high[1] == math.inf
    assert (list(low[2:]), list(high[2:])) == ([0, 0, 0], [math.inf] * 3)


def test_representation_ratio_by_hand() -> None:
    # 30 of 40 stay here, 60 of 160 elsewhere: share among the kept 30/90, among all 40/200, ratio 5/3.
    kept, rows = counts(30, 60), counts(40, 160)
    ratio, low, high = representation.representation_ratio(kept, rows, 90, 200)
    assert ratio == pytest.approx([5 / 3, (60 / 90) / (160 / 200)])
    risk_low, risk_high = representation.relative_risk(counts(30), counts(40), counts(60), counts(160))
    for bound, risk in ((low, risk_low), (high, risk_high)):
        # By hand: with share q elsewhere and risk * q here, the ratio is risk q / (0.2 risk q + 0.8 q).
        assert bound[0] == pytest.approx(risk[0] / (0.2 * risk[0] + 0.8))
    assert low[1] < ratio[1] < high[1] < 1


def test_a_group_that_is_everything_has_ratio_one() -> None:
    ratio, low, high = representation.representation_ratio(counts(5), counts(20), 5, 20)
    assert (ratio[0], low[0], high[0]) == (1, 1, 1)
    assert representation.p_values(counts(5), counts(20), 5, 20)[0] == 1


def test_where_nothing_is_kept_there_is_no_ratio() -> None:
    ratio, low, high = representation.representation_ratio(counts(0, 0), counts(3, 4), 0, 7)
    assert np.isnan([*ratio, *low, *high]).all()
    assert list(representation.p_values(counts(0, 0), counts(3, 4), 0, 7)) == [1, 1]
    assert list(representation.p_values(counts(3, 4), counts(3, 4), 7, 7)) == [1, 1]


def test_all_kept_rows_in_one_group_bound_the_ratio() -> None:
    ratio, low, high = representation.representation_ratio(counts(10, 0), counts(20, 80), 10, 100)
    assert ratio[0] == high[0] == 5
    assert 1 < low[0] < 5
    assert (ratio[1], low[1]) == (0, 0)
    assert 0 < high[1] < 1


@given(
    st.integers(2, 400).flatmap(
        lambda total: st.tuples(st.just(total), st.integers(1, total - 1), st.integers(1, total - 1), st.integers(0, 10**6))
    )
)
@settings(max_examples=150)
def test_p_values_are_scipys(case: tuple[int, int, int, int]) -> None:
    total, kept, size, pick = case
    least, most = max(0, kept + size - total), min(kept, size)
    mine = least + pick % (most - least + 1)
    (found,) = representation.p_values(counts(mine), counts(size), kept, total)
    table = np.array([[mine, size - mine], [kept - mine, total - size - kept + mine]])
    expected = stats.contingency.expected_freq(table)
    if expected.min() >= 5:
        assert found == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-9)
    else:
        drawn = stats.hypergeom(total, kept, size)
        assert found == pytest.approx(min(1.0, 2 * min(drawn.cdf(mine), drawn.sf(mine - 1))), rel=1e-6, abs=1e-290)


def test_exact_p_of_a_rare_event_in_a_large_set() -> None:
    drawn = stats.hypergeom(10**6, 1000, 3000)
    (found,) = representation.p_values(counts(30), counts(3000), 1000, 10**6)
    assert found == pytest.approx(2 * drawn.sf(29), rel=1e-8)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
@settings(max_examples=60)
def test_false_discovery_is_scipys(values: list[float]) -> None:
    assert representation.false_discovery(np.array(values)) == pytest.approx(stats.false_discovery_control(values), abs=1e-12)


def test_false_discovery_by_hand() -> None:
    # Sorted 0.01 0.02 0.03 0.5, times 4/1, 4/2, 4/3, 4/4: 0.04 0.04 0.04 0.5, each at most the next.
    assert representation.false_discovery(np.array([0.03, 0.5, 0.01, 0.02])) == pytest.approx([0.04, 0.5, 0.04, 0.04])
    assert representation.false_discovery(np.empty(0)).shape == (0,)


def test_intervals_hold_what_they_promise() -> None:
    """Of 2,000 drawn groups, about 95 % of intervals hold the true ratio."""
    rng = np.random.default_rng(7)
    draws, rows, others, share, risk = 2000, 60, 400, 0.2, 1.7
    mine, rest = rng.binomial(rows, share * risk, draws), rng.binomial(others, share, draws)
    ones = np.ones(draws, np.int64)
    low, high = representation.relative_risk(mine, rows * ones, rest, others * ones)
    assert 0.93 < np.mean((low <= risk) & (risk <= high)) < 0.97

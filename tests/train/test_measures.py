"""Measures of agreement against scipy and against numbers worked out by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from beholder.errors import InputError
from beholder.train.measures import Interval, agreement, average_ranks, spearman


def test_average_ranks_by_hand() -> None:
    # 10 takes rank 1; the two 20s take 2 and 3, so 2.5 each; the three 30s take 4, 5, 6, so 5 each; 40 takes 7.
    values = np.array([30.0, 10.0, 20.0, 30.0, 40.0, 20.0, 30.0])
    assert average_ranks(values).tolist() == [5.0, 1.0, 2.5, 5.0, 7.0, 2.5, 5.0]


def test_average_ranks_of_nothing_and_of_one() -> None:
    assert average_ranks(np.empty(0)).tolist() == []
    assert average_ranks(np.array([3.0])).tolist() == [1.0]


def test_minus_zero_ties_with_zero() -> None:
    assert average_ranks(np.array([0.0, -0.0, 1.0])).tolist() == [1.5, 1.5, 3.0]


def test_measures_by_hand() -> None:
    # errors 1, 0, -1, 0 -> mse 0.5; truth 1..4 deviates by 1.5, .5, .5, 1.5 -> 5; r2 = 1 - 2/5.
    # predictions 2, 2, 2, 4: sum of products of deviations 3, of squares 3 and 5 -> 3 / sqrt(15).
    # ranks of the predictions 2, 2, 2, 4: products 3, squares 3 and 5 again.
    result = agreement([2, 2, 2, 4], [1, 2, 3, 4])
    assert result.num_rows == 4
    assert result.mse == 0.5
    assert result.r2 == pytest.approx(0.6, abs=1e-15)
    assert result.plcc == pytest.approx(3 / math.sqrt(15), abs=1e-15)
    assert result.srcc == pytest.approx(3 / math.sqrt(15), abs=1e-15)


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(-3, 3)), min_size=2, max_size=40),
    st.floats(1e-3, 1e3),
)
def test_against_scipy_with_many_ties(pairs: list[tuple[int, int]], scale: float) -> None:
    a, b = np.array(pairs, float).T * scale
    np.testing.assert_array_equal(average_ranks(a), scipy.stats.rankdata(a))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert math.isnan(spearman(a, b))
        assert math.isnan(agreement(a, b).plcc)
        return
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)
    assert agreement(a, b).plcc == pytest.approx(scipy.stats.pearsonr(a, b).statistic, abs=1e-12)


def test_a_million_rows_with_ties_quickly() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(5, 1, 1_000_000).astype(np.float32)
    rounded = np.round(truth + rng.normal(0, 1, truth.size), 2).astype(np.float32)
    start = time.perf_counter()
    found = spearman(rounded, truth)
    seconds = time.perf_counter() - start
    assert found == pytest.approx(scipy.stats.spearmanr(rounded, truth).statistic, abs=1e-12)
    assert seconds < 5, f"took {seconds:.1f} s"


@pytest.mark.parametrize(("offset", "scale"), [(1e9, 1.0), (0.0, 1e-200), (0.0, 1e200)])
def test_linear_correlation_survives_extreme_scales(offset: float, scale: float) -> None:
    a, b = np.array([1.0, 2, 3, 4, 7]), np.array([2.0, 1, 4, 3, 5])
    expected = scipy.stats.pearsonr(a, b).statistic
    with np.errstate(over="ignore"):  # of the squared errors
        found = agreement(a * scale + offset, b).plcc
    assert found == pytest.approx(expected, abs=1e-7)


def test_perfect_and_reversed() -> None:
    x = np.linspace(0.1, 0.7, 11)
    assert agreement(x, x).to_json() == {"num_rows": 11, "srcc": 1.0, "plcc": 1.0, "mse": 0.0, "r2": 1.0}
    assert spearman(x, -(x**3)) == -1.0


def test_undefined_measures_are_nan_and_none() -> None:
    one = agreement([3.0], [4.0])
    assert one.mse == 1.0
    assert math.isnan(one.srcc)
    assert math.isnan(one.plcc)
    assert math.isnan(one.r2)
    assert one.to_json() == {"num_rows": 1, "srcc": None, "plcc": None, "mse": 1.0, "r2": None}
    none = agreement([], [])
    assert none.num_rows == 0
    assert math.isnan(none.mse)
    assert math.isnan(none.srcc)
    # ten equal values whose mean rounds to another number
    constant = agreement(np.arange(10.0), np.full(10, 0.1))
    assert math.isnan(constant.srcc)
    assert math.isnan(constant.plcc)
    assert math.isnan(constant.r2)


def test_bad_series_are_refused_in_one_line() -> None:
    for first, second in (([1.0, 2.0], [1.0]), ([[1.0]], [[1.0]]), ([1.0, math.nan], [1.0, 2.0]), ([1.0], [math.inf])):
        with pytest.raises(InputError) as caught:
            agreement(first, second)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("interval", "said", "signed", "is_real"),
    [
        (Interval(0.5, 0.4, 0.61), "0.500 (0.400 to 0.610)", "+0.500 (+0.400 to +0.610)", True),
        (Interval(-0.01, -0.02, 0.0), "-0.010 (-0.020 to 0.000)", "-0.010 (-0.020 to +0.000)", False),
        (Interval(-0.01, -0.02, -0.001), "-0.010 (-0.020 to -0.001)", "-0.010 (-0.020 to -0.001)", True),
        (Interval(0.5, np.nan, np.nan), "0.500", "+0.500", False),
        (Interval(np.nan, np.nan, np.nan), "-", "-", False),
    ],
)
def test_an_interval_in_words(interval: Interval, said: str, signed: str, is_real: bool) -> None:
    assert (interval.text(), interval.text(signed=True), interval.is_real) == (said, signed, is_real)
    again = Interval.of_json(interval.to_json())
    assert (again.text(), again.has_bounds) == (said, interval.has_bounds)

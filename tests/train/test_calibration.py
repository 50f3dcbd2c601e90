"""Maps against scikit-learn, and bounds that hold as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from beholder.train.calibrate.fit import conformal_margin, isotonic_map, quantile_map


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_isotonic_equals_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    scores = np.round(rng.normal(5, 1, 300), decimals)
    ratings, weights = scores + rng.normal(0, 1, 300), rng.uniform(0.1, 3, 300)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, ratings, sample_weight=weights)
    ours = isotonic_map(scores, ratings, weights)
    probe = np.linspace(0, 10, 500)
    np.testing.assert_allclose(ours(probe), theirs.predict(probe), atol=1e-9)


def test_isotonic_by_hand() -> None:
    # 3 before 1 violates: both become 2.
    found = isotonic_map(np.array([1.0, 2, 3]), np.array([3.0, 1, 5]))
    assert found.values.tolist() == [2.0, 2.0, 5.0]
    assert found([0, 2.5, 9]).tolist() == [2.0, 3.5, 5.0]
    assert isotonic_map(np.array([4.0]), np.array([2.0]))([1.0]).tolist() == [2.0]


def test_quantiles_give_the_other_distribution() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=20_000), rng.exponential(size=30_000)
    mapped = quantile_map(one, two)(one)
    np.testing.assert_allclose(np.quantile(mapped, [0.1, 0.5, 0.9]), np.quantile(two, [0.1, 0.5, 0.9]), atol=0.02)
    assert np.array_equal(np.argsort(one[:500], kind="stable"), np.argsort(mapped[:500], kind="stable"))
    stars = np.repeat([1.0, 2.0, 3.0], 100)
    np.testing.assert_allclose(quantile_map(stars, stars)([1, 2, 3]), [1, 2, 3], atol=0.01)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_ends_of_percentiles_are_kept_to_the_row(kind: type) -> None:
    # An exponential distribution's million quantiles: row r, from 0, has the percentile 100 r / 999,999.
    ranks = np.arange(1_000_000)
    scores = -np.log1p(-(ranks + 0.5) / 1_000_000).astype(kind)
    found = quantile_map(scores[np.random.default_rng(0).permutation(1_000_000)], np.array([0.0, 100.0]))
    for percentile in (99.999, 99.99, 99.9, 99.0, 50.0):
        wanted = int((100 * ranks / 999_999 >= percentile).sum())
        assert int((scores >= found.least_reaching(percentile)).sum()) == pytest.approx(wanted, rel=0.003, abs=1)
    assert int((scores <= found.largest_within(0.01)).sum()) == pytest.approx(100, abs=1)
    assert int((scores <= found.largest_within(0.001)).sum()) == pytest.approx(10, abs=1)


def test_two_heads_keep_as_many_beyond_any_threshold() -> None:
    rng = np.random.default_rng(2)
    one, two = rng.normal(size=1_000_000), rng.standard_t(3, 1_000_000)
    found = quantile_map(one, two)
    for count in (10, 100, 1000, 100_000):
        threshold = np.sort(two)[-count]
        assert int((found(one) >= threshold - 1e-9).sum()) == pytest.approx(count, rel=0.02, abs=1)


def test_quantiles_are_numpys() -> None:
    numbers = np.random.default_rng(3).gamma(2, size=777)
    found = quantile_map(numbers, numbers)
    assert np.isin(np.quantile(numbers, np.linspace(0, 1, 1001)).round(9), found.scores.round(9)).all()


def test_the_margin_of_groups_by_hand() -> None:
    # Each residual is half of its group; with the new group 3 in all, so .5 takes 1.5 groups: the third.
    given = np.array([1.0, -2.0, 3.0, 4.0]), np.array([0, 1, 0, 1])
    assert conformal_margin(given[0], 0.5, given[1]) == 3.0
    assert conformal_margin(given[0], 2 / 3, given[1]) == 4.0
    assert conformal_margin(given[0], 0.7, given[1]) == math.inf
    rng = np.random.default_rng(0)
    residuals = rng.normal(size=99)
    assert (
        conformal_margin(residuals, 0.9, rng.permutation(99))
        == np.sort(np.abs(residuals))[89]
        == conformal_margin(residuals, 0.9)
    )


def test_bounds_hold_as_often_as_they_say() -> None:
    held, level = 0.0, 0.9
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, fresh = rng.normal(size=(60, 3)), rng.normal(size=(50, 3))
        y, new = (rows.sum(axis=1) + rng.standard_t(3, len(rows)) for rows in (x, fresh))
        half = np.linalg.lstsq(x[:30], y[:30], rcond=None)[0]
        margin = conformal_margin(y[30:] - x[30:] @ half, level)
        held += np.mean(np.abs(new - fresh @ half) <= margin) / 200
    # 28 of 31 residuals: exactly 28 / 31 = .903 on average.
    assert held == pytest.approx(28 / 31, abs=0.015)


def test_the_margin_by_hand_and_with_too_few() -> None:
    assert conformal_margin(np.array([-4.0, 1, 2, 3]), 0.6) == 3.0  # the third of four: ceil(0.6 * 5)
    assert conformal_margin(np.array([1.0, 2.0]), 0.9) == math.inf

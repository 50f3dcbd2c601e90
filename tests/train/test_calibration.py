"""Maps against scikit-learn, and bounds that hold as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from beholder.errors import InputError
from beholder.train.calibration import conformal_margin, isotonic_map, quantile_map


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
    found = isotonic_map([1, 2, 3], [3, 1, 5])
    assert found.values.tolist() == [2.0, 2.0, 5.0]
    assert found([0, 2.5, 9]).tolist() == [2.0, 3.5, 5.0]
    assert isotonic_map([4.0], [2.0])([1.0]).tolist() == [2.0]


def test_quantiles_give_the_other_distribution() -> None:
    rng = np.random.default_rng(1)
    one, two = rng.normal(size=20_000), rng.exponential(size=30_000)
    mapped = quantile_map(one, two)(one)
    np.testing.assert_allclose(np.quantile(mapped, [0.1, 0.5, 0.9]), np.quantile(two, [0.1, 0.5, 0.9]), atol=0.02)
    assert np.array_equal(np.argsort(one[:500], kind="stable"), np.argsort(mapped[:500], kind="stable"))
    stars = np.repeat([1.0, 2.0, 3.0], 100)
    np.testing.assert_allclose(quantile_map(stars, stars)([1, 2, 3]), [1, 2, 3], atol=0.01)


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
    assert conformal_margin([-4, 1, 2, 3], 0.6) == 3.0  # the third of four: ceil(0.6 * 5)
    assert conformal_margin([1.0, 2.0], 0.9) == math.inf


def test_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="at least one row"):
        isotonic_map([], [])
    with pytest.raises(InputError, match="all 2"):
        quantile_map([2, 2], [1, 3])
    with pytest.raises(InputError, match="level"):
        conformal_margin([1.0], 1.0)

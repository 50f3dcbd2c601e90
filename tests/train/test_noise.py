"""What the raters' noise allows, against simulation and published formulas; ratings that were changed are found."""

from __future__ import annotations

import math

import numpy as np
import pytest

from beholder.train.measures import agreement, measured_once
from beholder.train.noise import (
    FEW_REPEATED,
    MOST_SUSPICIOUS,
    from_deviations,
    from_histograms,
    noise_ceiling,
    pair_ceiling,
    suspicious_marks,
    suspicious_ratings,
)
from beholder.train.ratings.reliability import reliability
from beholder.train.resampling import Resampling


def test_a_histogram_by_hand() -> None:
    # Votes 1, 1, 3, 3: mean 2, squares about it 4, variance with n - 1 is 4/3, of the mean 1/3. One vote tells no variance.
    found = from_histograms(np.array([[2.0, 0, 2], [0, 1, 0], [0, 0, 0]]), np.array([1.0, 2, 3]))
    assert found[0] == pytest.approx(1 / 3)
    assert np.isnan(found[1:]).all()
    assert from_deviations(np.array([math.sqrt(4 / 3)]), np.array([4.0]))[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("num_raters", [3, 30])
def test_the_ceiling_is_what_the_truth_reaches(num_raters: int) -> None:
    rng = np.random.default_rng(num_raters)
    truth = rng.normal(5, 0.8, 6000)
    votes = truth[:, None] + rng.normal(0, 1.5, (6000, num_raters))
    means, counts = votes.mean(axis=1), np.full(6000, float(num_raters))
    known = reliability(means, counts, ((votes - means[:, None]) ** 2).sum(axis=1))
    assert known is not None
    found = noise_ceiling(means, known.within / counts)
    assert found is not None
    reached, ranks = agreement(truth, means), measured_once(truth, means, ("kendall", "pair_accuracy"))
    assert found["reliability"].value == pytest.approx(0.64 / (0.64 + 2.25 / num_raters), abs=0.02)
    assert found["plcc"].value == pytest.approx(reached.plcc, abs=0.01)
    assert found["srcc"].value == pytest.approx(reached.srcc, abs=0.02)
    assert found["rmse"].value == pytest.approx(math.sqrt(reached.mse), rel=0.02)
    assert found["mae"].value == pytest.approx(np.abs(truth - means).mean(), rel=0.02)
    assert found["kendall"].value == pytest.approx(ranks["kendall"], abs=0.015)
    assert found["pair_accuracy"].value == pytest.approx(ranks["pair_accuracy"], abs=0.01)
    for end in ("value", "low", "high"):
        r = getattr(found["plcc"], end)  # of normal truths with equal noise
        assert getattr(found["srcc"], end) == pytest.approx(6 / math.pi * math.asin(r / 2), abs=0.01)
        assert getattr(found["pair_accuracy"], end) == pytest.approx(0.5 + math.asin(r) / math.pi, abs=0.01)
    assert all(one.low <= one.value * (1 + 1e-12) <= one.high * (1 + 2e-12) for one in found.values.values())


def test_nothing_tells_the_noise_of_single_ratings() -> None:
    assert noise_ceiling(np.arange(3.0), np.full(3, math.nan)) is None
    assert noise_ceiling(np.empty(0), np.empty(0)) is None
    all_noise = noise_ceiling(np.array([1.0, 2.0, 1.5]), np.full(3, 9.0))
    assert all_noise is not None
    assert all_noise["reliability"].value == 0.0


def test_intervals_of_the_ceiling_are_those_of_resampled_pictures() -> None:
    """The estimate of each resample is that of the rows drawn, written out with their copies."""
    rng = np.random.default_rng(4)
    means, variances = rng.normal(5, 1, 90), rng.uniform(0.1, 0.5, 90)
    weights, groups = rng.integers(1, 5, 90).astype(float), np.arange(90) // 3
    found = noise_ceiling(means, variances, weights=weights, groups=groups, how=Resampling(number=200, seed=6))
    assert found is not None
    assert (found.num_rows, found.num_groups, found.num_resamples) == (90, 30, 200)
    drawn = []
    for at in range(200):
        picked = np.random.default_rng((6, at)).integers(0, 30, 30)
        rows = np.concatenate([np.flatnonzero(groups == group) for group in picked])
        share = weights[rows] / weights[rows].sum()
        centre = share @ means[rows]
        spread = share @ (means[rows] - centre) ** 2 / (1 - share @ share)
        drawn.append((1 - share @ variances[rows] / spread, math.sqrt(share @ variances[rows])))
    for name, values in zip(("reliability", "rmse"), np.array(drawn).T, strict=True):
        assert (found[name].low, found[name].high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-12)


@pytest.mark.slow
def test_the_interval_of_the_ceiling_holds_the_truth() -> None:
    # Truths of variance 1 with noise of variance .5: a reliability of 2 / 3.
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        means = rng.normal(size=150) + rng.normal(0, 0.5**0.5, 150)
        found = noise_ceiling(means, np.full(150, 0.5), how=Resampling(number=200, seed=seed))
        assert found is not None
        inside += found["reliability"].low <= 2 / 3 <= found["reliability"].high
    assert inside >= 180  # 190 of 200 are expected, with a standard deviation of 3; such intervals are a little short


def test_changed_ratings_are_found_first() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(5, 1, 500)
    variances = np.where(np.arange(500) % 2, 0.01, 1.0)
    ratings = truth + rng.normal(size=500) * np.sqrt(variances)
    ratings[[7, 41, 99]] += [4.0, -4.0, 3.0]  # of many votes
    ratings[60] += 2.5  # of few votes: no wonder
    guesses = truth + rng.normal(0, 0.3, (4, 500))
    found = suspicious_ratings(ratings, guesses, variances)
    assert sorted(found.rows[:3].tolist()) == [7, 41, 99]
    assert 60 not in found.rows[:4]
    assert (np.diff(np.abs(found.deviations)) <= 0).all()
    assert len(suspicious_ratings(np.tile([1.0, 1.0, 9.0], 200), np.ones(600)).rows) == MOST_SUSPICIOUS
    assert len(suspicious_ratings([math.nan], [1.0]).rows) == 0


def test_the_ceiling_of_pairs() -> None:
    rng = np.random.default_rng(2)
    left, right = np.repeat(np.arange(4000), 3), np.repeat(np.arange(4000), 3) + 4000
    votes = (rng.random(12_000) < 0.8).astype(float)
    found = pair_ceiling(left, right, votes)
    assert found is not None
    assert found.num_rows == 4000
    assert found["pair_accuracy"].value == pytest.approx(0.8, abs=0.01)
    assert found["pair_accuracy"].low < 0.8 < found["pair_accuracy"].high
    swapped = rng.random(12_000) < 0.5  # the same votes with sides exchanged
    turned = pair_ceiling(np.where(swapped, right, left), np.where(swapped, left, right), np.where(swapped, 1 - votes, votes))
    assert turned is not None
    assert turned["pair_accuracy"].value == pytest.approx(found["pair_accuracy"].value)
    assert pair_ceiling([0, 1], [1, 2], [1, 0]) is None
    assert pair_ceiling([], [], []) is None


@pytest.mark.parametrize("count", [FEW_REPEATED - 1, FEW_REPEATED])
def test_few_pairs_with_several_votes_tell_nothing(count: int) -> None:
    # Two votes each, which disagree in every second pair: they agree with chance 1 / 2, so nothing is known of any order.
    left = np.repeat(np.arange(count), 2)
    found = pair_ceiling(left, left + count, np.where(np.arange(2 * count) % 4 == 1, 0.0, 1.0))
    assert found is not None
    assert found.num_rows == count
    if count < FEW_REPEATED:
        assert found.to_json()["values"] == {"pair_accuracy": {"value": None, "low": None, "high": None}}
    else:
        assert found["pair_accuracy"].value == pytest.approx(0.5)
        assert found["pair_accuracy"].high > 0.6


def test_marks_with_hardly_a_chance_are_suspicious() -> None:
    chances = np.array([0.999, 0.5, 0.01, 0.015, 0.99, 0.03, np.nan])
    marks = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    found = suspicious_marks(marks, np.stack([chances, chances]))
    assert found.rows.tolist() == [0, 2]
    np.testing.assert_allclose(found.residuals, [-0.999, 0.99])
    np.testing.assert_allclose(found.deviations, [-0.999 / np.sqrt(0.999 * 0.001), 0.99 / np.sqrt(0.99 * 0.01)])
    assert len(suspicious_marks(np.ones(150), np.zeros(150)).rows) == MOST_SUSPICIOUS
    assert len(suspicious_marks(np.empty(0), np.empty(0)).rows) == 0

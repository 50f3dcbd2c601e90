"""The share of pairs that are ordered right: against counting one by one, with ties as halves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from beholder import Head
from beholder.errors import InputError
from beholder.train.pair_measures import PairComparison, PairGroups
from beholder.train.pairs import Pairs, train_on_pairs
from beholder.train.resampling import Resampling
from beholder.train.training import TrainOptions


def counted(guess: np.ndarray, targets: np.ndarray, votes: np.ndarray) -> float:
    """Weight of right pairs by that of all, one by one."""
    right, total = 0.0, 0.0
    for one, target, vote in zip(guess.tolist(), targets.tolist(), votes.tolist(), strict=True):
        weight = vote * abs(2 * target - 1)
        total += weight
        right += weight * (0.5 if one == 0 else float((one > 0) == (target > 0.5)))
    return right / total


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_counting_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    guesses = [rng.integers(-2, 3, 300).astype(float), rng.standard_normal(300)]
    targets, votes = rng.choice([0.0, 0.25, 0.5, 0.9, 1.0], 300), rng.integers(1, 5, 300).astype(float)
    found = PairComparison(guesses, targets, votes=votes, how=Resampling(number=200))
    for at, guess in enumerate(guesses):
        measured = found.measures(at)
        assert measured["pair_accuracy"].value == pytest.approx(counted(guess, targets, votes), abs=1e-12)
        assert measured["pair_accuracy"].low < measured["pair_accuracy"].value < measured["pair_accuracy"].high
        assert (measured.num_rows, measured.num_groups, measured.num_resamples) == (300, 300, 200)
    difference = found.difference(0, 1)["pair_accuracy"].value
    assert difference == pytest.approx(counted(guesses[0], targets, votes) - counted(guesses[1], targets, votes), abs=1e-12)


def test_intervals_are_those_of_resampled_pictures() -> None:
    """All pairs of 12 pictures in 9 groups, written out: every drawn copy of a picture meets every drawn copy of another."""
    rng = np.random.default_rng(9)
    group_of = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8])
    one, other = np.array(list(itertools.combinations(range(12), 2))).T
    guess, targets = rng.integers(-2, 3, len(one)).astype(float), rng.choice([0.0, 1.0], len(one))
    groups = np.stack([group_of[one], group_of[other]], axis=1)
    measured = PairComparison([guess], targets, groups=groups, how=Resampling(number=300, seed=3)).measures(0)
    drawn = []
    for at in range(300):
        picked = np.random.default_rng((3, at)).integers(0, 9, 9)
        rows = [
            pair
            for pair, (first, second) in enumerate(groups.tolist())
            for copy_of in picked
            for meets in (picked if first != second else [second])
            if (copy_of, meets) == (first, second)
        ]
        drawn.append(counted(guess[rows], targets[rows], np.ones(len(rows))))
    found = measured["pair_accuracy"]
    assert measured.num_groups == 9
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=1e-12)


def test_pictures_that_meet_each_other_alone_are_drawn_as_one() -> None:
    groups = np.array([[5, 9], [9, 5], [1, 2], [2, 3], [7, 7]])
    drawn_as = PairGroups.of(groups)
    assert drawn_as.num_groups == 5
    assert drawn_as.sides.tolist() == [[3, 3], [3, 3], [0, 1], [1, 2], [4, 4]]
    times = np.bincount(np.random.default_rng((6, 2)).integers(0, 5, 5), minlength=5)
    wanted = [times[3], times[3], times[0] * times[1], times[1] * times[2], times[4]]
    assert drawn_as.times(6, 2).tolist() == wanted


@pytest.mark.parametrize("num_pictures", [20, 40])
@pytest.mark.slow
def test_heads_that_are_equally_good_are_seldom_told_apart(num_pictures: int) -> None:
    """All pairs of few pictures, 200 times: a 95 % interval leaves 0 out by chance about once in twenty times."""
    one, other = np.array(list(itertools.combinations(range(num_pictures), 2))).T
    told_apart = 0
    for seed in range(200):
        rng = np.random.default_rng((num_pictures, seed))
        truth = rng.standard_normal(num_pictures)
        first, second = truth + rng.standard_normal((2, num_pictures))
        compared = PairComparison(
            [first[one] - first[other], second[one] - second[other]],
            truth[one] > truth[other],
            groups=np.stack([one, other], axis=1),
            how=Resampling(number=400, seed=seed),
        )
        found = compared.difference(0, 1)["pair_accuracy"]
        told_apart += found.low > 0 or found.high < 0
    assert told_apart <= 14


def test_pairs_without_votes_have_no_measure() -> None:
    found = PairComparison([np.ones(3)], np.ones(3), votes=np.zeros(3), how=Resampling(number=20)).measures(0)
    assert np.isnan(found["pair_accuracy"].value)
    with pytest.raises(InputError, match="do not fit 3 pairs"):
        PairComparison([np.ones(3)], np.ones(3), groups=np.arange(3))


def test_the_side_that_pairs_are_given_from_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    guess, targets = rng.integers(-1, 2, 100).astype(float), rng.choice([0.0, 1.0], 100)
    turned = rng.random(100) < 0.5
    one = PairComparison([guess], targets, how=Resampling(number=100)).measures(0)["pair_accuracy"]
    other = PairComparison(
        [np.where(turned, -guess, guess)], np.where(turned, 1 - targets, targets), how=Resampling(number=100)
    )
    assert other.measures(0)["pair_accuracy"] == one


def test_a_head_that_gives_all_pictures_one_score_is_guessing() -> None:
    rng = np.random.default_rng(0)
    rows, better = rng.standard_normal((40, 6)), rng.permutation(40)
    pairs = Pairs(left=better, right=np.roll(better, 1), targets=np.ones(40))
    flat = Head.affine(np.zeros(6), bias=4.0, name="flat")
    options = TrainOptions(method="logistic", strength=1e-2, near_duplicates=None, compare_with=(flat,), num_folds=4)
    (flat,) = train_on_pairs(rows, pairs, options).beside
    assert (flat.name, flat.measures["pair_accuracy"].value) == ("flat", 0.5)

"""The share of pairs that are ordered right: against counting one by one, with ties as halves."""

from __future__ import annotations

import numpy as np
import pytest

from beholder import Head
from beholder.train.pair_measures import PairComparison, as_pair_accuracy
from beholder.train.pairs import Pairs, train_on_pairs
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
    found = PairComparison(guesses, targets, votes=votes, resamples=200)
    for at, guess in enumerate(guesses):
        measured = found.measures(at)
        assert measured["accuracy"].value == pytest.approx(counted(guess, targets, votes), abs=1e-12)
        assert measured["accuracy"].low < measured["accuracy"].value < measured["accuracy"].high
        assert (measured.num_rows, measured.num_groups, measured.resamples) == (300, 300, 200)
        assert as_pair_accuracy(measured)["pair_accuracy"].value == measured["accuracy"].value
    difference = found.difference(0, 1)["accuracy"].value
    assert difference == pytest.approx(counted(guesses[0], targets, votes) - counted(guesses[1], targets, votes), abs=1e-12)


def test_intervals_are_those_of_resampled_pairs() -> None:
    rng = np.random.default_rng(9)
    guess, targets = rng.integers(-2, 3, 80).astype(float), rng.choice([0.0, 1.0], 80)
    groups = np.arange(80) // 4
    found = PairComparison([guess], targets, groups=groups, resamples=400, seed=3).measures(0)["accuracy"]
    drawn = []
    for at in range(400):
        picked = np.random.default_rng((3, at)).integers(0, 20, 20)
        rows = np.concatenate([np.flatnonzero(groups == group) for group in picked])
        drawn.append(counted(guess[rows], targets[rows], np.ones(80)))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=1e-12)


def test_the_side_that_pairs_are_given_from_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    guess, targets = rng.integers(-1, 2, 100).astype(float), rng.choice([0.0, 1.0], 100)
    turned = rng.random(100) < 0.5
    one = PairComparison([guess], targets, resamples=100).measures(0)["accuracy"]
    other = PairComparison([np.where(turned, -guess, guess)], np.where(turned, 1 - targets, targets), resamples=100)
    assert other.measures(0)["accuracy"] == one


def test_a_head_that_gives_all_pictures_one_score_is_guessing() -> None:
    rng = np.random.default_rng(0)
    rows, better = rng.standard_normal((40, 6)), rng.permutation(40)
    pairs = Pairs(left=better, right=np.roll(better, 1), targets=np.ones(40))
    flat = Head.affine(np.zeros(6), bias=4.0, name="flat")
    options = TrainOptions(method="logistic", strength=1e-2, near_duplicates=None, compare_with=(flat,), num_folds=4)
    ((name, measures, _),) = train_on_pairs(rows, pairs, options).beside
    assert (name, measures["accuracy"].value) == ("flat", 0.5)

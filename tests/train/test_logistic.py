"""Logistic regression against scikit-learn, pairs against choix, leaving out against brute force."""

from __future__ import annotations

import choix
import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression

from beholder.errors import InputError
from beholder.train.linear import Prior
from beholder.train.logistic import chances, fit_logistic, log_loss, pair_rows

Matrix = npt.NDArray[np.float64]


def made(num_rows: int, dim: int, seed: int = 0) -> tuple[Matrix, Matrix, Matrix]:
    """Rows of length 1, marks, votes."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_rows, dim)) + 1
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    odds = unit @ rng.normal(size=dim) * 5
    return unit, (rng.random(num_rows) < chances(odds - odds.mean())).astype(float), rng.integers(1, 5, num_rows).astype(float)


@pytest.mark.parametrize(("num_rows", "dim", "strength"), [(300, 20, 1e-3), (40, 90, 1e-4), (200, 8, 1.0), (100, 5, 1e-8)])
def test_equals_scikit_learn(num_rows: int, dim: int, strength: float) -> None:
    unit, marks, votes = made(num_rows, dim)
    theirs = LogisticRegression(C=1 / (strength * votes.sum()), tol=1e-13, max_iter=1000, solver="newton-cholesky")
    theirs.fit(unit, marks, sample_weight=votes)
    fit = fit_logistic(unit, marks, votes, strength=strength)
    np.testing.assert_allclose(fit.weight, theirs.coef_[0], rtol=1e-6, atol=1e-7)
    assert fit.bias == pytest.approx(theirs.intercept_[0], rel=1e-6, abs=1e-7)


def test_a_tie_is_half_a_vote_for_either_side() -> None:
    unit, marks, _ = made(50, 6)
    tied = np.where(np.arange(50) % 5 == 0, 0.5, marks)
    both, twice = np.vstack([unit, unit]), np.concatenate([np.ceil(tied), np.floor(tied)])
    votes = np.where(np.arange(100) % 50 % 5 == 0, 0.5, np.where(np.arange(100) < 50, 1.0, 0.0))
    one, other = fit_logistic(unit, tied, strength=1e-2), fit_logistic(both, twice, votes, strength=1e-2)
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-8)


def test_pairs_give_the_order_of_choix() -> None:
    rng = np.random.default_rng(7)
    quality = rng.normal(size=12)
    left, right = rng.integers(0, 12, (2, 600))
    left, right = left[left != right], right[left != right]
    wins = rng.random(len(left)) < chances(quality[left] - quality[right])
    data = [(int(a), int(b)) if won else (int(b), int(a)) for a, b, won in zip(left, right, wins, strict=True)]
    theirs = choix.opt_pairwise(12, data, alpha=0.1, tol=1e-12)
    # A picture as an axis of its own makes its coefficient its score; choix adds alpha |scores|^2 to the sum of losses.
    fit = fit_logistic(pair_rows(np.eye(12), left, right), wins.astype(float), strength=2 * 0.1 / len(left), has_bias=False)
    assert fit.bias == 0.0
    assert np.argsort(fit.weight).tolist() == np.argsort(theirs).tolist()
    np.testing.assert_allclose(fit.weight, theirs, atol=1e-4)


@pytest.mark.parametrize(("num_rows", "dim"), [(60, 5), (40, 30)])
def test_leaving_out_is_near_brute_force(num_rows: int, dim: int) -> None:
    unit, marks, votes = made(num_rows, dim)
    strengths = (1e-1, 1e-2)
    fit = fit_logistic(unit, marks, votes, strengths=strengths)
    for strength in strengths:
        total = 0.0
        for row in range(num_rows):
            rest = np.arange(num_rows) != row
            one = fit_logistic(unit[rest], marks[rest], votes[rest], strength=strength * votes.sum() / votes[rest].sum())
            total += votes[row] * log_loss(one.predict(unit[row : row + 1]), marks[row : row + 1])[0]
        assert fit.errors[strength] == pytest.approx(total / votes.sum(), rel=5e-3)


def test_folds_equal_fits_to_the_other_rows() -> None:
    unit, marks, votes = made(80, 6)
    folds = np.arange(80) % 4
    fit = fit_logistic(unit, marks, votes, strengths=(1e-2,), folds=folds)
    total = 0.0
    for fold in range(4):
        one = fit_logistic(unit[folds != fold], marks[folds != fold], votes[folds != fold], strength=1e-2)
        total += votes[folds == fold] @ log_loss(one.predict(unit[folds == fold]), marks[folds == fold])
    assert fit.errors[1e-2] == pytest.approx(total / votes.sum(), rel=1e-5)
    assert fit.chosen_by == "folds"


def test_a_prior_holds_with_few_marks_and_gives_way_to_many() -> None:
    rng = np.random.default_rng(1)
    start = rng.normal(size=40)
    unit, marks, _ = made(1500, 40, seed=3)
    few = fit_logistic(unit[:12], np.where(np.arange(12) % 2, 1.0, 0.0), prior=Prior(start), strength=1e3)
    np.testing.assert_allclose(few.weight, few.prior_scale * start, atol=1e-2)
    plain, with_prior = (fit_logistic(unit, marks, prior=prior, strength=1e-4) for prior in (None, Prior(start)))
    assert np.corrcoef(plain.weight, with_prior.weight)[0, 1] > 0.95
    kept = fit_logistic(unit[:20], marks[:20], prior=Prior(start, "fixed"), strength=1e6)
    np.testing.assert_allclose(kept.weight, start, atol=1e-5)


def test_more_dimensions_than_marks_take_no_longer() -> None:
    unit, marks, _ = made(60, 3000)
    fit = fit_logistic(unit, marks)
    assert fit.weight.shape == (3000,)
    assert fit.strength in fit.errors


def test_chances_do_not_overflow() -> None:
    assert chances([-1e4, 0.0, 1e4]).tolist() == [0.0, 0.5, 1.0]
    assert log_loss(np.array([1e4, -1e4]), np.array([1.0, 1.0])).tolist() == [0.0, 1e4]


@pytest.mark.parametrize(
    ("marks", "strength", "words"),
    [
        ([1, 1, 1], None, "all 3 marks are the same"),
        ([0, 1, 2], None, "from 0"),
        ([0, 1, 1], 0.0, "number > 0"),
        ([], None, "no marks"),
    ],
)
def test_refused_in_one_line(marks: list[float], strength: float | None, words: str) -> None:
    unit = np.eye(3)[: len(marks)]
    with pytest.raises(InputError, match=words):
        fit_logistic(unit, np.array(marks, float), strength=strength)

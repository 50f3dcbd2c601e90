"""Ridge from sums: against scikit-learn, brute force, and itself with other cuts of the same rows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import Ridge

from beholder.errors import InputError
from beholder.train.linear import Prior
from beholder.train.ridge import STRENGTHS, RatedBlock, collect, fit_ridge_rows, fit_sums, fold_errors, refined, solve

Matrix = npt.NDArray[np.float64]


def made(num_rows: int, dim: int, seed: int = 0) -> tuple[Matrix, Matrix, Matrix]:
    """Rows of length 1, ratings, weights."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num_rows, dim)) + rng.normal(size=dim)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit, 5 + unit @ rng.normal(size=dim) * 3 + rng.normal(0, 0.3, num_rows), rng.uniform(0.1, 5, num_rows)


def cut(unit: Matrix, y: Matrix, v: Matrix, step: int, folds: npt.NDArray[np.int64] | None = None) -> Iterator[RatedBlock]:
    for at in range(0, len(unit), step):
        part = slice(at, at + step)
        yield RatedBlock(unit[part] * 3.0, y[part], v[part], None if folds is None else folds[part])


@pytest.mark.parametrize(("num_rows", "dim", "strength"), [(300, 20, 1e-3), (40, 90, 1e-4), (2500, 5, 10.0), (200, 16, 1e-9)])
def test_equals_scikit_learn_with_weights(num_rows: int, dim: int, strength: float) -> None:
    unit, y, v = made(num_rows, dim)
    theirs = Ridge(alpha=strength * v.sum(), solver="svd").fit(unit, y, sample_weight=v)
    fit = fit_ridge_rows(unit, y, v, strength=strength)
    np.testing.assert_allclose(fit.weight, theirs.coef_, rtol=0, atol=1e-8)
    assert fit.bias == pytest.approx(theirs.intercept_, abs=1e-8)
    solution = solve(collect(cut(unit, y, v, 77))[0], [strength])
    np.testing.assert_allclose(solution.weights[:, 0], theirs.coef_, rtol=0, atol=1e-8)


def test_whole_votes_are_rows_given_so_often() -> None:
    unit, y, _ = made(60, 8)
    votes = np.random.default_rng(1).integers(0, 4, 60)
    once = fit_ridge_rows(unit, y, votes.astype(float), strength=1e-2)
    again = fit_ridge_rows(np.repeat(unit, votes, axis=0), np.repeat(y, votes), strength=1e-2)
    np.testing.assert_allclose(once.weight, again.weight, atol=1e-12)


@pytest.mark.parametrize("prior", [None, "free", "fixed"])
@pytest.mark.parametrize(("num_rows", "dim"), [(30, 6), (20, 50)])
def test_leave_one_out_equals_brute_force(num_rows: int, dim: int, prior: str | None) -> None:
    unit, y, v = made(num_rows, dim)
    start = None if prior is None else Prior(np.random.default_rng(8).normal(size=dim), prior)  # type: ignore[arg-type]
    strengths = (1.0, 1e-2, 1e-4)
    fit = fit_ridge_rows(unit, y, v, strengths=strengths, prior=start)
    for strength in strengths:
        total = 0.0
        for row in range(num_rows):
            rest = np.arange(num_rows) != row
            same = strength * v.sum() / v[rest].sum()
            one = fit_ridge_rows(unit[rest], y[rest], v[rest], strength=same, prior=start)
            total += v[row] * (one.predict(unit[row : row + 1])[0] - y[row]) ** 2
        assert fit.errors[strength] == pytest.approx(total / v.sum(), rel=1e-8)
    assert fit.strength == min(fit.errors, key=lambda s: fit.errors[s])


@pytest.mark.parametrize("dim", [6, 70])
def test_folds_from_sums_equal_fits_to_the_other_rows(dim: int) -> None:
    unit, y, v = made(150, dim)
    folds = np.random.default_rng(2).integers(0, 4, 150)
    parts = collect(cut(unit, y, v, 31, folds), num_folds=4)
    assert [part.count for part in parts] == np.bincount(folds).tolist()
    found = fold_errors(parts, [1e-1, 1e-3])
    for strength, error in zip((1e-1, 1e-3), found, strict=True):
        total = 0.0
        for fold in range(4):
            theirs = Ridge(alpha=strength * v[folds != fold].sum(), solver="svd")
            theirs.fit(unit[folds != fold], y[folds != fold], sample_weight=v[folds != fold])
            total += v[folds == fold] @ (theirs.predict(unit[folds == fold]) - y[folds == fold]) ** 2
        assert error == pytest.approx(total / v.sum(), rel=1e-7)
    assert fit_sums(parts)[0].chosen_by == "folds"


@pytest.mark.parametrize("dim", [6, 70])
@pytest.mark.parametrize("scale", ["free", "fixed"])
def test_folds_left_out_with_a_prior_by_one_strength_or_several(dim: int, scale: Literal["free", "fixed"]) -> None:
    unit, y, v = made(150, dim)
    prior = Prior(np.random.default_rng(3).normal(size=dim), scale)
    folds = np.random.default_rng(2).integers(0, 4, 150)
    parts = collect(cut(unit, y, v, 31, folds), num_folds=4)
    for strength in (1.0, 1e-2):
        total = 0.0
        for fold in range(4):
            rest, there = folds != fold, folds == fold
            fit = fit_ridge_rows(unit[rest], y[rest], v[rest], strength=strength, prior=prior)
            total += v[there] @ (unit[there] @ fit.weight + fit.bias - y[there]) ** 2
        for strengths in ([strength], [strength, 1e-1]):
            assert fold_errors(parts, strengths, prior)[0] == pytest.approx(total / v.sum(), rel=1e-7)


@pytest.mark.parametrize("dim", [6, 70])
def test_a_fold_with_all_the_weight_cannot_be_left_out(dim: int) -> None:
    unit, y, v = made(150, dim)
    folds = np.random.default_rng(2).integers(0, 3, 150)
    parts = collect(cut(unit, y, np.where(folds == 1, v, 0.0), 31, folds), num_folds=3)
    with pytest.raises(InputError, match="the weights of all rows are 0"):
        fold_errors(parts, [1e-1, 1e-3])


def test_a_prior_is_a_change_of_variables() -> None:
    unit, y, _ = made(25, 60)
    start = np.random.default_rng(3).normal(size=60)
    fixed = fit_ridge_rows(unit, y, strength=1e-2, prior=Prior(start, "fixed"))
    theirs = Ridge(alpha=1e-2 * 25, solver="svd").fit(unit, y - unit @ start)
    np.testing.assert_allclose(fixed.weight, theirs.coef_ + start, atol=1e-10)
    # A free multiple is one more column whose coefficient is not penalised.
    columns = np.hstack([unit, unit @ start[:, None], np.ones((25, 1))])
    penalty = np.diag([1e-2 * 25] * 60 + [0.0, 0.0])
    solved = np.linalg.lstsq(columns.T @ columns + penalty, columns.T @ y, rcond=None)[0]
    free = fit_ridge_rows(unit, y, strength=1e-2, prior=Prior(start))
    np.testing.assert_allclose(unit @ free.weight + free.bias, columns @ solved, atol=1e-8)
    assert free.prior_scale == pytest.approx(solved[60], abs=1e-8)
    strong = fit_ridge_rows(unit, y, strength=1e9, prior=Prior(start))
    np.testing.assert_allclose(strong.weight, strong.prior_scale * start, atol=1e-8)


@pytest.mark.parametrize("prior", [False, True])
def test_a_second_pass_takes_out_what_float32_products_lost(prior: bool) -> None:
    unit, y, v = made(3000, 40)
    start = Prior(np.random.default_rng(4).normal(size=40)) if prior else None
    exact = solve(collect(cut(unit, y, v, 1000))[0], [1e-5], start)
    sums = collect(cut(unit, y, v, 1000), precision="float32")[0]
    rough = solve(sums, [1e-5], start)
    weight, bias = refined(rough, cut(unit, y, v, 999), 0)
    lost = np.abs(rough.weights - exact.weights).max()
    assert lost > 1e-7
    np.testing.assert_allclose(weight, exact.weights[:, 0], atol=1e-9)
    assert bias == pytest.approx(exact.biases[0], abs=1e-9)


def test_the_same_bits_however_rows_are_cut() -> None:
    unit, y, v = made(5000, 30)
    folds = np.random.default_rng(5).integers(0, 3, 5000)
    one, other = (collect(cut(unit, y, v, step, folds), num_folds=3) for step in (5000, 613))
    assert all(np.array_equal(a.matrix, b.matrix) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
def test_other_numbers_of_threads_change_no_more_than_the_last_bits() -> None:
    code = (
        "import numpy as np; from beholder.train.ridge import *\n"
        "x = np.random.default_rng(0).standard_normal((5000, 300)); y = x[:, 0]\n"
        "print(*solve(collect([RatedBlock(x, y)])[0], [1e-3]).weights[:, 0].tolist())"
    )
    found = []
    for threads in ("1", "2", "3"):
        variables = {**os.environ, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
        found.append(np.array(done.stdout.split(), float))
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=0, atol=1e-12)


def test_half_floats_are_read_in_place() -> None:
    unit, y, v = made(100, 24)
    half = (unit * 7).astype(np.float16)
    wide = half.astype(np.float64)
    theirs = Ridge(alpha=1e-2 * v.sum(), solver="svd").fit(
        wide / np.linalg.norm(wide, axis=1, keepdims=True), y, sample_weight=v
    )
    for rows in (half, np.asfortranarray(half), half.astype(">f2"), np.repeat(half, 2, axis=0)[::2]):
        found = solve(collect([RatedBlock(rows, y, v)])[0], [1e-2])
        np.testing.assert_allclose(found.weights[:, 0], theirs.coef_, atol=1e-9)


def test_refused_in_one_line() -> None:
    unit, y, v = made(10, 3)
    with pytest.raises(InputError, match="no rows at all"):
        collect([])
    with pytest.raises(InputError, match="embedding 4 cannot be used .zero_norm."):
        collect([RatedBlock(np.where(np.arange(10)[:, None] == 4, 0.0, unit), y)])
    with pytest.raises(InputError, match="weights of all rows are 0"):
        fit_ridge_rows(unit, y, 0 * v, strength=1.0)
    with pytest.raises(InputError, match="point the same way"):
        fit_ridge_rows(np.repeat(unit[:1], 10, axis=0), y)
    with pytest.raises(InputError, match="3 finite numbers"):
        fit_ridge_rows(unit, y, prior=Prior(np.ones(4)))
    with pytest.raises(InputError, match="1 fold"):
        fold_errors(collect([RatedBlock(unit, y)]), STRENGTHS)

"""The ridge fit against a direct float64 solution, against algebra, and on sets it must refuse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from beholder.errors import InputError
from beholder.models.heads import load_head, save_head
from beholder.train.fitting import fit_ridge
from beholder.train.ridge import STRENGTHS
from oracles.tiers import mostly_slow

Matrix = npt.NDArray[np.float64]


def rated_rows(num_rows: int, dim: int, noise: float, seed: int = 0) -> tuple[Matrix, Matrix, Matrix]:
    """Rows about a common direction and of many lengths, ratings = 5 + w . x/|x| + noise, and w."""
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=dim) + rng.normal(size=(num_rows, dim))) * rng.uniform(0.1, 30, (num_rows, 1))
    weight = rng.normal(size=dim) * 3
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, 5 + unit @ weight + rng.normal(0, noise, num_rows), weight


def direct_ridge(unit: Matrix, ratings: Matrix, strength: float) -> tuple[Matrix, float]:
    """Normal equations with a column of ones whose coefficient is not penalised, by one dense solve."""
    num_rows, dim = unit.shape
    design = np.hstack([unit, np.ones((num_rows, 1))])
    penalty = np.diag([strength * num_rows] * dim + [0.0])
    solution = np.linalg.solve(design.T @ design + penalty, design.T @ ratings)
    return solution[:-1], float(solution[-1])


def training_rows(rows: Matrix, ratings: Matrix, strength: float, test_share: float) -> npt.NDArray[np.intp]:
    """The rows that are fitted, found from outside: changing the rating of any other row leaves the weight as it is."""
    weight = fit_ridge(rows, ratings, regularisation=strength, test_share=test_share).weight
    used = []
    for row in range(len(rows)):
        changed = ratings.copy()
        changed[row] += 0.5
        again = fit_ridge(rows, changed, regularisation=strength, test_share=test_share)
        if not np.array_equal(again.weight, weight):
            used.append(row)
    return np.array(used)


@pytest.mark.parametrize(("num_rows", "dim", "strength"), [(60, 5, 1e-3), (40, 2, 1e-2), (30, 70, 1e-4), (60, 5, 10.0)])
def test_equals_a_direct_solution_and_never_sees_the_test_rows(num_rows: int, dim: int, strength: float) -> None:
    rows, ratings, _ = rated_rows(num_rows, dim, 0.3)
    fit = fit_ridge(rows, ratings, regularisation=strength, test_share=0.2)
    used = training_rows(rows, ratings, fit.regularisation, 0.2)
    assert len(used) == fit.counts.train == num_rows - fit.counts.test
    assert fit.counts.test == round(0.2 * num_rows)
    assert fit.counts.validation == 0
    assert fit.validation_mse == {}
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    weight, bias = direct_ridge(unit[used], ratings[used], strength)
    np.testing.assert_allclose(fit.weight, weight, rtol=1e-8, atol=1e-10)
    assert fit.bias == pytest.approx(bias, rel=1e-9)

    held_out = np.setdiff1d(np.arange(num_rows), used)
    predicted = unit[held_out] @ weight + bias
    assert fit.metrics.num_rows == len(held_out)
    assert fit.metrics.mse == pytest.approx(np.mean((predicted - ratings[held_out]) ** 2), rel=1e-8)
    assert fit.metrics.srcc == pytest.approx(scipy.stats.spearmanr(predicted, ratings[held_out]).statistic, abs=1e-12)
    assert fit.metrics.plcc == pytest.approx(scipy.stats.pearsonr(predicted, ratings[held_out]).statistic, abs=1e-8)


def test_strength_is_the_best_on_the_validation_rows_and_the_final_fit_uses_them() -> None:
    rows, ratings, _ = rated_rows(80, 20, 2.0, seed=4)
    fit = fit_ridge(rows, ratings, validation_share=0.25, test_share=0.25)
    assert (fit.counts.train, fit.counts.validation, fit.counts.test) == (40, 20, 20)
    assert list(fit.validation_mse) == list(STRENGTHS)
    assert fit.regularisation == min(STRENGTHS, key=lambda s: fit.validation_mse[s])
    assert STRENGTHS[-1] < fit.regularisation < STRENGTHS[0]
    # With the strength given, the same test part is set apart and all other rows are fitted: the same head.
    given = fit_ridge(rows, ratings, regularisation=fit.regularisation, test_share=0.25)
    assert (given.counts.train, given.counts.test) == (60, 20)
    np.testing.assert_allclose(given.weight, fit.weight, rtol=1e-9, atol=1e-12)
    assert given.bias == pytest.approx(fit.bias, rel=1e-12)
    assert given.metrics.mse == pytest.approx(fit.metrics.mse, rel=1e-9)


def test_validation_errors_against_direct_solutions() -> None:
    rows, ratings, _ = rated_rows(50, 6, 1.0, seed=9)
    fit = fit_ridge(rows, ratings, validation_share=0.2, test_share=0.2)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    tested = np.setdiff1d(np.arange(50), training_rows(rows, ratings, fit.regularisation, 0.2))
    # A validation part of 0.2 follows the test part of 0.2 in the same order, so a test part of 0.4 holds just these two.
    train = training_rows(rows, ratings, fit.regularisation, 0.4)
    validation = np.setdiff1d(np.arange(50), np.union1d(train, tested))
    assert len(train) == fit.counts.train
    assert len(validation) == fit.counts.validation
    for strength in STRENGTHS:
        weight, bias = direct_ridge(unit[train], ratings[train], strength)
        expected = np.mean((unit[validation] @ weight + bias - ratings[validation]) ** 2)
        assert fit.validation_mse[strength] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", mostly_slow([np.float32, np.float16, np.float64]))
def test_recovers_a_noise_free_direction(dtype: type[np.floating]) -> None:  # type: ignore[type-arg]
    rows, _, weight = rated_rows(400, 24, 0.0)
    stored = rows.astype(dtype)
    wide = stored.astype(np.float64)
    ratings = 4.75 + wide / np.linalg.norm(wide, axis=1, keepdims=True) @ weight
    fit = fit_ridge(stored, ratings, regularisation=0.0)
    # Rows of length 1 do not tell the weight and the bias apart to first order, so compare what is predicted, too.
    np.testing.assert_allclose(fit.weight, weight, atol=1e-9)
    assert fit.bias == pytest.approx(4.75, abs=1e-9)
    assert fit.metrics.mse < 1e-20
    assert fit.metrics.r2 == pytest.approx(1.0)
    assert fit.metrics.srcc == 1.0
    chosen = fit_ridge(stored, ratings)
    assert chosen.regularisation <= 1e-9  # below, the errors from sums are all rounding
    np.testing.assert_allclose(chosen.weight, weight, atol=1e-6)


def test_more_dimensions_than_rows_gives_the_shortest_weight_that_fits() -> None:
    rows, ratings, _ = rated_rows(12, 100, 0.5)
    fit = fit_ridge(rows, ratings, regularisation=0.0, test_share=0.2)
    used = training_rows(rows, ratings, fit.regularisation, 0.2)
    assert len(used) == 10
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centred = unit[used] - unit[used].mean(axis=0)
    shortest = np.linalg.pinv(centred) @ (ratings[used] - ratings[used].mean())
    np.testing.assert_allclose(fit.weight, shortest, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(unit[used] @ fit.weight + fit.bias, ratings[used], atol=1e-9)


@pytest.mark.parametrize("strength", [1e-3, 100.0, None])
def test_the_intercept_is_not_penalised(strength: float | None) -> None:
    rows, ratings, _ = rated_rows(200, 8, 0.4)
    low, high = (fit_ridge(rows, ratings + shift, regularisation=strength) for shift in (0.0, 1000.0))
    np.testing.assert_allclose(high.weight, low.weight, rtol=1e-6, atol=1e-11)
    assert high.bias - low.bias == pytest.approx(1000.0, abs=1e-8)
    assert high.regularisation == low.regularisation


@pytest.mark.parametrize("strength", [1e-3, None])
def test_order_of_rows_and_their_lengths_do_not_matter(strength: float | None) -> None:
    rows, ratings, _ = rated_rows(150, 9, 0.4)
    order = np.random.default_rng(5).permutation(150)
    first = fit_ridge(rows, ratings, regularisation=strength)
    second = fit_ridge(rows[order] * 4.0, ratings[order], regularisation=strength)
    np.testing.assert_allclose(second.weight, first.weight, rtol=1e-9, atol=1e-12)
    assert second.metrics.mse == pytest.approx(first.metrics.mse, rel=1e-9)
    assert second.counts == first.counts


def test_half_floats_and_their_float32_copies_fit_alike() -> None:
    rows, ratings, _ = rated_rows(150, 33, 0.4)
    half = rows.astype(np.float16)
    a, b = fit_ridge(half, ratings), fit_ridge(half.astype(np.float32), ratings.astype(np.float32).astype(np.float64))
    np.testing.assert_allclose(a.weight, b.weight, rtol=1e-5, atol=1e-6)
    assert a.counts == b.counts


def test_seed_moves_the_split_and_the_same_seed_repeats_it() -> None:
    rows, ratings, _ = rated_rows(100, 6, 0.4)
    a, b, c = (fit_ridge(rows, ratings, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(a.weight, b.weight)
    assert a.metrics == b.metrics
    assert a.metrics.mse != c.metrics.mse


def test_unusable_rows_are_left_out_and_counted() -> None:
    rows, ratings, _ = rated_rows(100, 6, 0.4)
    bad = np.repeat(rows[:1], 9, axis=0)
    bad[0, 2] = math.nan
    bad[1, 2] = math.inf
    bad[2, :] = [math.inf, math.nan, 0, 0, 0, 0]
    bad[3:5] = 0.0
    bad[5, 0] = math.nan
    bad_ratings = np.array([5.0, 5, 5, 5, 5, math.nan, math.nan, math.inf, -math.inf])
    mixed, mixed_ratings = np.vstack([bad, rows]), np.concatenate([bad_ratings, ratings])
    fit, clean = fit_ridge(mixed, mixed_ratings), fit_ridge(rows, ratings)
    assert fit.counts.excluded == {"no_rating": 4, "nan": 2, "inf": 1, "zero_norm": 2}
    assert clean.counts.excluded == {}
    counts = fit.counts
    assert counts.given == 109 == counts.train + counts.validation + counts.test + sum(counts.excluded.values())
    np.testing.assert_allclose(fit.weight, clean.weight, rtol=1e-9)


def test_equal_rows_stay_in_one_part() -> None:
    rows, ratings, _ = rated_rows(30, 6, 0.4)
    twice, both = np.repeat(rows, 2, axis=0), np.repeat(ratings, 2)
    both[1::2] += 1.0
    fit = fit_ridge(twice, both, regularisation=1e-3, test_share=0.25)
    used = set(training_rows(twice, both, 1e-3, 0.25).tolist())
    assert all((row in used) == (row + 1 in used) for row in range(0, 60, 2))
    assert fit.counts.test == 16  # 15 wanted, rounded up to whole pairs


def test_memory_mapped_rows_without_a_rating_are_not_needed(tmp_path: Path) -> None:
    rows, ratings, _ = rated_rows(300, 6, 0.4)
    np.save(tmp_path / "rows.npy", rows.astype(np.float16))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    some = np.where(np.arange(300) % 3 == 0, ratings, math.nan)
    a, b = fit_ridge(mapped, some), fit_ridge(rows[::3].astype(np.float16), ratings[::3])
    assert a.counts.excluded == {"no_rating": 200}
    assert np.array_equal(a.weight, b.weight)


def test_large_values_do_not_overflow() -> None:
    rows, ratings, _ = rated_rows(80, 6, 0.4)
    plain, large = fit_ridge(rows, ratings), fit_ridge(rows * 2.0**1000, ratings)
    np.testing.assert_allclose(large.weight, plain.weight, rtol=1e-11)


def test_the_smallest_set_that_can_be_split() -> None:
    rows, ratings, _ = rated_rows(6, 3, 0.1)
    fit = fit_ridge(rows, ratings)
    assert (fit.counts.train, fit.counts.validation, fit.counts.test) == (2, 2, 2)
    assert np.isfinite(fit.weight).all()
    assert math.isfinite(fit.metrics.mse)
    assert fit_ridge(rows[:4], ratings[:4], regularisation=1.0).counts.train == 2


def test_record_is_plain_json() -> None:
    import json

    rows, ratings, _ = rated_rows(60, 3, 0.1)
    fit = fit_ridge(rows, ratings, name="mine", backbone="some-space", seed=3)
    record = json.loads(json.dumps(fit.to_json(), allow_nan=False))
    assert record["name"] == "mine"
    assert record["backbone"] == "some-space"
    assert record["seed"] == 3
    assert record["rows"] == {"given": 60, "train": 48, "validation": 6, "test": 6, "excluded": {}}
    assert record["test"]["num_rows"] == 6


def test_the_head_scores_what_the_fit_meant_also_from_its_file(tmp_path: Path) -> None:
    rows, ratings, _ = rated_rows(200, 33, 0.4)
    fit = fit_ridge(rows, ratings, name="mine", backbone="ViT-L/14")
    head = fit.to_head()
    expected = rows @ fit.weight / np.linalg.norm(rows, axis=1) + fit.bias
    np.testing.assert_allclose(head.score(rows), expected, atol=1e-5)
    save_head(head, tmp_path / "mine.safetensors")
    loaded = load_head(tmp_path / "mine.safetensors")
    assert loaded.name == "mine"
    assert loaded.backbone == "openai/clip-vit-large-patch14"
    assert np.array_equal(loaded.weight, fit.weight)
    assert loaded.bias == fit.bias
    assert loaded.notes["test"].startswith("num_rows 20, srcc ")


@pytest.mark.parametrize(
    ("rows", "ratings", "options", "words"),
    [
        (np.ones((0, 3)), np.ones(0), {}, "too few rows"),
        (np.eye(3), np.arange(3.0), {}, "too few rows"),
        (np.eye(3), np.arange(3.0), {"regularisation": 1.0}, "too few rows"),
        (np.eye(9), np.full(9, math.nan), {}, "too few rows"),
        (np.eye(9), np.ones(9) * 5, {}, "nothing to learn"),
        (np.ones((9, 3)), np.arange(9.0), {}, "too few different rows"),
        (np.eye(9), np.arange(8.0), {}, "one number for each of the 9"),
        (np.eye(9), np.ones((9, 1)), {}, "one number for each"),
        (np.eye(9), np.array(["5"] * 9), {}, "one number for each"),
        (np.ones(9), np.arange(9.0), {}, "(N, D) floats"),
        (np.ones((9, 0)), np.arange(9.0), {}, "(N, D) floats"),
        (np.ones((9, 3), int), np.arange(9.0), {}, "(N, D) floats"),
        (np.eye(9), np.arange(9.0), {"regularisation": -1.0}, "regularisation"),
        (np.eye(9), np.arange(9.0), {"regularisation": math.nan}, "regularisation"),
        (np.eye(9), np.arange(9.0), {"test_share": 0.0}, "test_share"),
        (np.eye(9), np.arange(9.0), {"validation_share": 1.0}, "validation_share"),
        (np.eye(9), np.arange(9.0), {"validation_share": 0.6, "test_share": 0.5}, "leave no rows"),
    ],
)
def test_refused_in_one_line(rows: Matrix, ratings: Matrix, options: dict[str, float], words: str) -> None:
    with pytest.raises(InputError) as caught:
        fit_ridge(rows, ratings, **options)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_that_differ_in_length_alone_are_refused() -> None:
    rows = np.outer(np.arange(1.0, 41.0), [0.3, 0.4, 0.1])
    with pytest.raises(InputError, match=r"too few different rows|point the same way"):
        fit_ridge(rows, np.arange(40.0))

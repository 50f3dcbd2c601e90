"""Measures with intervals: against scipy and scikit-learn, by hand, and how often the intervals hold the truth."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import sklearn.metrics

from beholder.errors import InputError
from beholder.train.measures import NAMES, Comparison, Measures, Predictor, measured_once
from beholder.train.resampling import USUAL, Resampling


def measure(
    predictions: npt.ArrayLike,
    truth: npt.ArrayLike,
    how: Resampling = USUAL,
    *,
    names: Sequence[str] = NAMES,
    **given: Any,
) -> Measures:
    """Measures of one predictor; `given`: as `Comparison` takes it."""
    return Comparison([Predictor(predictions, names)], truth, how=how, **given).measures(0)


def compare(first: npt.ArrayLike, second: npt.ArrayLike, truth: npt.ArrayLike) -> Measures:
    """The measures of one predictor less those of another."""
    return Comparison([Predictor(first), Predictor(second)], truth).difference(0, 1)


NO_INTERVALS = Resampling(number=0)


@pytest.mark.parametrize("decimals", [0, 1, 6])
def test_every_measure_against_other_libraries(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    truth = np.round(rng.normal(5, 1, 400), decimals)
    guess = np.round(truth + rng.normal(0, 1, 400), decimals)
    found = measure(guess, truth, cut=5.0, how=NO_INTERVALS)
    value = {name: found[name].value for name in NAMES}
    assert value["srcc"] == pytest.approx(scipy.stats.spearmanr(guess, truth).statistic, abs=1e-12)
    assert value["plcc"] == pytest.approx(scipy.stats.pearsonr(guess, truth).statistic, abs=1e-12)
    assert value["kendall"] == pytest.approx(scipy.stats.kendalltau(guess, truth).statistic, abs=1e-12)
    assert value["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(truth, guess))
    assert value["rmse"] == pytest.approx(sklearn.metrics.root_mean_squared_error(truth, guess))
    assert value["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth >= 5, guess >= 5))
    apart = truth[:, None] > truth[None, :]
    right = (guess[:, None] > guess[None, :]) + 0.5 * (guess[:, None] == guess[None, :])
    assert value["pair_accuracy"] == pytest.approx(right[apart].mean())
    assert math.isnan(found["srcc"].low)


def test_pair_accuracy_of_marks_is_the_area_under_the_curve() -> None:
    rng = np.random.default_rng(3)
    marks = rng.integers(0, 2, 200)
    guess = np.round(marks + rng.normal(0, 1, 200), 1)
    assert measured_once(guess, marks, ["pair_accuracy"])["pair_accuracy"] == pytest.approx(
        sklearn.metrics.roc_auc_score(marks, guess)
    )


def test_weights_are_rows_given_so_often() -> None:
    rng = np.random.default_rng(4)
    truth, guess = np.round(rng.normal(size=(2, 90)), 1)
    votes = rng.integers(0, 4, 90)
    once = measure(guess, truth, weights=votes, cut=0.0, how=NO_INTERVALS)
    again = measure(np.repeat(guess, votes), np.repeat(truth, votes), cut=0.0, how=NO_INTERVALS)
    for name in NAMES:
        assert once[name].value == pytest.approx(again[name].value, abs=1e-12), name


def test_top_precision_by_hand() -> None:
    # 100 rows rated 1 ... 100: the top 5 % are 96 to 100. Predicted highest: 100, 99, 50, 49, 98, three of which are.
    truth = np.arange(1.0, 101)
    guess = truth / 1000
    guess[[99, 98, 49, 48, 97]] = [5, 4, 3, 2, 1]
    found = measure(guess, truth, NO_INTERVALS)
    assert found["top_5_percent_precision"].value == pytest.approx(3 / 5)
    assert found["top_1_percent_precision"].value == 1.0
    # All predictions equal: any five of the hundred, so 5 % of them.
    assert measure(np.zeros(100), truth, NO_INTERVALS)["top_5_percent_precision"].value == pytest.approx(0.05)
    # Ten tie at the highest rating: any of them is right.
    stars = np.where(np.arange(100) < 10, 5.0, 1.0)
    assert measure(stars + np.arange(100) / 1000, stars, NO_INTERVALS)["top_1_percent_precision"].value == 1.0


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for seed in range(200):
        truth = rng.normal(size=120)
        guess = 0.6 * truth + 0.8 * rng.normal(size=120)
        found = measure(guess, truth, Resampling(0.9, 200, seed))["plcc"]
        inside += found.low <= 0.6 <= found.high
    # 180 of 200 are expected, with a standard deviation of 4.2; percentile intervals of a correlation are a little short.
    assert 163 <= inside <= 195


def test_rows_of_a_group_are_resampled_together() -> None:
    rng = np.random.default_rng(6)
    truth, guess = rng.normal(size=(2, 60))
    guess += truth
    single = measure(guess, truth, Resampling(seed=1))
    tenfold = measure(np.repeat(guess, 10), np.repeat(truth, 10), groups=np.repeat(np.arange(60), 10), how=Resampling(seed=1))
    assert tenfold.num_groups == 60
    assert tenfold["plcc"].low == pytest.approx(single["plcc"].low, abs=1e-9)
    alone = measure(np.repeat(guess, 10), np.repeat(truth, 10), Resampling(seed=1))
    assert alone["plcc"].high - alone["plcc"].low < 0.5 * (single["plcc"].high - single["plcc"].low)


@pytest.mark.parametrize("decimals", [0, 2])
def test_intervals_are_of_other_libraries_on_resampled_rows(decimals: int) -> None:
    """Rows of the drawn groups, copied out, with ties in both series and between them."""
    rng = np.random.default_rng(decimals)
    truth = np.round(rng.normal(size=120), decimals)
    guess = np.round(truth + rng.normal(size=120), decimals)
    groups = rng.integers(0, 60, 120)
    numbers = np.unique(groups, return_inverse=True)[1]
    found = measure(guess, truth, groups=groups, cut=0.5, how=Resampling(number=61, seed=4))
    drawn: dict[str, list[float]] = {name: [] for name in NAMES}
    for at in range(61):
        picked = np.random.default_rng((4, at)).integers(0, numbers.max() + 1, numbers.max() + 1)
        rows = np.concatenate([np.flatnonzero(numbers == group) for group in picked])
        x, y = guess[rows], truth[rows]
        apart = y[:, None] > y[None, :]
        right = (x[:, None] > x[None, :]) + 0.5 * (x[:, None] == x[None, :])
        for name, value in (
            ("srcc", scipy.stats.spearmanr(x, y).statistic), ("plcc", scipy.stats.pearsonr(x, y).statistic),
            ("kendall", scipy.stats.kendalltau(x, y).statistic), ("mae", np.abs(x - y).mean()),
            ("rmse", np.sqrt(((x - y) ** 2).mean())), ("accuracy", ((x >= 0.5) == (y >= 0.5)).mean()),
            ("pair_accuracy", right[apart].mean()), ("top_5_percent_precision", among_the_best(x, y, 0.05)),
            ("top_1_percent_precision", among_the_best(x, y, 0.01)),
        ):  # fmt: skip
            drawn[name].append(float(value))
    for name, values in drawn.items():
        expected = tuple(np.percentile(values, [2.5, 97.5]))
        assert (found[name].low, found[name].high) == pytest.approx(expected, abs=1e-11), name


def among_the_best(guess: np.ndarray, truth: np.ndarray, share: float) -> float:
    """Of the rows that are predicted highest, equal ones in part, the share that is among as many rated highest, ties in."""
    wanted = max(1, math.ceil(share * len(guess) - 1e-9))
    edge, lowest = np.sort(guess)[-wanted], np.sort(truth)[-wanted]
    weights = np.where(guess > edge, 1.0, 0.0)
    weights[guess == edge] = (wanted - weights.sum()) / (guess == edge).sum()
    return float(weights @ (truth >= lowest) / wanted)


@pytest.mark.slow
def test_pairs_of_many_different_predictions_with_votes() -> None:
    """More ranks than are counted in the cache at once: against scipy on rows given as often as they have votes."""
    rng = np.random.default_rng(12)
    truth = np.round(rng.normal(size=30_000), 3)
    guess = truth + rng.normal(size=30_000)
    votes = rng.integers(0, 4, 30_000)
    found = measure(guess, truth, weights=votes, how=NO_INTERVALS, names=("kendall", "srcc"))
    rows = np.repeat(np.arange(30_000), votes)
    assert found["kendall"].value == pytest.approx(scipy.stats.kendalltau(guess[rows], truth[rows]).statistic, abs=1e-12)
    assert found["srcc"].value == pytest.approx(scipy.stats.spearmanr(guess[rows], truth[rows]).statistic, abs=1e-12)
    assert set(found.values) == {"kendall", "srcc"}


def test_measures_of_scores_on_another_scale() -> None:
    """Ranks are of the scores as they are, errors of these on the ratings' scale, and so are differences."""
    rng = np.random.default_rng(13)
    truth, one, other = rng.normal(size=(3, 200))
    found = Comparison([Predictor(one, scaled=other), Predictor(other)], truth, cut=0.0, how=Resampling(number=20))
    whole, scaled = (
        measure(one, truth, cut=0.0, how=Resampling(number=20)),
        measure(other, truth, cut=0.0, how=Resampling(number=20)),
    )
    for name in NAMES:
        assert found.measures(0)[name] == (scaled if name in ("mae", "rmse", "accuracy") else whole)[name], name
    assert found.difference(0, 1)["mae"].value == 0
    assert found.difference(0, 1)["srcc"].value == whole["srcc"].value - scaled["srcc"].value


def test_paired_differences_are_narrower_than_their_parts() -> None:
    rng = np.random.default_rng(7)
    truth = rng.normal(size=300)
    better = truth + rng.normal(0, 0.8, 300)
    worse = better + rng.normal(0, 0.3, 300)
    found = compare(better, worse, truth)["plcc"]
    one, other = measure(better, truth)["plcc"], measure(worse, truth)["plcc"]
    assert found.value == pytest.approx(one.value - other.value)
    assert found.low > 0
    assert found.high - found.low < one.high - one.low
    same = compare(better, better, truth)["srcc"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_repetitions_are_averaged() -> None:
    rng = np.random.default_rng(8)
    truth = rng.normal(size=80)
    guesses = truth + rng.normal(size=(3, 80))
    both = Comparison([Predictor(guesses), Predictor(guesses[0], ("mae",))], truth, how=Resampling(number=50))
    expected = np.mean([scipy.stats.kendalltau(guess, truth).statistic for guess in guesses])
    assert both.measures(0)["kendall"].value == pytest.approx(expected)
    assert list(both.difference(0, 1).values) == ["mae"]


def test_a_seed_repeats_an_interval() -> None:
    rng = np.random.default_rng(9)
    truth, guess = rng.normal(size=(2, 3000))
    assert measure(guess, truth, Resampling(number=50, seed=3)) == measure(guess, truth, Resampling(number=50, seed=3))
    assert measure(guess, truth, Resampling(number=50, seed=3)) != measure(guess, truth, Resampling(number=50, seed=4))


def test_what_is_not_defined_is_none() -> None:
    one = measure([3.0], [4.0]).to_json()["values"]
    assert one["mae"]["value"] == 1.0
    assert one["srcc"] == {"value": None, "low": None, "high": None}
    assert math.isnan(measured_once([1.0, 1.0], [1.0, 2.0], ["kendall"])["kendall"])


@pytest.mark.slow
def test_a_hundred_thousand_rows_quickly() -> None:
    rng = np.random.default_rng(10)
    truth = rng.normal(size=100_000)
    guess = truth + rng.normal(size=100_000)
    started = time.process_time()
    found = measure(guess, truth)
    assert found["kendall"].value == pytest.approx(scipy.stats.kendalltau(guess, truth).statistic, abs=1e-12)
    assert time.process_time() - started < 60


def test_refused_in_one_line() -> None:
    for arguments, words in (
        ({"weights": [1.0]}, "weights"),
        ({"groups": [1]}, "groups"),
        ({"weights": [1.0, -1.0]}, "weights"),
    ):
        with pytest.raises(InputError, match=words):
            measure([1.0, 2.0], [1.0, 2.0], **arguments)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="level"):
        Resampling(level=1.0)

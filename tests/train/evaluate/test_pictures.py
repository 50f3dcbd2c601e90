"""Measures of heads on ratings of pictures: against scipy, scikit-learn and resamples drawn one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import roc_auc_score

from beholder.errors import InputError
from beholder.train.evaluate.bins import Curve, calibration_bins
from beholder.train.evaluate.evaluation import NOT_TOLD_APART, REAL, Comparisons, compare_pictures
from beholder.train.evaluate.scored import Scored
from beholder.train.folds import fold_keys, fold_plan, grouped_folds
from beholder.train.resampling import Resampling

NUM = 150
SAMPLES = [f"p{row}.jpg" for row in range(NUM)]


def scored(**columns: np.ndarray) -> list[Scored]:
    return [
        Scored(name=name, source="s.csv", column=name, scores=np.asarray(values, float)) for name, values in columns.items()
    ]


def rated(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratings of 1 to 5 with ties, a head near them on a scale of its own, and one that is further away."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal(NUM)
    ratings = np.clip(np.round(3 + truth + 0.4 * rng.standard_normal(NUM)), 1, 5)
    return ratings, 50 + 7 * (truth + 0.3 * rng.standard_normal(NUM)), np.round(truth + 2 * rng.standard_normal(NUM))


def compared(ratings: np.ndarray, heads: list[Scored], **more: object) -> Comparisons:
    given: dict[str, object] = {
        "weights": np.ones(NUM), "groups": np.arange(NUM), "samples": SAMPLES, "how": Resampling(number=300),
        "is_marks": False,
    }  # fmt: skip
    return compare_pictures(heads, ratings, **{**given, **more})  # type: ignore[arg-type]


def test_ranks_are_those_of_scipy() -> None:
    ratings, good, poor = rated()
    found = compared(ratings, scored(poor=poor, good=good))
    assert [one.name for one in found.judged] == ["good", "poor"]
    assert found.measure == "srcc"
    for one, scores in zip(found.judged, (good, poor), strict=True):
        values = {name: value.value for name, value in one.measures.values.items()}
        assert values["srcc"] == pytest.approx(stats.spearmanr(scores, ratings).statistic, abs=1e-12)
        assert values["plcc"] == pytest.approx(stats.pearsonr(scores, ratings).statistic, abs=1e-12)
        assert values["kendall"] == pytest.approx(stats.kendalltau(scores, ratings).statistic, abs=1e-12)
        right, total = 0.0, 0
        for i in range(NUM):
            for j in range(i):
                if ratings[i] != ratings[j]:
                    total += 1
                    order = (scores[i] - scores[j]) * (ratings[i] - ratings[j])
                    right += 1.0 if order > 0 else 0.5 if order == 0 else 0.0
        assert values["pair_accuracy"] == pytest.approx(right / total, abs=1e-12)


def lines_by_hand(scores: np.ndarray, ratings: np.ndarray, seed: int) -> np.ndarray:
    """(R, N) predictions of straight lines by scikit-learn, in the folds of `beholder train`."""
    plan = fold_plan(NUM)
    found = np.empty((plan.repeats, NUM))
    for repeat in range(plan.repeats):
        keys = fold_keys(seed, repeat, np.empty((0, 1)), np.arange(NUM), SAMPLES)
        folds = grouped_folds(np.arange(NUM), keys, plan.num_folds)
        for fold in range(plan.num_folds):
            test = folds == fold
            line = LinearRegression().fit(scores[~test, None], ratings[~test])
            found[repeat, test] = line.predict(scores[test, None])
    return found


def test_errors_are_after_a_line_that_was_fitted_to_other_folds() -> None:
    ratings, good, _ = rated()
    (one,) = compared(ratings, scored(good=good), how=Resampling(number=10, seed=4)).judged
    lines = lines_by_hand(good, ratings, 4)
    errors = lines - ratings
    assert one.measures["mae"].value == pytest.approx(np.abs(errors).mean(axis=1).mean(), abs=1e-9)
    assert one.measures["rmse"].value == pytest.approx(np.sqrt((errors**2).mean(axis=1)).mean(), abs=1e-9)
    cut = np.sort(ratings)[(NUM - 1) // 2]
    assert one.measures.cut == cut
    assert one.measures["accuracy"].value == pytest.approx(((lines >= cut) == (ratings >= cut)).mean(), abs=1e-12)
    np.testing.assert_allclose(one.predicted, lines.mean(axis=0), atol=1e-9)
    whole = LinearRegression().fit(good[:, None], ratings)
    assert (one.slope, one.intercept) == pytest.approx((whole.coef_[0], whole.intercept_), rel=1e-9)


def test_another_scale_changes_nothing_but_the_map() -> None:
    ratings, good, _ = rated()
    (one,) = compared(ratings, scored(good=good)).judged
    (other,) = compared(ratings, scored(good=1000 - 5 * -good)).judged
    for name, value in one.measures.values.items():
        assert other.measures[name].value == pytest.approx(value.value, abs=1e-9)
    assert other.slope == pytest.approx(one.slope / 5)


def test_differences_are_of_the_same_resamples() -> None:
    ratings, good, poor = rated()
    (difference,) = compared(ratings, scored(good=good, poor=poor)).differences
    drawn = []
    for at in range(300):
        rows = np.random.default_rng((0, at)).integers(0, NUM, NUM)
        drawn.append(
            stats.spearmanr(good[rows], ratings[rows]).statistic - stats.spearmanr(poor[rows], ratings[rows]).statistic
        )
    found = difference.measures["srcc"]
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=1e-9)
    assert difference.verdict("srcc") == REAL
    assert (difference.first, difference.second) == ("good", "poor")


def test_a_head_is_not_told_apart_from_itself_and_hardly_from_its_twin() -> None:
    ratings, good, _ = rated()
    twin = good + 0.5 * np.random.default_rng(9).standard_normal(NUM)
    found = compared(ratings, scored(good=good, again=good, twin=twin))
    verdicts = {(one.first, one.second): one.verdict("srcc") for one in found.differences}
    assert len(verdicts) == 3
    assert set(verdicts.values()) == {NOT_TOLD_APART}
    zero = next(one for one in found.differences if {one.first, one.second} == {"good", "again"}).measures["srcc"]
    assert (zero.value, zero.low, zero.high) == (0, 0, 0)


def test_groups_are_resampled_together() -> None:
    ratings, good, _ = rated()
    fours = np.repeat(np.arange(NUM // 3), 3)
    doubled, scores = np.repeat(ratings[: NUM // 3], 3), np.repeat(good[: NUM // 3], 3)
    (one,) = compared(doubled, scored(good=scores)).judged
    (grouped,) = compared(doubled, scored(good=scores), groups=fours).judged
    assert grouped.measures.num_groups == 50
    assert grouped.measures["srcc"].value == pytest.approx(one.measures["srcc"].value)
    width = {name: m["srcc"].high - m["srcc"].low for name, m in (("rows", one.measures), ("groups", grouped.measures))}
    assert width["groups"] / width["rows"] == pytest.approx(math.sqrt(3), rel=0.25)


def test_marks_are_measured_as_chances() -> None:
    rng = np.random.default_rng(2)
    good, poor = rng.standard_normal((2, NUM))
    kept = (good + 0.2 * poor + 0.5 * rng.standard_normal(NUM) > 0).astype(float)
    found = compared(kept, scored(poor=poor, good=good), is_marks=True)
    assert found.measure == "pair_accuracy"
    assert [one.name for one in found.judged] == ["good", "poor"]
    for one, scores in zip(found.judged, (good, poor), strict=True):
        assert one.measures["pair_accuracy"].value == pytest.approx(roc_auc_score(kept, scores), abs=1e-12)
        assert one.measures.cut == 0.5
        assert ((one.predicted > 0) & (one.predicted < 1)).all()
    whole = LogisticRegression(C=1e4, tol=1e-10).fit(good[:, None], kept)
    assert found.judged[0].slope == pytest.approx(whole.coef_[0, 0], rel=0.02)


def test_marks_that_scores_tell_apart_entirely_have_a_map() -> None:
    """With a score so far out that its chance is 1 in float64: the map is that of the fit, and not read off its ends."""
    good = np.random.default_rng(2).standard_normal(NUM)
    kept = (good > 0).astype(float)
    good[np.argmax(good)] = 60.0
    (one,) = compared(kept, scored(good=good), is_marks=True).judged
    assert 1 / (1 + math.exp(-(one.intercept + one.slope * 60))) == 1.0
    scaled = (good - good.mean()) / good.std()
    whole = LogisticRegression(C=1 / (1e-4 * NUM), tol=1e-12, max_iter=10_000).fit(scaled[:, None], kept)
    slope = whole.coef_[0, 0] / good.std()
    assert one.slope == pytest.approx(slope, rel=1e-3)
    assert one.intercept == pytest.approx(whole.intercept_[0] - slope * good.mean(), rel=1e-2)


def test_constant_scores_order_nothing_and_come_last() -> None:
    ratings, good, _ = rated()
    found = compared(ratings, scored(flat=np.full(NUM, 5.0), good=good))
    assert [one.name for one in found.judged] == ["good", "flat"]
    flat = found.judged[1].measures
    assert math.isnan(flat["srcc"].value)
    assert flat["pair_accuracy"].value == 0.5
    assert flat["mae"].value == pytest.approx(found.constant["mae"].value)
    assert found.differences[0].verdict("srcc") == ""
    assert math.isnan(found.judged[1].slope)


def test_all_in_one_group_is_one_line() -> None:
    ratings, good, _ = rated()
    with pytest.raises(InputError, match="all 150 measured pictures belong together"):
        compared(ratings, scored(good=good), groups=np.zeros(NUM, np.int64))


def test_bins_are_means_with_intervals_of_resampled_groups() -> None:
    ratings, good, _ = rated()
    groups, weights = np.arange(NUM) // 2, np.random.default_rng(1).integers(1, 4, NUM).astype(float)
    curve = Curve(scores=good, ratings=ratings, predicted=2 * ratings)
    (bins,) = calibration_bins([curve], weights, groups, Resampling(number=250, seed=7))
    assert len(bins) == 10
    assert sum(one.num_rows for one in bins) == NUM
    order = np.argsort(good)
    for number, one in enumerate(bins):
        rows = order[15 * number : 15 * number + 15]
        assert (one.low, one.high) == (good[rows].min(), good[rows].max())
        assert one.score == pytest.approx(np.average(good[rows], weights=weights[rows]))
        assert one.rating == pytest.approx(np.average(ratings[rows], weights=weights[rows]))
        assert one.predicted == pytest.approx(2 * one.rating)
        drawn = []
        for at in range(250):
            picked = np.random.default_rng((7, at)).integers(0, NUM // 2, NUM // 2)
            all_rows = np.concatenate([np.flatnonzero(groups == group) for group in picked])
            inside = all_rows[np.isin(all_rows, rows)]
            drawn.append(np.average(ratings[inside], weights=weights[inside]))
        assert (one.rating_low, one.rating_high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=1e-9)


def test_equal_scores_are_in_one_bin_and_few_groups_have_no_interval() -> None:
    scores = np.array([1.0] * 40 + [2.0] * 20)
    curve = Curve(scores=scores, ratings=np.arange(60.0))
    (bins,) = calibration_bins([curve], np.ones(60), np.arange(60) // 20, Resampling(number=50))
    assert [(one.low, one.high, one.num_rows) for one in bins] == [(1, 1, 40), (2, 2, 20)]
    assert [one.rating for one in bins] == [19.5, 49.5]
    assert math.isnan(bins[0].rating_low)
    curve = Curve(scores=np.array([3.0]), ratings=np.array([4.0]))
    ((single,),) = calibration_bins([curve], np.ones(1), np.zeros(1, np.int64), Resampling(number=5))
    assert (single.score, single.rating, single.num_rows) == (3, 4, 1)

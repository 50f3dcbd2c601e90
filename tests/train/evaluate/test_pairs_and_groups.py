"""Measures of heads on pairs, and of groups of pictures and pairs: against counting one by one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from beholder.train.evaluate.by import ACROSS, LEAST, MOST, by_column, labels_of_pairs, pairs_in, pictures_in
from beholder.train.evaluate.evaluation import REAL, compare_pairs, compare_pictures
from beholder.train.evaluate.scored import Scored
from beholder.train.resampling import Resampling

HOW = Resampling(number=200)


def pairs(num: int = 400, pictures: int = 40) -> tuple[np.ndarray, ...]:
    """Scores with ties and near the truth, scores by chance, better and worse pictures, votes."""
    rng = np.random.default_rng(3)
    truth = rng.standard_normal(pictures)
    one, other = rng.integers(0, pictures, (2, num))
    other = np.where(one == other, (other + 1) % pictures, other)
    is_first = truth[one] + rng.standard_normal(num) > truth[other]
    better, worse = np.where(is_first, one, other), np.where(is_first, other, one)
    return np.round(truth * 2), rng.standard_normal(pictures), better, worse, rng.integers(1, 4, num).astype(float)


def share(scores: np.ndarray, better: np.ndarray, worse: np.ndarray, votes: np.ndarray) -> float:
    right = sum(
        vote * (1.0 if scores[one] > scores[other] else 0.5 if scores[one] == scores[other] else 0.0)
        for one, other, vote in zip(better, worse, votes, strict=True)
    )
    return float(right / votes.sum())


def heads(**columns: np.ndarray) -> list[Scored]:
    return [Scored(name=name, source="s.csv", column=name, scores=values) for name, values in columns.items()]


def test_pairs_are_counted_with_ties_as_halves() -> None:
    good, chance, better, worse, votes = pairs()
    assert (good[better] == good[worse]).sum() > 20
    groups = np.stack([better, worse], axis=1)
    found = compare_pairs(heads(chance=chance, good=good), better, worse, votes, groups, HOW)
    assert [one.name for one in found.judged] == ["good", "chance"]
    for one, scores in zip(found.judged, (good, chance), strict=True):
        assert one.measures["pair_accuracy"].value == pytest.approx(share(scores, better, worse, votes), abs=1e-12)
    assert found.constant["pair_accuracy"].value == 0.5
    (difference,) = found.differences
    assert difference.verdict("pair_accuracy") == REAL
    assert difference.measures["pair_accuracy"].value == pytest.approx(
        share(good, better, worse, votes) - share(chance, better, worse, votes), abs=1e-12
    )
    bins = found.judged[0].bins
    assert bins[0].rating < bins[-1].rating
    assert sum(one.num_rows for one in bins) == 400


def test_groups_of_pictures() -> None:
    rng = np.random.default_rng(0)
    num = 120
    truth = rng.standard_normal(num)
    good, poor = truth + 0.3 * rng.standard_normal(num), truth + 2 * rng.standard_normal(num)
    sizes = {"portraits": 60, "birds": 45, "": 12, "one": 1, "two": 2}
    labels = np.array([name for name, size in sizes.items() for _ in range(size)], dtype=object)
    ratings = truth + (labels == "birds") * 0.8
    weights = rng.integers(1, 5, num).astype(float)
    compared = compare_pictures(
        heads(good=good, poor=poor), ratings, weights, np.arange(num), [f"{row}" for row in range(num)], HOW, is_marks=False
    )
    measure = pictures_in(compared, ratings, np.ones(num), np.arange(num), HOW)
    found = by_column("subject", labels, compared, measure)
    assert [(group.value, group.num_rows) for group in found.groups] == [("portraits", 60), ("birds", 45), ("", 12)]
    assert found.too_small == (2, 3)
    assert found.not_shown == (0, 0)
    for group in found.groups:
        rows = labels == group.value
        for head, scores in zip(group.heads, (good, poor), strict=True):
            assert head.value.value == pytest.approx(stats.spearmanr(scores[rows], ratings[rows]).statistic, abs=1e-12)
            assert head.value.low < head.value.value < head.value.high
        (judged,) = [one for one in compared.judged if one.name == "good"]
        assert group.heads[0].residual == pytest.approx((ratings - judged.predicted)[rows].mean())
    residuals = {group.value: group.heads[0].residual for group in found.groups}
    assert residuals["birds"] is not None
    assert residuals["portraits"] is not None
    assert residuals["birds"] > 0.2 > 0 > residuals["portraits"]
    assert found.to_json()["too_small"] == {"num_groups": 2, "num_rows": 3, "fewer_than": LEAST}


def test_many_groups_are_counted() -> None:
    num = LEAST * (MOST + 4)
    rng = np.random.default_rng(1)
    scores = rng.standard_normal(num)
    labels = np.repeat(np.array([f"g{at:03}" for at in range(MOST + 4)], dtype=object), LEAST)
    samples = [f"{row}" for row in range(num)]
    compared = compare_pictures(
        heads(a=scores), scores + rng.standard_normal(num), np.ones(num), np.arange(num), samples, HOW, is_marks=False
    )
    found = by_column("g", labels, compared, pictures_in(compared, scores, np.ones(num), np.arange(num), HOW))
    assert len(found.groups) == MOST
    assert found.not_shown == (4, 4 * LEAST)


def test_a_group_within_one_resampled_group_has_no_interval() -> None:
    rng = np.random.default_rng(1)
    scores = rng.standard_normal(40)
    labels = np.repeat(np.array(["a", "b"], dtype=object), 20)
    groups = np.where(labels == "a", 0, np.arange(40))
    groups = np.unique(groups, return_inverse=True)[1]
    truth = scores + rng.standard_normal(40)
    samples = [f"{row}" for row in range(40)]
    compared = compare_pictures(heads(a=scores), truth, np.ones(40), groups, samples, HOW, is_marks=False)
    found = by_column("g", labels, compared, pictures_in(compared, truth, np.ones(40), groups, HOW))
    assert [(group.value, bool(np.isfinite(group.heads[0].value.low))) for group in found.groups] == [("a", False), ("b", True)]


def test_groups_of_pairs() -> None:
    good, chance, better, worse, votes = pairs()
    labels = np.where(np.arange(40) < 20, "x", "y").astype(object)
    groups = np.stack([better, worse], axis=1)
    found = compare_pairs(heads(good=good, chance=chance), better, worse, votes, groups, HOW)
    of_pairs = labels_of_pairs(labels, better, worse)
    by = by_column("folder", of_pairs, found, pairs_in(found, votes, groups, HOW))
    assert {group.value for group in by.groups} == {"x", "y", ACROSS}
    for group in by.groups:
        rows = of_pairs == group.value
        assert group.num_rows == rows.sum()
        assert group.heads[0].value.value == pytest.approx(share(good, better[rows], worse[rows], votes[rows]), abs=1e-12)
        assert group.heads[0].residual is None

"""Score statistics against NumPy: moments, exact shares, quantiles, merging in any order."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beholder.scoreset.stats import ScoreStats

scores_arrays = hnp.arrays(
    np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32, allow_nan=False, allow_infinity=False)
)


@given(scores_arrays, st.integers(0, 200))
def test_merged_halves_equal_the_whole(scores: np.ndarray, cut: int) -> None:
    whole = ScoreStats.of(scores)
    merged = ScoreStats.of(scores[:cut])
    merged.merge(ScoreStats.of(scores[cut:]))
    assert merged.count == whole.count == len(scores)
    assert merged.bins == whole.bins
    assert merged.minimum == whole.minimum == scores.min()
    assert merged.maximum == whole.maximum == scores.max()
    assert merged.mean == pytest.approx(scores.astype(np.float64).mean(), rel=1e-9, abs=1e-6)
    assert merged.standard_deviation == pytest.approx(scores.astype(np.float64).std(), rel=1e-6, abs=1e-4)


@given(scores_arrays, st.sampled_from([-2.5, 0.0, 3.4, 4.5, 4.75, 5.0, 5.5, 6.0, 6.25, 6.5, 7.0, 8.0]))
def test_counts_at_thresholds_are_exact(scores: np.ndarray, threshold: float) -> None:
    if threshold == 3.4:  # not a bin edge: within one bin
        exact = int((scores >= threshold).sum())
        near = int(((scores >= 3.39) & (scores < 3.41)).sum())
        assert abs(ScoreStats.of(scores).count_at_least(threshold) - exact) <= near
    else:
        assert ScoreStats.of(scores).count_at_least(threshold) == int((scores >= np.float32(threshold)).sum())


@given(scores_arrays)
def test_quantiles_stand_between_their_neighbours(scores: np.ndarray) -> None:
    ordered = np.sort(scores.astype(np.float64))
    stats = ScoreStats.of(scores)
    for q in (0.0, 0.01, 0.25, 0.5, 0.9, 1.0):
        rank = q * (len(ordered) - 1)
        low, high = ordered[math.floor(rank)], ordered[math.ceil(rank)]
        slack = 0.004 * max(abs(low), abs(high)) + 1e-30
        assert low - slack <= stats.quantile(q) <= high + slack


def test_quantiles_of_a_million_scores_are_close_to_numpys() -> None:
    scores = np.random.default_rng(0).normal(4.8, 0.9, 1_000_000).astype(np.float32)
    stats = ScoreStats.of(scores)
    for q in (0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999):
        assert stats.quantile(q) == pytest.approx(float(np.quantile(scores, q)), abs=2e-3)
    assert stats.share_at_least(5.0) == (scores >= 5).mean()


def test_histogram_counts_equal_numpys_on_round_edges() -> None:
    scores = np.random.default_rng(1).normal(5, 1, 10_000).astype(np.float32)
    edges = [i * 0.25 for i in range(8, 36)]
    expected, _ = np.histogram(scores[scores < edges[-1]], edges)
    assert ScoreStats.of(scores).histogram(edges) == expected.tolist()


@given(scores_arrays)
def test_json_restores_to_the_bit(scores: np.ndarray) -> None:
    stats = ScoreStats.of(scores)
    assert ScoreStats.from_json(json.loads(json.dumps(stats.to_json()))) == stats


def test_nothing_counted() -> None:
    empty = ScoreStats.of(np.empty(0, np.float32))
    assert empty.count == 0
    assert math.isnan(empty.quantile(0.5))
    assert math.isnan(empty.standard_deviation)
    assert math.isnan(empty.share_at_least(5))
    assert ScoreStats.from_json(json.loads(json.dumps(empty.to_json()))) == empty
    one = ScoreStats.of(np.array([5.25], np.float32))
    one.merge(empty)
    empty.merge(one)
    assert empty == one
    assert one.quantile(0.3) == 5.25
    assert one.standard_deviation == 0


def test_quantiles_of_few_scores_are_those_of_numpy() -> None:
    for scores in ([4.78], [4.461, 4.775], [4.0, 4.859, 4.979]):
        stats = ScoreStats.of(np.array(scores, np.float32))
        for q in (0, 0.01, 0.25, 0.5, 0.75, 0.99, 1):
            assert abs(stats.quantile(q) - np.quantile(np.array(scores, np.float32), q)) < 0.002 * max(scores)

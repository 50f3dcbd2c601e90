"""Numbers about scores: summaries, counts, quantiles, histograms and steps beside numpy, pandas and slow loops."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beholder.models.catalog import DEFAULT_HEAD
from beholder.scoreset.numbers import (
    QUANTILES,
    HeadNumbers,
    ScoreStats,
    axis,
    axis_histogram,
    bucket_step,
    buckets,
    count_at_least,
    grid_around,
    nice_step,
    packed,
    published_densities,
    unpacked,
)
from beholder.scoreset.score_set import as_score

scores_arrays = hnp.arrays(
    np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32, allow_nan=False, allow_infinity=False)
)


@settings(max_examples=50)
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


@settings(max_examples=50)
@given(scores_arrays, st.integers(1, 10**12))
def test_packed_bins_come_back(scores: np.ndarray, factor: int) -> None:
    record = ScoreStats.of(scores).to_json()
    large = record | {
        "count": len(scores) * factor,
        "bins": [[index, count * factor] for index, count in record["bins"]],  # type: ignore[attr-defined]
    }
    for one in (record, large):
        short = json.loads(json.dumps(packed(one)))
        assert isinstance(short["bins"], str)
        assert unpacked(short) == one
        assert packed(short) == short
        assert ScoreStats.from_json(short) == ScoreStats.from_json(one)


def test_packed_bins_are_short_and_refused_when_they_are_none() -> None:
    record = ScoreStats.of(np.random.default_rng(0).normal(5, 1, 10_000).astype(np.float32)).to_json()
    assert len(json.dumps(packed(record))) < len(json.dumps(record)) / 4
    empty = ScoreStats().to_json()
    assert unpacked(packed(empty)) == empty
    for text in ("x", "1:5", "1:5:!", "3:5:AAAA", "1:x:AAAA", "1:5:AAA=:", "1:-9:AQE="):
        with pytest.raises((ValueError, TypeError)):
            ScoreStats.from_json({**record, "bins": text})


@settings(max_examples=30)
@given(st.lists(scores_arrays, max_size=6), st.booleans())
def test_records_are_merged_as_one_by_one(parts: list[np.ndarray], are_packed: bool) -> None:
    one_by_one, at_once = ScoreStats.of(np.float32([1.5])), ScoreStats.of(np.float32([1.5]))
    records = [ScoreStats.of(part).to_json() for part in [np.empty(0, np.float32), *parts]]
    for record in records:
        one_by_one.merge(ScoreStats.from_json(record))
    at_once.merge_records([packed(record) if are_packed else record for record in records])
    assert at_once == one_by_one


@settings(max_examples=50)
@given(scores_arrays, st.sampled_from([-2.5, 0.0, 3.4, 4.5, 4.75, 5.0, 5.5, 6.0, 6.25, 6.5, 7.0, 8.0]))
def test_counts_at_thresholds_are_exact(scores: np.ndarray, threshold: float) -> None:
    if threshold == 3.4:  # not a bin edge: within one bin
        exact = int((scores >= threshold).sum())
        near = int(((scores >= 3.39) & (scores < 3.41)).sum())
        assert abs(ScoreStats.of(scores).count_at_least(threshold) - exact) <= near
    else:
        assert ScoreStats.of(scores).count_at_least(threshold) == int((scores >= np.float32(threshold)).sum())


@settings(max_examples=50)
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


@settings(max_examples=50)
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


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 5.0, 4.5, 4.75])
NEAR = st.floats(1.0, 9.0, width=32)


def numbers_of(values: object, head: str | None = None) -> HeadNumbers:
    return HeadNumbers("aesthetic_score", head, np.asarray(values, np.float32))


@settings(max_examples=80)
@given(st.lists(NEAR | st.just(math.nan), max_size=60))
def test_moments_and_quantiles_are_those_of_pandas(values: list[float]) -> None:
    numbers, series = numbers_of(values), pd.Series(np.asarray(values, np.float32)).dropna().astype("float64")
    assert numbers.num_scored == len(series)
    assert numbers.num_rows == len(values)
    if series.empty:
        assert math.isnan(numbers.mean)
        assert math.isnan(numbers.quantile(0.5))
        return
    assert numbers.mean == pytest.approx(series.mean(), rel=1e-12)
    assert numbers.standard_deviation == pytest.approx(series.std(ddof=0), rel=1e-9, abs=1e-9)
    assert (numbers.minimum, numbers.maximum) == (series.min(), series.max())
    for q in QUANTILES:
        assert numbers.quantile(q) == pytest.approx(series.quantile(q), rel=1e-12)


@settings(max_examples=80)
@given(st.lists(FLOATS, max_size=60), st.floats(-10, 10) | st.sampled_from([0.1, 4.1, 5.0, 5.05, 1e300, -1e300]))
def test_thresholds_are_rounded_to_float32_as_scores_are(values: list[float], threshold: float) -> None:
    numbers = numbers_of(values)
    finite = [float(np.float32(value)) for value in values if np.isfinite(np.float32(value))]
    assert numbers.num_scored == len(finite)
    assert numbers.num_not_finite == sum(math.isinf(np.float32(value)) for value in values)
    with np.errstate(over="ignore"):
        rounded = float(np.float32(threshold))
    assert numbers.count_at_least(threshold) == sum(value >= rounded for value in finite)


def test_a_score_that_is_stored_as_the_threshold_is_at_it() -> None:
    below, at = np.nextafter(np.float32(4.1), np.float32(0)), np.float32(4.1)
    assert float(at) < 4.1
    assert numbers_of([below, at]).count_at_least(4.1) == 1


@settings(max_examples=100)
@given(st.lists(NEAR, min_size=1, max_size=80), st.data())
def test_the_histogram_counts_every_score_once(values: list[float], data: st.DataObject) -> None:
    numbers = numbers_of(values)
    scores = np.asarray(values, np.float32)
    kept = scores[np.asarray(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))), bool)]
    histogram = numbers.histogram(kept)
    assert histogram.counts.sum() == len(values)
    assert histogram.kept is not None
    assert histogram.kept.sum() == len(kept)
    assert (histogram.kept <= histogram.counts).all()
    edges = [-math.inf, *np.asarray(histogram.edges[1:-1], np.float32).tolist(), math.inf]
    slow = [sum(a <= float(score) < b for score in scores) for a, b in itertools.pairwise(edges)]
    assert histogram.counts.tolist() == slow
    widths = np.diff(histogram.edges)
    assert np.allclose(widths, widths[0])


def test_scores_far_off_stand_in_the_outer_bins() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(5, 0.5, 5000), [900.0, -300.0]]).astype(np.float32)
    histogram = numbers_of(values).histogram()
    assert histogram.edges[0] > 0
    assert histogram.edges[-1] < 12
    assert (histogram.num_below, histogram.num_above) == (1, 1)
    assert histogram.counts.sum() == 5002


def test_the_curve_tells_what_a_loop_counts() -> None:
    values = np.random.default_rng(2).normal(5, 0.7, 3000).astype(np.float32)
    curve = numbers_of(values).curve()
    assert 100 <= len(curve) <= 260
    for threshold, kept in curve[::17]:
        assert kept == int((values >= np.float32(threshold)).sum())
    assert curve[0][1] == 3000
    assert curve[-1][1] <= 1


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0, 5.0], [0.0], [-3.0, -3.0], [1e30, 1e30]])
def test_one_value_has_a_histogram_and_a_curve(values: list[float]) -> None:
    numbers = numbers_of(values)
    assert numbers.histogram().counts.sum() == len(values)
    assert numbers.curve()[0][1] == len(values)


def test_published_densities_add_up_to_the_published_shares() -> None:
    points = numbers_of([5.0], DEFAULT_HEAD).published()
    assert points[0] == (4.5, pytest.approx(1.2e9 / 2.37e9))
    steps = published_densities(points)
    assert sum((b - a) * density for a, b, density in steps) == pytest.approx((1.2e9 - 625e3) / 2.37e9)
    assert numbers_of([5.0]).published() == []


@pytest.mark.parametrize(
    ("width", "step"), [(0.09, 0.1), (0.1, 0.1), (0.11, 0.2), (0.21, 0.25), (0.26, 0.5), (3, 5), (70, 100), (0, 1)]
)
def test_steps_are_round(width: float, step: float) -> None:
    assert nice_step(width) == step


SCORES = st.one_of(st.sampled_from([4.5, 5.0, 5.1, math.nan, -0.0, 0.0, math.inf, -math.inf]), st.floats(3, 7, width=32))


@settings(max_examples=60)
@given(st.lists(SCORES, min_size=1, max_size=60), st.one_of(SCORES.filter(lambda x: not math.isnan(x)), st.floats(3, 7)))
def test_counts_and_buckets_and_bins_are_those_of_a_plain_count(values: list[float], threshold: float) -> None:
    scores = np.array(values, np.float32)
    ascending = np.sort(scores[np.isfinite(scores)])
    wanted = sum(math.isfinite(s) and s >= np.float32(threshold) for s in scores.tolist())
    assert count_at_least(ascending, threshold) == wanted
    low, high = axis(ascending)
    found = buckets(ascending, low, high)
    for bucket in found:
        least = -math.inf if bucket["low"] is None else float(np.float32(bucket["low"]))
        most = math.inf if bucket["high"] is None else float(np.float32(bucket["high"]))
        inside = [s for s in ascending.tolist() if s >= least and (s < most or bucket["high"] is None)]
        assert bucket["count"] == len(inside)
    assert sum(bucket["count"] for bucket in found) == len(ascending)
    assert sum(axis_histogram(ascending, low, high)["counts"]) == len(ascending)


def test_a_threshold_keeps_the_score_that_prints_as_it() -> None:
    for text in ("5.1", "4.9", "5.3", "6.25"):
        assert np.float32(text) >= as_score(float(text))
        assert np.nextafter(np.float32(text), np.float32(0)) < as_score(float(text))
    assert as_score(1e300) == np.inf


def test_aesthetic_scores_have_buckets_of_half_a_point_and_other_scales_as_many_as_can_be_read() -> None:
    assert bucket_step(1.2, 8.1) == bucket_step(4.0, 6.0) == 0.5
    assert bucket_step(0, 100) == 5.0
    assert bucket_step(0.1, 0.9) < 0.2
    assert (1e6 - 0) / bucket_step(0, 1e6) <= 24


def test_a_few_values_far_off_do_not_squeeze_the_axis_and_are_counted_at_its_ends() -> None:
    scores = np.sort(np.concatenate([np.linspace(4, 6, 9_998), [-1e6, 1e6]])).astype(np.float32)
    low, high = axis(scores)
    assert 3.9 < low <= 4.01
    assert 5.99 <= high < 6.1
    counts = axis_histogram(scores, low, high)["counts"]
    assert sum(counts) == sum(bucket["count"] for bucket in buckets(scores, low, high)) == 10_000


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 5.0]])
def test_axis_of_little_is_still_an_axis(values: list[float]) -> None:
    low, high = axis(np.array(values, np.float32))
    assert math.isfinite(low)
    assert low < high


@pytest.mark.parametrize(
    ("low", "high", "step"), [(3.0, 7.0, 0.25), (0.2, 0.3, 0.025), (0.0, 100.0, 10.0), (-2e4, 2e4, 1e4), (5.0, 5.0, 0.25)]
)
def test_the_grid_of_advice_has_round_thresholds_around_the_scores(low: float, high: float, step: float) -> None:
    scores = np.linspace(low, high, 10_001).astype(np.float32)
    grid = sorted(grid_around(ScoreStats.of(scores)))
    steps = np.diff(grid)
    assert not len(steps) or (steps[0] <= step and np.allclose(steps, steps[0]))
    assert grid[0] <= low + 0.06 * (high - low)
    assert grid[-1] >= high - 0.01 * (high - low)
    assert len(grid) <= 20

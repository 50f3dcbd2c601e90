"""Counts, moments, quantiles, histograms and kept shares, beside pandas and slow loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.models.head_catalog import DEFAULT_HEAD
from beholder.reporting.numbers import QUANTILES, HeadNumbers, nice_step, published_densities

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -0.0, 5.0, 4.5, 4.75])
NEAR = st.floats(1.0, 9.0, width=32)


def numbers_of(values: object, head: str | None = None) -> HeadNumbers:
    return HeadNumbers("aesthetic_score", head, np.asarray(values, np.float32))


@settings(max_examples=150)
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


@settings(max_examples=150)
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

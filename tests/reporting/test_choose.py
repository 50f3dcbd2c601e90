"""Which rows are shown: beside sorting all of them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.reporting import heads
from beholder.scoreset.numbers import HeadNumbers

SCORES = st.lists(st.sampled_from([1.0, 2.5, 4.0, 4.5, 5.0, 5.5, math.nan]) | st.floats(1, 8, width=32), max_size=80)


def of(values: object) -> tuple[HeadNumbers, npt.NDArray[np.float32]]:
    scores = np.asarray(values, np.float32)
    return HeadNumbers("aesthetic_score", None, scores), scores


@pytest.mark.slow
@settings(max_examples=150)
@given(SCORES, st.integers(0, 9), st.sampled_from([0.0, 4.5, 5.0, 5.25, 9.0]))
def test_best_worst_and_border_hold_what_sorting_finds(values: list[float], count: int, threshold: float) -> None:
    numbers, scores = of(values)
    series = pd.Series(scores).dropna()

    def scored(rows: npt.NDArray[np.int64]) -> list[float]:
        return sorted(scores[rows].tolist())

    best, worst = series.nlargest(count), series.nsmallest(count)
    above, below = series[series >= threshold].nsmallest(count), series[series < threshold].nlargest(count)
    last, cut = len(series), int((series < threshold).sum())
    for first, stop, wanted in (
        (last - count, last, best),
        (0, count, worst),
        (cut, cut + count, above),
        (cut - count, cut, below),
    ):
        found = heads.at_places(numbers, scores, first, stop)
        # all that tie with the last one are candidates, so that names can decide
        low, high = (wanted.min(), wanted.max()) if len(wanted) else (1.0, 0.0)
        assert scored(found) == sorted(series[(series >= low) & (series <= high)].tolist())


@settings(max_examples=100)
@given(SCORES, st.integers(0, 6), st.integers(0, 3))
def test_buckets_hold_every_row_and_show_some(values: list[float], per_bucket: int, seed: int) -> None:
    numbers, scores = of(values)
    found = heads.buckets(numbers, scores, per_bucket, seed)
    assert sum(bucket.count for bucket in found) == numbers.num_scored
    assert [bucket.low for bucket in found] == sorted((bucket.low for bucket in found), reverse=True)
    for bucket in found:
        inside = np.flatnonzero((scores >= bucket.low) & (scores < bucket.high))
        assert bucket.count == len(inside) > 0
        assert len(bucket.rows) == min(per_bucket, bucket.count)
        assert len(set(bucket.rows.tolist())) == len(bucket.rows)
        assert set(bucket.rows.tolist()) <= set(inside.tolist())


def test_samples_are_the_rows_with_the_smallest_hashes_over_many_pieces() -> None:
    numbers, scores = of(np.random.default_rng(3).normal(5, 0.6, 20_000))
    whole = heads.buckets(numbers, scores, 12, 7)
    pieces = heads.buckets(numbers, scores, 12, 7, at_once=137)
    keys = heads.hashed(np.arange(len(scores)), 7)
    for one, other in zip(whole, pieces, strict=True):
        inside = np.flatnonzero((scores >= one.low) & (scores < one.high))
        wanted = set(inside[np.argsort(keys[inside])][:12].tolist())
        assert set(one.rows.tolist()) == set(other.rows.tolist()) == wanted
    other_seed = heads.buckets(numbers, scores, 12, 8)
    assert any(set(a.rows.tolist()) != set(b.rows.tolist()) for a, b in zip(whole, other_seed, strict=True))


def test_samples_are_even() -> None:
    numbers, scores = of(np.full(50_000, 5.1))
    (bucket,) = heads.buckets(numbers, scores, 5000, 1)
    tenths = np.bincount(bucket.rows // 5000, minlength=10)
    assert tenths.min() > 400
    assert tenths.max() < 600


@pytest.mark.parametrize(
    ("low", "high", "width"), [(3.0, 7.9, 0.5), (4.8, 5.3, 0.25), (0.0, 1.0, 0.5), (0.2, 0.9, 0.25), (-40.0, 60.0, 4.0)]
)
def test_buckets_are_half_points_unless_scores_are_spread_otherwise(low: float, high: float, width: float) -> None:
    numbers, _ = of(np.linspace(low, high, 101))
    edges = heads.bucket_edges(numbers)
    assert set(np.diff(edges)) == {width}


def test_outer_buckets_are_open_where_scores_lie_far_off() -> None:
    values = np.concatenate([np.random.default_rng(4).normal(5, 0.4, 5000), [1e6, -1e6]])
    numbers, scores = of(values)
    found = heads.buckets(numbers, scores, 3, 0)
    assert found[0].high == math.inf
    assert found[-1].low == -math.inf
    assert len(found) <= 32
    assert sum(bucket.count for bucket in found) == 5002


def test_many_equal_scores_stay_few() -> None:
    numbers, scores = of(np.full(100_000, 5.0))
    assert len(heads.at_places(numbers, scores, 99_997, 100_000)) <= 4096
    assert len(heads.at_places(numbers, scores, 0, 3)) <= 4096
    assert len(heads.at_places(numbers, scores, -3, 0)) == 0

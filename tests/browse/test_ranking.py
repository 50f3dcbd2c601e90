"""Order, counts, buckets and histograms against plain Python over all rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.browse.ranking import View, as_score, axis, best_first, bucket_step, buckets, histogram
from beholder.browse.rows import RowStore
from beholder.scoreset.score_set import open_scores

SCORES = st.one_of(st.sampled_from([4.5, 5.0, 5.1, math.nan, -0.0, 0.0, math.inf, -math.inf]), st.floats(3, 7, width=32))
NAMES = st.text(alphabet="abÅ猫😀/.", max_size=4)


def store_of(names: list[str | None], scores: list[float], folder: Path) -> RowStore:
    table = pa.table({"sample": pa.array(names, pa.string()), "aesthetic_score": pa.array(scores, pa.float32())})
    with open_scores(table) as found:
        return RowStore(found, folder)


def view_of(scores: np.ndarray, rows: np.ndarray) -> View:
    return View("v", "aesthetic_score", (), rows, np.ascontiguousarray(scores[rows][::-1]), None, len(scores))


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, SCORES), min_size=1, max_size=40))
def test_rows_come_best_first_with_ties_by_name_in_bytes_then_by_row(tmp_path_factory, pairs) -> None:
    names, scores = [name for name, _ in pairs], np.array([score for _, score in pairs], np.float32)
    rows = best_first(scores, store_of(names, scores.tolist(), tmp_path_factory.mktemp("s")))
    wanted = [row for row in range(len(scores)) if math.isfinite(scores[row])]
    wanted.sort(key=lambda row: (-scores[row], names[row].encode(), row))
    assert rows.tolist() == wanted


@settings(max_examples=60)
@given(st.lists(SCORES, min_size=1, max_size=60), st.one_of(SCORES.filter(lambda x: not math.isnan(x)), st.floats(3, 7)))
def test_counts_and_buckets_and_bins_are_those_of_a_plain_count(tmp_path_factory, values, threshold) -> None:
    scores = np.array(values, np.float32)
    store = store_of([f"{row:03d}" for row in range(len(scores))], scores.tolist(), tmp_path_factory.mktemp("s"))
    view = view_of(scores, best_first(scores, store))
    assert view.count_at_least(threshold) == sum(math.isfinite(s) and s >= np.float32(threshold) for s in scores.tolist())
    low, high = axis(view.ascending)
    found = buckets(view, low, high)
    for bucket in found:
        least = -math.inf if bucket["low"] is None else float(np.float32(bucket["low"]))
        most = math.inf if bucket["high"] is None else float(np.float32(bucket["high"]))
        inside = [s for s in scores.tolist() if math.isfinite(s) and s >= least and (s < most or bucket["high"] is None)]
        assert bucket["count"] == len(inside)
    assert sum(bucket["count"] for bucket in found) == len(view.rows)
    assert sum(histogram(view, low, high)["counts"]) == len(view.rows)


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
    view = view_of(scores, np.arange(len(scores) - 1, -1, -1))
    assert sum(histogram(view, low, high)["counts"]) == sum(b["count"] for b in buckets(view, low, high)) == 10_000


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 5.0]])
def test_axis_of_little_is_still_an_axis(values: list[float]) -> None:
    low, high = axis(np.array(values, np.float32))
    assert math.isfinite(low)
    assert low < high

"""Scores in; rows best first, counts at a threshold, buckets and histograms out, by binary search in sorted arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.browse.rows import RowStore
from beholder.columns import SAMPLE
from beholder.scoreset.score_set import as_score

Rows = npt.NDArray[np.uint32 | np.int64]
HALF_POINT = 0.5
_MOST_BUCKETS, _FEWEST_BUCKETS = 24, 4
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_BINS = 140
_TAIL = 0.0005
_FAR = 3.0


@dataclass(frozen=True)
class View:
    """The rows that satisfy some conditions, by one score.

    Attributes:
        key: names the view.
        score: the score's column.
        conditions: SQL expressions that all rows satisfy.
        rows: (M,) rows that have a finite score, best first; ties by sample, then by row.
        ascending: (M,) float32, their scores, from the smallest.
        inside: (N,) bool, which rows of the set satisfy the conditions; None: all.
        num_matching: rows that satisfy them, with a score or not.
    """

    key: str
    score: str
    conditions: tuple[str, ...]
    rows: Rows
    ascending: npt.NDArray[np.float32]
    inside: npt.NDArray[np.bool_] | None
    num_matching: int

    @property
    def num_bytes(self) -> int:
        """Memory it holds."""
        return self.rows.nbytes + self.ascending.nbytes + (self.inside.nbytes if self.inside is not None else 0)

    def count_at_least(self, threshold: float) -> int:
        """Rows with this score or more."""
        return len(self.ascending) - int(np.searchsorted(self.ascending, as_score(threshold)))

    def between(self, low: float, high: float) -> Rows:
        """Rows with a score in [low, high), best first."""
        return self.rows[self.count_at_least(high) : self.count_at_least(low)]


def best_first(scores: npt.NDArray[np.float32], store: RowStore) -> Rows:
    """Rows that have a finite score, best first; ties by sample (UTF-8 bytes), then by row."""
    number = np.uint32 if len(scores) <= np.iinfo(np.uint32).max else np.int64
    rows = np.flatnonzero(np.isfinite(scores))
    rows = rows[np.argsort(-scores[rows], kind="stable")].astype(number)
    values = scores[rows]
    same = values[1:] == values[:-1]
    if not same.any():
        return rows
    tied = np.zeros(len(rows), bool)
    tied[1:] |= same
    tied[:-1] |= same
    run = np.concatenate([[0], np.cumsum(~same)])[tied]
    among = rows[tied]
    names = store.fetch(among, [SAMPLE]).column(0)
    keys = pa.table({"run": run, "sample": names, "row": among})
    rows[tied] = among[pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]).to_numpy()]
    return rows


def axis(ascending: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Ends of the slider: the least and the largest score, or those of all but the outermost where these lie far off."""
    if not len(ascending):
        return 0.0, 10.0
    low, high = float(ascending[0]), float(ascending[-1])
    near_low, near_high = (float(ascending[int(q * (len(ascending) - 1))]) for q in (_TAIL, 1 - _TAIL))
    if high - low > _FAR * (near_high - near_low) > 0:
        low, high = near_low, near_high
    if high <= low:
        return low - HALF_POINT, high + HALF_POINT
    return low, high


def bucket_step(low: float, high: float) -> float:
    """Width of a bucket: half a point for aesthetic scores; other scales get as many buckets as can be read."""
    width = high - low
    if width / HALF_POINT > _MOST_BUCKETS:
        return next((step for step in _STEPS if step > HALF_POINT and width / step <= _MOST_BUCKETS), width / _MOST_BUCKETS)
    if width / HALF_POINT < _FEWEST_BUCKETS:
        finer = [step for step in _STEPS if step < HALF_POINT and width / step <= _MOST_BUCKETS]
        return finer[0] if finer and width < HALF_POINT * 2 else HALF_POINT
    return HALF_POINT


def buckets(view: View, low: float, high: float) -> list[dict[str, Any]]:
    """Buckets from `low` to `high`, the outer ones open: `low`, `high` (None: open), `from`, `to`, `count`."""
    edges = bucket_edges(low, high)
    return [
        {
            "low": None if at == 0 else edges[at],
            "high": None if at == len(edges) - 2 else edges[at + 1],
            "from": edges[at],
            "to": edges[at + 1],
            "count": count,
        }
        for at, count in enumerate(bucket_counts(view.ascending, edges))
    ]


def bucket_edges(low: float, high: float) -> list[float]:
    """Ends of the buckets from `low` to `high`, ascending."""
    step = bucket_step(low, high)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 6) for number in range(first, last + 2)]


def bucket_counts(ascending: npt.NDArray[np.float32], edges: Sequence[float]) -> list[int]:
    """How many of these scores each bucket has; what lies outside is in the outermost ones."""
    below = [int(np.searchsorted(ascending, as_score(edge))) for edge in edges]
    below[0], below[-1] = 0, len(ascending)
    return [below[at + 1] - below[at] for at in range(len(edges) - 1)]


def histogram(view: View, low: float, high: float) -> dict[str, Any]:
    """Counts of equal bins from `low` to `high`; what lies outside is in the outermost ones."""
    edges = np.linspace(low, high, _BINS + 1)
    at_least = np.array([view.count_at_least(float(edge)) for edge in edges])
    at_least[0], at_least[-1] = len(view.rows), 0
    return {"low": low, "high": high, "counts": (at_least[:-1] - at_least[1:]).tolist()}

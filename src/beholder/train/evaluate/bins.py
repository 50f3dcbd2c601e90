"""What was rated where a head gives such scores: the points of a calibration curve, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from beholder.train.measures import MANY_ROWS, RESAMPLES, RESAMPLES_OF_MANY, times_drawn
from beholder.train.pair_measures import PairGroups

Doubles = npt.NDArray[np.float64]

LEAST_GROUPS = 5
"""An interval from fewer groups says nothing."""
_MOST_BINS, _LEAST_ROWS = 12, 15


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Pictures with scores from `low` to `high`, both of which are there.

    Attributes:
        num_rows: pictures.
        score, rating: weighted means.
        rating_low, rating_high: interval of the mean rating, by resampling groups; NaN where there are too few of them.
        predicted: mean of what the rating was predicted to be; NaN where nothing was predicted.
    """

    low: float
    high: float
    num_rows: int
    score: float
    rating: float
    rating_low: float
    rating_high: float
    predicted: float

    def to_json(self) -> dict[str, float | None]:
        """A JSON-ready record; what is not defined is None."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def calibration_bins(
    scores: Doubles,
    ratings: Doubles,
    weights: Doubles,
    groups: npt.NDArray[np.int64],
    predicted: Doubles | None = None,
    *,
    level: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
) -> tuple[Bin, ...]:
    """Bins of about as many pictures each, at most 12, ascending in score; equal scores are in one bin.

    Args:
        scores: (N,) finite, N >= 1.
        ratings: (N,) finite.
        weights: (N,) > 0.
        groups: (N,) numbers from 0, resampled whole, by the same draws as in `measures.Comparison`; of pairs (N, 2), those of
            both pictures, by the same draws as in `PairComparison`.
        predicted: (N,) of each rating.
        level: of the intervals.
        resamples: None: by the number of rows, as of `measures.measure`.
        seed: of the resamples.
    """
    bins = _bins_of(scores)
    units, times_of = _units(groups)
    num_bins, num_units = int(bins.max()) + 1, int(units.max()) + 1
    cells, cell = np.unique(bins * num_units + units, return_inverse=True)
    cell_bins, cell_units = cells // num_units, cells % num_units
    heavy = np.bincount(cell.reshape(-1), weights)
    rated = np.bincount(cell.reshape(-1), weights * ratings)
    usual = RESAMPLES if len(scores) <= MANY_ROWS else RESAMPLES_OF_MANY
    drawn = np.full((usual if resamples is None else resamples, num_bins), np.nan)
    for at in range(len(drawn)):
        times = times_of(seed, at)[cell_units]
        total = np.bincount(cell_bins, times * heavy, minlength=num_bins)
        np.divide(np.bincount(cell_bins, times * rated, minlength=num_bins), total, out=drawn[at], where=total > 0)
    found = []
    for number in range(num_bins):
        inside = bins == number
        weight = weights[inside]
        draws = drawn[np.isfinite(drawn[:, number]), number]
        is_enough = np.unique(groups[inside]).size >= LEAST_GROUPS and len(draws) * 2 > len(drawn)
        tail = 50 * (1 - level)
        low, high = np.percentile(draws, [tail, 100 - tail]) if is_enough else (math.nan, math.nan)
        found.append(
            Bin(
                low=float(scores[inside].min()),
                high=float(scores[inside].max()),
                num_rows=int(np.count_nonzero(inside)),
                score=float(np.average(scores[inside], weights=weight)),
                rating=float(np.average(ratings[inside], weights=weight)),
                rating_low=float(low),
                rating_high=float(high),
                predicted=math.nan if predicted is None else float(np.average(predicted[inside], weights=weight)),
            )
        )
    return tuple(found)


def _units(groups: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Callable[[int, int], npt.NDArray[np.int64]]]:
    """(N,) what each row is drawn with, from 0, and from a seed and the number of a resample to the times of each of these."""
    if groups.ndim == 1:
        num_groups = int(groups.max()) + 1
        return groups, lambda seed, at: times_drawn(num_groups, seed, at)
    sides, units = np.unique(PairGroups.of(groups).sides, axis=0, return_inverse=True)
    return units.reshape(-1).astype(np.int64), PairGroups(sides).times


def _bins_of(scores: Doubles) -> npt.NDArray[np.int64]:
    """(N,) bin of each score, from 0 without gaps: by the share of scores that are below it."""
    wanted = min(_MOST_BINS, max(1, len(scores) // _LEAST_ROWS))
    below = np.searchsorted(np.sort(scores), scores)
    return np.unique(below * wanted // len(scores), return_inverse=True)[1].reshape(-1).astype(np.int64)

"""What was rated where a head gives such scores: the points of a calibration curve, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beholder.kernels.agreement import weighted_sums
from beholder.train.measures import interval_of, numbers_to_json
from beholder.train.pair_measures import PairDraws, PairGroups
from beholder.train.resampling import USUAL, Draws, GroupDraws, Resampling, resampled
from beholder.train.rows import Doubles, Rows, renumbered

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
        return numbers_to_json(self)


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What a calibration curve is drawn through: of N rows each.

    Attributes:
        scores: (N,) finite, N >= 1; ratings: (N,) finite.
        predicted: (N,) of each rating; None: nothing was predicted.
    """

    scores: Doubles
    ratings: Doubles
    predicted: Doubles | None = None


def calibration_bins(curves: Sequence[Curve], weights: Doubles, groups: Rows, how: Resampling = USUAL) -> list[tuple[Bin, ...]]:
    """Bins of each curve, of about as many pictures each, at most 12, ascending in score; equal scores are in one bin.

    Args:
        curves: of the same N rows.
        weights: (N,) > 0.
        groups: (N,) numbers from 0, resampled whole, by the same draws as in `measures.Comparison`; of pairs (N, 2), those of
            both pictures, by the same draws as in `PairComparison`.
        how: resamples and intervals.
    """
    means = [_Means(_bins_of(one.scores), one.ratings) for one in curves]
    is_pairs = groups.ndim == 2
    draws: Draws = PairDraws(weights, PairGroups.of(groups), how.seed) if is_pairs else GroupDraws(weights, groups, how.seed)
    drawn = resampled(means, draws, how.number)
    return [
        tuple(_bin(curve, one.bins == number, weights, groups, found[:, number], how.level) for number in range(one.size))
        for curve, one, found in zip(curves, means, drawn, strict=True)
    ]


@dataclass(frozen=True)
class _Means:
    """Mean ratings of bins, from (N,) the bin and the rating of each row."""

    bins: Rows
    ratings: Doubles

    @property
    def size(self) -> int:
        """Bins."""
        return int(self.bins.max()) + 1

    def of(self, weights: Doubles) -> Doubles:
        """(L, N) weights of the rows -> (L, bins); NaN for a bin without weight."""
        totals, sums = np.empty((len(weights), self.size)), np.empty((len(weights), self.size))
        weighted_sums(self.bins, self.ratings, weights, totals, sums)
        return np.asarray(np.divide(sums, totals, out=np.full(sums.shape, np.nan), where=totals > 0))


def _bin(curve: Curve, inside: npt.NDArray[np.bool_], weights: Doubles, groups: Rows, drawn: Doubles, level: float) -> Bin:
    """A bin of some rows, whose resampled mean ratings are (B,)."""
    scores, weight = curve.scores[inside], weights[inside]
    rating = float(np.average(curve.ratings[inside], weights=weight))
    found = interval_of(rating, drawn, level)
    is_enough = np.unique(groups[inside]).size >= LEAST_GROUPS
    return Bin(
        low=float(scores.min()),
        high=float(scores.max()),
        num_rows=len(scores),
        score=float(np.average(scores, weights=weight)),
        rating=rating,
        rating_low=found.low if is_enough else math.nan,
        rating_high=found.high if is_enough else math.nan,
        predicted=math.nan if curve.predicted is None else float(np.average(curve.predicted[inside], weights=weight)),
    )


def _bins_of(scores: Doubles) -> Rows:
    """(N,) bin of each score, from 0 without gaps: by the share of scores that are below it."""
    wanted = min(_MOST_BINS, max(1, len(scores) // _LEAST_ROWS))
    below = np.searchsorted(np.sort(scores), scores)
    return renumbered(below * wanted // len(scores))

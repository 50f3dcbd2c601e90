"""A column of scores in; its counts, moments, quantiles, histogram and kept shares out, all exact."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beholder.models.published import published_shares
from beholder.scoreset.score_set import as_score

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_CHUNK = 1 << 22
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
_HISTOGRAM_BINS = 60
_CURVE_POINTS = 240
_OUTER_SHARE = 0.0005
"""Charts leave out the outermost scores where these lie far off the others."""
_FAR = 1.6
_FEW = 200
_MOST_IN_ONE = 0.25
"""Where one bin of even width would hold a larger share of the scores, charts show less of the range."""
_INNER_SHARES = (0.01, 0.05, 0.1)
"""What they leave out at either end then, the least first."""


@dataclass(frozen=True)
class Histogram:
    """Counts between evenly spaced edges; the first and last bin hold what lies beyond them, too.

    Attributes:
        edges: (B + 1,) float64, ascending.
        counts: (B,) int64; add up to all scores.
        kept: (B,) int64, or None: of them, those that a selection kept.
        num_below, num_above: scores beyond the outer edges, which count in the outer bins.
    """

    edges: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64] | None
    num_below: int
    num_above: int


class HeadNumbers:
    """What is to be said about one column of scores.

    Attributes:
        column: its name in the score set.
        head: the head behind it, or None.
        num_rows: rows of the set.
        num_scored: rows with a finite score.
        num_not_finite: rows with an infinite score, which count as not scored.
        ordered: (num_scored,) float32, ascending.
        mean, standard_deviation: of the population; NaN without scores.
    """

    def __init__(self, column: str, head: str | None, scores: npt.NDArray[np.float32]) -> None:
        self.column, self.head, self.num_rows = column, head, len(scores)
        ordered = np.sort(scores)  # NaN last, infinities before them
        infinite = np.float32(np.inf)  # as float64, numpy would convert all scores
        first = int(np.searchsorted(ordered, -infinite, side="right"))
        last = int(np.searchsorted(ordered, infinite, side="left"))
        self.num_not_finite = first + int(np.searchsorted(ordered, infinite, side="right")) - last
        self.ordered = ordered[first:last]
        self.num_scored = len(self.ordered)
        self.mean = float(self.ordered.mean(dtype=np.float64)) if self.num_scored else math.nan
        self.standard_deviation = math.sqrt(self._squares() / self.num_scored) if self.num_scored else math.nan

    def _squares(self) -> float:
        """Sum of squared deviations from the mean, piece by piece so that no float64 copy of all is made."""
        total = 0.0
        for start in range(0, self.num_scored, _CHUNK):
            deviation = self.ordered[start : start + _CHUNK].astype(np.float64) - self.mean
            total += float(np.dot(deviation, deviation))
        return total

    @property
    def minimum(self) -> float:
        """The lowest score; NaN without scores."""
        return float(self.ordered[0]) if self.num_scored else math.nan

    @property
    def maximum(self) -> float:
        """The highest score; NaN without scores."""
        return float(self.ordered[-1]) if self.num_scored else math.nan

    @property
    def name(self) -> str:
        """The head's name, or the column's where nobody says which head it is."""
        return self.head or self.column

    def quantile(self, q: float) -> float:
        """The `q` quantile, linear between two scores as numpy and pandas do by default; NaN without scores."""
        if not self.num_scored:
            return math.nan
        rank = q * (self.num_scored - 1)
        below, above = float(self.ordered[math.floor(rank)]), float(self.ordered[math.ceil(rank)])
        return below + (above - below) * (rank - math.floor(rank))

    def count_at_least(self, threshold: float) -> int:
        """How many scores are >= `threshold`, which is rounded to float32 as scores are, as `select` does."""
        return self.num_scored - int(np.searchsorted(self.ordered, as_score(threshold), side="left"))

    def share_at_least(self, threshold: float) -> float:
        """The share of scores >= `threshold`, in [0, 1]; NaN without scores."""
        return self.count_at_least(threshold) / self.num_scored if self.num_scored else math.nan

    def shown_range(self) -> tuple[float, float]:
        """Lowest and highest score that charts show: all, or without those that lie far off.

        These are few, but for scores of which most would stand in one bar.
        """
        whole = self._without_far()
        if self.num_scored < _FEW or not self._is_crowded(*whole):
            return whole
        inner = ((self.quantile(share), self.quantile(1 - share)) for share in _INNER_SHARES)
        return next(((low, high) for low, high in inner if high > low and not self._is_crowded(low, high)), whole)

    def _is_crowded(self, low: float, high: float) -> bool:
        """Whether one bin of even width over the range holds far more scores than others."""
        places = np.searchsorted(self.ordered, np.asarray(_edges(low, high)[1:-1], np.float32))
        return bool(np.diff([0, *places, self.num_scored]).max() > _MOST_IN_ONE * self.num_scored)

    def _without_far(self) -> tuple[float, float]:
        """Lowest and highest score, or without a few that lie far off."""
        low, high = self.minimum, self.maximum
        if self.num_scored < _FEW:
            return low, high
        inner_low, inner_high = self.quantile(_OUTER_SHARE), self.quantile(1 - _OUTER_SHARE)
        spread = inner_high - inner_low
        if high - low > _FAR * spread and spread > 0:
            return max(low, inner_low - 0.15 * spread), min(high, inner_high + 0.15 * spread)
        return low, high

    def histogram(self, kept: npt.NDArray[np.float32] | None = None) -> Histogram:
        """Bins of a round width over the shown range; `kept`: the scores that a selection kept, in any order."""
        edges = np.asarray(_edges(*self.shown_range()))
        num_bins = len(edges) - 1
        places = np.searchsorted(self.ordered, [as_score(edge) for edge in edges])
        num_within = int(np.searchsorted(self.ordered, as_score(edges[-1]), side="right"))
        inner = np.diff(np.concatenate([[0], places[1:-1], [self.num_scored]])).astype(np.int64)
        kept_counts = None
        if kept is not None:
            kept_counts = np.zeros(num_bins, np.int64)
            bounds = np.asarray([as_score(edge) for edge in edges[1:-1]], np.float32)
            for start in range(0, len(kept), _CHUNK):
                bins = np.searchsorted(bounds, kept[start : start + _CHUNK], side="right")
                kept_counts += np.bincount(bins, minlength=num_bins)
        return Histogram(edges, inner, kept_counts, int(places[0]), self.num_scored - num_within)

    def curve(self) -> list[tuple[float, int]]:
        """(threshold, kept) at evenly spaced, round thresholds over the shown range, ascending."""
        low, high = self.shown_range()
        step = _step(low, high, _CURVE_POINTS)
        first, last = math.floor(low / step), math.ceil(high / step)
        thresholds = [_round(index * step) for index in range(first, last + 1)]
        return [(threshold, self.count_at_least(threshold)) for threshold in thresholds]

    def published(self) -> list[tuple[float, float]]:
        """(threshold, share of LAION-2B-en at or above it), ascending; [] where nobody published any for this head."""
        return sorted(published_shares(self.head).items()) if self.head else []


def _edges(low: float, high: float) -> list[float]:
    """Edges of the bins of a histogram of this range, of a round width."""
    width = _step(low, high, _HISTOGRAM_BINS)
    first = math.floor(low / width)
    num_bins = max(1, math.floor(high / width) - first + 1)
    return [_round((first + index) * width) for index in range(num_bins + 1)]


def _step(low: float, high: float, count: int) -> float:
    """A round step that takes about `count` of them from low to high, and is no finer than numbers of that size are."""
    return nice_step(max((high - low) / count if high > low else 0.1, 1e-10 * max(abs(low), abs(high))))


def _round(value: float) -> float:
    """Without the last digits that multiples of 0.1 and the like collect."""
    return float(f"{value:.12g}")


def nice_step(width: float) -> float:
    """The smallest of 1, 2, 2.5, 5, 10 times a power of ten that is at least `width`."""
    if not width > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    for nice in _NICE:
        step = nice * power
        if step >= width * (1 - 1e-9):
            return float(f"{step:.12g}")
    raise AssertionError(width)


def published_densities(points: list[tuple[float, float]]) -> list[tuple[float, float, float]]:
    """(from, to, share of LAION-2B-en per unit of score) between neighbouring published thresholds."""
    return [(a, b, (share - next_share) / (b - a)) for (a, share), (b, next_share) in itertools.pairwise(points)]

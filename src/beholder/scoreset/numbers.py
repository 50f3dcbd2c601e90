"""Numbers about scores: mergeable summaries, exact counts and quantiles of sorted scores, histograms, round steps.

Every threshold is compared as scores are stored: rounded to float32 (`as_score`).

The bins of `ScoreStats` are the leading 18 bits of the float32 (sign, exponent, 9 bits of mantissa), in numeric order:
every bin is at most 2**-9 = 0.2 % of its value wide (1/128 between 4 and 8), on any scale and without knowing
the range beforehand. Every multiple of 1/128 below 8 and of 1/64 below 16 is a bin edge, so the count of scores at or
above a threshold such as 4.5, 5 or 6.25 is exact.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.kernels.bits import floats_of, ordered_bits
from beholder.models.published import published_shares
from beholder.scoreset.score_set import as_score

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The quantiles that summaries, advice and reports tell."""

Ascending = npt.NDArray[np.float32]
"""(N,) finite scores, from the smallest."""

_DROPPED_BITS = 14
_NUM_BINS = 1 << (32 - _DROPPED_BITS)


def _bin_edge(index: int) -> float:
    """Lower edge of bin `index`: the smallest float32 that falls into it."""
    if index >= _NUM_BINS:
        return math.inf
    return float(floats_of(np.array([index << _DROPPED_BITS], np.uint32))[0])


@dataclass
class ScoreStats:
    """Mergeable summary of one column of finite scores. Merging is exact for counts and bins, and stable for moments."""

    count: int = 0
    mean: float = 0.0
    sum_squared_deviations: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    bins: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: npt.NDArray[np.float32]) -> ScoreStats:
        """Summarise (N,) float32 finite scores."""
        if scores.size == 0:
            return cls()
        counts = np.bincount(ordered_bits(scores) >> _DROPPED_BITS)
        used = np.flatnonzero(counts)
        mean = float(scores.mean(dtype=np.float64))
        deviation = scores.astype(np.float64) - mean
        return cls(
            count=int(scores.size),
            mean=mean,
            sum_squared_deviations=float(np.dot(deviation, deviation)),
            minimum=float(scores.min()),
            maximum=float(scores.max()),
            bins={int(i): int(counts[i]) for i in used},
        )

    def merge(self, other: ScoreStats) -> None:
        """Add another summary to this one.

        Moments after Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
        variances", 1979, https://doi.org/10.1007/978-3-642-51461-6_3.
        """
        self._merge_moments(other.count, other.mean, other.sum_squared_deviations, other.minimum, other.maximum)
        for index, count in other.bins.items():
            self.bins[index] = self.bins.get(index, 0) + count

    def _merge_moments(self, count: int, mean: float, deviations: float, low: float, high: float) -> None:
        if count == 0:
            return
        total = self.count + count
        delta = mean - self.mean
        self.mean += delta * count / total
        self.sum_squared_deviations += deviations + delta * delta * self.count * count / total
        self.count = total
        self.minimum = min(self.minimum, low)
        self.maximum = max(self.maximum, high)

    def merge_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        """`merge` what `to_json` wrote, or `packed` made of it, one after the other; for many of them, which are believed."""
        bins = np.zeros(_NUM_BINS, np.int64)
        for record in records:
            index, counts = bin_arrays(record["bins"])
            bins[index] += counts
            if record["count"]:
                moments = record["mean"], record["sum_squared_deviations"], record["minimum"], record["maximum"]
                self._merge_moments(record["count"], *moments)
        for at in np.flatnonzero(bins).tolist():
            self.bins[at] = self.bins.get(at, 0) + int(bins[at])

    @property
    def standard_deviation(self) -> float:
        """Population standard deviation; NaN when nothing was counted."""
        return math.sqrt(self.sum_squared_deviations / self.count) if self.count else math.nan

    def quantile(self, q: float) -> float:
        """The score below which a share `q` in [0, 1] lies, to within one bin (0.2 % of the value); NaN when empty.

        Between two scores it is interpolated, as NumPy does by default.
        """
        if self.count == 0:
            return math.nan
        rank = q * (self.count - 1)
        below, above = self._ranked(math.floor(rank)), self._ranked(math.ceil(rank))
        return below + (above - below) * (rank - math.floor(rank))

    def _ranked(self, rank: int) -> float:
        """The score number `rank`, from 0 for the smallest, to within one bin; the first and the last are exact."""
        if rank in (0, self.count - 1):
            return self.minimum if rank == 0 else self.maximum
        seen = 0
        for index in sorted(self.bins):
            inside = self.bins[index]
            if seen + inside > rank:
                low, high = max(_bin_edge(index), self.minimum), min(_bin_edge(index + 1), self.maximum)
                return low + (high - low) * ((rank - seen + 0.5) / inside)
            seen += inside
        return self.maximum

    def count_at_least(self, threshold: float) -> int:
        """How many scores are >= `threshold`; exact when `threshold` is a bin edge (see the module)."""
        first = int(ordered_bits(np.asarray([threshold], dtype=np.float32))[0] >> _DROPPED_BITS)
        if _bin_edge(first) < threshold:
            first += 1
        return sum(count for index, count in self.bins.items() if index >= first)

    def share_at_least(self, threshold: float) -> float:
        """The share of scores >= `threshold`, in [0, 1]; NaN when empty."""
        return self.count_at_least(threshold) / self.count if self.count else math.nan

    def histogram(self, edges: list[float]) -> list[int]:
        """Counts between consecutive ascending `edges`, lower edge included; what lies outside is not counted."""
        at_least = [self.count_at_least(edge) for edge in edges]
        return [low - high for low, high in itertools.pairwise(at_least)]

    def to_json(self) -> dict[str, object]:
        """A JSON-ready record that `from_json` restores to the bit."""
        return {
            "count": self.count,
            "mean": self.mean,
            "sum_squared_deviations": self.sum_squared_deviations,
            "minimum": self.minimum if self.count else None,
            "maximum": self.maximum if self.count else None,
            "bins": [[index, self.bins[index]] for index in sorted(self.bins)],
        }

    @classmethod
    def from_json(cls, record: dict[str, object]) -> ScoreStats:
        """Restore what `to_json` wrote, or `packed` made of it. Raises KeyError, TypeError or ValueError on anything else."""
        count, bins, low, high = record["count"], unpacked(record)["bins"], record["minimum"], record["maximum"]
        if type(count) is not int or not isinstance(bins, list):
            raise TypeError("count must be a whole number, bins a list")
        pairs = np.array(bins or np.empty((0, 2), np.int64))
        if pairs.dtype != np.int64 or pairs.shape != (len(bins), 2):
            raise TypeError("bins must be pairs of whole numbers")
        index, counts = pairs.T
        if (index < 0).any() or (index >= _NUM_BINS).any() or (counts <= 0).any() or int(counts.sum()) != count:
            raise ValueError("bins must be pairs of an index and a count, and hold as many scores as were counted")
        by_index: dict[int, int] = dict(bins)
        if len(by_index) != len(bins):
            raise ValueError("a bin is there twice")
        numbers = (record["mean"], record["sum_squared_deviations"], *((low, high) if count else ()))
        if not all(type(number) in (int, float) for number in numbers):
            raise TypeError("moments and limits must be numbers")
        if count and not low <= high:  # type: ignore[operator]
            raise ValueError("the minimum is above the maximum")
        return cls(
            count=count,
            mean=float(record["mean"]),  # type: ignore[arg-type]
            sum_squared_deviations=float(record["sum_squared_deviations"]),  # type: ignore[arg-type]
            minimum=float(low) if count else math.inf,  # type: ignore[arg-type]
            maximum=float(high) if count else -math.inf,  # type: ignore[arg-type]
            bins=by_index,
        )


def packed(record: dict[str, Any]) -> dict[str, Any]:
    """What `ScoreStats.to_json` wrote, with its bins as one short text, of a quarter of the size."""
    bins = record["bins"]
    if isinstance(bins, str):
        return record
    if not bins:
        return {**record, "bins": ""}
    pairs = np.array(bins, np.int64)
    numbers = np.concatenate([np.diff(pairs[:, 0]), pairs[:, 1]])
    size = next(size for size in (1, 2, 4, 8) if int(numbers.max()) < 1 << (8 * size - (size == 8)))
    text = base64.b64encode(numbers.astype(f"<u{size}").tobytes()).decode()
    return {**record, "bins": f"{size}:{int(pairs[0, 0])}:{text}"}


def unpacked(record: dict[str, Any]) -> dict[str, Any]:
    """What `packed` made short, as `ScoreStats.to_json` wrote it. Raises ValueError for a text that is none of its."""
    bins = record["bins"]
    return {**record, "bins": np.stack(bin_arrays(bins), axis=1).tolist()} if isinstance(bins, str) else record


def bin_arrays(bins: str | Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(B,) int64 indices, ascending, and (B,) int64 counts of the bins in a record, packed or not. Raises ValueError."""
    if not bins:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    if not isinstance(bins, str):
        index, counts = np.array(bins, np.int64).T
        return index, counts
    size, first, data = bins.split(":")
    numbers = np.frombuffer(base64.b64decode(data, validate=True), f"<u{int(size)}").astype(np.int64)
    num_bins = (len(numbers) + 1) // 2
    index = np.empty(num_bins, np.int64)
    index[0] = int(first)
    index[1:] = numbers[: num_bins - 1]
    return index.cumsum(), numbers[num_bins - 1 :]


def count_at_least(ascending: Ascending, threshold: float) -> int:
    """How many of the sorted scores are >= `threshold`, which is rounded to float32 as scores are, as `select` does."""
    return len(ascending) - int(np.searchsorted(ascending, as_score(threshold)))


def count_above(ascending: Ascending, threshold: float) -> int:
    """How many of the sorted scores are > `threshold`, which is rounded as by `count_at_least`."""
    return len(ascending) - int(np.searchsorted(ascending, as_score(threshold), side="right"))


def counts_between(ascending: Ascending, edges: Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """(B,) how many of the sorted scores lie in each of the B bins between (B + 1,) ascending edges.

    The lower edge belongs to a bin; the first and last bin hold what lies beyond them, too.
    """
    inner = np.asarray([as_score(edge) for edge in edges[1:-1]], np.float32)
    return np.diff(np.concatenate([[0], np.searchsorted(ascending, inner), [len(ascending)]])).astype(np.int64)


def nice_step(width: float) -> float:
    """The smallest of 1, 2, 2.5, 5, 10 times a power of ten that is at least `width`."""
    if not width > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    return _rounded(next(nice * power for nice in _NICE if nice * power >= width * (1 - 1e-9)))


def _rounded(value: float) -> float:
    """Without the last digits that multiples of 0.1 and the like collect."""
    return float(f"{value:.12g}")


# Of reports.

_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)
_CHUNK = 1 << 22
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
        squares = 0.0
        for start in range(0, self.num_scored, _CHUNK):  # so that no float64 copy of all is made
            deviation = self.ordered[start : start + _CHUNK].astype(np.float64) - self.mean
            squares += float(np.dot(deviation, deviation))
        self.standard_deviation = math.sqrt(squares / self.num_scored) if self.num_scored else math.nan

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
        return count_at_least(self.ordered, threshold)

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
        return bool(counts_between(self.ordered, _edges(low, high)).max() > _MOST_IN_ONE * self.num_scored)

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
        edges = _edges(*self.shown_range())
        num_below = self.num_scored - self.count_at_least(edges[0])
        num_above = count_above(self.ordered, edges[-1])
        kept_counts = counts_between(np.sort(kept), edges) if kept is not None else None
        return Histogram(edges, counts_between(self.ordered, edges), kept_counts, num_below, num_above)

    def curve(self) -> list[tuple[float, int]]:
        """(threshold, kept) at evenly spaced, round thresholds over the shown range, ascending."""
        low, high = self.shown_range()
        step = _step(low, high, _CURVE_POINTS)
        thresholds = (_rounded(place * step) for place in range(math.floor(low / step), math.ceil(high / step) + 1))
        return [(threshold, self.count_at_least(threshold)) for threshold in thresholds]

    def published(self) -> list[tuple[float, float]]:
        """(threshold, share of LAION-2B-en at or above it), ascending; [] where nobody published any for this head."""
        return sorted(published_shares(self.head).items()) if self.head else []


def _edges(low: float, high: float) -> npt.NDArray[np.float64]:
    """Edges of the bins of a histogram of this range, of a round width."""
    width = _step(low, high, _HISTOGRAM_BINS)
    first = math.floor(low / width)
    num_bins = max(1, math.floor(high / width) - first + 1)
    return np.asarray([_rounded((first + place) * width) for place in range(num_bins + 1)])


def _step(low: float, high: float, count: int) -> float:
    """A round step that takes about `count` of them from low to high, and is no finer than numbers of that size are."""
    return nice_step(max((high - low) / count if high > low else 0.1, 1e-10 * max(abs(low), abs(high))))


def published_densities(points: list[tuple[float, float]]) -> list[tuple[float, float, float]]:
    """(from, to, share of LAION-2B-en per unit of score) between neighbouring published thresholds."""
    return [(a, b, (share - next_share) / (b - a)) for (a, share), (b, next_share) in itertools.pairwise(points)]


# Of `browse`.

_HALF_POINT = 0.5
_MOST_BUCKETS, _FEWEST_BUCKETS = 24, 4
_BUCKET_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_AXIS_BINS = 140
_AXIS_TAIL = 0.0005
_AXIS_FAR = 3.0


def axis(ascending: Ascending) -> tuple[float, float]:
    """Ends of the slider: the least and the largest score, or those of all but the outermost where these lie far off."""
    if not len(ascending):
        return 0.0, 10.0
    low, high = float(ascending[0]), float(ascending[-1])
    near_low, near_high = (float(ascending[int(q * (len(ascending) - 1))]) for q in (_AXIS_TAIL, 1 - _AXIS_TAIL))
    if high - low > _AXIS_FAR * (near_high - near_low) > 0:
        low, high = near_low, near_high
    if high <= low:
        return low - _HALF_POINT, high + _HALF_POINT
    return low, high


def bucket_step(low: float, high: float) -> float:
    """Width of a bucket: half a point for aesthetic scores; other scales get as many buckets as can be read."""
    width = high - low
    if width / _HALF_POINT > _MOST_BUCKETS:
        return next(
            (step for step in _BUCKET_STEPS if step > _HALF_POINT and width / step <= _MOST_BUCKETS), width / _MOST_BUCKETS
        )
    if width / _HALF_POINT < _FEWEST_BUCKETS:
        finer = [step for step in _BUCKET_STEPS if step < _HALF_POINT and width / step <= _MOST_BUCKETS]
        return finer[0] if finer and width < _HALF_POINT * 2 else _HALF_POINT
    return _HALF_POINT


def buckets(ascending: Ascending, low: float, high: float) -> list[dict[str, Any]]:
    """Buckets from `low` to `high`, the outer ones open: `low`, `high` (None: open), `from`, `to`, `count`."""
    edges = bucket_edges(low, high)
    last = len(edges) - 2
    return [
        {
            "low": None if at == 0 else edges[at],
            "high": None if at == last else edges[at + 1],
            "from": edges[at],
            "to": edges[at + 1],
            "count": count,
        }
        for at, count in enumerate(counts_between(ascending, edges).tolist())
    ]


def bucket_edges(low: float, high: float) -> list[float]:
    """Ends of the buckets from `low` to `high`, ascending."""
    step = bucket_step(low, high)
    first, last = math.floor(low / step + 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 6) for number in range(first, last + 2)]


def axis_histogram(ascending: Ascending, low: float, high: float) -> dict[str, Any]:
    """Counts of equal bins from `low` to `high`; what lies outside is in the outermost ones."""
    counts = counts_between(ascending, np.linspace(low, high, _AXIS_BINS + 1))
    return {"low": low, "high": high, "counts": counts.tolist()}


# Of `advise`.

_LEAST_STEPS, _MOST_STEPS = 4, 16
_GRID_STEPS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
_LEAST_STEP = 0.25 / 64


def grid_around(stats: ScoreStats) -> set[float]:
    """Half and quarter points, or other round ones, around the scores; none without scores."""
    if not stats.count:
        return set()
    low, high = stats.quantile(0.05), stats.quantile(0.999)
    spread = high - low
    step = next((step for step in _GRID_STEPS if spread <= step * _MOST_STEPS), 0.0)
    if not step:
        step = 10.0 ** math.ceil(math.log10(spread / 10))
    while 0 < spread < step * _LEAST_STEPS and step > _LEAST_STEP:
        step /= 2
    return {place * step for place in range(math.floor(low / step), math.ceil(high / step) + 1)}

"""Scores in, a small mergeable summary out: count, moments, range, and a histogram that answers quantiles and shares.

The histogram's bins are the leading 18 bits of the float32 (sign, exponent, 9 bits of mantissa), in numeric order:
every bin is at most 2**-9 = 0.2 % of its value wide (1/128 between 4 and 8), on any scale and without knowing
the range beforehand. Every multiple of 1/128 below 8 and of 1/64 below 16 is a bin edge, so the count of scores at or
above a threshold such as 4.5, 5 or 6.25 is exact.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

_DROPPED_BITS = 14
_NUM_BINS = 1 << (32 - _DROPPED_BITS)


def _ordered_bits(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.uint32]:
    """(N,) finite float32 -> (N,) uint32 in the same order as the floats. -0.0 counts as +0.0."""
    bits = (scores + np.float32(0.0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(0x80000000))


def _bin_edge(index: int) -> float:
    """Lower edge of bin `index`: the smallest float32 that falls into it."""
    if index >= _NUM_BINS:
        return math.inf
    ordered = np.uint32(index << _DROPPED_BITS)
    bits = ordered & np.uint32(0x7FFFFFFF) if ordered >> 31 else ~ordered
    return float(np.asarray(bits, dtype=np.uint32).view(np.float32))


def _bin_of(value: float) -> int:
    """The bin of one finite value."""
    return int(_ordered_bits(np.asarray([value], dtype=np.float32))[0] >> _DROPPED_BITS)


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
        counts = np.bincount(_ordered_bits(scores) >> _DROPPED_BITS)
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
        if other.count == 0:
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self.mean += delta * other.count / total
        self.sum_squared_deviations += other.sum_squared_deviations + delta * delta * self.count * other.count / total
        self.count = total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        for index, count in other.bins.items():
            self.bins[index] = self.bins.get(index, 0) + count

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
        first = _bin_of(threshold)
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
        """Restore what `to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        count, bins, low, high = record["count"], record["bins"], record["minimum"], record["maximum"]
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

"""The few rows that a page shows: some of every bucket, the best, the worst, those around a threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beholder.kernels.bits import GOLDEN, splitmix64
from beholder.scoreset.numbers import HeadNumbers, counts_between

Rows = npt.NDArray[np.int64]

_CHUNK = 1 << 20
_MOST_BUCKETS, _FEWEST_BUCKETS = 30, 2
_HALF_POINT, _LEAST_WIDTH = 0.5, 2.0**-6
_MOST_IN_ONE, _MOST_IN_TWO = 0.5, 0.8
"""Where one bucket of even width, or two beside each other, would hold a larger share, they are made otherwise."""
_BUCKETS_BY_COUNT = 8
_MOST_TIES = 4096
"""Of so many rows of one score, only the first are looked at when the best are chosen."""


@dataclass(frozen=True)
class Bucket:
    """Scores in [low, high), an outer one without that end.

    Attributes:
        low, high: -inf and inf at the ends of a set whose outermost scores lie far off.
        count: rows in it.
        rows: a sample of them.
    """

    low: float
    high: float
    count: int
    rows: Rows


def bucket_edges(numbers: HeadNumbers) -> list[float]:
    """Edges of the buckets: multiples of 0.5, or of another power of two where that would make too many or too few.

    Where one of them would hold most scores they are narrower; where that does not help, all hold about as many.
    """
    if not numbers.num_scored:
        return []
    low, high = numbers.shown_range()
    width = _HALF_POINT
    while (high - low) / width > _MOST_BUCKETS:
        width *= 2
    while 0 < (high - low) / width < _FEWEST_BUCKETS and width > _LEAST_WIDTH:
        width /= 2
    edges = _even_edges(low, high, width)
    while _is_crowded(numbers, edges) and width > _LEAST_WIDTH and 2 * (high - low) / width <= _MOST_BUCKETS:
        width /= 2
        edges = _even_edges(low, high, width)
    return (_edges_by_count(numbers) or edges) if _is_crowded(numbers, edges) else edges


def _even_edges(low: float, high: float, width: float) -> list[float]:
    first, last = math.floor(low / width), math.floor(high / width)
    return [index * width for index in range(first, last + 2)]


def _edges_by_count(numbers: HeadNumbers) -> list[float]:
    """Edges between which about equally many scores lie; [] where scores are too few, or too much alike, for three buckets."""
    if numbers.num_scored < _BUCKETS_BY_COUNT:
        return []
    places = [place * numbers.num_scored // _BUCKETS_BY_COUNT for place in range(_BUCKETS_BY_COUNT)]
    edges = sorted({*(float(numbers.ordered[place]) for place in places), numbers.maximum})
    return edges if len(edges) > 3 else []


def _is_crowded(numbers: HeadNumbers, edges: list[float]) -> bool:
    """Whether one of the buckets, or two of at least four, hold most scores."""
    shares = counts_between(numbers.ordered, edges) / numbers.num_scored
    return bool(shares.max() > _MOST_IN_ONE or (len(shares) > 3 and (shares[1:] + shares[:-1]).max() > _MOST_IN_TWO))


def buckets(
    numbers: HeadNumbers, scores: npt.NDArray[np.float32], per_bucket: int, seed: int, *, at_once: int = _CHUNK
) -> list[Bucket]:
    """A sample of at most `per_bucket` rows of each bucket that has any; the same rows for the same seed. Highest first.

    Rows are ordered by a hash of their number and the seed, and those with the smallest are taken: one pass, and memory
    for one piece of the set and the rows taken.
    """
    edges = bucket_edges(numbers)
    if not edges:
        return []
    num_buckets = len(edges) - 1
    bounds = np.asarray(edges[1:-1], np.float32)
    taken: list[tuple[npt.NDArray[np.uint64], Rows]] = [
        (np.empty(0, np.uint64), np.empty(0, np.int64)) for _ in range(num_buckets)
    ]
    limits = np.full(num_buckets, np.iinfo(np.uint64).max, np.uint64)
    for start in range(0, len(scores), at_once):
        piece = scores[start : start + at_once]
        finite = np.flatnonzero(np.isfinite(piece))
        places = np.searchsorted(bounds, piece[finite], side="right")
        rows = finite + start
        keys = hashed(rows, seed)
        near = keys <= limits[places]
        for place in np.unique(places[near]):
            mine = near & (places == place)
            old_keys, old_rows = taken[place]
            all_keys, all_rows = np.concatenate([old_keys, keys[mine]]), np.concatenate([old_rows, rows[mine]])
            order = np.lexsort((all_rows, all_keys))[:per_bucket]
            taken[place] = all_keys[order], all_rows[order]
            if len(order) == per_bucket:
                limits[place] = taken[place][0][-1] if per_bucket else 0
    ends = [-math.inf if numbers.minimum < edges[0] else edges[0], *edges[1:-1]]
    tops = [*edges[1:-1], math.inf if numbers.maximum >= edges[-1] else edges[-1]]
    found = [
        Bucket(low, high, int(count), rows)
        for low, high, count, (_, rows) in zip(ends, tops, counts_between(numbers.ordered, edges), taken, strict=True)
        if count
    ]
    return found[::-1]


def hashed(rows: Rows, seed: int) -> npt.NDArray[np.uint64]:
    """(N,) well mixed numbers of rows and a seed (splitmix64, https://prng.di.unimi.it/splitmix64.c)."""
    with np.errstate(over="ignore"):
        mixed = rows.astype(np.uint64) + np.uint64(1)
        mixed = (mixed + np.uint64(seed % (1 << 64)) * np.uint64(0xD1342543DE82EF95)) * GOLDEN
        found: npt.NDArray[np.uint64] = splitmix64(mixed)
    return found


def best(numbers: HeadNumbers, scores: npt.NDArray[np.float32], count: int) -> Rows:
    """Rows among which the `count` best are: these and all that tie with the last of them."""
    count = min(count, numbers.num_scored)
    return _between(scores, float(numbers.ordered[-count]), math.inf) if count else np.empty(0, np.int64)


def worst(numbers: HeadNumbers, scores: npt.NDArray[np.float32], count: int) -> Rows:
    """Rows among which the `count` lowest are."""
    count = min(count, numbers.num_scored)
    return _between(scores, -math.inf, float(numbers.ordered[count - 1])) if count else np.empty(0, np.int64)


def just_above(numbers: HeadNumbers, scores: npt.NDArray[np.float32], threshold: float, count: int) -> Rows:
    """Rows among which the `count` lowest with a score >= `threshold` are."""
    first = numbers.num_scored - numbers.count_at_least(threshold)
    last = min(first + count, numbers.num_scored) - 1
    if last < first:
        return np.empty(0, np.int64)
    return _between(scores, float(numbers.ordered[first]), float(numbers.ordered[last]))


def just_below(numbers: HeadNumbers, scores: npt.NDArray[np.float32], threshold: float, count: int) -> Rows:
    """Rows among which the `count` highest with a score < `threshold` are."""
    stop = numbers.num_scored - numbers.count_at_least(threshold)
    first = max(0, stop - count)
    if stop <= first:
        return np.empty(0, np.int64)
    return _between(scores, float(numbers.ordered[first]), float(numbers.ordered[stop - 1]))


def _between(scores: npt.NDArray[np.float32], low: float, high: float) -> Rows:
    """Rows with low <= score <= high, finite; of each of the two outer scores at most `_MOST_TIES`, the first in the set."""
    found: list[Rows] = []
    ties = {low: 0, high: 0}
    for start in range(0, len(scores), _CHUNK):
        piece = scores[start : start + _CHUNK]
        inside = (piece >= low) & (piece <= high) & np.isfinite(piece)
        if not inside.any():
            continue
        for edge in ties:
            tied = np.flatnonzero(inside & (piece == edge))
            room = max(0, _MOST_TIES - ties[edge])
            ties[edge] += len(tied)
            inside[tied[room:]] = False
        found.append(np.flatnonzero(inside) + start)
    return np.concatenate(found) if found else np.empty(0, np.int64)

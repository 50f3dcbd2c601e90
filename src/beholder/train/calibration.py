"""Maps from one scale of scores to another, with their error, and bounds that hold a rating as often as they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.scoreset.scales import StepMap
from beholder.train.rows import checked_series, checked_weights

Doubles = npt.NDArray[np.float64]


def isotonic_map(scores: npt.ArrayLike, ratings: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> StepMap:
    """The never falling map with the least weighted squared error, by pooling adjacent violators.

    Ayer, Brunk, Ewing, Reid and Silverman, "An empirical distribution function for sampling with incomplete information",
    Annals of Mathematical Statistics 26, 1955. Equal scores have one rating, the weighted mean of theirs.

    Args:
        scores: (N,) finite, N >= 1.
        ratings: (N,) finite.
        weights: (N,) > 0 somewhere; None: 1 each.

    Raises:
        InputError: other shapes, no rows with weight, values that are not finite.
    """
    x = np.asarray(scores, np.float64)
    y = checked_series(ratings, x.size, "ratings")
    v = checked_weights(weights, x.size)
    x, y, v = x[v > 0], y[v > 0], v[v > 0]
    if not x.size or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("a scale takes at least one row with a score and a rating that are finite")
    knots, at = np.unique(x, return_inverse=True)
    weight = np.bincount(at, v)
    mean = np.bincount(at, v * y) / weight
    values: list[float] = []
    totals: list[float] = []
    sizes: list[int] = []
    for value, total in zip(mean.tolist(), weight.tolist(), strict=True):
        size = 1
        while values and values[-1] >= value:
            before, other = values.pop(), totals.pop()
            value = (before * other + value * total) / (other + total)
            total += other
            size += sizes.pop()
        values.append(value)
        totals.append(total)
        sizes.append(size)
    return StepMap(knots, np.repeat(values, sizes))


def quantile_map(scores: npt.ArrayLike, other: npt.ArrayLike, num_knots: int = 1001) -> StepMap:
    """The map that gives scores the distribution of others: the share below a score is the share below what it becomes.

    Both are held in their own kind of floats, with a sorted copy and nothing else that grows with them.

    Args:
        scores: (N,) finite of one head, N >= 2, float32 or float64.
        other: (M,) finite of another head or ratings; neither need be of the same pictures.
        num_knots: evenly spaced quantiles between which the map is straight, from the least to the largest; beside them
            (`_shares`) are others towards both ends, down to the single score.

    Raises:
        InputError: too few or not finite scores, or scores that are all the same.
    """
    one, two = _ascending(scores), _ascending(other)
    if one[0] == one[-1]:
        raise InputError(f"cannot map scores that are all {one[0]:g}")
    shares = _shares(one.size, num_knots)
    knots, at = np.unique(_quantiles(one, shares), return_inverse=True)
    values = np.bincount(at.reshape(-1), _quantiles(two, shares)) / np.bincount(at.reshape(-1))
    return StepMap(knots, np.maximum.accumulate(values))


def _ascending(numbers: npt.ArrayLike) -> npt.NDArray[Any]:
    """(N,) float32 or float64, sorted. Raises InputError for fewer than two, or for ones that are not finite."""
    given = np.asarray(numbers).reshape(-1)
    found = np.sort(given if given.dtype in (np.float32, np.float64) else given.astype(np.float64))
    if found.size < 2 or not np.isfinite(found[[0, -1]]).all():  # NaN is sorted to the end
        raise InputError("two scales are matched by at least two finite scores of each")
    return found


def _shares(count: int, num_knots: int) -> Doubles:
    """Shares from 0 to 1: evenly spaced, and towards both ends ranks that grow by about a tenth: 1, 2, 3, ... of `count`."""
    last = count - 1
    ranks = np.unique(np.rint(np.geomspace(1, max(1.0, last / num_knots), 24 * max(1, math.ceil(math.log10(last + 1))))))
    tail = ranks[ranks <= last] / last
    return np.unique(np.concatenate([np.linspace(0, 1, num_knots), tail, 1 - tail]))


def _quantiles(ascending: npt.NDArray[Any], shares: Doubles) -> Doubles:
    """Quantiles of (N,) sorted numbers, straight between two of them, as NumPy has them by default."""
    rank = shares * (ascending.size - 1)
    nearest = np.rint(rank)
    rank = np.where(np.abs(rank - nearest) < 1e-6, nearest, rank)  # a share of a rank is that rank
    low = np.floor(rank).astype(np.int64)
    high = np.minimum(low + 1, ascending.size - 1)
    below, above = ascending[low].astype(np.float64), ascending[high].astype(np.float64)
    return np.asarray(below + (above - below) * (rank - low))


def conformal_margin(residuals: npt.ArrayLike, level: float, groups: npt.ArrayLike | None = None) -> float:
    """Half the width of an interval about a prediction that holds a new rating with chance >= `level`.

    Split conformal prediction (Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, "Distribution-free predictive inference for
    regression", JASA 113, 2018): of n absolute residuals of rows that the fit has not seen, the ceil(level (n + 1))-th
    smallest; infinite where there are too few. It holds on average over pictures that are drawn like these, not for each kind.

    With G groups, for a row of a new group, drawn like these: the smallest residual at which the mean over groups of the share
    of a group's residuals up to it, with the new group counted as having none, reaches the level (Lee, Barber and Willett,
    "Distribution-free inference with hierarchical data", arXiv 2306.06342, who correct the pooled distribution of Dunn,
    Wasserman and Ramdas, "Distribution-free prediction sets for two-layer hierarchical models", JASA 118, 2023). So levels
    above G / (G + 1) give infinity. Groups of one give the first rule.

    Args:
        residuals: (n,) rating less prediction.
        level: in (0, 1).
        groups: (n,) the group of each; None: each is one of its own.

    Raises:
        InputError: a level out of range, residuals that are not finite, groups of another number.
    """
    sizes = np.abs(np.asarray(residuals, np.float64).reshape(-1))
    if not 0 < level < 1 or not np.isfinite(sizes).all():
        raise InputError(f"an interval takes a level between 0 and 1, not {level}, and finite residuals")
    labels = np.arange(sizes.size) if groups is None else np.asarray(groups).reshape(-1)
    if labels.shape != sizes.shape:
        raise InputError(f"{labels.size} groups do not fit {sizes.size} residuals")
    _, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(sizes, kind="stable")
    reached = np.cumsum(1 / counts[of.reshape(-1)[order]])  # groups, in parts
    at = int(np.searchsorted(reached, level * (len(counts) + 1) - 1e-9))
    return float(sizes[order][at]) if at < sizes.size else math.inf

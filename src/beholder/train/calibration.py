"""Maps from one scale of scores to another, with their error, and bounds that hold a rating as often as they say."""

from __future__ import annotations

import math

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

    Args:
        scores: (N,) finite of one head, N >= 2.
        other: (M,) finite of another head or ratings; neither need be of the same pictures.
        num_knots: quantiles between which the map is straight, from the least to the largest.

    Raises:
        InputError: too few or not finite scores, or scores that are all the same.
    """
    one, two = (np.asarray(values, np.float64).reshape(-1) for values in (scores, other))
    if one.size < 2 or two.size < 2 or not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise InputError("two scales are matched by at least two finite scores of each")
    if np.ptp(one) == 0:
        raise InputError(f"cannot map scores that are all {one[0]:g}")
    shares = np.linspace(0, 1, num_knots)
    knots, at = np.unique(np.quantile(one, shares), return_inverse=True)
    values = np.bincount(at.reshape(-1), np.quantile(two, shares)) / np.bincount(at.reshape(-1))
    return StepMap(knots, np.maximum.accumulate(values))


def conformal_margin(residuals: npt.ArrayLike, level: float) -> float:
    """Half the width of an interval about a prediction that holds a new rating with chance >= `level`.

    Split conformal prediction (Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, "Distribution-free predictive inference for
    regression", JASA 113, 2018): of n absolute residuals of rows that the fit has not seen, the ceil(level (n + 1))-th
    smallest; infinite where there are too few. It holds on average over pictures that are drawn like these, not for each kind.

    Args:
        residuals: (n,) rating less prediction.
        level: in (0, 1).

    Raises:
        InputError: a level out of range, residuals that are not finite.
    """
    sizes = np.sort(np.abs(np.asarray(residuals, np.float64).reshape(-1)))
    if not 0 < level < 1 or not np.isfinite(sizes).all():
        raise InputError(f"an interval takes a level between 0 and 1, not {level}, and finite residuals")
    at = math.ceil(level * (sizes.size + 1) - 1e-9)
    return float(sizes[at - 1]) if at <= sizes.size else math.inf

"""Maps fitted to two series of numbers: which kind and why, their error on pictures that the fit has not seen, their bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.scoreset.scales import NUM_ENDS, Bounds, MapMethod, StepMap
from beholder.train.calibrate.series import FEWEST, Series, check_varied
from beholder.train.folds import Fitter, held_out, list_sha256, name_keys, out_of_fold, planned_folds
from beholder.train.measures import OUT_OF_FOLD, Beside, Comparison, Predictor, spearman
from beholder.train.options import MapChoice
from beholder.train.public import on_the_scale
from beholder.train.resampling import Resampling
from beholder.train.rows import Doubles, Rows, renumbered

MOST_RESIDUALS = 4_000
"""Pictures that bounds are measured on at most: their chance is then right to 1 / 4,001."""
_MEASURES, _OF_CHANCES = ("mae", "rmse"), ("rmse",)
TRAINED_ON_SHARE = "trained_on_share"
"""In a map's record: of the pictures that it was fitted to the share that the head was trained on."""
BY_PLACE = "trained_on_by_place"
"""In a map's record: whether that is known by names alone that are places in a file."""
STRAIGHT_LINE = "a straight line"
"""What stands beside a map."""
MOST_DRAWN = 200_000
"""Numbers on which the error of percentiles is measured at most."""
_SHARES = np.arange(1, 100) / 100
_NUM_KNOTS = 1001
"""Evenly spaced quantiles between which a quantile map is straight; towards both ends are others, down to the single score."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A map and what is known of it.

    Attributes:
        method: its kind.
        steps: the map, fitted to all pictures.
        num_pictures: that it was fitted to.
        error: on pictures that a fit has not seen, in units of the scale that it gives.
        bounds: what bounds go by, where there are any.
        ends: as `ScaleMap` has them.
        more: what else the record has: why it is of this kind, measures with intervals, the straight line's beside them.
    """

    method: MapMethod
    steps: StepMap
    num_pictures: int
    error: float
    bounds: Bounds | None
    ends: tuple[Doubles, Doubles] = (np.empty(0), np.empty(0))
    more: dict[str, Any] = field(default_factory=dict)


def fit_map(series: Series, choice: MapChoice, names: tuple[str, str], *, seed: int, is_chance: bool = False) -> Fitted:
    """Fit a map.

    Args:
        series: the numbers on both scales.
        choice: which kind; auto: isotonic where at least `FEWEST` pictures have both numbers.
        names: what messages call the numbers that are mapped, and those on the other scale.
        seed: draws folds, halves and resamples.
        is_chance: the other numbers are marks, 0 and 1, and the map gives the chance of a 1: its error is the root of the Brier
            score, and it has no bounds.

    Raises:
        InputError: too few pictures, numbers that are all the same, numbers of which the ones fall where the others rise.
    """
    method, reason = _chosen(series, choice, names)
    if method == "quantile":
        return _unpaired(series, names, reason, seed)
    check_varied(series.scores, names[0])
    check_varied(series.truth, names[1])
    steps = isotonic_map(series.scores, series.truth, series.weights).thinned()
    correlation = spearman(series.scores, series.truth)
    if correlation <= 0 or np.ptp(steps.values) == 0:
        sign = "negative" if correlation < 0 else "no more than chance"
        raise InputError(
            f"{names[0]} do not rise with {names[1]}: their rank correlation is {sign} ({correlation:.2f}), and a rising map "
            "would be flat or nearly so; no threshold on the one says anything of the other"
        )
    more = {**_out_of_fold(series, seed, is_chance=is_chance), "srcc": correlation, "reason": reason}
    if series.trained_on_share:
        more |= {TRAINED_ON_SHARE: series.trained_on_share, BY_PLACE: series.is_by_place}
    return Fitted(
        method=method,
        steps=steps,
        num_pictures=series.num_pictures,
        error=more["measures"]["values"]["rmse" if is_chance else "mae"]["value"],
        bounds=None if is_chance or series.trained_on_share else bounds_of(series, seed),
        ends=_ends(series.scores),
        more=more,
    )


def _chosen(series: Series, choice: MapChoice, names: tuple[str, str]) -> tuple[MapMethod, str]:
    """The kind of map, and why. Raises InputError where there are too few pictures for it."""
    count = series.num_pictures
    if choice == "quantile" or (choice == "auto" and count < FEWEST):
        few = min(len(series.all_scores), len(series.all_truth))
        if few < FEWEST:
            raise InputError(
                f"{names[0] if few == len(series.all_scores) else names[1]} are {few}; a map needs at least {FEWEST}"
            )
        both = "no picture has" if not count else f"only {count} pictures have" if count > 1 else "only 1 picture has"
        return "quantile", "asked for" if choice == "quantile" else f"{both} both numbers, so shares are matched"
    if count < FEWEST:
        raise InputError(
            f"{count} pictures have both {names[0]} and {names[1]}; an isotonic map needs at least {FEWEST}, and "
            "--map quantile takes sets of different pictures"
        )
    return "isotonic", "asked for" if choice == "isotonic" else "pictures have both numbers, so they are fitted one by one"


def _ends(scores: Doubles) -> tuple[Doubles, Doubles]:
    """The lowest and the highest scores, ascending."""
    ascending = np.sort(scores)
    return ascending[:NUM_ENDS], ascending[-NUM_ENDS:]


def _out_of_fold(series: Series, seed: int, *, is_chance: bool) -> dict[str, Any]:
    """Errors of the isotonic map and of a straight line on pictures that their fits have not seen, and their difference."""
    folds = planned_folds(series.groups, series.samples, seed)
    fitters: tuple[Fitter, ...] = (isotonic_map, partial(on_the_scale, is_marks=False))
    found = [out_of_fold(folds, fitter, series.scores, series.truth, series.weights) for fitter in fitters]
    measured = _OF_CHANCES if is_chance else _MEASURES
    predictors, how = [Predictor(one, measured) for one in found], Resampling(seed=seed)
    compared = Comparison(predictors, series.truth, weights=series.weights, groups=series.groups, how=how)
    what = "root of the Brier score" if is_chance else "mean absolute error"
    line = Beside(name=STRAIGHT_LINE, measures=compared.measures(1), difference=compared.difference(0, 1))
    return {
        "error_of": f"{what} on pictures that the fit has not seen",
        "measured": {
            "unit": "pictures",
            "by": OUT_OF_FOLD,
            "num_folds": int(folds[0].max()) + 1,
            "num_repeats": len(folds),
            "near_duplicates": series.near_duplicates,
            "weigh_by": "votes" if np.ptp(series.weights) > 0 else "pictures",
            "num_pictures": series.num_pictures,
            "samples_sha256": list_sha256(series.samples),
        },
        "measures": compared.measures(0).to_json(),
        "beside": [line.to_json()],
    }


def bounds_of(series: Series, seed: int) -> Bounds:
    """A map of one part of the pictures, and how far off it is on the other part: whole groups, half of the pictures or fewer.

    Bounds of new pictures hold the truth as often as they say where these are drawn like the others, groups as a whole. Of
    large groups some pictures are drawn, since a group counts the same whatever its size.
    """
    keys = name_keys(seed, series.samples)
    is_single = len(np.unique(series.groups)) == series.num_pictures
    most = series.num_pictures // 2
    is_out = held_out(series.groups, keys, min(most, MOST_RESIDUALS) if is_single else most)
    steps = isotonic_map(series.scores[~is_out], series.truth[~is_out], series.weights[~is_out]).thinned()
    measured = np.flatnonzero(is_out)
    if len(measured) > MOST_RESIDUALS:
        measured = _some_of_each(measured, series.groups, keys)
    residuals = np.abs(series.truth[measured] - steps(series.scores[measured]))
    order = np.argsort(residuals, kind="stable")
    groups = None if is_single else renumbered(series.groups[measured[order]])
    return Bounds(steps=steps, residuals=residuals[order], groups=groups)


def _some_of_each(rows: Rows, groups: Rows, keys: npt.NDArray[np.uint64]) -> Rows:
    """`MOST_RESIDUALS` of some rows, ascending: as many of each group as of the others, in the order of their keys."""
    order = rows[np.lexsort((keys[rows], groups[rows]))]
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))  # in its group
    return np.sort(order[np.lexsort((keys[order], place))][:MOST_RESIDUALS])


def _unpaired(series: Series, names: tuple[str, str], reason: str, seed: int) -> Fitted:
    """The quantile map of all numbers, with its error on halves that the fit has not seen."""
    check_varied(series.all_scores, names[0])
    check_varied(series.all_truth, names[1])
    if series.num_pictures >= FEWEST and (correlation := spearman(series.scores, series.truth)) <= 0:
        raise InputError(
            f"{names[0]} do not rise with {names[1]}: their rank correlation is {correlation:.2f} on {series.num_pictures:,} "
            "pictures that have both; no threshold on the one says anything of the other"
        )
    rng = np.random.default_rng(seed)
    (one, one_out), (two, two_out) = (_halves(numbers, rng) for numbers in (series.all_scores, series.all_truth))
    error, distance = float("nan"), float("nan")
    if np.ptp(one) > 0:
        mapped = quantile_map(one, two)(one_out)
        error, distance = quantile_error(mapped, two_out), ks_distance(mapped, two_out)
    more = {
        "error_of": "mean difference of the percentiles, on halves that the fit has not seen",
        "ks_distance": distance,
        "num_other": len(series.all_truth),
        "reason": reason,
    }
    return Fitted(
        method="quantile",
        steps=quantile_map(series.all_scores, series.all_truth).thinned(),
        num_pictures=len(series.all_scores),
        error=error,
        bounds=None,
        more=more,
    )


def fit_percentiles(numbers: npt.NDArray[np.floating[Any]], name: str, *, seed: int) -> Fitted:
    """The map of (N,) finite numbers onto their percentiles, 0 to 100, equal ones onto the middle of those that they take up.

    Its error is that of a half's map on the other half, of at most `MOST_DRAWN` of them, drawn at random. Beside the numbers,
    in float32 as tables hold them, memory is taken for one sorted copy.

    Raises:
        InputError: too few numbers, or numbers that are all the same.
    """
    if len(numbers) < FEWEST:
        raise InputError(f"{name} are {len(numbers)}; a map needs at least {FEWEST}")
    check_varied(numbers, name)
    ends, even = np.array([0.0, 100.0]), np.linspace(0, 100, 10_001)
    rng, some = np.random.default_rng(seed), numbers
    if len(numbers) > MOST_DRAWN:
        some = numbers[np.unique(rng.integers(len(numbers), size=MOST_DRAWN))]
    one, out = _halves(some, rng)
    mapped = quantile_map(one, ends)(out) if np.ptp(one) > 0 else np.full(len(out), 50.0)
    reason = "percentiles are quantiles of the set"
    drawn = "" if some is numbers else f" of {len(some):,} pictures"
    more = {
        "error_of": f"mean difference of the percentiles, on a half{drawn} that the fit has not seen",
        "ks_distance": ks_distance(mapped, even),
        "reason": reason,
    }
    return Fitted(
        method="quantile",
        steps=quantile_map(numbers, ends).thinned(),
        num_pictures=len(numbers),
        error=quantile_error(mapped, even),
        bounds=None,
        more=more,
    )


def _halves(numbers: npt.NDArray[Any], rng: np.random.Generator) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Two parts of the numbers, drawn at random, the first the larger by at most one."""
    order = rng.permutation(len(numbers))
    middle = (len(numbers) + 1) // 2
    return numbers[order[:middle]], numbers[order[middle:]]


def quantile_error(one: Doubles, two: Doubles) -> float:
    """Mean absolute difference of the 1 % to 99 % quantiles of (N,) and (M,), in their units."""
    return float(np.abs(np.quantile(one, _SHARES) - np.quantile(two, _SHARES)).mean())


def ks_distance(one: Doubles, two: Doubles) -> float:
    """Largest difference of the shares at or below a number, of (N,) and (M,), 0 to 1 (Kolmogorov and Smirnov)."""
    one, two = np.sort(one), np.sort(two)
    both = np.concatenate([one, two])
    shares = (np.searchsorted(numbers, both, "right") / len(numbers) for numbers in (one, two))
    first, second = shares
    return float(np.abs(first - second).max())


def rows_of(numbers: Doubles) -> Rows:
    """Rows that have a number, ascending."""
    return np.flatnonzero(np.isfinite(numbers)).astype(np.int64)


def isotonic_map(scores: Doubles, ratings: Doubles, weights: Doubles | None = None) -> StepMap:
    """The never falling map with the least weighted squared error, by pooling adjacent violators.

    Ayer, Brunk, Ewing, Reid and Silverman, "An empirical distribution function for sampling with incomplete information",
    Annals of Mathematical Statistics 26, 1955. Equal scores have one rating, the weighted mean of theirs.

    Args:
        scores: (N,) finite, N >= 1.
        ratings: (N,) finite.
        weights: (N,) > 0; None: 1 each.
    """
    given = np.ones(len(scores)) if weights is None else weights
    knots, at = np.unique(scores, return_inverse=True)
    weight = np.bincount(at, given)
    mean = np.bincount(at, given * ratings) / weight
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


def quantile_map(scores: npt.NDArray[Any], other: npt.NDArray[Any]) -> StepMap:
    """The map that gives scores the distribution of others: the share below a score is the share below what it becomes.

    Both are held in their own kind of floats, with a sorted copy and nothing else that grows with them.

    Args:
        scores: (N,) finite of one head, N >= 2, float32 or float64, not all the same.
        other: (M,) finite of another head or ratings, M >= 2; neither need be of the same pictures.
    """
    one, two = np.sort(scores), np.sort(other)
    shares = _shares(one.size)
    knots, at = np.unique(_quantiles(one, shares), return_inverse=True)
    values = np.bincount(at, _quantiles(two, shares)) / np.bincount(at)
    return StepMap(knots, np.maximum.accumulate(values))


def _shares(count: int) -> Doubles:
    """Shares from 0 to 1: evenly spaced, and towards both ends ranks that grow by about a tenth: 1, 2, 3, ... of `count`."""
    last = count - 1
    ranks = np.unique(np.rint(np.geomspace(1, max(1.0, last / _NUM_KNOTS), 24 * max(1, math.ceil(math.log10(last + 1))))))
    tail = ranks[ranks <= last] / last
    return np.unique(np.concatenate([np.linspace(0, 1, _NUM_KNOTS), tail, 1 - tail]))


def _quantiles(ascending: npt.NDArray[Any], shares: Doubles) -> Doubles:
    """Quantiles of (N,) sorted numbers, straight between two of them, as NumPy has them by default."""
    rank = shares * (ascending.size - 1)
    nearest = np.rint(rank)
    rank = np.where(np.abs(rank - nearest) < 1e-6, nearest, rank)  # a share of a rank is that rank
    low = np.floor(rank).astype(np.int64)
    high = np.minimum(low + 1, ascending.size - 1)
    below, above = ascending[low].astype(np.float64), ascending[high].astype(np.float64)
    return np.asarray(below + (above - below) * (rank - low))


def conformal_margin(residuals: Doubles, level: float, groups: npt.NDArray[Any] | None = None) -> float:
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
        residuals: (n,) finite, rating less prediction.
        level: in (0, 1).
        groups: (n,) the group of each; None: each is one of its own.
    """
    sizes = np.abs(residuals)
    labels = np.arange(sizes.size) if groups is None else groups
    _, of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(sizes, kind="stable")
    reached = np.cumsum(1 / counts[of[order]])  # groups, in parts
    at = int(np.searchsorted(reached, level * (len(counts) + 1) - 1e-9))
    return float(sizes[order][at]) if at < sizes.size else math.inf

"""What the raters' own noise allows: the best that any predictor could reach, and ratings that look odd.

A picture's rating is its true mean plus noise. A predictor that knew the true means would still correlate with the ratings by
no more than the square root of their reliability (Spearman, "The proof and measurement of association between two things",
American Journal of Psychology 15, 1904; Lord and Novick, "Statistical Theories of Mental Test Scores", 1968, 3.9), and miss
them by the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.train.measures import Interval, Intervals, interval_of, measured_once
from beholder.train.pair_measures import PairDraws, PairGroups
from beholder.train.resampling import USUAL, GroupDraws, Resampling, resampled
from beholder.train.rows import Doubles, Rows, renumbered

FEW_REPEATED = 20
"""Fewer pairs with several votes than these say nothing of how often votes agree."""
_SIMULATED = ("srcc", "kendall", "pair_accuracy")
_SIMULATIONS = 20
_MOST_SIMULATED = 200_000
SUSPICIOUS = 3.0
"""Residuals of this many standard deviations and more are worth another look."""
UNLIKELY = 0.02
"""Marks that had a smaller chance are, too."""
MOST_SUSPICIOUS = 100
"""So many ratings are listed at most."""


def from_deviations(deviations: Doubles, counts: Doubles) -> Doubles:
    """From (N,) standard deviations between raters (with n - 1) and counts: (N,) the variance of each mean about the true one.

    It is deviation^2 / count; NaN where a mean is of one rating.
    """
    return np.where(counts > 1, deviations**2 / np.maximum(counts, 1), math.nan)


def from_histograms(votes: Doubles, values: Doubles) -> Doubles:
    """From (N, K) counts of votes >= 0 for K values, (K,): (N,) the variance of each mean, with n - 1 over n.

    One vote tells no variance, NaN.
    """
    counts = votes.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = votes @ values / counts
        squares = np.einsum("ij,ij->i", votes, (values[None, :] - means[:, None]) ** 2)
        return np.where(counts > 1, squares / (counts - 1) / counts, math.nan)


class Ceiling(Intervals):
    """What a predictor that knew the truth would reach against these ratings, with bootstrap intervals.

    Rows are ratings that it is from; of pairs, pairs with several votes. Values of ratings: `reliability`, the share of their
    variance that is not noise, 0 to 1; the measures `plcc`, `srcc`, `kendall`, `pair_accuracy`, `mae` and `rmse`. Of pairs
    `pair_accuracy` alone. NaN where it is not defined.
    """


def noise_ceiling(
    means: Doubles,
    variances: Doubles,
    *,
    weights: Doubles | None = None,
    groups: npt.ArrayLike | None = None,
    how: Resampling = USUAL,
) -> Ceiling | None:
    """The ceiling of mean ratings, or None where nothing tells their noise.

    reliability = 1 - mean variance of a rating / variance of the ratings, at least 0; plcc is its root, rmse that of the mean
    variance. For rank measures truths are simulated: the ratings drawn together about their mean by sqrt(reliability), which
    have the variance of the truths, with normal noise of each picture's own variance. For normal ratings with equal noise that
    gives Pearson's r to Spearman's 6/pi asin(r/2), Kendall's 2/pi asin(r) and the pair accuracy 1/2 + asin(r)/pi. Intervals
    are percentiles over resamples of groups; those of rank measures are what the ends of the reliability's give.

    Args:
        means: (N,) ratings.
        variances: (N,) of each mean about the true one, in squared units; NaN where nothing tells.
        weights: (N,) of the rows, as the measures have them; None: 1 each.
        groups: (N,) labels; rows of a group are resampled together. None: rows one by one.
        how: resamples and intervals; its seed is that of the simulation as well.
    """
    given = np.ones(len(means)) if weights is None else weights
    known = np.isfinite(means) & np.isfinite(variances) & (given > 0)
    means, variances, given = means[known], variances[known], given[known]
    if len(means) < 2:
        return None
    noise = _Noise(means - means.mean(), variances, given)
    found = noise.of(given[None])[0]
    if not np.isfinite(found).all():
        return None
    draws = GroupDraws(given, np.arange(len(means)) if groups is None else renumbered(np.asarray(groups)[known]), how.seed)
    (drawn,) = resampled([noise], draws, how.number)
    reliability, mae, rmse = (interval_of(float(found[at]), drawn[:, at], how.level) for at in range(noise.size))
    ends = [
        _simulated(means, variances, float(np.average(means, weights=given)), one, given, how.seed)
        for one in (reliability.value, reliability.low, reliability.high)
    ]
    ranks = {name: Interval(*(end[name] for end in ends)) for name in _SIMULATED}
    plcc = Interval(*(math.sqrt(end) for end in (reliability.value, reliability.low, reliability.high)))
    return Ceiling(
        num_rows=len(means),
        num_groups=draws.num_groups,
        level=how.level,
        num_resamples=len(drawn),
        values={"reliability": reliability, "plcc": plcc, **ranks, "mae": mae, "rmse": rmse},
    )


@dataclass(frozen=True)
class _Noise:
    """Reliability, mean absolute and root mean squared noise of ratings: means, variances and weights (N,) each."""

    means: Doubles
    variances: Doubles
    weights: Doubles
    size: int = 3

    def of(self, weights: Doubles) -> Doubles:
        """(L, N) weights of the rows, their own by how often they are drawn -> (L, 3); NaN where the ratings do not vary."""
        found = np.full((len(weights), 3), np.nan)
        deviations = np.sqrt(self.variances)
        for given, out in zip(weights, found, strict=True):
            total = float(given.sum())
            freedom = 1.0 - float(given @ self.weights) / total**2 if total > 0 else 0.0
            if freedom <= 0:
                continue
            centre = float(given @ self.means) / total
            spread = float(given @ (self.means - centre) ** 2) / total / freedom
            if spread > 0:
                noise = float(given @ self.variances) / total
                absolute = float(given @ deviations) / total * math.sqrt(2 / math.pi)
                out[:] = max(0.0, 1.0 - noise / spread), absolute, math.sqrt(noise)
        return found


def _simulated(
    means: Doubles, variances: Doubles, centre: float, reliability: float, weights: Doubles, seed: int
) -> dict[str, float]:
    """Mean rank measures of simulated ratings against simulated truths; what chance gives where nothing but noise is left."""
    if not reliability > 0:
        return dict(zip(_SIMULATED, (0.0, 0.0, 0.5) if reliability == 0 else (math.nan,) * 3, strict=True))
    rng = np.random.default_rng(seed)
    found = []
    rows = np.arange(len(means))
    for _ in range(max(1, min(_SIMULATIONS, _MOST_SIMULATED // len(means)))):
        if len(means) > _MOST_SIMULATED:
            rows = rng.choice(len(means), _MOST_SIMULATED, replace=False)
        truths = centre + math.sqrt(reliability) * (means[rows] - centre)
        again = truths + rng.standard_normal(len(rows)) * np.sqrt(variances[rows])
        found.append(measured_once(truths, again, _SIMULATED, weights[rows] / weights.mean()))
    return {name: float(np.mean([one[name] for one in found])) for name in _SIMULATED}


@dataclass(frozen=True)
class Suspicious:
    """Ratings by how little they fit, worst first.

    Attributes:
        rows: (K,) row numbers.
        residuals: (K,) rating less prediction.
        deviations: (K,) the same in standard deviations of what is expected of such a rating.
    """

    rows: Rows
    residuals: Doubles
    deviations: Doubles

    def to_json(self, names: Sequence[str], ratings: Doubles, predictions: Doubles) -> list[dict[str, Any]]:
        """JSON-ready, of rows with these names, ratings (N,) and predictions (N,), or (R, N) of R repetitions."""
        predicted = np.atleast_2d(predictions).mean(axis=0)
        return [
            {
                "sample": names[row],
                "rating": float(ratings[row]),
                "predicted": float(predicted[row]),
                "residual": residual,
                "deviations": deviations,
            }
            for row, residual, deviations in zip(
                self.rows.tolist(), self.residuals.tolist(), self.deviations.tolist(), strict=True
            )
        ]


def suspicious_ratings(
    ratings: npt.ArrayLike,
    predictions: npt.ArrayLike,
    variances: npt.ArrayLike | None = None,
) -> Suspicious:
    """Ratings that predictions made without them contradict most, by at least `SUSPICIOUS` standard deviations.

    At most `MOST_SUSPICIOUS` of them. A residual is expected to vary by the noise of its rating and by the head's own error,
    which is what the median of the squared residuals leaves (it is not moved by the few that are wrong). Picture by picture
    that is more for a rating of three votes than for one of three hundred.

    Args:
        ratings: (N,); NaN where there is none.
        predictions: (N,), of fits without the row, or (R, N) of R repetitions, of which the mean is taken.
        variances: (N,) of each rating; None or NaN: all the same.
    """
    given = np.asarray(ratings, np.float64)
    guessed = np.atleast_2d(np.asarray(predictions, np.float64)).mean(axis=0)
    residuals = given - guessed
    usable = np.isfinite(residuals)
    if not usable.any():
        return Suspicious(np.empty(0, np.int64), np.empty(0), np.empty(0))
    noise = np.zeros(len(given)) if variances is None else np.nan_to_num(np.asarray(variances, np.float64), nan=0.0)
    own = _spread_left(residuals[usable] ** 2, noise[usable])
    expected = np.sqrt(noise + own)
    deviations = np.divide(residuals, expected, out=np.zeros_like(residuals), where=usable & (expected > 0))
    order = np.argsort(-np.abs(deviations), kind="stable")
    listed = order[np.abs(deviations[order]) >= SUSPICIOUS][:MOST_SUSPICIOUS]
    return Suspicious(listed.astype(np.int64), residuals[listed], deviations[listed])


def suspicious_marks(marks: npt.ArrayLike, predictions: npt.ArrayLike) -> Suspicious:
    """Marks (keep 1, drop 0) that predictors made without them gave a smaller chance than `UNLIKELY`, least likely first.

    At most `MOST_SUSPICIOUS` of them. Deviations are Pearson's residuals, (mark - p) / sqrt(p (1 - p)).

    Args:
        marks: (N,) 0 or 1; NaN where there is none.
        predictions: (N,) chances of a keep, of fits without the row, or (R, N) of R repetitions, of which the mean is taken.
    """
    given = np.asarray(marks, np.float64)
    chances = np.atleast_2d(np.asarray(predictions, np.float64)).mean(axis=0)
    residuals = given - chances
    sizes = np.where(np.isfinite(residuals), np.abs(residuals), 0.0)
    order = np.argsort(-sizes, kind="stable")
    listed = order[sizes[order] > 1 - UNLIKELY][:MOST_SUSPICIOUS]
    spreads = np.sqrt(np.maximum(chances[listed] * (1 - chances[listed]), np.finfo(np.float64).tiny))
    return Suspicious(listed.astype(np.int64), residuals[listed], residuals[listed] / spreads)


def _spread_left(squares: Doubles, noise: Doubles) -> float:
    """The variance v for which the median of squares / (noise + v) is that of a squared normal, 0.4549; at least 0."""
    wanted = 0.454936423119572
    if float(np.median(np.divide(squares, noise, out=np.full_like(squares, np.inf), where=noise > 0))) <= wanted:
        return 0.0
    low, high = 0.0, float(squares.max()) / wanted
    for _ in range(100):
        if high - low <= 1e-14 * high:
            break
        middle = (low + high) / 2
        if middle > 0 and float(np.median(squares / (noise + middle))) > wanted:
            low = middle
        else:
            high = middle
    return high


def pair_ceiling(
    left: npt.ArrayLike,
    right: npt.ArrayLike,
    targets: npt.ArrayLike,
    votes: npt.ArrayLike | None = None,
    *,
    groups: npt.ArrayLike | None = None,
    how: Resampling = USUAL,
) -> Ceiling | None:
    """Most of the untied votes on pairs that an order could predict, 0.5 to 1; None where no pair has two votes.

    Of a pair with m >= 2 votes, k of them for one side, two votes agree with chance a = (k(k-1) + (m-k)(m-k-1)) / (m(m-1)), an
    unbiased estimate of p^2 + (1-p)^2; the best guess is right with max(p, 1-p) = (1 + sqrt(2a - 1)) / 2. The mean of a,
    weighted by votes, is put into that; since it is concave the result is an upper bound. The interval is from resamples of
    pictures, as that of a head's share is; of fewer than `FEW_REPEATED` pairs it is NaN, and so is the value.

    Args:
        left: (P,) numbers of pictures.
        right: (P,) those they were compared with.
        targets: (P,) 1 where the left one is better, 0 where the right one is; others, ties, are left out.
        votes: (P,) votes for it; None: 1 each.
        groups: the group of each picture, by its number: what is resampled together; None: each by itself.
        how: resamples and intervals.
    """
    sides = np.stack([np.asarray(left, np.int64), np.asarray(right, np.int64)], axis=1)
    wanted = np.asarray(targets, np.float64)
    count = np.ones(len(wanted)) if votes is None else np.asarray(votes, np.float64)
    decided = (wanted == 0) | (wanted == 1)
    sides, count = sides[decided], count[decided]
    if not len(sides):
        return None
    is_for_low = (wanted[decided] == 1) == (sides[:, 0] <= sides[:, 1])
    pairs, pair = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True)
    total = np.bincount(pair.reshape(-1), count)
    for_low = np.bincount(pair.reshape(-1), count * is_for_low)
    several = total >= 2
    if not several.any():
        return None
    m, k = np.asarray(total[several], np.float64), np.asarray(for_low[several], np.float64)
    agreement = _Agreement((k * (k - 1) + (m - k) * (m - k - 1)) / (m * (m - 1)))
    numbers = pairs[several] if groups is None else np.asarray(groups, np.int64)[pairs[several]]
    draws = PairDraws(m, PairGroups.of(numbers), how.seed)
    is_enough = len(m) >= FEW_REPEATED
    value = float(agreement.of(m[None])[0, 0]) if is_enough else math.nan
    (drawn,) = resampled([agreement], draws, how.number if is_enough else 0)
    return Ceiling(
        num_rows=len(m),
        num_groups=draws.groups.num_groups,
        level=how.level,
        num_resamples=len(drawn),
        values={"pair_accuracy": interval_of(value, drawn[:, 0], how.level)},
    )


@dataclass(frozen=True)
class _Agreement:
    """The share of votes that an order could predict, from the chance (P,) that two votes on a pair agree."""

    agreeing: Doubles
    size: int = 1

    def of(self, weights: Doubles) -> Doubles:
        """(L, P) weights of the pairs -> (L, 1); NaN where none has any."""
        total = weights.sum(axis=1, keepdims=True)
        mean = np.divide(weights @ self.agreeing[:, None], total, out=np.full(total.shape, np.nan), where=total > 0)
        return np.asarray((1 + np.sqrt(np.maximum(0.0, 2 * mean - 1))) / 2)

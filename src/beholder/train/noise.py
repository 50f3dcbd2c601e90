"""What the raters' own noise allows: the best that any predictor could reach, and ratings that look wrong.

A picture's rating is its true mean plus noise. A predictor that knew the true means would still correlate with the ratings by
no more than the square root of their reliability (Spearman, "The proof and measurement of association between two things",
American Journal of Psychology 15, 1904; Lord and Novick, "Statistical Theories of Mental Test Scores", 1968, 3.9), and miss
them by the noise.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.train.measures import Compared

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_SIMULATIONS = 20
_MOST_SIMULATED = 200_000
SUSPICIOUS = 3.0
"""Residuals of this many standard deviations and more are worth another look."""
UNLIKELY = 0.02
"""Marks that had a smaller chance are, too."""


@dataclass(frozen=True)
class MeanRatings:
    """Mean ratings with the noise of each.

    Attributes:
        means: (N,) float64, NaN where a picture has no rating.
        variances: (N,) float64, of each mean about the true one, in squared units; NaN where nothing tells.
        counts: (N,) float64, ratings behind each.
    """

    means: Doubles
    variances: Doubles
    counts: Doubles


def from_deviations(means: npt.ArrayLike, deviations: npt.ArrayLike, counts: npt.ArrayLike) -> MeanRatings:
    """From (N,) means, standard deviations between raters (with n - 1), and counts: variance of a mean = deviation^2 / count.

    Raises:
        InputError: negative deviations, or counts that are not positive where there is a mean.
    """
    mean, deviation, count = (np.asarray(values, np.float64) for values in (means, deviations, counts))
    if not mean.shape == deviation.shape == count.shape:
        raise InputError(f"means {mean.shape}, deviations {deviation.shape} and counts {count.shape} must be equally many")
    rated = np.isfinite(mean)
    if (deviation[rated] < 0).any() or not (count[rated] > 0).all():
        raise InputError("standard deviations are numbers >= 0, and counts of ratings numbers > 0")
    return MeanRatings(mean, np.where(count > 1, deviation**2 / np.maximum(count, 1), math.nan), count)


def from_histograms(histograms: npt.ArrayLike, values: npt.ArrayLike) -> MeanRatings:
    """From (N, K) counts of votes for K values, (K,): mean, variance with n - 1 over n; one vote tells no variance.

    Raises:
        InputError: negative or infinite counts.
    """
    votes, scale = np.asarray(histograms, np.float64), np.asarray(values, np.float64)
    if votes.ndim != 2 or scale.shape != votes.shape[1:]:
        raise InputError(
            f"histograms of shape {votes.shape} need {votes.shape[-1] if votes.ndim else 0} values, not {scale.shape}"
        )
    if not (np.isfinite(votes) & (votes >= 0)).all():
        raise InputError("votes of a histogram are numbers >= 0")
    counts = votes.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = votes @ scale / counts
        squares = np.einsum("ij,ij->i", votes, (scale[None, :] - means[:, None]) ** 2)
        variances = np.where(counts > 1, squares / (counts - 1) / counts, math.nan)
    return MeanRatings(np.where(counts > 0, means, math.nan), variances, counts)


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """What a predictor that knew the true means would reach against these ratings.

    Attributes:
        num_rows: ratings it is from.
        reliability: share of the variance of the ratings that is not noise, 0 to 1.
        plcc: sqrt(reliability).
        rmse: the root of the mean variance of a rating; no predictor of the truth has less on average.
        srcc, kendall, pair_accuracy, mae: of simulated ratings against truths with the spread that is left without the noise.
    """

    num_rows: int
    reliability: float
    plcc: float
    srcc: float
    kendall: float
    pair_accuracy: float
    mae: float
    rmse: float

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record; what is not defined is None."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def noise_ceiling(ratings: MeanRatings, *, weights: npt.ArrayLike | None = None, seed: int = 0) -> Ceiling | None:
    """The ceiling of mean ratings, or None where nothing tells their noise.

    reliability = 1 - mean variance of a rating / variance of the ratings, at least 0. For rank measures truths are simulated:
    the ratings drawn together about their mean by sqrt(reliability), which have the variance of the truths, with normal noise
    of each picture's own variance. For normal ratings with equal noise that gives Pearson's r to Spearman's
    6/pi asin(r/2), Kendall's 2/pi asin(r) and the pair accuracy 1/2 + asin(r)/pi.

    Args:
        ratings: at least two of them with a variance.
        weights: (N,) of the rows, as the measures have them; None: 1 each.
        seed: of the simulation.
    """
    known = np.isfinite(ratings.means) & np.isfinite(ratings.variances)
    if np.count_nonzero(known) < 2:
        return None
    means, variances = ratings.means[known], ratings.variances[known]
    given = np.ones(len(means)) if weights is None else np.asarray(weights, np.float64)[known]
    if not given.sum() > 0:
        return None
    given = given / given.sum()
    centre = float(given @ means)
    spread = float(given @ (means - centre) ** 2)
    freedom = 1.0 - float(given @ given)
    spread = spread / freedom if freedom > 0 else 0.0
    noise = float(given @ variances)
    if spread <= 0:
        return None
    reliability = max(0.0, 1.0 - noise / spread)
    drawn = _simulated(means, variances, centre, reliability, given, seed)
    return Ceiling(
        num_rows=len(means),
        reliability=reliability,
        plcc=math.sqrt(reliability),
        srcc=drawn["srcc"],
        kendall=drawn["kendall"],
        pair_accuracy=drawn["pair_accuracy"],
        mae=float(given @ np.sqrt(variances)) * math.sqrt(2 / math.pi),
        rmse=math.sqrt(noise),
    )


def _simulated(
    means: Doubles, variances: Doubles, centre: float, reliability: float, weights: Doubles, seed: int
) -> dict[str, float]:
    """Mean rank measures of simulated ratings against simulated truths."""
    rng = np.random.default_rng(seed)
    names = ("srcc", "kendall", "pair_accuracy")
    found = []
    rows = np.arange(len(means))
    for _ in range(max(1, min(_SIMULATIONS, _MOST_SIMULATED // len(means)))):
        if len(means) > _MOST_SIMULATED:
            rows = rng.choice(len(means), _MOST_SIMULATED, replace=False)
        truths = centre + math.sqrt(reliability) * (means[rows] - centre)
        again = truths + rng.standard_normal(len(rows)) * np.sqrt(variances[rows])
        found.append(Compared.of(truths, again).once(weights[rows] * len(means)))
    return {name: float(np.mean([one[name] for one in found])) for name in names}


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


def suspicious_ratings(
    ratings: npt.ArrayLike,
    predictions: npt.ArrayLike,
    variances: npt.ArrayLike | None = None,
    *,
    least: float = SUSPICIOUS,
    most: int = 100,
) -> Suspicious:
    """Ratings that predictions made without them contradict most.

    A residual is expected to vary by the noise of its rating and by the head's own error, which is what the median of the
    squared residuals leaves (it is not moved by the few that are wrong). Picture by picture that is more for a rating of three
    votes than for one of three hundred.

    Args:
        ratings: (N,); NaN where there is none.
        predictions: (N,), of fits without the row, or (R, N) of R repetitions, of which the mean is taken.
        variances: (N,) of each rating; None or NaN: all the same.
        least: standard deviations from which a rating is listed.
        most: at most so many.
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
    listed = order[np.abs(deviations[order]) >= least][:most]
    return Suspicious(listed.astype(np.int64), residuals[listed], deviations[listed])


def suspicious_marks(
    marks: npt.ArrayLike, predictions: npt.ArrayLike, *, chance: float = UNLIKELY, most: int = 100
) -> Suspicious:
    """Marks (keep 1, drop 0) that predictors made without them gave a smaller chance than `chance`, least likely first.

    Deviations are Pearson's residuals, (mark - p) / sqrt(p (1 - p)).

    Args:
        marks: (N,) 0 or 1; NaN where there is none.
        predictions: (N,) chances of a keep, of fits without the row, or (R, N) of R repetitions, of which the mean is taken.
        chance: of the mark that was made.
        most: at most so many.
    """
    given = np.asarray(marks, np.float64)
    chances = np.atleast_2d(np.asarray(predictions, np.float64)).mean(axis=0)
    residuals = given - chances
    sizes = np.where(np.isfinite(residuals), np.abs(residuals), 0.0)
    order = np.argsort(-sizes, kind="stable")
    listed = order[sizes[order] > 1 - chance][:most]
    spreads = np.sqrt(np.maximum(chances[listed] * (1 - chances[listed]), np.finfo(np.float64).tiny))
    return Suspicious(listed.astype(np.int64), residuals[listed], residuals[listed] / spreads)


def _spread_left(squares: Doubles, noise: Doubles) -> float:
    """The variance v for which the median of squares / (noise + v) is that of a squared normal, 0.4549; at least 0."""
    wanted = 0.454936423119572
    if float(np.median(np.divide(squares, noise, out=np.full_like(squares, np.inf), where=noise > 0))) <= wanted:
        return 0.0
    low, high = 0.0, float(squares.max()) / wanted
    for _ in range(100):
        middle = (low + high) / 2
        if middle > 0 and float(np.median(squares / (noise + middle))) > wanted:
            low = middle
        else:
            high = middle
    return high


def pair_ceiling(
    left: npt.ArrayLike, right: npt.ArrayLike, targets: npt.ArrayLike, votes: npt.ArrayLike | None = None
) -> float:
    """Most of the untied votes on pairs that an order could predict, 0.5 to 1; NaN where nothing tells.

    Of a pair with m >= 2 votes, k of them for one side, two votes agree with chance a = (k(k-1) + (m-k)(m-k-1)) / (m(m-1)), an
    unbiased estimate of p^2 + (1-p)^2; the best guess is right with max(p, 1-p) = (1 + sqrt(2a - 1)) / 2. The mean of a,
    weighted by votes, is put into that; since it is concave the result is an upper bound.

    Args:
        left: (P,) numbers of pictures.
        right: (P,) those they were compared with.
        targets: (P,) 1 where the left one is better, 0 where the right one is; others, ties, are left out.
        votes: (P,) votes for it; None: 1 each.
    """
    one, other = np.asarray(left, np.int64), np.asarray(right, np.int64)
    wanted = np.asarray(targets, np.float64)
    count = np.ones(len(wanted)) if votes is None else np.asarray(votes, np.float64)
    decided = (wanted == 0) | (wanted == 1)
    low, high = np.minimum(one, other)[decided], np.maximum(one, other)[decided]
    is_for_low = (wanted[decided] == 1) == (one[decided] <= other[decided])
    if not len(low):
        return math.nan
    _, pair = np.unique(np.stack([low, high], axis=1), axis=0, return_inverse=True)
    total = np.bincount(pair.reshape(-1), count[decided])
    for_low = np.bincount(pair.reshape(-1), count[decided] * is_for_low)
    several = total >= 2
    if not several.any():
        return math.nan
    m, k = total[several], for_low[several]
    agreeing = (k * (k - 1) + (m - k) * (m - k - 1)) / (m * (m - 1))
    return (1 + math.sqrt(max(0.0, 2 * float(np.average(agreeing, weights=m)) - 1))) / 2

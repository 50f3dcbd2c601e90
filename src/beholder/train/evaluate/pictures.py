"""Heads measured against ratings of pictures: ranks as they are, errors after a line that was fitted to other pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.train import folds as splitting
from beholder.train.evaluate.bins import Curve, calibration_bins
from beholder.train.evaluate.evaluation import Comparisons, Detail, How, comparisons_of
from beholder.train.evaluate.scored import Scored
from beholder.train.measures import SCALED, Comparison, Predictor
from beholder.train.public import on_the_scale

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def compare_pictures(
    scored: Sequence[Scored],
    ratings: Doubles,
    weights: Doubles,
    groups: Rows,
    samples: Sequence[str],
    how: How,
    *,
    is_marks: bool,
) -> Comparisons:
    """Measure heads.

    Args:
        scored: with (n,) finite scores each.
        ratings: (n,) finite, not all the same; or marks 0 and 1.
        weights: (n,) > 0.
        groups: (n,) numbers from 0: what is resampled, and left out of a fit, together.
        samples: n names, by which folds are drawn.
        how: cut, level, resamples, seed.
        is_marks: whether a logistic curve, in place of a line, leads from scores to ratings.

    Raises:
        InputError: all pictures are one group.
    """
    folds = _folds(groups, samples, how.seed)
    lines = [_out_of_fold(one.scores, ratings, weights, folds, is_marks=is_marks) for one in scored]
    flat = _out_of_fold(np.zeros(len(ratings)), ratings, weights, folds, is_marks=is_marks)
    cut = 0.5 if is_marks and how.cut is None else how.cut
    compared = Comparison(
        [*(Predictor(one.scores, scaled=line) for one, line in zip(scored, lines, strict=True)), Predictor(flat, SCALED)],
        ratings, weights=weights, groups=groups, cut=cut, level=how.level, resamples=how.resamples, seed=how.seed,
    )  # fmt: skip
    predicted = [line.mean(axis=0) for line in lines]
    curves = [Curve(scores=one.scores, ratings=ratings, predicted=line) for one, line in zip(scored, predicted, strict=True)]
    bins = calibration_bins(curves, weights, groups, level=how.level, resamples=how.resamples, seed=how.seed)
    details = []
    for one, line, of_one in zip(scored, predicted, bins, strict=True):
        slope, intercept = _line(one.scores, ratings, weights, is_marks=is_marks)
        details.append(Detail(slope=slope, intercept=intercept, scores=one.scores, predicted=line, bins=of_one))
    return comparisons_of("pictures", "pair_accuracy" if is_marks else "srcc", scored, compared, details)


def _folds(groups: Rows, samples: Sequence[str], seed: int) -> list[Rows]:
    """(n,) folds of each repetition, as `beholder train` draws them. Raises InputError where all rows are one group."""
    if int(groups.max()) < 1:
        raise InputError(
            f"all {len(groups):,} measured pictures belong together (near-duplicates, or by --split-by), so nothing can be "
            "left out or resampled; rate others, or group by something finer"
        )
    plan = splitting.fold_plan(len(groups))
    rows = np.arange(len(groups))
    nothing = np.empty((0, 1))
    return [
        splitting.grouped_folds(groups, splitting.fold_keys(seed, repeat, nothing, rows, samples), plan.num_folds)
        for repeat in range(plan.repeats)
    ]


def _out_of_fold(scores: Doubles, ratings: Doubles, weights: Doubles, folds: Sequence[Rows], *, is_marks: bool) -> Doubles:
    """(R, n) ratings predicted from scores by maps that were fitted to the other folds."""
    found = np.empty((len(folds), len(scores)))
    for repeat, fold in enumerate(folds):
        for number in range(int(fold.max()) + 1):
            test = fold == number
            line = _map(scores[~test], ratings[~test], weights[~test], is_marks=is_marks)
            found[repeat, test] = line(scores[test])
    return found


def _map(scores: Doubles, ratings: Doubles, weights: Doubles, *, is_marks: bool) -> Callable[[Doubles], Doubles]:
    """A map from scores to ratings, fitted to these; where nothing varies, their mean."""
    if np.ptp(ratings) == 0:
        mean = float(ratings[0])
        return lambda given: np.full(len(given), mean)
    return on_the_scale(scores, ratings, weights, is_marks=is_marks)


def _line(scores: Doubles, ratings: Doubles, weights: Doubles, *, is_marks: bool) -> tuple[float, float]:
    """Slope and intercept of the map that is fitted to all rows; NaN where scores are all the same."""
    if not np.ptp(scores) > 0:
        return math.nan, math.nan
    found = on_the_scale(scores, ratings, weights, is_marks=is_marks)
    return found.slope, found.intercept

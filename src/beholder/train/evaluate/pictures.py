"""Heads measured against ratings of pictures: ranks as they are, errors after a line that was fitted to other pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.train import folds as splitting
from beholder.train.evaluate.bins import calibration_bins
from beholder.train.evaluate.evaluation import Comparisons, Difference, How, Judged, best_first
from beholder.train.evaluate.scored import Scored
from beholder.train.measures import NAMES, Comparison, Measures, Predictor
from beholder.train.public import on_the_scale

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

SCALED = ("mae", "rmse", "accuracy")
"""Measures in units of the ratings."""
RANKS = tuple(name for name in NAMES if name not in SCALED)


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
    predictors = [Predictor(flat, SCALED)]
    for one, line in zip(scored, lines, strict=True):
        predictors += [Predictor(one.scores, RANKS), Predictor(line, SCALED)]
    compared = Comparison(
        predictors, ratings, weights=weights, groups=groups, cut=cut, level=how.level, resamples=how.resamples, seed=how.seed
    )
    measures = [_joined(compared.measures(2 * at + 1), compared.measures(2 * at + 2)) for at in range(len(scored))]
    measure = "pair_accuracy" if is_marks else "srcc"
    order = best_first(measures, measure)
    judged = []
    for at in order:
        one, predicted = scored[at], lines[at].mean(axis=0)
        slope, intercept = _line(one.scores, ratings, weights, is_marks=is_marks)
        bins = calibration_bins(
            one.scores, ratings, weights, groups, predicted, level=how.level, resamples=how.resamples, seed=how.seed
        )
        judged.append(
            Judged(
                name=one.name, source=one.source, column=one.column, measures=measures[at], slope=slope, intercept=intercept,
                scores=one.scores, predicted=predicted, bins=bins,
            )
        )  # fmt: skip
    differences = [
        Difference(
            first=scored[one].name,
            second=scored[other].name,
            measures=_joined(compared.difference(2 * one + 1, 2 * other + 1), compared.difference(2 * one + 2, 2 * other + 2)),
        )
        for place, one in enumerate(order)
        for other in order[place + 1 :]
    ]
    return Comparisons(
        unit="pictures",
        measure=measure,
        judged=tuple(judged),
        constant=compared.measures(0),
        differences=tuple(differences),
    )


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


def _joined(ranks: Measures, scaled: Measures) -> Measures:
    """Measures of scores as they are, and of scores that were brought to the ratings' scale, as one."""
    both = {**ranks.values, **scaled.values}
    return replace(ranks, values={name: both[name] for name in NAMES})

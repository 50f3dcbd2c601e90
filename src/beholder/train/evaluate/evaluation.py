"""Heads measured on the same pictures or pairs: each head's measures, their differences, and their calibration.

Ranks are of the scores as they are, errors of these after a line that was fitted to other pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from beholder.errors import InputError
from beholder.train.evaluate.bins import Bin, Curve, calibration_bins
from beholder.train.evaluate.scored import Scored
from beholder.train.folds import out_of_fold, planned_folds
from beholder.train.measures import SCALED, Comparison, Measures, Predictor
from beholder.train.pair_measures import PairComparison
from beholder.train.public import on_the_scale
from beholder.train.resampling import Resampling
from beholder.train.rows import Doubles, Rows

Unit = Literal["pictures", "pairs"]

REAL, NOT_TOLD_APART = "real", "not told apart"
"""What an interval of a difference says: that it leaves out 0, or not."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One head on the n pictures (or pairs) that all heads were measured on.

    Attributes:
        name, source, column: as of `scored.Scored`.
        measures: of its scores; mae, rmse and accuracy of these brought to the ratings' scale on pictures left out.
        slope, intercept: of that map, fitted to all: rating = intercept + slope * score, or log odds of a keep; NaN of pairs.
        scores: (n,) its scores; of pairs the left one's less the right one's.
        predicted: (n,) ratings (or chances of a keep) predicted by maps that have not seen the picture, the mean of several
            draws of folds; of pairs empty.
        bins: ratings by its scores; of pairs, the share ordered right by how far apart the scores are.
    """

    name: str
    source: str
    column: str | None
    measures: Measures
    slope: float
    intercept: float
    scores: Doubles
    predicted: Doubles
    bins: tuple[Bin, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The measures of one head less those of another, on the same resamples."""

    first: str
    second: str
    measures: Measures

    def verdict(self, measure: str) -> str:
        """`REAL`, `NOT_TOLD_APART`, or "" where the difference has no interval."""
        interval = self.measures[measure]
        if not interval.has_bounds:
            return ""
        return REAL if interval.is_real else NOT_TOLD_APART


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """All heads on the same pictures or pairs.

    Attributes:
        unit: what is measured.
        measure: which of the measures heads are put in order by.
        judged: best first; those that the measure is not defined for come last.
        constant: what one guess for all would reach; mae, rmse and accuracy only.
        differences: of each to each later one.
    """

    unit: Unit
    measure: str
    judged: tuple[Judged, ...]
    constant: Measures
    differences: tuple[Difference, ...]

    def to_best(self, at: int) -> Difference | None:
        """The best head's measures less those of another; None of the best itself."""
        return None if at == 0 else self.differences[at - 1]


def compare_pictures(
    scored: Sequence[Scored],
    ratings: Doubles,
    weights: Doubles,
    groups: Rows,
    samples: Sequence[str],
    how: Resampling,
    *,
    cut: float | None = None,
    is_marks: bool,
) -> Comparisons:
    """Measure heads against ratings of pictures.

    Args:
        scored: with (n,) finite scores each.
        ratings: (n,) finite, not all the same; or marks 0 and 1.
        weights: (n,) > 0.
        groups: (n,) numbers from 0: what is resampled, and left out of a fit, together.
        samples: n names, by which folds are drawn.
        how: resamples and intervals.
        cut: ratings from here up are good; None: the weighted median, of marks 0.5.
        is_marks: whether a logistic curve, in place of a line, leads from scores to ratings.

    Raises:
        InputError: all pictures are one group.
    """
    if int(groups.max()) < 1:
        raise InputError(
            f"all {len(groups):,} measured pictures belong together (near-duplicates, or by --split-by), so nothing can be "
            "left out or resampled; rate others, or group by something finer"
        )
    folds, fitter = planned_folds(groups, samples, how.seed), partial(on_the_scale, is_marks=is_marks)
    lines = [out_of_fold(folds, fitter, one.scores, ratings, weights) for one in scored]
    flat = out_of_fold(folds, fitter, np.zeros(len(ratings)), ratings, weights)
    compared = Comparison(
        [*(Predictor(one.scores, scaled=line) for one, line in zip(scored, lines, strict=True)), Predictor(flat, SCALED)],
        ratings,
        weights=weights,
        groups=groups,
        cut=0.5 if is_marks and cut is None else cut,
        how=how,
    )
    predicted = [line.mean(axis=0) for line in lines]
    curves = [Curve(scores=one.scores, ratings=ratings, predicted=line) for one, line in zip(scored, predicted, strict=True)]
    bins = calibration_bins(curves, weights, groups, how)
    judged = []
    for at, one in enumerate(scored):
        line = fitter(one.scores, ratings, weights)
        has_line = np.ptp(one.scores) > 0
        judged.append(
            Judged(
                name=one.name,
                source=one.source,
                column=one.column,
                measures=compared.measures(at),
                slope=line.slope if has_line else math.nan,
                intercept=line.intercept if has_line else math.nan,
                scores=one.scores,
                predicted=predicted[at],
                bins=bins[at],
            )
        )
    return _ordered("pictures", "pair_accuracy" if is_marks else "srcc", judged, compared)


def compare_pairs(
    scored: Sequence[Scored], better: Rows, worse: Rows, votes: Doubles, groups: Rows, how: Resampling
) -> Comparisons:
    """Measure heads on pairs that are no ties.

    Args:
        scored: with (n,) finite scores each.
        better: (P,) places in the scores.
        worse: (P,) those of the other pictures.
        votes: (P,) > 0.
        groups: (P, 2) the group of the better picture and of the worse one: what is resampled together.
        how: resamples and intervals.
    """
    apart = [one.scores[better] - one.scores[worse] for one in scored]
    compared = PairComparison([*apart, np.zeros(len(better))], np.ones(len(better)), votes=votes, groups=groups, how=how)
    curves = [Curve(scores=np.abs(one), ratings=(np.sign(one) + 1) / 2) for one in apart]
    bins = calibration_bins(curves, votes, groups, how)
    judged = [
        Judged(
            name=one.name,
            source=one.source,
            column=one.column,
            measures=compared.measures(at),
            slope=math.nan,
            intercept=math.nan,
            scores=apart[at],
            predicted=np.empty(0),
            bins=bins[at],
        )
        for at, one in enumerate(scored)
    ]
    return _ordered("pairs", "pair_accuracy", judged, compared)


def _ordered(unit: Unit, measure: str, judged: Sequence[Judged], compared: Comparison | PairComparison) -> Comparisons:
    """All heads, best first by a measure, and each one's measures less those of each later one.

    `compared` has the heads in the order of `judged`, and after them one guess for all.
    """
    values = np.array([one.measures[measure].value for one in judged])
    order = [int(at) for at in np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")]
    differences = [
        Difference(first=judged[one].name, second=judged[other].name, measures=compared.difference(one, other))
        for place, one in enumerate(order)
        for other in order[place + 1 :]
    ]
    return Comparisons(
        unit=unit,
        measure=measure,
        judged=tuple(judged[at] for at in order),
        constant=compared.measures(len(judged)),
        differences=tuple(differences),
    )

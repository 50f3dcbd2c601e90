"""Heads measured against pairs of which people found one picture better."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from beholder.train.evaluate.bins import Curve, calibration_bins
from beholder.train.evaluate.evaluation import Comparisons, Detail, How, comparisons_of
from beholder.train.evaluate.scored import Scored
from beholder.train.pair_measures import PairComparison

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


def compare_pairs(scored: Sequence[Scored], better: Rows, worse: Rows, votes: Doubles, groups: Rows, how: How) -> Comparisons:
    """Measure heads on pairs that are no ties.

    Args:
        scored: with (n,) finite scores each.
        better: (P,) places in the scores.
        worse: (P,) those of the other pictures.
        votes: (P,) > 0.
        groups: (P, 2) the group of the better picture and of the worse one: what is resampled together.
        how: level, resamples, seed.
    """
    apart = [one.scores[better] - one.scores[worse] for one in scored]
    shared = {"level": how.level, "resamples": how.resamples, "seed": how.seed}
    compared = PairComparison(
        [*apart, np.zeros(len(better))],
        np.ones(len(better)),
        votes=votes,
        groups=groups,
        **shared,  # type: ignore[arg-type]
    )
    curves = [Curve(scores=np.abs(one), ratings=(np.sign(one) + 1) / 2) for one in apart]
    bins = calibration_bins(curves, votes, groups, **shared)  # type: ignore[arg-type]
    details = [
        Detail(slope=math.nan, intercept=math.nan, scores=one, predicted=np.empty(0), bins=of_one)
        for one, of_one in zip(apart, bins, strict=True)
    ]
    return comparisons_of("pairs", "pair_accuracy", scored, compared, details)

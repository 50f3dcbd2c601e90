"""Heads measured against pairs of which people found one picture better."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from beholder.train.evaluate.bins import calibration_bins
from beholder.train.evaluate.evaluation import Comparisons, Difference, How, Judged, best_first
from beholder.train.evaluate.scored import Scored
from beholder.train.pair_measures import PairComparison, as_pair_accuracy

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
    measures = [as_pair_accuracy(compared.measures(at)) for at in range(len(scored))]
    order = best_first(measures, "pair_accuracy")
    judged = []
    for at in order:
        right = np.where(apart[at] > 0, 1.0, np.where(apart[at] == 0, 0.5, 0.0))
        bins = calibration_bins(np.abs(apart[at]), right, votes, groups, **shared)  # type: ignore[arg-type]
        judged.append(
            Judged(
                name=scored[at].name, source=scored[at].source, column=scored[at].column, measures=measures[at],
                slope=math.nan, intercept=math.nan, scores=apart[at], predicted=np.empty(0), bins=bins,
            )
        )  # fmt: skip
    differences = [
        Difference(
            first=scored[one].name, second=scored[other].name, measures=as_pair_accuracy(compared.difference(one, other))
        )
        for place, one in enumerate(order)
        for other in order[place + 1 :]
    ]
    return Comparisons(
        unit="pairs",
        measure="pair_accuracy",
        judged=tuple(judged),
        constant=as_pair_accuracy(compared.measures(len(scored))),
        differences=tuple(differences),
    )

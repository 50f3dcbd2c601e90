"""What an evaluation found, as numbers: each head's measures, their differences, and those of groups of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from beholder.train.evaluate.bins import Bin
from beholder.train.evaluate.scored import Scored
from beholder.train.measures import Comparison, Interval, Measures
from beholder.train.pair_measures import PairComparison

Doubles = npt.NDArray[np.float64]
Unit = Literal["pictures", "pairs"]

REAL, NOT_TOLD_APART = "real", "not told apart"
"""What an interval of a difference says: that it leaves out 0, or not."""


@dataclass(frozen=True, kw_only=True)
class How:
    """How measures are made.

    Attributes:
        cut: ratings from here up are good; None: the weighted median, of marks 0.5.
        level: of intervals.
        resamples: None: by the number of rows.
        seed: of folds and resamples.
    """

    cut: float | None = None
    level: float = 0.95
    resamples: int | None = None
    seed: int = 0


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
        return verdict(self.measures[measure])


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


def verdict(interval: Interval) -> str:
    """What an interval of a difference says."""
    if not interval.has_bounds:
        return ""
    return REAL if interval.is_real else NOT_TOLD_APART


@dataclass(frozen=True, kw_only=True)
class Detail:
    """What `Judged` has of a head beside its measures."""

    slope: float
    intercept: float
    scores: Doubles
    predicted: Doubles
    bins: tuple[Bin, ...]


def comparisons_of(
    unit: Unit,
    measure: str,
    scored: Sequence[Scored],
    compared: Comparison | PairComparison,
    details: Sequence[Detail],
) -> Comparisons:
    """All heads, best first, and each one's measures less those of each later one.

    Args:
        unit: what is measured.
        measure: which of the measures heads are put in order by.
        scored: the heads.
        compared: their measures, in this order, and after them those of one guess for all.
        details: of each.
    """
    measures = [compared.measures(at) for at in range(len(scored))]
    values = np.array([one[measure].value for one in measures])
    order = [int(at) for at in np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")]
    judged = [
        Judged(
            name=scored[at].name, source=scored[at].source, column=scored[at].column, measures=measures[at],
            slope=details[at].slope, intercept=details[at].intercept, scores=details[at].scores,
            predicted=details[at].predicted, bins=details[at].bins,
        )
        for at in order
    ]  # fmt: skip
    differences = [
        Difference(first=scored[one].name, second=scored[other].name, measures=compared.difference(one, other))
        for place, one in enumerate(order)
        for other in order[place + 1 :]
    ]
    return Comparisons(
        unit=unit,
        measure=measure,
        judged=tuple(judged),
        constant=compared.measures(len(scored)),
        differences=tuple(differences),
    )

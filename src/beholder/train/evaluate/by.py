"""Measures of heads in each group of pictures: where a head is good, and whom it scores too low."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.train.evaluate.bins import LEAST_GROUPS
from beholder.train.evaluate.evaluation import Comparisons
from beholder.train.measures import Comparison, Interval, Predictor
from beholder.train.pair_measures import PairComparison
from beholder.train.resampling import Resampling
from beholder.train.rows import Doubles, Rows

LEAST = 10
"""Smaller groups are counted, and not measured."""
MOST = 30
"""So many groups of a column are measured, the largest ones."""
ACROSS = "(across groups)"
"""The group of pairs whose pictures are of two."""


@dataclass(frozen=True, kw_only=True)
class InGroup:
    """One head in one group: the measure that heads are ordered by, and the mean of rating less prediction (None of pairs)."""

    name: str
    value: Interval
    residual: float | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group, named by its value in the column ("": none), with its pictures (or pairs), and each head, best of all first."""

    value: str
    num_rows: int
    heads: tuple[InGroup, ...]


@dataclass(frozen=True, kw_only=True)
class ByColumn:
    """The groups of a column, largest first.

    Attributes:
        column: or "folder".
        measure: which.
        groups: that were measured.
        too_small: (groups, rows) of fewer than `LEAST`.
        not_shown: (groups, rows) of those after the first `MOST`.
    """

    column: str
    measure: str
    groups: tuple[Group, ...]
    too_small: tuple[int, int]
    not_shown: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return {
            "column": self.column,
            "measure": self.measure,
            "groups": [
                {
                    "value": group.value,
                    "num_rows": group.num_rows,
                    "heads": [{"name": head.name, **head.value.to_json(), "residual": head.residual} for head in group.heads],
                }
                for group in self.groups
            ],
            "too_small": {"num_groups": self.too_small[0], "num_rows": self.too_small[1], "fewer_than": LEAST},
            "not_shown": {"num_groups": self.not_shown[0], "num_rows": self.not_shown[1]},
        }


def by_column(
    column: str, labels: npt.NDArray[Any], measured: Comparisons, measure_one: Callable[[Rows], list[InGroup]]
) -> ByColumn:
    """Measure each group.

    Args:
        column: what the labels are.
        labels: (n,) texts.
        measured: of all rows.
        measure_one: measures of some rows, by their numbers.
    """
    sizes = Counter(labels.tolist())
    ordered = sorted(sizes, key=lambda value: (-sizes[value], value))
    large = [value for value in ordered if sizes[value] >= LEAST]
    small, more = ordered[len(large) :], large[MOST:]
    groups = [
        Group(value=value, num_rows=sizes[value], heads=tuple(measure_one(np.flatnonzero(labels == value))))
        for value in large[:MOST]
    ]
    return ByColumn(
        column=column,
        measure=measured.measure,
        groups=tuple(groups),
        too_small=(len(small), sum(sizes[value] for value in small)),
        not_shown=(len(more), sum(sizes[value] for value in more)),
    )


def pictures_in(
    measured: Comparisons, ratings: Doubles, weights: Doubles, groups: Rows, how: Resampling
) -> Callable[[Rows], list[InGroup]]:
    """A function that measures some pictures; predictions are those of maps for all pictures."""

    def measure(rows: Rows) -> list[InGroup]:
        predictors = [Predictor(one.scores[rows], (measured.measure,)) for one in measured.judged]
        compared = Comparison(predictors, ratings[rows], weights=weights[rows], groups=groups[rows], how=how)
        left = (np.average(ratings[rows] - one.predicted[rows], weights=weights[rows]) for one in measured.judged)
        return _in_group(measured, compared, [float(one) for one in left])

    return measure


def pairs_in(measured: Comparisons, votes: Doubles, groups: Rows, how: Resampling) -> Callable[[Rows], list[InGroup]]:
    """A function that measures some pairs; groups (P, 2) as of `compare_pairs`."""

    def measure(rows: Rows) -> list[InGroup]:
        apart = [one.scores[rows] for one in measured.judged]
        compared = PairComparison(apart, np.ones(len(rows)), votes=votes[rows], groups=groups[rows], how=how)
        return _in_group(measured, compared, [None] * len(measured.judged))

    return measure


def _in_group(measured: Comparisons, compared: Comparison | PairComparison, residuals: Sequence[float | None]) -> list[InGroup]:
    """Each head with its residual; without an interval where that would be of a handful of resampled groups."""
    found = []
    for at, (one, residual) in enumerate(zip(measured.judged, residuals, strict=True)):
        measures = compared.measures(at)
        value = measures[measured.measure]
        if measures.num_groups < LEAST_GROUPS:
            value = Interval(value.value, math.nan, math.nan)
        found.append(InGroup(name=one.name, value=value, residual=residual))
    return found


def labels_of_pairs(labels: npt.NDArray[Any], better: Rows, worse: Rows) -> npt.NDArray[Any]:
    """(P,) the group of both pictures of each pair, or `ACROSS`."""
    return np.where(labels[better] == labels[worse], labels[better], ACROSS)

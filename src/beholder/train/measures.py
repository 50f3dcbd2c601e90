"""How well predictions agree with ratings, with bootstrap intervals, and whether one predictor is better than another.

Rows may have weights. Intervals are percentiles over resamples of rows, or of groups of rows where there are any (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 8); two predictors are compared on the same resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.io.records import finite
from beholder.kernels.agreement import ERRORS, NUM_MEASURES, PAIRS, RANKS, fill_bits, measures_of
from beholder.train.resampling import USUAL, GroupDraws, Resampling, resampled
from beholder.train.rows import Doubles, renumbered

NAMES = (
    "srcc", "plcc", "kendall", "mae", "rmse", "accuracy", "pair_accuracy", "top_1_percent_precision", "top_5_percent_precision",
)  # fmt: skip
"""`kendall` is tau-b; `accuracy`: share of rows on the right side of the cut; `pair_accuracy`: share of the pairs of different
truth that are ordered right, equal predictions as half, which for marks 0 and 1 is the area under the ROC curve;
`top_1_percent_precision`: of the 1 % of the rows that are predicted highest (at least one) the share that is among the 1 %
rated highest, rows that tie with the last of these included; equal predictions at the edge count in part."""
SCALED = ("mae", "rmse", "accuracy")
"""Those of them that depend on the ratings' scale."""
CONSTANT = "constant"
"""The name of one guess for all, beside heads."""
OUT_OF_FOLD = "out-of-fold predictions"
"""How small sets are measured, in words."""
_KINDS = {"mae": ERRORS, "rmse": ERRORS, "accuracy": ERRORS, "kendall": PAIRS, "pair_accuracy": PAIRS}
"""What has to be counted for a measure; for the others `RANKS`."""


def numbers_to_json(of: Any) -> dict[str, float | None]:
    """A dataclass of numbers, ready for JSON; what is not defined is None."""
    return {item.name: finite(getattr(of, item.name)) for item in fields(of)}


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well predictions agree with the truth on one set of rows.

    Attributes:
        num_rows: rows compared.
        srcc: Spearman's rank correlation, -1 to 1; NaN where it is not defined.
        plcc: Pearson's linear correlation, -1 to 1; NaN where it is not defined.
        mse: mean squared error, in squared units of the ratings; NaN without rows.
        r2: share of the truth's variance that is explained, at most 1; NaN where it is not defined.
    """

    num_rows: int
    srcc: float
    plcc: float
    mse: float
    r2: float

    def to_json(self) -> dict[str, float | None]:
        """A JSON-ready record; what is not defined is None."""
        return numbers_to_json(self)


def average_ranks(values: npt.ArrayLike) -> Doubles:
    """(N,) finite values -> (N,) float64 ranks from 1 to N; equal values share the mean of the ranks they take up."""
    dense = renumbered(values)
    totals = np.bincount(dense)
    return np.asarray((np.cumsum(totals) - totals / 2 + 0.5)[dense])


def pearson(a: Doubles, b: Doubles) -> float:
    """Pearson's linear correlation of (N,) and (N,), in [-1, 1]; NaN when N < 2 or a series is constant."""
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip(np.dot(a, b) / math.sqrt(float(np.dot(a, a)) * float(np.dot(b, b))), -1.0, 1.0))


def spearman(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Spearman's rank correlation of (N,) and (N,) finite values, ties by average ranks; NaN when N < 2 or one is constant."""
    return pearson(average_ranks(predictions), average_ranks(truth))


def agreement(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> Agreement:
    """Measures without intervals, of (N,) predictions against (N,) truth. Raises InputError for other shapes, NaN or Inf."""
    a, b = _checked(predictions, truth)
    squares = (a - b) ** 2
    is_varied = b.size > 1 and np.ptp(b) > 0
    return Agreement(
        num_rows=b.size,
        srcc=spearman(a, b),
        plcc=pearson(a, b),
        mse=float(np.mean(squares)) if b.size else math.nan,
        r2=float(1.0 - np.sum(squares) / np.sum((b - b.mean()) ** 2)) if is_varied else math.nan,
    )


def measured_once(
    predictions: npt.ArrayLike, truth: npt.ArrayLike, names: Sequence[str], weights: Doubles | None = None
) -> dict[str, float]:
    """Some of `NAMES` without intervals, of (N,) and (N,) finite values, N >= 1, with weights (N,) >= 0 (None: 1 each).

    Raises InputError for other shapes, NaN or Inf.
    """
    a, b = _checked(predictions, truth)
    rated = _Truth.of(b)
    given = np.ones(b.size) if weights is None else weights[rated.order]
    found = dict(zip(NAMES, _Compared.of(a, rated, names).measured(given[None], math.nan)[0].tolist(), strict=True))
    return {name: found[name] for name in names}


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    @classmethod
    def of_json(cls, record: Mapping[str, float | None]) -> Interval:
        """From what `to_json` gave."""
        return cls(*(math.nan if (value := record[name]) is None else value for name in ("value", "low", "high")))

    @property
    def has_bounds(self) -> bool:
        """Whether there is an interval, and not a value alone."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def is_real(self) -> bool:
        """Of a difference: whether the interval leaves out 0."""
        return self.has_bounds and (self.low > 0 or self.high < 0)

    def text(self, *, signed: bool = False) -> str:
        """For people: `0.913 (0.905 to 0.920)`, `-` where it is not defined."""
        if not math.isfinite(self.value):
            return "-"
        style = "+.3f" if signed else ".3f"
        bounds = f" ({self.low:{style}} to {self.high:{style}})" if self.has_bounds else ""
        return f"{self.value:{style}}{bounds}"

    def to_json(self) -> dict[str, float | None]:
        """A JSON-ready record; what is not defined is None."""
        return numbers_to_json(self)


def interval_of(value: float, drawn: Doubles, level: float) -> Interval:
    """A value with the percentiles of its resamples (B,); without bounds where over half of these are not defined."""
    defined = drawn[np.isfinite(drawn)]
    tail = 50 * (1 - level)
    is_enough = len(defined) * 2 > len(drawn) and math.isfinite(value)
    low, high = np.percentile(defined, [tail, 100 - tail]) if is_enough else (math.nan, math.nan)
    return Interval(value, float(low), float(high))


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Values with intervals, of one set of rows.

    Attributes:
        num_rows: rows; num_groups: what was resampled.
        level: of the intervals; num_resamples: that they are from.
        values: by name.
    """

    num_rows: int
    num_groups: int
    level: float
    num_resamples: int
    values: Mapping[str, Interval]

    def __getitem__(self, name: str) -> Interval:
        return self.values[name]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record; what is not defined is None."""
        record = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "values"}
        return {**record, "values": {name: interval.to_json() for name, interval in self.values.items()}}


@dataclass(frozen=True, kw_only=True)
class Measures(Intervals):
    """Measures of a predictor, by `NAMES`; mae and rmse are in units of the ratings, the others have none.

    Attributes:
        cut: ratings from here up count as good, for `accuracy`.
    """

    cut: float


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Another predictor on the same rows, beside the one that a record is about.

    Attributes:
        name: of the head, or `CONSTANT`.
        measures: mae, rmse and accuracy after its scores were brought to the ratings' scale on the training rows.
        difference: the measures of what it stands beside less its, with paired intervals; None for the constant.
    """

    name: str
    measures: Measures
    difference: Measures | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        difference = None if self.difference is None else self.difference.to_json()
        return {"name": self.name, "measures": self.measures.to_json(), "difference": difference}


def _checked(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    a, b = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if a.ndim != 1 or b.ndim != 1 or a.shape != b.shape:
        raise InputError(f"cannot compare series of shapes {a.shape} and {b.shape}: both must be flat and equally long")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("cannot compare series that hold NaN or infinite values; drop those rows first")
    return a, b


@dataclass(frozen=True)
class _Truth:
    """The truth of N rows, sorted once.

    Attributes:
        order: (N,) rows, ascending in truth; all else is in this order.
        values: (N,) the truth; linear: (N,) brought to numbers within 1 of 0.
        dense: (N,) int32, which of the different truths.
    """

    order: npt.NDArray[np.int64]
    values: Doubles
    linear: Doubles
    dense: npt.NDArray[np.int32]

    @classmethod
    def of(cls, truth: Doubles) -> _Truth:
        order = np.argsort(truth, kind="stable")
        values = truth[order]
        return cls(order, values, _scaled_down(values), renumbered(values).astype(np.int32))


def _scaled_down(values: Doubles) -> Doubles:
    """(N,) finite numbers brought to numbers from 0 to 1 in a straight line; as they are where all are the same."""
    low, high = float(values.min()) / 2, float(values.max()) / 2  # halves, so that no difference overflows
    return (values / 2 - low) / (high - low) if high > low else values


@dataclass(frozen=True)
class _Compared:
    """A series of predictions beside the truth, in the truth's order, sorted once: resamples take passes that do not sort.

    Attributes:
        truth: of the rows.
        predictions: (N,).
        linear: (2, N) these and the truth, brought to numbers within 1 of 0.
        wanted: what is counted: the sum of some of `ERRORS`, `RANKS` and `PAIRS`.
        ranks: (N,) int32, which of the different predictions each row has.
        order, starts, bits: as of `kernels.agreement.measures_of`.
    """

    truth: _Truth
    predictions: Doubles
    linear: Doubles
    wanted: int
    ranks: npt.NDArray[np.int32]
    order: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    bits: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, predictions: Doubles, truth: _Truth, names: Sequence[str]) -> _Compared:
        """From (N,) finite predictions, N >= 1, of which some of `NAMES` are wanted."""
        given = predictions[truth.order]
        wanted = 0
        for name in names:
            wanted |= _KINDS.get(name, RANKS)
        none, no_bits = np.zeros(0, np.int32), np.zeros((0, 0), np.uint8)
        linear = np.stack([_scaled_down(given), truth.linear]) if wanted & RANKS else np.zeros((2, 0))
        if wanted | ERRORS == ERRORS:
            return cls(truth, given, linear, wanted, none, none, np.zeros(2, np.int64), no_bits)
        ranks = renumbered(given).astype(np.int32)
        num_ranks = int(ranks.max()) + 1
        if not wanted & PAIRS:
            starts = np.zeros(num_ranks + 1, np.int64)
            return cls(truth, given, linear, wanted, ranks, none, starts, no_bits)
        order = np.lexsort((ranks, truth.dense)).astype(np.int32)
        starts = np.concatenate([[0], np.cumsum(np.bincount(ranks, minlength=num_ranks))])
        bits = np.empty(((num_ranks - 1).bit_length(), len(given)), np.uint8)
        fill_bits(ranks[order], starts, bits)
        return cls(truth, given, linear, wanted, ranks, order, starts, bits)

    def measured(self, weights: Doubles, cut: float) -> Doubles:
        """(L, N) weights of the rows, in the truth's order -> (L, K) measures, as `NAMES`; NaN for what is not wanted."""
        out = np.empty((len(weights), NUM_MEASURES))
        measures_of(
            self.predictions, self.truth.values, self.linear, self.order, self.ranks, self.truth.dense, len(self.starts) - 1,
            self.bits, self.starts, weights, cut, self.wanted, out,
        )  # fmt: skip
        return out


@dataclass(frozen=True)
class _Repetitions:
    """Measures of a predictor.

    Attributes:
        parts: series of its repetitions, of which the mean is taken, and places in `NAMES` of what is measured of them.
        cut: ratings from here up are good.
    """

    parts: Sequence[tuple[Sequence[_Compared], Sequence[int]]]
    cut: float
    size: int = NUM_MEASURES

    @classmethod
    def of_parts(cls, parts: Sequence[tuple[Doubles, tuple[str, ...]]], truth: _Truth, cut: float) -> _Repetitions:
        """From what `Predictor.parts` gives."""
        return cls(
            [
                ([_Compared.of(one, truth, names) for one in series], [NAMES.index(name) for name in names])
                for series, names in parts
                if names
            ],
            cut,
        )

    def of(self, weights: Doubles) -> Doubles:
        """(L, N) weights of the rows, in the truth's order -> (L, K); NaN for what is not wanted."""
        found = np.full((len(weights), NUM_MEASURES), np.nan)
        for series, places in self.parts:
            found[:, places] = np.mean([one.measured(weights, self.cut)[:, places] for one in series], axis=0)
        return found


@dataclass(frozen=True)
class Predictor:
    """Predictions to be measured.

    Attributes:
        predictions: (N,) finite; or (R, N), predictions of R repetitions: each measure is the mean of theirs.
        names: which of `NAMES`.
        scaled: the same brought to the ratings' scale, (N,) or (R, N): what `SCALED` are of; None: they are on it.
    """

    predictions: npt.ArrayLike
    names: Sequence[str] = NAMES
    scaled: npt.ArrayLike | None = None

    def parts(self) -> list[tuple[Doubles, tuple[str, ...]]]:
        """Series (R, N), and the names that are of each."""
        raw, names = np.atleast_2d(np.asarray(self.predictions, np.float64)), tuple(self.names)
        if self.scaled is None:
            return [(raw, names)]
        of_scaled = tuple(name for name in names if name in SCALED)
        ranks = tuple(name for name in names if name not in SCALED)
        return [(raw, ranks), (np.atleast_2d(np.asarray(self.scaled, np.float64)), of_scaled)]


class Comparison:
    """Predictors measured on the same rows and the same resamples of them.

    Args:
        predictors: at least one.
        truth: (N,) finite, N >= 1.
        weights: (N,) >= 0; None: 1 each.
        groups: (N,) labels; rows of a group are resampled together. None: rows one by one.
        cut: ratings from here up are good; None: the weighted median.
        how: resamples and intervals.

    Raises:
        InputError: other shapes, NaN or infinite values.
    """

    def __init__(
        self,
        predictors: Sequence[Predictor],
        truth: npt.ArrayLike,
        *,
        weights: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        cut: float | None = None,
        how: Resampling = USUAL,
    ) -> None:
        wanted = np.asarray(truth, np.float64)
        self._names = [tuple(predictor.names) for predictor in predictors]
        parts = [predictor.parts() for predictor in predictors]
        for one in (repetition for pair in parts for repetitions, _ in pair for repetition in repetitions):
            _checked(one, wanted)
        given = np.ones(wanted.size) if weights is None else np.asarray(weights, np.float64)
        if given.shape != wanted.shape or not (np.isfinite(given) & (given >= 0)).all():
            raise InputError(f"weights of shape {given.shape} do not fit {wanted.size} rows, or are negative or not finite")
        numbers = np.arange(wanted.size) if groups is None else renumbered(groups)
        if numbers.shape != wanted.shape:
            raise InputError(f"groups of shape {numbers.shape} do not fit {wanted.size} rows")
        self._cut = _weighted_median(wanted, given) if cut is None else cut
        self._level = how.level
        rated = _Truth.of(wanted)
        statistics = [_Repetitions.of_parts(pair, rated, self._cut) for pair in parts]
        self._draws = GroupDraws(given[rated.order], numbers[rated.order], how.seed)
        self._found = [statistic.of(self._draws.weights[None])[0] for statistic in statistics]
        self._drawn = resampled(statistics, self._draws, how.number)

    def measures(self, at: int) -> Measures:
        """Of a predictor."""
        return self._summed(self._names[at], self._found[at], self._drawn[at])

    def difference(self, first: int, second: int) -> Measures:
        """The first predictor's measures less the second's, those that both have, with paired intervals."""
        names = [name for name in self._names[first] if name in self._names[second]]
        return self._summed(names, self._found[first] - self._found[second], self._drawn[first] - self._drawn[second])

    def _summed(self, names: Sequence[str], found: Doubles, drawn: Doubles) -> Measures:
        """Values (K,) and resampled values (B, K) as intervals; without bounds where over half of these are not defined."""
        at = {name: NAMES.index(name) for name in names}
        values = {name: interval_of(float(found[place]), drawn[:, place], self._level) for name, place in at.items()}
        return Measures(
            num_rows=self._draws.num_rows,
            num_groups=self._draws.num_groups,
            level=self._level,
            num_resamples=len(drawn),
            cut=self._cut,
            values=values,
        )


def _weighted_median(values: Doubles, weights: Doubles) -> float:
    """The smallest value with at least half of the weight at or below it."""
    order = np.argsort(values, kind="stable")
    at = int(np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2))
    return float(values[order[min(at, values.size - 1)]])

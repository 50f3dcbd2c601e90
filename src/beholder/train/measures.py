"""How well predictions agree with ratings, with bootstrap intervals, and whether one predictor is better than another.

Rows may have weights. Intervals are percentiles over resamples of rows, or of groups of rows where there are any (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 8); two predictors are compared on the same resamples.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.kernels.agreement import NUM_MEASURES, measures_of

Doubles = npt.NDArray[np.float64]

NAMES = (
    "srcc", "plcc", "kendall", "mae", "rmse", "accuracy", "pair_accuracy", "top_1_percent_precision", "top_5_percent_precision",
)  # fmt: skip
SMALLER_IS_BETTER = frozenset({"mae", "rmse"})
RESAMPLES, RESAMPLES_OF_MANY, MANY_ROWS = 1000, 300, 20_000
"""Resamples of an interval, and of more rows than `MANY_ROWS`, whose intervals are narrow."""
_MOST_COUNTS = 1 << 20


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
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def average_ranks(values: npt.ArrayLike) -> Doubles:
    """(N,) finite values -> (N,) float64 ranks from 1 to N; equal values share the mean of the ranks they take up."""
    ranked = _Ranked.of(np.asarray(values))
    totals = np.bincount(ranked.dense, minlength=len(ranked.values))
    return np.asarray((np.cumsum(totals) - totals / 2 + 0.5)[ranked.dense])


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


def kendall(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Kendall's tau-b of (N,) and (N,) finite values, -1 to 1; NaN when one is constant."""
    a, b = _checked(predictions, truth)
    return Compared.of(a, b).once(np.ones(b.size))["kendall"]


def pair_accuracy(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Share of the pairs of different truth that are ordered right, 0 to 1, equal predictions as half; for marks 0 and 1 the
    area under the ROC curve. NaN without such pairs."""  # noqa: D205, D209
    a, b = _checked(predictions, truth)
    return Compared.of(a, b).once(np.ones(b.size))["pair_accuracy"]


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
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def interval_of(value: float, drawn: Doubles, level: float) -> Interval:
    """A value with the percentiles of its resamples (B,); without bounds where over half of these are not defined."""
    defined = drawn[np.isfinite(drawn)]
    tail = 50 * (1 - level)
    is_enough = len(defined) * 2 > len(drawn) and math.isfinite(value)
    low, high = np.percentile(defined, [tail, 100 - tail]) if is_enough else (math.nan, math.nan)
    return Interval(value, float(low), float(high))


def times_drawn(num_groups: int, seed: int, resample: int) -> npt.NDArray[np.int64]:
    """(G,) how often each group is drawn in a resample, by the seed and its number alone."""
    picked = np.random.default_rng((seed, resample)).integers(0, num_groups, num_groups)
    return np.bincount(picked, minlength=num_groups)


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Measures of a predictor on one set of rows.

    Attributes:
        num_rows: rows; num_groups: what was resampled.
        level: of the intervals; resamples: that they are from.
        cut: ratings from here up count as good, for `accuracy`.
        values: by name (`NAMES`); mae and rmse are in units of the ratings, the others have none.
    """

    num_rows: int
    num_groups: int
    level: float
    resamples: int
    cut: float
    values: Mapping[str, Interval]

    def __getitem__(self, name: str) -> Interval:
        return self.values[name]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        record = {name: getattr(self, name) for name in ("num_rows", "num_groups", "level", "resamples", "cut")}
        return {**record, "values": {name: interval.to_json() for name, interval in self.values.items()}}


def measure(
    predictions: npt.ArrayLike,
    truth: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    cut: float | None = None,
    level: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
    names: Sequence[str] = NAMES,
) -> Measures:
    """All measures of a predictor, each with an interval.

    `srcc`, `plcc`, `kendall` (tau-b), `mae`, `rmse`; `accuracy`: share of rows on the right side of the cut; `pair_accuracy`;
    `top_1_percent_precision`: of the 1 % of the rows that are predicted highest (at least one) the share that is among the 1 %
    rated highest, rows that tie with the last of these included; equal predictions at the edge count in part.

    Args:
        predictions: (N,) finite; or (R, N), predictions of R repetitions: each measure is the mean of theirs.
        truth: (N,) finite.
        weights: (N,) >= 0; None: 1 each.
        groups: (N,) whole numbers; rows of a group are resampled together. None: rows one by one.
        cut: ratings from here up are good; None: the weighted median.
        level: of the intervals, in (0, 1).
        resamples: None: 1,000, of more than 20,000 rows 300; 0: no intervals.
        seed: what resamples are drawn from; the same for any number of threads.
        names: which of `NAMES`.

    Raises:
        InputError: other shapes, NaN or infinite values, a level out of range.
    """
    predictor = Predictor(predictions, names)
    return Comparison(
        [predictor], truth, weights=weights, groups=groups, cut=cut, level=level, resamples=resamples, seed=seed
    ).measures(0)


def compare(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    truth: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    cut: float | None = None,
    level: float = 0.95,
    resamples: int | None = None,
    seed: int = 0,
    names: Sequence[str] = NAMES,
) -> Measures:
    """Differences of the measures, first less second, with paired intervals: one that leaves out 0 says the difference is real.

    Arguments and errors as of `measure`.
    """
    both = [Predictor(first, names), Predictor(second, names)]
    return Comparison(
        both, truth, weights=weights, groups=groups, cut=cut, level=level, resamples=resamples, seed=seed
    ).difference(0, 1)


def _checked(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    a, b = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if a.ndim != 1 or b.ndim != 1 or a.shape != b.shape:
        raise InputError(f"cannot compare series of shapes {a.shape} and {b.shape}: both must be flat and equally long")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("cannot compare series that hold NaN or infinite values; drop those rows first")
    return a, b


@dataclass(frozen=True)
class _Ranked:
    """A series as its different values, ascending, and which of them each row has."""

    values: Doubles
    dense: npt.NDArray[np.int64]

    @classmethod
    def of(cls, series: npt.NDArray[Any]) -> _Ranked:
        order = np.argsort(series, kind="stable")
        in_order = series[order]
        is_first = np.concatenate(([True], in_order[1:] != in_order[:-1])) if series.size else np.empty(0, bool)
        dense = np.empty(series.size, np.int64)
        dense[order] = np.cumsum(is_first) - 1
        return cls(in_order[is_first].astype(np.float64), dense)


@dataclass(frozen=True)
class Compared:
    """One series of predictions beside the truth, sorted once; each resample then takes one compiled pass over the rows."""

    predicted: _Ranked
    rated: _Ranked
    order: npt.NDArray[np.int64]

    @classmethod
    def of(cls, predictions: Doubles, truth: Doubles) -> Compared:
        """Sort (N,) finite predictions and truth."""
        predicted, rated = _Ranked.of(predictions), _Ranked.of(truth)
        return cls(predicted, rated, np.lexsort((predicted.dense, rated.dense)))

    def values(
        self, weights: Doubles, groups: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], cut: float = 0.0
    ) -> Doubles:
        """(B, K) measures, in the order of `NAMES`, of resamples: counts (B, G) of groups (N,) of rows with weights (N,)."""
        out = np.empty((len(counts), NUM_MEASURES))
        measures_of(
            self.predicted.values,
            self.rated.values,
            self.predicted.dense[self.order],
            self.rated.dense[self.order],
            weights[self.order],
            groups[self.order],
            counts,
            cut,
            out,
        )
        return out

    def once(self, weights: Doubles, cut: float = 0.0) -> dict[str, float]:
        """The measures of the rows themselves."""
        values = self.values(weights, np.zeros(len(weights), np.int64), np.ones((1, 1), np.int64), cut)[0]
        return dict(zip(NAMES, values.tolist(), strict=True))


@dataclass(frozen=True)
class Predictor:
    """Predictions to be measured.

    Attributes:
        predictions: (N,) finite; or (R, N), predictions of R repetitions: each measure is the mean of theirs.
        names: which of `NAMES`.
    """

    predictions: npt.ArrayLike
    names: Sequence[str] = NAMES


class Comparison:
    """Predictors measured on the same rows and the same resamples of them.

    Args:
        predictors: at least one.
        truth, weights, groups, cut, level, resamples, seed: as of `measure`.

    Raises:
        InputError: other shapes, NaN or infinite values, a level out of range.
    """

    def __init__(
        self,
        predictors: Sequence[Predictor],
        truth: npt.ArrayLike,
        *,
        weights: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        cut: float | None = None,
        level: float = 0.95,
        resamples: int | None = None,
        seed: int = 0,
    ) -> None:
        wanted = np.asarray(truth, np.float64)
        self._names = [tuple(predictor.names) for predictor in predictors]
        unknown = [name for names in self._names for name in names if name not in NAMES]
        if unknown or not 0 < level < 1:
            raise InputError(f"no measure is named {unknown[0]!r}" if unknown else f"a level lies between 0 and 1, not {level}")
        compared = [
            [Compared.of(*_checked(one, wanted)) for one in np.atleast_2d(np.asarray(predictor.predictions, np.float64))]
            for predictor in predictors
        ]
        given = np.ones(wanted.size) if weights is None else np.asarray(weights, np.float64)
        if given.shape != wanted.shape or not (np.isfinite(given) & (given >= 0)).all():
            raise InputError(f"weights of shape {given.shape} do not fit {wanted.size} rows, or are negative or not finite")
        numbers = (
            np.arange(wanted.size) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
        )
        if numbers.shape != wanted.shape:
            raise InputError(f"groups of shape {numbers.shape} do not fit {wanted.size} rows")
        self._num_rows, self._num_groups = wanted.size, int(numbers.max()) + 1 if wanted.size else 0
        self._cut = _weighted_median(wanted, given) if cut is None else cut
        self._level = level
        many = RESAMPLES if wanted.size <= MANY_ROWS else RESAMPLES_OF_MANY
        num_resamples = (many if resamples is None else resamples) if wanted.size else 0
        whole = np.ones((1, self._num_groups), np.int64)
        self._found, self._drawn = [], []
        for series in compared:  # those of one predictor at a time: the counts are drawn again, and not kept
            self._found.append(_mean([one.values(given, numbers, whole, self._cut)[0] for one in series]))
            self._drawn.append(_resampled(series, given, numbers, self._num_groups, num_resamples, seed, self._cut))

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
            num_rows=self._num_rows,
            num_groups=self._num_groups,
            level=self._level,
            resamples=len(drawn),
            cut=self._cut,
            values=values,
        )


def _mean(values: Sequence[Doubles]) -> Doubles:
    return np.asarray(np.mean(values, axis=0))


def _weighted_median(values: Doubles, weights: Doubles) -> float:
    """The smallest value with at least half of the weight at or below it; NaN without rows."""
    if not values.size:
        return math.nan
    order = np.argsort(values, kind="stable")
    at = int(np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2))
    return float(values[order[min(at, values.size - 1)]])


def _resampled(
    series: Sequence[Compared],
    weights: Doubles,
    groups: npt.NDArray[np.int64],
    num_groups: int,
    num_resamples: int,
    seed: int,
    cut: float,
) -> Doubles:
    """(B, K) measures, the mean over repetitions, of resamples that depend on the seed and the number of groups alone."""
    batch = max(1, min(100, _MOST_COUNTS // max(1, num_groups)))
    starts = range(0, num_resamples, batch)

    def draw(start: int) -> Doubles:
        counts = np.empty((min(batch, num_resamples - start), num_groups), np.int64)
        for at in range(len(counts)):
            counts[at] = times_drawn(num_groups, seed, start + at)
        return _mean([one.values(weights, groups, counts, cut) for one in series])

    if not num_resamples:
        return np.empty((0, NUM_MEASURES))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return np.concatenate(list(pool.map(draw, starts)))

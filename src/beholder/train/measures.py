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
from beholder.kernels.concordance import concordance

Doubles = npt.NDArray[np.float64]

NAMES = (
    "srcc", "plcc", "kendall", "mae", "rmse", "accuracy", "pair_accuracy", "top_1_percent_precision", "top_5_percent_precision",
)  # fmt: skip
SMALLER_IS_BETTER = frozenset({"mae", "rmse"})
RESAMPLES, RESAMPLES_OF_MANY, MANY_ROWS = 1000, 300, 20_000
"""Resamples of an interval, and of more rows than `MANY_ROWS`, whose intervals are narrow."""
_SMALLEST_PAIRS = 1e-12


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
    series = np.asarray(values)
    return _Order.of(series).mid_ranks(np.ones(series.size)) + 0.5


def pearson(a: Doubles, b: Doubles, weights: Doubles | None = None) -> float:
    """Pearson's linear correlation of (N,) and (N,), in [-1, 1]; NaN when N < 2 or a series is constant."""
    if weights is not None and not weights.all():
        a, b, weights = a[weights > 0], b[weights > 0], weights[weights > 0]
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    if weights is None:
        a, b = a - a.mean(), b - b.mean()
    else:
        a, b = a - weights @ a / weights.sum(), b - weights @ b / weights.sum()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    c = a if weights is None else a * weights
    d = b if weights is None else b * weights
    return float(np.clip(np.dot(c, b) / math.sqrt(float(np.dot(c, a)) * float(np.dot(d, b))), -1.0, 1.0))


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
    return _Compared.of(a, b).pairs(np.ones(b.size))[0]


def pair_accuracy(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Share of the pairs of different truth that are ordered right, 0 to 1, equal predictions as half; for marks 0 and 1 the
    area under the ROC curve. NaN without such pairs."""  # noqa: D205, D209
    a, b = _checked(predictions, truth)
    return _Compared.of(a, b).pairs(np.ones(b.size))[1]


@dataclass(frozen=True)
class Interval:
    """A value with its bootstrap interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """A JSON-ready record; what is not defined is None."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


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
    checked = _Checked.of([predictions], truth, weights, groups, cut)
    found, drawn = _bootstrap(checked, names, resamples, seed, level)
    return checked.summed(names, found[0], drawn[:, 0], level, len(drawn))


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
    checked = _Checked.of([first, second], truth, weights, groups, cut)
    found, drawn = _bootstrap(checked, names, resamples, seed, level)
    return checked.summed(names, found[0] - found[1], drawn[:, 0] - drawn[:, 1], level, len(drawn))


def _checked(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    a, b = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if a.ndim != 1 or b.ndim != 1 or a.shape != b.shape:
        raise InputError(f"cannot compare series of shapes {a.shape} and {b.shape}: both must be flat and equally long")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("cannot compare series that hold NaN or infinite values; drop those rows first")
    return a, b


@dataclass(frozen=True)
class _Order:
    """Rows by a series: their order, where equal values begin in it, and the number of its value for each row."""

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    dense: npt.NDArray[np.int64]

    @classmethod
    def of(cls, series: npt.NDArray[Any]) -> _Order:
        order = np.argsort(series, kind="stable")
        in_order = series[order]
        is_first = np.concatenate(([True], in_order[1:] != in_order[:-1])) if series.size else np.empty(0, bool)
        dense = np.empty(series.size, np.int64)
        dense[order] = np.cumsum(is_first) - 1
        return cls(order, np.append(np.flatnonzero(is_first), series.size).astype(np.int64), dense)

    def mid_ranks(self, weights: Doubles) -> Doubles:
        """(N,) weight of the rows below and half of that of the equal ones."""
        totals = np.bincount(self.dense, weights, minlength=len(self.starts) - 1)
        return np.asarray((np.cumsum(totals) - totals / 2)[self.dense])


@dataclass(frozen=True)
class _Compared:
    """One series of predictions beside the truth, sorted once; measures of any weights of the rows take O(N log N) at most."""

    predictions: Doubles
    truth: Doubles
    by_prediction: _Order
    by_truth: _Order
    pair_order: npt.NDArray[np.int64]

    @classmethod
    def of(cls, predictions: Doubles, truth: Doubles) -> _Compared:
        by_prediction, by_truth = _Order.of(predictions), _Order.of(truth)
        return cls(predictions, truth, by_prediction, by_truth, np.lexsort((by_prediction.dense, by_truth.dense)))

    def pairs(self, weights: Doubles) -> tuple[float, float]:
        """Kendall's tau-b and pair accuracy."""
        alike, otherwise, equal_prediction, equal_truth = concordance(
            self.by_truth.starts,
            self.by_prediction.dense[self.pair_order],
            weights[self.pair_order],
            len(self.by_prediction.starts) - 1,
        )
        apart = alike + otherwise + equal_prediction
        product = apart * (alike + otherwise + equal_truth)
        accuracy = (alike + equal_prediction / 2) / apart if apart > _SMALLEST_PAIRS else math.nan
        return (alike - otherwise) / math.sqrt(product) if product > _SMALLEST_PAIRS else math.nan, accuracy

    def top_precision(self, weights: Doubles, share: float) -> float:
        total = float(weights.sum())
        if not total > 0:
            return math.nan
        wanted = min(total, max(1.0 if total >= 1 else total, math.ceil(share * total - 1e-9)))
        by_rating = np.cumsum(np.bincount(self.by_truth.dense, weights, minlength=len(self.by_truth.starts) - 1)[::-1])
        num_values = int(np.searchsorted(by_rating, wanted - 1e-9 * total)) + 1
        is_top = self.by_truth.dense >= len(by_rating) - num_values
        num_predictions = len(self.by_prediction.starts) - 1
        all_of = np.bincount(self.by_prediction.dense, weights, minlength=num_predictions)[::-1]
        good_of = np.bincount(self.by_prediction.dense, weights * is_top, minlength=num_predictions)[::-1]
        left = np.clip(wanted - (np.cumsum(all_of) - all_of), 0.0, all_of)
        taken = np.divide(left, all_of, out=np.zeros_like(left), where=all_of > 0)
        return float(good_of @ taken / wanted)

    def values(self, weights: Doubles, names: Sequence[str], cut: float) -> Doubles:
        """(K,) the measures with these names."""
        total = float(weights.sum())
        found: dict[str, float] = {}
        errors = self.predictions - self.truth
        if "srcc" in names:
            found["srcc"] = pearson(self.by_prediction.mid_ranks(weights), self.by_truth.mid_ranks(weights), weights)
        if "plcc" in names:
            found["plcc"] = pearson(self.predictions, self.truth, weights)
        if "kendall" in names or "pair_accuracy" in names:
            found["kendall"], found["pair_accuracy"] = self.pairs(weights)
        if total > 0:
            found["mae"] = float(weights @ np.abs(errors)) / total
            found["rmse"] = math.sqrt(float(weights @ errors**2) / total)
            found["accuracy"] = float(weights @ ((self.predictions >= cut) == (self.truth >= cut))) / total
        for name, share in (("top_1_percent_precision", 0.01), ("top_5_percent_precision", 0.05)):
            if name in names:
                found[name] = self.top_precision(weights, share)
        return np.array([found.get(name, math.nan) for name in names])


@dataclass(frozen=True)
class _Checked:
    """Predictors, each with its repetitions, beside the truth."""

    predictors: list[list[_Compared]]
    weights: Doubles
    groups: npt.NDArray[np.int64]
    num_groups: int
    cut: float

    @classmethod
    def of(
        cls,
        predictors: Sequence[npt.ArrayLike],
        truth: npt.ArrayLike,
        weights: npt.ArrayLike | None,
        groups: npt.ArrayLike | None,
        cut: float | None,
    ) -> _Checked:
        wanted = np.asarray(truth, np.float64)
        compared = [
            [_Compared.of(*_checked(one, wanted)) for one in np.atleast_2d(np.asarray(predictor, np.float64))]
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
        if cut is None:
            order = np.argsort(wanted, kind="stable")
            at = int(np.searchsorted(np.cumsum(given[order]), given.sum() / 2)) if wanted.size else 0
            cut = float(wanted[order[min(at, wanted.size - 1)]]) if wanted.size else math.nan
        return cls(compared, given, numbers, int(numbers.max()) + 1 if wanted.size else 0, cut)

    def values(self, weights: Doubles, names: Sequence[str]) -> Doubles:
        """(predictors, K): the mean over repetitions of each measure."""
        return np.stack([np.mean([one.values(weights, names, self.cut) for one in many], axis=0) for many in self.predictors])

    def summed(self, names: Sequence[str], found: Doubles, drawn: Doubles, level: float, resamples: int) -> Measures:
        """Values and resampled values, (K,) and (resamples, K), as intervals; without bounds where over half are undefined."""
        values = {}
        for at, name in enumerate(names):
            defined = drawn[:, at][np.isfinite(drawn[:, at])] if len(drawn) else np.empty(0)
            tail = 50 * (1 - level)
            is_enough = len(defined) * 2 > len(drawn) and math.isfinite(found[at])
            low, high = np.percentile(defined, [tail, 100 - tail]) if is_enough else (math.nan, math.nan)
            values[name] = Interval(float(found[at]), float(low), float(high))
        return Measures(
            num_rows=len(self.weights),
            num_groups=self.num_groups,
            level=level,
            resamples=resamples,
            cut=self.cut,
            values=values,
        )


def _bootstrap(
    checked: _Checked, names: Sequence[str], resamples: int | None, seed: int, level: float
) -> tuple[Doubles, Doubles]:
    """Measures (P, K) and those of the resamples (B, P, K)."""
    unknown = [name for name in names if name not in NAMES]
    if unknown or not 0 < level < 1:
        raise InputError(f"no measure is named {unknown[0]!r}" if unknown else f"a level lies between 0 and 1, not {level}")
    num_rows = len(checked.weights)
    wanted = (RESAMPLES if num_rows <= MANY_ROWS else RESAMPLES_OF_MANY) if resamples is None else resamples
    found = checked.values(checked.weights, names)
    drawn = np.full((wanted if num_rows else 0, len(checked.predictors), len(names)), math.nan)

    def draw(number: int) -> None:
        rng = np.random.default_rng((seed, number))
        counts = np.bincount(rng.integers(0, checked.num_groups, checked.num_groups), minlength=checked.num_groups)
        drawn[number] = checked.values(checked.weights * counts[checked.groups], names)

    num_threads = len(os.sched_getaffinity(0))
    if num_rows < 2000 or num_threads == 1:
        for number in range(len(drawn)):
            draw(number)
    else:
        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(draw, range(len(drawn))))
    return found, drawn

"""Measures of the agreement of two equally long series of numbers."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError

FloatSeries = npt.ArrayLike
"""(N,) numbers of any real dtype, all finite."""


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


def _checked(first: FloatSeries, second: FloatSeries) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Both series as (N,) float64. Raises InputError unless they are flat, of one length, and finite."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.ndim != 1 or b.ndim != 1 or a.shape != b.shape:
        raise InputError(f"cannot compare series of shapes {a.shape} and {b.shape}: both must be flat and equally long")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("cannot compare series that hold NaN or infinite values; drop those rows first")
    return a, b


def average_ranks(values: FloatSeries) -> npt.NDArray[np.float64]:
    """(N,) finite values -> (N,) float64 ranks from 1 to N; equal values share the mean of the ranks they take up."""
    series = np.asarray(values)
    order = np.argsort(series, kind="stable")
    in_order = series[order]
    starts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1]))) if series.size else np.empty(0, np.intp)
    lengths = np.diff(np.append(starts, series.size))
    ranks = np.empty(series.size, np.float64)
    ranks[order] = np.repeat(starts + (lengths + 1) / 2, lengths)
    return ranks


def pearson(predictions: FloatSeries, truth: FloatSeries) -> float:
    """Pearson's linear correlation of (N,) and (N,), in [-1, 1]; NaN when N < 2 or a series is constant."""
    a, b = _checked(predictions, truth)
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip(np.dot(a, b) / math.sqrt(float(np.dot(a, a)) * float(np.dot(b, b))), -1.0, 1.0))


def spearman(predictions: FloatSeries, truth: FloatSeries) -> float:
    """Spearman's rank correlation of (N,) and (N,), ties by average ranks; NaN when N < 2 or a series is constant."""
    a, b = _checked(predictions, truth)
    return pearson(average_ranks(a), average_ranks(b))


def mean_squared_error(predictions: FloatSeries, truth: FloatSeries) -> float:
    """Mean of the squared differences of (N,) and (N,); NaN when N = 0."""
    a, b = _checked(predictions, truth)
    return float(np.mean((a - b) ** 2)) if a.size else math.nan


def r2(predictions: FloatSeries, truth: FloatSeries) -> float:
    """1 - squared error / squared deviation of `truth` from its mean: 1 is perfect, 0 is no better than the mean.

    NaN when N < 2 or `truth` is constant.
    """
    a, b = _checked(predictions, truth)
    if a.size < 2 or np.ptp(b) == 0:
        return math.nan
    return float(1.0 - np.sum((a - b) ** 2) / np.sum((b - b.mean()) ** 2))


def agreement(predictions: FloatSeries, truth: FloatSeries) -> Agreement:
    """All measures of (N,) predictions against (N,) truth. Raises InputError for other shapes, NaN or Inf."""
    return Agreement(
        num_rows=int(np.asarray(truth).size),
        srcc=spearman(predictions, truth),
        plcc=pearson(predictions, truth),
        mse=mean_squared_error(predictions, truth),
        r2=r2(predictions, truth),
    )

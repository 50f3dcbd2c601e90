"""A learning curve: the error by the number of ratings, and what more of them would bring."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.io.records import finite

_EXPONENTS = np.linspace(0.25, 1.5, 26)
SIZES, LEAST_ROWS = 5, 8
"""Sizes of a curve, each half as many ratings as the next; smaller ones are left out."""


@dataclass(frozen=True)
class Point:
    """Fits to `num_rows` ratings, on the mean over folds.

    Attributes:
        num_rows: ratings of the fit.
        mse: mean squared error on ratings that it did not see, in squared units; for marks the Brier score.
        srcc: Spearman's rank correlation with them; NaN where it is not defined.
    """

    num_rows: int
    mse: float
    srcc: float


@dataclass(frozen=True)
class LearningCurve:
    """Points, fewest ratings first, and the error = floor + scale * n^-exponent through them.

    Attributes:
        points: measured.
        floor: what no number of ratings gets below with this kind of head, of the curve; NaN where no curve falls.
        scale, exponent: of it.
        predicted: rmse for numbers of ratings that nobody has given yet: extrapolated, the less sure the further.
    """

    points: tuple[Point, ...]
    floor: float
    scale: float
    exponent: float
    predicted: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record; what is not defined is None."""
        return {
            "points": [{"num_rows": p.num_rows, "rmse": finite(math.sqrt(p.mse)), "srcc": finite(p.srcc)} for p in self.points],
            "curve": "mse = floor + scale * num_rows ** -exponent",
            "floor": finite(self.floor),
            "scale": finite(self.scale),
            "exponent": finite(self.exponent),
            "extrapolated_rmse": {str(size): rmse for size, rmse in self.predicted.items()},
        }


def learning_curve(num_rows: int, measure: Callable[[int], tuple[float, float]]) -> LearningCurve:
    """The curve of fits to parts of the ratings, each part within the next one.

    Args:
        num_rows: ratings that there are for a fit.
        measure: from a number of ratings to the mean squared error and rank correlation on others, of fits to so many.

    Raises:
        InputError: fewer ratings than a fit takes.
    """
    wanted = sorted({num_rows >> halvings for halvings in range(SIZES)} - set(range(LEAST_ROWS)))
    if not wanted:
        raise InputError(f"too few ratings for a learning curve: {num_rows}, {LEAST_ROWS} are needed")
    points = tuple(Point(size, *measure(size)) for size in wanted)
    floor, scale, exponent = fitted_curve([p.num_rows for p in points], [p.mse for p in points])
    predicted = {}
    if math.isfinite(scale):
        predicted = {size: math.sqrt(floor + scale * size**-exponent) for size in (2 * num_rows, 4 * num_rows)}
    return LearningCurve(points, floor, scale, exponent, predicted)


def fitted_curve(sizes: npt.ArrayLike, errors: npt.ArrayLike) -> tuple[float, float, float]:
    """Floor, scale and exponent of error = floor + scale * n^-exponent, both >= 0, by least squares of relative errors.

    Exponents from 0.25 to 1.5 are tried. NaN three times with fewer than three sizes, or where errors do not fall.
    """
    n, e = np.asarray(sizes, np.float64), np.asarray(errors, np.float64)
    best, found = math.inf, (math.nan, math.nan, math.nan)
    if len(n) < 3 or not np.isfinite(e).all() or not (e > 0).all():
        return found
    for exponent in _EXPONENTS:
        columns = np.stack([np.ones(len(n)), n**-exponent], axis=1) / e[:, None]
        (floor, scale), *_ = np.linalg.lstsq(columns, np.ones(len(n)), rcond=None)
        if floor < 0:
            floor, scale = 0.0, float(columns[:, 1].sum() / (columns[:, 1] ** 2).sum())
        misses = float(((columns @ (floor, scale) - 1) ** 2).sum())
        if scale > 0 and misses < best:
            best, found = misses, (float(floor), float(scale), float(exponent))
    return found

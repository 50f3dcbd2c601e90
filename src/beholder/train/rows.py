"""Rated rows: which embeddings can be fitted to, and their unit-length copies, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.columns import RowStatus
from beholder.errors import InputError
from beholder.kernels import address_of
from beholder.kernels.design import design_rows, residual_sums
from beholder.kernels.vectors import LANES

NO_RATING = "no_rating"
"""Why a row was left out: its rating is NaN or infinite. The other reasons are the words of `RowStatus`."""

BLOCK_ROWS = 2048
"""Rows that are read, and multiplied, at once. Results do not depend on how a caller cuts its rows: they are cut anew."""

Doubles = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RatedBlock:
    """Some rows with what they were rated.

    Attributes:
        embeddings: (M, D) float16, float32 or float64, normalised or not.
        targets: (n,) float64, finite.
        weights: (n,) float64, >= 0; None: 1 each.
        folds: (n,) whole numbers from 0, the part of the data that a row belongs to; None: 0 each.
        rows: (n,) which rows of `embeddings` are meant; None: all, M = n.
    """

    embeddings: Matrix
    targets: Doubles
    weights: Doubles | None = None
    folds: npt.NDArray[np.integer[Any]] | None = None
    rows: Rows | None = None

    @property
    def numbers(self) -> Rows:
        """(n,) rows of `embeddings` that are meant."""
        return np.arange(len(self.targets)) if self.rows is None else self.rows


def checked_matrix(embeddings: Any) -> Matrix:
    """An (N, D) array of floats, as it is. Raises InputError for anything else."""
    matrix: Matrix = np.asanyarray(embeddings)
    if matrix.ndim != 2 or matrix.shape[1] == 0 or matrix.dtype.kind != "f" or matrix.dtype.itemsize > 8:
        raise InputError(f"cannot fit to embeddings of shape {matrix.shape} and type {matrix.dtype}: (N, D) floats are needed")
    return matrix


def checked_series(values: Any, num_rows: int, what: str) -> Doubles:
    """(N,) float64 of whole numbers or floats. Raises InputError for other shapes and types."""
    series = np.asarray(values)
    if series.dtype.kind not in "fiub" or series.shape != (num_rows,):
        raise InputError(
            f"cannot fit to {what} of shape {series.shape} and type {series.dtype}: "
            f"one number for each of the {num_rows} embeddings is needed"
        )
    return series.astype(np.float64)


def checked_weights(values: Any, num_rows: int) -> Doubles:
    """(N,) float64 weights; None gives 1 each. Raises InputError for negative, NaN or infinite ones."""
    if values is None:
        return np.ones(num_rows)
    weights = checked_series(values, num_rows, "weights")
    bad = ~(np.isfinite(weights) & (weights >= 0))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(f"weight {row} is {weights[row]:g}: weights are numbers >= 0; {int(bad.sum())} of {num_rows} are not")
    return weights


def renumbered(labels: npt.ArrayLike) -> Rows:
    """Labels of any shape -> int64 numbers from 0 without gaps in their place, in the order of the labels."""
    given = np.asarray(labels)
    return np.unique(given, return_inverse=True)[1].reshape(given.shape).astype(np.int64)


def names_of_rows(samples: Sequence[str] | None, rows: Rows) -> list[str]:
    """The samples of some rows, or their numbers where there are none."""
    return [str(row) if samples is None else samples[row] for row in rows.tolist()]


def fill_design(
    embeddings: Matrix,
    rows: Rows,
    targets: Doubles,
    roots: Doubles,
    origin: Doubles,
    out: npt.NDArray[np.floating[Any]],
) -> npt.NDArray[np.uint8]:
    """Write `root * (x/|x| - origin, target, 1)` of rows of a matrix to the first rows of `out`; returns their statuses."""
    block, rows = _readable(embeddings, rows)
    statuses = np.empty(len(rows), np.uint8)
    design_rows(*address_of(block), rows, origin, targets, roots, out, statuses)
    return statuses


def _readable(matrix: Matrix, rows: Rows) -> tuple[Matrix, Rows]:
    """A matrix and its rows as kernels can read them: the same, or a copy of these rows in another layout."""
    if matrix.strides[1] == matrix.itemsize and matrix.dtype.isnative and matrix.flags.aligned:
        return matrix, rows
    return np.ascontiguousarray(matrix[rows], matrix.dtype.newbyteorder("=")), np.arange(len(rows))


def usable_rows(matrix: Matrix, ratings: Doubles) -> tuple[Rows, dict[str, int]]:
    """Ascending numbers of the rows that can be used, and how many cannot, by reason. Rows without a rating are not read."""
    rated = np.flatnonzero(np.isfinite(ratings))
    excluded = {NO_RATING: len(ratings) - len(rated)}
    statuses = np.zeros(len(rated), np.uint8)
    dim = matrix.shape[1]
    out, origin, ones = np.empty((BLOCK_ROWS, dim + 2), np.float32), np.zeros(dim), np.ones(BLOCK_ROWS)
    for start in range(0, len(rated), BLOCK_ROWS):
        rows = rated[start : start + BLOCK_ROWS]
        some = ones[: len(rows)]
        statuses[start : start + len(rows)] = fill_design(matrix, rows, some, some, origin, out)
    for status in (RowStatus.NAN, RowStatus.INF, RowStatus.ZERO_NORM):
        excluded[status.word] = int(np.count_nonzero(statuses == status))
    return rated[statuses == RowStatus.OK], {reason: count for reason, count in excluded.items() if count}


def unit_rows(matrix: Matrix, rows: Rows | None = None) -> Doubles:
    """Copies of rows, each divided by its length, (n, D) float64; all rows when `rows` is None.

    Raises:
        InputError: a row is all zeros, or holds NaN or infinite values.
    """
    matrix = checked_matrix(matrix)
    wanted = np.arange(len(matrix)) if rows is None else np.asarray(rows, np.int64)
    dim = matrix.shape[1]
    out = np.empty((len(wanted), dim))
    buffer, origin, ones = np.empty((BLOCK_ROWS, dim + 2)), np.zeros(dim), np.ones(BLOCK_ROWS)
    for start in range(0, len(wanted), BLOCK_ROWS):
        some = wanted[start : start + BLOCK_ROWS]
        statuses = fill_design(matrix, some, ones[: len(some)], ones[: len(some)], origin, buffer)
        check_statuses(statuses, some)
        out[start : start + len(some)] = buffer[: len(some), :dim]
    return out


@dataclass(frozen=True)
class Residuals:
    """Sums over rows z = x/|x| - origin with weights v and residuals r = target - w . x/|x| - bias.

    Attributes:
        gradient: (D,) float64, the sum of v r z; mean: of v r; total: of v.
    """

    gradient: Doubles
    mean: float
    total: float


def residuals_of(block: RatedBlock, origin: Doubles, weight: Doubles, bias: float) -> Residuals:
    """Sums over the rows of a block, in float64, for the head `weight . x/|x| + bias`.

    Raises:
        InputError: a row is all zeros, or holds NaN or infinite values.
    """
    rows, given = block.numbers, block.weights
    gradient, statuses = np.zeros(len(weight)), np.empty(len(rows), np.uint8)
    padded = np.concatenate([weight, np.zeros(-len(weight) % LANES)])
    matrix, places = _readable(block.embeddings, rows)
    weights = np.ones(len(rows)) if given is None else given
    mean, total = residual_sums(*address_of(matrix), places, origin, block.targets, weights, padded, bias, gradient, statuses)
    check_statuses(statuses, rows)
    return Residuals(gradient, mean, total)


def check_statuses(statuses: npt.NDArray[np.uint8], rows: Rows) -> None:
    """Raise InputError that names the first row whose status is not 0."""
    if statuses.any():
        at = int(np.flatnonzero(statuses)[0])
        raise InputError(f"embedding {int(rows[at])} cannot be used ({RowStatus(int(statuses[at])).word}); leave it out first")


def blocks_of(
    matrix: Matrix,
    rows: Rows,
    targets: Doubles,
    weights: Doubles | None = None,
    folds: npt.NDArray[np.integer[Any]] | None = None,
) -> Iterator[RatedBlock]:
    """Rows of a matrix, which may be memory-mapped, as blocks of it; none is copied.

    `targets`, `weights` and `folds` are of these rows, in order.
    """
    for start in range(0, len(rows), 4 * BLOCK_ROWS):
        part = slice(start, min(len(rows), start + 4 * BLOCK_ROWS))
        yield RatedBlock(
            matrix,
            targets[part],
            None if weights is None else weights[part],
            None if folds is None else folds[part],
            rows[part],
        )


def balancing_weights(labels: npt.ArrayLike, weights: Doubles | None = None) -> Doubles:
    """Weights that make every label (a class, a source) count the same in all: (N,) labels -> (N,) float64 with mean as given.

    weight = given weight * total / (number of labels * total of the row's label).
    """
    numbers = renumbered(labels)
    given = np.ones(len(numbers)) if weights is None else weights
    totals = np.bincount(numbers, given)
    if not (totals > 0).all():
        raise InputError("cannot balance labels of which one has no weight at all; leave its rows out")
    return np.asarray(given * totals.sum() / (len(totals) * totals[numbers]))

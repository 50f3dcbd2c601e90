"""Ridge regression from sums over rows: one pass in bounded memory, exact leave-one-out, folds by subtraction, a prior.

The head is `rating = weight . x/|x| + bias`. For a strength s and a prior direction p the fit minimises

    sum_i v_i (y_i - weight . x_i - bias)^2 / sum_i v_i  +  s |weight - a p|^2

with row weights v_i and the bias unpenalised (Hoerl and Kennard, "Ridge regression", Technometrics 12, 1970,
https://doi.org/10.1080/00401706.1970.10488634). The mean makes a strength mean the same for any number of rows. Without a
prior p is 0. With one, a is 1, or free as the bias is: then only what differs from a multiple of the prior is penalised, so
that a head on a scale of 1 to 10 is a prior for ratings of 1 to 5 too. Both are linear in y, so that leaving a row out has
the closed form e_i / (1 - h_ii) (Cook and Weisberg, "Residuals and
Influence in Regression", 1982, 2.2), with s * sum_i v_i kept.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.train.linear import LinearFit, Prior, half_way, reduced, widened
from beholder.train.rows import BLOCK_ROWS, Doubles, RatedBlock, Rows, check_statuses, fill_design, residuals_of, unit_rows
from beholder.train.threads import in_order

STRENGTHS: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in np.arange(2.0, -10.25, -0.5))
"""Strengths that are tried, strongest first. Rows have length 1, so the eigenvalues of their covariance are at most 1."""

METHOD = "ridge regression in closed form on rows of length 1, bias unpenalised"

Precision = Literal["float64", "float32"]

_PRODUCT_ROWS = 16_384
"""Rows of a fold that are multiplied at once: a larger product spends less on adding it to the sums, and holds more memory."""

_MOST_BYTES = 2 << 30
"""That all threads together hold of rows and of products whose turn has not come."""
_SLOW_TO_SOLVE = 256
"""Dimensions from which folds are solved on several threads; below that it takes a few milliseconds."""

_NO_WEIGHT = "cannot fit a head: the weights of all rows are 0"
_SMALLEST_VARIANCE = 1e-24
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Sums:
    """Weighted sums over rows z = (x - x_origin, y - y_origin, 1) of length D + 2; they can be added and subtracted.

    Attributes:
        x_origin: (D,) float64, a point near the mean, so that little cancels; y_origin: the same for the targets.
        matrix: (D + 2, D + 2) float64, the sum of v z z^T.
        count: rows in it.
    """

    x_origin: Doubles
    y_origin: float
    matrix: Doubles
    count: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.x_origin, self.y_origin, self.matrix + other.matrix, self.count + other.count)

    def __sub__(self, other: Sums) -> Sums:
        return Sums(self.x_origin, self.y_origin, self.matrix - other.matrix, self.count - other.count)

    @property
    def total(self) -> float:
        """The sum of the rows' weights."""
        return float(self.matrix[-1, -1])

    def means(self) -> tuple[Doubles, float]:
        """The weighted mean row, (D,), and target."""
        means: Doubles = self.matrix[:-1, -1] / self.total
        return self.x_origin + means[:-1], self.y_origin + float(means[-1])

    def covariance(self) -> tuple[Doubles, Doubles, float]:
        """Weighted covariance of the rows (D, D), theirs with the targets (D,), and the targets' variance."""
        means = self.matrix[:-1, -1] / self.total
        about = self.matrix[:-1, :-1] / self.total - np.outer(means, means)
        return about[:-1, :-1], about[:-1, -1], float(about[-1, -1])

    def squared_error(self, weights: Doubles, biases: Doubles) -> Doubles:
        """Weighted sums of squared errors on these rows of K heads, weights (D, K) and biases (K,); (K,)."""
        offsets = biases + self.x_origin @ weights - self.y_origin
        heads = np.vstack([weights, np.full((1, weights.shape[1]), -1.0), offsets[None, :]])
        return np.asarray(np.maximum(np.einsum("ik,ik->k", heads, self.matrix @ heads), 0.0))


def collect(blocks: Iterable[RatedBlock], *, num_folds: int = 1, precision: Precision = "float64") -> list[Sums]:
    """Sums of every fold in one pass, on all cores, in bounded memory.

    That is a buffer of 16,384 rows and up to two products of (D + 2)^2 a core, and (D + 2)^2 float64 a fold; blocks are kept
    until their rows are multiplied.

    The rows of a fold are multiplied 16,384 at a time in their order, however the caller's blocks are cut, and the products are
    added in that order, so the sums are the same to the bit for any cut. Up to 16,384 rows are one product of all BLAS threads,
    of which another number may change the last bits (about 1e-13 of a weight).

    Args:
        blocks: the rows; folds as their blocks say, below `num_folds`. None may be written to before this returns.
        num_folds: parts that are summed apart.
        precision: of the products within 16,384 rows; sums of these are float64 always. "float32" takes half the time and is
            off by about 1e-8 of the largest entry; `refined` takes the error out again.

    Raises:
        InputError: no rows; a row that is all zeros or not finite; blocks of different widths.
    """
    rest = (block for block in blocks if len(block.targets))
    first = next(rest, None)
    if first is None:
        raise InputError("cannot fit a head to no rows at all; give rows with ratings")
    dim = first.embeddings.shape[1]
    # Any point near the rows serves, and the first row depends on no cut.
    x_origin, y_origin = unit_rows(first.embeddings, first.numbers[:1])[0], float(first.targets[0])
    buffers: _Arrays = SimpleQueue()
    products: _Arrays = SimpleQueue()
    matrices, counts = [np.zeros((dim + 2, dim + 2)) for _ in range(num_folds)], [0] * num_folds

    def product(piece: _Piece) -> npt.NDArray[np.floating[Any]]:
        buffer = _taken(buffers, (_PRODUCT_ROWS, dim + 2), precision)
        at = 0
        for block, rows in piece.parts:
            at += _fill(block, rows, x_origin, y_origin, buffer[at:])
        found = np.matmul(buffer[:at].T, buffer[:at], out=_taken(products, (dim + 2, dim + 2), precision))
        buffers.put(buffer)
        return found

    pieces = _pieces(chain([first], rest), num_folds, dim)
    held = np.dtype(precision).itemsize * (dim + 2) * (_PRODUCT_ROWS + 2 * (dim + 2))
    most = max(1, _MOST_BYTES // held)
    for piece, found in in_order(product, pieces, is_large=lambda piece: piece.num_rows == _PRODUCT_ROWS, most=most):
        matrices[piece.fold] += found
        products.put(found)
        counts[piece.fold] += piece.num_rows
    return [Sums(x_origin, y_origin, *pair) for pair in zip(matrices, counts, strict=True)]


_Arrays = SimpleQueue[npt.NDArray[np.floating[Any]]]


def _taken(free: _Arrays, shape: tuple[int, int], precision: Precision) -> npt.NDArray[np.floating[Any]]:
    """An array that is free, or a new one: fresh memory is dear at its first touch."""
    try:
        return free.get_nowait()
    except Empty:
        return np.empty(shape, precision)


@dataclass(frozen=True)
class _Piece:
    """Rows of one fold that are multiplied at once: blocks, and the places in each."""

    fold: int
    parts: list[tuple[RatedBlock, Rows]]
    num_rows: int


def _pieces(blocks: Iterable[RatedBlock], num_folds: int, dim: int) -> Iterator[_Piece]:
    """The rows of every fold in their order, 16,384 at a time; at the end what is left of each fold."""
    open_parts: list[list[tuple[RatedBlock, Rows]]] = [[] for _ in range(num_folds)]
    filled = [0] * num_folds
    for block in blocks:
        if block.embeddings.shape[1] != dim:
            raise InputError(f"cannot fit to rows of {dim} and of {block.embeddings.shape[1]} numbers together")
        for fold in range(num_folds if block.folds is not None else 1):
            rows = np.arange(len(block.targets)) if block.folds is None else np.flatnonzero(block.folds == fold)
            while len(rows):
                some, rows = rows[: _PRODUCT_ROWS - filled[fold]], rows[_PRODUCT_ROWS - filled[fold] :]
                open_parts[fold].append((block, some))
                filled[fold] += len(some)
                if filled[fold] == _PRODUCT_ROWS:
                    yield _Piece(fold, open_parts[fold], _PRODUCT_ROWS)
                    open_parts[fold], filled[fold] = [], 0
    for fold, parts in enumerate(open_parts):
        if parts:
            yield _Piece(fold, parts, filled[fold])


def _fill(block: RatedBlock, rows: Rows, x_origin: Doubles, y_origin: float, out: npt.NDArray[np.floating[Any]]) -> int:
    """Write some rows of a block, as `fill_design` does, to the first rows of `out`; returns how many."""
    roots = np.ones(len(rows)) if block.weights is None else np.sqrt(block.weights[rows])
    numbers = rows if block.rows is None else block.rows[rows]
    check_statuses(fill_design(block.embeddings, numbers, block.targets[rows] - y_origin, roots, x_origin, out), numbers)
    return len(rows)


@dataclass(frozen=True)
class Solution:
    """Ridge solutions for K strengths from one eigendecomposition, and what leaving rows out takes.

    Attributes:
        strengths: (K,) float64.
        weights: (D, K); biases: (K,).
        deviations: (D, K), `weights` less the prior's multiple; it is what a strength holds down.
        prior_scales: (K,), the multiple of the prior; 0 without one.
    """

    strengths: Doubles
    weights: Doubles
    biases: Doubles
    deviations: Doubles
    prior_scales: Doubles
    _x_mean: Doubles
    _total: float
    _values: Doubles
    _vectors: Doubles
    _with_prior: Doubles | None
    _prior: Prior | None

    def predict(self, unit: Doubles) -> Doubles:
        """(n, D) rows of length 1 -> (n, K) ratings."""
        return np.asarray(unit @ self.weights + self.biases)

    def left_out_errors(self, unit: Doubles, targets: Doubles, weights: Doubles) -> Doubles:
        """Target less prediction of each row, (n, K), by a fit without that row; all of them have to be rows of the fit."""
        about = unit - self._x_mean
        influence = np.full(len(unit), 1.0 / self._total)
        if self._with_prior is not None and self._prior is not None:
            variance = float(self._prior.weight @ self._with_prior)
            scores = about @ self._prior.weight
            influence += scores**2 / (self._total * variance)
            about -= np.outer(scores / variance, self._with_prior)
        turned = about @ self._vectors
        denominators = self._values[:, None] + self.strengths[None, :]
        inverse = np.divide(
            1.0, denominators, out=np.zeros_like(denominators), where=(self._values > 0)[:, None] & (denominators > 0)
        )
        leverage = weights[:, None] * (influence[:, None] + turned**2 @ inverse / self._total)
        errors = targets[:, None] - self.predict(unit)
        # A row that is alone in some direction is fitted exactly, whatever its target: nothing is known of it without it.
        left = 1.0 - leverage
        return np.asarray(np.divide(errors, left, out=np.full_like(errors, np.inf), where=left > 1e-9))


def solve(sums: Sums, strengths: Sequence[float] | Doubles, prior: Prior | None = None) -> Solution:
    """Ridge solutions for all strengths; of those that fit equally well (strength 0) the one with the shortest deviation.

    Raises:
        InputError: rows that all point the same way, or without weight.
    """
    if not sums.total > 0:
        raise InputError(_NO_WEIGHT)
    x_mean, y_mean = sums.means()
    covariance, with_ratings, _ = sums.covariance()
    with_prior, scale = None, 0.0
    original, wanted = covariance, with_ratings
    if prior is not None:
        found = covariance @ prior.weight
        variance = float(prior.weight @ found)
        size = float(prior.weight @ prior.weight)
        if (
            prior.scale == "fixed"
            or variance <= _SMALLEST_VARIANCE * size
            or variance <= 1e-12 * size * float(np.trace(covariance))
        ):
            scale, with_ratings = 1.0, with_ratings - found
        else:
            with_prior = found
            covariance = covariance - np.outer(found, found) / variance
            with_ratings = with_ratings - found * (float(prior.weight @ with_ratings) / variance)
    values, vectors = np.linalg.eigh(covariance)
    largest = float(np.trace(original))
    if largest <= _SMALLEST_VARIANCE:
        raise InputError(f"cannot fit a head: the embeddings of all {sums.count} rows point the same way")
    values = np.where(values > largest * len(values) * 10 * _EPS, values, 0.0)
    projected = np.where(values > 0, vectors.T @ with_ratings, 0.0)
    chosen = np.asarray(strengths, np.float64)
    denominators = values[:, None] + chosen[None, :]
    deviations = vectors @ np.divide(projected[:, None], denominators, out=np.zeros_like(denominators), where=denominators > 0)
    scales = np.full(len(chosen), scale)
    weights = deviations
    if prior is not None:
        if with_prior is not None:
            scales = (float(prior.weight @ wanted) - with_prior @ deviations) / float(prior.weight @ with_prior)
        weights = deviations + np.outer(prior.weight, scales)
    return Solution(
        chosen,
        weights,
        y_mean - x_mean @ weights,
        deviations,
        scales,
        x_mean,
        sums.total,
        values,
        vectors,
        with_prior,
        prior,
    )


def fold_errors(folds: Sequence[Sums], strengths: Sequence[float] | Doubles, prior: Prior | None = None) -> Doubles:
    """Mean squared error per strength, (K,), each fold predicted by a fit to the others; from the sums alone, no row is read.

    The solutions are those of `solve`, by one linear system for each fold and strength where that is exact enough.

    Raises:
        InputError: fewer than two folds with rows; rows outside of a fold that all have no weight.
    """
    with_rows = [fold for fold in folds if fold.count]
    if len(with_rows) < 2:
        raise InputError(f"cannot compare strengths on {len(with_rows)} fold with rows; two are needed")
    whole = added(with_rows)
    tried = np.asarray(strengths, np.float64)
    by_axes = prior is not None or _LeftOut.of(with_rows[0], whole).needs_axes(tried)
    at_once = len(tried) if by_axes else 1
    tasks = (
        (one, slice(low, low + at_once))
        for one in (_LeftOut.of(fold, whole) for fold in with_rows)
        for low in range(0, len(tried), at_once)
    )

    def errors_of(task: tuple[_LeftOut, slice]) -> Doubles:
        one, some = task
        return one.errors_by_axes(tried[some], prior) if by_axes or one.needs_axes(tried) else one.errors(tried[some])

    errors = np.zeros(len(tried))
    for (_, some), found in in_order(errors_of, tasks, is_large=lambda task: len(task[0].with_ratings) >= _SLOW_TO_SOLVE):
        errors[some] += found
    return np.asarray(errors / whole.total)


@dataclass(frozen=True)
class _LeftOut:
    """A fold that is left out, and the covariances of all other rows."""

    fold: Sums
    rest: Sums
    covariance: Doubles
    with_ratings: Doubles

    @classmethod
    def of(cls, fold: Sums, whole: Sums) -> _LeftOut:
        """What is left of all rows without the fold. Raises InputError where the other rows have no weight."""
        rest = whole - fold
        if not rest.total > 0:
            raise InputError(_NO_WEIGHT)
        return cls(fold, rest, *rest.covariance()[:2])

    def needs_axes(self, strengths: Doubles) -> bool:
        """Whether a linear system would be nearly singular, or is so small that all axes are found as fast."""
        dim = len(self.with_ratings)
        smallest = float(np.trace(self.covariance)) * dim * 10 * _EPS
        return dim < 64 or bool((strengths <= smallest * 100).any())

    def errors_by_axes(self, strengths: Doubles, prior: Prior | None) -> Doubles:
        """The fold's sums of squared errors, (K,), by one eigendecomposition for all strengths."""
        found = solve(self.rest, strengths, prior)
        return self.fold.squared_error(found.weights, found.biases)

    def errors(self, strengths: Doubles) -> Doubles:
        """The same by a linear system for each strength, which takes a seventh of an eigendecomposition."""
        x_mean, y_mean = self.rest.means()
        matrix = self.covariance.copy()
        weights = np.empty((len(x_mean), len(strengths)))
        for at, strength in enumerate(strengths):
            np.fill_diagonal(matrix, self.covariance.diagonal() + strength)
            weights[:, at] = np.linalg.solve(matrix.T, self.with_ratings)
        return self.fold.squared_error(weights, np.asarray(y_mean - x_mean @ weights))


def _is_large(block: RatedBlock) -> bool:
    return len(block.targets) >= BLOCK_ROWS


def added(folds: Sequence[Sums]) -> Sums:
    """The sums of all folds together."""
    return reduce(operator.add, folds)


def left_out_errors(solution: Solution, unit: Doubles, targets: Doubles, weights: Doubles) -> Doubles:
    """Weighted mean squared leave-one-out error per strength, (K,), on rows of length 1 in memory, a block at a time."""
    sums = np.zeros(len(solution.strengths))
    for start in range(0, len(unit), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        counted = weights[part] > 0
        errors = solution.left_out_errors(unit[part][counted], targets[part][counted], weights[part][counted])
        sums += weights[part][counted] @ errors**2
    return np.asarray(sums / weights.sum())


def refined(solution: Solution, blocks: Iterable[RatedBlock], at: int) -> tuple[Doubles, float]:
    """Weight and bias of one strength after a step of iterative refinement: a second pass over the rows, in float64.

    The gradient at the solution is summed over the rows in float64 (4 D operations a row, bound by memory), and the solution's
    own factorisation turns it into a correction (Wilkinson, "Rounding Errors in Algebraic Processes", 1963, 3.): what float32
    products lost, some 1e-7 of the weight, becomes 1e-12. (What is lost of the mean row enters times what is lost of the mean
    residual, 1e-15, and is left out.)

    Args:
        solution: of sums whose products were float32.
        blocks: the same rows again.
        at: which of its strengths.
    """
    weight, bias, strength = solution.weights[:, at], float(solution.biases[at]), float(solution.strengths[at])
    prior_weight = np.zeros_like(weight) if solution._prior is None else solution._prior.weight
    x_mean = solution._x_mean
    gradient, mean, total = np.zeros_like(weight), 0.0, 0.0
    for _, found in in_order(lambda block: residuals_of(block, x_mean, weight, bias), blocks, is_large=_is_large):
        gradient += found.gradient
        mean += found.mean
        total += found.total
    residual_mean = mean / total
    step = gradient / total - strength * solution.deviations[:, at]
    scale_step = 0.0
    if solution._with_prior is not None:
        variance = float(prior_weight @ solution._with_prior)
        slope = float(prior_weight @ gradient) / total / variance
        step = step - solution._with_prior * slope
    denominators = solution._values + strength
    turned = solution._vectors.T @ step
    change = solution._vectors @ np.divide(
        turned, denominators, out=np.zeros_like(turned), where=(solution._values > 0) & (denominators > 0)
    )
    if solution._with_prior is not None:
        scale_step = slope - float(solution._with_prior @ change) / variance
        change = change + scale_step * prior_weight
    better = weight + change
    return better, bias + residual_mean - float(x_mean @ change)


def fit_ridge_rows(
    unit: Doubles,
    targets: Doubles,
    weights: Doubles | None = None,
    *,
    strength: float | None = None,
    strengths: Sequence[float] = STRENGTHS,
    prior: Prior | None = None,
    folds: npt.NDArray[np.integer[Any]] | None = None,
) -> LinearFit:
    """Fit to rows in memory. With fewer rows than dimensions it takes as long as with that many dimensions.

    Args:
        unit: (N, D) float64 rows of length 1.
        targets: (N,) finite float64 ratings.
        weights: (N,) float64 >= 0, votes or the inverse of a variance; None: 1 each.
        strength: given, >= 0; None: the one of `strengths` with the smallest error.
        strengths: those tried, >= 0.
        prior: what is shrunk towards.
        folds: (N,) whole numbers from 0; the error is that of folds left out. None: of rows left out one at a time, exactly.

    Raises:
        InputError: rows that all point the same way, or all weights 0.
    """
    num_rows, dim = unit.shape
    given = np.ones(num_rows) if weights is None else weights
    start = None if prior is None else prior.checked(dim)
    rows, axes = reduced(unit)
    small = start
    if start is not None and axes is not None:
        inner = axes.T @ start.weight
        small = Prior(inner, start.scale) if inner.any() else None
    parts = [RatedBlock(rows, targets, given, folds)] if num_rows else []
    sums = collect(parts, num_folds=1 if folds is None else int(folds.max()) + 1)
    whole = added(sums)
    errors: dict[float, float] = {}
    if strength is None:
        if folds is None:
            solution = solve(whole, strengths, small)
            found = left_out_errors(solution, rows, targets, given)
        else:
            found = fold_errors(sums, strengths, small)
        errors = dict(zip(strengths, (float(error) for error in found), strict=True))
        chosen = min(errors, key=errors.__getitem__)
    else:
        chosen = strength
    solution = solve(whole, [chosen], small)
    weight = widened(solution.deviations[:, 0], axes)
    if start is not None:
        weight = weight + start.weight * float(solution.prior_scales[0])
    return LinearFit(
        weight=np.ascontiguousarray(weight),
        bias=float(solution.biases[0]),
        strength=float(chosen),
        chosen_by="given" if strength is not None else ("leave-one-out" if folds is None else "folds"),
        errors=errors,
        prior_scale=float(solution.prior_scales[0]),
    )


def fit_sums(
    folds: Sequence[Sums], *, strength: float | None = None, strengths: Sequence[float] = STRENGTHS, prior: Prior | None = None
) -> tuple[LinearFit, Solution]:
    """Fit to the rows behind sums, which need not be there any more; the solution is what `refined` takes.

    Args:
        folds: at least two with rows where a strength is to be chosen.
        strength: given, >= 0; None: the best of `strengths` by folds left out, then of those half way to its neighbours.
        strengths: those tried, > 0, strongest first; at least two.
        prior: what is shrunk towards.
    """
    whole = added(folds)
    errors: dict[float, float] = {}
    chosen = strength
    if chosen is None:
        errors = dict(zip(strengths, fold_errors(folds, strengths, prior).tolist(), strict=True))
        between = half_way(errors)
        errors.update(zip(between, fold_errors(folds, between, prior).tolist(), strict=True))
        chosen = min(errors, key=errors.__getitem__)
    solution = solve(whole, [chosen], prior)
    found = LinearFit(
        weight=np.ascontiguousarray(solution.weights[:, 0]),
        bias=float(solution.biases[0]),
        strength=float(chosen),
        chosen_by="folds" if errors else "given",
        errors=errors,
        prior_scale=float(solution.prior_scales[0]),
    )
    return found, solution

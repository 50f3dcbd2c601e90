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

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.train.linear import LinearFit, Prior, reduced, widened
from beholder.train.rows import BLOCK_ROWS, Doubles, RatedBlock, Rows, check_statuses, fill_design

STRENGTHS: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in np.arange(2.0, -10.25, -0.5))
"""Strengths that are tried, strongest first. Rows have length 1, so the eigenvalues of their covariance are at most 1."""

METHOD = "ridge regression in closed form on rows of length 1, bias unpenalised"

Precision = Literal["float64", "float32"]

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
    """Sums of every fold in one pass, in bounded memory: two buffers of 2,048 rows a fold, and a matrix of (D + 2)^2 each.

    The rows of a fold are multiplied 2,048 at a time in their order, however the caller's blocks are cut, so the sums are the
    same to the bit for any cut. Another number of BLAS threads may change the last bits (about 1e-13 of a weight).

    Args:
        blocks: the rows; folds as their blocks say, below `num_folds`.
        num_folds: parts that are summed apart.
        precision: of the products within 2,048 rows; sums of these are float64 always. "float32" takes half the time and is
            off by about 1e-8 of the largest entry; `refined` takes the error out again.

    Raises:
        InputError: no rows; a row that is all zeros or not finite; blocks of different widths.
    """
    state: _Collector | None = None
    with ThreadPoolExecutor(1) as pool:
        for block in blocks:
            if not len(block.targets):
                continue
            if state is None:
                state = _Collector(block, num_folds, np.dtype(precision), pool)
            state.add(block)
        if state is None:
            raise InputError("cannot fit a head to no rows at all; give rows with ratings")
        return state.finish()


class _Collector:
    """Fills buffers with rows while another thread multiplies the ones that are full."""

    def __init__(self, block: RatedBlock, num_folds: int, dtype: np.dtype[Any], pool: ThreadPoolExecutor) -> None:
        dim = block.embeddings.shape[1]
        self.dim, self.pool = dim, pool
        self.x_origin, self.y_origin = np.zeros(dim), 0.0
        self.has_origin = False
        self.dtype, self.num_folds = dtype, num_folds
        self.buffers = [[np.empty((BLOCK_ROWS, dim + 2), dtype) for _ in range(2)] for _ in range(num_folds)]
        self.turn, self.filled = [0] * num_folds, [0] * num_folds
        self.matrices = [np.zeros((dim + 2, dim + 2)) for _ in range(num_folds)]
        self.counts = [0] * num_folds
        self.waiting: list[Future[None] | None] = [None] * num_folds

    def add(self, block: RatedBlock) -> None:
        if block.embeddings.shape[1] != self.dim:
            raise InputError(f"cannot fit to rows of {self.dim} and of {block.embeddings.shape[1]} numbers together")
        if not self.has_origin:
            # Any point near the rows serves, and the first row depends on no cut.
            first = np.empty((1, self.dim + 2))
            check_statuses(
                fill_design(block.embeddings, np.zeros(1, np.int64), np.zeros(1), np.ones(1), self.x_origin, first),
                np.zeros(1, np.int64),
            )
            self.x_origin, self.y_origin, self.has_origin = first[0, : self.dim].copy(), float(block.targets[0]), True
        roots = np.ones(len(block.targets)) if block.weights is None else np.sqrt(block.weights)
        for fold in range(self.num_folds):
            rows = np.arange(len(block.targets)) if block.folds is None else np.flatnonzero(block.folds == fold)
            self._add_to(fold, block, rows, roots)
            if block.folds is None:
                break

    def _add_to(self, fold: int, block: RatedBlock, rows: Rows, roots: Doubles) -> None:
        while len(rows):
            at = self.filled[fold]
            some, rows = rows[: BLOCK_ROWS - at], rows[BLOCK_ROWS - at :]
            out = self.buffers[fold][self.turn[fold]][at:]
            targets = block.targets[some] - self.y_origin
            check_statuses(fill_design(block.embeddings, some, targets, roots[some], self.x_origin, out), some)
            self.filled[fold] += len(some)
            self.counts[fold] += len(some)
            if self.filled[fold] == BLOCK_ROWS:
                self._multiply(fold)

    def _multiply(self, fold: int) -> None:
        buffer = self.buffers[fold][self.turn[fold]][: self.filled[fold]]
        matrix = self.matrices[fold]

        def work() -> None:
            np.add(matrix, buffer.T @ buffer, out=matrix)

        before = self.waiting[fold]
        if before is not None:
            before.result()
        self.waiting[fold] = self.pool.submit(work)
        self.turn[fold], self.filled[fold] = 1 - self.turn[fold], 0

    def finish(self) -> list[Sums]:
        for fold in range(self.num_folds):
            if self.filled[fold]:
                self._multiply(fold)
        for task in self.waiting:
            if task is not None:
                task.result()
        return [Sums(self.x_origin, self.y_origin, *pair) for pair in zip(self.matrices, self.counts, strict=True)]


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
    _y_mean: float
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
        raise InputError("cannot fit a head: the weights of all rows are 0")
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
        y_mean,
        sums.total,
        values,
        vectors,
        with_prior,
        prior,
    )


def fold_errors(folds: Sequence[Sums], strengths: Sequence[float] | Doubles, prior: Prior | None = None) -> Doubles:
    """Mean squared error per strength, (K,), each fold predicted by a fit to the others; from the sums alone, no row is read.

    The solutions are those of `solve`, by one linear system for each fold and strength: an eigendecomposition costs as much as
    twenty of these.

    Raises:
        InputError: fewer than two folds with rows.
    """
    with_rows = [fold for fold in folds if fold.count]
    if len(with_rows) < 2:
        raise InputError(f"cannot compare strengths on {len(with_rows)} fold with rows; two are needed")
    whole = added(with_rows)
    errors = np.zeros(len(strengths))
    for fold in with_rows:
        rest = whole - fold
        weights, biases = _solve_each(rest, np.asarray(strengths, np.float64), prior)
        errors += fold.squared_error(weights, biases)
    return np.asarray(errors / whole.total)


def added(folds: Sequence[Sums]) -> Sums:
    """The sums of all folds together."""
    whole = folds[0]
    for fold in folds[1:]:
        whole = whole + fold
    return whole


def _solve_each(sums: Sums, strengths: Doubles, prior: Prior | None) -> tuple[Doubles, Doubles]:
    """Weights (D, K) and biases (K,) by a linear system for each strength, or by `solve` where a matrix is singular."""
    x_mean, y_mean = sums.means()
    covariance, with_ratings, _ = sums.covariance()
    dim = len(x_mean)
    smallest = float(np.trace(covariance)) * dim * 10 * _EPS
    if prior is not None or (strengths <= smallest * 100).any() or dim < 64:
        found = solve(sums, strengths, prior)
        return found.weights, found.biases
    weights = np.empty((dim, len(strengths)))
    matrix = covariance.copy()
    for at, strength in enumerate(strengths):
        np.fill_diagonal(matrix, covariance.diagonal() + strength)
        weights[:, at] = np.linalg.solve(matrix, with_ratings)
    return weights, np.asarray(y_mean - x_mean @ weights)


def left_out_errors(solution: Solution, unit: Doubles, targets: Doubles, weights: Doubles) -> Doubles:
    """Weighted mean squared leave-one-out error per strength, (K,), on rows of length 1 in memory, a block at a time."""
    sums = np.zeros(len(solution.strengths))
    for start in range(0, len(unit), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        counted = weights[part] > 0
        errors = solution.left_out_errors(unit[part][counted], targets[part][counted], weights[part][counted])
        sums += weights[part][counted] @ errors**2
    return np.asarray(sums / weights.sum())


def refined(solution: Solution, sums: Sums, blocks: Iterable[RatedBlock], at: int) -> tuple[Doubles, float]:
    """Weight and bias of one strength after a step of iterative refinement: a second pass over the rows, in float64.

    The gradient at the solution is summed over the rows in float64 (4 D operations a row, bound by memory), and the solution's
    own factorisation turns it into a correction (Wilkinson, "Rounding Errors in Algebraic Processes", 1963, 3.): what float32
    products lost, some 1e-7 of the weight, becomes 1e-12.

    Args:
        solution: of sums whose products were float32.
        sums: these sums.
        blocks: the same rows again.
        at: which of its strengths.
    """
    weight, bias, strength = solution.weights[:, at], float(solution.biases[at]), float(solution.strengths[at])
    prior_weight = np.zeros_like(weight) if solution._prior is None else solution._prior.weight
    dim = len(weight)
    buffer = np.empty((BLOCK_ROWS, dim + 2))
    gradient, mean, total = np.zeros(dim), 0.0, 0.0
    x_mean = solution._x_mean
    x_shift = np.zeros(dim)
    for block in blocks:
        roots = np.ones(len(block.targets)) if block.weights is None else np.sqrt(block.weights)
        for start in range(0, len(block.targets), BLOCK_ROWS):
            rows = np.arange(start, min(len(block.targets), start + BLOCK_ROWS))
            out = buffer[: len(rows)]
            check_statuses(fill_design(block.embeddings, rows, block.targets[rows], roots[rows], x_mean, out), rows)
            residual = out[:, dim] - out[:, :dim] @ weight - out[:, -1] * (bias + float(x_mean @ weight))
            gradient += residual @ out[:, :dim]
            x_shift += out[:, -1] @ out[:, :dim]
            mean += float(residual @ out[:, -1])
            total += float(out[:, -1] @ out[:, -1])
    x_shift /= total
    residual_mean = mean / total
    step = gradient / total - residual_mean * x_shift - strength * solution.deviations[:, at]
    scale_step = 0.0
    if solution._with_prior is not None:
        variance = float(prior_weight @ solution._with_prior)
        slope = float(prior_weight @ (gradient / total - residual_mean * x_shift)) / variance
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
    return better, bias + residual_mean - float((x_mean + x_shift) @ change)


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
        num_rows=num_rows,
    )


def fit_sums(
    folds: Sequence[Sums], *, strength: float | None = None, strengths: Sequence[float] = STRENGTHS, prior: Prior | None = None
) -> LinearFit:
    """Fit to the rows behind sums, which need not be there any more.

    Args:
        folds: at least two with rows where a strength is to be chosen.
        strength: given, >= 0; None: the best of `strengths` by folds left out, then of those half way to its neighbours.
        strengths: those tried, strongest first.
        prior: what is shrunk towards.
    """
    whole = added(folds)
    errors: dict[float, float] = {}
    chosen = strength
    if chosen is None:
        errors = dict(zip(strengths, fold_errors(folds, strengths, prior).tolist(), strict=True))
        best, tried = min(errors, key=errors.__getitem__), list(errors)
        at = tried.index(best)
        between = [
            float(np.sqrt(best * tried[near])) for near in (at - 1, at + 1) if 0 <= near < len(tried) and tried[near] > 0
        ]
        if between and best > 0:
            errors.update(zip(between, fold_errors(folds, between, prior).tolist(), strict=True))
        chosen = min(errors, key=errors.__getitem__)
    solution = solve(whole, [chosen], prior)
    return LinearFit(
        weight=np.ascontiguousarray(solution.weights[:, 0]),
        bias=float(solution.biases[0]),
        strength=float(chosen),
        chosen_by="folds" if errors else "given",
        errors=errors,
        prior_scale=float(solution.prior_scales[0]),
        num_rows=whole.count,
    )

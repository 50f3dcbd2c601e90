"""Logistic regression for keep / drop marks and for pairs: Newton's method in float64, few marks as quickly as they are few.

For targets t in [0, 1] (1 keep, 0 drop, 1/2 a tie), row weights v and a strength s the fit minimises

    sum_i v_i (log(1 + exp(n_i)) - t_i n_i) / sum_i v_i  +  s/2 |weight|^2,      n_i = weight . x_i + bias

with the bias unpenalised; scikit-learn's C is 1 / (s * sum_i v_i). A pair is the difference of its two rows without a bias: the
model of Bradley and Terry ("Rank analysis of incomplete block designs", Biometrika 39, 1952) with scores that are linear in
the embedding. A prior adds a multiple of its own score, in units of its standard deviation, whose prior is normal about 0 with
standard deviation 2.5 (after Gelman, Jakulin, Pittau and Su, Annals of Applied Statistics 2, 2008); only what differs from it
is held down by s.

Leaving rows out one at a time is approximate here: one Newton step from the fit to all rows (Rad and Maleki, "A scalable
estimate of the out-of-sample prediction error via approximate leave-one-out", JRSS B 82, 2020, equation 10).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.train.linear import LinearFit, Prior, half_way, reduced, widened
from beholder.train.rows import Doubles, Rows

STRENGTHS: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in range(0, -7, -1))
"""Strengths that are tried, strongest first, until the error has risen twice; then between the best and its neighbours."""

METHOD = "logistic regression on rows of length 1, bias unpenalised"
PAIRS_METHOD = "logistic regression on differences of rows of length 1, without a bias (Bradley and Terry)"

PRIOR_DEVIATION = 2.5
_MOST_STEPS = 100
_TOLERANCE, _PATH_TOLERANCE = 1e-11, 1e-6
"""Largest entry of the gradient of the fit that is returned, and of those on the way to it, which only rank the strengths."""
_RISES = 2
_LEAST_SINGLE = 1e-6
"""Below this strength a Hessian of float32 products may not be positive definite."""


def fit_logistic(
    unit: Doubles,
    targets: Doubles,
    weights: Doubles | None = None,
    *,
    strength: float | None = None,
    strengths: Sequence[float] = STRENGTHS,
    prior: Prior | None = None,
    folds: npt.NDArray[np.integer[Any]] | None = None,
    has_bias: bool = True,
) -> LinearFit:
    """Fit the chance of a keep.

    Args:
        unit: (N, D) float64 rows of length 1, or differences of such rows.
        targets: (N,) float64 in [0, 1].
        weights: (N,) float64 >= 0, votes; None: 1 each.
        strength: given, > 0; None: the one with the smallest mean log loss on rows left out.
        strengths: those tried, strongest first.
        prior: what is shrunk towards; scale "fixed" for log odds that are to be kept as they are.
        folds: (N,) whole numbers; None: rows are left out one at a time (approximately, see the module).
        has_bias: False for pairs.

    Raises:
        InputError: targets outside [0, 1], all marks the same, a strength that is not positive.
    """
    num_rows, dim = unit.shape
    given = np.ones(num_rows) if weights is None else weights
    _check(targets, given, has_bias, strength)
    start = None if prior is None else prior.checked(dim)
    rows, axes = reduced(unit)
    problem = _Problem.of(rows, unit, targets, given, start, has_bias)
    errors: dict[float, float] = {}
    solved: dict[float, Doubles] = {}
    if strength is None:
        splits = _Splits(problem, folds)
        for candidate in strengths:
            errors[candidate], solved[candidate] = splits.error(candidate)
            if _has_risen(list(errors.values())):
                break
        for candidate in half_way(errors):
            errors[candidate], solved[candidate] = splits.error(candidate)
        strength = min(errors, key=errors.__getitem__)
    found = problem.solve(strength, solved.get(strength))
    at = rows.shape[1]
    weight, scale = widened(found[:at], axes), 0.0
    if start is not None:
        scale = float(found[at]) * problem.prior_unit if start.scale == "free" else 1.0
        weight = weight + scale * start.weight
    bias = float(found[-1]) if has_bias else 0.0
    if start is not None and start.scale == "free":
        bias -= problem.prior_mean * scale
    return LinearFit(
        weight=np.ascontiguousarray(weight),
        bias=bias,
        strength=float(strength),
        chosen_by="given" if not errors else ("leave-one-out" if folds is None else "folds"),
        errors=errors,
        prior_scale=scale,
    )


def pair_rows(unit: Doubles, left: Rows, right: Rows) -> Doubles:
    """Differences (P, D) of rows of length 1: left - right. With target 1 the left one is the better one."""
    return np.asarray(unit[left] - unit[right])


def chances(log_odds: npt.ArrayLike) -> Doubles:
    """Log odds -> chances in [0, 1], without overflow."""
    odds = np.asarray(log_odds, np.float64)
    small = np.exp(-np.abs(odds))
    return np.asarray(np.where(odds >= 0, 1.0, small) / (1.0 + small))


def log_loss(log_odds: Doubles, targets: Doubles) -> Doubles:
    """log(1 + exp(n)) - t n of each row, in nats: 0 for a certain and right prediction, log 2 for none."""
    return np.asarray(np.logaddexp(0.0, log_odds) - targets * log_odds)


def _check(targets: Doubles, weights: Doubles, has_bias: bool, strength: float | None) -> None:
    if strength is not None and not 0 < strength < np.inf:
        raise InputError(f"the strength of a logistic fit must be a number > 0, not {strength}")
    counted = targets[weights > 0]
    if not len(counted):
        raise InputError("cannot fit a head to no marks at all; mark some pictures first")
    if not ((counted >= 0) & (counted <= 1)).all():
        raise InputError("marks and votes are numbers from 0 (drop, or the right one) to 1 (keep, or the left one)")
    if has_bias and np.ptp(counted) == 0:
        raise InputError(f"cannot fit a head: all {len(counted)} marks are the same; mark some to keep and some to drop")


def _has_risen(errors: list[float]) -> bool:
    """Whether the last `_RISES` errors were each above the one before."""
    last = errors[-_RISES - 1 :]
    return len(last) > _RISES and all(later > earlier for earlier, later in itertools.pairwise(last))


@dataclass(frozen=True)
class _Problem:
    """Columns (rows' coordinates, the prior's score, ones), and how each is penalised.

    Attributes:
        columns: (N, C) float64; targets, weights: (N,); weights sum to 1.
        offsets: (N,) log odds that a fixed prior gives.
        is_held: (C,) 1 where the strength penalises; extra: (C,) penalty whatever the strength.
        prior_unit: 1 / standard deviation of the prior's scores; prior_mean: their mean.
    """

    columns: Doubles
    targets: Doubles
    weights: Doubles
    offsets: Doubles
    is_held: Doubles
    extra: Doubles
    prior_unit: float
    prior_mean: float

    @classmethod
    def of(
        cls, rows: Doubles, unit: Doubles, targets: Doubles, weights: Doubles, prior: Prior | None, has_bias: bool
    ) -> _Problem:
        num_rows, total = len(rows), float(weights.sum())
        columns, is_held, extra = [rows], [np.ones(rows.shape[1])], [np.zeros(rows.shape[1])]
        offsets, prior_unit, prior_mean = np.zeros(num_rows), 0.0, 0.0
        if prior is not None:
            scores = unit @ prior.weight
            if prior.scale == "fixed":
                offsets = scores
            else:
                prior_mean = float(weights @ scores) / total if has_bias else 0.0
                deviation = float(np.sqrt(weights @ (scores - prior_mean) ** 2 / total))
                prior_unit = 1.0 / deviation if deviation > 1e-12 * float(np.linalg.norm(prior.weight)) else 0.0
                columns.append(((scores - prior_mean) * prior_unit)[:, None])
                is_held.append(np.zeros(1))
                extra.append(np.array([1.0 / (total * PRIOR_DEVIATION**2)]))
        if has_bias:
            columns.append(np.ones((num_rows, 1)))
            is_held.append(np.zeros(1))
            extra.append(np.zeros(1))
        return cls(
            np.hstack(columns), targets, weights / total, offsets,
            np.concatenate(is_held), np.concatenate(extra), prior_unit, prior_mean,
        )  # fmt: skip

    def part(self, chosen: npt.NDArray[np.bool_]) -> _Problem:
        """The same with some rows; weights sum to 1 again."""
        weights = self.weights[chosen]
        total = float(weights.sum())
        return _Problem(
            self.columns[chosen], self.targets[chosen], weights / total, self.offsets[chosen],
            self.is_held, self.extra / total, self.prior_unit, self.prior_mean,
        )  # fmt: skip

    def log_odds(self, found: Doubles) -> Doubles:
        return np.asarray(self.columns @ found + self.offsets)

    def objective(self, found: Doubles, penalty: Doubles) -> float:
        return float(self.weights @ log_loss(self.log_odds(found), self.targets) + 0.5 * penalty @ found**2)

    def hessian(self, log_odds: Doubles, penalty: Doubles, dtype: type[np.floating[Any]] = np.float64) -> npt.NDArray[Any]:
        """(C, C); products in `dtype`. Only the way depends on it: the end is where the float64 gradient is 0."""
        chance = chances(log_odds)
        roots = np.sqrt(self.weights * chance * (1.0 - chance))
        scaled = self._single * roots.astype(np.float32)[:, None] if dtype == np.float32 else self.columns * roots[:, None]
        matrix = scaled.T @ scaled
        matrix[np.diag_indices_from(matrix)] += (penalty + 1e-14).astype(dtype)
        return np.asarray(matrix)

    @functools.cached_property
    def _single(self) -> npt.NDArray[np.float32]:
        return self.columns.astype(np.float32)

    def solve(self, strength: float, start: Doubles | None = None, *, tolerance: float = _TOLERANCE) -> Doubles:
        """(C,) coefficients: Newton's method, a step halved while it does not lead downhill.

        Directions come from float32 products, in half the time, as long as they lead downhill; float64 ones then.
        """
        penalty = strength * self.is_held + self.extra
        found = np.zeros(self.columns.shape[1]) if start is None else start.copy()
        value = self.objective(found, penalty)
        dtype: type[np.floating[Any]] = np.float32 if strength >= _LEAST_SINGLE else np.float64
        size = np.inf
        for _ in range(_MOST_STEPS):
            log_odds = self.log_odds(found)
            gradient = self.columns.T @ (self.weights * (chances(log_odds) - self.targets)) + penalty * found
            before, size = size, float(np.abs(gradient).max())
            if size <= tolerance:
                break
            if size > 0.5 * before:  # rounding of float32, or far away: the best direction is worth its time
                dtype = np.float64
            step = np.linalg.solve(self.hessian(log_odds, penalty, dtype), gradient.astype(dtype)).astype(np.float64)
            decrease, length = float(gradient @ step), 1.0
            if decrease <= 0 and dtype == np.float32:
                dtype = np.float64
                continue
            while length > 1e-8:
                new = found - length * step
                new_value = self.objective(new, penalty)
                if new_value <= value - 1e-4 * length * decrease or decrease < 1e-15:
                    break
                length *= 0.5
            found, value = new, new_value
            if decrease < 1e-26:
                break
        return found

    def left_out_loss(self, found: Doubles, strength: float) -> float:
        """Mean log loss of rows left out one at a time, by one Newton step each."""
        penalty = strength * self.is_held + self.extra
        log_odds = self.log_odds(found)
        chance = chances(log_odds)
        if strength >= _LEAST_SINGLE:
            single = np.linalg.solve(self.hessian(log_odds, penalty, np.float32), self._single.T)
            leverage = np.einsum("ij,ji->i", self._single, single).astype(np.float64) * self.weights
        else:
            solved = np.linalg.solve(self.hessian(log_odds, penalty), self.columns.T)
            leverage = np.einsum("ij,ji->i", self.columns, solved) * self.weights
        left = np.maximum(1.0 - leverage * chance * (1.0 - chance), 1e-9)
        without = log_odds + leverage * (chance - self.targets) / left
        return float(self.weights @ log_loss(without, self.targets))


class _Splits:
    """The error of a strength: rows left out one at a time, or in folds; fits start from those of the strength before."""

    def __init__(self, problem: _Problem, folds: npt.NDArray[np.integer[Any]] | None) -> None:
        self.problem = problem
        self.masks = [] if folds is None else [folds == fold for fold in np.unique(folds)]
        if folds is not None and len(self.masks) < 2:
            raise InputError("cannot compare strengths on one fold; two are needed")
        self.parts = [problem.part(~mask) for mask in self.masks]
        self.starts: list[Doubles | None] = [None] * len(self.masks)
        self.start: Doubles | None = None

    def error(self, strength: float) -> tuple[float, Doubles]:
        """Mean log loss, and the coefficients of the fit to all rows (by folds: a start for them)."""
        if not self.masks:
            self.start = self.problem.solve(strength, self.start, tolerance=_PATH_TOLERANCE)
            return self.problem.left_out_loss(self.start, strength), self.start
        total = 0.0
        for at, (mask, part) in enumerate(zip(self.masks, self.parts, strict=True)):
            found = part.solve(strength, self.starts[at], tolerance=_PATH_TOLERANCE)
            self.starts[at] = found
            losses = log_loss(self.problem.log_odds(found)[mask], self.problem.targets[mask])
            total += float(self.problem.weights[mask] @ losses)
        start = self.starts[0]
        assert start is not None
        return total, start

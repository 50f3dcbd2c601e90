"""What the linear fits share: their result, and fewer coordinates for rows that are fewer than their dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from beholder.errors import InputError
from beholder.kernels.scoring import Affine
from beholder.train.rows import Doubles

PriorScale = Literal["free", "fixed"]
ChosenBy = Literal["given", "leave-one-out", "folds"]


@dataclass(frozen=True)
class Prior:
    """What a fit shrinks towards instead of zero.

    Attributes:
        weight: (D,) float64, for rows of length 1; a head's `weight`.
        scale: "free": towards any multiple of it, which the ratings choose; "fixed": towards itself.
    """

    weight: Doubles
    scale: PriorScale = "free"

    def checked(self, dim: int) -> Prior:
        """Itself. Raises InputError where it does not fit rows of `dim` numbers."""
        weight = np.asarray(self.weight, np.float64)
        if weight.shape != (dim,) or not np.isfinite(weight).all() or not weight.any():
            raise InputError(
                f"cannot start from a head of shape {weight.shape}: {dim} finite numbers that are not all zeros are needed"
            )
        return Prior(weight, self.scale)


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """A fitted linear head: `weight . x/|x| + bias` for ratings, its logistic function for chances.

    Attributes:
        weight: (D,) float64, for rows of length 1.
        bias: in the units of the ratings; 0 for pairs.
        strength: what the weight was held down with.
        chosen_by: how the strength was found: "given", "leave-one-out", or "folds".
        errors: per tried strength its error by that; empty where it was given.
        prior_scale: the multiple of the prior that the weight was shrunk towards; 0 without one.
    """

    weight: Doubles
    bias: float
    strength: float
    chosen_by: ChosenBy
    errors: Mapping[float, float] = field(default_factory=dict)
    prior_scale: float = 0.0

    def predict(self, unit: Doubles) -> Doubles:
        """(n, D) rows of length 1 -> (n,) float64: ratings, or log odds."""
        return np.asarray(unit @ self.weight + self.bias)

    def to_json(self) -> dict[str, Any]:
        """What a record says of the fit."""
        return {
            "strength": self.strength,
            "chosen_by": self.chosen_by,
            "errors": {f"{strength:.3g}": error for strength, error in self.errors.items()},
            "prior_scale": self.prior_scale,
        }

    @property
    def math(self) -> Affine:
        """The arithmetic of a `Head`."""
        return Affine(self.weight, self.bias)


def half_way(errors: Mapping[float, float]) -> list[float]:
    """Strengths half way (of their logarithms) from the one with the smallest error to its neighbours, in the order tried."""
    best, tried = min(errors, key=errors.__getitem__), list(errors)
    at = tried.index(best)
    return [float(np.sqrt(best * tried[near])) for near in (at - 1, at + 1) if 0 <= near < len(tried)]


def reduced(unit: Doubles) -> tuple[Doubles, Doubles | None]:
    """Rows (n, D) in n coordinates where n < D: (n, n) coordinates and (D, n) orthonormal axes; else the rows and None.

    rows = coordinates @ axes.T. A fit that penalises the length of its weight has its weight among the rows' directions, so it
    is the same in these coordinates: weight = axes @ found.
    """
    if len(unit) >= unit.shape[1]:
        return unit, None
    axes, coordinates = np.linalg.qr(unit.T)
    return np.ascontiguousarray(coordinates.T), axes


def widened(deviation: Doubles, axes: Doubles | None) -> Doubles:
    """A weight in the rows' own coordinates."""
    return deviation if axes is None else np.asarray(axes @ deviation)

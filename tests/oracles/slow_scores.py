"""Slow, plain float64 scoring: the reference that fast code is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def unit_rows(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(N, D) -> (N, D) float64 rows of length 1, scaled first so that nothing overflows or underflows."""
    wide = np.asarray(rows, np.float64)
    wide = wide / np.abs(wide).max(axis=1, keepdims=True)
    return wide / np.sqrt((wide * wide).sum(axis=1, keepdims=True))


def affine_scores(rows: npt.NDArray[Any], weight: npt.NDArray[np.float64], bias: float) -> npt.NDArray[np.float64]:
    """(N,) float64 scores of an affine head."""
    return unit_rows(rows) @ weight + bias


def mlp_scores(
    rows: npt.NDArray[Any], weights: Sequence[npt.NDArray[np.float64]], biases: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """(N,) float64 scores of linear layers with ReLU after all but the last."""
    values = unit_rows(rows)
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = values @ weight.T + bias
        if number < len(weights) - 1:
            values = np.maximum(values, 0.0)
    return values[:, 0]

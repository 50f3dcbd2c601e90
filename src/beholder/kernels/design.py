"""Rows as a least-squares fit takes them: of length 1, about a fixed point, times the root of their weight."""

from __future__ import annotations

import numpy as np

from beholder.kernels.compiled import compiled
from beholder.kernels.scoring import _scale_down, _widen_row
from beholder.kernels.vectors import LANES, dot, prefetch_line

_SMALLEST_SQUARE_SUM, _LARGEST_SQUARE_SUM = 1e-200, 1e200


@compiled
def _ask_for(first, row_bytes, num_bytes, rows, at):  # type: ignore[no-untyped-def]
    """Have the memory fetch a row that comes next: rows of a fold are apart, which the hardware does not foresee."""
    if at < rows.shape[0]:
        for offset in range(0, num_bytes, 64):
            prefetch_line(first + rows[at] * row_bytes + offset)


@compiled
def _read_row(like, x, dim, tail, wide):  # type: ignore[no-untyped-def]
    """Write a row to `wide`, possibly scaled; returns its status and the sum of its squares."""
    _widen_row(like, x, dim, tail, wide)
    total = dot(wide, wide.ctypes.data, wide.ctypes.data, (dim + LANES - 1) // LANES)
    if total >= _SMALLEST_SQUARE_SUM and total <= _LARGEST_SQUARE_SUM:
        return 0, total
    return _scale_down(wide, dim)


@compiled
def design_rows(like, first, row_bytes, rows, origin, targets, roots, out, statuses):  # type: ignore[no-untyped-def]
    """Write `root * (x/|x| - origin, target, 1)` for some rows of a matrix.

    Args:
        like: (0,) array whose dtype names the elements: uint16 (half floats), float32 or float64.
        first: address of the first row, aligned to its elements.
        row_bytes: distance between rows.
        rows: (n,) int64 numbers of rows.
        origin: (D,) float64.
        targets: (n,) float64.
        roots: (n,) float64, square roots of the rows' weights.
        out: (>= n, D + 2) float32 or float64, C order. All arithmetic is in float64.
        statuses: (n,) uint8, written; `beholder.columns.RowStatus`. Rows whose status is not 0 are written as zeros.
    """
    dim = origin.shape[0]
    tail = np.zeros(LANES, like.dtype)
    wide = np.zeros(dim + LANES, np.float64)
    for row in range(rows.shape[0]):
        _ask_for(first, row_bytes, dim * like.itemsize, rows, row + 1)
        status, total = _read_row(like, first + rows[row] * row_bytes, dim, tail, wide)
        statuses[row] = status
        if status != 0:
            out[row] = 0.0
            continue
        inverse, root = 1.0 / np.sqrt(total), roots[row]
        for i in range(dim):
            out[row, i] = (wide[i] * inverse - origin[i]) * root
        out[row, dim] = targets[row] * root
        out[row, dim + 1] = root


@compiled
def residual_sums(  # type: ignore[no-untyped-def]
    like, first, row_bytes, rows, origin, targets, weights, head, bias, gradient, statuses
):
    """Sums over some rows z = x/|x| - origin of what is left of their targets; returns the sums of v r and of v.

    Args:
        like: (0,) array whose dtype names the elements, as in `design_rows`.
        first: address of the first row, aligned to its elements.
        row_bytes: distance between rows.
        rows: (n,) int64 numbers of rows.
        origin: (D,) float64.
        targets: (n,) float64.
        weights: (n,) float64, v.
        head: (E,) float64, w, E = D rounded up to a multiple of 16, zeros beyond D; r = target - w . x/|x| - bias.
        bias: float64.
        gradient: (D,) float64, the sum of v r z is added to it.
        statuses: (n,) uint8, written; rows whose status is not 0 are left out.
    """
    dim = origin.shape[0]
    tail = np.zeros(LANES, like.dtype)
    wide = np.zeros(dim + LANES, np.float64)
    residuals, total_weight = 0.0, 0.0
    for row in range(rows.shape[0]):
        _ask_for(first, row_bytes, dim * like.itemsize, rows, row + 1)
        status, total = _read_row(like, first + rows[row] * row_bytes, dim, tail, wide)
        statuses[row] = status
        if status != 0:
            continue
        inverse, weight = 1.0 / np.sqrt(total), weights[row]
        predicted = dot(wide, wide.ctypes.data, head.ctypes.data, (dim + LANES - 1) // LANES) * inverse + bias
        residual = (targets[row] - predicted) * weight
        for i in range(dim):
            gradient[i] += residual * (wide[i] * inverse - origin[i])
        residuals += residual
        total_weight += weight
    return residuals, total_weight

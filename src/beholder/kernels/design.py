"""Rows as a least-squares fit takes them: of length 1, about a fixed point, times the root of their weight."""

from __future__ import annotations

import numpy as np

from beholder.kernels.compiled import compiled
from beholder.kernels.scoring import _scale_down, _widen_row
from beholder.kernels.vectors import LANES

_SMALLEST_SQUARE_SUM, _LARGEST_SQUARE_SUM = 1e-200, 1e200
_ACCUMULATORS = 8


@compiled
def _square_sum(wide, dim):  # type: ignore[no-untyped-def]
    """The sum of squares of `dim` float64, in 8 partial sums, whatever the machine."""
    sums = np.zeros(_ACCUMULATORS)
    whole = dim // _ACCUMULATORS * _ACCUMULATORS
    for start in range(0, whole, _ACCUMULATORS):
        for lane in range(_ACCUMULATORS):
            sums[lane] += wide[start + lane] * wide[start + lane]
    for i in range(whole, dim):
        sums[i - whole] += wide[i] * wide[i]
    total = 0.0
    for lane in range(_ACCUMULATORS):
        total += sums[lane]
    return total


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
        _widen_row(like, first + rows[row] * row_bytes, dim, tail, wide)
        total = _square_sum(wide, dim)
        status = 0
        if not (total >= _SMALLEST_SQUARE_SUM and total <= _LARGEST_SQUARE_SUM):
            status, total = _scale_down(wide, dim)
        statuses[row] = status
        if status != 0:
            out[row] = 0.0
            continue
        inverse, root = 1.0 / np.sqrt(total), roots[row]
        for i in range(dim):
            out[row, i] = (wide[i] * inverse - origin[i]) * root
        out[row, dim] = targets[row] * root
        out[row, dim + 1] = root

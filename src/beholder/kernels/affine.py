"""Scores of affine heads over embedding rows in memory: one pass, no copy, any number of heads.

score = bias + (weight . x) / |x|, with the dot products and |x| taken together while the row is in registers.

Accuracy: products and squares are summed in float32 in 16 lanes of 8, every further sum is float64. The error is at most
about 10 * 2**-24 * |weight| and half a unit in the last place of the float32 result, for any row of any length up to 4096
and beyond: 1e-5 for |weight| <= 16. The lanes' errors are independent, so in practice it is far smaller: over 100,000 random
rows at most 4.2e-7 for LAION's heads (|weight| 12 to 28) and 4.1e-6 for simulacra L/14 (|weight| 374, scores to 62). Rows whose
squares leave [1e-30, 1e37] (very long, very short, NaN, Inf, zero) are done again in float64 with scaling.

Determinism: a row's result depends on that row and the head alone.
"""

from __future__ import annotations

import numpy as np

from beholder.columns import RowStatus
from beholder.kernels.compiled import compiled
from beholder.kernels.vectors import BLOCK, LANES, copy_element, dot_and_square_sum, dot_sum, widen_16

VECTORS_SHA256 = "89a9d66179a9520f"
"""Hash of vectors.py. numba's cache watches this file only; a test keeps the two together."""

_NAN, _INF, _ZERO = int(RowStatus.NAN), int(RowStatus.INF), int(RowStatus.ZERO_NORM)
_SMALLEST_SQUARE_SUM, _LARGEST_SQUARE_SUM = 1e-30, 1e37
_TILE_ROWS = 32
"""Rows gathered at a time from column-major data: 32 rows of 768 float32 are 96 KiB, inside a core's cache."""
_GATHER_COLUMNS = 16


@compiled
def _score_row_exactly(like, x, dim, weights, biases, tail, wide, out):  # type: ignore[no-untyped-def]
    """Score one row in float64, scaled by its largest magnitude; returns its status."""
    item_bytes = like.itemsize
    whole = dim // LANES * LANES
    for start in range(0, whole, LANES):
        widen_16(like, x + start * item_bytes, wide.ctypes.data + start * 8)
    if whole < dim:
        for i in range(dim - whole):
            copy_element(like, x + (whole + i) * item_bytes, tail.ctypes.data + i * item_bytes)
        widen_16(like, tail.ctypes.data, wide.ctypes.data + whole * 8)
    largest = 0.0
    has_inf = False
    for i in range(dim):
        value = abs(wide[i])
        if value != value:
            return _NAN
        if value == np.inf:
            has_inf = True
        largest = max(largest, value)
    if has_inf:
        return _INF
    if largest == 0.0:
        return _ZERO
    square_sum = 0.0
    for i in range(dim):
        wide[i] /= largest
        square_sum += wide[i] * wide[i]
    norm = np.sqrt(square_sum)
    for head in range(weights.shape[0]):
        dot = 0.0
        for i in range(dim):
            dot += wide[i] * weights[head, i]
        out[head] = np.float32(dot / norm + biases[head])
    return 0


@compiled
def _score_rows_at(like, first, row_bytes, num_rows, dim, weights, biases, scores, statuses):  # type: ignore[no-untyped-def]
    """Score rows that start at address `first` and lie `row_bytes` apart, each contiguous."""
    item_bytes = like.itemsize
    num_heads = weights.shape[0]
    weights_at = weights.ctypes.data
    weight_bytes = weights.shape[1] * 4
    whole_blocks = dim // BLOCK
    rest = dim - whole_blocks * BLOCK
    rest_at = whole_blocks * BLOCK
    tail = np.zeros(BLOCK, like.dtype)
    tail_at = tail.ctypes.data
    wide = np.zeros(weights.shape[1], np.float64)
    pair = np.zeros(2, np.float64)
    pair_at = pair.ctypes.data
    for row in range(num_rows):
        x = first + row * row_bytes
        if rest > 0:
            for i in range(rest):
                copy_element(like, x + (rest_at + i) * item_bytes, tail_at + i * item_bytes)
        in_range = True
        inverse_norm = 0.0
        for head in range(num_heads):
            dot = 0.0
            w = weights_at + head * weight_bytes
            if head == 0:
                square_sum = 0.0
                if whole_blocks > 0:
                    dot_and_square_sum(like, x, w, whole_blocks, pair_at)
                    dot = pair[0]
                    square_sum = pair[1]
                if rest > 0:
                    dot_and_square_sum(like, tail_at, w + rest_at * 4, 1, pair_at)
                    dot += pair[0]
                    square_sum += pair[1]
                in_range = square_sum >= _SMALLEST_SQUARE_SUM and square_sum <= _LARGEST_SQUARE_SUM
                inverse_norm = 1.0 / np.sqrt(square_sum)
            else:
                if whole_blocks > 0:
                    dot_sum(like, x, w, whole_blocks, pair_at)
                    dot = pair[0]
                if rest > 0:
                    dot_sum(like, tail_at, w + rest_at * 4, 1, pair_at)
                    dot += pair[0]
            in_range = in_range and abs(dot) < np.inf
            scores[row, head] = np.float32(dot * inverse_norm + biases[head])
        statuses[row] = 0
        if not in_range:
            status = _score_row_exactly(like, x, dim, weights, biases, tail, wide, scores[row])
            statuses[row] = status
            if status != 0:
                for head in range(num_heads):
                    scores[row, head] = np.nan
            tail[:] = 0


@compiled
def score_row_major(like, first, row_bytes, dim, weights, biases, scores, statuses):  # type: ignore[no-untyped-def]
    """Score rows that lie one after another in memory.

    Args:
        like: (0,) array whose dtype names the elements: uint16 (half floats), float32 or float64.
        first: address of the first row, aligned to its elements.
        row_bytes: distance between rows, >= dim elements.
        dim: elements of a row, >= 1.
        weights: (H, D) float32, C order, D = dim rounded up to a multiple of 128, zeros beyond dim.
        biases: (H,) float64.
        scores: (N, H) float32, written; NaN where the status is not 0.
        statuses: (N,) uint8, written; `beholder.columns.RowStatus`.
    """
    _score_rows_at(like, first, row_bytes, scores.shape[0], dim, weights, biases, scores, statuses)


@compiled
def gather_rows(like, columns, element_bytes, start, num_rows, tile):  # type: ignore[no-untyped-def]
    """Copy rows [start, start + num_rows) of column-major data into `tile`, (>= num_rows, >= dim) C order.

    columns: (dim,) int64 addresses of the columns' first elements; element_bytes: distance between a column's elements.
    """
    item_bytes = like.itemsize
    dim = columns.shape[0]
    tile_at = tile.ctypes.data
    tile_bytes = tile.shape[1] * item_bytes
    for low in range(0, dim, _GATHER_COLUMNS):
        high = min(dim, low + _GATHER_COLUMNS)
        for row in range(num_rows):
            for column in range(low, high):
                source = columns[column] + (start + row) * element_bytes
                copy_element(like, source, tile_at + row * tile_bytes + column * item_bytes)


@compiled
def score_column_major(like, columns, element_bytes, start, weights, biases, scores, statuses):  # type: ignore[no-untyped-def]
    """Score rows whose dimensions lie in separate columns; same result to the bit as `score_row_major`.

    `columns`: (dim,) int64 addresses of the columns' first elements; `element_bytes`: distance between a column's
    elements; `start`: first row to score, `scores` tells how many. The rest as in `score_row_major`.
    """
    dim = columns.shape[0]
    num_rows = scores.shape[0]
    tile = np.zeros((_TILE_ROWS, dim), like.dtype)
    for low in range(0, num_rows, _TILE_ROWS):
        high = min(num_rows, low + _TILE_ROWS)
        gather_rows(like, columns, element_bytes, start + low, high - low, tile)
        _score_rows_at(
            like, tile.ctypes.data, dim * like.itemsize, high - low, dim, weights, biases, scores[low:high], statuses[low:high]
        )

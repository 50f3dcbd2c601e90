"""Scores of multilayer heads over embedding rows of unit length, in float32.

A plain matrix library would be as fast, but its sums depend on how many rows it is given. Here each row's sums run over
the inputs in order, in fused multiply-adds, whatever rows stand beside it, so results do not depend on batch size,
shard size or the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.kernels.affine import gather_rows
from beholder.kernels.compiled import compiled
from beholder.kernels.vectors import LANES, copy_element, multiply_4_rows, widen_16

VECTORS_SHA256 = "89a9d66179a9520f"
"""Hash of vectors.py. numba's cache watches this file only; a test keeps the two together."""

_PANEL = 32
_ROWS = 4
_TILE_ROWS = 64


@dataclass(frozen=True)
class PackedLayers:
    """Layers as the kernel reads them.

    Attributes:
        panels: per layer (ceil(out / 32), in, 32) float32: 32 outputs side by side, zeros beyond the last.
        biases: per layer (ceil(out / 32) * 32,) float32.
    """

    panels: tuple[npt.NDArray[np.float32], ...]
    biases: tuple[npt.NDArray[np.float32], ...]


def pack(weights: Sequence[npt.NDArray[np.float64]], biases: Sequence[npt.NDArray[np.float64]]) -> PackedLayers:
    """Lay out (out, in) weights and (out,) biases for the kernel. Each layer's `in` is the `out` before it."""
    panels, padded_biases = [], []
    for weight, bias in zip(weights, biases, strict=True):
        num_out, num_in = weight.shape
        num_panels = -(-num_out // _PANEL)
        padded = np.zeros((num_panels * _PANEL, num_in), np.float32)
        padded[:num_out] = weight
        panels.append(np.ascontiguousarray(padded.reshape(num_panels, _PANEL, num_in).transpose(0, 2, 1)))
        padded_bias = np.zeros(num_panels * _PANEL, np.float32)
        padded_bias[:num_out] = bias
        padded_biases.append(padded_bias)
    return PackedLayers(tuple(panels), tuple(padded_biases))


@compiled
def _normalise_rows_at(like, first, row_bytes, num_rows, out):  # type: ignore[no-untyped-def]
    """Divide rows by their length in float64 (scaled, so that nothing overflows) and round to float32."""
    item_bytes = like.itemsize
    dim = out.shape[1]
    whole = dim // LANES * LANES
    tail = np.zeros(LANES, like.dtype)
    wide = np.zeros(whole + LANES, np.float64)
    for row in range(num_rows):
        x = first + row * row_bytes
        for start in range(0, whole, LANES):
            widen_16(like, x + start * item_bytes, wide.ctypes.data + start * 8)
        if whole < dim:
            for i in range(dim - whole):
                copy_element(like, x + (whole + i) * item_bytes, tail.ctypes.data + i * item_bytes)
            widen_16(like, tail.ctypes.data, wide.ctypes.data + whole * 8)
        largest = 0.0
        for i in range(dim):
            largest = max(largest, abs(wide[i]))
        square_sum = 0.0
        for i in range(dim):
            wide[i] /= largest
            square_sum += wide[i] * wide[i]
        inverse = 1.0 / np.sqrt(square_sum)
        for i in range(dim):
            out[row, i] = np.float32(wide[i] * inverse)


@compiled
def normalise_row_major(like, first, row_bytes, out):  # type: ignore[no-untyped-def]
    """Unit-length float32 copies of rows `row_bytes` apart from address `first`; `out` is (N, D) float32, C order.

    `like` as in `beholder.kernels.affine.score_row_major`. Rows with NaN, Inf or only zeros give NaN.
    """
    _normalise_rows_at(like, first, row_bytes, out.shape[0], out)


@compiled
def normalise_column_major(like, columns, element_bytes, start, out):  # type: ignore[no-untyped-def]
    """`normalise_row_major` for column-major data; arguments as in `beholder.kernels.affine.score_column_major`."""
    dim = columns.shape[0]
    tile = np.zeros((_TILE_ROWS, dim), like.dtype)
    for low in range(0, out.shape[0], _TILE_ROWS):
        high = min(out.shape[0], low + _TILE_ROWS)
        gather_rows(like, columns, element_bytes, start + low, high - low, tile)
        _normalise_rows_at(like, tile.ctypes.data, dim * like.itemsize, high - low, out[low:high])


@compiled
def _layer(rows, num_rows, panels, biases, is_last, out):  # type: ignore[no-untyped-def]
    """out[:, :32 * panels] = rows @ weights + biases, then ReLU unless it is the last layer. All C order float32."""
    num_panels, num_in, _ = panels.shape
    row_bytes = rows.shape[1] * 4
    out_bytes = out.shape[1] * 4
    for panel in range(num_panels):
        panel_at = panels.ctypes.data + panel * num_in * _PANEL * 4
        for row in range(0, num_rows, _ROWS):
            out_at = out.ctypes.data + row * out_bytes + panel * _PANEL * 4
            multiply_4_rows(rows.ctypes.data + row * row_bytes, row_bytes, panel_at, num_in, out_at, out_bytes)
    for row in range(num_rows):
        for i in range(num_panels * _PANEL):
            value = out[row, i] + biases[i]
            out[row, i] = value if is_last else max(value, np.float32(0.0))


def forward(unit: npt.NDArray[np.float32], layers: PackedLayers) -> npt.NDArray[np.float32]:
    """(N, D) float32 unit rows, C order -> (N,) float32 scores: the first output of the last layer."""
    num_rows = len(unit)
    scores = np.empty(num_rows, np.float32)
    widest = max([unit.shape[1], *(len(bias) for bias in layers.biases)])
    source: npt.NDArray[Any]
    source, target = np.zeros((2, _TILE_ROWS, widest), np.float32)
    for low in range(0, num_rows, _TILE_ROWS):
        high = min(num_rows, low + _TILE_ROWS)
        padded_rows = -(-(high - low) // _ROWS) * _ROWS
        source[: high - low, : unit.shape[1]] = unit[low:high]
        for number, (panels, biases) in enumerate(zip(layers.panels, layers.biases, strict=True)):
            _layer(source, padded_rows, panels, biases, number == len(layers.panels) - 1, target)
            source, target = target, source
        scores[low:high] = source[: high - low, 0]
    return scores

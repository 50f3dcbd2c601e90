"""Scores of heads over embedding rows in memory: one pass, no copy, any number of heads, all cores.

**Affine heads**: score = bias + (weight . x) / |x|, with the dot products and |x| taken together while the row is in registers.
Products and squares are summed in float32 in 16 lanes of 8, every further sum is float64. The error is at most
about 10 * 2**-24 * |weight| and half a unit in the last place of the float32 result, for any row of any length up to 4096
and beyond: 1e-5 for |weight| <= 16. The lanes' errors are independent, so in practice it is far smaller: over 100,000 random
rows at most 4.2e-7 for LAION's heads (|weight| 12 to 28) and 4.1e-6 for simulacra L/14 (|weight| 374, scores to 62). Rows whose
squares leave [1e-30, 1e37] (very long, very short, NaN, Inf, zero) are done again in float64 with scaling.

**Multilayer heads**: rows are brought to length 1 in float64, and multiplied in float32. A plain matrix library would be as
fast, but its sums depend on how many rows it is given; here each row's run over the inputs in order, in fused multiply-adds.

A row's result depends on that row and the head alone: not on batch, shard size, threads or memory layout.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.columns import RowStatus
from beholder.kernels import ColumnBlock, Embeddings
from beholder.kernels.compiled import compiled
from beholder.kernels.vectors import BLOCK, LANES, copy_element, dot_and_square_sum, dot_sum, multiply_4_rows, widen_16

_NAN, _INF, _ZERO = int(RowStatus.NAN), int(RowStatus.INF), int(RowStatus.ZERO_NORM)
_SMALLEST_SQUARE_SUM, _LARGEST_SQUARE_SUM = 1e-30, 1e37
_TILE_ROWS = 32
"""Rows gathered at a time from column-major data: 32 rows of 768 float32 are 96 KiB, inside a core's cache."""
_GATHER_COLUMNS = 16
_PANEL, _PANEL_ROWS = 32, 4
"""Outputs and rows that are multiplied at a time."""
_LAYER_ROWS = 64
"""Rows that go through all layers together."""
_CHUNK_BYTES = 48 << 20
_CHUNK_BYTES_COLUMNS = 8 << 20


@dataclass(frozen=True)
class Affine:
    """score = weight . x/|x| + bias. weight: (D,) float64; any factor on the normalised input is already inside."""

    weight: npt.NDArray[np.float64]
    bias: float


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with ReLU after all but the last, on x/|x|. weights: (out, in) float64 each; biases: (out,) float64."""

    weights: tuple[npt.NDArray[np.float64], ...]
    biases: tuple[npt.NDArray[np.float64], ...]


@compiled
def _widen_row(like, x, dim, tail, wide):  # type: ignore[no-untyped-def]
    """Write the `dim` elements at address `x` to `wide`, exactly; `tail` has room for 16 of them, `wide` for up to 15 more."""
    item_bytes = like.itemsize
    whole = dim // LANES * LANES
    for start in range(0, whole, LANES):
        widen_16(like, x + start * item_bytes, wide.ctypes.data + start * 8)
    if whole < dim:
        for i in range(dim - whole):
            copy_element(like, x + (whole + i) * item_bytes, tail.ctypes.data + i * item_bytes)
        widen_16(like, tail.ctypes.data, wide.ctypes.data + whole * 8)


@compiled
def _scale_down(wide, dim):  # type: ignore[no-untyped-def]
    """Divide `dim` float64 by their largest magnitude; returns their status, and the sum of their squares after that."""
    largest = 0.0
    has_inf = False
    for i in range(dim):
        value = abs(wide[i])
        if value != value:
            return _NAN, 0.0
        if value == np.inf:
            has_inf = True
        largest = max(largest, value)
    if has_inf:
        return _INF, 0.0
    if largest == 0.0:
        return _ZERO, 0.0
    square_sum = 0.0
    for i in range(dim):
        wide[i] /= largest
        square_sum += wide[i] * wide[i]
    return 0, square_sum


@compiled
def _score_row_exactly(like, x, dim, weights, biases, tail, wide, out):  # type: ignore[no-untyped-def]
    """Score one row in float64, scaled by its largest magnitude; returns its status."""
    _widen_row(like, x, dim, tail, wide)
    status, square_sum = _scale_down(wide, dim)
    if status != 0:
        return status
    norm = np.sqrt(square_sum)
    for head in range(weights.shape[0]):
        dot = 0.0
        for i in range(dim):
            dot += wide[i] * weights[head, i]
        out[head] = np.float32(dot / norm + biases[head])
    return 0


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
    for row in range(scores.shape[0]):
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
        score_row_major(like, tile.ctypes.data, dim * like.itemsize, dim, weights, biases, scores[low:high], statuses[low:high])


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
def normalise_rows(like, first, row_bytes, out):  # type: ignore[no-untyped-def]
    """Unit-length float32 copies of rows `row_bytes` apart from address `first`; `out` is (N, D) float32, C order.

    `like` as in `score_row_major`. Lengths are taken in float64. Rows with NaN, Inf or only zeros give NaN.
    """
    dim = out.shape[1]
    tail = np.zeros(LANES, like.dtype)
    wide = np.zeros(dim + LANES, np.float64)
    for row in range(out.shape[0]):
        _widen_row(like, first + row * row_bytes, dim, tail, wide)
        status, square_sum = _scale_down(wide, dim)
        inverse = 1.0 / np.sqrt(square_sum) if status == 0 else np.nan
        for i in range(dim):
            out[row, i] = np.float32(wide[i] * inverse)


@compiled
def _layer(rows, num_rows, panels, biases, is_last, out):  # type: ignore[no-untyped-def]
    """out[:, :32 * panels] = rows @ weights + biases, then ReLU unless it is the last layer. All C order float32."""
    num_panels, num_in, _ = panels.shape
    row_bytes = rows.shape[1] * 4
    out_bytes = out.shape[1] * 4
    for panel in range(num_panels):
        panel_at = panels.ctypes.data + panel * num_in * _PANEL * 4
        for row in range(0, num_rows, _PANEL_ROWS):
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
    source, target = np.zeros((2, _LAYER_ROWS, widest), np.float32)
    for low in range(0, num_rows, _LAYER_ROWS):
        high = min(num_rows, low + _LAYER_ROWS)
        padded_rows = -(-(high - low) // _PANEL_ROWS) * _PANEL_ROWS
        source[: high - low, : unit.shape[1]] = unit[low:high]
        for number, (panels, biases) in enumerate(zip(layers.panels, layers.biases, strict=True)):
            _layer(source, padded_rows, panels, biases, number == len(layers.panels) - 1, target)
            source, target = target, source
        scores[low:high] = source[: high - low, 0]
    return scores


class RowScorer:
    """Scores blocks of rows with several heads at once. Results do not depend on how rows are cut into blocks.

    Args:
        heads: the arithmetic of each head; all of one input dimension.
        num_threads: threads to use; None for all cores this process may use.
    """

    def __init__(self, heads: Sequence[Affine | Perceptron], *, num_threads: int | None = None) -> None:
        self.num_heads = len(heads)
        self.num_threads = num_threads or len(os.sched_getaffinity(0))
        self._affine_at = [i for i, head in enumerate(heads) if isinstance(head, Affine)]
        self._perceptrons = [(i, pack(h.weights, h.biases)) for i, h in enumerate(heads) if isinstance(h, Perceptron)]
        first = heads[0]
        self.dim = len(first.weight) if isinstance(first, Affine) else first.weights[0].shape[1]
        affines = [head for head in heads if isinstance(head, Affine)] or [Affine(np.zeros(self.dim), 0.0)]
        padded = -(-self.dim // BLOCK) * BLOCK
        self._weights = np.zeros((len(affines), padded), np.float32)
        for row, head in zip(self._weights, affines, strict=True):
            row[: self.dim] = head.weight
        self._biases = np.array([head.bias for head in affines], np.float64)
        self._pool = ThreadPoolExecutor(max_workers=self.num_threads - 1) if self.num_threads > 1 else None

    def warm_up(self, dtype: npt.DTypeLike) -> None:
        """Load (the first time ever: compile) the code for elements of `dtype`, so that it does not count as scoring."""
        row = np.ones((1, self.dim), dtype)
        self.score(row)
        self.score(ColumnBlock(tuple(row.reshape(-1, 1))))

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def score(
        self, rows: Embeddings, *, before_chunk: Callable[[int, int], None] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Score a block.

        Args:
            rows: (N, D) float16, float32 or float64, any memory layout; never copied as a whole.
            before_chunk: called by each worker with (first, last + 1) before it reads those rows; must be thread-safe.

        Returns:
            scores (N, H) float32, NaN where the row has no score, and statuses (N,) uint8 (`RowStatus`).
        """
        num_rows = rows.shape[0]
        scores = np.empty((num_rows, self.num_heads), np.float32)
        statuses = np.empty(num_rows, np.uint8)
        if num_rows == 0:
            return scores, statuses
        score_chunk, chunk_rows = self._prepared(rows, scores, statuses)
        starts = itertools.count()
        stop_early = threading.Event()

        def work() -> None:
            while not stop_early.is_set() and (start := next(starts) * chunk_rows) < num_rows:
                stop = min(num_rows, start + chunk_rows)
                if before_chunk is not None:
                    before_chunk(start, stop)
                score_chunk(start, stop)

        if self._pool is None or num_rows <= chunk_rows:
            work()
        else:
            num_chunks = -(-num_rows // chunk_rows)
            helpers = [self._pool.submit(work) for _ in range(min(self.num_threads, num_chunks) - 1)]
            try:
                work()
            finally:  # they know `rows` by its address only, so it must outlive them even when this thread is interrupted
                stop_early.set()
                wait(helpers)
            for helper in helpers:
                helper.result()
        return scores, statuses

    def _prepared(
        self, rows: Embeddings, scores: npt.NDArray[np.float32], statuses: npt.NDArray[np.uint8]
    ) -> tuple[Callable[[int, int], None], int]:
        """The function that scores rows [start, stop) of this block, and how many rows a worker should take at a time."""
        item_bytes = rows.dtype.itemsize
        like = np.empty(0, np.uint16 if item_bytes == 2 else rows.dtype)
        columns: npt.NDArray[np.int64] | None = None
        if isinstance(rows, np.ndarray):
            first, step = rows.__array_interface__["data"][0], rows.strides[0]
            if rows.strides[1] != item_bytes:
                columns = first + np.arange(rows.shape[1], dtype=np.int64) * rows.strides[1]
        else:
            columns = np.array([column.__array_interface__["data"][0] for column in rows.columns], np.int64)
            first, step = 0, item_bytes
        chunk_bytes = _CHUNK_BYTES if columns is None and not self._perceptrons else _CHUNK_BYTES_COLUMNS
        per_thread = -(-rows.shape[0] // self.num_threads)
        chunk_rows = max(1, min(per_thread, chunk_bytes // (self.dim * item_bytes)))
        affine = (self.dim, self._weights, self._biases)

        def score_affine(start: int, stop: int) -> None:
            out, status = scores[start:stop], statuses[start:stop]
            if columns is None:
                score_row_major(like, first + start * step, step, *affine, out, status)
            else:
                score_column_major(like, columns, step, start, *affine[1:], out, status)

        def score_all(start: int, stop: int) -> None:
            num_rows, at, row_bytes = stop - start, first + start * step, step
            if columns is not None:  # a copy costs little beside the layers' products
                gathered = np.empty((num_rows, self.dim), like.dtype)
                gather_rows(like, columns, step, start, num_rows, gathered)
                at, row_bytes = gathered.__array_interface__["data"][0], gathered.strides[0]
            found = np.empty((num_rows, len(self._biases)), np.float32)
            score_row_major(like, at, row_bytes, *affine, found, statuses[start:stop])
            for source, target in enumerate(self._affine_at):
                scores[start:stop, target] = found[:, source]
            unit = np.empty((num_rows, self.dim), np.float32)
            normalise_rows(like, at, row_bytes, unit)
            bad = statuses[start:stop] != 0
            for target, packed in self._perceptrons:
                scores[start:stop, target] = forward(unit, packed)
                scores[start:stop, target][bad] = np.nan

        return score_all if self._perceptrons else score_affine, chunk_rows

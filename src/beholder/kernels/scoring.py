"""Scores and statuses of blocks of embeddings, on all cores."""

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

from beholder.kernels import affine, mlp
from beholder.kernels.blocks import ColumnBlock, Embeddings
from beholder.kernels.vectors import BLOCK

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
        self._perceptrons = [(i, mlp.pack(h.weights, h.biases)) for i, h in enumerate(heads) if isinstance(h, Perceptron)]
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
            helpers = [self._pool.submit(work) for _ in range(self.num_threads - 1)]
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
        like = np.empty(0, np.uint16 if rows.dtype.itemsize == 2 else rows.dtype)
        item_bytes = rows.dtype.itemsize
        row_major = isinstance(rows, np.ndarray) and rows.strides[1] == item_bytes
        chunk_bytes = _CHUNK_BYTES if row_major and not self._perceptrons else _CHUNK_BYTES_COLUMNS
        per_thread = -(-rows.shape[0] // self.num_threads)
        chunk_rows = max(1, min(per_thread, chunk_bytes // (self.dim * item_bytes)))
        only_affine = not self._perceptrons
        num_affine = len(self._biases)

        if isinstance(rows, np.ndarray) and row_major:
            first, row_bytes = rows.__array_interface__["data"][0], rows.strides[0]

            def score_affine(start: int, stop: int, out: Any) -> None:
                at = first + start * row_bytes
                affine.score_row_major(like, at, row_bytes, self.dim, self._weights, self._biases, out, statuses[start:stop])

            def normalised(start: int, stop: int, out: Any) -> None:
                mlp.normalise_row_major(like, first + start * row_bytes, row_bytes, out)
        else:
            addresses, element_bytes = _column_addresses(rows)

            def score_affine(start: int, stop: int, out: Any) -> None:
                affine.score_column_major(
                    like, addresses, element_bytes, start, self._weights, self._biases, out, statuses[start:stop]
                )

            def normalised(start: int, stop: int, out: Any) -> None:
                mlp.normalise_column_major(like, addresses, element_bytes, start, out)

        def score_chunk(start: int, stop: int) -> None:
            if only_affine:
                score_affine(start, stop, scores[start:stop])
                return
            found = np.empty((stop - start, num_affine), np.float32)
            score_affine(start, stop, found)
            for source, target in enumerate(self._affine_at):
                scores[start:stop, target] = found[:, source]
            unit = np.empty((stop - start, self.dim), np.float32)
            normalised(start, stop, unit)
            bad = statuses[start:stop] != 0
            for target, packed in self._perceptrons:
                scores[start:stop, target] = mlp.forward(unit, packed)
                scores[start:stop, target][bad] = np.nan

        return score_chunk, chunk_rows


def _column_addresses(rows: Embeddings) -> tuple[npt.NDArray[np.int64], int]:
    """Addresses of the first element of each dimension, and the distance in bytes between a dimension's elements."""
    if isinstance(rows, np.ndarray):
        first: int = rows.__array_interface__["data"][0]
        return first + np.arange(rows.shape[1], dtype=np.int64) * rows.strides[1], rows.strides[0]
    addresses = [column.__array_interface__["data"][0] for column in rows.columns]
    return np.array(addresses, np.int64), rows.dtype.itemsize

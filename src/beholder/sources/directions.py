"""The mean direction of the first rows of embeddings, read from as few bytes as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from beholder.kernels.blocks import ColumnBlock, Embeddings
from beholder.sources.find import embedding_reader
from beholder.sources.reader import Part, ReadOptions

MOST_ROWS = 10_000
_BLOCK_BYTES = 64 << 20
_CHUNK_ROWS = 1024


@dataclass(frozen=True)
class MeanDirection:
    """The mean of the first rows of some parts, each divided by its length.

    Attributes:
        vector: (D,) float64.
        num_rows: rows it was made of, at most `MOST_ROWS`; without those that have no direction (zeros, NaN, Inf, missing).
        is_all: whether these are all the rows there are.
    """

    vector: npt.NDArray[np.float64]
    num_rows: int
    is_all: bool

    def cosine(self, direction: npt.NDArray[np.float64]) -> float:
        """The mean cosine of the rows to a direction: (D,) float64 of length 1."""
        return float(self.vector @ direction)

    @property
    def rows(self) -> str:
        """Which rows these were, in words."""
        if not self.is_all:
            return f"the first {self.num_rows:,} rows"
        return "its one row" if self.num_rows == 1 else f"all {self.num_rows:,} rows"


def mean_direction(parts: Sequence[Part], dim: int, options: ReadOptions) -> MeanDirection | None:
    """The mean direction of the first rows of the parts with `dim` numbers a row; None where no row has a direction.

    No more is read than these rows, or the pieces that their file is read in. Raises InputError, as reading them does.
    """
    few = replace(options, columns=(), block_bytes=min(options.block_bytes, _BLOCK_BYTES))
    total, num_good, num_read = np.zeros(dim), 0, 0
    is_all = True
    for part in parts:
        if part.dim != dim or part.num_rows == 0:
            continue
        wanted = MOST_ROWS - num_read
        if wanted == 0:
            is_all = False
            break
        stop = wanted if part.num_rows is None else min(wanted, part.num_rows)
        read = 0
        for block in embedding_reader(part.kind).blocks(part, 0, stop, few):
            num_rows = block.embeddings.shape[0]
            if block.before_chunk is not None:
                block.before_chunk(0, num_rows)
            for low in range(0, num_rows, _CHUNK_ROWS):
                rows = _rows(block.embeddings, low, min(num_rows, low + _CHUNK_ROWS))
                lengths = np.linalg.norm(rows, axis=1)
                good = np.isfinite(lengths) & (lengths > 0)
                if block.statuses is not None:
                    good &= block.statuses[low : low + _CHUNK_ROWS] == 0
                total += (rows[good] / lengths[good, np.newaxis]).sum(axis=0)
                num_good += int(good.sum())
            read += num_rows
        num_read += read
        is_all = is_all and (read < stop or part.num_rows == stop)
    return MeanDirection(total / num_good, num_good, is_all) if num_good else None


def _rows(embeddings: Embeddings, low: int, high: int) -> npt.NDArray[np.float64]:
    """Rows [low, high) as float64."""
    if isinstance(embeddings, ColumnBlock):
        return np.stack([column[low:high] for column in embeddings.columns], axis=1).astype(np.float64)
    return embeddings[low:high].astype(np.float64)

"""Compiled loops over arrays, and what they are handed: blocks of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ColumnBlock:
    """Embeddings as one contiguous (N,) array per dimension, all of one dtype: how Parquet and Fortran order hold them."""

    columns: tuple[FloatArray, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(N, D)."""
        return (len(self.columns[0]) if self.columns else 0, len(self.columns))

    @property
    def dtype(self) -> np.dtype[Any]:
        """float16, float32 or float64."""
        return self.columns[0].dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return sum(column.nbytes for column in self.columns)


def address_of(rows: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], int, int]:
    """A matrix as kernels take it: an empty array of the elements' type, the first row's address, the distance of rows."""
    like: npt.NDArray[Any] = np.empty(0, np.uint16 if rows.itemsize == 2 else rows.dtype)
    return like, rows.__array_interface__["data"][0], rows.strides[0]


Embeddings = npt.NDArray[np.floating[Any]] | ColumnBlock
"""(N, D) float16, float32 or float64, in any memory layout."""

"""Sketches of embeddings, 64 bits each: those of one picture are told by them, in whatever file, order or precision they are.

A bit is the parity of the cell in which the projection of the unit embedding onto random signs falls, cells half as wide as an
embedding is long: universal quantisation (P. T. Boufounos, "Universal rate-efficient scalar quantization", IEEE Transactions on
Information Theory 58, 2012). Embeddings that differ by the rounding of float16 (a distance of 0.0005) differ in 0.05 bits on
average, those at a cosine of 0.9999 in 1.5, those at one below 0.95 in half of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.models.backbones import same_backbone

Sketches = npt.NDArray[np.uint64]
NUM_BITS = 64
MOST_DIFFERENT = 3
"""Bits in which two sketches of one picture may differ: random ones are as near once in 4e14."""
_CELL = 0.5
_BLOCK = 4096
_BANDS = 4
"""Pieces of a sketch, of which one is the same where no more than `_BANDS` - 1 bits differ."""


@dataclass(frozen=True, kw_only=True)
class Sketched:
    """Sketches of N pictures.

    Attributes:
        sketches: (N,) uint64; of a picture without an embedding anything.
        has_one: (N,) whether it has an embedding.
        dim: numbers of an embedding.
        backbone: the tower; None: nobody says.
    """

    sketches: Sketches
    has_one: npt.NDArray[np.bool_]
    dim: int
    backbone: str | None

    @classmethod
    def whole(cls, sketches: Sketches, dim: int, backbone: str | None) -> Sketched:
        """Of pictures that all have an embedding."""
        return cls(sketches=sketches, has_one=np.ones(len(sketches), np.bool_), dim=dim, backbone=backbone)

    def at(self, rows: npt.NDArray[np.int64]) -> Sketched:
        """Those of some pictures."""
        return Sketched(sketches=self.sketches[rows], has_one=self.has_one[rows], dim=self.dim, backbone=self.backbone)

    def is_of(self, dim: int, backbone: str | None) -> bool:
        """Whether these may be compared with sketches of embeddings of this tower."""
        return self.dim == dim and (not self.backbone or not backbone or same_backbone(self.backbone, backbone))


def sketched(
    num_pictures: int,
    at: npt.NDArray[np.int64],
    matrix: npt.NDArray[np.floating[Any]],
    rows: npt.NDArray[np.int64],
    backbone: str | None,
) -> Sketched:
    """Sketches of those of N pictures, `at` (n,), whose embeddings are `rows` (n,) of a matrix (M, D)."""
    sketches, has_one = np.zeros(num_pictures, np.uint64), np.zeros(num_pictures, np.bool_)
    sketches[at], has_one[at] = sketches_of(matrix, rows), True
    return Sketched(sketches=sketches, has_one=has_one, dim=matrix.shape[1], backbone=backbone)


def sketches_of(matrix: npt.NDArray[np.floating[Any]], rows: npt.NDArray[np.int64] | None = None) -> Sketches:
    """(n,) uint64 sketches of rows of a matrix (M, D) of finite embeddings, each longer than 0; None: of all."""
    numbers = np.arange(len(matrix)) if rows is None else rows
    signs, offsets = _projections(matrix.shape[1])
    found = [np.empty(0, np.uint64)]
    for start in range(0, len(numbers), _BLOCK):
        block = np.asarray(matrix[numbers[start : start + _BLOCK]], np.float64)
        block = block / np.abs(block).max(axis=1, keepdims=True)  # so that no square is out of range
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        cells = np.floor(block @ signs / _CELL + offsets).astype(np.int64)
        found.append(np.packbits((cells & 1).astype(np.uint8), axis=1).view(">u8")[:, 0].astype(np.uint64))
    return np.concatenate(found)


def _projections(dim: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(D, 64) signs and (64,) offsets in cells, from 0 to 1: the same ones wherever and whenever they are made."""
    drawn = hashlib.shake_256(f"beholder sketch of {dim} numbers".encode()).digest(dim * NUM_BITS // 8 + 2 * NUM_BITS)
    signs = np.unpackbits(np.frombuffer(drawn, np.uint8, dim * NUM_BITS // 8)).reshape(dim, NUM_BITS)
    offsets = np.frombuffer(drawn, ">u2", NUM_BITS, dim * NUM_BITS // 8)
    return np.asarray(2.0 * signs - 1.0, np.float64), np.asarray(offsets / 65536.0, np.float64)


def is_among(asked: Sketches, known: Sketches) -> npt.NDArray[np.bool_]:
    """(N,) which sketches are of a picture that has one among others, (K,) sketches: in `MOST_DIFFERENT` bits at most."""
    found = np.zeros(len(asked), np.bool_)
    for mine, theirs in _bands(asked, known):
        order = np.argsort(theirs, kind="stable")
        low, high = np.searchsorted(theirs[order], mine, "left"), np.searchsorted(theirs[order], mine, "right")
        while (left := np.flatnonzero((low < high) & ~found)).size:
            different = asked[left] ^ known[order[low[left]]]
            found[left] = np.unpackbits(different.view(np.uint8).reshape(-1, 8), axis=1).sum(axis=1) <= MOST_DIFFERENT
            low[left] += 1
    return found


def _bands(asked: Sketches, known: Sketches) -> Iterator[tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]]:
    """The pieces of sketches, one after the other."""
    for band in range(_BANDS):
        shift = np.uint64(band * NUM_BITS // _BANDS)
        yield (asked >> shift).astype(np.uint16), (known >> shift).astype(np.uint16)

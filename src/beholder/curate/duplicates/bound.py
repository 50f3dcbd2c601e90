"""A sample of rows in, the axes along which few coordinates tell most, and bounds on similarity by those coordinates, out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.kernels import mlp, similarity
from beholder.kernels.similarity import PANEL, ROWS
from beholder.scoreset.vectors import Rows, like

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_UNIT = 2.0**-24
"""Half a unit in the last place of float32 numbers near 1."""
_SAMPLE_ROWS = 4096
_PAIR_ROWS = 1024
_PAIR_COST = 30_000.0
"""What a similarity in float64 costs, in multiply-adds of the bound: 500 ns (768 float16 from memory) and 60 a nanosecond were
measured. Only the time depends on it, and not much."""
_TILE_COST = 8.0
"""The same for comparing one product with the limit."""


@dataclass(frozen=True)
class Basis:
    """How rows are turned so that few coordinates tell most: the axes along which a sample of them is longest, in order.

    Attributes:
        panels: (panels, P, 32) float32: the first `num_axes` axes, 32 side by side, zeros beyond.
        num_axes: coordinates kept; one more holds the length of what is left.
        error: how far a row's computed coordinates are at most from the true ones (Euclidean length).
        near_share: share of pairs of the sample whose bound was at least the limit.
    """

    panels: Floats
    num_axes: int
    error: float
    near_share: float

    @property
    def dim(self) -> int:
        """Coordinates of a row."""
        return self.num_axes + 1

    def limit(self, threshold: float) -> np.float32:
        """The bound of any pair whose similarity is at least `threshold`, as computed in float32, is at least this.

        Coordinates are off by `error` at most, so products of two rows by 2 * error + error**2; a float32 sum of d products
        of numbers whose squares sum to at most 1 + 2.1 * error is off by 1.1 * d * 2**-24 at most, in any order.
        """
        rounding = 2.0 * self.error + self.error**2 + 1.1 * (self.dim + 2) * _UNIT
        limit = threshold - rounding - 1e-9
        return np.float32(np.nextafter(np.float32(limit), np.float32(-4.0)))

    def coordinates(self, rows: npt.NDArray[Any]) -> Floats:
        """(n, P) rows -> (4 * ceil(n / 4), dim) float32; zeros beyond row n."""
        padded = -(-len(rows) // ROWS) * ROWS
        unit = np.zeros((padded, rows.shape[1]), np.float32)
        rows = np.ascontiguousarray(rows)
        address, row_bytes = rows.__array_interface__["data"][0], rows.strides[0]
        mlp.normalise_row_major(like(rows.dtype), address, row_bytes, unit[: len(rows)])
        turned = np.empty((padded, len(self.panels) * PANEL), np.float32)
        similarity.turn(unit, self.panels, turned)
        out = np.zeros((padded, self.dim), np.float32)
        out[: len(rows), :-1] = turned[: len(rows), : self.num_axes]
        told = np.einsum("ij,ij->i", out, out, dtype=np.float64)[: len(rows)]
        left = np.sqrt(np.maximum(0.0, 1.0 - told) + 2.1 * self.error).astype(np.float32)
        out[: len(rows), -1] = np.nextafter(left, np.float32(2.0))
        return out


def choose_basis(matrix: npt.NDArray[Any], rows: Rows, threshold: float, *, pair_cost: float = _PAIR_COST) -> Basis:
    """Axes from a sample of the rows, and how many of them: those that make a search cheapest.

    Few make the bound cheap, more make it exclude more pairs; the sample tells how many it leaves. Rows whose directions are
    all equally likely leave most pairs, and then all coordinates are used: that is the plain product.

    Args:
        matrix: see `Vectors.matrix`.
        rows: its rows in question, at least one.
        threshold: similarity from which rows are near-duplicates.
        pair_cost: what one pair that is left costs, in multiply-adds.
    """
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _SAMPLE_ROWS)).astype(np.int64))]
    sample = matrix[chosen].astype(np.float64)
    sample /= np.abs(sample).max(axis=1, keepdims=True)
    sample /= np.sqrt(np.einsum("ij,ij->i", sample, sample))[:, None]
    width = sample.shape[1]
    axes = np.linalg.eigh(sample.T @ sample)[1][:, ::-1]
    turned = sample @ axes
    some = np.random.default_rng(0).permutation(len(turned))  # neighbours in rank or file would tell of themselves only
    one, other = turned[some[:_PAIR_ROWS]], turned[some[-_PAIR_ROWS:]]
    best: tuple[float, int, float] | None = None
    for num_axes in sorted({min(width, count) for count in (15, 23, 31, 47, 63, 79, 95, 127, 159, 191, 255, 383, 511, width)}):
        share = _near_share(one, other, num_axes, threshold - 3 * error_of(width, num_axes))
        cost = num_axes + 1 + _TILE_COST + share * pair_cost
        if best is None or cost < best[0]:
            best = (cost, num_axes, share)
    assert best is not None
    num_axes = best[1]
    panels = np.zeros((-(-num_axes // PANEL), width, PANEL), np.float32)
    for panel in range(len(panels)):
        some_axes = axes[:, panel * PANEL : min(num_axes, (panel + 1) * PANEL)]
        panels[panel, :, : some_axes.shape[1]] = some_axes
    return Basis(panels, num_axes, error_of(width, num_axes), best[2])


def _near_share(one: Doubles, other: Doubles, num_axes: int, limit: float) -> float:
    left = [np.sqrt(np.maximum(0.0, 1.0 - (rows[:, :num_axes] ** 2).sum(axis=1))) for rows in (one, other)]
    bounds = one[:, :num_axes] @ other[:, :num_axes].T + np.outer(*left)
    return float((bounds >= limit).mean())


def error_of(width: int, num_axes: int) -> float:
    """Most that float32 can make coordinates wrong by, as the length of the difference.

    A sum of `width` products in float32, in any order, is off by at most about width * 2**-24 times the sum of the products'
    magnitudes, which is at most 1 for each axis; rounding the row and the axes to float32 adds two such units.
    """
    return 1.01 * (width + 3) * _UNIT * float(np.sqrt(num_axes))

"""Near-duplicate removal as its definition reads: every pair of rows, one row after another, in plain numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

LANES = 16


def similarities(rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(N, D) -> (N, N) cosines in float64; sums run in 16 lanes, which are then added in halves."""
    wide = np.zeros((len(rows), -(-rows.shape[1] // LANES) * LANES))
    wide[:, : rows.shape[1]] = rows
    lanes = np.zeros((len(rows), len(rows), LANES))
    for start in range(0, wide.shape[1], LANES):
        part = wide[:, start : start + LANES]
        lanes = lanes + part[:, None] * part[None, :]
    while lanes.shape[2] > 1:
        half = lanes.shape[2] // 2
        lanes = lanes[:, :, :half] + lanes[:, :, half:]
    dots = lanes[:, :, 0]
    squares = np.diagonal(dots)
    return np.clip(dots / np.sqrt(squares[:, None] * squares[None, :]), -1.0, 1.0)


def exact_similarity(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """The cosine of two rows with sums that are rounded once."""
    one, other = [float(v) for v in x], [float(v) for v in y]
    dot = math.fsum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(math.fsum(a * a for a in one)) / math.sqrt(math.fsum(b * b for b in other))


def keep_best(
    rows: npt.NDArray[Any], threshold: float, num_always: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(N, D) rows with a direction, best first -> for each the row that stays and is most similar, and how similar."""
    found = similarities(rows)
    keeper, similarity, kept = np.arange(len(rows)), np.ones(len(rows)), []
    for row in range(len(rows)):
        nearest = max(kept, key=lambda other: (found[row, other], -other), default=None)
        if row >= num_always and nearest is not None and found[row, nearest] >= threshold:
            keeper[row], similarity[row] = nearest, found[row, nearest]
        else:
            kept.append(row)
    return keeper, similarity


def survivors(
    order: list[int],
    similar: npt.NDArray[np.float64],
    threshold: float,
    *,
    always: frozenset[int] = frozenset(),
    group_of: dict[int, Any] | None = None,
) -> dict[int, int]:
    """Each row of `order` -> the one that stays for it: itself, or of those before it that stay the most similar.

    similar: (N, N), NaN for rows without an embedding; group_of: only rows of one group are compared; always: rows that stay.
    """
    keeper: dict[int, int] = {}
    for place, row in enumerate(order):
        keeper[row] = row
        before = [
            other
            for other in order[:place]
            if keeper[other] == other and (group_of is None or group_of[other] == group_of[row])
        ]
        near = [other for other in before if similar[row, other] >= threshold]
        if near and row not in always:
            keeper[row] = max(near, key=lambda other: (similar[row, other], -order.index(other)))
    return keeper

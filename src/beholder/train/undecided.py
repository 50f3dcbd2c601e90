"""Which pictures to mark next: those that a head is least sure of, spread out, so that each mark tells something new.

Nearest to an even chance (uncertainty sampling: Lewis and Gale, "A sequential algorithm for training text classifiers", SIGIR
1994), and of these greedily the farthest from what is marked and chosen already (farthest-point traversal: Gonzalez,
"Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38, 1985).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.train.folds import NEAR
from beholder.train.rows import Rows, unit_rows

NUM_SHOWN = 24
NUM_NEAREST = 400
"""So many of the least sure are spread out at most: a tenth of all, and three times as many as are wanted."""
_MOST_MARKED = 2_000
"""Of more marked pictures the last ones given are kept away from."""


def undecided(
    matrix: npt.NDArray[Any],
    odds: npt.NDArray[np.floating[Any]],
    candidates: Rows,
    *,
    marked: Rows,
    cut: float = 0.0,
    number: int = NUM_SHOWN,
    nearest: int | None = None,
) -> Rows:
    """Rows of a matrix to be marked next, the one that tells most first; fewer than `number` where the others are alike.

    Args:
        matrix: (K, D) embeddings; rows among `candidates` and `marked` have a direction.
        odds: (K,) scores of the head.
        candidates: (C,) ascending rows that may be chosen.
        marked: rows that are marked already.
        cut: the score at which the head is undecided.
        number: how many at most.
        nearest: among how many; None: by the number of candidates (`NUM_NEAREST`).
    """
    if nearest is None:
        nearest = min(NUM_NEAREST, max(3 * number, len(candidates) // 10))
    rows = _nearest(np.abs(odds[candidates].astype(np.float64) - cut), candidates, nearest)
    if not len(rows) or number < 1:
        return np.empty(0, np.int64)
    unit = unit_rows(matrix, rows)
    closest = np.full(len(rows), -np.inf)  # the largest cosine to what is marked or chosen
    if len(marked):
        closest = (unit @ unit_rows(matrix, marked[-_MOST_MARKED:]).T).max(axis=1)
    chosen: list[int] = []
    at = 0 if not len(marked) else int(np.argmin(closest))
    while len(chosen) < min(number, len(rows)) and (not chosen or closest[at] < NEAR):
        chosen.append(at)
        closest = np.maximum(closest, unit @ unit[at])
        closest[at] = np.inf
        at = int(np.argmin(closest))
    return rows[chosen]


def _nearest(distances: npt.NDArray[np.float64], candidates: Rows, number: int) -> Rows:
    """The candidates with the smallest distances, nearest first, equal ones in row order."""
    usable = np.isfinite(distances)
    distances, candidates = distances[usable], candidates[usable]
    if len(candidates) > number > 0:
        limit = np.partition(distances, number - 1)[number - 1]
        some = np.flatnonzero(distances <= limit)
        distances, candidates = distances[some], candidates[some]
    return candidates[np.argsort(distances, kind="stable")[:number]]

"""Sizes of groups in, how many rows of each may stay out: equal shares of a number, or of the smallest group."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]


def share_of(sizes: Counts, share: Fraction) -> Counts:
    """ceil(share * size) of each group, exactly."""
    found, inverse = np.unique(sizes, return_inverse=True)
    wanted = np.array([math.ceil(share * int(size)) for size in found], np.int64)
    return wanted[inverse] if len(sizes) else wanted


def balanced(sizes: Counts, held: Counts, number: int | None, best_first: Callable[[Counts], Counts]) -> tuple[Counts, int]:
    """How many rows each group may have: as many as the others, as long as it has them.

    Args:
        sizes: (G,) rows of each group.
        held: (G,) rows that stay in any case (marked keep); they count.
        number: rows in all; None: every group is cut to the size of the smallest that has any.
        best_first: puts the numbers of groups in the order of their best rows; asked only for the last few rows, which
            cannot be shared out evenly.

    Returns:
        (G,) rows, and the common number.
    """
    some = sizes > 0
    if number is None:
        level = int(sizes[some].min(initial=np.iinfo(np.int64).max)) if some.any() else 0
        return np.maximum(np.minimum(sizes, level), held), level

    def filled(level: int) -> Counts:
        return np.maximum(np.minimum(sizes, level), held)

    low, high = 0, int(sizes.max(initial=0))  # the largest level that does not take more than `number`
    while low < high:
        middle = (low + high + 1) // 2
        if int(filled(middle).sum()) <= number:
            low = middle
        else:
            high = middle - 1
    found = filled(low)
    rest = number - int(found.sum())
    if rest > 0:
        more = np.flatnonzero((sizes > low) & (held <= low))
        if rest < len(more):
            more = best_first(more)[:rest]
        found[more] += 1
    return found, low

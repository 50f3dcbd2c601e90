"""Counts of 32-bit keys by their upper bits, and within one such bin by their lower bits: where a place among them falls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.kernels.ordering import Keys

Counts = npt.NDArray[np.int64]
LOW_BITS = 12
NUM_BINS = 1 << (32 - LOW_BITS)


def counted(numbers: npt.NDArray[Any]) -> tuple[int, Counts]:
    """How often each number is there, from the least one on; and that."""
    least = int(numbers.min()) if len(numbers) else 0
    return least, np.bincount(numbers - np.uint32(least))


def lower_counts(keys: Keys, number: int) -> Counts:
    """How often each key of a bin is there."""
    inside = keys[keys >> LOW_BITS == number] & np.uint32((1 << LOW_BITS) - 1)
    return np.bincount(inside, minlength=1 << LOW_BITS)


def nth(place: int, bins: Counts, lower_of: Callable[[int], Counts]) -> tuple[int, int, int]:
    """The key at a place, counted from the largest: (key, how many are above, how many are equal)."""
    number, above = _bin_of_place(bins, place, 0)
    lower = lower_of(number)
    low, above = _bin_of_place(lower, place, above)
    return (number << LOW_BITS) | low, above, int(lower[low])


def _bin_of_place(counts: Counts, place: int, above: int) -> tuple[int, int]:
    """The bin that holds the place, counted from the last bin down, and how many places are above that bin."""
    reached = above + np.cumsum(counts[::-1])
    number = int(np.searchsorted(reached, place))
    assert number < len(counts), "fewer rows than the place asked for"
    return len(counts) - 1 - number, int(reached[number - 1]) if number else above

"""Numbers by their bits: floats as unsigned integers in the same order, and the mixing step of splitmix64. Only numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""What splitmix64 adds at each step."""


def ordered_bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N,) float32 or float64 -> (N,) uint32 or uint64 in the same order. -0.0 counts as 0.0; NaN means nothing."""
    kind = np.uint32 if values.dtype == np.float32 else np.uint64
    top = kind(1 << (8 * values.itemsize - 1))
    bits = (values + values.dtype.type(0)).view(kind)
    found: npt.NDArray[Any] = np.where(bits >= top, ~bits, bits | top)
    return found


def floats_of(bits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The floats behind `ordered_bits`."""
    top = bits.dtype.type(1 << (8 * bits.itemsize - 1))
    floats: npt.NDArray[Any] = np.where(bits >= top, bits ^ top, ~bits).view(
        np.float32 if bits.dtype == np.uint32 else np.float64
    )
    return floats


def splitmix64(value: Any) -> Any:
    """The mixing step of splitmix64 (https://prng.di.unimi.it/splitmix64.c): uint64 -> uint64, arrays or, compiled, numbers."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))

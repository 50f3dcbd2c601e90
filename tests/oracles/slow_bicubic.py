"""Pixels and a size in, Pillow's bicubic resize out: written down from its definition, slowly, in NumPy alone."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def keys_cubic(x: float) -> float:
    """Keys' cubic with a = -0.5, in the order of operations that Pillow has."""
    x = abs(x)
    if x < 1.0:
        return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2.0 else 0.0


def fixed_weights(in_size: int, out_size: int, place: int) -> tuple[int, list[int]]:
    """First input pixel and fixed-point weights (22 bits after the point) of output pixel `place`."""
    scale = float(np.float32(in_size)) / out_size
    stretch = max(scale, 1.0)
    center = (place + 0.5) * scale
    first = max(int(center - 2.0 * stretch + 0.5), 0)
    stop = min(int(center + 2.0 * stretch + 0.5), in_size)
    inverse = 1.0 / stretch
    values = [keys_cubic((first + tap - center + 0.5) * inverse) for tap in range(stop - first)]
    total = 0.0
    for value in values:
        total += value
    shares = [value / total if total != 0.0 else value for value in values]
    return first, [math.trunc(share * (1 << 22) + (0.5 if share >= 0 else -0.5)) for share in shares]


def resize_lines(pixels: Bytes, out_size: int, first: int, last: int) -> Bytes:
    """Output pixels [first, last) along axis 0 of (N, ...) bytes resized to `out_size`; the same bytes if N == out_size."""
    if pixels.shape[0] == out_size:
        return pixels[first:last]
    rows = []
    for place in range(first, last):
        start, weights = fixed_weights(pixels.shape[0], out_size, place)
        part = pixels[start : start + len(weights)].astype(np.int64)
        total = np.tensordot(np.array(weights, np.int64), part, axes=(0, 0)) + (1 << 21)
        rows.append(np.clip(total >> 22, 0, 255).astype(np.uint8))
    return np.stack(rows)


def resize_window(pixels: Bytes, out_width: int, out_height: int, box: tuple[int, int, int, int]) -> Bytes:
    """The window (left, top, right, bottom) of (H, W, C) bytes resized: along rows to bytes first, then along columns."""
    left, top, right, bottom = box
    wide = resize_lines(pixels.swapaxes(0, 1), out_width, left, right).swapaxes(0, 1)
    return resize_lines(wide, out_height, top, bottom)

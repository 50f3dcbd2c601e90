"""Rows of 8-bit pixels and a wanted size in, a window of the bicubic resize out: to the bit what Pillow gives, one pass.

Pillow (Resample.c) resizes rows first, to bytes, then columns. Each output pixel is a sum over the pixels that lie within
2 * max(1, in / out) of its centre, with weights from the cubic of Keys (a = -0.5), normalised in float64 and rounded to
22 bits after the point; sums are rounded half up and clipped. The same here, but only for the wanted window, four rows at
a time: filtered rows are kept only as long as later output rows need them, so they stay in the core's cache.

The weights follow Pillow's float64 operations one by one, as they are done on x86-64. Where Pillow was compiled to fuse
multiplication and addition (some builds for Arm), a weight may round to a neighbour there, and a pixel differ by 1.
"""

from __future__ import annotations

import numpy as np

from beholder.kernels.compiled import compiled
from beholder.kernels.quads import PRECISION_BITS, QUADS, copy_bytes, filter_grays, filter_groups, filter_lines, filter_pixels

QUADS_SHA256 = "cb0f2e8add115d06"
"""Hash of quads.py. numba's cache watches this file only; a test keeps the two together."""

_KEPT_BYTES = 512 << 10
"""Filtered rows are moved to the front of their buffer when it has this many bytes: a part of a core's second-level cache."""


@compiled
def _cubic(x):  # type: ignore[no-untyped-def]
    """Keys' cubic with a = -0.5, in Pillow's order of operations."""
    a = -0.5
    if x < 0.0:
        x = -x
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if x < 2.0:
        return (((x - 5) * x + 8) * x - 4) * a
    return 0.0


@compiled
def _scales(in_size, out_size):  # type: ignore[no-untyped-def]
    """Input pixels for each output pixel, and how far the cubic is stretched; sizes go through float32 as in Pillow."""
    if in_size == out_size:
        return 1.0, 1.0
    scale = np.float64(np.float32(in_size)) / out_size
    return scale, max(scale, 1.0)


@compiled
def window(in_size, out_size, place):  # type: ignore[no-untyped-def]
    """The input pixels [start, stop) of a line of `in_size` that output pixel `place` of `out_size` is made from."""
    scale, stretch = _scales(in_size, out_size)
    center = (place + 0.5) * scale
    support = 2.0 * stretch
    return max(np.int64(center - support + 0.5), 0), min(np.int64(center + support + 0.5), in_size)


@compiled
def windows(in_size, out_size, first, last):  # type: ignore[no-untyped-def]
    """Where output pixels [first, last) of a line look, and with which weights.

    Args:
        in_size: pixels of the line before, >= 1.
        out_size: pixels of the line after, >= 1.
        first: the first output pixel wanted, >= 0.
        last: one beyond the last one wanted, first < last <= out_size.

    Returns:
        starts: (N,) int64, the first input pixel of each window; never falls.
        counts: (N,) int64, pixels in each window.
        weights: (N, max(counts)) int32, fixed point with 22 bits after the point, zeros beyond counts.
    """
    scale, stretch = _scales(in_size, out_size)
    num = last - first
    starts = np.empty(num, np.int64)
    counts = np.empty(num, np.int64)
    for i in range(num):
        start, stop = window(in_size, out_size, first + i)
        starts[i] = start
        counts[i] = stop - start
    most = counts.max()
    weights = np.zeros((num, most), np.int32)
    values = np.empty(most, np.float64)
    inverse_stretch = 1.0 / stretch
    one = np.float64(1 << PRECISION_BITS)
    for i in range(num):
        center = (first + i + 0.5) * scale
        low = starts[i]
        total = 0.0
        for tap in range(counts[i]):
            value = _cubic((tap + low - center + 0.5) * inverse_stretch)
            values[tap] = value
            total += value
        for tap in range(counts[i]):
            value = values[tap]
            if total != 0.0:
                value /= total
            weights[i, tap] = np.int32(value * one - 0.5) if value < 0 else np.int32(value * one + 0.5)
    return starts, counts, weights


@compiled
def pack_weights(like, weights, counts, shifts, num_taps):  # type: ignore[no-untyped-def]
    """Cut weights into the pieces that `like` names (see quads.py).

    Args:
        like: (0,) uint8, int16 or int32.
        weights: as from `windows`, |weight| < 2**23 - 2**16.
        counts: as from `windows`.
        shifts: (N,) int64: zeros to put before each window; shifts + counts <= num_taps.
        num_taps: pixels that the packed windows span, a multiple of 4.

    Returns:
        (N, planes, num_taps) uint8, planes 3 or 4.
    """
    num = weights.shape[0]
    num_planes = 3 if like.itemsize == 1 else 4
    packed = np.zeros((num, num_planes, num_taps), np.uint8)
    for i in range(num):
        for tap in range(counts[i]):
            weight = np.int64(weights[i, tap])
            place = tap + shifts[i]
            if like.itemsize == 1:
                for plane in range(3):
                    packed[i, plane, place] = np.uint8(weight & 255)
                    weight = (weight + 128) >> 8
            elif like.itemsize == 2:
                at = place // 4 * 4 + (place % 4) // 2 * 2
                high = (weight + (1 << 15)) >> 16
                for byte in range(2):
                    packed[i, place % 2, at + byte] = np.uint8((weight >> (8 * byte)) & 255)
                    packed[i, 2 + place % 2, at + byte] = np.uint8((high >> (8 * byte)) & 255)
            else:
                for byte in range(4):
                    packed[i, place % 4, place // 4 * 4 + byte] = np.uint8((weight >> (8 * byte)) & 255)
    return packed


@compiled
def _still_needed(array):  # type: ignore[no-untyped-def]
    """Call it after the last use of an address into `array`: numba frees an array after the last mention of its name."""
    return array.size


@compiled
def _round_up(value, to):  # type: ignore[no-untyped-def]
    return (value + to - 1) // to * to


@compiled
def _filter_four_rows(like, rows, row, pixel_bytes, width, scratch, starts, packed, out):  # type: ignore[no-untyped-def]
    """Filter rows [row, row + 4), the last one repeated at the end, to one group of quads at address `out`."""
    plane_bytes = packed.shape[2]
    at = np.empty(4, np.int64)
    for i in range(4):
        at[i] = rows[min(row + i, rows.shape[0] - 1)]
        if scratch.shape[1] > 0:
            target = scratch[i].ctypes.data
            copy_bytes(target, at[i], width * pixel_bytes)
            at[i] = target
    weights_at = packed.ctypes.data
    weight_bytes = packed.shape[1] * plane_bytes
    for column in range(starts.shape[0]):
        w = weights_at + column * weight_bytes
        x = starts[column] * pixel_bytes
        if pixel_bytes == 4:
            filter_pixels(like, at[0] + x, at[1] + x, at[2] + x, at[3] + x, w, plane_bytes, plane_bytes // 4, out + column * 16)
        else:
            filter_grays(like, at[0] + x, at[1] + x, at[2] + x, at[3] + x, w, plane_bytes, plane_bytes // 16, out + column * 4)


@compiled
def _pack_columns(like, pixel_bytes, in_width, out_width, left, right):  # type: ignore[no-untyped-def]
    """Windows along rows, all of one length and inside the row wherever the row is long enough: (starts, packed)."""
    starts, counts, weights = windows(in_width, out_width, left, right)
    num_taps = _round_up(weights.shape[1], 16 // pixel_bytes)
    shifts = np.zeros(starts.shape[0], np.int64)
    for i in range(starts.shape[0]):
        start = max(min(starts[i], in_width - num_taps), 0)
        shifts[i] = starts[i] - start
        starts[i] = start
    return starts, pack_weights(like, weights, counts, shifts, num_taps)


@compiled
def _row_windows(like, in_height, out_height, top, bottom, first_row, align):  # type: ignore[no-untyped-def]
    """Windows along columns, counted from `first_row`, begun at a multiple of `align` rows: (starts, packed)."""
    starts, counts, weights = windows(in_height, out_height, top, bottom)
    shifts = (starts - first_row) % align
    num_taps = _round_up((shifts + counts).max(), 4)
    return starts - first_row - shifts, pack_weights(like, weights, counts, shifts, num_taps)


@compiled
def _write_row(like, data, group_bytes, packed, steps, quads, bands, out):  # type: ignore[no-untyped-def]
    """Filter `quads` quads of `steps` groups at address `data` to one row at address `out`, and up to 15 bytes beyond."""
    weights_at = packed.ctypes.data
    for chunk in range(0, quads, QUADS):
        target = out + (chunk // 4 * 3 if bands == 3 else chunk)
        filter_groups(like, data + chunk * 4, group_bytes, weights_at, packed.shape[1], steps, target, bands == 3)


@compiled
def resize_rows_first(like, rows, first_row, pixel_bytes, in_size, out_size, box, bands):  # type: ignore[no-untyped-def]
    """A window of a resized picture, rows filtered before columns.

    Args:
        like: (0,) array that names the arithmetic: `quads.best_pieces()`.
        rows: (R,) int64 addresses of input rows [first_row, first_row + R): all that `window` asks for.
        first_row: see above.
        pixel_bytes: 4 or 1; 4-byte pixels are filtered as 4 channels.
        in_size: (width, height) of the picture in pixels, >= 1.
        out_size: (width, height) of the whole output in pixels, >= 1.
        box: (left, top, right, bottom) inside the output, not empty.
        bands: 1, 3 or 4: channels in the result; 3 leaves out each pixel's 4th byte.

    Returns:
        (bottom - top, right - left, bands) uint8.
    """
    left, top, right, bottom = box
    num_columns, num_rows = right - left, bottom - top
    starts, packed = _pack_columns(like, pixel_bytes, in_size[0], out_size[0], left, right)
    longest = packed.shape[2]
    scratch = np.zeros((4, longest * pixel_bytes if longest > in_size[0] else 0), np.uint8)
    tops, packed_rows = _row_windows(like, in_size[1], out_size[1], top, bottom, first_row, 4)
    groups = tops // 4
    steps = packed_rows.shape[2] // 4

    quads = num_columns * pixel_bytes
    group_bytes = _round_up(quads, QUADS) * 4
    capacity = max(2 * steps, _KEPT_BYTES // group_bytes)
    capacity = min(capacity, groups[num_rows - 1] + steps - groups[0])
    kept = np.zeros(capacity * group_bytes, np.uint8)
    kept_at = kept.ctypes.data
    base = done = groups[0]
    line = num_columns * bands
    out = np.empty(num_rows * line + 4 * QUADS, np.uint8)
    out_at = out.ctypes.data
    for y in range(num_rows):
        low = groups[y]
        if low + steps - base > capacity:
            if done > low:
                copy_bytes(kept_at, kept_at + (low - base) * group_bytes, (done - low) * group_bytes)
            base = low
            done = max(done, low)
        while done < low + steps:
            target = kept_at + (done - base) * group_bytes
            _filter_four_rows(like, rows, done * 4, pixel_bytes, in_size[0], scratch, starts, packed, target)
            done += 1
        data = kept_at + (low - base) * group_bytes
        _write_row(like, data, group_bytes, packed_rows[y], steps, quads, bands, out_at + y * line)
    _still_needed(kept)
    return out[: num_rows * line].reshape((num_rows, num_columns, bands))


@compiled
def resize_columns_first(like, rows, first_row, pixel_bytes, in_size, out_size, box, bands):  # type: ignore[no-untyped-def]
    """As `resize_rows_first`, but columns are filtered, to bytes, before rows."""
    left, top, right, bottom = box
    num_columns, num_rows = right - left, bottom - top
    starts, packed = _pack_columns(like, pixel_bytes, in_size[0], out_size[0], left, right)
    low = starts[0]
    width = min(starts[-1] + packed.shape[2], in_size[0]) - low
    starts -= low
    tops, packed_rows = _row_windows(like, in_size[1], out_size[1], top, bottom, first_row, 1)
    steps = packed_rows.shape[2] // 4
    longest = _round_up(max(width * pixel_bytes, starts[-1] * pixel_bytes + packed.shape[2] * pixel_bytes), QUADS)
    lines = np.zeros((4, longest), np.uint8)
    lines_at = np.array([lines[i].ctypes.data for i in range(4)])
    no_scratch = np.zeros((4, 0), np.uint8)

    # Whole 16 bytes are read at a time, the last ones counted from the end; rows that have fewer are copied.
    num_bytes = width * pixel_bytes
    narrow = np.zeros((rows.shape[0] if num_bytes < QUADS else 0, QUADS), np.uint8)
    table = np.empty(rows.shape[0] + 4 * steps, np.int64)
    for i in range(table.shape[0]):
        row = min(i, rows.shape[0] - 1)
        table[i] = rows[row] + low * pixel_bytes
        if num_bytes < QUADS:
            if i == row:
                copy_bytes(narrow[i].ctypes.data, table[i], num_bytes)
            table[i] = narrow[row].ctypes.data
    last_chunk = max(num_bytes - QUADS, 0)

    quads = num_columns * pixel_bytes
    group = np.zeros(_round_up(quads, QUADS) * 4, np.uint8)
    group_at = group.ctypes.data
    picks = np.zeros((4, 1), np.int32)
    picks[:] = 1 << PRECISION_BITS
    packed_picks = pack_weights(like, picks, np.ones(4, np.int64), np.arange(4), 4)
    line = num_columns * bands
    out = np.empty(num_rows * line + 4 * QUADS, np.uint8)
    out_at = out.ctypes.data
    for y in range(num_rows):
        weights_at = packed_rows[y].ctypes.data
        for chunk in range(0, num_bytes, QUADS):
            at = min(chunk, last_chunk)
            target = lines_at[y % 4] + at
            filter_lines(like, table.ctypes.data + tops[y] * 8, at, weights_at, packed_rows.shape[2], steps, target)
        if y % 4 == 3 or y == num_rows - 1:
            _filter_four_rows(like, lines_at, 0, pixel_bytes, width, no_scratch, starts, packed, group_at)
            for row in range(y // 4 * 4, y + 1):
                _write_row(like, group_at, 0, packed_picks[row % 4], 1, quads, bands, out_at + row * line)
    for array in (lines, narrow):
        _still_needed(array)
    _still_needed(group)
    return out[: num_rows * line].reshape((num_rows, num_columns, bands))


@compiled
def nearest_places(in_size, out_size, first, last):  # type: ignore[no-untyped-def]
    """Which input pixel each output pixel [first, last) of a line is under NEAREST, -1 for none: (N,) int64.

    Pillow (Geometry.c, ImagingScaleAffine) adds up the step from the first output pixel on, rounding each time, and leaves
    a pixel empty where the sum ends up beyond the line.
    """
    step = np.float64(np.float32(in_size)) / out_size
    places = np.empty(last - first, np.int64)
    at = step * 0.5
    for i in range(last):
        if i >= first:
            place = np.int64(at)
            places[i - first] = place if place < in_size else -1
        at += step
    return places

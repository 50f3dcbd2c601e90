"""A window of the bicubic resize of 8-bit pixels: to the bit what Pillow gives, in one pass.

Pillow (Resample.c) resizes rows first, to bytes, then columns. Each output pixel is a sum over the pixels that lie within
2 * max(1, in / out) of its centre, with weights from the cubic of Keys (a = -0.5), normalised in float64 and rounded to
22 bits after the point; sums are rounded half up and clipped. The same here, but only for the wanted window, four rows at
a time: filtered rows are kept only as long as later output rows need them, so they stay in the core's cache.

The weights follow Pillow's float64 operations one by one, as they are done on x86-64. Where Pillow was compiled to fuse
multiplication and addition (some builds for Arm), a weight may round to a neighbour there, and a pixel differ by 1.

The sums are LLVM code ("intrinsics" of numba's extension interface), which takes addresses as integers and checks nothing.
A "quad" is 4 bytes that are multiplied by 4 weights and added up in one 32-bit lane; 16 quads fill a 512-bit register.
Weights are fixed-point numbers of 23 bits and a sign. They are cut into pieces that the processor's byte or 16-bit
dot products take exactly, and the pieces' sums are shifted together at the end, modulo 2**32: the result is that of
32-bit multiplication and addition, whatever the order. Which pieces, the dtype of the array passed as `like` says:

* uint8: 3 planes of signed bytes, for x86 with VNNI (one instruction multiplies and adds a quad in each lane);
* int16: 4 planes of 16-bit halves, for x86 with AVX2 or AVX-512BW;
* int32: 4 planes of whole weights, for everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from beholder.kernels.compiled import compiled
from beholder.kernels.vectors import load, loop, pointer, splat

PRECISION_BITS = 22
"""Bits after the point of a weight: 32 less 8 for the byte and 2 for overshoot and sign, as Pillow has it."""
QUADS = 16
"""Quads filtered side by side."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_BYTES, _SHORTS, _WORDS = ir.VectorType(_I8, 4 * QUADS), ir.VectorType(_I16, 2 * QUADS), ir.VectorType(_I32, QUADS)


def target_features() -> set[str]:
    """Features of the processor that numba makes code for, in LLVM's words."""
    from numba.core.registry import cpu_target

    text = cpu_target.target_context.codegen().magic_tuple()[2]
    return {name[1:] for name in text.split(",") if name.startswith("+")}


def best_pieces(features: set[str] | None = None) -> Any:
    """The (0,) array that names the fastest pieces this processor has; see the module's docstring."""
    found = target_features() if features is None else features
    if ("avx512vnni" in found and "avx512vl" in found) or "avxvnni" in found:
        return np.empty(0, np.uint8)
    return np.empty(0, np.int16 if "avx2" in found else np.int32)


def _pick(builder: Any, first: Any, second: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def _repeat(builder: Any, value: Any) -> Any:
    """One i32, or the 4 lanes of a <4 x i32>, repeated to 16 lanes."""
    if value.type == _I32:
        single = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), value, ir.Constant(_I32, 0))
        return _pick(builder, single, single, [0] * QUADS)
    return _pick(builder, value, value, [0, 1, 2, 3] * 4)


def _call_x86(builder: Any, wide: str, narrow: str, has_wide: bool, args: list[Any]) -> Any:
    """A vector instruction on 512 bits, or on both halves by one for 256 bits."""

    def call(name: str, values: list[Any]) -> Any:
        kind = ir.VectorType(_I32, values[0].type.count * values[0].type.element.width // 32)
        function_type = ir.FunctionType(kind, [value.type for value in values])
        return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), values)

    if has_wide:
        return call(wide, args)
    halves = []
    for half in range(2):
        parts = []
        for value in args:
            count = value.type.count // 2
            parts.append(_pick(builder, value, value, list(range(half * count, (half + 1) * count))))
        halves.append(call(narrow, parts))
    return _pick(builder, halves[0], halves[1], list(range(QUADS)))


class _Pieces:
    """Multiply-and-add for one way of cutting weights."""

    def __init__(self, like: Any) -> None:
        self.name = str(like.dtype)
        self.num_planes = 3 if self.name == "uint8" else 4
        self.num_sums = {"uint8": 3, "int16": 2, "int32": 1}[self.name]
        self.features = target_features()

    def add(self, builder: Any, sums: list[Any], data: Any, planes: list[Any]) -> list[Any]:
        """Sums after adding each quad of `data` (<64 x i8>) times its 4 weights, given as <16 x i32> planes."""
        if self.name == "uint8":
            names = ("llvm.x86.avx512.vpdpbusd.512", "llvm.x86.avx512.vpdpbusd.256")
            words = builder.bitcast(data, _WORDS)
            wide = "avx512vnni" in self.features
            return [_call_x86(builder, *names, wide, [each, words, plane]) for each, plane in zip(sums, planes, strict=True)]
        if self.name == "int16":
            names = ("llvm.x86.avx512.pmaddw.d.512", "llvm.x86.avx2.pmadd.wd")
            shorts = builder.bitcast(data, _SHORTS)
            parts = (builder.and_(shorts, splat(_SHORTS, 255)), builder.lshr(shorts, splat(_SHORTS, 8)))
            result = list(sums)
            for place, plane in enumerate(planes):
                args = [parts[place % 2], builder.bitcast(plane, _SHORTS)]
                product = _call_x86(builder, *names, "avx512bw" in self.features, args)
                result[place // 2] = builder.add(result[place // 2], product)
            return result
        total = sums[0]
        words = builder.bitcast(data, _WORDS)
        for tap, plane in enumerate(planes):
            value = builder.and_(builder.lshr(words, splat(_WORDS, 8 * tap)), splat(_WORDS, 255))
            total = builder.add(total, builder.mul(value, plane))
        return [total]

    def total(self, builder: Any, sums: list[Any]) -> Any:
        """The 16 whole sums."""
        shift = {"uint8": 8, "int16": 16, "int32": 0}[self.name]
        result = sums[0]
        for place, value in enumerate(sums[1:], 1):
            result = builder.add(result, builder.shl(value, splat(_WORDS, shift * place)))
        return result


def _to_bytes(builder: Any, total: Any) -> Any:
    """<n x i32> fixed-point sums -> <n x i8>, rounded half up and clipped to [0, 255]."""
    kind = total.type
    value = builder.ashr(builder.add(total, splat(kind, 1 << (PRECISION_BITS - 1))), splat(kind, PRECISION_BITS))
    for limit, sign in ((0, "<"), (255, ">")):
        value = builder.select(builder.icmp_signed(sign, value, splat(kind, limit)), splat(kind, limit), value)
    return builder.trunc(value, ir.VectorType(_I8, kind.count))


def _sum_loop(builder: Any, pieces: _Pieces, count: Any, load_step: Callable[[Any], tuple[Any, list[Any]]]) -> Any:
    """Add up `count` >= 1 steps of (data, planes) = load_step(step); returns the 16 whole sums."""

    def add(index: Any, sums: list[Any]) -> list[Any]:
        data, planes = load_step(index)
        return pieces.add(builder, sums, data, planes)

    return pieces.total(builder, loop(builder, count, [splat(_WORDS, 0)] * pieces.num_sums, add))


def _load_planes(builder: Any, pieces: _Pieces, first: Any, plane_bytes: Any, offset: Any, kind: Any) -> list[Any]:
    planes = []
    address = builder.add(first, offset)
    for _ in range(pieces.num_planes):
        planes.append(_repeat(builder, load(builder, address, kind)))
        address = builder.add(address, plane_bytes)
    return planes


def _along_rows_code(builder: Any, args: Any, pieces: _Pieces, pixel_bytes: int) -> None:
    rows, (weights, plane_bytes, steps, out) = args[:4], args[4:]
    row_type = ir.VectorType(_I8, QUADS)
    weight_bytes = 4 if pixel_bytes == 4 else 16

    def load_step(step: Any) -> tuple[Any, list[Any]]:
        offset = builder.mul(step, ir.Constant(step.type, 16))
        four = [load(builder, builder.add(row, offset), row_type) for row in rows]
        low, high = (_pick(builder, four[i], four[i + 1], list(range(32))) for i in (0, 2))
        data = _pick(builder, low, high, list(range(64)))
        if pixel_bytes == 4:  # 4 pixels of 4 channels -> 4 channels of 4 pixels, in each row
            data = _pick(builder, data, data, [16 * r + 4 * tap + c for r in range(4) for c in range(4) for tap in range(4)])
        at = builder.mul(step, ir.Constant(step.type, weight_bytes))
        kind = _I32 if pixel_bytes == 4 else ir.VectorType(_I32, 4)
        return data, _load_planes(builder, pieces, weights, plane_bytes, at, kind)

    total = _sum_loop(builder, pieces, steps, load_step)
    if pixel_bytes == 4:
        values = _to_bytes(builder, total)
        values = _pick(builder, values, values, [4 * row + c for c in range(4) for row in range(4)])
    else:
        for swap in (1, 2):
            total = builder.add(total, _pick(builder, total, total, [lane ^ swap for lane in range(QUADS)]))
        values = _to_bytes(builder, _pick(builder, total, total, [0, 4, 8, 12]))
    builder.store(values, pointer(builder, out, values.type), align=1)


def _along_rows(like: Any, pixel_bytes: int) -> Any:
    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _along_rows_code(builder, args[1:], _Pieces(like), pixel_bytes)
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 8), codegen


@intrinsic
def filter_pixels(typing_context, like, row0, row1, row2, row3, weights, plane_bytes, steps, out):  # type: ignore[no-untyped-def]
    """One output column of four rows of 4-byte pixels: 4 * steps pixels from each address -> 4 channels of 4 rows."""
    return _along_rows(like, 4)


@intrinsic
def filter_grays(typing_context, like, row0, row1, row2, row3, weights, plane_bytes, steps, out):  # type: ignore[no-untyped-def]
    """One output column of four rows of 1-byte pixels: 16 * steps pixels from each address -> 4 rows."""
    return _along_rows(like, 1)


@intrinsic
def filter_groups(typing_context, like, data, group_bytes, weights, plane_bytes, steps, out, packed):  # type: ignore[no-untyped-def]
    """16 quads of `steps` groups, `group_bytes` apart -> 16 bytes at `out`; if packed, without each 4th: 12 bytes."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pieces = _Pieces(like)
        _, first, stride, planes, plane_stride, count, target, is_packed = args

        def load_step(step: Any) -> tuple[Any, list[Any]]:
            values = load(builder, builder.add(first, builder.mul(step, stride)), _BYTES)
            at = builder.mul(step, ir.Constant(step.type, 4))
            return values, _load_planes(builder, pieces, planes, plane_stride, at, _I32)

        values = _to_bytes(builder, _sum_loop(builder, pieces, count, load_step))
        without = _pick(builder, values, values, [i for i in range(QUADS) if i % 4 != 3] + [12, 13, 14, 15])
        values = builder.select(is_packed, without, values)
        builder.store(values, pointer(builder, target, values.type), align=1)
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 6, types.boolean), codegen


@intrinsic
def filter_lines(typing_context, like, lines, offset, weights, plane_bytes, steps, out):  # type: ignore[no-untyped-def]
    """16 bytes at `offset` of each of 4 * steps lines, whose int64 addresses lie at `lines` -> 16 filtered bytes."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pieces = _Pieces(like)
        _, table, offset, planes, plane_stride, count, target = args
        line_type = ir.VectorType(_I8, QUADS)

        def load_step(step: Any) -> tuple[Any, list[Any]]:
            first = builder.add(table, builder.mul(step, ir.Constant(step.type, 32)))
            entries = [builder.add(first, ir.Constant(step.type, 8 * i)) for i in range(4)]
            four = [load(builder, builder.add(load(builder, entry, _I64), offset), line_type) for entry in entries]
            low, high = (_pick(builder, four[i], four[i + 1], list(range(32))) for i in (0, 2))
            data = _pick(builder, low, high, [16 * line + byte for byte in range(16) for line in range(4)])
            at = builder.mul(step, ir.Constant(step.type, 4))
            return data, _load_planes(builder, pieces, planes, plane_stride, at, _I32)

        values = _to_bytes(builder, _sum_loop(builder, pieces, count, load_step))
        builder.store(values, pointer(builder, target, values.type), align=1)
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 6), codegen


@intrinsic
def copy_bytes(typing_context, target, source, count):  # type: ignore[no-untyped-def]
    """Copy `count` bytes from address to address; they must not overlap."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        target, source = (pointer(builder, address, _I8) for address in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), codegen


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
    """Cut weights into the pieces that `like` names (see the module's docstring).

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
def _write_row(like, data, group_bytes, packed, steps, quads, pixel_bytes, out):  # type: ignore[no-untyped-def]
    """Filter `quads` quads of `steps` groups at address `data` to one row at address `out`, and up to 15 bytes beyond."""
    weights_at = packed.ctypes.data
    for chunk in range(0, quads, QUADS):
        target = out + (chunk // 4 * 3 if pixel_bytes == 4 else chunk)
        filter_groups(like, data + chunk * 4, group_bytes, weights_at, packed.shape[1], steps, target, pixel_bytes == 4)


@compiled
def resize_rows_first(like, rows, first_row, pixel_bytes, in_size, out_size, box):  # type: ignore[no-untyped-def]
    """A window of a resized picture, rows filtered before columns.

    Args:
        like: (0,) array that names the arithmetic: `best_pieces()`.
        rows: (R,) int64 addresses of input rows [first_row, first_row + R): all that `window` asks for.
        first_row: see above.
        pixel_bytes: 4 (RGB and a byte that is left out) or 1 (grey).
        in_size: (width, height) of the picture in pixels, >= 1.
        out_size: (width, height) of the whole output in pixels, >= 1.
        box: (left, top, right, bottom) inside the output, not empty.

    Returns:
        (bottom - top, right - left, 3 or 1) uint8.
    """
    left, top, right, bottom = box
    num_columns, num_rows = right - left, bottom - top
    bands = 3 if pixel_bytes == 4 else 1
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
        _write_row(like, data, group_bytes, packed_rows[y], steps, quads, pixel_bytes, out_at + y * line)
    _still_needed(kept)
    return out[: num_rows * line].reshape((num_rows, num_columns, bands))


@compiled
def resize_columns_first(like, rows, first_row, pixel_bytes, in_size, out_size, box):  # type: ignore[no-untyped-def]
    """As `resize_rows_first`, but columns are filtered, to bytes, before rows."""
    left, top, right, bottom = box
    num_columns, num_rows = right - left, bottom - top
    bands = 3 if pixel_bytes == 4 else 1
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
                _write_row(like, group_at, 0, packed_picks[row % 4], 1, quads, pixel_bytes, out_at + row * line)
    for array in (lines, narrow):
        _still_needed(array)
    _still_needed(group)
    return out[: num_rows * line].reshape((num_rows, num_columns, bands))

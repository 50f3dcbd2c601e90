"""LLVM building blocks for byte filters: addresses of bytes and of packed weights in, filtered and rounded bytes out.

A "quad" is 4 bytes that are multiplied by 4 weights and added up in one 32-bit lane; 16 quads fill a 512-bit register.
Weights are fixed-point numbers of 23 bits and a sign. They are cut into pieces that the processor's byte or 16-bit
dot products take exactly, and the pieces' sums are shifted together at the end, modulo 2**32: the result is that of
32-bit multiplication and addition, whatever the order. Which pieces, the dtype of the array passed as `like` says:

* uint8: 3 planes of signed bytes, for x86 with VNNI (one instruction multiplies and adds a quad in each lane);
* int16: 4 planes of 16-bit halves, for x86 with AVX2 or AVX-512BW;
* int32: 4 planes of whole weights, for everything else.

All take addresses as integers and check nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

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


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, ir.PointerType(kind))


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(_at(builder, address, kind), align=1, typ=kind)


def _splat(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * kind.count)


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
            parts = (builder.and_(shorts, _splat(_SHORTS, 255)), builder.lshr(shorts, _splat(_SHORTS, 8)))
            result = list(sums)
            for place, plane in enumerate(planes):
                args = [parts[place % 2], builder.bitcast(plane, _SHORTS)]
                product = _call_x86(builder, *names, "avx512bw" in self.features, args)
                result[place // 2] = builder.add(result[place // 2], product)
            return result
        total = sums[0]
        words = builder.bitcast(data, _WORDS)
        for tap, plane in enumerate(planes):
            value = builder.and_(builder.lshr(words, _splat(_WORDS, 8 * tap)), _splat(_WORDS, 255))
            total = builder.add(total, builder.mul(value, plane))
        return [total]

    def total(self, builder: Any, sums: list[Any]) -> Any:
        """The 16 whole sums."""
        shift = {"uint8": 8, "int16": 16, "int32": 0}[self.name]
        result = sums[0]
        for place, value in enumerate(sums[1:], 1):
            result = builder.add(result, builder.shl(value, _splat(_WORDS, shift * place)))
        return result


def _to_bytes(builder: Any, total: Any) -> Any:
    """<n x i32> fixed-point sums -> <n x i8>, rounded half up and clipped to [0, 255]."""
    kind = total.type
    value = builder.ashr(builder.add(total, _splat(kind, 1 << (PRECISION_BITS - 1))), _splat(kind, PRECISION_BITS))
    for limit, sign in ((0, "<"), (255, ">")):
        value = builder.select(builder.icmp_signed(sign, value, _splat(kind, limit)), _splat(kind, limit), value)
    return builder.trunc(value, ir.VectorType(_I8, kind.count))


def _sum_loop(builder: Any, pieces: _Pieces, count: Any, load: Callable[[Any], tuple[Any, list[Any]]]) -> Any:
    """Add up `count` >= 1 steps of (data, planes) = load(step); returns the 16 whole sums."""
    index_type = count.type
    entry = builder.block
    loop, end = builder.append_basic_block("steps"), builder.append_basic_block("end")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(index_type)
    index.add_incoming(ir.Constant(index_type, 0), entry)
    sums = [builder.phi(_WORDS) for _ in range(pieces.num_sums)]
    data, planes = load(index)
    new_sums = pieces.add(builder, sums, data, planes)
    following = builder.add(index, ir.Constant(index_type, 1))
    index.add_incoming(following, loop)
    for old, new in zip(sums, new_sums, strict=True):
        old.add_incoming(_splat(_WORDS, 0), entry)
        old.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, end)
    builder.position_at_end(end)
    return pieces.total(builder, new_sums)


def _load_planes(builder: Any, pieces: _Pieces, first: Any, plane_bytes: Any, offset: Any, kind: Any) -> list[Any]:
    planes = []
    address = builder.add(first, offset)
    for _ in range(pieces.num_planes):
        planes.append(_repeat(builder, _load(builder, address, kind)))
        address = builder.add(address, plane_bytes)
    return planes


def _along_rows_code(builder: Any, args: Any, pieces: _Pieces, pixel_bytes: int) -> None:
    rows, (weights, plane_bytes, steps, out) = args[:4], args[4:]
    row_type = ir.VectorType(_I8, QUADS)
    weight_bytes = 4 if pixel_bytes == 4 else 16

    def load(step: Any) -> tuple[Any, list[Any]]:
        offset = builder.mul(step, ir.Constant(step.type, 16))
        four = [_load(builder, builder.add(row, offset), row_type) for row in rows]
        low, high = (_pick(builder, four[i], four[i + 1], list(range(32))) for i in (0, 2))
        data = _pick(builder, low, high, list(range(64)))
        if pixel_bytes == 4:  # 4 pixels of 4 channels -> 4 channels of 4 pixels, in each row
            data = _pick(builder, data, data, [16 * r + 4 * tap + c for r in range(4) for c in range(4) for tap in range(4)])
        at = builder.mul(step, ir.Constant(step.type, weight_bytes))
        kind = _I32 if pixel_bytes == 4 else ir.VectorType(_I32, 4)
        return data, _load_planes(builder, pieces, weights, plane_bytes, at, kind)

    total = _sum_loop(builder, pieces, steps, load)
    if pixel_bytes == 4:
        values = _to_bytes(builder, total)
        values = _pick(builder, values, values, [4 * row + c for c in range(4) for row in range(4)])
    else:
        for swap in (1, 2):
            total = builder.add(total, _pick(builder, total, total, [lane ^ swap for lane in range(QUADS)]))
        values = _to_bytes(builder, _pick(builder, total, total, [0, 4, 8, 12]))
    builder.store(values, _at(builder, out, values.type), align=1)


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

        def load(step: Any) -> tuple[Any, list[Any]]:
            values = _load(builder, builder.add(first, builder.mul(step, stride)), _BYTES)
            at = builder.mul(step, ir.Constant(step.type, 4))
            return values, _load_planes(builder, pieces, planes, plane_stride, at, _I32)

        values = _to_bytes(builder, _sum_loop(builder, pieces, count, load))
        without = _pick(builder, values, values, [i for i in range(QUADS) if i % 4 != 3] + [12, 13, 14, 15])
        values = builder.select(is_packed, without, values)
        builder.store(values, _at(builder, target, values.type), align=1)
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 6, types.boolean), codegen


@intrinsic
def filter_lines(typing_context, like, lines, offset, weights, plane_bytes, steps, out):  # type: ignore[no-untyped-def]
    """16 bytes at `offset` of each of 4 * steps lines, whose int64 addresses lie at `lines` -> 16 filtered bytes."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pieces = _Pieces(like)
        _, table, offset, planes, plane_stride, count, target = args
        line_type = ir.VectorType(_I8, QUADS)

        def load(step: Any) -> tuple[Any, list[Any]]:
            first = builder.add(table, builder.mul(step, ir.Constant(step.type, 32)))
            entries = [builder.add(first, ir.Constant(step.type, 8 * i)) for i in range(4)]
            four = [_load(builder, builder.add(_load(builder, entry, _I64), offset), line_type) for entry in entries]
            low, high = (_pick(builder, four[i], four[i + 1], list(range(32))) for i in (0, 2))
            data = _pick(builder, low, high, [16 * line + byte for byte in range(16) for line in range(4)])
            at = builder.mul(step, ir.Constant(step.type, 4))
            return data, _load_planes(builder, pieces, planes, plane_stride, at, _I32)

        values = _to_bytes(builder, _sum_loop(builder, pieces, count, load))
        builder.store(values, _at(builder, target, values.type), align=1)
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 6), codegen


@intrinsic
def copy_bytes(typing_context, target, source, count):  # type: ignore[no-untyped-def]
    """Copy `count` bytes from address to address; they must not overlap."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        target, source = (_at(builder, address, _I8) for address in args[:2])
        cgutils.raw_memcpy(builder, target, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 3), codegen

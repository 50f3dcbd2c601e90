"""LLVM building blocks for the kernels: address of embedding elements in, sums over them in wide registers out.

numba has no half floats and no vector registers, so these few operations are written as LLVM code ("intrinsics" of
numba's extension interface). They fix the order of every addition, which makes results independent of the compiler's
choices, of batch and shard size, and of the number of threads. All take addresses as integers and check nothing.

An element type is named by the dtype of the array that is passed as `like`: uint16 stands for half floats.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Partial sums kept side by side: one 512-bit register of float32, or two or four narrower ones."""
BLOCK = 128
"""Elements summed in float32 (8 to a lane) before the lanes are added to float64 sums."""
_PREFETCH_BYTES = 2048
"""How far ahead rows are asked for. The hardware's own prefetch stops at each 4 KiB page; measured best of 0-6144."""

_F32, _F64, _F16 = ir.FloatType(), ir.DoubleType(), ir.HalfType()
_I16, _I32 = ir.IntType(16), ir.IntType(32)


def has_half_instructions() -> bool:
    """Whether this processor widens half floats itself (x86 with F16C, all 64-bit Arm)."""
    if platform.machine() in ("aarch64", "arm64"):
        return True
    return bool(binding.get_host_cpu_features().get("f16c", False))


def _vec(element: Any, lanes: int = LANES) -> Any:
    return ir.VectorType(element, lanes)


def _at(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    moved = builder.add(address, ir.Constant(address.type, offset))
    return builder.inttoptr(moved, ir.PointerType(kind))


def _load(builder: Any, address: Any, offset: int, kind: Any, align: int) -> Any:
    return builder.load(_at(builder, address, offset, kind), align=align, typ=kind)


def _splat(element: Any, value: float) -> Any:
    return ir.Constant(_vec(element), [value] * LANES)


def _widen_half_by_integers(builder: Any, halves: Any) -> Any:
    """<16 x i16> half-float bits -> <16 x float>, exact for every pattern, on processors without half instructions.

    Exponent and mantissa are moved into float32's place and the exponent bias is mended by one multiplication
    with 2**112, which also normalises subnormals. An exponent of all ones (Inf, NaN) is set to float32's.
    """
    bits = builder.zext(halves, _vec(_I32))
    sign = builder.shl(builder.and_(bits, _splat(_I32, 0x8000)), _splat(_I32, 16))
    magnitude = builder.shl(builder.and_(bits, _splat(_I32, 0x7FFF)), _splat(_I32, 13))
    moved = builder.or_(sign, magnitude)
    finite = builder.fmul(builder.bitcast(moved, _vec(_F32)), _splat(_F32, 2.0**112))
    special = builder.bitcast(builder.or_(moved, _splat(_I32, 0x7F800000)), _vec(_F32))
    exponent = builder.and_(bits, _splat(_I32, 0x7C00))
    return builder.select(builder.icmp_unsigned("==", exponent, _splat(_I32, 0x7C00)), special, finite)


def _load_lanes(builder: Any, address: Any, offset: int, item_bytes: int, half_instructions: bool) -> Any:
    """16 elements of 2, 4 or 8 bytes -> <16 x float> for halves and floats, <16 x double> for doubles."""
    if item_bytes == 8:
        return _load(builder, address, offset, _vec(_F64), 8)
    if item_bytes == 4:
        return _load(builder, address, offset, _vec(_F32), 4)
    if half_instructions:
        return builder.fpext(_load(builder, address, offset, _vec(_F16), 2), _vec(_F32))
    return _widen_half_by_integers(builder, _load(builder, address, offset, _vec(_I16), 2))


def _prefetch(builder: Any, address: Any, num_bytes: int) -> None:
    byte_pointer = ir.PointerType(ir.IntType(8))
    function_type = ir.FunctionType(ir.VoidType(), [byte_pointer, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
    read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
    for offset in range(0, num_bytes, 64):
        pointer = _at(builder, address, _PREFETCH_BYTES + offset, ir.IntType(8))
        builder.call(function, [pointer, read, keep, data])


def _sum_lanes(builder: Any, lanes: Any) -> Any:
    """<16 x double> -> double, halves added pairwise."""
    width = LANES
    while width > 1:
        width //= 2
        halves = [ir.Constant(_vec(_I32, width), list(range(start, start + width))) for start in (0, width)]
        low, high = (builder.shuffle_vector(lanes, lanes, mask) for mask in halves)
        lanes = builder.fadd(low, high)
    return builder.extract_element(lanes, ir.Constant(_I32, 0))


def _row_sums_code(builder: Any, args: Any, item_bytes: int, squares: bool, half_instructions: bool) -> None:
    """Loop over the blocks of a row; per block float32 fused multiply-adds, then one addition to float64 lanes."""
    x, w, num_blocks, out = args
    index_type = x.type
    fma_type = ir.FunctionType(_vec(_F32), [_vec(_F32)] * 3)
    fma = cgutils.get_or_insert_function(builder.module, fma_type, "llvm.fma.v16f32")
    num_sums = 2 if squares else 1

    entry = builder.block
    loop, end = builder.append_basic_block("blocks"), builder.append_basic_block("end")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(index_type)
    index.add_incoming(ir.Constant(index_type, 0), entry)
    totals = [builder.phi(_vec(_F64)) for _ in range(num_sums)]
    for total in totals:
        total.add_incoming(_splat(_F64, 0.0), entry)

    x_block = builder.add(x, builder.mul(index, ir.Constant(index_type, BLOCK * item_bytes)))
    w_block = builder.add(w, builder.mul(index, ir.Constant(index_type, BLOCK * 4)))
    if squares:
        _prefetch(builder, x_block, BLOCK * item_bytes)
    partial = [_splat(_F32, 0.0)] * num_sums
    for step in range(BLOCK // LANES):
        values = _load_lanes(builder, x_block, step * LANES * item_bytes, item_bytes, half_instructions)
        if item_bytes == 8:
            values = builder.fptrunc(values, _vec(_F32))
        weights = _load(builder, w_block, step * LANES * 4, _vec(_F32), 4)
        partial[0] = builder.call(fma, [values, weights, partial[0]])
        if squares:
            partial[1] = builder.call(fma, [values, values, partial[1]])
    sums = [builder.fadd(total, builder.fpext(part, _vec(_F64))) for total, part in zip(totals, partial, strict=True)]

    following = builder.add(index, ir.Constant(index_type, 1))
    index.add_incoming(following, loop)
    for total, value in zip(totals, sums, strict=True):
        total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, num_blocks), loop, end)
    builder.position_at_end(end)
    for position, value in enumerate(sums):
        builder.store(_sum_lanes(builder, value), _at(builder, out, 8 * position, _F64))


def _row_sums(like: Any, squares: bool) -> Any:
    half_instructions = has_half_instructions()
    signature = types.void(like, types.intp, types.intp, types.intp, types.intp)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _row_sums_code(builder, args[1:], like.dtype.bitwidth // 8, squares, half_instructions)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dot_and_square_sum(typing_context, like, x, w, num_blocks, out):  # type: ignore[no-untyped-def]
    """Write two float64 at `out`: sum of x*w and sum of x*x over `num_blocks` >= 1 blocks of 128 elements."""
    return _row_sums(like, squares=True)


@intrinsic
def dot_sum(typing_context, like, x, w, num_blocks, out):  # type: ignore[no-untyped-def]
    """Write one float64 at `out`: sum of x*w over `num_blocks` >= 1 blocks of 128 elements."""
    return _row_sums(like, squares=False)


def _widen_16(like: Any, half_instructions: bool) -> Any:
    signature = types.void(like, types.intp, types.intp)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _, x, out = args
        item_bytes = like.dtype.bitwidth // 8
        values = _load_lanes(builder, x, 0, item_bytes, half_instructions)
        if item_bytes != 8:
            values = builder.fpext(values, _vec(_F64))
        builder.store(values, _at(builder, out, 0, _vec(_F64)), align=8)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def widen_16(typing_context, like, x, out):  # type: ignore[no-untyped-def]
    """Widen 16 elements at `x` to 16 float64 at `out`, exactly."""
    return _widen_16(like, has_half_instructions())


@intrinsic
def widen_16_by_integers(typing_context, like, x, out):  # type: ignore[no-untyped-def]
    """`widen_16` as it works on a processor without half-float instructions; for the tests."""
    return _widen_16(like, half_instructions=False)


@intrinsic
def copy_element(typing_context, like, source, target):  # type: ignore[no-untyped-def]
    """Copy one element of `like`'s size from address `source` to address `target`."""
    signature = types.void(like, types.intp, types.intp)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        item_bytes = like.dtype.bitwidth // 8
        kind = ir.IntType(8 * item_bytes)
        value = _load(builder, args[1], 0, kind, item_bytes)
        builder.store(value, _at(builder, args[2], 0, kind), align=item_bytes)
        return context.get_dummy_value()

    return signature, codegen


def _multiply_4_rows_code(builder: Any, args: Any) -> None:
    """Loop over the inputs; 4 rows by 32 outputs are kept in 8 registers and stored once at the end."""
    rows, row_bytes, panel, num_in, out, out_bytes = args
    index_type = rows.type
    fma_type = ir.FunctionType(_vec(_F32), [_vec(_F32)] * 3)
    fma = cgutils.get_or_insert_function(builder.module, fma_type, "llvm.fma.v16f32")
    entry = builder.block
    loop, end = builder.append_basic_block("inputs"), builder.append_basic_block("end")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(index_type)
    index.add_incoming(ir.Constant(index_type, 0), entry)
    sums = [[builder.phi(_vec(_F32)) for _ in range(2)] for _ in range(4)]
    panel_row = builder.add(panel, builder.mul(index, ir.Constant(index_type, 2 * LANES * 4)))
    weights = [_load(builder, panel_row, half * LANES * 4, _vec(_F32), 4) for half in range(2)]
    column = builder.mul(index, ir.Constant(index_type, 4))
    new_sums = []
    for row in range(4):
        at = builder.add(builder.add(rows, column), builder.mul(row_bytes, ir.Constant(index_type, row)))
        value = _load(builder, at, 0, _F32, 4)
        first = builder.insert_element(ir.Constant(_vec(_F32), ir.Undefined), value, ir.Constant(_I32, 0))
        everywhere = builder.shuffle_vector(first, first, ir.Constant(_vec(_I32), [0] * LANES))
        new_sums.append([builder.call(fma, [everywhere, weights[half], sums[row][half]]) for half in range(2)])
    following = builder.add(index, ir.Constant(index_type, 1))
    index.add_incoming(following, loop)
    for row in range(4):
        for half in range(2):
            sums[row][half].add_incoming(_splat(_F32, 0.0), entry)
            sums[row][half].add_incoming(new_sums[row][half], loop)
    builder.cbranch(builder.icmp_signed("<", following, num_in), loop, end)
    builder.position_at_end(end)
    for row in range(4):
        row_at = builder.add(out, builder.mul(out_bytes, ir.Constant(index_type, row)))
        for half in range(2):
            builder.store(new_sums[row][half], _at(builder, row_at, half * LANES * 4, _vec(_F32)), align=4)


@intrinsic
def multiply_4_rows(typing_context, rows, row_bytes, panel, num_in, out, out_bytes):  # type: ignore[no-untyped-def]
    """4 rows of `num_in` float32 times a (num_in, 32) float32 panel -> 4 rows of 32 float32, `out_bytes` apart."""
    signature = types.void(*[types.intp] * 6)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _multiply_4_rows_code(builder, args)
        return context.get_dummy_value()

    return signature, codegen

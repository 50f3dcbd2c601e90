"""LLVM code for the kernels: loads and loops that others build on, and sums over embedding elements in wide registers.

numba has no half floats and no vector registers, so a few operations are written as LLVM code ("intrinsics" of
numba's extension interface). They fix the order of every addition, which makes results independent of the compiler's
choices, of batch and shard size, and of the number of threads. All take addresses as integers and check nothing.

An element type is named by the dtype of the array that is passed as `like`: uint16 stands for half floats.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
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

_F32, _F64, _I32 = ir.FloatType(), ir.DoubleType(), ir.IntType(32)
_FLOATS, _DOUBLES, _HALVES, _SHORTS, _WORDS = (
    ir.VectorType(element, LANES) for element in (_F32, _F64, ir.HalfType(), ir.IntType(16), _I32)
)


def has_half_instructions() -> bool:
    """Whether this processor widens half floats itself (x86 with F16C, all 64-bit Arm)."""
    if platform.machine() in ("aarch64", "arm64"):
        return True
    return bool(binding.get_host_cpu_features().get("f16c", False))


def pointer(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    """A pointer to a `kind`, `offset` bytes after an address."""
    moved = builder.add(address, ir.Constant(address.type, offset)) if offset else address
    return builder.inttoptr(moved, ir.PointerType(kind))


def load(builder: Any, address: Any, kind: Any, offset: int = 0, align: int = 1) -> Any:
    """The `kind` that lies `offset` bytes after an address."""
    return builder.load(pointer(builder, address, kind, offset), align=align, typ=kind)


def splat(kind: Any, value: float) -> Any:
    """A vector of type `kind` with the same constant in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def loop(builder: Any, count: Any, first: Sequence[Any], step: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """What is left of the values `first` after values = step(index, values) for each index of [0, count), count >= 1."""
    entry = builder.block
    body, end = builder.append_basic_block("body"), builder.append_basic_block("end")
    builder.branch(body)
    builder.position_at_end(body)
    index = builder.phi(count.type)
    values = [builder.phi(value.type) for value in first]
    found = step(index, values)
    following = builder.add(index, ir.Constant(count.type, 1))
    for phi, before, after in zip([index, *values], [ir.Constant(count.type, 0), *first], [following, *found], strict=True):
        phi.add_incoming(before, entry)
        phi.add_incoming(after, body)
    builder.cbranch(builder.icmp_signed("<", following, count), body, end)
    builder.position_at_end(end)
    return found


def fma(builder: Any, *values: Any) -> Any:
    """values[0] * values[1] + values[2] of vectors, rounded once."""
    kind = values[0].type
    name = f"llvm.fma.v{kind.count}f{64 if kind.element == _F64 else 32}"
    return builder.call(cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name), values)


def _widen_half_by_integers(builder: Any, halves: Any) -> Any:
    """<16 x i16> half-float bits -> <16 x float>, exact for every pattern, on processors without half instructions.

    Exponent and mantissa are moved into float32's place and the exponent bias is mended by one multiplication
    with 2**112, which also normalises subnormals. An exponent of all ones (Inf, NaN) is set to float32's.
    """
    bits = builder.zext(halves, _WORDS)
    sign = builder.shl(builder.and_(bits, splat(_WORDS, 0x8000)), splat(_WORDS, 16))
    magnitude = builder.shl(builder.and_(bits, splat(_WORDS, 0x7FFF)), splat(_WORDS, 13))
    moved = builder.or_(sign, magnitude)
    finite = builder.fmul(builder.bitcast(moved, _FLOATS), splat(_FLOATS, 2.0**112))
    special = builder.bitcast(builder.or_(moved, splat(_WORDS, 0x7F800000)), _FLOATS)
    exponent = builder.and_(bits, splat(_WORDS, 0x7C00))
    return builder.select(builder.icmp_unsigned("==", exponent, splat(_WORDS, 0x7C00)), special, finite)


def load_lanes(builder: Any, address: Any, item_bytes: int, half_instructions: bool, offset: int = 0) -> Any:
    """16 elements of 2, 4 or 8 bytes -> <16 x float> for halves and floats, <16 x double> for doubles."""
    if item_bytes == 8:
        return load(builder, address, _DOUBLES, offset, 8)
    if item_bytes == 4:
        return load(builder, address, _FLOATS, offset, 4)
    if half_instructions:
        return builder.fpext(load(builder, address, _HALVES, offset, 2), _FLOATS)
    return _widen_half_by_integers(builder, load(builder, address, _SHORTS, offset, 2))


def _prefetch(builder: Any, address: Any, num_bytes: int, ahead: int = _PREFETCH_BYTES) -> None:
    byte_pointer = ir.PointerType(ir.IntType(8))
    function_type = ir.FunctionType(ir.VoidType(), [byte_pointer, _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.prefetch.p0")
    read, keep, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
    for offset in range(0, num_bytes, 64):
        builder.call(function, [pointer(builder, address, ir.IntType(8), ahead + offset), read, keep, data])


@intrinsic
def prefetch_line(typing_context, address):  # type: ignore[no-untyped-def]
    """Ask for the 64 bytes at an address; it need not be one of this process."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _prefetch(builder, args[0], 64, ahead=0)
        return context.get_dummy_value()

    return types.void(types.intp), codegen


def sum_lanes(builder: Any, lanes: Any) -> Any:
    """<16 x double> -> double, halves added pairwise."""
    width = LANES
    while width > 1:
        width //= 2
        halves = [ir.Constant(ir.VectorType(_I32, width), list(range(start, start + width))) for start in (0, width)]
        low, high = (builder.shuffle_vector(lanes, lanes, mask) for mask in halves)
        lanes = builder.fadd(low, high)
    return builder.extract_element(lanes, ir.Constant(_I32, 0))


def _row_sums_code(builder: Any, args: Any, item_bytes: int, squares: bool, half_instructions: bool) -> None:
    """Loop over the blocks of a row; per block float32 fused multiply-adds, then one addition to float64 lanes."""
    x, w, num_blocks, out = args
    num_sums = 2 if squares else 1

    def add_block(index: Any, totals: list[Any]) -> list[Any]:
        x_block = builder.add(x, builder.mul(index, ir.Constant(index.type, BLOCK * item_bytes)))
        w_block = builder.add(w, builder.mul(index, ir.Constant(index.type, BLOCK * 4)))
        if squares:
            _prefetch(builder, x_block, BLOCK * item_bytes)
        partial = [splat(_FLOATS, 0.0)] * num_sums
        for place in range(0, BLOCK, LANES):
            values = load_lanes(builder, x_block, item_bytes, half_instructions, place * item_bytes)
            if item_bytes == 8:
                values = builder.fptrunc(values, _FLOATS)
            weights = load(builder, w_block, _FLOATS, place * 4, 4)
            partial = [fma(builder, values, *pair) for pair in zip((weights, values), partial, strict=False)]
        return [builder.fadd(total, builder.fpext(part, _DOUBLES)) for total, part in zip(totals, partial, strict=True)]

    for position, value in enumerate(loop(builder, num_blocks, [splat(_DOUBLES, 0.0)] * num_sums, add_block)):
        builder.store(sum_lanes(builder, value), pointer(builder, out, _F64, 8 * position))


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


@intrinsic
def dot(typing_context, like, x, y, steps):  # type: ignore[no-untyped-def]
    """Sum of x*y over `steps` >= 1 times 16 elements at two addresses, in float64: the same bits on every machine.

    Element i goes into lane i mod 16, in order; then the lanes are added in halves, pairwise.
    """
    half_instructions = has_half_instructions()

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _, x, y, count = args
        item_bytes = like.dtype.bitwidth // 8

        def add_16(index: Any, totals: list[Any]) -> list[Any]:
            offset = builder.mul(index, ir.Constant(index.type, LANES * item_bytes))
            pair = [load_lanes(builder, builder.add(row, offset), item_bytes, half_instructions) for row in (x, y)]
            if item_bytes != 8:
                pair = [builder.fpext(values, _DOUBLES) for values in pair]
            return [fma(builder, *pair, *totals)]

        return sum_lanes(builder, *loop(builder, count, [splat(_DOUBLES, 0.0)], add_16))

    return types.float64(like, types.intp, types.intp, types.intp), codegen


def _widen_16(like: Any, half_instructions: bool) -> Any:
    signature = types.void(like, types.intp, types.intp)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _, x, out = args
        item_bytes = like.dtype.bitwidth // 8
        values = load_lanes(builder, x, item_bytes, half_instructions)
        if item_bytes != 8:
            values = builder.fpext(values, _DOUBLES)
        builder.store(values, pointer(builder, out, _DOUBLES), align=8)
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
        value = load(builder, args[1], kind, align=item_bytes)
        builder.store(value, pointer(builder, args[2], kind), align=item_bytes)
        return context.get_dummy_value()

    return signature, codegen


def _multiply_4_rows_code(builder: Any, args: Any) -> None:
    """Loop over the inputs; 4 rows by 32 outputs are kept in 8 registers and stored once at the end."""
    rows, row_bytes, panel, num_in, out, out_bytes = args
    index_type = rows.type
    places = [(row, half) for row in range(4) for half in range(2)]

    def add_input(index: Any, sums: list[Any]) -> list[Any]:
        panel_row = builder.add(panel, builder.mul(index, ir.Constant(index_type, 2 * LANES * 4)))
        weights = [load(builder, panel_row, _FLOATS, half * LANES * 4, 4) for half in range(2)]
        column = builder.mul(index, ir.Constant(index_type, 4))
        values = []
        for row in range(4):
            address = builder.add(builder.add(rows, column), builder.mul(row_bytes, ir.Constant(index_type, row)))
            value = load(builder, address, _F32, align=4)
            first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(_I32, 0))
            values.append(builder.shuffle_vector(first, first, splat(_WORDS, 0)))
        return [fma(builder, values[row], weights[half], total) for (row, half), total in zip(places, sums, strict=True)]

    sums = loop(builder, num_in, [splat(_FLOATS, 0.0)] * len(places), add_input)
    for (row, half), total in zip(places, sums, strict=True):
        row_at = builder.add(out, builder.mul(out_bytes, ir.Constant(index_type, row)))
        builder.store(total, pointer(builder, row_at, _FLOATS, half * LANES * 4), align=4)


@intrinsic
def multiply_4_rows(typing_context, rows, row_bytes, panel, num_in, out, out_bytes):  # type: ignore[no-untyped-def]
    """4 rows of `num_in` float32 times a (num_in, 32) float32 panel -> 4 rows of 32 float32, `out_bytes` apart."""
    signature = types.void(*[types.intp] * 6)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        _multiply_4_rows_code(builder, args)
        return context.get_dummy_value()

    return signature, codegen

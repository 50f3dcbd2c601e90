"""Tokens between a transformer's matrix products, in one pass: sums, LayerNorm, QuickGELU, rounding to bfloat16 or to bytes.

Every function works row by row on C-contiguous arrays; a row's result depends on that row alone. Arrays described as "wide or
narrow" are float32, or bfloat16 as int16, its bits. Sums are float32 in an order that is the same for every row.

Bytes are unsigned, since that is what processors multiply fast with signed weights. A row r is stored as q and one float32
`scale[r]`: r = scale * (q - ZERO) for normalised tokens, r = scale * q - OFFSET for the output of an activation.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from beholder.kernels.compiled import compiled

OFFSET = 0.17
"""QuickGELU and GELU are nowhere below -0.17 (least values -0.1637 and -0.16997)."""
ZERO = 128
"""The byte that stands for zero in normalised tokens; they use 1 to 255."""

_F = np.float32
_fast = nb.njit(fastmath={"reassoc", "contract", "nsz", "arcp"}, error_model="numpy")


@intrinsic  # type: ignore[untyped-decorator]
def _bits_of(typing_context: Any, value: Any) -> Any:
    """float32 -> its bits, as int32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), build


@intrinsic  # type: ignore[untyped-decorator]
def _from_bits(typing_context: Any, value: Any) -> Any:
    """int32 -> the float32 of these bits."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), build


@intrinsic  # type: ignore[untyped-decorator]
def _widen(typing_context: Any, value: Any) -> Any:
    """float32, or bfloat16 bits (int16) -> float32, exactly."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if value == types.float32:
            return arguments[0]
        bits = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(value), build


@intrinsic  # type: ignore[untyped-decorator]
def _rounded_like(typing_context: Any, element: Any, value: Any) -> Any:
    """A float32 in the type of `element`: itself, or bfloat16 bits (int16).

    Rounded to nearest, ties to even; NaN may come out as another NaN or as infinity.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if element == types.float32:
            return arguments[1]
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[1], word)
        last = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        raised = builder.add(builder.add(bits, ir.Constant(word, 0x7FFF)), last)
        return builder.trunc(builder.lshr(raised, ir.Constant(word, 16)), ir.IntType(16))

    return element(element, types.float32), build


@_fast
def _power_of_two(x):  # type: ignore[no-untyped-def]
    """2**x for x in [-126, 126], relative error below 3e-7: Taylor's series of degree 6 on [-1/2, 1/2]."""
    whole = np.floor(x + _F(0.5))
    part = x - whole
    series = _F(1.54035304e-4)
    series = series * part + _F(1.33335581e-3)
    series = series * part + _F(9.61812911e-3)
    series = series * part + _F(5.55041087e-2)
    series = series * part + _F(2.40226507e-1)
    series = series * part + _F(6.93147181e-1)
    series = series * part + _F(1.0)
    return series * _from_bits((np.int32(whole) + np.int32(127)) << np.int32(23))


@_fast
def _quick_gelu(x):  # type: ignore[no-untyped-def]
    """OpenAI's activation, x * sigmoid(1.702 x)."""
    power = x * _F(-1.702 * 1.4426950408889634)
    power = power if power < _F(126.0) else _F(126.0)
    power = power if power > _F(-126.0) else _F(-126.0)
    return x / (_F(1.0) + _power_of_two(power))


@_fast
def _mean_and_inverse_deviation(row, eps):  # type: ignore[no-untyped-def]
    """Of LayerNorm: two passes over a row in the first cache."""
    total = _F(0.0)
    for i in range(row.size):
        total += row[i]
    mean = total / _F(row.size)
    squares = _F(0.0)
    for i in range(row.size):
        squares += (row[i] - mean) * (row[i] - mean)
    return mean, _F(1.0) / np.sqrt(squares / _F(row.size) + eps)


@_fast
def _norm_row(row, gain, shift, eps, out):  # type: ignore[no-untyped-def]
    mean, inverse = _mean_and_inverse_deviation(row, eps)
    for i in range(row.size):
        out[i] = (row[i] - mean) * inverse * gain[i] + shift[i]


@_fast
def _to_bytes(row, out):  # type: ignore[no-untyped-def]
    """One float32 row as bytes around ZERO; returns its scale."""
    largest_bits = np.int32(0)  # floats that are not negative have the order of their bits; and NaN is above all
    for i in range(row.size):
        largest_bits = max(largest_bits, _bits_of(row[i]) & np.int32(0x7FFFFFFF))
    largest = _from_bits(largest_bits)
    inverse = _F(127.0) / largest if largest > _F(0.0) else _F(0.0)
    for i in range(row.size):
        out[i] = np.uint8(np.int32(np.rint(row[i] * inverse)) + np.int32(ZERO))
    return largest / _F(127.0)


@compiled
def _add_row(row, branch):  # type: ignore[no-untyped-def]
    for i in range(row.size):
        row[i] += _widen(branch[i])


@compiled
def norm(x, branch, gain, shift, eps, out):  # type: ignore[no-untyped-def]
    """Add branch (R, W), wide or narrow, to x (R, W) float32 (None: nothing); its LayerNorm to out (R, W), wide or narrow.

    gain and shift: (W,) float32.
    """
    row = np.empty(x.shape[1], np.float32)
    for r in range(x.shape[0]):
        if branch is not None:
            _add_row(x[r], branch[r])
        _norm_row(x[r], gain, shift, eps, row)
        for i in range(row.size):
            out[r, i] = _rounded_like(out[r, i], row[i])


@compiled
def norm_to_bytes(x, branch, gain, shift, eps, out, scale):  # type: ignore[no-untyped-def]
    """As `norm`, to out (R, W) uint8 around ZERO, and scale (R,) float32."""
    row = np.empty(x.shape[1], np.float32)
    for r in range(x.shape[0]):
        if branch is not None:
            _add_row(x[r], branch[r])
        _norm_row(x[r], gain, shift, eps, row)
        scale[r] = _to_bytes(row, out[r])


@compiled
def add_scaled(x, product, scale, bias):  # type: ignore[no-untyped-def]
    """Add scale * product + bias to x (R, W) float32: a product of bytes, (R, W) float32, back in its units."""
    for r in range(x.shape[0]):
        factor = scale[r]
        for i in range(x.shape[1]):
            x[r, i] += factor * product[r, i] + bias[i]


@compiled
def add_branch(x, branch):  # type: ignore[no-untyped-def]
    """Add branch (R, W), wide or narrow, to x (R, W) float32."""
    for r in range(x.shape[0]):
        _add_row(x[r], branch[r])


@compiled
def scale_rows(product, scale, bias):  # type: ignore[no-untyped-def]
    """Make of product (R, N), wide or narrow, in place, scale * product + bias."""
    for r in range(product.shape[0]):
        factor = scale[r]
        for i in range(product.shape[1]):
            product[r, i] = _rounded_like(product[r, i], factor * _widen(product[r, i]) + bias[i])


@compiled
def quick_gelu_to_bytes(product, scale, bias, out, out_scale):  # type: ignore[no-untyped-def]
    """QuickGELU(scale * product + bias): product (R, N), wide or narrow -> out (R, N) uint8 and out_scale (R,); see OFFSET."""
    row = np.empty(product.shape[1], np.float32)
    for r in range(product.shape[0]):
        factor = scale[r]
        largest_bits = np.int32(0)  # the bits of negative floats are below it
        for i in range(row.size):
            value = _quick_gelu(factor * _widen(product[r, i]) + bias[i])
            row[i] = value
            largest_bits = max(largest_bits, _bits_of(value))
        span = _from_bits(largest_bits) + _F(OFFSET)
        inverse = _F(255.0) / span
        for i in range(row.size):
            out[r, i] = np.uint8(np.int32((row[i] + _F(OFFSET)) * inverse + _F(0.5)))
        out_scale[r] = span / _F(255.0)

"""float32 rows and the text before each in, lines of CSV out: every number as the shortest decimal that reads back as itself.

The digits are found with Schubfach (R. Giulietti, "The Schubfach way to render doubles", 2020; names as in section 9 there):
two 64 x 32 bit products with a power of ten of 64 bits tell the bounds between which a decimal reads back as this float32,
and the shortest one between them is taken, of several the nearest.

The layout is that of polars 2 (and so of birder's files): 0.25, 5.0, 1e-7, 1.5e+13, NaN, inf.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.kernels.compiled import compiled

MOST_BYTES = 20
"""Bytes that a number takes at most, with its comma: -0.0000123456789 and 1234567900000.0 are the longest kinds."""

_LEAST_POWER, _MOST_POWER = -31, 45
_HIDDEN_BIT, _EXPONENT_BIAS, _FRACTION_BITS = 1 << 23, 150, 23
_COMMA, _NEWLINE, _MINUS, _PLUS, _POINT, _ZERO, _LETTER_E = (ord(char) for char in ",\n-+.0e")
_FIRST_SCIENTIFIC, _LAST_SCIENTIFIC = 13, -6
"""A point after more than 13 digits, or after six zeros or more, is written with an exponent."""
_NAN, _INF = (np.frombuffer(word, np.uint8) for word in (b"NaN", b"inf"))


def _power_bits(power: int) -> int:
    """10**power scaled by a power of two to 64 bits, floor + 1."""
    value: int = 10 ** abs(power)
    if power >= 0:
        shift = value.bit_length() - 64
        return (value >> shift if shift >= 0 else value << -shift) + 1
    return (1 << (63 + value.bit_length())) // value + 1


_TENS = np.array([10**k for k in range(10)], np.int64)
_POWERS = np.array([_power_bits(power) for power in range(_LEAST_POWER, _MOST_POWER + 1)], np.uint64)
_TEN, _U32, _LOW = np.uint32(10), np.uint64(32), np.uint64(0xFFFFFFFF)


@compiled
def _rounded_to_odd(power, factor):  # type: ignore[no-untyped-def]
    """(power * factor) >> 64 as int64; its lowest bit also set when what was cut off was not (nearly) zero."""
    low = (power & _LOW) * factor
    high = (power >> _U32) * factor + (low >> _U32)
    return np.int64(high >> _U32) | np.int64((high & _LOW) > 1)


@compiled
def _shortest(fraction, exponent):  # type: ignore[no-untyped-def]
    """(digits, power): the shortest digits * 10**power that reads back as a positive finite float32, of several the nearest.

    fraction, exponent: int64, the fields of its bit pattern.
    """
    if exponent != 0:
        c, q = _HIDDEN_BIT | fraction, exponent - _EXPONENT_BIAS
        if 0 <= -q <= _FRACTION_BITS and c & ((1 << -q) - 1) == 0:
            return c >> -q, 0
    else:
        c, q = fraction, 1 - _EXPONENT_BIAS
    is_odd = c & 1
    closer = 1 if fraction == 0 and exponent > 1 else 0
    k = (q * 1262611 - closer * 524031) >> 22
    shift = q + ((-k * 1741647) >> 19) + 1
    power = _POWERS[-k - _LEAST_POWER]
    lower = _rounded_to_odd(power, np.uint64((4 * c - 2 + closer) << shift)) + is_odd
    value = _rounded_to_odd(power, np.uint64((4 * c) << shift))
    upper = _rounded_to_odd(power, np.uint64((4 * c + 2) << shift)) - is_odd
    s = value >> 2
    if s >= 10:
        tens = s // 10
        under, over = lower <= 40 * tens, 40 * tens + 40 <= upper
        if under != over:
            return tens + over, k + 1
    under, over = lower <= 4 * s, 4 * s + 4 <= upper
    if under != over:
        return s + over, k
    middle = 4 * s + 2
    return s + (value > middle or (value == middle and s & 1 == 1)), k


@compiled
def _put_digits(out, at, digits, count):  # type: ignore[no-untyped-def]
    """The last `count` decimal digits of a number, at out[at:at + count]."""
    rest = np.uint32(digits)
    for i in range(count - 1, -1, -1):
        quotient = rest // _TEN
        out[at + i] = _ZERO + (rest - quotient * _TEN)
        rest = quotient


@compiled
def _put_word(out, at, word):  # type: ignore[no-untyped-def]
    for i in range(len(word)):
        out[at + i] = word[i]
    return at + len(word)


@compiled
def _put_number(out, at, pattern):  # type: ignore[no-untyped-def]
    """Write the float32 of a bit pattern (int64) at `at`; returns where its text ends."""
    exponent, fraction = (pattern >> 23) & 0xFF, pattern & (_HIDDEN_BIT - 1)
    if exponent == 0xFF and fraction != 0:
        return _put_word(out, at, _NAN)
    if pattern >> 31 != 0:
        out[at] = _MINUS
        at += 1
    if exponent == 0xFF:
        return _put_word(out, at, _INF)
    digits, power = (np.int64(0), np.int64(0)) if pattern & 0x7FFFFFFF == 0 else _shortest(fraction, exponent)
    while digits != 0 and digits % 10 == 0:
        digits //= 10
        power += 1
    count = 1
    while count < 10 and digits >= _TENS[count]:
        count += 1
    point = count + power  # digits before the decimal point
    if point > _FIRST_SCIENTIFIC or point <= _LAST_SCIENTIFIC:
        return _put_scientific(out, at, digits, count, point - 1)
    if power >= 0:
        _put_digits(out, at, digits, count)
        for i in range(power):
            out[at + count + i] = _ZERO
        out[at + point], out[at + point + 1] = _POINT, _ZERO
        return at + point + 2
    if point > 0:
        scale = _TENS[-power]
        whole = digits // scale
        _put_digits(out, at, whole, point)
        out[at + point] = _POINT
        _put_digits(out, at + point + 1, digits - whole * scale, -power)
        return at + point + 1 - power
    out[at], out[at + 1] = _ZERO, _POINT
    _put_digits(out, at + 2, digits, -power)
    return at + 2 - power


@compiled
def _put_scientific(out, at, digits, count, exponent):  # type: ignore[no-untyped-def]
    """Write d.ddde+XX: digits of `count` decimals, times 10**exponent with the point after the first."""
    _put_digits(out, at + 1, digits, count)
    out[at] = out[at + 1]
    if count > 1:
        out[at + 1] = _POINT
    at += count + (count > 1)
    out[at] = _LETTER_E
    out[at + 1] = _MINUS if exponent < 0 else _PLUS
    # polars writes 1e-7 and 1e+13: a sign always, no leading zero
    size = abs(exponent)
    num_digits = 1 + (size >= 10)
    _put_digits(out, at + 2, size, num_digits)
    return at + 2 + num_digits


@compiled
def _write(offsets, texts, patterns, out):  # type: ignore[no-untyped-def]
    at = 0
    for row in range(len(patterns)):
        for i in range(offsets[row], offsets[row + 1]):
            out[at] = texts[i]
            at += 1
        for column in range(patterns.shape[1]):
            out[at] = _COMMA
            at = _put_number(out, at + 1, np.int64(patterns[row, column]))
        out[at] = _NEWLINE
        at += 1
    return at


def csv_lines(
    offsets: npt.NDArray[Any], texts: npt.NDArray[np.uint8], values: npt.NDArray[np.float32]
) -> npt.NDArray[np.uint8]:
    """Lines of CSV: the row's text, then its numbers, each after a comma.

    Args:
        offsets: (N + 1,) integers: row i starts with texts[offsets[i] : offsets[i + 1]].
        texts: (B,) uint8, quoted where CSV needs it.
        values: (N, D) float32; D > 0.

    Returns:
        (bytes,) uint8.
    """
    patterns = np.ascontiguousarray(values, np.float32).view(np.uint32)
    size = int(offsets[-1] - offsets[0]) + len(values) * (values.shape[1] * MOST_BYTES + 1)
    out = np.empty(size, np.uint8)
    return out[: _write(offsets, texts, patterns, out)]

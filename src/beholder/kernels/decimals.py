"""Numbers in CSV: each decimal to the nearest float32, the other fields as Arrow buffers, and names that end in a number.

A number of up to 15 digits with a point, the usual case, costs no loop and no table of cases: one 32-byte comparison finds
the point and the end of the field, three 8-byte windows become digits by multiplication, and one division gives the float64.

Correct rounding: mantissa / 10**k is the nearest float64 when both are exact (mantissa < 2**53, k <= 22), and otherwise
within `_MARGIN` units in its last place. Rounding it to float32 is right unless it lies that near to the midpoint of two
float32 (about one in 10**8 numbers), below float32's normal range, or beyond its largest value: these fields are reported
as unsure, and `nearest_float32` settles them in exact arithmetic.

The text is read by address; nothing is checked, so it lies in a buffer with `PAD` bytes of its own on both sides.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from beholder.kernels.compiled import compiled
from beholder.kernels.vectors import load

PAD = 64
"""Bytes around the text that the windows may touch. Those after it must be line ends."""

FINISHED, FULL, TOO_FEW, TOO_MANY, NOT_A_NUMBER, STRAY_QUOTE, TEXT_AFTER_QUOTE, OPEN_QUOTE = range(8)
"""How `parse_rows` ended."""
NEXT, ROWS, LINES, UNSURE, COLUMN, FIELD_START, FIELD_STOP, REPORT_SIZE = range(8)
"""What stands where in the report of `parse_rows`."""

_OK, _MISSING, _BAD, _UNSURE = range(4)
_COMMA, _NEWLINE, _RETURN, _QUOTE, _MINUS, _PLUS, _POINT, _ZERO, _LETTER_E = (ord(char) for char in ',\n\r"-+.0e')
_MOST_POWER = 64
_POWERS = np.array([float(f"1e{k}") for k in range(_MOST_POWER + 1)])
_MARGIN = 8
_SMALLEST_NORMAL, _LARGEST = 2.0**-126, float(np.finfo(np.float32).max)
_MIDPOINT, _BELOW_FLOAT32 = 1 << 28, (1 << 29) - 1
_MOST_DIGITS = 19

_U8, _U10, _U16, _U32, _U100, _U10000 = (np.uint64(n) for n in (8, 10, 16, 32, 100, 10000))
_ZEROS = np.uint64(0x3030303030303030)
_PAIRS, _QUADS, _LOW = np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0000FFFF0000FFFF), np.uint64(0xFFFFFFFF)
_TEN_TO_8, _TEN_TO_16 = np.uint64(10**8), np.uint64(10**16)
_WHOLE_POWERS = np.array([10**k for k in range(_MOST_DIGITS + 1)], np.uint64)
_KEEP_LAST = np.array([(2**64 - 1) ^ (2 ** (8 * (8 - min(8, max(0, n)))) - 1) for n in range(-16, 33)], np.uint64)
"""At n + 16: a mask that keeps the last n of 8 bytes in memory order; none below 0, all above 8."""


@intrinsic
def _byte(typing_context, address):  # type: ignore[no-untyped-def]
    """The byte at an address, as int64."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.zext(load(builder, args[0], ir.IntType(8)), ir.IntType(64))

    return types.int64(types.int64), codegen


@intrinsic
def _word(typing_context, address):  # type: ignore[no-untyped-def]
    """The eight bytes at an address, first one lowest, as uint64."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return load(builder, args[0], ir.IntType(64))

    return types.uint64(types.int64), codegen


@intrinsic
def _non_digits(typing_context, address):  # type: ignore[no-untyped-def]
    """int64 whose bit i is set when byte i of the 32 at an address is no decimal digit."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.VectorType(ir.IntType(8), 32)
        shifted = builder.sub(load(builder, args[0], kind), ir.Constant(kind, [_ZERO] * 32))
        other = builder.icmp_unsigned(">", shifted, ir.Constant(kind, [9] * 32))
        return builder.zext(builder.bitcast(other, ir.IntType(32)), ir.IntType(64))

    return types.int64(types.int64), codegen


@intrinsic
def _lowest_bit(typing_context, bits):  # type: ignore[no-untyped-def]
    """Position of the lowest bit that is set in an int64; 64 for zero."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.IntType(64)
        function_type = ir.FunctionType(kind, [kind, ir.IntType(1)])
        function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.cttz.i64")
        return builder.call(function, [args[0], ir.Constant(ir.IntType(1), 0)])

    return types.int64(types.int64), codegen


@compiled
def _last_digits(stop, count):  # type: ignore[no-untyped-def]
    """The number that the last `count` (up to 8; none if negative) of the 8 digits before address `stop` make."""
    digits = (_word(stop - 8) ^ _ZEROS) & _KEEP_LAST[count + 16]
    digits = (digits * _U10 + (digits >> _U8)) & _PAIRS
    digits = (digits * _U100 + (digits >> _U16)) & _QUADS
    return (digits * _U10000 + (digits >> _U32)) & _LOW


@compiled
def _is_sure(value, margin):  # type: ignore[no-untyped-def]
    """Whether a positive float64, off by at most `margin` units in the last place, rounds to the float32 of the true value."""
    distance = (np.float64(value).view(np.int64) - (_MIDPOINT - margin)) & _BELOW_FLOAT32
    return distance > 2 * margin


@compiled
def _scaled(mantissa, power):  # type: ignore[no-untyped-def]
    """(kind, float32) of mantissa * 10**power, mantissa > 0 and off by less than 1."""
    if power > _MOST_POWER or power < -_MOST_POWER:
        return _UNSURE, np.float32(0)
    value = np.float64(mantissa)
    value = value * _POWERS[power] if power >= 0 else value / _POWERS[-power]
    if value < _SMALLEST_NORMAL or value > _LARGEST or not _is_sure(value, _MARGIN):
        return _UNSURE, np.float32(0)
    return _OK, np.float32(value)


@compiled
def _is_word(at, stop, word):  # type: ignore[no-untyped-def]
    """Whether the text [at, stop) is `word` (lower-case letters), in any case."""
    if stop - at != len(word):
        return False
    for i in range(len(word)):  # noqa: SIM110
        if _byte(at + i) | 32 != word[i]:
            return False
    return True


_NAN, _INF, _INFINITY, _NULL = (tuple(word.encode()) for word in ("nan", "inf", "infinity", "null"))


@compiled
def _exponent(at, stop):  # type: ignore[no-untyped-def]
    """(whether it is one, value) of the text [at, stop), not empty, such as e-05."""
    is_signed = _byte(at + 1) == _MINUS or _byte(at + 1) == _PLUS
    sign = _COMMA - _byte(at + 1) if is_signed else 1
    first = at + 1 + is_signed
    exponent = 0
    for digit_at in range(first, stop):
        digit = _byte(digit_at) - _ZERO
        if digit < 0 or digit > 9:
            return False, 0
        exponent = min(exponent * 10 + digit, 1 << 40)
    return _byte(at) | 32 == _LETTER_E and first < stop, sign * exponent


@compiled
def _any_number(at, stop):  # type: ignore[no-untyped-def]
    """(kind, float32) of the text [at, stop), whatever it is; blanks around it do not count.

    The comma lies between plus and minus in ASCII, so its distance to a sign is +1 or -1.
    """
    while at < stop and (_byte(at) == 32 or _byte(at) == 9):
        at += 1
    while at < stop and (_byte(stop - 1) == 32 or _byte(stop - 1) == 9):
        stop -= 1
    if at == stop or _is_word(at, stop, _NULL):
        return _MISSING, np.float32(0)
    sign = np.float32(1)
    if _byte(at) == _MINUS or _byte(at) == _PLUS:
        sign = np.float32(_COMMA - _byte(at))
        at += 1
    if _is_word(at, stop, _NAN):
        return _OK, np.float32(np.nan)
    if _is_word(at, stop, _INF) or _is_word(at, stop, _INFINITY):
        return _OK, sign * np.float32(np.inf)
    mantissa = np.uint64(0)
    taken = 0
    power = 0
    has_digit = False
    has_point = False
    while at < stop:
        digit = _byte(at) - _ZERO
        if digit >= 0 and digit <= 9:
            has_digit = True
            if taken < _MOST_DIGITS:
                mantissa = mantissa * _U10 + np.uint64(digit)
                taken += mantissa != 0
                power -= has_point
            else:
                power += not has_point
        elif digit == _POINT - _ZERO and not has_point:
            has_point = True
        else:
            break
        at += 1
    if not has_digit:
        return _BAD, np.float32(0)
    if at < stop:
        is_right, exponent = _exponent(at, stop)
        if not is_right:
            return _BAD, np.float32(0)
        power += exponent
    if mantissa == 0:
        return _OK, sign * np.float32(0)
    kind, value = _scaled(mantissa, power)
    return kind, sign * value


@compiled
def _field(at, stop):  # type: ignore[no-untyped-def]
    """(FINISHED or error, start, stop of the content, address of the comma or newline after it, newlines inside it)."""
    if _byte(at) != _QUOTE:
        end = at
        while True:
            byte = _byte(end)
            if byte == _COMMA:
                return FINISHED, at, end, end, 0
            if byte == _NEWLINE:
                content_stop = end - 1 if end > at and _byte(end - 1) == _RETURN else end
                return FINISHED, at, content_stop, end, 0
            if byte == _QUOTE:
                return STRAY_QUOTE, at, end, end, 0
            end += 1
    newlines = 0
    end = at + 1
    while end < stop:
        byte = _byte(end)
        if byte == _QUOTE:
            following = _byte(end + 1)
            if following in (_COMMA, _NEWLINE):
                return FINISHED, at + 1, end, end + 1, newlines
            if following == _RETURN and _byte(end + 2) == _NEWLINE:
                return FINISHED, at + 1, end, end + 2, newlines
            if following != _QUOTE:
                return TEXT_AFTER_QUOTE, at, end, end, newlines
            end += 1
        elif byte == _NEWLINE:
            newlines += 1
        end += 1
    return OPEN_QUOTE, at, stop, stop, 0


@compiled
def _plain_number(at):  # type: ignore[no-untyped-def]
    """(next, value, sure) of a number like -12.5 at an address: up to 19 digits, a point, then a comma or newline at `next`.

    next is 0 for anything else. The value is a float64, to be rounded to float32 when it is sure.
    """
    marks = _non_digits(at)
    negative = _byte(at) == _MINUS
    marks ^= negative
    point = at + _lowest_bit(marks)
    marks &= marks - 1
    end = at + _lowest_bit(marks)
    num_whole = point - at - negative
    num_fraction = end - point - 1
    closing = _byte(end)
    is_plain = _byte(point) == _POINT and closing in (_COMMA, _NEWLINE)
    num_digits = num_whole + num_fraction
    if not (is_plain and 0 < num_digits <= _MOST_DIGITS and num_whole <= 15):
        return 0, 0.0, False
    mantissa = _last_digits(end, num_fraction) + _last_digits(end - 8, num_fraction - 8) * _TEN_TO_8
    if num_whole == 1:
        whole = np.uint64(_byte(point - 1) - _ZERO)
    else:
        whole = _last_digits(point, num_whole) + _last_digits(point - 8, num_whole - 8) * _TEN_TO_8
    mantissa += whole * _WHOLE_POWERS[num_fraction]
    margin = 0
    if num_digits <= 15:
        value = np.float64(np.int64(mantissa)) / _POWERS[num_fraction]
    else:
        mantissa += _last_digits(end - 16, num_fraction - 16) * _TEN_TO_16
        value = np.float64(mantissa) / _POWERS[num_fraction]
        margin = _MARGIN
    return end, -value if negative else value, _is_sure(value, margin)


@compiled
def _parse_row(at, stop, base, roles, row, out, spans, unsure, report):  # type: ignore[no-untyped-def]
    """Parse the row at an address; see `parse_rows`. Returns (status, address of its newline, newlines in it, is missing)."""
    last = roles.shape[0] - 1
    newlines = 0
    is_missing = False
    for column in range(last + 1):
        role = roles[column]
        end, value, sure = _plain_number(at) if role >= 0 else (0, 0.0, False)
        if end != 0:
            out[row, role] = np.float32(value)
            if not sure:
                _note(unsure, report, row, role, at - base, end - base)
        else:
            status, first, after, end, inside = _field(at, stop)
            newlines += inside
            if status == FINISHED and role >= 0:
                kind, number = _any_number(first, after)
                out[row, role] = number
                is_missing = is_missing or kind == _MISSING
                if kind == _UNSURE:
                    _note(unsure, report, row, role, first - base, after - base)
                elif kind == _BAD:
                    status = NOT_A_NUMBER
            elif role < -1:
                spans[row, -2 - role, 0] = first - base
                spans[row, -2 - role, 1] = after - base
            if status != FINISHED:
                report[COLUMN], report[FIELD_START], report[FIELD_STOP] = column, first - base, after - base
                return status, end, newlines, False
        if (_byte(end) == _COMMA) != (column < last):
            report[COLUMN] = column
            return TOO_MANY if column == last else TOO_FEW, end, newlines, False
        at = end + 1
    return FINISHED, at - 1, newlines, is_missing


@compiled
def _note(unsure, report, row, role, start, stop):  # type: ignore[no-untyped-def]
    """Add a number to those to be settled in exact arithmetic."""
    at = report[UNSURE]
    unsure[at, 0], unsure[at, 1], unsure[at, 2], unsure[at, 3] = row, role, start, stop
    report[UNSURE] = at + 1


@compiled
def parse_rows(text, start, stop, roles, out, missing, lines, spans, unsure, report):  # type: ignore[no-untyped-def]
    """Parse the rows in text[start:stop] until the text ends, an output is full, or a row is wrong.

    Blank lines are skipped. A row with an empty number is all zeros and marked as missing.

    Args:
        text: (B,) uint8; `PAD` bytes before the rows and after them belong to it. Newlines end the rows and fill what is after.
        start: where the rows start, at the start of a line.
        stop: where they end.
        roles: (C,) int64, what each column is: i >= 0: dimension i; -1: unused; -2 - k: text k.
        out: (N, D) float32, written. D is the number of dimensions.
        missing: (N,) bool, written: rows with an empty number.
        lines: (N,) int64, written: lines before the row, from `start` on.
        spans: (N, K, 2) int64, written: start and stop of the texts' content; of a quoted one, what is between the quotes.
        unsure: (U, 4) int64, written: row, dimension, start and stop of numbers to be settled; U >= D.
        report: (REPORT_SIZE,) int64, written: where to go on; whole rows and lines before it; unsure numbers; of a wrong row
            its column and (but for TOO_FEW and TOO_MANY) field, and newlines inside the row count as lines.

    Returns:
        One of FINISHED ... OPEN_QUOTE.
    """
    base = text.ctypes.data
    at = base + start
    end = base + stop
    num_rows, dim = out.shape
    row = 0
    line = 0
    status = FINISHED
    report[:] = 0
    while at < end and status == FINISHED:
        blank = 1 if _byte(at) == _NEWLINE else 2 if _byte(at) == _RETURN and _byte(at + 1) == _NEWLINE else 0
        if blank != 0:
            at += blank
            line += 1
        elif row == num_rows or report[UNSURE] + dim > unsure.shape[0]:
            status = FULL
        else:
            status, row_end, newlines, is_missing = _parse_row(at, end, base, roles, row, out, spans, unsure, report)
            lines[row] = line
            line += newlines
            if status == FINISHED:
                missing[row] = is_missing
                if is_missing:
                    out[row, :] = 0
                at = row_end + 1
                line += 1
                row += 1
    report[NEXT], report[ROWS], report[LINES] = at - base, row, line
    return status


def nearest_float32(text: str) -> float:
    """The float32 nearest to a finite decimal number, ties to even, whatever its length; infinite where it overflows."""
    wide = float(text)
    with np.errstate(over="ignore"):
        near = float(np.float32(wide))
        other = float(np.nextafter(np.float32(near), np.float32(np.inf if wide > near else -np.inf)))
    if near == wide:
        return near
    low, high = sorted((near, other))
    midpoint = (max(low, -(2.0**128)) + min(high, 2.0**128)) / 2
    if wide != midpoint:
        return near
    exact = Decimal(text)
    if exact == Decimal(midpoint):
        return near
    return high if exact > Decimal(midpoint) else low


@compiled
def _copy_fields(text, spans, offsets, data, valid):  # type: ignore[no-untyped-def]
    """Copy the contents of spans of `text` one after another into `data`, doubled quotes of quoted fields made single."""
    at = 0
    for row in range(len(spans)):
        offsets[row] = at
        start, stop = spans[row, 0], spans[row, 1]
        quoted = text[start - 1] == _QUOTE
        valid[row] = quoted or stop > start
        position = start
        while position < stop:
            data[at] = text[position]
            at += 1
            position += 2 if quoted and text[position] == _QUOTE else 1
    offsets[len(spans)] = at


def contents(
    text: npt.NDArray[np.uint8], spans: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Gather fields: offsets (N + 1,) int64, UTF-8 bytes, and valid (N,) bool, False for fields that are empty without quotes.

    Args:
        text: (B,) uint8.
        spans: (N, 2) int64, start > 0 and stop of each field's content, as `decimals.parse_rows` writes them.
    """
    num_rows = len(spans)
    offsets = np.empty(num_rows + 1, np.int64)
    data = np.empty(int((spans[:, 1] - spans[:, 0]).sum()) + 1, np.uint8)
    valid = np.empty(num_rows, np.bool_)
    _copy_fields(text, spans, offsets, data, valid)
    return offsets, data[: offsets[-1]], valid


@compiled
def _fill_numbered(prefix, start, offsets, data):  # type: ignore[no-untyped-def]
    at = 0
    digits = np.empty(20, np.uint8)
    for row in range(len(offsets) - 1):
        offsets[row] = at
        for i in range(len(prefix)):
            data[at + i] = prefix[i]
        at += len(prefix)
        number = start + row
        num_digits = 0
        while True:
            digits[num_digits] = 48 + number % 10
            num_digits += 1
            number //= 10
            if number == 0:
                break
        for i in range(num_digits):
            data[at + i] = digits[num_digits - 1 - i]
        at += num_digits
    offsets[len(offsets) - 1] = at


def numbered(prefix: bytes, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Offsets (N + 1,) int64 and UTF-8 data (bytes,) uint8 of `prefix` + decimal number, for numbers [start, stop)."""
    most = len(prefix) + len(str(max(stop - 1, 0)))
    offsets = np.empty(stop - start + 1, np.int64)
    data = np.empty(max(1, (stop - start) * most), np.uint8)
    _fill_numbered(np.frombuffer(prefix or b"", np.uint8), start, offsets, data)
    return offsets, data[: offsets[-1]]

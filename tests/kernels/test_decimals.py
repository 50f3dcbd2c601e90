"""Decimal texts become the nearest float32: held against exact fractions; and the rows of CSV they stand in."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beholder.kernels import decimals
from beholder.kernels.decimals import (
    FINISHED,
    FULL,
    NOT_A_NUMBER,
    OPEN_QUOTE,
    PAD,
    STRAY_QUOTE,
    TEXT_AFTER_QUOTE,
    TOO_FEW,
    TOO_MANY,
    nearest_float32,
    parse_rows,
)
from oracles.tiers import mostly_slow


class Result(NamedTuple):
    status: int
    values: npt.NDArray[np.float32]
    missing: list[bool]
    lines: list[int]
    texts: list[list[bytes]]
    unsure: list[list[int]]
    report: list[int]


def run(text: bytes, roles: Sequence[int], *, most_rows: int = 1000, room: int = 5000, start: int = 0) -> Result:
    """Run the kernel on a text, unsure numbers settled."""
    buffer = np.full(len(text) + 2 * PAD, ord("\n"), np.uint8)
    buffer[PAD : PAD + len(text)] = np.frombuffer(text, np.uint8)
    dim, num_texts = sum(role >= 0 for role in roles), sum(role < -1 for role in roles)
    out = np.full((most_rows, dim), 777, np.float32)
    missing, lines = np.ones(most_rows, np.bool_), np.full(most_rows, -1)
    spans, unsure = np.zeros((most_rows, num_texts, 2), np.int64), np.zeros((max(room, dim), 4), np.int64)
    report = np.zeros(decimals.REPORT_SIZE, np.int64)
    stop = PAD + len(text)
    status = parse_rows(buffer, PAD + start, stop, np.array(roles), out, missing, lines, spans, unsure, report)
    num_rows = report[decimals.ROWS]
    for row, dimension, first, after in unsure[: report[decimals.UNSURE]]:
        if row < num_rows and not missing[row]:
            out[row, dimension] = nearest_float32(bytes(buffer[first:after]).decode())
    texts = [[bytes(buffer[first:after]) for first, after in row] for row in spans[:num_rows]]
    return Result(status, out[:num_rows], missing[:num_rows].tolist(), lines[:num_rows].tolist(), texts,
                  unsure[: report[decimals.UNSURE]].tolist(), report.tolist())  # fmt: skip


def values_of(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Parse each text twice, followed by a comma and by a newline; both must give the same bits."""
    result = run("".join(f"{text},{text}\n" for text in texts).encode(), [0, 1], most_rows=len(texts))
    assert result.status == FINISHED
    assert len(result.values) == len(texts)
    assert not any(result.missing)
    assert np.array_equal(bits(result.values[:, 0]), bits(result.values[:, 1]))
    return result.values[:, 0]


def bits(values: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


def exact_bits(text: str) -> int:
    """The bits of the float32 nearest to a decimal text, by whole-number arithmetic alone; ties to even."""
    sign = 0x80000000 if text.startswith("-") else 0
    value = abs(Fraction(text))
    if value == 0:
        return sign
    exponent = -126
    while value >= Fraction(2) ** (exponent + 1):
        exponent += 1
    steps = round(value / Fraction(2) ** (exponent - 23))
    if steps == 1 << 24:
        steps, exponent = 1 << 23, exponent + 1
    if exponent > 127:
        return sign | 0x7F800000
    if steps < 1 << 23:
        return sign | steps
    return sign | (exponent + 127) << 23 | (steps - (1 << 23))


def float_of(pattern: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", pattern))[0])


def exact_decimal(value: Fraction) -> str:
    """All digits of a fraction whose denominator is a power of two."""
    places = max(0, value.denominator.bit_length() - 1)
    digits = str(abs(value.numerator) * 5**places).rjust(places + 1, "0")
    whole, fraction = (digits[:-places], digits[-places:]) if places else (digits, "")
    return ("-" if value < 0 else "") + whole + ("." + fraction if fraction else "")


finite_patterns = st.integers(0, 0xFFFFFFFF).filter(lambda pattern: (pattern >> 23) & 0xFF != 0xFF)
edges = st.sampled_from([0, 1, 2, 0x7FFFFF, 0x800000, 0x800001, 0x7F7FFFFF, 0x7F7FFFFE, 0x3F800000, 0x3F7FFFFF, 0x80000000])
patterns = finite_patterns | edges | st.integers(0, 0x7FFFFF)


@st.composite
def written_floats(draw: st.DrawFn) -> str:
    """A float32 as programs write it: shortest, or with some number of digits, or as the float64 of the same value."""
    value = float_of(draw(patterns))
    style = draw(st.integers(0, 4))
    if style == 0:
        return str(np.float32(value))
    if style == 1:
        return str(np.format_float_positional(np.float32(value), unique=True, trim="-"))
    if style == 2:
        return repr(value)
    digits = draw(st.integers(0, 24))
    return f"{value:.{digits}e}" if style == 3 else f"{value:+.{digits}f}"


@st.composite
def near_midpoints(draw: st.DrawFn) -> str:
    """The number halfway between two float32, exactly, cut short, or a little aside far behind the point."""
    pattern = draw(patterns) & 0x7FFFFFFF
    above = Fraction(2) ** 128 if pattern == 0x7F7FFFFF else Fraction(float_of(pattern + 1))
    text = exact_decimal((Fraction(float_of(pattern)) + above) / 2)
    if "." not in text:
        text += ".0"
    zeros = "0" * draw(st.integers(0, 30))
    aside = draw(st.sampled_from(["", zeros + "1", "cut", "below"]))
    if aside == "cut":
        text = text[: max(text.index(".") + 2, draw(st.integers(3, len(text))))]
    elif aside == "below":
        text = exact_decimal(Fraction(text) - Fraction(1, 2 ** (160 + len(zeros))))
    else:
        text += aside
    return draw(st.sampled_from(["", "-", "+"])) + text


plain = st.from_regex(r"\A[+-]?([0-9]{1,25}\.?[0-9]{0,25}|\.[0-9]{1,25})([eE][+-]?[0-9]{1,2})?\Z")
short = st.from_regex(r"\A-?[0-9]{1,3}\.[0-9]{5,17}\Z")


@settings(max_examples=25)
@given(st.lists(written_floats() | near_midpoints() | plain | short, min_size=20, max_size=60))
@example(["1.000000178813934326171874999", "1.000000178813934326171875", "1.00000017881393432617187500000001"])
@example(["7.00649232162408535e-46", "7.006492321624085e-46", "7.1e-46", "3.4028235677973366e38", "3.4028235677973367e38"])
@example(["16777217", "16777217.0", "16777217.00000000000000000000000001", "16777219.0", "9007199254740993.0"])
@example(["1e-5", "1E+05", "+.5", "5.", "-5.", ".5", "00000000000000000000001.5", "0.00000000000000000000000000001e29"])
@example(["1e400", "-1e400", "1e-400", "-1e-400", "0e999", "1e99999999999999999999999", "1e-99999999999999999999999"][:5])
@example(["0", "-0", "0.0", "-0.0", "+0", "0.", ".0", "0e5", "-0.000000000000000000000000000000000"])
@example(["1e22", "1e23", "1e38", "3.4028235e38", "3.5e38", "1.1754944e-38", "1.17549435e-38", "1e-45", "1.4e-45", "7e-46"])
def test_every_text_becomes_the_nearest_float32(texts: list[str]) -> None:
    expected = np.array([exact_bits(text) for text in texts], np.uint32)
    found = bits(values_of(texts))
    wrong = [(text, hex(a), hex(b)) for text, a, b in zip(texts, expected, found, strict=True) if a != b]
    assert not wrong


@settings(max_examples=100)
@given(near_midpoints())
def test_nearest_float32_alone(text: str) -> None:
    assert bits(nearest_float32(text)) == exact_bits(text)


def test_rounding_twice_would_be_wrong_here() -> None:
    text = "1.000000178813934326171874999"
    assert bits(np.float32(float(text))) != exact_bits(text)
    assert bits(values_of([text]))[0] == exact_bits(text) == 0x3F800001


@pytest.mark.parametrize("num_digits", mostly_slow([16, 17, 18, 19, 20, 24], quick=2))
def test_texts_a_hair_off_a_midpoint(num_digits: int) -> None:
    patterns = np.random.default_rng(7).integers(0x3E000000, 0x41800000, 2000)
    middles = [exact_decimal((Fraction(float_of(int(p))) + Fraction(float_of(int(p) + 1))) / 2) for p in patterns]
    texts = [f"{Decimal(middle):.{num_digits}g}" for middle in middles]
    expected = np.array([exact_bits(text) for text in texts], np.uint32)
    assert np.array_equal(bits(values_of(texts)), expected)
    rounded_twice = bits(np.array([float(text) for text in texts], np.float32))
    assert (rounded_twice != expected).sum() > 100 or num_digits == 16


def test_exponents_beyond_any_float() -> None:
    texts = ["1e99999999999999999999999", "-1e99999999999999999999999", "1e-99999999999999999999999", "-1e-999", "0e99999999"]
    assert bits(values_of(texts)).tolist() == [0x7F800000, 0xFF800000, 0, 0x80000000, 0]


def test_all_float16_and_many_shortest_float32_come_back() -> None:
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    rng = np.random.default_rng(5)
    normal = (rng.standard_normal(20000) * 10.0 ** rng.integers(-3, 3, 20000)).astype(np.float32)
    for values in (halves, normal):
        assert np.array_equal(bits(values_of([str(value) for value in values])), bits(values))
        assert np.array_equal(bits(values_of([repr(value) for value in values.tolist()])), bits(values))


def test_usual_numbers_need_no_exact_arithmetic() -> None:
    values = np.random.default_rng(6).standard_normal(50000).astype(np.float32)
    text = "".join(f"{value}\n{float(value)!r}\n" for value in values)
    result = run(text.encode(), [0], most_rows=100000)
    assert result.unsure == []
    assert np.array_equal(result.values[::2, 0], values)


@pytest.mark.parametrize(
    ("text", "value"),
    [("NaN", math.nan), ("nan", math.nan), ("-nan", math.nan), ("inf", math.inf), ("-Inf", -math.inf), ("+INF", math.inf),
     ("Infinity", math.inf), ("-infinity", -math.inf)],
)  # fmt: skip
def test_values_that_are_not_finite(text: str, value: float) -> None:
    found = values_of([text])[0]
    assert found == value or (math.isnan(value) and math.isnan(found))


@pytest.mark.parametrize("text", [" 1.5", "1.5 ", "\t1.5\t", '"1.5"', '" 1.5"', "  +1.5e0  ", "015e-1", '"15E-1"'])
def test_blanks_and_quotes_around_a_number(text: str) -> None:
    assert values_of([text]).tolist() == [1.5]


@pytest.mark.parametrize(
    "text",
    ["abc", "-", "+", ".", "-.", "e5", "1e", "1e+", "1e-", "1e5.0", "1.2.3", "1 2", "1_000", "0x10", "--1", "+-1", "1x",
     "nanx", "in", "infinit", "nul", "nulls", "1f", "٣", "1\0", '"a""b"', "1e5e5", "1.5\r"],
)  # fmt: skip
def test_what_is_not_a_number(text: str) -> None:
    row = f"7,{text},7\n".encode()
    result = run(b"1,2.5,3\n" + row, [0, 1, 2])
    assert result.status == NOT_A_NUMBER
    assert result.values.tolist() == [[1, 2.5, 3]]
    assert result.report[decimals.COLUMN] == 1
    first, after = result.report[decimals.FIELD_START] - PAD, result.report[decimals.FIELD_STOP] - PAD
    assert (b"1,2.5,3\n" + row)[first:after] == text.strip('"').encode()
    assert result.report[decimals.NEXT] - PAD == 8
    assert result.report[decimals.LINES] == 1


@pytest.mark.parametrize("empty", ["", " ", "null", "NULL", '""', " Null "])
def test_rows_with_an_empty_number_are_zeros_and_marked(empty: str) -> None:
    result = run(f"1,2\n{empty},3\n4,{empty}\n5,16777217.0\n{empty},16777217.0\n".encode(), [0, 1])
    assert result.status == FINISHED
    assert result.missing == [False, True, True, False, True]
    assert result.values.tolist() == [[1, 2], [0, 0], [0, 0], [5, 16777216], [0, 0]]


def test_roles_reorder_skip_and_keep_columns() -> None:
    text = b'a,1,x,2,"b,""c"""\n"d\ne",3,,4,f\r\n,5,"",6,"g"\n'
    result = run(text, [-2, 1, -1, 0, -3])
    assert result.status == FINISHED
    assert result.values.tolist() == [[2, 1], [4, 3], [6, 5]]
    assert result.texts == [[b"a", b'b,""c""'], [b"d\ne", b"f"], [b"", b"g"]]
    assert result.lines == [0, 1, 3]
    assert result.report[decimals.LINES] == 4


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_line_ends_and_blank_lines(end: str) -> None:
    result = run(end.join(["", "1.5,2", "", "", "3,4.25", '"5","6"', "", ""]).encode() + b"\n", [0, 1])
    assert result.status == FINISHED
    assert result.values.tolist() == [[1.5, 2], [3, 4.25], [5, 6]]
    assert result.lines == [1, 4, 5]


def test_no_rows() -> None:
    for text in (b"", b"\n", b"\r\n\n"):
        assert run(text, [0, 1])[:2] == (FINISHED, pytest.approx(np.empty((0, 2))))


@pytest.mark.parametrize(
    ("row", "status", "column"),
    [
        (b"a,1\n", TOO_FEW, 1),
        (b"a,1.5\r\n", TOO_FEW, 1),
        (b"a\n", TOO_FEW, 0),
        (b"a,1,2,3\n", TOO_MANY, 2),
        (b"a,1.5,2.5,\n", TOO_MANY, 2),
        (b'a"b,1,2\n', STRAY_QUOTE, 0),
        (b'a,1",2\n', STRAY_QUOTE, 1),
        (b'"a"b,1,2\n', TEXT_AFTER_QUOTE, 0),
        (b'"a" ,1,2\n', TEXT_AFTER_QUOTE, 0),
        (b'"a"\rb,1,2\n', TEXT_AFTER_QUOTE, 0),
        (b'"a,1,2\nb,1,2\n', OPEN_QUOTE, 0),
        (b'a,1,"2\n', OPEN_QUOTE, 2),
        (b'a,1,"\n', OPEN_QUOTE, 2),
        (b'a,1,"2""\n', OPEN_QUOTE, 2),
    ],
)
def test_wrong_rows_stop_the_parser_at_their_line(row: bytes, status: int, column: int) -> None:
    before = b'"x\ny",1,2\n\nz,3,4\n'
    for rest in (b"", b"q,5,6\n") if status != OPEN_QUOTE else (b"",):
        result = run(before + row + rest, [-2, 0, 1])
        assert result.status == status
        assert result.values.tolist() == [[1, 2], [3, 4]]
        assert result.report[decimals.COLUMN] == column
        assert result.report[decimals.NEXT] - PAD == len(before)
        assert result.report[decimals.LINES] == 4


def test_a_wrong_field_after_a_newline_in_quotes_is_on_its_own_line() -> None:
    result = run(b'"a\n\nb",x,1\n', [-2, 0, 1])
    assert result.status == NOT_A_NUMBER
    assert result.report[decimals.LINES] == 2


def test_full_outputs_can_be_gone_on_from() -> None:
    text = b"".join(b"%d,16777217.0\n" % i for i in range(10))
    at, found = 0, []
    while True:
        result = run(text, [0, 1], most_rows=4, start=at)
        found += result.values[:, 0].tolist()
        at = result.report[decimals.NEXT] - PAD
        if result.status == FINISHED:
            break
        assert result.status == FULL
        assert len(result.values) == 4
    assert found == list(range(10))
    result = run(text, [0, 1], room=6)
    assert result.status == FULL
    assert len(result.values) == 5
    assert result.values[:, 1].tolist() == [16777216.0] * 5


def test_one_number_per_row_and_one_row() -> None:
    assert run(b"-2.5\n", [0]).values.tolist() == [[-2.5]]
    assert run(b"-2.5\r\n1\n.25\n", [0]).values.tolist() == [[-2.5], [1], [0.25]]

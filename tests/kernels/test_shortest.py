"""Decimals of float32: they read back, none is shorter, and the style is polars'."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from beholder.kernels.shortest import MOST_BYTES, csv_lines


def texts_of(values: np.ndarray) -> list[str]:
    values = np.asarray(values, np.float32)
    offsets = np.zeros(len(values) + 1, np.int64)
    lines = csv_lines(offsets, np.empty(0, np.uint8), values.reshape(-1, 1)).tobytes().decode()
    return lines.replace(",", "").split("\n")[:-1]


def polars_texts(values: np.ndarray) -> list[str]:
    return pl.DataFrame({"x": np.asarray(values, np.float32)}).write_csv(include_header=False).split("\n")[:-1]


@pytest.fixture(scope="module")
def all_kinds() -> np.ndarray:
    """Random bit patterns, every power of two and its neighbours, whole numbers, subnormals."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2**32, 300_000, dtype=np.uint32)
    powers = np.concatenate([(np.arange(0, 255, dtype=np.uint32) << 23) + np.uint32(step) for step in (0, 1, 2**23 - 1)])
    floats = np.concatenate([patterns, powers, np.arange(2000, dtype=np.uint32)]).view(np.float32)
    return np.concatenate([floats[np.isfinite(floats)], np.arange(20_000, dtype=np.float32)])


def test_every_text_reads_back_as_the_same_float32(all_kinds: np.ndarray) -> None:
    read = np.array([np.float32(text) for text in texts_of(all_kinds)])
    assert np.array_equal(read.view(np.uint32), all_kinds.view(np.uint32))


def test_none_is_longer_than_numpys_shortest(all_kinds: np.ndarray) -> None:
    """Dragon4 in numpy finds the shortest digits, and of several the nearest; layout apart they must be the same."""
    some = all_kinds[::7]
    for text, value in zip(texts_of(some), some, strict=True):
        expected = np.format_float_scientific(value, unique=True, trim="-")
        digits, _, exponent = text.lstrip("-").partition("e")
        whole, _, fraction = digits.partition(".")
        power = len(whole) - 1 + int(exponent or 0)
        mantissa = (whole + fraction).lstrip("0")
        power -= len(whole + fraction) - len(mantissa)
        ours = f"{mantissa.rstrip('0') or '0'}e{power if mantissa else 0}"
        theirs, _, expected_power = expected.lstrip("-").partition("e")
        assert ours == f"{theirs.replace('.', '')}e{int(expected_power)}", value


def test_the_style_is_that_of_polars(all_kinds: np.ndarray) -> None:
    special = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e12, 1e13, 1e-6, 1e-7, 3.4028235e38, 1e-45], np.float32)
    assert texts_of(special) == polars_texts(special)
    assert texts_of(all_kinds) == polars_texts(all_kinds)


def test_no_number_takes_more_room_than_there_is(all_kinds: np.ndarray) -> None:
    assert max(map(len, texts_of(all_kinds))) + 1 <= MOST_BYTES


def test_rows_start_with_their_texts() -> None:
    data = np.frombuffer("ignoredé,x".encode(), np.uint8)
    lines = csv_lines(np.array([7, 10, 10, 11]), data, np.array([[1, 2], [0.5, -3], [1e-9, 0]], np.float32))
    assert lines.tobytes().decode() == "é,,1.0,2.0\n,0.5,-3.0\nx,1e-9,0.0\n"
    assert csv_lines(np.zeros(1, np.int64), data, np.empty((0, 3), np.float32)).tobytes() == b""
    strided = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert csv_lines(np.zeros(5, np.int64), data, strided).tobytes().startswith(b",0.0,4.0,8.0\n,1.0,")

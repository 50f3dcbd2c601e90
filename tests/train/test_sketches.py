"""Sketches of embeddings, against a slow definition, and what they have to tell apart."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from beholder.train.sketches import is_among, sketches_of


def slow_sketch(row: np.ndarray) -> int:
    """By the definition, a bit at a time."""
    dim = len(row)
    drawn = hashlib.shake_256(f"beholder sketch of {dim} numbers".encode()).digest(dim * 8 + 128)
    length = math.sqrt(math.fsum(float(value) ** 2 for value in row))
    found = 0
    for bit in range(64):
        signs = [1 if drawn[8 * at + bit // 8] >> (7 - bit % 8) & 1 else -1 for at in range(dim)]
        offset = int.from_bytes(drawn[8 * dim + 2 * bit : 8 * dim + 2 * bit + 2], "big") / 65536
        projected = math.fsum(sign * float(value) for sign, value in zip(signs, row, strict=True)) / length
        found = 2 * found + math.floor(2 * projected + offset) % 2
    return found


@pytest.mark.parametrize("dim", [1, 2, 12, 768])
def test_sketches_are_as_defined(dim: int) -> None:
    rows = np.random.default_rng(dim).standard_normal((5, dim)) * 10.0 ** np.arange(-2, 3)[:, np.newaxis]
    assert [int(one) for one in sketches_of(rows)] == [slow_sketch(row) for row in rows]
    assert [int(one) for one in sketches_of(rows, np.array([3]))] == [slow_sketch(rows[3])]
    assert sketches_of(rows[:0]).shape == (0,)


def test_numbers_of_any_size_have_a_sketch() -> None:
    rows = np.random.default_rng(0).standard_normal((4, 9)) + 3
    for scale in (1e-300, 1e300):
        assert is_among(sketches_of(rows * scale), sketches_of(rows)).all()


def test_those_of_one_picture_are_told_from_those_of_others() -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((3000, 512)) + 2.0  # a cosine of 0.8 to one another
    known = sketches_of(rows[:2000].astype(np.float32))
    assert (is_among(sketches_of(rows.astype(np.float16)), known) == (np.arange(3000) < 2000)).all()
    noisy = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    noisy = noisy + rng.standard_normal(noisy.shape) * 0.005 / math.sqrt(512)  # a lower precision of the tower
    assert is_among(sketches_of(noisy[:2000]), known).mean() > 0.99
    assert not is_among(sketches_of(noisy[2000:]), known).any()


def test_up_to_three_bits_may_differ() -> None:
    rng = np.random.default_rng(2)
    known = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    asked, wanted = [], []
    for row in range(300):
        different = row % 7
        flips = sum(1 << int(bit) for bit in rng.choice(64, different, replace=False))
        asked.append(int(known[row]) ^ flips)
        wanted.append(min((asked[-1] ^ int(one)).bit_count() for one in known) <= 3)
    assert is_among(np.array(asked, np.uint64), known).tolist() == wanted
    assert sum(wanted) == sum(row % 7 <= 3 for row in range(300))
    assert not is_among(np.array(asked, np.uint64), known[:0]).any()
    assert is_among(np.empty(0, np.uint64), known).shape == (0,)

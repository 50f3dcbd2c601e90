"""The affine kernel against float64: accuracy, every half float, odd values and shapes, and bit-equal results."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.columns import RowStatus
from beholder.kernels import ColumnBlock, compiled
from beholder.kernels.scoring import Affine, RowScorer
from beholder.kernels.vectors import widen_16, widen_16_by_integers
from oracles.slow_scores import affine_scores

DTYPES = ["float16", "float32", "float64"]


def make_head(rng: np.random.Generator, dim: int, length: float = 20.0) -> Affine:
    weight = rng.standard_normal(dim)
    return Affine(weight * (length / np.linalg.norm(weight)), float(rng.normal(5, 1)))


def score(rows: Any, *heads: Affine, threads: int | None = None) -> np.ndarray:
    return RowScorer(heads, num_threads=threads).score(rows)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 15, 16, 17, 127, 128, 129, 255, 512, 768, 1000, 1152, 4096])
def test_scores_are_within_1e_5_of_float64(dim: int, dtype: str) -> None:
    rng = np.random.default_rng(dim)
    rows = (rng.standard_normal((70, dim)) * 10.0 ** rng.integers(-3, 3, (70, 1))).astype(dtype)
    heads = [make_head(rng, dim) for _ in range(3)]
    found = score(rows, *heads)
    for column, head in enumerate(heads):
        assert np.abs(found[:, column] - affine_scores(rows, head.weight, head.bias)).max() < 1e-5


@given(st.data())
@settings(max_examples=150)
def test_any_row_is_within_1e_5_of_float64(data: st.DataObject) -> None:
    dim = data.draw(st.integers(1, 300))
    dtype = data.draw(st.sampled_from(DTYPES))
    width = {"float16": 16, "float32": 32, "float64": 64}[dtype]
    values = st.floats(allow_nan=False, allow_infinity=False, width=width)  # type: ignore[arg-type]
    row = np.array(data.draw(st.lists(values, min_size=dim, max_size=dim)), dtype)[None]
    head = make_head(np.random.default_rng(dim), dim)
    found, status = RowScorer([head]).score(row)
    if not row.any():
        assert status[0] == RowStatus.ZERO_NORM
        assert np.isnan(found[0, 0])
    else:
        assert status[0] == RowStatus.OK
        assert abs(found[0, 0] - affine_scores(row, head.weight, head.bias)[0]) < 1e-5


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e30), ("float32", 1e-40), ("float64", 1e300), ("float64", 1e-300), ("float16", 6e-8)]
)
def test_very_long_and_very_short_rows_are_scored_by_direction(dtype: str, scale: float) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.integers(-5, 6, (9, 768)) * scale).astype(dtype)
    head = make_head(rng, 768)
    assert np.abs(score(rows, head)[:, 0] - affine_scores(rows, head.weight, head.bias)).max() < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_a_score_say_why(dtype: str) -> None:
    rows = np.random.default_rng(1).standard_normal((6, 130)).astype(dtype)
    rows[0, 129], rows[1, 0], rows[2, 64], rows[3] = np.nan, np.inf, -np.inf, 0
    rows[4, 3], rows[4, 100] = np.nan, np.inf
    found, statuses = RowScorer([make_head(np.random.default_rng(0), 130)]).score(rows)
    assert [RowStatus(s).word for s in statuses] == ["nan", "inf", "inf", "zero_norm", "nan", "ok"]
    assert np.isnan(found[:5]).all()
    assert np.isfinite(found[5]).all()


def test_scores_do_not_depend_on_batch_threads_or_layout() -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((5000, 300)).astype(np.float16)
    rows[77], rows[78, 5] = 0, np.nan
    heads = [make_head(rng, 300) for _ in range(2)]
    whole = score(rows, *heads, threads=1)
    assert np.array_equal(whole, score(rows, *heads, threads=2), equal_nan=True)
    assert np.array_equal(whole, score(rows, *heads, threads=5), equal_nan=True)
    one_by_one = np.concatenate([score(rows[i : i + 1], *heads) for i in range(100)])
    assert np.array_equal(whole[:100], one_by_one, equal_nan=True)
    pieces = np.concatenate([score(rows[i : i + 333], *heads) for i in range(0, 5000, 333)])
    assert np.array_equal(whole, pieces, equal_nan=True)
    assert np.array_equal(whole, score(np.asfortranarray(rows), *heads), equal_nan=True)
    columns = ColumnBlock(tuple(np.ascontiguousarray(rows[:, i]) for i in range(300)))
    assert np.array_equal(whole, score(columns, *heads), equal_nan=True)
    padded = np.zeros((5000, 512), np.float16)
    padded[:, :300] = rows
    assert np.array_equal(whole, score(padded[:, :300], *heads), equal_nan=True)
    assert np.array_equal(whole[::2], score(rows[::2], *heads), equal_nan=True)
    assert np.array_equal(whole[::-1], score(rows[::-1], *heads), equal_nan=True)
    assert np.array_equal(whole[:, :1], score(rows, heads[0]), equal_nan=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_values_give_the_same_bits_in_every_dtype(dtype: str) -> None:
    rows = np.random.default_rng(3).standard_normal((64, 768)).astype(np.float16)
    head = make_head(np.random.default_rng(4), 768)
    assert np.array_equal(score(rows, head), score(rows.astype(dtype), head))


def test_no_rows_and_one_row() -> None:
    head = make_head(np.random.default_rng(0), 768)
    found, statuses = RowScorer([head]).score(np.empty((0, 768), np.float32))
    assert found.shape == (0, 1)
    assert statuses.shape == (0,)
    row = np.random.default_rng(0).standard_normal((1, 768)).astype(np.float32)
    assert score(row, head).shape == (1, 1)


@nb.njit
def _widen_all(halves: Any, out: Any, by_integers: bool) -> None:
    for start in range(0, len(halves), 16):
        if by_integers:
            widen_16_by_integers(halves, halves.ctypes.data + start * 2, out.ctypes.data + start * 8)
        else:
            widen_16(halves, halves.ctypes.data + start * 2, out.ctypes.data + start * 8)


@pytest.mark.parametrize("by_integers", [False, True])
def test_all_65536_half_floats_are_widened_exactly(by_integers: bool) -> None:
    halves = np.arange(65536, dtype=np.uint16)
    out = np.empty(65536, np.float64)
    _widen_all(halves, out, by_integers)
    expected = halves.view(np.float16).astype(np.float64)
    assert np.array_equal(out, expected, equal_nan=True)
    assert np.array_equal(np.signbit(out), np.signbit(expected))


@pytest.mark.slow
def test_kernels_are_compiled_anew_when_another_file_of_theirs_changes(tmp_path: Path) -> None:
    shutil.copy(compiled.__file__, tmp_path / "compiled.py")
    (tmp_path / "other.py").write_text("")
    (tmp_path / "kernel.py").write_text("from compiled import compiled\n@compiled\ndef double(x):\n    return 2 * x\n")
    line = "from kernel import double; double(1.5); print(sum(double.stats.cache_hits.values()))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path / "cache")}

    def hits() -> str:
        return subprocess.run([sys.executable, "-c", line], env=environment, capture_output=True, text=True, check=True).stdout

    assert (hits(), hits()) == ("0\n", "1\n")
    (tmp_path / "other.py").write_text("changed = True\n")
    assert hits() == "0\n"


@pytest.mark.parametrize("threads", [2, 4])
def test_an_error_in_one_worker_waits_for_the_others(threads: int) -> None:
    """The rows may be freed as soon as `score` returns, however it does."""
    inside, left = [], []

    def before_chunk(start: int, stop: int) -> None:
        inside.append(start)
        if start == 0:
            raise KeyboardInterrupt
        time.sleep(0.05)
        left.append(start)

    rows = np.zeros((400, 200_000), np.float16)
    with pytest.raises(KeyboardInterrupt):
        RowScorer([Affine(np.ones(200_000), 0.0)], num_threads=threads).score(rows, before_chunk=before_chunk)
    assert len(left) == len(inside) - 1

"""The multilayer kernel against float64, odd widths, and bit-equal results however rows are cut."""

from __future__ import annotations

import numpy as np
import pytest

from beholder.columns import RowStatus
from beholder.kernels.scoring import Affine, Perceptron, RowScorer
from oracles.slow_scores import affine_scores, mlp_scores


def make_mlp(rng: np.random.Generator, *widths: int) -> Perceptron:
    pairs = list(zip(widths[:-1], widths[1:], strict=True))
    weights = tuple(rng.standard_normal((out, into)) / np.sqrt(into) for into, out in pairs)
    return Perceptron(weights, tuple(rng.standard_normal(out) for _, out in pairs))


@pytest.mark.parametrize("widths", [(768, 1024, 128, 64, 16, 1), (512, 1), (5, 3, 1), (1, 1), (100, 33, 65, 1)])
@pytest.mark.parametrize("num_rows", [1, 3, 64, 65, 200])
def test_scores_are_within_1e_5_of_float64(widths: tuple[int, ...], num_rows: int) -> None:
    rng = np.random.default_rng(sum(widths))
    rows = rng.standard_normal((num_rows, widths[0])).astype(np.float16)
    rows[:, 0] += 1
    head = make_mlp(rng, *widths)
    found = RowScorer([head]).score(rows)[0][:, 0]
    assert np.abs(found - mlp_scores(rows, head.weights, head.biases)).max() < 1e-5


def test_scores_do_not_depend_on_batch_threads_or_layout() -> None:
    rng = np.random.default_rng(0)
    head = make_mlp(rng, 96, 40, 20, 1)
    rows = rng.standard_normal((3000, 96)).astype(np.float32)
    whole = RowScorer([head], num_threads=1).score(rows)[0]
    assert np.array_equal(whole, RowScorer([head], num_threads=3).score(rows)[0])
    pieces = [RowScorer([head]).score(rows[i : i + 7])[0] for i in range(0, 700, 7)]
    assert np.array_equal(whole[:700], np.concatenate(pieces))
    assert np.array_equal(whole, RowScorer([head]).score(np.asfortranarray(rows))[0])


def test_affine_and_multilayer_heads_share_a_pass_in_the_order_given() -> None:
    rng = np.random.default_rng(1)
    mlp_head, affine_head = make_mlp(rng, 64, 8, 1), Affine(rng.standard_normal(64), 4.0)
    rows = rng.standard_normal((50, 64)).astype(np.float64)
    rows[3], rows[4, 1] = 0, np.nan
    found, statuses = RowScorer([mlp_head, affine_head, mlp_head]).score(rows)
    good = np.delete(np.arange(50), [3, 4])
    assert statuses[3] == RowStatus.ZERO_NORM
    assert statuses[4] == RowStatus.NAN
    assert np.isnan(found[[3, 4]]).all()
    assert np.abs(found[good, 0] - mlp_scores(rows[good], mlp_head.weights, mlp_head.biases)).max() < 1e-5
    assert np.abs(found[good, 1] - affine_scores(rows[good], affine_head.weight, 4.0)).max() < 1e-5
    assert np.array_equal(found[:, 0], found[:, 2], equal_nan=True)


def test_very_long_rows_are_scored_by_direction() -> None:
    rng = np.random.default_rng(2)
    head = make_mlp(rng, 32, 8, 1)
    rows = (rng.standard_normal((4, 32)) * 1e300).astype(np.float64)
    assert np.abs(RowScorer([head]).score(rows)[0][:, 0] - mlp_scores(rows, head.weights, head.biases)).max() < 1e-5

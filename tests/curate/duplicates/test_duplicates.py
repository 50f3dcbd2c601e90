"""Near-duplicates by the exact way: bit-equal to brute force in every shape; what the bound promises; hard cases."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.curate.duplicates import exact
from beholder.curate.duplicates import exact as bound
from beholder.curate.duplicates.groups import Duplicates, find_near_duplicates
from beholder.scoreset.vectors import Vectors
from oracles.duplicates import exact_similarity, keep_best, similarities
from oracles.tiers import mostly_slow


def directions(rng: np.random.Generator, num_rows: int, dim: int, dtype: Any = np.float16) -> np.ndarray:
    """Rows with a large common mean, groups, and near-duplicates."""
    base = rng.standard_normal(dim) + rng.standard_normal((max(1, num_rows // 8), dim))
    rows = base[rng.integers(0, len(base), num_rows)] + rng.choice([0, 0.02, 0.3, 0.6], (num_rows, 1)) * rng.standard_normal(
        (num_rows, dim)
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def find(rows: Any, threshold: float, method: Any = "exact", **more: Any) -> Duplicates:
    return find_near_duplicates(Vectors.of(rows), np.arange(len(rows)), threshold, method=method, **more)


def check(rows: np.ndarray, threshold: float, num_always: int = 0, num_threads: int = 2) -> Duplicates:
    found = find(rows, threshold, num_always=num_always, num_threads=num_threads)
    keeper, similar = keep_best(rows, threshold, num_always)
    assert np.array_equal(found.keeper, keeper)
    assert np.array_equal(found.similarity, similar.astype(np.float32))
    return found


@pytest.mark.parametrize("dtype", mostly_slow([np.float32, np.float16]))
@pytest.mark.parametrize("dim", mostly_slow([17, 1, 100, 2, 3, 15, 16, 256], quick=2))
@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.97])
def test_the_exact_way_is_brute_force(dim: int, dtype: Any, threshold: float) -> None:
    rng = np.random.default_rng(dim)
    check(directions(rng, 150, dim, dtype), threshold)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 31, 32, 33, 63, 65, 130])
def test_any_number_of_rows(num_rows: int) -> None:
    check(directions(np.random.default_rng(num_rows), num_rows, 40), 0.9)


@pytest.mark.parametrize("block_rows", mostly_slow([5, 64, 1, 2, 1000], quick=2))
@pytest.mark.parametrize("num_threads", [1, 3])
def test_blocks_and_threads_change_nothing(block_rows: int, num_threads: int) -> None:
    rows = directions(np.random.default_rng(1), 400, 64)
    rows[50:60] = rows[10]
    rows[300:] = rows[rng_choice(100)]
    given_vectors, order = Vectors.of(rows), np.arange(400)
    basis = bound.choose_basis(given_vectors.matrix, order, 0.9)
    keeper, similar = exact.keep_best(
        given_vectors, order, 0.9, num_always=3, num_threads=num_threads, basis=basis, block_rows=block_rows
    )
    expected = keep_best(rows, 0.9, 3)
    assert np.array_equal(keeper, expected[0])
    assert np.array_equal(similar, expected[1])


def rng_choice(count: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 300, count)


@settings(max_examples=150)
@given(st.data())
def test_any_small_set(data: st.DataObject) -> None:
    """Small whole numbers: many rows that are equal, opposite, parallel, orthogonal, or equally similar."""
    dim, num_rows = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(-2, 3, (num_rows, dim)).astype(data.draw(st.sampled_from([np.float16, np.float32])))
    rows[~rows.any(axis=1)] = 1
    threshold = data.draw(st.sampled_from([1.0, 0.99, 0.9, 0.75, 2 / 3, 0.5, 1 / 3, 0.0, -0.5, -1.0]))
    check(rows, threshold, num_always=data.draw(st.integers(0, num_rows)), num_threads=data.draw(st.integers(1, 3)))


@pytest.mark.parametrize("threshold", mostly_slow([0.6, 0.95, 0.8, 0.99, 0.9999], quick=2))
def test_pairs_right_at_the_threshold(threshold: float) -> None:
    """Pairs whose similarity is a few units in the last place of float16, float32 and float64 off the threshold."""
    rng = np.random.default_rng(7)
    for dtype in (np.float16, np.float32):
        base = rng.standard_normal((40, 96))
        base /= np.linalg.norm(base, axis=1, keepdims=True)
        aside = rng.standard_normal((40, 96))
        aside -= (aside * base).sum(axis=1, keepdims=True) * base
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        near = threshold * base + np.sqrt(1 - threshold**2) * aside
        rows = np.concatenate([base, near]).astype(dtype)
        check(rows, threshold)
        planted = similarities(rows)[np.arange(40), np.arange(40, 80)]
        for value in planted[:3]:  # the threshold is exactly what a pair has, and a hair above
            assert not check(rows, float(value)).stays.all()
            check(rows, float(np.nextafter(value, 2.0)))
        at = int(np.argmax(planted))
        pair = rows[[at, 40 + at]]
        assert not find(pair, planted[at]).stays[1]
        assert find(pair, np.nextafter(planted[at], 2.0)).stays[1]


def test_similarity_is_the_cosine() -> None:
    rng = np.random.default_rng(3)
    for scale in (1e-30, 1e-3, 1.0, 1e30):
        rows = (rng.standard_normal((12, 50)) * scale).astype(np.float32)
        found = similarities(rows)
        for i in range(12):
            for j in range(12):
                assert abs(found[i, j] - exact_similarity(rows[i], rows[j])) < 1e-14
        check(rows, 0.1)


def test_float64_rows_of_any_length() -> None:
    """They are kept as float32, scaled first."""
    rng = np.random.default_rng(4)
    rows = directions(rng, 80, 33, np.float32).astype(np.float64)
    lengths = 2.0 ** rng.integers(-900, 900, (80, 1))
    assert np.array_equal(find(rows * lengths, 0.9).keeper, keep_best(rows, 0.9)[0])


def test_what_stays_is_what_the_words_say() -> None:
    """a~b~c but not a~c: b goes for a, so c stays, though it is near b."""
    angle = np.deg2rad([0.0, 15.0, 30.0])
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    assert find(rows, 0.95).keeper.tolist() == [0, 0, 2]
    assert find(rows[[1, 0, 2]], 0.95).keeper.tolist() == [0, 0, 0]
    assert find(rows[[0, 2, 1]], 0.95).keeper.tolist() == [
        0,
        1,
        0,
    ]  # equally near both, to float32: the better one or the nearer


def test_order_is_what_counts_not_place() -> None:
    rows = directions(np.random.default_rng(9), 200, 32)
    order = np.random.default_rng(10).permutation(200)[:150]
    found = find_near_duplicates(Vectors.of(rows), order, 0.9, method="exact")
    assert np.array_equal(found.keeper, keep_best(rows[order], 0.9)[0])


def test_no_rows_at_all() -> None:
    found = find_near_duplicates(Vectors.of(np.empty((0, 8), np.float32)), np.empty(0, np.int64), 0.9)
    assert found.keeper.shape == found.similarity.shape == found.stays.shape == (0,)
    found = find_near_duplicates(Vectors.of(np.eye(3, dtype=np.float32)), np.empty(0, np.int64), 0.9)
    assert found.keeper.shape == (0,)


def test_rows_without_a_direction_stay_and_take_nothing_out() -> None:
    rows = np.ones((7, 20), np.float32)
    rows[0] = 0
    rows[2, 3], rows[3, 4], rows[5, 0] = np.nan, np.inf, -np.inf
    found = find(rows, 0.9)
    assert found.keeper.tolist() == [0, 1, 2, 3, 1, 5, 1]
    assert np.isnan(found.similarity[[0, 2, 3, 5]]).all()
    assert found.similarity[[1, 4, 6]].tolist() == [1, 1, 1]
    nothing = find(np.zeros((5, 20), np.float16), 0.9)
    assert nothing.stays.all()
    assert np.isnan(nothing.similarity).all()


def test_rows_that_always_stay() -> None:
    rows = np.ones((6, 16), np.float32)
    rows[2] = -1
    assert find(rows, 0.9, num_always=2).keeper.tolist() == [0, 1, 2, 0, 0, 0]
    assert find(rows, 0.9, num_always=6).stays.all()
    rows[0] = 0  # without an embedding: only the second is left of those that always stay
    assert find(rows, 0.9, num_always=2).keeper.tolist() == [0, 1, 2, 1, 1, 1]


def test_many_identical_placeholders_are_quick() -> None:
    """50,000 times the same picture, and 20,000 that differ by a hair, among 5,000 others."""
    rng = np.random.default_rng(11)
    others = directions(rng, 5_000, 64, np.float32)
    rows = np.concatenate([others, np.tile(others[:1], (70_000, 1))])
    rows[55_000:] += 1e-4 * rng.standard_normal((20_000, 64)).astype(np.float32)
    shuffled = rows[rng.permutation(len(rows))]
    find(shuffled[:100], 0.95)  # compiled
    started = time.perf_counter()
    found = find(shuffled, 0.95)
    assert time.perf_counter() - started < 20
    assert found.stays.sum() <= 5_000
    kept = shuffled[found.stays]
    assert (np.triu(kept[:1500] @ kept[:1500].T, 1) < 0.95).all()


@pytest.mark.parametrize("dim", mostly_slow([96, 16, 768]))
@pytest.mark.parametrize("threshold", [0.3, 0.9])
def test_directions_without_any_structure(dim: int, threshold: float) -> None:
    """The bound tells nothing there; all coordinates are used, and the result is the same."""
    rows = np.random.default_rng(dim).standard_normal((120, dim)).astype(np.float16)
    check(rows, threshold)


@pytest.mark.parametrize("num_axes", [1, 5, 32, 33, 63, 64])
def test_the_bound_is_never_below_the_similarity(num_axes: int) -> None:
    rng = np.random.default_rng(num_axes)
    rows = directions(rng, 200, 64, np.float32) * 10.0 ** rng.uniform(-20, 20, (200, 1)).astype(np.float32)
    axes = np.linalg.qr(rng.standard_normal((64, 64)))[0][:, :num_axes]  # of any basis, not only the best
    panels = np.zeros((-(-num_axes // 32), 64, 32), np.float32)
    for panel in range(len(panels)):
        part = axes[:, panel * 32 : (panel + 1) * 32]
        panels[panel, :, : part.shape[1]] = part
    basis = bound.Basis(panels, num_axes, bound.error_of(64, num_axes))
    coordinates = basis.coordinates(rows)[:200]
    products = coordinates @ coordinates.T
    found = similarities(rows)
    limits = np.array([float(basis.limit(value)) for value in found.ravel()]).reshape(found.shape)
    assert (products >= limits).all()
    given_vectors, order = Vectors.of(rows), np.arange(200)
    keeper, _ = exact.keep_best(given_vectors, order, 0.9, num_always=0, num_threads=2, basis=basis)
    assert np.array_equal(keeper, keep_best(rows, 0.9)[0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_inside_groups_only_rows_of_one_group_are_compared(data: st.DataObject) -> None:
    num_rows, num_groups = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 6))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(-2, 3, (num_rows, 3)).astype(data.draw(st.sampled_from([np.float16, np.float32])))
    rows[~rows.any(axis=1)] = 1
    groups, num_always = rng.integers(0, num_groups, num_rows) * 7 - 3, data.draw(st.integers(0, num_rows))
    threshold = data.draw(st.sampled_from([1.0, 0.9, 0.5, -0.5]))
    found = find(rows, threshold, groups=groups, num_always=num_always, num_threads=data.draw(st.integers(1, 3)))
    for group in np.unique(groups):
        at = np.flatnonzero(groups == group)
        keeper, similar = keep_best(rows[at], threshold, int((at < num_always).sum()))
        assert np.array_equal(found.keeper[at], at[keeper])
        assert np.array_equal(found.similarity[at], similar.astype(np.float32))


@pytest.mark.slow
def test_large_and_small_groups_and_rows_without_a_direction() -> None:
    rng = np.random.default_rng(8)
    rows = directions(rng, 2_000, 24, np.float32)
    rows[::50] = 0
    groups = np.where(rng.random(2_000) < 0.7, 0, rng.integers(1, 400, 2_000))
    told: list[tuple[int, int]] = []
    found = find(rows, 0.9, groups=groups, num_always=30, on_progress=lambda done, total: told.append((done, total)))
    assert np.isnan(found.similarity).sum() == 40
    has = rows.any(axis=1)
    assert np.array_equal(found.keeper[~has], np.flatnonzero(~has))
    for group in np.unique(groups):
        at = np.flatnonzero((groups == group) & has)
        keeper, similar = keep_best(rows[at], 0.9, int((at < 30).sum()))
        assert np.array_equal(found.keeper[at], at[keeper])
        assert np.array_equal(found.similarity[at], similar.astype(np.float32))
    assert told[-1] == (1960, 1960)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ended_early_the_rows_that_were_decided_are_as_they_are_anyway(data: st.DataObject) -> None:
    num_rows, num_always = data.draw(st.integers(1, 3000)), data.draw(st.integers(0, 5))
    rows = directions(np.random.default_rng(data.draw(st.integers(0, 1000))), num_rows, 8)
    rows[:: data.draw(st.integers(2, 9))] = 0
    most = data.draw(st.integers(1, num_rows))
    whole, found = (find(rows, 0.95, num_always=num_always, most_stays=count) for count in (None, most))
    undecided = np.flatnonzero(found.keeper < 0)
    end = int(undecided[0]) if len(undecided) else num_rows
    assert (whole.keeper >= 0).all()
    assert np.array_equal(found.keeper[:end], whole.keeper[:end])
    assert np.array_equal(found.similarity[:end], whole.similarity[:end], equal_nan=True)
    assert end == num_rows or found.stays[:end].sum() >= most


def test_progress_ends_at_all_rows() -> None:
    told: list[tuple[int, int]] = []
    find(directions(np.random.default_rng(1), 3000, 16), 0.9, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (3000, 3000)
    assert told == sorted(told)
    assert len(told) > 1

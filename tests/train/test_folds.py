"""Splits: groups never straddle, near-duplicates are found as by brute force, and order of rows does not matter."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beholder.errors import InputError
from beholder.train.folds import fold_plan, grouped_folds, held_out, joined_groups, list_sha256, near_pairs, row_keys


def test_labels_and_pairs_join_what_follows() -> None:
    # 0 and 1 by photographer, 1 and 2 by folder, 2 and 4 as a pair; 3 and 5 have no label, which joins nothing.
    photographers = np.array(["a", "a", "b", None, "c", ""], object)
    folders = np.array([1.0, 2.0, 2.0, np.nan, 3.0, np.nan])
    assert joined_groups(6, [photographers, folders], np.array([[2, 4]])).tolist() == [0, 0, 0, 1, 0, 2]
    assert joined_groups(0).tolist() == []
    assert joined_groups(3).tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.integers(2, 10), st.integers(0, 5))
def test_a_group_is_in_one_fold(labels: list[int], num_folds: int, seed: int) -> None:
    groups = joined_groups(len(labels), [np.array(labels)])
    keys = np.random.default_rng(seed).integers(0, 1 << 60, len(labels)).astype(np.uint64)
    if groups.max() == 0:
        with pytest.raises(InputError, match="1 group"):
            grouped_folds(groups, keys, num_folds)
        return
    folds = grouped_folds(groups, keys, num_folds)
    assert all(len(set(folds[groups == group])) == 1 for group in range(groups.max() + 1))
    assert set(folds) == set(range(min(num_folds, groups.max() + 1)))
    sizes = np.bincount(folds)
    assert sizes.max() - sizes.min() <= np.bincount(groups).max()
    order = np.random.default_rng(1).permutation(len(labels))
    moved = grouped_folds(joined_groups(len(labels), [np.array(labels)[order]]), keys[order], num_folds)
    together, again = folds[:, None] == folds, np.empty((len(labels), len(labels)), bool)
    again[np.ix_(order, order)] = moved[:, None] == moved
    assert np.array_equal(together, again)


def test_held_out_takes_whole_groups() -> None:
    groups = np.repeat(np.arange(20), 5)
    out = held_out(groups, np.arange(100, dtype=np.uint64), 12)
    assert out.sum() == 10
    assert set(np.bincount(groups[out])) <= {0, 5}
    one_large = np.concatenate([np.zeros(80, np.int64), np.arange(1, 21)])
    assert not held_out(one_large, np.arange(100, dtype=np.uint64), 10)[:80].any()
    with pytest.raises(InputError, match="larger"):
        held_out(groups, np.arange(100, dtype=np.uint64), 4)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_near_pairs_equal_brute_force(dtype: type[np.floating]) -> None:  # type: ignore[type-arg]
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(300, 40)) * (1 + np.arange(40)) ** -1.0
    rows[200:] = rows[:100] + rng.normal(size=(100, 40)) * (1 + np.arange(40)) ** -1.0 * 0.25
    stored = (rows * 9).astype(dtype)
    unit = stored.astype(float) / np.linalg.norm(stored.astype(float), axis=1, keepdims=True)
    expected = np.argwhere(np.triu(unit @ unit.T >= 0.95, 1))
    assert 20 < len(expected) < 3000
    assert np.array_equal(np.array(sorted(near_pairs(stored, 0.95).tolist())), expected)
    assert len(near_pairs(stored[:1])) == 0
    with pytest.raises(InputError, match="cosine"):
        near_pairs(stored, 1.5)


def test_a_chain_of_near_pictures_is_one_group() -> None:
    angles = np.arange(8) * np.arccos(0.96)  # each is near the next, the first is not near the third
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert joined_groups(8, [], near_pairs(rows, 0.95)).tolist() == [0] * 8


def test_keys_are_of_names_or_directions() -> None:
    rows = np.random.default_rng(3).normal(size=(5, 4))
    keys = row_keys(1, rows, np.arange(5))
    assert row_keys(1, rows * 2.0, np.array([3, 1])).tolist() == [keys[3], keys[1]]
    assert not np.array_equal(row_keys(2, rows, np.arange(5)), keys)
    named = row_keys(1, rows, np.array([4, 0]), list("abcde"))
    assert named.tolist() == row_keys(1, rows[::-1], np.array([0, 4]), list("edcba")).tolist()


def test_the_hash_of_a_list_does_not_depend_on_its_order() -> None:
    assert list_sha256(["b.jpg", "a.jpg"]) == hashlib.sha256(b"a.jpg\nb.jpg\n").hexdigest()
    assert list_sha256([]) == hashlib.sha256().hexdigest()


def test_few_rows_get_many_folds() -> None:
    assert (fold_plan(50).num_folds, fold_plan(50).repeats) == (10, 5)
    assert fold_plan(9999).num_folds == 5

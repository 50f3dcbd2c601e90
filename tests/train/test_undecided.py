"""What to mark next: the least sure, spread out, against a plain greedy loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from beholder.train.taste import undecided

Rows = npt.NDArray[np.int64]


def greedy(
    rows: npt.NDArray[Any], odds: npt.NDArray[Any], candidates: Rows, marked: Rows, number: int, nearest: int
) -> list[int]:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = sorted(candidates.tolist(), key=lambda row: (abs(float(odds[row])), row))[:nearest]
    chosen: list[int] = []
    kept_away = marked.tolist()
    while len(chosen) < number:
        left = [row for row in near if row not in chosen]
        if not left:
            break
        if not kept_away and not chosen:
            chosen.append(left[0])
            continue
        worst = {row: max(float(unit[row] @ unit[other]) for other in [*kept_away, *chosen]) for row in left}
        best = min(left, key=lambda row: worst[row])
        if worst[best] >= 0.95 and chosen:
            break
        chosen.append(best)
    return chosen


@pytest.mark.parametrize(("num_marked", "cut", "number", "nearest"), [(0, 0.0, 8, 40), (12, 0.3, 10, 25), (3, -1.0, 5, 500)])
def test_equals_the_plain_loop(num_marked: int, cut: float, number: int, nearest: int) -> None:
    rng = np.random.default_rng(num_marked)
    rows, odds = rng.normal(size=(120, 9)), rng.normal(size=120).astype(np.float32)
    marked, candidates = np.arange(num_marked), np.arange(num_marked, 110)
    odds -= np.float32(cut)
    found = undecided(rows.astype(np.float64), odds, candidates, marked=marked, number=number, nearest=nearest)
    assert found.tolist() == greedy(rows, odds, candidates, marked, number, nearest)


def test_they_are_near_the_cut_and_no_two_are_alike() -> None:
    rng = np.random.default_rng(1)
    rows = np.repeat(rng.normal(size=(300, 20)), 4, axis=0) + 0.001 * rng.normal(size=(1200, 20))
    odds = rng.normal(0, 3, 1200).astype(np.float32)
    found = undecided(rows.astype(np.float16), odds, np.arange(1200), marked=np.empty(0, np.int64), nearest=200)
    assert len(found) == 24
    assert np.abs(odds[found]).max() <= np.sort(np.abs(odds))[199]
    unit = rows[found] / np.linalg.norm(rows[found], axis=1, keepdims=True)
    assert (unit @ unit.T - np.eye(24)).max() < 0.95


def test_where_all_are_alike_one_is_enough() -> None:
    rows = np.ones((50, 8)) + 0.001 * np.random.default_rng(0).normal(size=(50, 8))
    odds = np.linspace(-1, 1, 50).astype(np.float32)
    assert len(undecided(rows, odds, np.arange(50), marked=np.empty(0, np.int64))) == 1
    assert len(undecided(rows, odds, np.arange(1, 50), marked=np.array([0]))) == 1


def test_nothing_and_one_and_fewer_than_wanted() -> None:
    rows, odds = np.eye(6), np.array([3, 1, 2, np.nan, 0.5, -0.1], np.float32)
    none = np.empty(0, np.int64)
    assert undecided(rows, odds, none, marked=none).tolist() == []
    assert undecided(rows, odds, np.array([3]), marked=none).tolist() == [], "a row without a score is not asked about"
    assert undecided(rows, odds, np.array([2]), marked=np.array([0])).tolist() == [2]
    assert undecided(rows, odds, np.arange(6), marked=none, number=0).tolist() == []
    found = undecided(rows, odds, np.arange(6), marked=none).tolist()
    assert found[0] == 5
    assert sorted(found) == [0, 1, 2, 4, 5]

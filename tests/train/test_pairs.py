"""Heads from pairs: the direction behind the votes is found, unseen pictures are predicted, the ceiling is near."""

from __future__ import annotations

import json
import math

import numpy as np
import numpy.typing as npt
import pytest

from beholder import Head
from beholder.errors import InputError
from beholder.train.logistic import chances
from beholder.train.pairs import Pairs, train_on_pairs
from beholder.train.training import TrainOptions

QUICK = {"near_duplicates": None, "resamples": 50, "compare_with": (), "num_folds": 4}


def voted(num_pictures: int = 150, num_pairs: int = 1500, dim: int = 10) -> tuple[npt.NDArray[np.float64], ...]:
    """Rows, the direction behind the votes, both sides, votes for the left one."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(num_pictures, dim))
    direction = rng.normal(size=dim) * 3
    score = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ direction
    left = rng.integers(0, num_pictures, num_pairs)
    right = (left + rng.integers(1, num_pictures, num_pairs)) % num_pictures
    return rows, direction, left, right, (rng.random(num_pairs) < chances(score[left] - score[right])).astype(float)


def test_the_direction_behind_the_votes_is_found() -> None:
    rows, direction, left, right, targets = voted()
    rivals = (Head.affine(-direction, name="backwards"), Head.affine(direction, name="truth"))
    options = TrainOptions(method="logistic", **{**QUICK, "compare_with": rivals})  # type: ignore[arg-type]
    found = train_on_pairs(rows, Pairs(left=left, right=right, targets=targets), options)
    assert np.corrcoef(found.head.weight, direction)[0, 1] > 0.97
    assert found.head.bias == 0.0
    truth, worst = found.beside
    assert (truth.name, worst.name) == ("truth", "backwards")
    assert found.measures["pair_accuracy"].value == pytest.approx(truth.measures["pair_accuracy"].value, abs=0.03)
    assert truth.difference is not None
    assert truth.difference["pair_accuracy"].low < 0.01
    assert np.isfinite(found.predictions).all()
    json.dumps(found.record, allow_nan=False)


def test_sides_do_not_matter_and_ties_and_votes_count() -> None:
    rows, _, left, right, targets = voted(60, 300)
    targets[::10] = 0.5
    votes = np.random.default_rng(1).integers(1, 4, 300)
    swapped = np.arange(300) % 2 == 0
    options = TrainOptions(method="logistic", strength=1e-2, **QUICK)  # type: ignore[arg-type]
    one = train_on_pairs(rows, Pairs(left=left, right=right, targets=targets, votes=votes), options)
    other = train_on_pairs(
        rows,
        Pairs(
            left=np.where(swapped, right, left),
            right=np.where(swapped, left, right),
            targets=np.where(swapped, 1 - targets, targets),
            votes=votes,
        ),
        options,
    )
    np.testing.assert_allclose(one.head.weight, other.head.weight, atol=1e-8)
    assert one.record["pairs"]["num_tied"] == 30
    assert one.measures["pair_accuracy"].value == pytest.approx(other.measures["pair_accuracy"].value)


def test_pairs_of_unusable_pictures_are_counted() -> None:
    rows, _, left, right, targets = voted(60, 300)
    rows[7] = math.nan
    lost = int(np.count_nonzero((left == 7) | (right == 7)))
    found = train_on_pairs(
        rows,
        Pairs(left=left, right=right, targets=targets),
        TrainOptions(method="logistic", strength=1e-2, **QUICK),  # type: ignore[arg-type]
    )
    assert found.record["pairs"]["num_of_unusable_pictures"] == lost > 0
    assert found.record["pairs"]["excluded"] == {"nan": 1}
    assert np.isnan(found.predictions).sum() == lost


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"left": [0, 1]}, "equally long"),
        ({"right": [9, 1, 2, 3, 4]}, "there are 6"),
        ({"right": [0, 2, 3, 4, 5]}, "with itself"),
        ({"targets": [2, 0, 1, 1, 0]}, "0.5 for a tie"),
        ({"targets": [0.5] * 5}, "too few pairs"),
        ({"votes": [-1, 1, 1, 1, 1]}, "weights are numbers"),
    ],
)
def test_refused_in_one_line(change: dict[str, list[float]], words: str) -> None:
    given = {"left": [0, 1, 2, 3, 4], "right": [1, 2, 3, 4, 5], "targets": [1, 0, 1, 1, 0], **change}
    with pytest.raises(InputError, match=words):
        train_on_pairs(np.eye(6), Pairs(**given), TrainOptions(method="logistic", **QUICK))  # type: ignore[arg-type]

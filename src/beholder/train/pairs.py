"""A head from pairs of pictures of which one was found better, measured on pairs with pictures that its fits have not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.models.heads import Head
from beholder.train import folds as splitting
from beholder.train.linear import LinearFit
from beholder.train.logistic import PAIRS_METHOD, fit_logistic, pair_rows
from beholder.train.measures import Measures
from beholder.train.noise import pair_ceiling
from beholder.train.pair_measures import PairComparison, as_pair_accuracy
from beholder.train.public import public_heads, scores_of
from beholder.train.rows import Doubles, Matrix, Rows, checked_matrix, checked_series, checked_weights, unit_rows, usable_rows
from beholder.train.training import TrainOptions

LEAST_PAIRS = 4


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Comparisons of pictures, P of them.

    Attributes:
        left, right: (P,) row numbers of the embeddings.
        targets: (P,) 1 where the left one was found better, 0 where the right one, between them for ties (0.5).
        votes: (P,) >= 0, how many said so; None: 1 each.
        groups: labels of the N embeddings; pictures that share one are not on both sides of a split.
        samples: N names; None: rows are known by their directions.
    """

    left: npt.ArrayLike
    right: npt.ArrayLike
    targets: npt.ArrayLike
    votes: npt.ArrayLike | None = None
    groups: tuple[npt.ArrayLike, ...] = ()
    samples: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainedOnPairs:
    """A head and how good it is.

    Attributes:
        head: its scores' differences are log odds of a win.
        accuracy: of untied pairs (by votes) with at least one unseen picture, the share predicted right, those of equal scores
            as half; 0.5 is guessing.
        beside: (name, its accuracy, the difference with its paired interval) of other heads, best first.
        ceiling: what any order could reach (`noise.pair_ceiling`); NaN where no pair has two votes.
        predictions: (P,) log odds out of fold; NaN where no fold tested the pair.
        fitted: row numbers of the pictures in the pairs that the head was fitted to.
        record: everything of this, ready for JSON.
    """

    head: Head
    accuracy: Measures
    beside: tuple[tuple[str, Measures, Measures], ...]
    ceiling: float
    predictions: Doubles
    fitted: Rows
    record: dict[str, Any]


def train_on_pairs(embeddings: Matrix, pairs: Pairs, options: TrainOptions | None = None) -> TrainedOnPairs:
    """Fit a head to pairs (Bradley and Terry, linear in the embedding) and measure it.

    Pictures, not pairs, are split: a fold is tested on all pairs with one of its pictures, by a fit to the pairs without any.

    Args:
        embeddings: (N, D) floats, normalised or not; rows that are in no pair are never read.
        pairs: comparisons.
        options: name, backbone, start_from, strength, seed, folds, near_duplicates, compare_with, level, resamples.

    Raises:
        InputError: numbers of no row, a picture compared with itself, too few pairs, votes that all tie, unusable embeddings.
    """
    chosen = options or TrainOptions(method="logistic")
    matrix = checked_matrix(embeddings)
    left, right, targets, votes = _checked(pairs, len(matrix))
    rows, inverse = np.unique(np.concatenate([left, right]), return_inverse=True)
    wanted = np.full(len(matrix), np.nan)
    wanted[rows] = 0.0
    usable, excluded = usable_rows(matrix, wanted)
    is_usable = np.asarray(np.isin(rows, usable)[inverse.reshape(2, -1)].all(axis=0))
    left, right, targets, votes = left[is_usable], right[is_usable], targets[is_usable], votes[is_usable]
    if len(left) < LEAST_PAIRS or not (targets != 0.5).any():
        raise InputError(
            f"too few pairs to fit a head: {len(left)} of usable pictures, {LEAST_PAIRS} that do not all tie are needed"
        )
    unit = unit_rows(matrix, usable)
    one, other = np.searchsorted(usable, left), np.searchsorted(usable, right)
    differences = pair_rows(unit, one, other)
    near = None
    if chosen.near_duplicates is not None:
        near = splitting.near_pairs(matrix[usable], chosen.near_duplicates, num_threads=chosen.num_threads)
    groups = splitting.joined_groups(len(usable), [np.asarray(label)[usable] for label in pairs.groups], near)
    predictions, num_folds = _out_of_fold(matrix, usable, groups, (one, other), differences, targets, votes, pairs, chosen)
    fit = _fit(differences, targets, votes, chosen)
    head = Head(
        name=chosen.name,
        math=fit.math,
        backbone=chosen.backbone,
        scale_note="differences are log odds that a picture is found better",
        notes={"method": PAIRS_METHOD, "pairs": str(len(targets)), "seed": str(chosen.seed)},
    )
    tested = np.isfinite(predictions) & (targets != 0.5) & (votes > 0)
    if not tested.any():
        raise InputError("no pair could be tested: every fold leaves pairs that all tie; give more pairs")
    if chosen.compare_with is None:
        heads, missing = public_heads(chosen.backbone, matrix.shape[1], offline=chosen.offline)
    else:
        heads, missing = list(chosen.compare_with), []
    scores = [scores_of(rival, matrix, usable) for rival in heads]
    guesses = [predictions, *(score[one] - score[other] for score in scores)]
    compared = PairComparison(
        [guess[tested] for guess in guesses],
        targets[tested],
        votes=votes[tested],
        groups=np.stack([groups[one], groups[other]], axis=1)[tested],
        level=chosen.level,
        resamples=chosen.resamples,
        seed=chosen.seed,
    )
    beside = [(rival.name, compared.measures(at), compared.difference(0, at)) for at, rival in enumerate(heads, start=1)]
    beside.sort(key=lambda one_of: -one_of[1]["accuracy"].value)
    ceiling, names = pair_ceiling(left, right, targets, votes), pairs.samples
    record: dict[str, Any] = {
        "name": chosen.name,
        "backbone": chosen.backbone,
        "method": "pairs",
        "method_note": PAIRS_METHOD,
        "seed": chosen.seed,
        "start_from": None if chosen.start_from is None else chosen.start_from.name,
        "rows": {"given": len(matrix), "used": len(usable), "groups": int(groups.max()) + 1},
        "pairs": {
            "given": len(is_usable),
            "used": len(targets),
            "tied": int(np.count_nonzero(targets == 0.5)),
            "of_unusable_pictures": int(np.count_nonzero(~is_usable)),
            "unusable_pictures": {reason: count for reason, count in excluded.items() if reason != "no_rating"},
            "pictures": len(usable),
            "tested": int(np.count_nonzero(tested)),
        },
        "fit": {"strength": fit.strength, "chosen_by": fit.chosen_by, "prior_scale": fit.prior_scale},
        "measured": {
            "by": "pairs with a picture that the fit has not seen",
            "num_folds": num_folds,
            "samples_sha256": splitting.list_sha256(names[row] if names is not None else str(row) for row in usable.tolist()),
        },
        "measures": as_pair_accuracy(compared.measures(0)).to_json(),
        "beside": [
            {
                "name": name,
                "measures": as_pair_accuracy(measures).to_json(),
                "difference": as_pair_accuracy(difference).to_json(),
            }
            for name, measures, difference in beside
        ],
        "missing_heads": missing,
        "ceiling": None if math.isnan(ceiling) else {"pair_accuracy": ceiling},
        "learning_curve": None,
        "suspicious": [],
    }
    return TrainedOnPairs(
        head=head,
        accuracy=compared.measures(0),
        beside=tuple(beside),
        ceiling=ceiling,
        predictions=_spread(predictions, is_usable),
        fitted=np.union1d(left, right),
        record=record,
    )


def _checked(pairs: Pairs, num_rows: int) -> tuple[Rows, Rows, Doubles, Doubles]:
    """Rows, targets and votes that fit together."""
    left, right = (np.asarray(side) for side in (pairs.left, pairs.right))
    if left.ndim != 1 or left.shape != right.shape or left.dtype.kind not in "iu" or right.dtype.kind not in "iu":
        raise InputError(
            f"pairs are two equally long lists of row numbers, not {left.dtype} {left.shape} and {right.dtype} {right.shape}"
        )
    targets = checked_series(pairs.targets, len(left), "results of pairs")
    numbers = np.concatenate([left, right])
    if ((numbers < 0) | (numbers >= num_rows)).any():
        raise InputError(f"pairs name rows from {numbers.min()} to {numbers.max()}; there are {num_rows}")
    if not ((targets >= 0) & (targets <= 1)).all():
        raise InputError("results of pairs are numbers from 0 (the right one is better) to 1 (the left one), 0.5 for a tie")
    if (left == right).any():
        raise InputError(f"pair {int(np.flatnonzero(left == right)[0])} compares a picture with itself; leave it out")
    return left.astype(np.int64), right.astype(np.int64), targets, checked_weights(pairs.votes, len(left))


def _fit(differences: Doubles, targets: Doubles, votes: Doubles, options: TrainOptions) -> LinearFit:
    return fit_logistic(differences, targets, votes, strength=options.strength, prior=options.prior, has_bias=False)


def _out_of_fold(
    matrix: Matrix,
    usable: Rows,
    groups: Rows,
    sides: tuple[Rows, Rows],
    differences: Doubles,
    targets: Doubles,
    votes: Doubles,
    pairs: Pairs,
    options: TrainOptions,
) -> tuple[Doubles, int]:
    """(P,) the mean log odds by the fits that have not seen one of a pair's pictures, and the number of folds."""
    sums, counts = np.zeros(len(targets)), np.zeros(len(targets))
    wanted = options.num_folds or splitting.fold_plan(len(usable)).num_folds
    num_folds = wanted
    for repeat in range(options.repeats or 1):
        keys = splitting.fold_keys(options.seed, repeat, matrix, usable, pairs.samples)
        folds = splitting.grouped_folds(groups, keys, wanted)
        num_folds = int(folds.max()) + 1
        for fold in range(num_folds):
            is_test = (folds[sides[0]] == fold) | (folds[sides[1]] == fold)
            train = ~is_test & (votes > 0)
            if not train.any() or not is_test.any() or not (targets[train] != 0.5).any():
                continue
            fit = _fit(differences[train], targets[train], votes[train], options)
            sums[is_test] += fit.predict(differences[is_test])
            counts[is_test] += 1
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0), num_folds


def _spread(values: Doubles, chosen: npt.NDArray[np.bool_]) -> Doubles:
    """Values at the chosen places, NaN elsewhere."""
    out = np.full(len(chosen), np.nan)
    out[chosen] = values
    return out

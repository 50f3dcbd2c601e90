"""A head from pairs of pictures of which one was found better, measured on pairs with pictures that its fits have not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.models.heads import Head
from beholder.train import folds as splitting
from beholder.train.linear import LinearFit
from beholder.train.logistic import PAIRS_METHOD, fit_logistic, pair_rows
from beholder.train.measures import Beside, Measures
from beholder.train.noise import pair_ceiling
from beholder.train.pair_measures import PairComparison
from beholder.train.public import scores_of
from beholder.train.rows import (
    Doubles,
    Matrix,
    Rows,
    checked_matrix,
    checked_series,
    checked_weights,
    names_of_rows,
    unit_rows,
    usable_rows,
)
from beholder.train.training import Trained, TrainOptions

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


class TrainedOnPairs(Trained):
    """A head whose scores' differences are log odds of a win.

    `measures` have `pair_accuracy` alone: of untied pairs (by votes) with at least one unseen picture, the share predicted
    right, those of equal scores as half; 0.5 is guessing. `ceiling` is what any order could reach (`noise.pair_ceiling`),
    `predictions` are (P,) log odds out of fold, NaN where no fold tested the pair.
    """


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
    data = _Data.of(checked_matrix(embeddings), pairs, chosen)
    predictions, num_folds = _out_of_fold(data, chosen)
    fit = _fit(data.differences, data.targets, data.votes, chosen)
    tested = np.isfinite(predictions) & (data.targets != 0.5) & (data.votes > 0)
    if not tested.any():
        raise InputError("no pair could be tested: every fold leaves pairs that all tie; give more pairs")
    measures, beside, missing = _compared(data, predictions, tested, chosen)
    ceiling = pair_ceiling(
        data.one, data.other, data.targets, data.votes,
        groups=data.groups, how=chosen.resampling,
    )  # fmt: skip
    record = {
        **chosen.to_json(PAIRS_METHOD),
        "method": "pairs",
        "rows": {"num_given": len(data.matrix), "num_used": len(data.usable), "num_groups": int(data.groups.max()) + 1},
        "pairs": {
            "num_given": len(data.is_usable),
            "num_used": len(data.targets),
            "num_tied": int(np.count_nonzero(data.targets == 0.5)),
            "num_of_unusable_pictures": int(np.count_nonzero(~data.is_usable)),
            "excluded": {reason: count for reason, count in data.excluded.items() if reason != "no_rating"},
        },
        "fit": fit.to_json(),
        "measured": {
            "unit": "pairs",
            "by": "pairs with a picture that the fit has not seen",
            "num_folds": num_folds,
            "num_repeats": chosen.repeats or 1,
            "near_duplicates": chosen.near_duplicates,
            "weigh_by": "votes" if np.ptp(data.votes) > 0 else "pairs",
            "num_pictures": len(data.usable),
            "samples_sha256": splitting.list_sha256(data.names()),
        },
        "measures": measures.to_json(),
        "beside": [one.to_json() for one in beside],
        "missing_heads": missing,
        "ceiling": None if ceiling is None else ceiling.to_json(),
        "learning_curve": None,
        "suspicious": [],
    }
    return TrainedOnPairs(
        head=Head(
            name=chosen.name,
            math=fit.math,
            backbone=chosen.backbone,
            scale_note="differences are log odds that a picture is found better",
            notes={"method": PAIRS_METHOD, "pairs": str(len(data.targets)), "seed": str(chosen.seed)},
        ),
        measures=measures,
        beside=beside,
        ceiling=ceiling,
        predictions=_spread(predictions, data.is_usable),
        fitted=data.usable,
        record=record,
    )


@dataclass(frozen=True)
class _Data:
    """The pairs of usable pictures, P of them, and these K pictures.

    Attributes:
        matrix: (N, D) all embeddings; usable: (K,) rows of it, ascending; excluded: the others by reason.
        is_usable: (G,) which of the given pairs these are.
        one, other: (P,) numbers of their pictures, among the usable ones.
        targets, votes: (P,) as of `Pairs`.
        differences: (P, D) of their rows of length 1.
        groups: (K,) what is never on both sides of a split.
        samples: N names, or None.
    """

    matrix: Matrix
    usable: Rows
    excluded: dict[str, int]
    is_usable: npt.NDArray[np.bool_]
    one: Rows
    other: Rows
    targets: Doubles
    votes: Doubles
    differences: Doubles
    groups: Rows
    samples: tuple[str, ...] | None

    @classmethod
    def of(cls, matrix: Matrix, pairs: Pairs, options: TrainOptions) -> _Data:
        """Raises InputError for pairs that do not fit together, or that are too few."""
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
        usable = np.union1d(left, right)  # a picture that was compared with unusable ones alone is in no pair any more
        one, other = np.searchsorted(usable, left), np.searchsorted(usable, right)
        near = None
        if options.near_duplicates is not None:
            near = splitting.near_pairs(matrix[usable], options.near_duplicates)
        groups = splitting.joined_groups(len(usable), [np.asarray(label)[usable] for label in pairs.groups], near)
        differences = pair_rows(unit_rows(matrix, usable), one, other)
        return cls(matrix, usable, excluded, is_usable, one, other, targets, votes, differences, groups, pairs.samples)

    def names(self) -> list[str]:
        """The samples of the pictures, or their numbers."""
        return names_of_rows(self.samples, self.usable)


def _compared(
    data: _Data, predictions: Doubles, tested: npt.NDArray[np.bool_], options: TrainOptions
) -> tuple[Measures, tuple[Beside, ...], list[str]]:
    """The head's measures on the tested pairs, other heads beside it, best first, and a line for each that is missing."""
    heads, missing = options.rivals(data.matrix.shape[1])
    scores = [scores_of(rival, data.matrix, data.usable) for rival in heads]
    guesses = [predictions, *(score[data.one] - score[data.other] for score in scores)]
    compared = PairComparison(
        [guess[tested] for guess in guesses],
        data.targets[tested],
        votes=data.votes[tested],
        groups=np.stack([data.groups[data.one], data.groups[data.other]], axis=1)[tested],
        how=options.resampling,
    )
    beside = [
        Beside(name=rival.name, measures=compared.measures(at), difference=compared.difference(0, at))
        for at, rival in enumerate(heads, start=1)
    ]
    beside.sort(key=lambda one: -one.measures["pair_accuracy"].value)
    return compared.measures(0), tuple(beside), missing


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


def _out_of_fold(data: _Data, options: TrainOptions) -> tuple[Doubles, int]:
    """(P,) the mean log odds by the fits that have not seen one of a pair's pictures, and the number of folds."""
    targets, votes, differences = data.targets, data.votes, data.differences
    sums, counts = np.zeros(len(targets)), np.zeros(len(targets))
    wanted = options.num_folds or splitting.fold_plan(len(data.usable)).num_folds
    num_folds = wanted
    for repeat in range(options.repeats or 1):
        keys = splitting.fold_keys(options.seed, repeat, data.matrix, data.usable, data.samples)
        folds = splitting.grouped_folds(data.groups, keys, wanted)
        num_folds = int(folds.max()) + 1
        for fold in range(num_folds):
            is_test = (folds[data.one] == fold) | (folds[data.other] == fold)
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

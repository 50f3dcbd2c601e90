"""A head from keep and drop marks in a moment: the fit, how well it orders unseen marks, all rows' scores, what to mark next.

It is the fit of `beholder train --method logistic`, measured in less time: in one repetition of a few folds, without a learning
curve, and of many marks with a strength that was chosen on a part of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.kernels.scoring import Affine, RowScorer
from beholder.models.heads import Head
from beholder.train import folds as splitting
from beholder.train import logistic
from beholder.train.linear import LinearFit, Prior, reduced
from beholder.train.measures import Comparison, Interval, Measures, Predictor
from beholder.train.resampling import Resampling
from beholder.train.rows import Doubles, Matrix, Rows, checked_matrix, renumbered, unit_rows
from beholder.train.threads import one_blas_thread

LEAST_MARKS, LEAST_EACH = 6, 2
"""Marks that a head is learned from, and of these to keep and to drop."""
MOST_MARKS = 5_000
"""Of more marks so many are drawn, the same each time; `beholder train` takes all."""
LEAST_TESTED = 8
"""Of fewer marks of a kind nothing is told of how well others are foretold."""
WIDEST = 0.4
"""Nor is it where the interval is wider than this."""
ORDER, SIDE = "pair_accuracy", "accuracy"
"""The measures: how often a kept picture is before a dropped one, and how often a mark is foretold (`measures.NAMES`)."""
SCALE_NOTE = "log odds of a keep; 0 is even"

_NUM_FOLDS, _MORE_FOLDS, _FEW_MARKS = 5, 10, 150
"""Folds, and those of few marks, of which a fifth is much to go without."""
_CHOICE_ROWS, _FOLD_CHOICE_ROWS = 250, 150
"""The strength of a fit, and of those of folds, is chosen on so many marks at most: that takes time with their third power. A
strength is a prior precision over the number of marks, and so it is carried over."""
_MANY_MARKS = 800
"""Of more marks one fold is left out, and not each in turn."""
_NORMAL_95 = 1.959964
_RESAMPLES = 400
NUM_SHOWN = 24
NUM_NEAREST = 400
"""So many of the least sure are spread out at most: a tenth of all, and three times as many as are wanted."""
_MOST_MARKED = 2_000
"""Of more marked pictures the last ones given are kept away from."""

_FOLD_STRENGTHS = tuple(float(10.0**exponent) for exponent in range(-1, -6, -1))
"""Strengths that are tried anew for each fold, so that the marks left out have no part in the choice."""


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """How well marks are foretold by fits that have not seen them, nor near-duplicates of their pictures.

    Attributes:
        measures: `pair_accuracy` and `accuracy`.
        before: `pair_accuracy` of the scores that there were before, of the same marks; None: there were none.
        gain: the first less the second, with a paired interval; None as well.
        num_keep, num_drop: marks that were foretold.
        by: how, in words.
        samples_sha256: of the list of the pictures.
    """

    measures: Measures
    before: Measures | None
    gain: Measures | None
    num_keep: int
    num_drop: int
    by: str
    samples_sha256: str

    @property
    def order(self) -> Interval:
        """How often a kept picture is before a dropped one, 0 to 1."""
        return self.measures[ORDER]

    @property
    def is_known(self) -> bool:
        """Whether there were marks enough to tell anything."""
        width = self.order.high - self.order.low
        return min(self.num_keep, self.num_drop) >= LEAST_TESTED and width <= WIDEST


@dataclass(frozen=True, kw_only=True)
class Taste:
    """A head that was learned from marks.

    Attributes:
        fit: its weight and bias.
        unseen: how good it is; None where all marks are of near-duplicates of one picture.
        num_keep, num_drop: marks that it was fitted to; num_left_out: those beyond `MOST_MARKS`.
        num_groups: different pictures among them.
        start_from: the head that it was shrunk towards; None: none.
        seed: of the folds, resamples and draw.
    """

    fit: LinearFit
    unseen: Unseen | None
    num_keep: int
    num_drop: int
    num_left_out: int
    num_groups: int
    start_from: str | None
    seed: int

    def to_head(self, name: str, backbone: str | None) -> Head:
        """Ready to score and to be saved."""
        notes = {
            "method": logistic.METHOD,
            "rows": f"{self.num_keep} marked keep, {self.num_drop} marked drop",
            "start_from": self.start_from or "none",
            "seed": str(self.seed),
        }
        return Head(name=name, math=self.fit.math, backbone=backbone, scale_note=SCALE_NOTE, notes=notes)

    def record(self, name: str, backbone: str | None, *, before_name: str = "the scores before") -> dict[str, Any]:
        """What `beholder train` writes beside a head, as far as it was found here; `before_name`: of the scores before."""
        fit = self.fit
        before = None if self.unseen is None else self.unseen.before
        nothing = Measures(num_rows=0, num_groups=0, level=0.95, num_resamples=0, cut=0.5, values={})
        return {
            "name": name,
            "backbone": backbone,
            "method": "logistic",
            "method_note": logistic.METHOD,
            "seed": self.seed,
            "start_from": self.start_from,
            "rows": {
                "num_given": self.num_keep + self.num_drop + self.num_left_out,
                "num_used": self.num_keep + self.num_drop,
                "num_groups": self.num_groups,
            },
            "fit": fit.to_json(),
            "measured": {
                "unit": "pictures",
                "by": "nothing: all marks are of near-duplicates of one picture" if self.unseen is None else self.unseen.by,
                "near_duplicates": splitting.NEAR,
                "split_by": None,
                "weigh_by": "pictures",
                "num_pictures": 0 if self.unseen is None else self.unseen.num_keep + self.unseen.num_drop,
                "samples_sha256": splitting.list_sha256([]) if self.unseen is None else self.unseen.samples_sha256,
            },
            "measures": (nothing if self.unseen is None else self.unseen.measures).to_json(),
            "beside": [
                {
                    "name": before_name,
                    "measures": before.to_json(),
                    "difference": None if self.unseen is None or self.unseen.gain is None else self.unseen.gain.to_json(),
                }
            ]
            if before is not None
            else [],
            "missing_heads": [],
            "ceiling": None,
            "learning_curve": None,
            "suspicious": [],
        }


def check_marks(num_keep: int, num_drop: int) -> None:
    """Raise InputError where a head cannot be learned from so many marks."""
    if num_keep + num_drop < LEAST_MARKS or min(num_keep, num_drop) < LEAST_EACH:
        raise InputError(
            f"too few marks to learn from: {num_keep:,} keep and {num_drop:,} drop; mark at least {LEAST_MARKS} pictures, "
            f"{LEAST_EACH} or more of them keep and {LEAST_EACH} or more drop"
        )


def learn_taste(
    embeddings: Matrix,
    keeps: npt.ArrayLike,
    *,
    samples: Sequence[str],
    start_from: Head | None = None,
    before: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Taste:
    """Fit a head to marks, and measure it on marks that were left out.

    Args:
        embeddings: (M, D) float16, float32 or float64, of the marked pictures; every row has a direction.
        keeps: (M,) bool, True for keep.
        samples: M names; with the seed they alone decide the folds.
        start_from: an affine head that is shrunk towards.
        before: (M,) scores that the pictures had, NaN for none; they are measured on the same marks.
        seed: of folds, resamples and the draw of many marks.

    Raises:
        InputError: too few marks, or of one kind only; a head for other embeddings.
    """
    matrix, kept = checked_matrix(embeddings), np.asarray(keeps, bool)
    check_marks(int(kept.sum()), int((~kept).sum()))
    keys = splitting.row_keys(seed, matrix, np.arange(len(matrix)), samples)
    chosen = _drawn(kept, keys)
    prior = None if start_from is None else Prior(start_from.weight).checked(matrix.shape[1])
    scored = None if before is None else np.asarray(before, np.float64)[chosen]
    with one_blas_thread():
        unit = unit_rows(matrix, chosen)
        inside, axes = reduced(unit)
        marks = _Marks.of(unit, inside, kept[chosen], keys[chosen])
        fit = marks.fit(prior)
        unseen = _unseen(marks, _inside(prior, axes), scored, [samples[row] for row in chosen.tolist()], seed)
    return Taste(
        fit=fit,
        unseen=unseen,
        num_keep=int(marks.targets.sum()),
        num_drop=int((1 - marks.targets).sum()),
        num_left_out=len(kept) - len(chosen),
        num_groups=int(marks.groups.max()) + 1,
        start_from=None if start_from is None else start_from.name,
        seed=seed,
    )


def scores_of_all(head: Affine, matrix: npt.NDArray[Any], *, num_threads: int | None = None) -> npt.NDArray[np.float32]:
    """Scores of all rows of a matrix, (K,) float32, in one pass; NaN for rows without a direction."""
    scorer = RowScorer([head], num_threads=num_threads)
    try:
        return scorer.score(matrix)[0][:, 0]
    finally:
        scorer.close()


def warm_up(matrix: npt.NDArray[Any]) -> None:
    """Do once, on a few made-up marks and all rows of a matrix, what learning does, so that the first time is a quick one."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(16, matrix.shape[1]))
    names = [str(number) for number in range(len(rows))]
    made = learn_taste(rows, np.arange(len(rows)) % 2 == 0, samples=names, before=rows[:, 0])
    scores_of_all(made.fit.math, matrix)


def _drawn(kept: npt.NDArray[np.bool_], keys: npt.NDArray[np.uint64]) -> Rows:
    """Ascending rows of at most `MOST_MARKS` marks, both kinds in proportion and at least half of the most of each."""
    if len(kept) <= MOST_MARKS:
        return np.arange(len(kept))
    num_keep = int(kept.sum())
    wanted = round(MOST_MARKS * num_keep / len(kept))
    rarer = min(num_keep, len(kept) - num_keep, MOST_MARKS // 2)
    wanted = max(wanted, rarer) if num_keep * 2 <= len(kept) else min(wanted, MOST_MARKS - rarer)
    found = []
    for kind, number in ((kept, wanted), (~kept, MOST_MARKS - wanted)):
        rows = np.flatnonzero(kind)
        found.append(rows[np.argsort(keys[rows], kind="stable")[:number]])
    return np.sort(np.concatenate(found))


@dataclass(frozen=True)
class _Marks:
    """Marked pictures.

    Attributes:
        unit: (n, D) rows of length 1; inside: (n, at most D) the same in fewer coordinates, where they are fewer than D.
        targets: (n,) 1 for keep; groups: (n,) of near-duplicates from 0; keys: (n,) that decide the folds.
    """

    unit: Doubles
    inside: Doubles
    targets: Doubles
    groups: Rows
    keys: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, unit: Doubles, inside: Doubles, kept: npt.NDArray[np.bool_], keys: npt.NDArray[np.uint64]) -> _Marks:
        groups = splitting.joined_groups(len(unit), pairs=splitting.near_pairs(unit))
        return cls(unit, inside, kept.astype(np.float64), groups, keys)

    @property
    def is_of_one_kind(self) -> bool:
        return bool(np.ptp(self.targets) == 0) if len(self.targets) else True

    def part(self, chosen: npt.NDArray[Any]) -> _Marks:
        groups = renumbered(self.groups[chosen])
        return _Marks(self.unit[chosen], self.inside[chosen], self.targets[chosen], groups, self.keys[chosen])

    def folds(self) -> Rows | None:
        """(n,) a fold for each row, groups whole; None: there is one group."""
        if not int(self.groups.max()):
            return None
        num_folds = _MORE_FOLDS if len(self.groups) <= _FEW_MARKS else _NUM_FOLDS
        return splitting.grouped_folds(self.groups, self.keys, num_folds)

    def fit(self, prior: Prior | None) -> LinearFit:
        """The head, its strength chosen on marks left out: one at a time, or in folds where there are near-duplicates."""
        some = self._some(_CHOICE_ROWS)
        inner = None if int(some.groups.max()) + 1 == len(some.groups) else some.folds()
        if inner is not None and not _are_both_kinds(some.targets, inner):
            inner = None
        found = logistic.fit_logistic(some.unit, some.targets, prior=prior, folds=inner)
        if some is self:
            return found
        whole = logistic.fit_logistic(self.unit, self.targets, prior=prior, strength=self._strength(found, some))
        return dataclasses.replace(whole, chosen_by=found.chosen_by, errors=found.errors)

    def quick_fit(self, prior: Prior | None) -> LinearFit:
        """A fit to `inside` that chooses among few strengths."""
        some = self._some(_FOLD_CHOICE_ROWS)
        found = logistic.fit_logistic(some.inside, some.targets, prior=prior, strengths=_FOLD_STRENGTHS)
        if some is self:
            return found
        return logistic.fit_logistic(self.inside, self.targets, prior=prior, strength=self._strength(found, some))

    def _strength(self, found: LinearFit, some: _Marks) -> float:
        """That which was chosen on some marks, for all of them."""
        return found.strength * len(some.targets) / len(self.targets)

    def _some(self, most: int) -> _Marks:
        """At most so many of them, of both kinds."""
        if len(self.targets) <= most:
            return self
        order = np.argsort(self.keys, kind="stable")
        chosen = order[:most]
        if np.ptp(self.targets[chosen]) == 0:
            other = order[self.targets[order] != self.targets[chosen[0]]][:LEAST_EACH]
            chosen = np.concatenate([chosen[: -len(other)], other])
        return self.part(np.sort(chosen))


def _inside(prior: Prior | None, axes: Doubles | None) -> Prior | None:
    """A prior in the coordinates of rows that are fewer than their dimensions; None where they are at right angles to it."""
    if prior is None or axes is None:
        return prior
    weight = axes.T @ prior.weight
    return Prior(weight, prior.scale) if weight.any() else None


def _are_both_kinds(targets: Doubles, folds: Rows) -> bool:
    """Whether what each fold leaves has marks of both kinds."""
    return all(np.ptp(targets[folds != fold]) > 0 for fold in range(int(folds.max()) + 1))


def _unseen(marks: _Marks, prior: Prior | None, before: Doubles | None, names: list[str], seed: int) -> Unseen | None:
    """Each mark foretold by a fit to the other folds; of many marks those of one fold."""
    folds = marks.folds()
    if folds is None:
        return None
    num_folds = int(folds.max()) + 1
    is_one = len(folds) > _MANY_MARKS
    order, chance = np.zeros(len(folds)), np.full(len(folds), 0.5)
    for fold in range(1 if is_one else num_folds):
        test, rest = folds == fold, marks.part(folds != fold)
        if rest.is_of_one_kind:
            chance[test] = rest.targets[0]
            continue
        odds = rest.quick_fit(prior).predict(marks.inside)
        # Bias and length of a fit depend on which marks were left out; they are no part of the order that it gives.
        spread = float(odds.std())
        order[test] = (odds[test] - odds.mean()) / (spread or 1.0)
        chance[test] = logistic.chances(odds[test])
    tested = folds == 0 if is_one else np.ones(len(folds), bool)
    truth = marks.targets[tested]
    if np.ptp(truth) == 0:
        return None
    predictors = [Predictor(order[tested], (ORDER,)), Predictor(chance[tested], (SIDE,))]
    if before is not None and np.isfinite(before[tested]).any():
        given = before[tested]
        least = float(given[np.isfinite(given)].min())
        predictors.append(Predictor(np.where(np.isfinite(given), given, least - 1.0), (ORDER,)))
    compared = Comparison(predictors, truth, groups=marks.groups[tested], cut=0.5, how=Resampling(number=_RESAMPLES, seed=seed))
    both = compared.measures(0)
    num_keep, num_drop = int(truth.sum()), int((1 - truth).sum())
    num_pictures = min(len(np.unique(marks.groups[tested][truth == kind])) for kind in (0, 1))
    values = {ORDER: _widened(both[ORDER], num_pictures), SIDE: compared.measures(1)[SIDE]}
    by = "one fold of five that was held out" if is_one else f"out-of-fold predictions ({num_folds} folds)"
    has_before = len(predictors) > 2
    return Unseen(
        measures=dataclasses.replace(both, values=values),
        before=compared.measures(2) if has_before else None,
        gain=compared.difference(0, 2) if has_before else None,
        num_keep=num_keep,
        num_drop=num_drop,
        by=by,
        samples_sha256=splitting.list_sha256(name for name, is_tested in zip(names, tested.tolist(), strict=True) if is_tested),
    )


def _widened(found: Interval, number: int) -> Interval:
    """The interval, at either end the wider of it and Wilson's of a share of so many trials.

    Resamples of predictions do not know that other marks would give other fits, and say nothing where all pairs are right: 95 %
    of them hold what comes true in 84 to 88 % of simulated cases. The variance of a share of pairs is at most that of a share
    of the rarer kind (Birnbaum and Klose, "Bounds for the variance of the Mann-Whitney statistic", Annals of Mathematical
    Statistics 28, 1957), and Wilson's interval of that (JASA 22, 1927) holds it in 94 to 97 %.
    """
    if not number:
        return found
    square = _NORMAL_95**2 / number
    middle = (found.value + square / 2) / (1 + square)
    reach = math.sqrt(found.value * (1 - found.value) * square + square**2 / 4) / (1 + square)
    low, high = np.nanmin([found.low, middle - reach]), np.nanmax([found.high, middle + reach])
    return Interval(found.value, float(max(0.0, low)), float(min(1.0, high)))


def undecided(
    matrix: npt.NDArray[Any],
    odds: npt.NDArray[np.floating[Any]],
    candidates: Rows,
    *,
    marked: Rows,
    number: int = NUM_SHOWN,
    nearest: int | None = None,
) -> Rows:
    """Rows of a matrix to be marked next, the one that tells most first; fewer than `number` where the others are alike.

    They are nearest to an even chance (uncertainty sampling: Lewis and Gale, "A sequential algorithm for training text
    classifiers", SIGIR 1994), and of these greedily the farthest from what is marked and chosen already (farthest-point
    traversal: Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38, 1985).

    Args:
        matrix: (K, D) embeddings; rows among `candidates` and `marked` have a direction.
        odds: (K,) log odds by the head.
        candidates: (C,) ascending rows that may be chosen.
        marked: rows that are marked already.
        number: how many at most.
        nearest: among how many; None: by the number of candidates (`NUM_NEAREST`).
    """
    if nearest is None:
        nearest = min(NUM_NEAREST, max(3 * number, len(candidates) // 10))
    rows = _nearest(np.abs(odds[candidates].astype(np.float64)), candidates, nearest)
    if not len(rows) or number < 1:
        return np.empty(0, np.int64)
    unit = unit_rows(matrix, rows)
    closest = np.full(len(rows), -np.inf)  # the largest cosine to what is marked or chosen
    if len(marked):
        closest = (unit @ unit_rows(matrix, marked[-_MOST_MARKED:]).T).max(axis=1)
    chosen: list[int] = []
    at = 0 if not len(marked) else int(np.argmin(closest))
    while len(chosen) < min(number, len(rows)) and (not chosen or closest[at] < splitting.NEAR):
        chosen.append(at)
        closest = np.maximum(closest, unit @ unit[at])
        closest[at] = np.inf
        at = int(np.argmin(closest))
    return rows[chosen]


def _nearest(distances: npt.NDArray[np.float64], candidates: Rows, number: int) -> Rows:
    """The candidates with the smallest distances, nearest first, equal ones in row order."""
    usable = np.isfinite(distances)
    distances, candidates = distances[usable], candidates[usable]
    if len(candidates) > number > 0:
        limit = np.partition(distances, number - 1)[number - 1]
        some = np.flatnonzero(distances <= limit)
        distances, candidates = distances[some], candidates[some]
    return candidates[np.argsort(distances, kind="stable")[:number]]

"""The share of pairs that predictors order as people did, with intervals, on the same pairs and the same resamples of pictures.

Pairs that share a picture are not independent: a picture that a head misjudges costs it all of its pairs. So pictures are
resampled, and a pair counts as often as its two pictures were drawn together (Snijders and Borgatti, "Non-parametric standard
errors and tests for network statistics", 1999; Owen, "The pigeonhole bootstrap", 2007, which shows it to err towards wide
intervals where a picture is in few pairs). Pictures that are compared with each other alone are drawn as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.train.measures import Interval, Measures, interval_of
from beholder.train.resampling import USUAL, Resampling, resampled, times_drawn
from beholder.train.rows import Doubles, Rows, renumbered


class PairComparison:
    """Predictors of pairs; a pair whose two pictures a predictor gives the same score counts half.

    Args:
        guesses: (P,) each, P >= 1, finite: above 0 where the left picture is predicted to be the better one, 0 for a tie.
        targets: (P,) 1 where the left one was found better, 0 where the right one; between them the larger side is meant, and
            the pair's weight is reduced to |2 target - 1|, so that ties (0.5) have none.
        votes: (P,) >= 0 of each pair; None: 1 each.
        groups: (P, 2) whole numbers, the group of each pair's left and right picture: what is resampled together. None: no
            two pairs share a picture.
        how: resamples and intervals.

    Raises:
        InputError: other shapes, NaN or infinite values.
    """

    def __init__(
        self,
        guesses: Sequence[npt.ArrayLike],
        targets: npt.ArrayLike,
        *,
        votes: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        how: Resampling = USUAL,
    ) -> None:
        signs = 2 * np.asarray(targets, np.float64) - 1
        num_pairs = len(signs)
        weights = np.abs(signs) * (1.0 if votes is None else np.asarray(votes, np.float64))
        sides = np.repeat(np.arange(num_pairs), 2).reshape(-1, 2) if groups is None else np.asarray(groups, np.int64)
        guessed = [np.asarray(guess, np.float64) for guess in guesses]
        if sides.shape != (num_pairs, 2) or weights.shape != (num_pairs,) or any(one.shape != (num_pairs,) for one in guessed):
            raise InputError(f"guesses, votes and groups of pairs do not fit {num_pairs} pairs")
        if not (np.isfinite(weights) & (weights >= 0)).all() or not all(np.isfinite(one).all() for one in guessed):
            raise InputError("cannot compare pairs with NaN, infinite or negative votes, or NaN or infinite scores")
        right = np.array([(1 + np.sign(one) * np.sign(signs)) / 2 for one in guessed]).reshape(len(guessed), num_pairs)
        drawn_as = PairGroups.of(sides)
        shares = _Shares(right)
        self._found = shares.of(weights[None])[0]
        self._drawn = resampled([shares], PairDraws(weights, drawn_as, how.seed), how.number)[0]
        self._told = Measures(
            num_rows=num_pairs,
            num_groups=drawn_as.num_groups,
            level=how.level,
            num_resamples=len(self._drawn),
            cut=0.5,
            values={},
        )

    def measures(self, at: int) -> Measures:
        """The share that a predictor orders right, as `pair_accuracy`."""
        return self._with(interval_of(float(self._found[at]), self._drawn[:, at], self._told.level))

    def difference(self, first: int, second: int) -> Measures:
        """That of the first less that of the second, with a paired interval."""
        drawn = self._drawn[:, first] - self._drawn[:, second]
        return self._with(interval_of(float(self._found[first] - self._found[second]), drawn, self._told.level))

    def _with(self, interval: Interval) -> Measures:
        return replace(self._told, values={"pair_accuracy": interval})


@dataclass(frozen=True)
class _Shares:
    """The share of weighted pairs that each of K predictors orders right: (K, P) 1, 0, or 0.5 where it is undecided."""

    right: Doubles

    @property
    def size(self) -> int:
        """K."""
        return len(self.right)

    def of(self, weights: Doubles) -> Doubles:
        """(L, P) weights of pairs -> (L, K); NaN where no pair has any weight."""
        total = weights.sum(axis=-1, keepdims=True)
        right = weights @ self.right.T
        return np.asarray(np.divide(right, total, out=np.full(right.shape, np.nan), where=total > 0))


class PairGroups:
    """What pairs are resampled by: (P, 2) numbers from 0 of what is drawn together."""

    def __init__(self, sides: Rows) -> None:
        self.sides = sides
        self.num_groups = int(sides.max()) + 1

    @classmethod
    def of(cls, groups: npt.ArrayLike) -> PairGroups:
        """From the group of each pair's left and right picture; groups that are compared with each other alone become one."""
        numbers = renumbered(groups)
        low, high = numbers.min(axis=1), numbers.max(axis=1)
        edges = np.unique(np.stack([low, high], axis=1)[low != high], axis=0)
        partners = np.bincount(edges.reshape(-1), minlength=int(numbers.max()) + 1)
        alone = edges[(partners[edges] == 1).all(axis=1)]
        joined = np.arange(len(partners))
        joined[alone[:, 1]] = alone[:, 0]
        return cls(renumbered(joined[numbers]))

    def times(self, seed: int, resample: int) -> Rows:
        """(P,) how often each pair is drawn: the product of the times of its two pictures' groups, of one group its times."""
        times = times_drawn(self.num_groups, seed, resample).astype(np.int64)[self.sides]
        return np.where(self.sides[:, 0] == self.sides[:, 1], times[:, 0], times[:, 0] * times[:, 1])


@dataclass(frozen=True)
class PairDraws:
    """Pairs with weights (P,), drawn as their pictures are."""

    weights: Doubles
    groups: PairGroups
    seed: int

    @property
    def num_rows(self) -> int:
        """P."""
        return len(self.weights)

    def weigh(self, number: int, out: Doubles) -> None:
        """Write the weights of the pairs in a resample, (P,)."""
        np.multiply(self.weights, self.groups.times(self.seed, number), out=out)

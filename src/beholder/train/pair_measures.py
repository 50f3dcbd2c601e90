"""The share of pairs that predictors order as people did, with intervals, on the same pairs and the same resamples of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from beholder.train.measures import MANY_ROWS, RESAMPLES, RESAMPLES_OF_MANY, Comparison, Measures, Predictor

_NAMES = ("accuracy",)


class PairComparison:
    """Predictors of pairs; a pair whose two pictures a predictor gives the same score counts half.

    Each pair is measured from either side, with half of its weight: an order that is right is right twice, and of a tie one of
    the two is right.

    Args:
        guesses: (P,) each, finite: above 0 where the left picture is predicted to be the better one, 0 for a tie.
        targets: (P,) 1 where the left one was found better, 0 where the right one; between them the larger side is meant, and
            the pair's weight is reduced to |2 target - 1|, so that ties (0.5) have none.
        votes: (P,) >= 0 of each pair; None: 1 each.
        groups: (P,) labels; pairs that share one are resampled together. None: pairs one by one.
        level, resamples, seed: as of `measures.measure`.

    Raises:
        InputError: other shapes, NaN or infinite values, a level out of range.
    """

    def __init__(
        self,
        guesses: Sequence[npt.ArrayLike],
        targets: npt.ArrayLike,
        *,
        votes: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
        level: float = 0.95,
        resamples: int | None = None,
        seed: int = 0,
    ) -> None:
        signs = 2 * np.asarray(targets, np.float64) - 1
        self._num_pairs = len(signs)
        weights = np.abs(signs) * (1.0 if votes is None else np.asarray(votes, np.float64)) / 2
        labels = np.arange(len(signs)) if groups is None else np.asarray(groups)
        sides = [np.asarray(guess, np.float64) for guess in guesses]
        usual = RESAMPLES if len(signs) <= MANY_ROWS else RESAMPLES_OF_MANY
        self._compared = Comparison(
            [Predictor(np.concatenate([side, -side]), _NAMES) for side in sides],
            np.concatenate([signs, -signs]),
            weights=np.tile(weights, 2),
            groups=np.tile(labels, 2),
            cut=0.0,
            level=level,
            resamples=usual if resamples is None else resamples,
            seed=seed,
        )

    def measures(self, at: int) -> Measures:
        """The accuracy of a predictor, as `accuracy`."""
        return self._told(self._compared.measures(at))

    def difference(self, first: int, second: int) -> Measures:
        """That of the first less that of the second, with a paired interval."""
        return self._told(self._compared.difference(first, second))

    def _told(self, found: Measures) -> Measures:
        """Of pairs, not of their sides."""
        return replace(found, num_rows=self._num_pairs, cut=0.5)


def as_pair_accuracy(measures: Measures) -> Measures:
    """An accuracy on pairs by the name that records have for it."""
    return replace(measures, values={"pair_accuracy": measures["accuracy"]})

"""Rows with ranking values in, a weighted draw without replacement out: every row gets a lot, and the largest lots win.

A row's lot is value / temperature + g, with g a Gumbel number made of the seed and the row's name alone. The N largest lots are
a sample without replacement with weights exp(value / temperature): Vieira 2014, "Gumbel-max trick and weighted reservoir
sampling", and Kool, van Hoof and Welling 2019, "Stochastic beams and where to find them", https://arxiv.org/abs/1903.06059.
So the same rows win in whatever order they come.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beholder.curate.select.ranking import Ranking
from beholder.curate.select.values import Values
from beholder.kernels import texts
from beholder.scoreset.row_reader import text_buffers

Rows = npt.NDArray[np.uint32]


def gumbel(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Hashes -> numbers of the standard Gumbel distribution: -log(-log(u)), u the upper 53 bits, between 0 and 1."""
    uniform = ((hashes >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    found: npt.NDArray[np.float64] = -np.log(-np.log(uniform))
    return found


class Lots:
    """The lots of a set's rows."""

    def __init__(self, values: Values, ranking: Ranking, seed: int, temperature: float) -> None:
        self._values, self._ranking, self._seed, self._temperature = values, ranking, seed, temperature

    def _wide(self, rows: slice | Rows, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """The lots of rows as uint64 in the order of the numbers; 0 for rows without a value."""
        values = self._values.rank_values(rows)
        known = ~np.isnan(values)
        lots = gumbel(hashes) + (values / self._temperature if np.isfinite(self._temperature) else 0.0)
        bits = (lots + 0.0).view(np.uint64)
        top = np.uint64(1 << 63)
        return np.where(known, np.where(bits >= top, ~bits, bits | top), np.uint64(0))

    def keys(self) -> npt.NDArray[np.uint32]:
        """(N,) keys of all rows' lots: the upper 32 bits."""
        found = np.zeros(len(self._ranking.keys), np.uint32)

        def put(first: int, hashes: npt.NDArray[np.uint64]) -> None:
            part = slice(first, first + len(hashes))
            found[part] = self._wide(part, hashes) >> np.uint64(32)

        self._ranking.names.hashed(self._seed, put)
        return found

    def in_order(self, rows: Rows) -> Rows:
        """Ascending rows, the largest lot first; equal ones in the order of the ranking."""
        hashes = texts.name_hashes(*text_buffers(self._ranking.names.of(rows)), self._seed)
        ranked = self._ranking.best_first(rows)
        lots = self._wide(rows, hashes)[np.searchsorted(rows, ranked)]
        return ranked[np.argsort(~lots, kind="stable")]

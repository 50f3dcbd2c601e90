"""Bootstrap resamples: what several statistics are of the same ones, which are drawn a few at a time, in bounded memory.

A resample is a weight for each row: its own, by how often its group was drawn (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993). It depends on the seed and its own number alone, whatever is computed of it and by how many threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from beholder.kernels.agreement import LANES, count_draws, weigh_rows
from beholder.train.threads import usable_threads

Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Times = npt.NDArray[np.int32]

RESAMPLES, RESAMPLES_OF_MANY, MANY_ROWS = 1000, 300, 20_000
"""Resamples of an interval, and of more rows than `MANY_ROWS`, whose intervals are narrow."""
_MOST_BYTES = 1 << 30
"""That all threads together hold of resamples."""
_BYTES_A_ROW = 8 * (3 * LANES + 4)
"""That a thread holds of each row: weights of `LANES` resamples, three times, and what is counted of one."""


class Statistic(Protocol):
    """Numbers of a set of rows with weights."""

    @property
    def size(self) -> int:
        """K, how many."""

    def of(self, weights: Doubles) -> Doubles:
        """(L, N) weights of the rows in L <= `LANES` resamples -> (L, K); NaN where a number is not defined."""


class Draws(Protocol):
    """Rows that are resampled."""

    @property
    def num_rows(self) -> int:
        """N."""

    def weigh(self, number: int, out: Doubles) -> None:
        """Write the weights of the rows in a resample, (N,)."""


@dataclass(frozen=True)
class GroupDraws:
    """Rows with weights (N,), of which those of a group (N,) from 0 to `num_groups` - 1 are drawn together."""

    weights: Doubles
    groups: Rows
    num_groups: int
    seed: int

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.weights)

    def weigh(self, number: int, out: Doubles) -> None:
        """Write the weights of the rows in a resample, (N,)."""
        weigh_rows(self.weights, self.groups, times_drawn(self.num_groups, self.seed, number), out)


def times_drawn(num_groups: int, seed: int, number: int) -> Times:
    """(G,) how often each group is drawn in a resample, by the seed and its number alone."""
    times = np.empty(num_groups, np.int32)
    count_draws(np.random.default_rng((seed, number)).integers(0, num_groups, num_groups), times)
    return times


def usual_resamples(num_rows: int) -> int:
    """How many resamples an interval is from where nothing else is asked for."""
    return RESAMPLES if num_rows <= MANY_ROWS else RESAMPLES_OF_MANY


def resampled(statistics: Sequence[Statistic], draws: Draws, num_resamples: int) -> list[Doubles]:
    """(B, K) of each statistic, of the same B resamples."""
    found = [np.empty((num_resamples, one.size)) for one in statistics]
    if not num_resamples or not statistics:
        return found
    most = _MOST_BYTES // (_BYTES_A_ROW * max(1, draws.num_rows))
    num_threads = max(1, min(usable_threads(), most, -(-num_resamples // LANES)))

    def work(thread: int) -> None:
        weights = np.empty((LANES, draws.num_rows))
        for start in range(thread * LANES, num_resamples, num_threads * LANES):
            some = weights[: num_resamples - start]
            for lane, row in enumerate(some):
                draws.weigh(start + lane, row)
            for statistic, out in zip(statistics, found, strict=True):
                out[start : start + len(some)] = statistic.of(some)

    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(work, range(num_threads)))
    return found

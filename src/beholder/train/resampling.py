"""Bootstrap resamples: what several statistics are of the same ones, which are drawn a few at a time, in bounded memory.

A resample is a weight for each row: its own, by how often its group was drawn (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993). It depends on the seed and its own number alone, whatever is computed of it and by how many threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.kernels.agreement import LANES, count_draws, weigh_rows
from beholder.train.rows import Doubles, Rows
from beholder.train.threads import usable_threads

Times = npt.NDArray[np.int32]

RESAMPLES, RESAMPLES_OF_MANY, MANY_ROWS = 1000, 300, 20_000
"""Resamples of an interval, and of more rows than `MANY_ROWS`, whose intervals are narrow."""
_MOST_BYTES = 1 << 30
"""That all threads together hold of resamples."""
_BYTES_A_ROW = 8 * (3 * LANES + 4)
"""That a thread holds of each row: weights of `LANES` resamples, three times, and what is counted of one."""


@dataclass(frozen=True)
class Resampling:
    """How intervals are made.

    Attributes:
        level: of the intervals, in (0, 1).
        number: resamples that they are from; None: 1,000, of more than 20,000 rows 300; 0: no intervals.
        seed: what resamples are drawn from; the same ones for any number of threads.
    """

    level: float = 0.95
    number: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for a level out of range."""
        if not 0 < self.level < 1:
            raise InputError(f"a level lies between 0 and 1, not {self.level}")


USUAL = Resampling()


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
    """Rows with weights (N,), of which those of a group (N,), numbers from 0 without gaps, are drawn together."""

    weights: Doubles
    groups: Rows
    seed: int

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.weights)

    @cached_property
    def num_groups(self) -> int:
        """Groups that are drawn from."""
        return int(self.groups.max()) + 1 if len(self.groups) else 0

    def weigh(self, number: int, out: Doubles) -> None:
        """Write the weights of the rows in a resample, (N,)."""
        weigh_rows(self.weights, self.groups, times_drawn(self.num_groups, self.seed, number), out)


def times_drawn(num_groups: int, seed: int, number: int) -> Times:
    """(G,) how often each group is drawn in a resample, by the seed and its number alone."""
    times = np.empty(num_groups, np.int32)
    count_draws(np.random.default_rng((seed, number)).integers(0, num_groups, num_groups), times)
    return times


def resampled(statistics: Sequence[Statistic], draws: Draws, number: int | None) -> list[Doubles]:
    """(B, K) of each statistic, of the same B resamples; None: as many as `Resampling` says."""
    usual = RESAMPLES if draws.num_rows <= MANY_ROWS else RESAMPLES_OF_MANY
    num_resamples = usual if number is None else number
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

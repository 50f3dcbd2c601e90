"""Rows of a browsed set by one score: a view of those that satisfy some conditions, and the order of all, best first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.browse.rows import RowStore
from beholder.columns import SAMPLE
from beholder.scoreset.numbers import count_at_least

Rows = npt.NDArray[np.uint32 | np.int64]


@dataclass(frozen=True)
class View:
    """The rows that satisfy some conditions, by one score.

    Attributes:
        key: names the view.
        score: the score's column.
        conditions: SQL expressions that all rows satisfy.
        rows: (M,) rows that have a finite score, best first; ties by sample, then by row.
        ascending: (M,) float32, their scores, from the smallest.
        inside: (N,) bool, which rows of the set satisfy the conditions; None: all.
        num_matching: rows that satisfy them, with a score or not.
    """

    key: str
    score: str
    conditions: tuple[str, ...]
    rows: Rows
    ascending: npt.NDArray[np.float32]
    inside: npt.NDArray[np.bool_] | None
    num_matching: int

    @property
    def num_bytes(self) -> int:
        """Memory it holds."""
        return self.rows.nbytes + self.ascending.nbytes + (self.inside.nbytes if self.inside is not None else 0)

    def count_at_least(self, threshold: float) -> int:
        """Rows with this score or more."""
        return count_at_least(self.ascending, threshold)

    def between(self, low: float, high: float) -> Rows:
        """Rows with a score in [low, high), best first."""
        return self.rows[self.count_at_least(high) : self.count_at_least(low)]


def best_first(scores: npt.NDArray[np.float32], store: RowStore) -> Rows:
    """Rows that have a finite score, best first; ties by sample (UTF-8 bytes), then by row."""
    number = np.uint32 if len(scores) <= np.iinfo(np.uint32).max else np.int64
    rows = np.flatnonzero(np.isfinite(scores))
    rows = rows[np.argsort(-scores[rows], kind="stable")].astype(number)
    values = scores[rows]
    same = values[1:] == values[:-1]
    if not same.any():
        return rows
    tied = np.zeros(len(rows), bool)
    tied[1:] |= same
    tied[:-1] |= same
    run = np.concatenate([[0], np.cumsum(~same)])[tied]
    among = rows[tied]
    names = store.fetch(among, [SAMPLE]).column(0)
    keys = pa.table({"run": run, "sample": names, "row": among})
    rows[tied] = among[pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names]).to_numpy()]
    return rows

"""A score set and rules in; which rows stay, their ranks, why the others went, and tables of them, out."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.curate.select.gather import Gatherer
from beholder.curate.select.options import SelectRules
from beholder.curate.select.rules import Judge, OnRows, Rows
from beholder.curate.select.sieve import RULES, Step
from beholder.io.schemas import empty_table
from beholder.kernels import choosing
from beholder.scoreset.row_reader import PIECE_ROWS
from beholder.scoreset.score_set import ScoreSet

__all__ = ["RULES", "SelectRules", "Selection", "Step", "select_rows"]


class Selection:
    """What became of each of N rows, those that name a sample again among them.

    It can make tables as long as the score set is open; `close` frees its scratch folder.

    Where `top` keeps few rows of what near-duplicates leave, these are looked for only as far down the ranking as that
    takes. `dropped_by`, `funnel`, `thresholds`, `groups` and `decisions` are about all rows; where they are asked for,
    all rows are compared after all.

    Attributes:
        scores: all the rows.
        rules: what was asked for.
        done_steps: what each rule did so far, in order.
        notes: lines worth telling.
        seconds: what it took.
        num_rows, num_kept: rows of the set in all, and how many of them stay.
        num_rows_that_meet: rows that meet the conditions (`where`), each sample once, whatever other rules say.
        num_looked_at: rows among which near-duplicates were looked for, where that came to its end early; else None.
        score_column: the column that thresholds go by, or None.
    """

    def __init__(self, judge: Judge, seconds: float, owned: ExitStack) -> None:
        self._judge = judge
        self.scores: ScoreSet = judge.scores
        self.rules: SelectRules = judge.rules
        self.done_steps: tuple[Step, ...] = tuple(judge.sieve.steps)
        self.notes = judge.notes
        self.seconds = seconds
        self.score_column = judge.values.score
        self.num_rows, self.num_kept = judge.scores.num_rows, judge.sieve.left
        self.num_rows_that_meet = judge.num_rows_that_meet
        self.num_looked_at = judge.num_looked_at
        self._close = weakref.finalize(self, owned.close)

    @cached_property
    def _whole(self) -> Judge:
        """The judge that has decided about every row."""
        if self.num_looked_at is None:
            return self._judge
        judge = Judge(self._judge.rows)
        judge.judge()
        return judge

    @property
    def dropped_by(self) -> npt.NDArray[np.uint8]:
        """(N,) uint8 index into RULES, 0 for rows that stay."""
        return self._whole.sieve.dropped

    @property
    def funnel(self) -> tuple[Step, ...]:
        """What each rule did, in order."""
        return tuple(self._whole.sieve.steps)

    @property
    def thresholds(self) -> dict[str, float | None]:
        """What rules found out, None where nothing is left.

        The lowest ranking value that is left after top, top_share, balance and budget, and the score at the quantile.
        """
        return self._judge.thresholds

    @property
    def groups(self) -> pa.Table | None:
        """Table of near-duplicates (`duplicates.GROUPS_SCHEMA`), or None when they were not looked for."""
        return self._whole.groups

    def close(self) -> None:
        """Free the scratch folder, and the score set if it was opened for this selection."""
        self._close()

    def __enter__(self) -> Selection:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """What stays of what."""
        return f"<Selection: {self.num_kept:,} of {self.num_rows:,} rows of {self.scores.source} stay>"

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each row stays."""
        found: npt.NDArray[np.bool_] = self._judge.sieve.dropped == 0
        return found

    @cached_property
    def rank(self) -> npt.NDArray[np.uint32]:
        """(N,) 1 for the best of all rows that have a ranking value, 0 for those without one and those that are repeated."""
        self._judge.rows.stage("ranks")
        return self._judge.sieve.ranking.ranks()

    @cached_property
    def _kept_in_order(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        if "rank" in self.__dict__:
            kept = choosing.left_rows(self._judge.values.rank_keys, self._judge.sieve.dropped)
            if not (self.rank[kept] == 0).any():
                order = kept[np.argsort(self.rank[kept], kind="stable")]
                return order, self.rank[order]
        self._judge.rows.stage("ranks")
        return self._judge.sieve.ranking.kept_in_order(self._judge.sieve.dropped)

    @cached_property
    def _order_alone(self) -> npt.NDArray[np.uint32]:
        self._judge.rows.stage("order")
        return self._judge.sieve.ranking.kept_best_first(self._judge.sieve.dropped)

    def order(self) -> npt.NDArray[np.uint32]:
        """(K,) the rows that stay, best first; those without a ranking value last, by sample."""
        ranked = "_kept_in_order" in self.__dict__ or "rank" in self.__dict__
        return self._kept_in_order[0] if ranked else self._order_alone

    @property
    def schema(self) -> pa.Schema:
        """Of `kept_tables`."""
        return self._gatherer.schema

    @property
    def decision_schema(self) -> pa.Schema:
        """Of `decision_tables`."""
        return self._gatherer.decision_schema

    @property
    def passed_columns(self) -> list[str]:
        """Columns that lists pass through, under the names that they have there."""
        return list(self._gatherer.passed.values())

    @cached_property
    def _gatherer(self) -> Gatherer:
        return Gatherer(self._judge)

    def kept_tables(self, *, only_samples: bool = False, num_rows: int = PIECE_ROWS) -> Iterator[pa.Table]:
        """The rows that stay, best first, at most `num_rows` at a time, memory bounded.

        Columns: sample, the scores, rank (int64, null for none), kept, dropped_by, then what is passed through.
        """
        order, ranks = (self.order(), None) if only_samples else self._kept_in_order
        return self._gatherer.in_order(order, ranks, num_rows=num_rows)

    def decision_tables(self, *, only_dropped: bool = False) -> Iterator[pa.Table]:
        """All rows, or only those that were dropped, in the order of the set: sample, scores, rank, kept, dropped_by.

        Where pictures were compared, also near_to (large_string: the picture that stays, or that of a reference set, which a
        dropped one is near to; else null) and similarity (float32: to that).
        """
        return self._gatherer.decisions(self.rank, self.dropped_by, self.groups, only_dropped=only_dropped)

    def kept_rows(self) -> pa.Table:
        """The rows that stay, best first, as one table; see `kept_tables`."""
        return pa.concat_tables([empty_table(self.schema), *self.kept_tables()])

    def decisions(self) -> pa.Table:
        """What became of every row, as one table; see `decision_tables`."""
        return pa.concat_tables([empty_table(self.decision_schema), *self.decision_tables()])

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: what was asked for, what each rule did, and what is left."""
        from beholder.curate.select.records import rules_record

        return {
            "source": self.scores.source,
            "num_rows": self.num_rows,
            "num_rows_that_meet": self.num_rows_that_meet,
            "num_kept": self.num_kept,
            "rules": rules_record(self.rules),
            "funnel": [step.to_json() for step in self.done_steps],
            "thresholds": self.thresholds,
            "seconds": round(self.seconds, 3),
            "notes": self.notes,
        }


def select_rows(
    scores: ScoreSet,
    rules: SelectRules,
    *,
    on_rows: OnRows | None = None,
    owned: ExitStack | None = None,
    is_whole: bool = False,
) -> Selection:
    """Apply rules to an open score set.

    Args:
        scores: the set; it has to stay open while tables are made of the selection. Rows that it leaves out are dropped first.
        rules: what stays.
        on_rows: told what is read, how many rows of it are done, and how many there are.
        owned: what to close with the selection.
        is_whole: what became of every row will be asked for (see `Selection`), not only which ones stay.

    Raises:
        InputError: rules that mean nothing here, lists that cannot be read.
    """
    rules.check()
    started = time.perf_counter()
    owned = owned or ExitStack()
    rows = Rows(scores, rules, on_rows)
    owned.callback(rows.close)
    try:
        judge = Judge(rows, is_whole=is_whole)
        judge.judge()
    except BaseException:
        owned.close()
        raise
    return Selection(judge, time.perf_counter() - started, owned)

"""A selection: which rows stay, their ranks, why the others went, tables of them, and the lists that are written."""

from __future__ import annotations

import time
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import fields
from fractions import Fraction
from functools import cached_property
from os import fspath
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import columns
from beholder.curate.options import OutputOptions, SelectRules
from beholder.curate.select.array_mask import ArrayMask
from beholder.curate.select.range_mask import RangeMask
from beholder.curate.select.row_mask import NUMBER, RULES, Step
from beholder.curate.select.rules import OnRows, RuleRunner, SelectionInput
from beholder.curate.select.tables import RowTables, list_record, rules_record
from beholder.errors import InputError, OutputError
from beholder.io import storage
from beholder.io.overwriting import is_read
from beholder.io.schemas import empty_table
from beholder.io.tables import write_table
from beholder.scoreset.foreign import Back, as_source, texts_of
from beholder.scoreset.row_names import open_each_once
from beholder.scoreset.row_reader import PIECE_ROWS
from beholder.scoreset.score_set import ScoreSet

__all__ = ["RULES", "FrameSelection", "SelectRules", "Selection", "Step", "select", "select_rows"]

_RULES_OF_TEXTS = ("where", "exclude", "join", "dedup_against", "pictures")
_KINDS = {
    "--out": (".txt", ".csv", ".parquet", ".jsonl"),
    "--decisions-out": (".csv", ".parquet", ".jsonl"),
    "--dropped-out": (".txt", ".csv", ".parquet", ".jsonl"),
    "--groups-out": (".csv", ".parquet", ".jsonl"),
}


class Selection:
    """What became of each of N rows, those that name a sample again among them.

    It can make tables as long as the score set is open; `close` frees its scratch folder.

    Where the scores alone decide, nothing is held of a row: `kept`, `rank`, `dropped_by`, `decisions` hold some bytes of each.
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

    def __init__(self, runner: RuleRunner, seconds: float, owned: ExitStack) -> None:
        self._runner = runner
        self.scores: ScoreSet = runner.scores
        self.rules: SelectRules = runner.rules
        self.done_steps: tuple[Step, ...] = tuple(runner.mask.steps)
        self.notes = runner.notes
        self.seconds = seconds
        self.score_column = runner.score
        self.num_rows, self.num_kept = runner.scores.num_rows, runner.mask.left
        self.num_rows_that_meet = runner.num_rows_that_meet
        self.num_looked_at = runner.num_looked_at
        self._close = weakref.finalize(self, owned.close)

    @cached_property
    def _whole(self) -> RuleRunner:
        """The runner that has decided about every row, and holds that."""
        if self.num_looked_at is None and isinstance(self._runner.mask, ArrayMask):
            return self._runner
        runner = RuleRunner(self._runner.rows)
        runner.run()
        return runner

    @property
    def dropped_by(self) -> npt.NDArray[np.uint8]:
        """(N,) uint8 index into RULES, 0 for rows that stay."""
        return self._whole.arrays.dropped

    @property
    def funnel(self) -> tuple[Step, ...]:
        """What each rule did, in order."""
        return self.done_steps if self.num_looked_at is None else tuple(self._whole.mask.steps)

    @property
    def thresholds(self) -> dict[str, float | None]:
        """What rules found out, None where nothing is left.

        The lowest ranking value that is left after top, top_share, balance and budget, and the score at the quantile.
        """
        return self._runner.thresholds

    @property
    def groups(self) -> pa.Table | None:
        """Table of near-duplicates (`groups.GROUPS_SCHEMA`), or None when they were not looked for."""
        return None if isinstance(self._runner.mask, RangeMask) else self._whole.groups

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

    @cached_property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each row stays."""
        mask = self._runner.mask
        return mask.kept() if isinstance(mask, RangeMask) else self._runner.arrays.dropped == 0

    @cached_property
    def rank(self) -> npt.NDArray[np.uint32]:
        """(N,) 1 for the best of all rows that have a ranking value, 0 for those without one and those that are repeated."""
        runner = self._runner if isinstance(self._runner.mask, ArrayMask) else self._whole
        runner.rows.stage("ranks")
        return runner.arrays.ranking.ranks()

    @cached_property
    def _kept_in_order(self) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        self._runner.rows.stage("ranks")
        if isinstance(self._runner.mask, RangeMask):
            return self._tables.rows_in_order()
        mask = self._runner.arrays
        return mask.ranking.kept_in_order(mask.dropped)

    @cached_property
    def _order_alone(self) -> npt.NDArray[np.uint32]:
        self._runner.rows.stage("order")
        mask = self._runner.arrays
        return mask.ranking.kept_best_first(mask.dropped)

    def order(self) -> npt.NDArray[np.uint32]:
        """(K,) the rows that stay, best first; those without a ranking value last, by sample."""
        needs_ranks = "_kept_in_order" in self.__dict__ or isinstance(self._runner.mask, RangeMask)
        return self._kept_in_order[0] if needs_ranks else self._order_alone

    @property
    def schema(self) -> pa.Schema:
        """Of `kept_tables`."""
        return self._tables.schema

    @property
    def decision_schema(self) -> pa.Schema:
        """Of `decision_tables`."""
        return self._tables.decision_schema

    @property
    def passed_columns(self) -> list[str]:
        """Columns that lists pass through, under the names that they have there."""
        return list(self._tables.passed.values())

    @cached_property
    def _tables(self) -> RowTables:
        return RowTables(self._runner)

    def kept_tables(self, *, only_samples: bool = False, num_rows: int = PIECE_ROWS) -> Iterator[pa.Table]:
        """The rows that stay, best first, at most `num_rows` at a time, memory bounded.

        Columns: sample, the scores, rank (int64, null for none), kept, dropped_by, then what is passed through.
        """
        given: tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32] | None] | None = None
        if isinstance(self._runner.mask, ArrayMask):
            given = (self.order(), None) if only_samples else self._kept_in_order
        return self._tables.in_order(given, only_samples=only_samples, num_rows=num_rows)

    def decision_tables(self, *, only_dropped: bool = False) -> Iterator[pa.Table]:
        """All rows, or only those that were dropped, in the order of the set: sample, scores, rank, kept, dropped_by.

        Where pictures were compared, also near_to (large_string: the picture that stays, or that of a reference set, which a
        dropped one is near to; else null) and similarity (float32: to that).
        """
        return self._tables.decisions(self.rank, self.dropped_by, self.groups, only_dropped=only_dropped)

    def kept_rows(self) -> pa.Table:
        """The rows that stay, best first, as one table; see `kept_tables`."""
        return pa.concat_tables([empty_table(self.schema), *self.kept_tables()])

    def dropped_rows(self, words: Collection[str]) -> pa.Table:
        """The rows that rules of these words (`RULES`) dropped, in the order of the set, with the columns of `kept_tables`."""
        rows = np.flatnonzero(np.isin(self.dropped_by, [NUMBER[word] for word in words])).astype(np.uint32)
        given = (rows, self.rank[rows])
        tables = self._tables.in_order(given, only_samples=False, num_rows=PIECE_ROWS) if len(rows) else ()
        return pa.concat_tables([empty_table(self.schema), *tables])

    def decisions(self) -> pa.Table:
        """What became of every row, as one table; see `decision_tables`."""
        return pa.concat_tables([empty_table(self.decision_schema), *self.decision_tables()])

    def record(self) -> dict[str, Any]:
        """What a file made of the selection says about itself."""
        steps = [step.to_json() for step in self.done_steps]
        more = {"funnel": steps, **self._translated()}
        return list_record(self.scores, rules_record(self.rules), self.num_rows, self.num_kept, **more)

    def _translated(self) -> dict[str, Any]:
        """The thresholds that were given on another scale, as records; {} where none was."""
        found = [one.to_json() for one in self._runner.cuts.translations]
        return {"translated": found} if found else {}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: what was asked for, what each rule did, and what is left."""
        return {
            "source": self.scores.source,
            "num_rows": self.num_rows,
            "num_rows_that_meet": self.num_rows_that_meet,
            "num_kept": self.num_kept,
            "rules": rules_record(self.rules),
            "funnel": [step.to_json() for step in self.done_steps],
            "thresholds": self.thresholds,
            **self._translated(),
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
    rows = SelectionInput(scores, rules, on_rows)
    owned.callback(rows.close)
    try:
        runner = RuleRunner(rows, is_whole=is_whole)
        runner.run()
    except BaseException:
        owned.close()
        raise
    return Selection(runner, time.perf_counter() - started, owned)


def check_outputs(options: OutputOptions, source: str) -> None:
    """Raise OutputError or InputError before any work for lists that could not be written."""
    seen: dict[str, str] = {}
    for flag, path in _asked(options).items():
        kind = PurePosixPath(path).suffix.lower()
        if kind not in _KINDS[flag]:
            raise InputError(f"{flag} {path}: a list is written as {', '.join(_KINDS[flag])}; the name's end says which")
        if storage.is_folder(path):
            raise OutputError(f"{flag} {path} is a folder; name a file")
        if path in seen:
            raise InputError(f"{seen[path]} and {flag} both name {path}")
        seen[path] = flag
        if not storage.exists(path):
            continue
        if is_read(path, [source]):
            raise OutputError(f"{flag} {path} is a file of the scores that are read; write to another one")
        if not options.overwrite:
            raise OutputError(f"{flag} {path} exists; choose another name, or replace it with --overwrite")


def _asked(options: OutputOptions) -> dict[str, str]:
    given = {flag: getattr(options, flag.removeprefix("--").replace("-", "_")) for flag in _KINDS}
    return {flag: path for flag, path in given.items() if path is not None}


def write_lists(selection: Selection, options: OutputOptions) -> list[str]:
    """Write every list that was asked for; returns their paths."""
    asked = _asked(options)
    for flag, path in asked.items():
        only_samples = path.lower().endswith(".txt")
        tables: Iterable[pa.Table]
        if flag == "--groups-out":
            assert selection.groups is not None
            tables, schema = [selection.groups], selection.groups.schema
        elif flag == "--out":
            tables, schema = selection.kept_tables(only_samples=only_samples), selection.schema
        else:
            tables, schema = selection.decision_tables(only_dropped=flag == "--dropped-out"), selection.decision_schema
        if only_samples:
            schema = pa.schema([schema.field(columns.SAMPLE)])
        write_table(path, tables, schema, selection.record())
    return list(asked.values())


def select(source: Any, **rules: Any) -> FrameSelection:
    """Choose rows of scores by rules; nothing is written.

        selection = beholder.select("scores.parquet", min_score=5, where="width >= 512", top=1000)
        selection.kept_rows()       # best first, with rank
        selection.decisions()       # every row: kept or not, its rank, the rule that dropped it

    Args:
        source: what `beholder score` wrote (a folder, .parquet or .csv), another table of scores, or a polars, pandas or
            Arrow frame with a column of samples and one of scores.
        rules: the options of `beholder select` as keywords (`curate.options.SelectRules`): min_score (a number or
            a landmark such as "sd-v1"), max_score, scale_of, quantile, top, top_share ("10%" or 0.1), per, balance, where,
            sample, seed, temperature, budget (bytes), size_column, exclude, marks, dedup (a similarity or "exact-bytes"),
            dedup_keep, dedup_per, dedup_against, dedup_against_similarity, embeddings, clusters, score, head, rank_by, join,
            repeated, score_column, sample_column, pictures, root, memory, num_threads. `where`, `exclude`, `join`,
            `dedup_against` and `pictures` take one text or several.

    Returns:
        the selection. It keeps the scores open until it is closed (`with`) or forgotten.

    Raises:
        TypeError: no such rule, or a source of another kind.
        InputError: rules that mean nothing, scores that cannot be read.
    """
    known = {item.name for item in fields(SelectRules)}
    unknown = [name for name in rules if name not in known]
    if unknown:
        raise TypeError(f"select() has no rule {unknown[0]!r}; there are {', '.join(sorted(known))}")
    for name in _RULES_OF_TEXTS:
        if rules.get(name) is not None:
            rules[name] = texts_of(rules[name], name, "select")
    if isinstance(rules.get("top_share"), int | float | Fraction):
        share = rules["top_share"]
        rules["top_share"] = f"{share.numerator / share.denominator!r}" if isinstance(share, Fraction) else repr(share)
    for name in ("marks", "embeddings", "root"):
        if rules.get(name) is not None:
            rules[name] = fspath(rules[name])
    chosen = SelectRules(**{name: value for name, value in rules.items() if value is not None})
    chosen.check()
    given, back = as_source(source, "select")
    owned = ExitStack()
    try:
        named = {"score_column": chosen.score_column, "sample_column": chosen.sample_column}
        scores = owned.enter_context(open_each_once(given, chosen.repeated, num_threads=chosen.threads, **named))
        return FrameSelection(select_rows(scores, chosen, owned=owned), back)
    except BaseException:
        owned.close()
        raise


class FrameSelection:
    """A selection whose tables are frames of the kind that was given (Arrow for files).

    Attributes:
        selection: the selection itself, whose tables are Arrow.
    """

    def __init__(self, selection: Selection, back: Back) -> None:
        self.selection = selection
        self._back = back

    def __repr__(self) -> str:
        """What stays of what."""
        return repr(self.selection)

    def __enter__(self) -> FrameSelection:
        """For `with`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the scores and free scratch files; tables cannot be made any more."""
        self.selection.close()

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each row stays, in the order of the source."""
        return self.selection.kept

    @property
    def num_kept(self) -> int:
        """How many rows stay."""
        return self.selection.num_kept

    @property
    def rank(self) -> npt.NDArray[np.uint32]:
        """(N,) uint32, 1 for the best row of all, 0 for rows without a score and those that name a sample again."""
        return self.selection.rank

    @property
    def dropped_by(self) -> npt.NDArray[np.uint8]:
        """(N,) uint8 index into `RULES`, 0 for rows that stay."""
        return self.selection.dropped_by

    @property
    def funnel(self) -> tuple[Any, ...]:
        """What each rule did: `.word`, `.text`, `.rows_in`, `.dropped`, `.left`, `.threshold`."""
        return self.selection.funnel

    @property
    def thresholds(self) -> dict[str, float | None]:
        """What rules found out; see `Selection`."""
        return self.selection.thresholds

    @property
    def groups(self) -> Any:
        """Groups of near-duplicates as a frame, or None."""
        return None if self.selection.groups is None else self._back(self.selection.groups)

    def kept_rows(self) -> Any:
        """The rows that stay, best first, with rank and the columns passed through."""
        return self._back(self.selection.kept_rows())

    def decisions(self) -> Any:
        """Every row in the order of the source: sample, scores, rank, kept, dropped_by."""
        return self._back(self.selection.decisions())

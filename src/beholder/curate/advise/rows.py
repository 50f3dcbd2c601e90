"""The rows that advice is about, as a DuckDB view of a score set with its conditions and joined tables."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from beholder import columns
from beholder.curate.options import SMALLEST_MEMORY, all_cores
from beholder.errors import InputError
from beholder.models.published import canonical_head
from beholder.scoreset.database import NO_FLAG, Remedy, all_rows, batches_of, check_expression, clear_errors, connect
from beholder.scoreset.joined import join_metadata, register_joined
from beholder.scoreset.score_set import ROW, ScoreSet, as_score, quoted, text_literal
from beholder.scoreset.untyped import NUMBERS, Form, Untyped

if TYPE_CHECKING:
    import duckdb

FEW_NUMBERS = 12
"""A column of numbers with at most so many different ones is grouped by value."""

SCORE = "beholder_score"
"""Column of the view: the score, rounded to float32, as DOUBLE; NULL where there is none, or where it is not finite."""


@dataclass(frozen=True)
class Rows:
    """The view `rows`: every column of the set and of the tables joined to it, and `SCORE`, where all conditions hold.

    Attributes:
        source: the scores and conditions, for messages.
        connection: DuckDB's.
        kinds: column -> DuckDB's type, of columns that are neither the sample nor scores.
        remedy: what a user can do where memory is short.
        notes: lines about joined tables that should be told.
    """

    source: str
    connection: duckdb.DuckDBPyConnection
    kinds: Mapping[str, str]
    remedy: Remedy = NO_FLAG
    notes: tuple[str, ...] = ()

    def all(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of a query's result. Raises InputError."""
        with self._told():
            return all_rows(self.connection, query)

    def one(self, query: str) -> tuple[Any, ...]:
        """The one row of a query's result. Raises InputError."""
        (found,) = self.all(query)
        return found

    def batches(self, query: str, num_rows: int) -> Iterator[pa.RecordBatch]:
        """A query's result piece by piece. Raises InputError."""
        with self._told():
            yield from batches_of(self.connection, query, num_rows)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what DuckDB raises (a condition that fails on some row, too little memory) into one line."""
        with clear_errors(f"reading {self.source}", self.remedy):
            yield


def number(value: float) -> str:
    """A float as SQL takes it, to the last bit."""
    return f"{text_literal(repr(float(value)))}::DOUBLE"


def threshold_number(value: float) -> str:
    """A threshold as SQL takes it: rounded to float32, as scores are."""
    return number(float(as_score(value)))


@contextlib.contextmanager
def open_rows(
    scores: ScoreSet,
    score_column: str,
    *,
    where: Sequence[str] = (),
    join: Sequence[str] = (),
    memory: int,
    num_threads: int | None = None,
    remedy: Remedy = NO_FLAG,
) -> Iterator[Rows]:
    """Open DuckDB over a score set; it works in `memory` bytes and puts the rest into a temporary folder.

    Conditions and joins mean what they do in `curate.select`.

    Raises:
        InputError: a condition that DuckDB does not take, a table that cannot be joined, too little memory.
    """
    if memory < SMALLEST_MEMORY:
        raise InputError(f"--memory {memory:,} is too little; at least 256MB")
    with tempfile.TemporaryDirectory(prefix="beholder-advise-") as folder:
        scratch = Path(folder)
        with contextlib.closing(connect(scratch, memory=memory, num_threads=num_threads or all_cores())) as connection:
            connection.execute("SET preserve_insertion_order = true")  # the same result every time
            with clear_errors(f"{scores.source} cannot be read", remedy):
                scores.register(connection, "scores")
            relation, untyped = "scores", set(scores.untyped)
            notes: tuple[str, ...] = ()
            if join:
                found = join_metadata(connection, scores, join, scratch)
                relation = register_joined(connection, found.file)
                untyped |= found.untyped
                notes = found.notes
            texts = Untyped(untyped)
            fitted = [check_expression(connection, condition, relation, untyped=texts) for condition in where]
            conditions = " AND ".join(f"(\n{condition}\n)" for condition in fitted) or "true"
            score = f"TRY_CAST({quoted(score_column)} AS FLOAT)::DOUBLE"
            values = _values(texts.forms(connection, relation))
            query = (
                f"SELECT *{values}, CASE WHEN isfinite({score}) THEN {score} END AS {SCORE} FROM {relation} WHERE {conditions}"
            )
            named = f"{scores.source} where {' and '.join(where)}" if where else scores.source
            remedy = replace(remedy, is_condition=bool(where))
            rows = Rows(named, connection, {}, remedy)
            rows.all(f"CREATE VIEW rows AS {query}")
            known = {scores.sample_column, columns.SAMPLE, *scores.score_columns, ROW, SCORE}
            kinds = {str(name): str(kind) for name, kind, *_ in rows.all("DESCRIBE rows") if str(name) not in known}
            yield Rows(named, connection, kinds, remedy, notes)


def _values(forms: Mapping[str, Form]) -> str:
    """What stands after `SELECT *` so that columns of a CSV with many different numbers or dates are such.

    Where there are few they are shown as they stand there.
    """
    wanted = {name: form for name, form in forms.items() if form.is_plain and form.num_different > FEW_NUMBERS}
    kinds = (*NUMBERS, "DATE", "TIMESTAMP")
    parts = [f"{form.sql(quoted(name))} AS {quoted(name)}" for name, form in wanted.items() if form.kind in kinds]
    return f" REPLACE ({', '.join(parts)})" if parts else ""


def choose_score(scores: ScoreSet, name: str | None) -> str:
    """The score column with this name, or by the head of this name. Raises InputError."""
    listed = ", ".join(scores.score_columns)
    if name is None:
        if len(scores.score_columns) > 1:
            raise InputError(f"{scores.source} has scores of several heads: {listed}; name one with --score")
        return scores.score_columns[0]
    if name in scores.score_columns:
        return name
    wanted = canonical_head(name)
    found = [column for column in scores.score_columns if wanted and canonical_head(scores.head_names.get(column)) == wanted]
    if len(found) != 1:
        raise InputError(f"{scores.source} has no scores named {name!r}; it has {listed}")
    return found[0]


def head_of(scores: ScoreSet, column: str, told: str | None) -> str | None:
    """The head behind a column: its registry name where it is known. Raises InputError where the user says otherwise."""
    recorded = scores.head_names.get(column)
    recorded = canonical_head(recorded) or recorded
    if told is None:
        return recorded
    named = canonical_head(told) or told
    if recorded is not None and recorded != named:
        raise InputError(f"{scores.source}: the scores {column} are by {recorded}, as the set itself says; leave --head out")
    return named


def finite(value: float, flag: str) -> float:
    """A threshold that is a number. Raises InputError for NaN and infinity."""
    if not math.isfinite(value):
        raise InputError(f"{flag} {value} is no threshold; give a number such as 5.0")
    return value

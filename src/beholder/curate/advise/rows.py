"""The rows that advice is about, a DuckDB view of a score set, and how many of each group of them a threshold keeps."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from beholder import columns
from beholder.curate.advise.representation import GroupCounts, Kind
from beholder.curate.options import SMALLEST_MEMORY
from beholder.curate.select.grouping import ASPECT, ASPECTS, aspect_edges
from beholder.errors import InputError
from beholder.models.published import canonical_head
from beholder.options import all_cores
from beholder.scoreset.database import (
    NO_FLAG,
    Remedy,
    all_rows,
    batches_of,
    check_expression,
    clear_errors,
    connect,
    is_number,
)
from beholder.scoreset.joined import register_all
from beholder.scoreset.score_set import ROW, ScoreSet, as_score, quoted, text_literal
from beholder.scoreset.untyped import NUMBERS, Form, Untyped

if TYPE_CHECKING:
    import duckdb

FEW_NUMBERS = 12
"""A column of numbers with at most so many different ones is grouped by value."""

SCORE = "beholder_score"
"""Column of the view: the score, rounded to float32, as DOUBLE; NULL where there is none, or where it is not finite."""


MOST_VALUES = 1000
"""A text column with more different values is not grouped by them."""

MOST_PHRASES = 30
"""The same for text of several words, such as captions; with more it is grouped by word."""

MOST_GROUPS = 2000
"""Domains and folders beyond the largest so many are put together."""

MOST_WORDS = 50_000
MOST_TEXT_ROWS = 5_000_000
"""Of longer sets the words of one row in k are counted."""

LEAST_WORD_ROWS = 5
_WORD_SHARE = 1e-5
"""Words in fewer rows than either are not looked at."""

MOST_BINS, _ROWS_PER_BIN = 10, 25
_LOOK_ROWS = 20_000
_FINE_BITS = 9
OTHERS = "(others)"

_DATES = ("DATE", "TIMESTAMP")
_DOMAIN = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?([^/:?#]*)"
_TOKEN = r"[\p{L}\p{M}\p{N}]+(?:['\x{2019}]\p{L}+)?"


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
        raise InputError(f"--memory {memory:,} is too little; give at least 256MB")
    with tempfile.TemporaryDirectory(prefix="beholder-advise-") as folder:
        scratch = Path(folder)
        with contextlib.closing(connect(scratch, memory=memory, num_threads=num_threads or all_cores())) as connection:
            connection.execute("SET preserve_insertion_order = true")  # the same result every time
            found = register_all(connection, scores, join, scratch, remedy)
            texts = Untyped(found.untyped)
            fitted = [check_expression(connection, condition, found.view, untyped=texts) for condition in where]
            conditions = " AND ".join(f"(\n{condition}\n)" for condition in fitted) or "true"
            score = f"TRY_CAST({quoted(score_column)} AS FLOAT)::DOUBLE"
            values = _values(texts.forms(connection, found.view))
            value = f"CASE WHEN isfinite({score}) THEN {score} END AS {SCORE}"
            query = f"SELECT *{values}, {value} FROM {found.view} WHERE {conditions}"
            named = f"{scores.source} where {' and '.join(where)}" if where else scores.source
            remedy = replace(remedy, is_condition=bool(where))
            rows = Rows(named, connection, {}, remedy)
            rows.all(f"CREATE VIEW rows AS {query}")
            known = {scores.sample_column, columns.SAMPLE, *scores.score_columns, ROW, SCORE}
            kinds = {str(name): str(kind) for name, kind, *_ in rows.all("DESCRIBE rows") if str(name) not in known}
            yield replace(rows, kinds=kinds, notes=found.notes)


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


@dataclass(frozen=True)
class LeftOut:
    """A column without a table, and why."""

    column: str
    reason: str


class Grouper:
    """Counts groups of the rows of `rows` that have a score.

    Args:
        rows: the view.
        threshold: rows with a score at or above it are kept.
        num_rows, num_kept: of the rows with a score.
        is_forced: whether columns were named by the user: then those with many values are counted, too.
    """

    def __init__(self, rows: Rows, threshold: float, num_rows: int, num_kept: int, *, is_forced: bool = False) -> None:
        self._rows, self._num_rows, self._num_kept, self._is_forced = rows, num_rows, num_kept, is_forced
        self._kept = f"{SCORE} >= {threshold_number(threshold)}"

    def count(self, column: str) -> GroupCounts | LeftOut:
        """The groups of one column, or why there are none."""
        if column not in self._rows.kinds:
            counted: GroupCounts | LeftOut = self._aspects() if column == ASPECT else self._places(column)
        else:
            try:
                counted = self._by_type(column)
            except InputError as error:  # a kind of value that DuckDB does not handle; the others are of use without it
                if self._is_forced:
                    raise
                return LeftOut(column, str(error))
        if isinstance(counted, GroupCounts) and len(counted.values) < 2:
            return LeftOut(column, "the same in all rows" if counted.kind == "value" else f"all in one {counted.kind}")
        return counted

    def _by_type(self, column: str) -> GroupCounts | LeftOut:
        """The groups of a column, as its type has them."""
        kind = self._rows.kinds[column].upper()
        if kind.endswith("[]") and not kind.endswith("][]") and kind.startswith(("VARCHAR", "ENUM")):
            return self._elements(column)
        if not kind.endswith("]"):
            if kind == "BOOLEAN" or kind.startswith("ENUM"):
                return self._values(column)
            if is_number(kind):
                return self._numbers(column)
            if kind.startswith(_DATES):
                return self._exclusive(column, "year", f"strftime({quoted(column)}, '%Y')", MOST_GROUPS)
            if kind in ("VARCHAR", "UUID"):
                return self._text(column)
        return LeftOut(column, f"columns of type {self._rows.kinds[column][:40]} are not grouped")

    def _places(self, name: str) -> GroupCounts:
        """The groups of the sample names: by folder (tar, part), or by domain where they are URLs."""
        look = self._look(columns.SAMPLE)
        counted = (self._domains if _share(look, _is_url) > 0.5 else self._folders)(columns.SAMPLE)
        return replace(counted, column=name)

    def _aspects(self) -> GroupCounts:
        """The groups of width / height: the nearest of `curate.select.grouping.ASPECTS`, as `--per aspect` has them."""
        width, height = (f"{quoted(name)}::DOUBLE" for name in (columns.WIDTH, columns.HEIGHT))
        upper = zip(ASPECTS, aspect_edges().tolist(), strict=False)
        cases = " ".join(f"WHEN {width} / {height} <= {number(edge)} THEN '{name}'" for name, edge in upper)
        expression = f"CASE WHEN {width} > 0 AND {height} > 0 THEN CASE {cases} ELSE '{ASPECTS[-1]}' END END"
        counted = self._exclusive(ASPECT, "value", expression, MOST_VALUES)
        order = sorted(range(len(counted.values)), key=lambda at: [*ASPECTS, None].index(counted.values[at]))
        return replace(counted, values=[counted.values[at] for at in order], rows=counted.rows[order], kept=counted.kept[order])

    def _text(self, column: str) -> GroupCounts | LeftOut:
        """Text by value where there are few, else by domain, folder or word, whichever it looks like."""
        look = self._look(column)
        if _share(look, _is_url) > 0.9:
            return self._domains(column)
        is_prose = _share(look, lambda text: len(text.split()) > 1) > 0.5
        most = MOST_PHRASES if is_prose else MOST_VALUES
        if len(set(look)) <= most and self._about_distinct(column) <= most:
            return self._values(column)
        if is_prose:
            return self._words(column)
        if _share(look, lambda text: "/" in text) > 0.9:
            return self._folders(column)
        if self._is_forced:
            return self._values(column)
        about = self._about_distinct(column)
        return LeftOut(column, f"about {about:,} different values; name it to have the commonest counted")

    def _look(self, column: str) -> list[str]:
        """The column's values in the first rows, without NULL."""
        query = f"SELECT {quoted(column)}::VARCHAR FROM rows WHERE {SCORE} IS NOT NULL LIMIT {_LOOK_ROWS}"
        return [text for (text,) in self._rows.all(query) if text is not None]

    def _about_distinct(self, column: str) -> int:
        """About how many different values there are (HyperLogLog)."""
        return int(self._rows.one(f"SELECT approx_count_distinct({quoted(column)}) FROM rows WHERE {SCORE} IS NOT NULL")[0])

    def _exclusive(self, column: str, kind: Kind, expression: str, most: int) -> GroupCounts:
        """The `most` largest groups of an expression, which have no row in common; what is beyond them is put together."""
        query = (
            f"SELECT {expression} AS value, count(*) AS num_rows, count(*) FILTER ({self._kept}) AS num_kept "
            f"FROM rows WHERE {SCORE} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 NULLS LAST LIMIT {most + 1}"
        )
        groups = self._rows.all(query)
        if len(groups) <= most:
            return self._counts(column, kind, groups)
        del groups[most:]
        rest = self._num_rows - sum(n for _, n, _ in groups), self._num_kept - sum(k for _, _, k in groups)
        return self._counts(column, kind, [*groups, (OTHERS, *rest)], note=f"the {most:,} largest; all others are put together")

    def _counts(self, column: str, kind: Kind, groups: Sequence[tuple[Any, ...]], **more: Any) -> GroupCounts:
        """Counts of (value, rows, kept rows). `more`: further fields of them."""
        return GroupCounts(
            column=column,
            kind=kind,
            values=[None if value is None else str(value) for value, _, _ in groups],
            rows=np.array([n for _, n, _ in groups], np.int64),
            kept=np.array([k for _, _, k in groups], np.int64),
            **{"num_rows": self._num_rows, "num_kept": self._num_kept} | more,
        )

    def _values(self, column: str) -> GroupCounts:
        return self._exclusive(column, "value", f"{quoted(column)}::VARCHAR", MOST_VALUES)

    def _domains(self, column: str) -> GroupCounts:
        text = f"{quoted(column)}::VARCHAR"
        expression = f"CASE WHEN {text} IS NOT NULL THEN lower(regexp_extract({text}, '{_DOMAIN}', 1)) END"
        return self._exclusive(column, "domain", expression, MOST_GROUPS)

    def _folders(self, column: str) -> GroupCounts:
        text = f"{quoted(column)}::VARCHAR"
        parent = f"regexp_replace({text}, '/[^/]*$', '')"
        expression = f"CASE WHEN contains({text}, '/') THEN {parent} WHEN {text} IS NOT NULL THEN '' END"
        return self._exclusive(column, "folder", expression, MOST_GROUPS)

    def _numbers(self, column: str) -> GroupCounts | LeftOut:
        """Numbers by value where there are few, else in bins of about equal counts.

        DuckDB counts bins so fine (a 256th of their value, or finer) that they are few in number, however many rows there
        are; neighbouring ones are then put together. So memory is small, and the result does not depend on the order of rows.
        """
        value = f"{quoted(column)}::DOUBLE"
        step = f"pow(2, floor(log2(abs({value}))) - {_FINE_BITS - 1})"
        fine = f"CASE WHEN isfinite({value}) AND {value} != 0 THEN floor({value} / {step}) * {step} ELSE {value} END"
        query = (
            f"SELECT {fine} AS fine, count(*), count(*) FILTER ({self._kept}), min({value}), max({value}) "
            f"FROM rows WHERE {SCORE} IS NOT NULL GROUP BY 1 ORDER BY 1 NULLS LAST"
        )
        found = self._rows.all(query)
        odd: list[tuple[str | None, int, int]] = [
            (None if v is None else "NaN", n, k) for v, n, k, _, _ in found if v is None or math.isnan(v)
        ]
        fine_bins = [row for row in found if row[0] is not None and not math.isnan(row[0])]
        if len(fine_bins) <= FEW_NUMBERS and all(low == high for *_, low, high in fine_bins):
            plain = [(_text(low), n, k) for _, n, k, low, _ in fine_bins]
            return self._counts(column, "value", [*plain, *odd])
        return self._counts(column, "bin", [*_bins(fine_bins, self._num_rows), *odd])

    def _words(self, column: str) -> GroupCounts:
        """Words of text, in lower case, each counted once a row."""
        text = f"nfc_normalize(lower({quoted(column)}::VARCHAR))"
        return self._many(column, "word", f"regexp_extract_all({text}, '{_TOKEN.replace(chr(39), chr(39) * 2)}')")

    def _elements(self, column: str) -> GroupCounts:
        """Elements of lists of text, each counted once a row."""
        return self._many(column, "element", f"{quoted(column)}::VARCHAR[]")

    def _many(self, column: str, kind: Kind, items: str) -> GroupCounts:
        """Groups of which a row may be in several."""
        one_in = max(1, math.ceil(self._num_rows / MOST_TEXT_ROWS))
        chosen = f"{SCORE} IS NOT NULL" + (f" AND hash({ROW}) % {one_in} = 0" if one_in > 1 else "")
        num_rows, num_kept = self._num_rows, self._num_kept
        if one_in > 1:
            num_rows, num_kept = self._rows.one(f"SELECT count(*), count(*) FILTER ({self._kept}) FROM rows WHERE {chosen}")
        least = max(LEAST_WORD_ROWS, math.ceil(num_rows * _WORD_SHARE))
        text = quoted(column)
        listed = (
            f"SELECT CASE WHEN {text} IS NULL THEN [NULL] WHEN len(items) = 0 THEN [''] ELSE items END AS items, kept "
            f"FROM (SELECT {text}, list_distinct({items}) AS items, {self._kept} AS kept FROM rows WHERE {chosen})"
        )
        query = (
            f"SELECT item, count(*), count(*) FILTER (kept) FROM (SELECT unnest(items) AS item, kept FROM ({listed})) "
            f"GROUP BY 1 HAVING count(*) >= {least} OR item IS NULL ORDER BY 2 DESC, 1 NULLS LAST LIMIT {MOST_WORDS}"
        )
        found = self._rows.all(query)
        note = f"{kind}s in at least {least:,} rows"
        if len(found) == MOST_WORDS:
            note += f", the {MOST_WORDS:,} commonest"
        if one_in > 1:
            note += f"; counted in one row of {one_in}, chosen by a hash of its number"
        return self._counts(column, kind, found, num_rows=num_rows, num_kept=num_kept, one_row_in=one_in, note=note)


def _is_url(text: str) -> bool:
    return "://" in text[:16]


def _share(texts: Sequence[str], test: Callable[[str], bool]) -> float:
    """The share of texts that pass a test; 0 of none."""
    return sum(map(test, texts)) / len(texts) if texts else 0.0


def _bins(fine: Sequence[tuple[float, int, int, float, float]], num_rows: int) -> list[tuple[str | None, int, int]]:
    """Neighbouring fine bins put together to at most `MOST_BINS` of about equal counts; (text, rows, kept), ascending."""
    total = sum(n for _, n, *_ in fine)
    wanted = max(2, min(MOST_BINS, num_rows // _ROWS_PER_BIN))
    bins: list[list[Any]] = []
    before = 0
    for _, n, k, low, high in fine:
        place = min(wanted - 1, int(before + n / 2) * wanted // max(total, 1))
        before += n
        if bins and bins[-1][0] == place:
            bins[-1][1:] = [bins[-1][1] + n, bins[-1][2] + k, bins[-1][3], high]
        else:
            bins.append([place, n, k, low, high])
    return [(_text(low) if low == high else f"{_text(low)} to {_text(high)}", n, k) for _, n, k, low, high in bins]


def _text(value: float) -> str:
    """A number for people: whole ones with thousands separators, others with six digits."""
    value += 0.0  # no negative zero
    return f"{value:,.0f}" if abs(value) < 1e15 and value == math.floor(value) else f"{value:.6g}"


def chosen_columns(rows: Rows, wanted: Sequence[str] | None) -> list[str]:
    """The columns to group: those named, else all, the sample's folder and the aspect. Raises InputError for unknown ones."""
    derived = [name for name in (columns.SAMPLE, "folder") if name not in rows.kinds]
    has_size = all(is_number(rows.kinds.get(name, "")) for name in (columns.WIDTH, columns.HEIGHT))
    if has_size and ASPECT not in rows.kinds:
        derived.append(ASPECT)
    if wanted is None:
        return [columns.SAMPLE, *rows.kinds, *([ASPECT] if ASPECT in derived else [])]
    for name in wanted:
        if name not in rows.kinds and name not in derived:
            there = ", ".join([*derived, *list(rows.kinds)[:20]])
            raise InputError(f"there is no column {name!r} to group by; there are {there}")
    return list(dict.fromkeys(wanted))

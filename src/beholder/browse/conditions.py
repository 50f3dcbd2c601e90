"""Conditions that people write or click in; the rows that satisfy them out, decided by a DuckDB that can reach no file."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.browse.rows import RowStore, as_json
from beholder.columns import SAMPLE
from beholder.curation.database import check_expression, refused
from beholder.errors import BeholderError, InputError
from beholder.scores.score_set import ROW, quoted, text_literal

if TYPE_CHECKING:
    import duckdb

VIEW = "scores"
TIME_LIMIT_S = 20.0
MEMORY_LIMIT = "2GB"
_MOST_TEMPORARY = "20GB"
_AT_ONCE = 2
_MOST_LETTERS = 20_000
_ENDED = "beholder browse was stopped"


class Conditions:
    """Answers which rows satisfy SQL expressions. Thread-safe; few at once, each within `TIME_LIMIT_S`.

    The connection sees the mapped rows as the view `scores` and nothing else: file access, extensions, secrets, Python
    variables and its own settings are shut before the first condition is run.
    """

    def __init__(
        self,
        store: RowStore,
        scratch: Path,
        *,
        threads: int,
        time_limit_s: float = TIME_LIMIT_S,
        memory_limit: str = MEMORY_LIMIT,
    ) -> None:
        import duckdb

        self._store = store
        self._time_limit_s = time_limit_s
        self._turn = threading.BoundedSemaphore(_AT_ONCE)
        self._changed = threading.Condition()
        self._active: set[duckdb.DuckDBPyConnection] = set()
        self._is_closed = False
        self._connection = duckdb.connect(
            config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
        )
        for line in (
            f"SET threads = {max(1, threads)}",
            f"SET memory_limit = '{memory_limit}'",
            f"SET temp_directory = {text_literal(str(scratch / 'duckdb'))}",
            f"SET max_temp_directory_size = '{_MOST_TEMPORARY}'",
            "SET python_enable_replacements = false",
            "SET allow_community_extensions = false",
            "SET enable_external_access = false",
            "SET lock_configuration = true",
        ):
            self._connection.execute(line)

    def close(self) -> None:
        """End what runs, and the connection."""
        with self._changed:
            self._is_closed = True
            while self._active:  # an interrupt that comes before the query has begun is lost
                for cursor in self._active:
                    cursor.interrupt()
                self._changed.wait(timeout=0.05)
        self._connection.close()

    def matching(self, conditions: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(N,) bool: rows for which every condition is true; NULL counts as false. Raises InputError, one line.

        What is a condition is decided as for `beholder select --where`.
        """
        found = np.ones(self._store.num_rows, bool)
        if not conditions:
            return found
        with self._cursor() as cursor, self._limited(cursor, " and ".join(conditions)):
            for text in conditions:
                if len(text) > _MOST_LETTERS:
                    raise InputError(f"the condition has {len(text):,} letters, the most is {_MOST_LETTERS:,}")
                check_expression(cursor, text, VIEW, "condition")
            both = " AND ".join(f"(\n{text}\n)" for text in conditions)
            rows = cursor.execute(f"SELECT {ROW} FROM {VIEW} WHERE {both}").fetchnumpy()[ROW]
        found[:] = False
        found[rows] = True
        return found

    def values(self, name: str, most: int = 50) -> list[dict[str, Any]]:
        """The commonest values of a column: `value`, `count`; commonest first. Raises InputError."""
        column = quoted(name)
        query = f"SELECT {column} AS value, count(*) AS count FROM {VIEW} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {int(most)}"
        with self._cursor() as cursor, self._limited(cursor, column):
            found = cursor.execute(query).fetchnumpy()
            return [{"value": as_json(_plain(v)), "count": int(n)} for v, n in zip(found["value"], found["count"], strict=True)]

    def range_of(self, name: str) -> tuple[Any, Any]:
        """The least and the largest value of a column of numbers, NaN left out. Raises InputError."""
        column = quoted(name)
        query = f"SELECT min({column}) AS least, max({column}) AS largest FROM {VIEW} WHERE NOT isnan({column}::DOUBLE)"
        with self._cursor() as cursor, self._limited(cursor, column):
            found = cursor.execute(query).fetchnumpy()
            return as_json(_plain(found["least"][0])), as_json(_plain(found["largest"][0]))

    def has_unique_names(self) -> bool:
        """Whether no two rows surely share a name (by 64-bit hashes: chance may say no where it is yes, never the reverse)."""
        with self._cursor() as cursor:
            query = f"SELECT count(DISTINCT hash({SAMPLE})) AS n FROM {VIEW}"
            return int(cursor.sql(query).fetchnumpy()["n"][0]) == self._store.num_rows

    def rows_named(self, names: Sequence[str]) -> dict[str, list[int]]:
        """Rows with these names."""
        found: dict[str, list[int]] = {}
        if not names:
            return found
        with self._cursor() as cursor:
            cursor.register("wanted", pa.table({SAMPLE: pa.array(list(dict.fromkeys(names)), pa.large_string())}))
            query = f"SELECT {SAMPLE}, {ROW} FROM {VIEW} SEMI JOIN wanted USING ({SAMPLE}) ORDER BY {ROW}"
            for name, row in cursor.sql(query).fetchall():
                found.setdefault(name, []).append(row)
        return found

    @contextmanager
    def _limited(self, cursor: duckdb.DuckDBPyConnection, text: str) -> Iterator[None]:
        """Interrupt what runs longer than the limit; whatever DuckDB says is one InputError line about `text`."""
        import duckdb

        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            cursor.interrupt()

        timer = threading.Timer(self._time_limit_s, stop)
        timer.daemon = True
        timer.start()
        named = f"condition {_short(text)}"
        try:
            yield
        except (duckdb.Error, BeholderError) as error:
            if self._is_closed:
                raise InputError(_ENDED) from None
            if is_late.is_set():
                text = f"{named}: longer than {self._time_limit_s:g} s; write a simpler one"
                raise InputError(text) from None
            if isinstance(error, InputError):
                raise
            if isinstance(error, duckdb.Error) and not isinstance(error, duckdb.OutOfMemoryException):
                raise InputError(str(refused(named, error))) from None
            raise InputError(f"{named}: it needs more memory than it may use; write a simpler one") from None
        finally:
            timer.cancel()

    @contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own that knows the rows; waits for its turn."""
        with self._turn:
            with self._changed:
                if self._is_closed:
                    raise InputError(_ENDED)
                cursor = self._connection.cursor()
                self._active.add(cursor)
            try:
                cursor.register(VIEW, self._store.table)
                yield cursor
            finally:
                with self._changed:
                    cursor.close()
                    self._active.remove(cursor)
                    self._changed.notify_all()


def _short(text: str) -> str:
    shown = " ".join(text.split())
    return f"'{shown}'" if len(shown) <= 120 else f"'{shown[:117]}...'"


def _plain(value: Any) -> Any:
    """A numpy scalar as Python has it; masked and NaN values are None."""
    if value is np.ma.masked or value is None:
        return None
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.datetime64) else value


def condition_of(
    column: str, kind: str, *, low: Any = None, high: Any = None, text: str = "", values: Sequence[Any] = ()
) -> str:
    """The SQL of a clicked filter: what `select --where` takes as well.

    Args:
        column: its name.
        kind: "range" (low and high, either may be None), "contains" (text, whatever its case), "in" (values; None is NULL),
            "null" or "not_null".
        low: the least value, or None.
        high: the largest value, or None.
        text: what the value has to hold.
        values: which values.

    Raises:
        InputError: a filter that says nothing.
    """
    name = quoted(column)
    if kind == "range" and (low is not None or high is not None):
        parts = [f"{name} {sign} {_literal(end)}" for sign, end in ((">=", low), ("<=", high)) if end is not None]
        return " AND ".join(parts)
    if kind == "contains" and text:
        return f"contains(lower({name}::VARCHAR), lower({text_literal(text)}))"
    if kind == "in" and values:
        listed = [_literal(value) for value in values if value is not None]
        parts = [f"{name} IN ({', '.join(listed)})"] if listed else []
        parts += [f"{name} IS NULL"] if None in values else []
        return f"({' OR '.join(parts)})" if len(parts) > 1 else parts[0]
    if kind in ("null", "not_null"):
        return f"{name} IS {'NOT ' if kind == 'not_null' else ''}NULL"
    raise InputError(f"the filter on {column} says nothing")


def _literal(value: Any) -> str:
    """A value as SQL takes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return text_literal(str(value))

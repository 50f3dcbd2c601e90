"""Metadata tables joined to a score set by sample: a file of their columns, a set with them, the rows that meet conditions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beholder.errors import InputError
from beholder.scoreset.database import NO_FLAG, Remedy, clear_errors, connect, do, first_row, mask_where, within_free_memory
from beholder.scoreset.foreign import is_csv
from beholder.scoreset.sample_lists import NAME, sample_column_of, table_file
from beholder.scoreset.score_set import ROW, ScoreSet, parquet_of, quoted, text_literal
from beholder.scoreset.untyped import Untyped

if TYPE_CHECKING:
    import duckdb

_RENAMED = "meta_"
"""Before the name of a joined column when the set has one of that name."""


@dataclass(frozen=True)
class Joined:
    """What tables bring to a set.

    Attributes:
        file: a Parquet file with the metadata of each row, in the set's order.
        untyped: those of the columns that come from a CSV: text, exactly as it stands there.
        notes: lines about columns that had to be renamed, and about tables that lack rows of the set.
    """

    file: Path
    untyped: frozenset[str]
    notes: tuple[str, ...]


def join_metadata(connection: duckdb.DuckDBPyConnection, scores: ScoreSet, paths: Sequence[str], scratch: Path) -> Joined:
    """Join tables to the set (view `scores` of the connection) by sample.

    Columns of bytes are left out. A column whose name the set has already is called meta_NAME.

    Raises:
        InputError: a table that names a sample twice, that has no column of samples, or that no sample fits.
    """
    taken = {name.casefold() for name in (*scores.schema.names, "sample", ROW)}
    renamed: dict[str, str] = {}
    partly: list[str] = []
    untyped: set[str] = set()
    selected, joins = [], [f"(SELECT {ROW}, {NAME} AS name FROM scores) AS s"]
    for number, path in enumerate(paths):
        file = table_file(path, scratch / f"join{number}.parquet")
        sample = sample_column_of(file, path)
        num_lacking = scores.num_rows - _num_fitting(connection, file, sample, path)
        if num_lacking > 0:
            partly.append(f"--join {path} lacks {num_lacking:,} of {scores.num_rows:,} rows; its columns are null there")
        table = f"m{number}"
        joins.append(f"LEFT JOIN {parquet_of([file])} AS {table} ON s.name = CAST({table}.{quoted(sample)} AS VARCHAR)")
        for item in pq.read_schema(file):
            if item.name == sample or holds_bytes(item.type):
                continue
            name = item.name
            if name.casefold() in taken:
                name = renamed[item.name] = f"{_RENAMED}{item.name}"
            if name.casefold() in taken:
                raise InputError(f"--join {path}: column {item.name!r} is there already, and {name!r} too; rename it")
            taken.add(name.casefold())
            if is_csv(path):
                untyped.add(name)
            selected.append(f"{table}.{quoted(item.name)} AS {quoted(name)}")
    if not selected:
        raise InputError(f"--join {paths[0]} adds no column")
    target = scratch / "joined.parquet"
    _write(connection, f"SELECT {', '.join(selected)} FROM {' '.join(joins)} ORDER BY s.{ROW}", target)
    notes = (f"joined column {old!r} is called {new!r} here" for old, new in renamed.items())
    return Joined(target, frozenset(untyped), (*notes, *partly))


def _write(connection: duckdb.DuckDBPyConnection, query: str, target: Path) -> None:
    """Write the result of a query to a Parquet file, in its order."""
    (before,) = first_row(connection, "SELECT current_setting('preserve_insertion_order')") or (False,)
    connection.execute("SET preserve_insertion_order = true")
    do(connection, f"COPY ({query}) TO {text_literal(str(target))} (FORMAT parquet)")
    connection.execute(f"SET preserve_insertion_order = {before}")


def _num_fitting(connection: duckdb.DuckDBPyConnection, file: Path, sample: str, path: str) -> int:
    """How many rows of the set the table has. Raises InputError when it names a sample twice, or has no row of the set."""
    name, rows = quoted(sample), parquet_of([file])
    twice = first_row(
        connection, f"SELECT {name} FROM {rows} WHERE {name} IS NOT NULL GROUP BY {name} HAVING count(*) > 1 LIMIT 1"
    )
    if twice is not None:
        raise InputError(f"--join {path} has the sample {twice[0]!r} twice; which of its rows is meant cannot be told")
    samples = f"SELECT CAST({name} AS VARCHAR) FROM {rows} WHERE {name} IS NOT NULL"
    counted = f"SELECT count(*) FILTER (WHERE {NAME} IN ({samples})), count(*) FROM scores"
    num_fitting, num_rows = first_row(connection, counted) or (0, 0)
    if num_rows and not num_fitting:
        raise InputError(f"--join {path}: its column {sample!r} has none of the scores' samples; is it of another set?")
    return int(num_fitting)


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether values hold bytes (pictures), which are shown and listed nowhere."""
    if pa.types.is_nested(kind):
        return any(holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def register_joined(connection: duckdb.DuckDBPyConnection, joined: Path) -> str:
    """Make a view of the set's and the joined columns; returns its name."""
    mine = f"SELECT *, file_row_number AS joined_row FROM {parquet_of([joined], 'file_row_number')}"
    connection.execute(
        f"CREATE VIEW scores_joined AS SELECT s.*, m.* EXCLUDE (joined_row, file_row_number) "
        f"FROM scores AS s JOIN ({mine}) AS m ON s.{ROW} = m.joined_row"
    )
    return "scores_joined"


@dataclass(frozen=True, kw_only=True)
class JoinedSet(ScoreSet):
    """A score set to which tables were joined: their columns stand behind its own.

    Attributes:
        joined: a Parquet file with the further columns of each row, in the set's order; nothing else reads the set from DuckDB.
        joined_names: these columns.
    """

    joined: Path
    joined_names: tuple[str, ...]

    def batches(self, names: Sequence[str], *, num_rows: int = 1 << 20) -> Iterator[pa.Table]:
        """As `ScoreSet.batches`."""
        more = [name for name in names if name in self.joined_names]
        if not more:
            yield from super().batches(names, num_rows=num_rows)
            return
        own = [name for name in names if name not in more] or [self.sample_column]
        with pq.ParquetFile(self.joined) as file:
            pieces = file.iter_batches(batch_size=num_rows, columns=more)
            waiting = pa.Table.from_batches([], pa.schema([self.schema.field(name) for name in more]))
            for table in super().batches(own, num_rows=num_rows):
                while waiting.num_rows < table.num_rows:
                    waiting = pa.concat_tables([waiting, pa.Table.from_batches([next(pieces)], waiting.schema)])
                mine, waiting = waiting.slice(0, table.num_rows), waiting.slice(table.num_rows)
                found = {**dict(zip(own, table.columns, strict=True)), **dict(zip(more, mine.columns, strict=True))}
                yield pa.table([found[name] for name in names], names=list(names))


def with_joined(scores: ScoreSet, join: Sequence[str], scratch: Path, *, num_threads: int) -> ScoreSet:
    """The set with the columns of the tables; the set itself where there are none.

    Args:
        scores: the set.
        join: tables, as `beholder select --join` takes them.
        scratch: a folder that stays as long as the set is read.
        num_threads: to use.

    Raises:
        InputError: what `join_metadata` raises.
    """
    if not join:
        return scores
    database = contextlib.closing(connect(scratch / "join", num_threads=num_threads))
    with within_free_memory(), database as connection, clear_errors(f"--join {', '.join(join)}"):
        scores.register(connection)
        found = join_metadata(connection, scores, join, scratch)
    more = pq.read_schema(found.file).remove_metadata()
    own = {item.name: getattr(scores, item.name) for item in fields(ScoreSet)} | {
        "schema": pa.schema([*scores.schema, *more], scores.schema.metadata),
        "untyped": scores.untyped | found.untyped,
        "notes": (*scores.notes, *found.notes),
    }
    return JoinedSet(**own, joined=found.file, joined_names=tuple(more.names))


@dataclass(frozen=True)
class Narrowed:
    """What is left of a set.

    Attributes:
        scores: the rows that meet the conditions, in the set's order, with the joined columns; columns of bytes are left out.
        holds: (N,) bool, for each row of the set whether it is among them; None: all are.
        num_tried: rows of the set that have a score in at least one column, infinite ones too.
        notes: lines about joined tables that should be told.
    """

    scores: ScoreSet
    holds: npt.NDArray[np.bool_] | None
    num_tried: int
    notes: tuple[str, ...]


def narrow(
    scores: ScoreSet,
    *,
    where: Sequence[str],
    join: Sequence[str],
    scratch: Path,
    num_threads: int = 1,
) -> Narrowed:
    """Join tables and apply conditions, which mean what they do in `beholder select`; at least one of the two is given.

    Memory: one byte a row, and DuckDB's. The rows lie in a file in `scratch`, which has to stay as long as they are read.

    Raises:
        InputError: a condition that DuckDB does not take, or that fails on a value; a table that cannot be joined.
    """
    of_where = Remedy(is_condition=True)
    with contextlib.closing(connect(scratch, num_threads=num_threads)) as connection:
        with clear_errors(f"{scores.source} cannot be read"):
            scores.register(connection)
            tried = " OR ".join(f"NOT isnan(CAST({quoted(name)} AS DOUBLE))" for name in scores.score_columns)
            (num_tried,) = connection.execute(f"SELECT count(*) FILTER (WHERE {tried}) FROM scores").fetchall()[0]
        view, untyped, more, notes = "scores", scores.untyped, list[str](), tuple[str, ...]()
        if join:
            with clear_errors(f"--join {', '.join(join)}"):
                found = join_metadata(connection, scores, join, scratch)
                view = register_joined(connection, found.file)
            untyped, more, notes = untyped | found.untyped, pq.read_schema(found.file).names, found.notes
        holds, chosen = None, f"FROM {view}"
        if where:
            texts, holds = Untyped(untyped), np.ones(scores.num_rows, np.bool_)
            for condition in where:
                holds &= mask_where(connection, condition, view, scores.num_rows, texts, remedy=of_where)
            connection.register("kept_rows", pa.table({"number": np.flatnonzero(holds)}))
            chosen += f" WHERE {ROW} IN (SELECT number FROM kept_rows)"
        own = [item.name for item in scores.schema if not holds_bytes(item.type) or item.name in scores.score_columns]
        wanted = [f"{NAME} AS {quoted(scores.sample_column)}"]
        wanted += [quoted(name) for name in (*own, *more) if name != scores.sample_column]
        target = scratch / "narrowed.parquet"
        with clear_errors(f"{scores.source} cannot be read", of_where if where else NO_FLAG):
            _write(connection, f"SELECT {', '.join(wanted)} {chosen} ORDER BY {ROW}", target)
    with pq.ParquetFile(target) as file:
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
    kept = replace(
        scores.whole(),
        files=(target,),
        table=None,
        row_counts=(num_rows,),
        schema=schema,
        untyped=untyped - {scores.sample_column},
        hidden=None,
    )
    return Narrowed(kept, holds, int(num_tried), notes)

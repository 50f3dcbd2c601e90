"""What is matched to a score set by sample: lists, marks, joined tables; and the set with these, or what conditions leave."""

from __future__ import annotations

import codecs
import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beholder import columns
from beholder.errors import InputError
from beholder.io import remote, storage
from beholder.io.records import json_value
from beholder.io.schemas import is_bytes
from beholder.io.tables import open_text
from beholder.scoreset.database import (
    NO_FLAG,
    Remedy,
    clear_errors,
    connect,
    count_of,
    do,
    first_row,
    interruptible,
    mask_where,
    within_free_memory,
)
from beholder.scoreset.foreign import as_parquet, is_csv
from beholder.scoreset.score_set import ROW, ScoreSet, parquet_of, quoted, text_literal
from beholder.scoreset.untyped import Untyped

if TYPE_CHECKING:
    import duckdb

_BLOCK_BYTES = 16 << 20
NAME = f"coalesce(CAST({columns.SAMPLE} AS VARCHAR), '#' || {ROW})"
"""A row's name in SQL, as `ScoreSet.samples` gives it."""
_MARKS = ("keep", "drop", None)


def read_list(connection: duckdb.DuckDBPyConnection, path: str, table: str, scratch: Path) -> int:
    """Make a table (sample VARCHAR) of the distinct samples in a .txt, .csv or .parquet file; returns how many there are."""
    connection.execute(f"CREATE OR REPLACE TABLE {table} ({columns.SAMPLE} VARCHAR)")
    suffix = PurePosixPath(path).suffix.lower()
    if suffix == ".txt":
        for lines in _lines(path):
            batch = pa.table({columns.SAMPLE: pa.array(lines, pa.large_string())})
            connection.register("batch", batch)
            connection.execute(f"INSERT INTO {table} SELECT {columns.SAMPLE} FROM batch")
            connection.unregister("batch")
    elif suffix in (".csv", ".tsv", ".parquet", ".pq"):
        file = table_file(path, scratch / f"{table}.parquet")
        name = quoted(sample_column_of(file, path))
        rows = f"SELECT CAST({name} AS VARCHAR) FROM {parquet_of([file])}"
        do(connection, f"INSERT INTO {table} {rows} WHERE {name} IS NOT NULL")
    else:
        raise InputError(f"--exclude {path}: a list of samples is a .txt (one a line), .csv or .parquet file")
    do(connection, f"CREATE OR REPLACE TABLE {table} AS SELECT DISTINCT {columns.SAMPLE} FROM {table}")
    return count_of(connection, table)


def table_file(path: str, target: Path) -> Path:
    """A local Parquet file of a table anywhere, CSV or Parquet. Raises InputError."""
    if not storage.exists(path):
        raise InputError(f"{path} does not exist")
    if storage.is_folder(path):
        raise InputError(f"{path} is a folder, a .csv or .parquet file was expected")
    with remote.read_errors(path):
        file = as_parquet(path, target)
    with storage.open_parquet(str(file)) as opened:
        opened.check_dictionaries(path, all_encodings=True)
    return file


def sample_column_of(file: Path, named: str) -> str:
    """The column that names rows. Raises InputError."""
    names = pq.read_schema(file).names
    found = next((name for name in columns.SAMPLE_COLUMN_NAMES if name in names), None)
    if found is None:
        known = ", ".join(columns.SAMPLE_COLUMN_NAMES[:4])
        raise InputError(f"{named} has no column that names rows ({known}, ...); it has {', '.join(names[:20])}")
    return found


def _lines(path: str) -> Iterator[list[str]]:
    """The lines of a text file that are not empty, block by block."""
    with open_text(path) as opened, remote.read_errors(path):
        file = io.BufferedReader(opened, _BLOCK_BYTES)  # type: ignore[type-var]
        if file.peek(3).startswith(codecs.BOM_UTF8):
            file.read(3)
        while lines := file.readlines(_BLOCK_BYTES):
            try:
                yield [text for line in lines if (text := line.removesuffix(b"\n").removesuffix(b"\r").decode())]
            except UnicodeDecodeError:
                raise InputError(
                    f"{path} is no UTF-8 text (Latin-1 or Windows-1252, perhaps); save the file as UTF-8"
                ) from None


def rows_in(table: str, source: str) -> str:
    """The query for rows of `source` whose name is in the table."""
    return f"SELECT {ROW} FROM {source} WHERE {NAME} IN (SELECT {columns.SAMPLE} FROM {table})"


def mark_of(line: bytes) -> tuple[str, str | None]:
    """Sample and mark (keep, drop or None) of a line as `beholder browse` writes it. Raises ValueError for any other."""
    try:
        event = json_value(line)
        sample, mark = event[columns.SAMPLE], event["mark"]
    except (TypeError, KeyError) as error:
        raise ValueError("no object with a sample and a mark") from error
    if not isinstance(sample, str) or mark not in _MARKS:
        raise ValueError("no sample, or another mark")
    sample.encode()  # half a pair of surrogates can name no row
    return sample, mark


def read_marks(path: str) -> dict[str, str]:
    """Sample -> "keep" or "drop", by the last event of each sample; JSON lines as `beholder browse` writes them.

    A last line that is torn (the writer was killed) is ignored; any other broken line is an InputError that names it.
    """
    with remote.read_errors(path), storage.open_binary(path) as file:
        lines = file.read().split(b"\n")
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            sample, mark = mark_of(line)
        except ValueError:
            if number == len(lines):
                break
            raise InputError(
                f'{path}, line {number}: not a mark; expected {{"sample": ..., "mark": "keep"|"drop"|null}}'
            ) from None
        if mark is None:
            found.pop(sample, None)
        else:
            found[sample] = mark
    return found


def marked_rows(
    connection: duckdb.DuckDBPyConnection, marks: dict[str, str], source: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], int]:
    """Rows of `source` marked keep, rows marked drop, and how many of the marks name a row."""
    words = pa.array(list(marks.values()), pa.string())
    numbered = {"name": pa.array(list(marks), pa.large_string()), "mark": words, "number": np.arange(len(marks))}
    connection.register("marks", pa.table(numbered))
    query = f"SELECT {ROW}, mark = 'keep', number FROM (SELECT {ROW}, {NAME} AS name FROM {source}) JOIN marks USING (name)"
    found = interruptible(connection, lambda: connection.sql(query).to_arrow_table())
    rows = found.column(0).to_numpy().astype(np.int64)
    keep = found.column(1).to_numpy(zero_copy_only=False).astype(bool)
    return np.sort(rows[keep]), np.sort(rows[~keep]), len(np.unique(found.column(2).to_numpy()))


_RENAMED = "meta_"
"""Before the name of a joined column when the set has one of that name."""


@dataclass(frozen=True)
class Joined:
    """A set and what tables bring to it, as DuckDB knows them.

    Attributes:
        view: the rows, with all columns.
        untyped: those of the columns that come from a CSV: text, exactly as it stands there.
        file: a Parquet file with the metadata of each row, in the set's order; None where nothing was joined.
        notes: lines about columns that had to be renamed, and about tables that lack rows of the set.
    """

    view: str
    untyped: frozenset[str]
    file: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """Of the joined columns."""
        return pq.read_schema(self.file).remove_metadata() if self.file is not None else pa.schema([])


def register_all(
    connection: duckdb.DuckDBPyConnection, scores: ScoreSet, join: Sequence[str], scratch: Path, remedy: Remedy = NO_FLAG
) -> Joined:
    """Make a set, and the tables that are joined to it, known to DuckDB. Raises InputError as `join_metadata`."""
    with clear_errors(f"{scores.source} cannot be read", remedy):
        scores.register(connection)
    if not join:
        return Joined("scores", scores.untyped)
    with clear_errors(f"--join {', '.join(join)}", remedy):
        return join_metadata(connection, scores, join, scratch)


def join_metadata(connection: duckdb.DuckDBPyConnection, scores: ScoreSet, paths: Sequence[str], scratch: Path) -> Joined:
    """Join tables to the set (view `scores` of the connection) by sample.

    Columns of bytes are left out. A column whose name the set has already is called meta_NAME.

    Raises:
        InputError: a table that names a sample twice, that has no column of samples, or that no sample fits.
    """
    taken = {name.casefold() for name in (*scores.schema.names, "sample", ROW)}
    renamed: dict[str, str] = {}
    partly: list[str] = []
    untyped = set(scores.untyped)
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
    mine = f"SELECT *, file_row_number AS joined_row FROM {parquet_of([target], 'file_row_number')}"
    connection.execute(
        f"CREATE VIEW scores_joined AS SELECT s.*, m.* EXCLUDE (joined_row, file_row_number) "
        f"FROM scores AS s JOIN ({mine}) AS m ON s.{ROW} = m.joined_row"
    )
    return Joined("scores_joined", frozenset(untyped), target, (*notes, *partly))


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
        raise InputError(f"--join {path} has the sample {twice[0]!r} twice; keep one of its rows")
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
    return is_bytes(kind)


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
    with within_free_memory(), database as connection:
        found = register_all(connection, scores, join, scratch)
    assert found.file is not None
    more = found.schema
    own = {item.name: getattr(scores, item.name) for item in fields(ScoreSet)} | {
        "schema": pa.schema([*scores.schema, *more], scores.schema.metadata),
        "untyped": found.untyped,
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
        found = register_all(connection, scores, join, scratch)
        with clear_errors(f"{scores.source} cannot be read"):
            tried = " OR ".join(f"NOT isnan(CAST({quoted(name)} AS DOUBLE))" for name in scores.score_columns)
            (num_tried,) = connection.execute(f"SELECT count(*) FILTER (WHERE {tried}) FROM scores").fetchall()[0]
        holds, chosen = None, f"FROM {found.view}"
        if where:
            texts, holds = Untyped(found.untyped), np.ones(scores.num_rows, np.bool_)
            for condition in where:
                holds &= mask_where(connection, condition, found.view, scores.num_rows, texts, remedy=of_where)
            connection.register("kept_rows", pa.table({"number": np.flatnonzero(holds)}))
            chosen += f" WHERE {ROW} IN (SELECT number FROM kept_rows)"
        own = [item.name for item in scores.schema if not holds_bytes(item.type) or item.name in scores.score_columns]
        wanted = [f"{NAME} AS {quoted(scores.sample_column)}"]
        wanted += [quoted(name) for name in (*own, *found.schema.names) if name != scores.sample_column]
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
        untyped=found.untyped - {scores.sample_column},
        hidden=None,
    )
    return Narrowed(kept, holds, int(num_tried), found.notes)

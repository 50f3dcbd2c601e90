"""A score set and metadata tables in; one Parquet file with the metadata of each row, in the set's order, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from beholder.errors import InputError
from beholder.scoreset.database import do, first_row
from beholder.scoreset.foreign import is_csv
from beholder.scoreset.sample_lists import NAME, sample_column_of, table_file
from beholder.scoreset.score_set import ROW, ScoreSet, parquet_of, quoted, text_literal

if TYPE_CHECKING:
    import duckdb

_ROW_GROUP_ROWS = 122_880
RENAMED = "meta_"
"""Before the name of a joined column when the set has one of that name."""


@dataclass(frozen=True)
class Joined:
    """What tables bring to a set.

    Attributes:
        file: a Parquet file with the metadata of each row, in the set's order.
        renamed: columns that had to be renamed -> their new names.
        partly: a line for each table that lacks some rows of the set.
        untyped: those of the columns that come from a CSV: text, exactly as it stands there.
    """

    file: Path
    renamed: dict[str, str]
    partly: list[str]
    untyped: frozenset[str]

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines about the tables that should be told."""
        return (*(f"joined column {old!r} is called {new!r} here" for old, new in self.renamed.items()), *self.partly)


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
    selected, joins = [f"s.{ROW}"], [f"(SELECT {ROW}, {NAME} AS name FROM scores) AS s"]
    for number, path in enumerate(paths):
        file = table_file(path, scratch / f"join{number}.parquet")
        sample = sample_column_of(file, path)
        num_fitting = _check_once(connection, file, sample, path)
        if num_fitting < scores.num_rows:
            lacking = scores.num_rows - num_fitting
            partly.append(f"--join {path} lacks {lacking:,} of {scores.num_rows:,} rows; its columns are null there")
        table = f"m{number}"
        joins.append(f"LEFT JOIN {parquet_of([file])} AS {table} ON s.name = CAST({table}.{quoted(sample)} AS VARCHAR)")
        for item in pq.read_schema(file):
            if item.name == sample or holds_bytes(item.type):
                continue
            name = item.name
            if name.casefold() in taken:
                name = renamed[item.name] = f"{RENAMED}{item.name}"
            if name.casefold() in taken:
                raise InputError(f"--join {path}: column {item.name!r} is there already, and {name!r} too; rename it")
            taken.add(name.casefold())
            if is_csv(path):
                untyped.add(name)
            selected.append(f"{table}.{quoted(item.name)} AS {quoted(name)}")
    if len(selected) == 1:
        raise InputError(f"--join {paths[0]} adds no column")
    target = scratch / "joined.parquet"
    query = f"SELECT {', '.join(selected)} FROM {' '.join(joins)} ORDER BY s.{ROW}"
    options = f"FORMAT parquet, ROW_GROUP_SIZE {_ROW_GROUP_ROWS}, COMPRESSION snappy"
    connection.execute("SET preserve_insertion_order = true")
    do(connection, f"COPY (SELECT * EXCLUDE ({ROW}) FROM ({query})) TO {text_literal(str(target))} ({options})")
    connection.execute("SET preserve_insertion_order = false")
    return Joined(target, renamed, partly, frozenset(untyped))


def _check_once(connection: duckdb.DuckDBPyConnection, file: Path, sample: str, path: str) -> int:
    """How many rows of the set the table has. Raises InputError when it names a sample twice, or has no row of the set."""
    name, rows = quoted(sample), parquet_of([file])
    twice = first_row(
        connection, f"SELECT {name} FROM {rows} WHERE {name} IS NOT NULL GROUP BY {name} HAVING count(*) > 1 LIMIT 1"
    )
    if twice is not None:
        raise InputError(f"--join {path} has the sample {twice[0]!r} twice; which of its rows is meant cannot be told")
    found = first_row(
        connection,
        f"SELECT count(*) FROM scores WHERE {NAME} IN (SELECT CAST({name} AS VARCHAR) FROM {rows} WHERE {name} IS NOT NULL)",
    )
    num_fitting = int(found[0]) if found is not None else 0
    if not num_fitting and first_row(connection, "SELECT 1 FROM scores LIMIT 1") is not None:
        raise InputError(f"--join {path}: its column {sample!r} has none of the scores' samples; is it of another set?")
    return num_fitting


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

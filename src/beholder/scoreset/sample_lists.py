"""Lists of samples and files of marks, and which rows of a score set they name."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beholder import columns
from beholder.errors import InputError
from beholder.io import storage
from beholder.io.tables import open_text
from beholder.scoreset.database import count_of, do, interruptible
from beholder.scoreset.foreign import as_parquet
from beholder.scoreset.score_set import ROW, parquet_of, quoted

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
    with storage.remote_errors(path):
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
    with open_text(path) as opened, storage.remote_errors(path):
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
        event = json.loads(line)
        sample, mark = event[columns.SAMPLE], event["mark"]
    except (TypeError, KeyError, RecursionError) as error:
        raise ValueError("no object with a sample and a mark") from error
    if not isinstance(sample, str) or mark not in _MARKS:
        raise ValueError("no sample, or another mark")
    sample.encode()  # half a pair of surrogates can name no row
    return sample, mark


def read_marks(path: str) -> dict[str, str]:
    """Sample -> "keep" or "drop", by the last event of each sample; JSON lines as `beholder browse` writes them.

    A last line that is torn (the writer was killed) is ignored; any other broken line is an InputError that names it.
    """
    with storage.remote_errors(path), storage.open_binary(path) as file:
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

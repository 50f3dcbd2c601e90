"""A score set of the rows that meet conditions, with the columns of joined tables beside its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from beholder.scoreset.database import NO_FLAG, Remedy, clear_errors, connect, do, mask_where
from beholder.scoreset.joined import holds_bytes, join_metadata, register_joined
from beholder.scoreset.sample_lists import NAME
from beholder.scoreset.score_set import ROW, ScoreSet, quoted, text_literal
from beholder.scoreset.untyped import Untyped

_ROW_GROUP_ROWS = 122_880


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
    remedy: Remedy = NO_FLAG,
) -> Narrowed:
    """Join tables and apply conditions, which mean what they do in `curation.selecting`; at least one of the two is given.

    Memory: one byte a row, and DuckDB's. The rows lie in a file in `scratch`, which has to stay as long as they are read.

    Raises:
        InputError: a condition that DuckDB does not take, or that fails on a value; a table that cannot be joined.
    """
    with contextlib.closing(connect(scratch, num_threads=num_threads)) as connection:
        with clear_errors(f"{scores.source} cannot be read", remedy):
            scores.register(connection, "scores")
            tried = " OR ".join(f"NOT isnan(CAST({quoted(name)} AS DOUBLE))" for name in scores.score_columns)
            (num_tried,) = connection.execute(f"SELECT count(*) FILTER (WHERE {tried}) FROM scores").fetchall()[0]
        view, untyped, more = "scores", set(scores.untyped), list[str]()
        notes: tuple[str, ...] = ()
        if join:
            with clear_errors(f"--join {', '.join(join)}", remedy):
                found = join_metadata(connection, scores, join, scratch)
                view = register_joined(connection, found.file)
            untyped |= found.untyped
            notes = found.notes
            more = pq.read_schema(found.file).names
        holds = None
        chosen = f"FROM {view}"
        if where:
            texts = Untyped(untyped)
            holds = np.ones(scores.num_rows, np.bool_)
            for condition in where:
                holds &= mask_where(
                    connection, condition, view, scores.num_rows, texts, remedy=replace(remedy, is_condition=True)
                )
            connection.register("kept_rows", pa.table({"number": np.flatnonzero(holds)}))
            chosen += f" WHERE {ROW} IN (SELECT number FROM kept_rows)"
        own = [item.name for item in scores.schema if not holds_bytes(item.type) or item.name in scores.score_columns]
        wanted = [quoted(name) for name in own if name != scores.sample_column]
        wanted = [f"{NAME} AS {quoted(scores.sample_column)}", *wanted, *map(quoted, more)]
        target = scratch / "narrowed.parquet"
        options = f"FORMAT parquet, ROW_GROUP_SIZE {_ROW_GROUP_ROWS}, COMPRESSION snappy"
        with clear_errors(f"{scores.source} cannot be read", replace(remedy, is_condition=bool(where))):
            connection.execute("SET preserve_insertion_order = true")
            query = f"SELECT {', '.join(wanted)} {chosen} ORDER BY {ROW}"
            do(connection, f"COPY ({query}) TO {text_literal(str(target))} ({options})")
    with pq.ParquetFile(target) as file:
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
    kept = replace(
        scores,
        files=(target,),
        table=None,
        row_counts=(num_rows,),
        schema=schema,
        untyped=frozenset(untyped - {scores.sample_column}),
        hidden=None,
        left_out=np.empty(0, np.uint32),
    )
    return Narrowed(kept, holds, int(num_tried), notes)

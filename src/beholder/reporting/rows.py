"""Names, scores and metadata of a few rows, read by DuckDB without holding the set in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from beholder import columns
from beholder.io.records import finite
from beholder.scoreset.database import all_rows, refused
from beholder.scoreset.joined import NAME, holds_bytes
from beholder.scoreset.score_set import ROW, ScoreSet, quoted

if TYPE_CHECKING:
    import duckdb

VIEW = "scores"
_MOST_COLUMNS, _MOST_CHARACTERS = 24, 240


@dataclass(frozen=True)
class RowFacts:
    """One row of a score set.

    Attributes:
        row: its number in the set.
        sample: its name.
        scores: one per score column, None where there is none.
        facts: (column, text) of the other columns that hold something, cut to a few hundred characters.
        address: what is looked for as its picture: its name, or what the picture column has; None: nothing.
        caption: cut to a few hundred characters, or "".
    """

    row: int
    sample: str
    scores: tuple[float | None, ...]
    facts: tuple[tuple[str, str], ...]
    address: str | None
    caption: str = ""


def fetch_rows(
    connection: duckdb.DuckDBPyConnection,
    scores: ScoreSet,
    rows: Iterable[int],
    *,
    picture_column: str | None = None,
    caption_column: str | None = None,
) -> dict[int, RowFacts]:
    """The rows with these numbers, by number; `scores` was registered as `VIEW`.

    Args:
        connection: DuckDB's.
        scores: the set.
        rows: numbers of rows.
        picture_column: says where the pictures are; None: the rows' names do.
        caption_column: has captions; None: there are none.
    """
    import duckdb

    wanted = np.unique(np.fromiter(rows, np.int64))
    if not len(wanted):
        return {}
    shown = shown_columns(scores)
    address = NAME if picture_column is None else f"nullif(CAST({quoted(picture_column)} AS VARCHAR), '')"
    caption = f"left(CAST({quoted(caption_column)} AS VARCHAR), {_MOST_CHARACTERS})" if caption_column is not None else "''"
    chosen = [ROW, NAME, address, f"coalesce({caption}, '')"]
    chosen += [f"CAST({quoted(name)} AS DOUBLE)" for name in scores.score_columns]
    chosen += [f"left(CAST({quoted(name)} AS VARCHAR), {_MOST_CHARACTERS})" for name in shown]
    connection.register("wanted_rows", pa.table({"number": wanted}))
    try:
        found = all_rows(connection, f"SELECT {', '.join(chosen)} FROM {VIEW} WHERE {ROW} IN (SELECT number FROM wanted_rows)")
    except duckdb.Error as error:
        raise refused(f"{scores.source} cannot be read", error) from None
    first = len(chosen) - len(shown) - len(scores.score_columns)
    last = len(chosen) - len(shown)
    return {
        line[0]: RowFacts(
            line[0],
            line[1],
            tuple(finite(value) for value in line[first:last]),
            tuple((column, text) for column, text in zip(shown, line[last:], strict=True) if text),
            line[2],
            line[3],
        )
        for line in found
    }


def shown_columns(scores: ScoreSet) -> list[str]:
    """The metadata columns that are shown with a picture: all but bytes, the first few dozen."""
    return [
        name
        for name in scores.metadata_columns
        if not holds_bytes(scores.schema.field(name).type) and name not in (columns.STATUS, columns.SAMPLE)
    ][:_MOST_COLUMNS]


def rows_named(connection: duckdb.DuckDBPyConnection, names: Sequence[str]) -> dict[str, int]:
    """The row of each name (the first, where a name stands twice); names that the set lacks are left out."""
    if not names:
        return {}
    connection.register("wanted_names", pa.table({"name": pa.array(list(dict.fromkeys(names)), pa.large_string())}))
    query = f"SELECT {NAME}, min({ROW}) FROM {VIEW} WHERE {NAME} IN (SELECT name FROM wanted_names) GROUP BY 1"
    return dict(all_rows(connection, query))

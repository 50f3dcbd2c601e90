"""A file of what is kept at a threshold, to download, and the `beholder select` command line that gives the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from beholder.browse.marks import Mark
from beholder.browse.rows import View
from beholder.browse.session import Session
from beholder.columns import SAMPLE
from beholder.options import KEEP_FIRST

ExportFormat = Literal["txt", "csv", "parquet", "jsonl"]
EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
MEDIA_TYPES: dict[ExportFormat, str] = {
    "txt": "text/plain; charset=utf-8",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "jsonl": "application/jsonl; charset=utf-8",
}
_PIECE_ROWS = 65_536


def write_selection(session: Session, view: View, threshold: float, target: Path) -> int:
    """Write what is kept as `beholder select --out` does, best first; the end of the file's name says how.

    Columns: sample, the scores, rank, kept, dropped_by, then the other columns of the set (but those of vectors).

    Returns:
        How many rows were written.
    """
    from beholder.curate.select import tables  # brings numba, which the page does not need before
    from beholder.io.tables import write_table

    rows, scores, store = session.selected(view, threshold), session.scores, session.store
    passed = tables.passed_columns(scores, [name for name in scores.metadata_columns if name in store.names])
    schema = tables.list_schema(scores, (pa.field(new, _kind(session, name)) for name, new in passed.items()))
    if target.suffix == ".txt":
        schema = pa.schema([schema.field(SAMPLE)])
    names = [SAMPLE] if len(schema) == 1 else [SAMPLE, *scores.score_columns, *passed]
    num_first = 1 + len(scores.score_columns)

    def pieces() -> Iterator[pa.Table]:
        for start in range(0, len(rows), _PIECE_ROWS):
            piece = rows[start : start + _PIECE_ROWS]
            ready: list[Any] = session.store.fetch(piece, names).columns
            if len(schema) > 1:
                ready[num_first:num_first] = tables.decided(session.ranks(view.score)[piece], np.zeros(len(piece), np.uint8))
            yield pa.table([column.cast(item.type) for column, item in zip(ready, schema, strict=True)], schema=schema)

    asked: dict[str, Any] = {"score": view.score, "min_score": threshold, "where": list(view.conditions), **_repeated(session)}
    if session.asked.join:
        asked["join"] = list(session.asked.join)
    marks = {mark.word: len(session.marks.marked(mark)) for mark in (Mark.KEEP, Mark.DROP)}
    write_table(str(target), pieces(), schema, tables.list_record(scores, asked, store.num_rows, len(rows), marked=marks))
    return len(rows)


def _kind(session: Session, name: str) -> pa.DataType:
    """The type of a passed column: the set's own, but for types that cannot be cast back to."""
    kind = session.scores.schema.field(name).type
    is_lost = pa.types.is_dictionary(kind) or pa.types.is_null(kind) or pa.types.is_float16(kind)
    return session.store.table.schema.field(name).type if is_lost else kind


def _repeated(session: Session) -> dict[str, str]:
    """How rows that name a sample again are taken, where that is not as usual."""
    return {} if session.asked.repeated == KEEP_FIRST else {"repeated": session.asked.repeated}


def select_command(session: Session, view: View, threshold: float, kind: ExportFormat) -> str:
    """The command line that selects the same rows."""
    options = session.asked
    words = ["beholder", "select", session.scores.source, "--min-score", repr(float(threshold))]
    if len(session.scores.score_columns) > 1:
        words += ["--score", view.score]
    for condition in view.conditions:
        words += ["--where", condition]
    if len(session.marks.marked(Mark.KEEP)) or len(session.marks.marked(Mark.DROP)):
        words += ["--marks", str(session.marks.path)]
    for table in options.join:
        words += ["--join", table]
    named = (
        ("--repeated", _repeated(session).get("repeated")),
        ("--score-column", options.score_column),
        ("--sample-column", options.sample_column),
    )
    for flag, value in named:
        if value is not None:
            words += [flag, value]
    return shlex.join([*words, "-o", f"selection.{kind}"])

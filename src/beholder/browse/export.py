"""What is kept at a threshold in; a file of it to download, and the `beholder select` command line that gives the same, out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa

from beholder.browse.marks import Mark
from beholder.browse.rows import Rows, View
from beholder.browse.session import Session
from beholder.columns import FORMAT_VERSION, PICTURES, SAMPLE, source_names
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
    from beholder.io.tables import write_table  # brings numba, which the page does not need before

    rows = session.selected(view, threshold)
    passed = _passed(session)
    schema = _schema(session, passed, only_samples=target.suffix == ".txt")
    write_table(str(target), _tables(session, view, rows, passed, schema), schema, _record(session, view, threshold, len(rows)))
    return len(rows)


def _passed(session: Session) -> dict[str, str]:
    """Columns that are passed through -> their names in the file, as `select` calls them."""
    from beholder.curate.select.tables import RESERVED
    from beholder.curate.select.tables import SELECTION_FORMAT

    scores = session.scores
    is_selection = scores.record.get("format") == SELECTION_FORMAT
    taken = {SAMPLE, *scores.score_columns, *RESERVED}
    names = [name for name in scores.metadata_columns if name in session.store.names]
    return source_names([name for name in names if not (is_selection and name in RESERVED)], taken)


def _schema(session: Session, passed: dict[str, str], *, only_samples: bool) -> pa.Schema:
    sample = pa.field(SAMPLE, pa.large_string())
    if only_samples:
        return pa.schema([sample])
    from beholder.curate.select.tables import DROPPED_BY, KEPT, RANK

    kinds = {name: session.scores.schema.field(name).type for name in session.scores.score_columns}
    scores = [pa.field(name, kind if pa.types.is_floating(kind) else pa.float64()) for name, kind in kinds.items()]
    told = [pa.field(RANK, pa.int64()), pa.field(KEPT, pa.bool_()), pa.field(DROPPED_BY, pa.string())]
    return pa.schema([sample, *scores, *told, *(pa.field(new, _kind(session, name)) for name, new in passed.items())])


def _kind(session: Session, name: str) -> pa.DataType:
    """The type of a passed column: the set's own, but for types that cannot be cast back to."""
    kind = session.scores.schema.field(name).type
    is_lost = pa.types.is_dictionary(kind) or pa.types.is_null(kind) or pa.types.is_float16(kind)
    return session.store.table.schema.field(name).type if is_lost else kind


def _tables(session: Session, view: View, rows: Rows, passed: dict[str, str], schema: pa.Schema) -> Iterator[pa.Table]:
    names = [SAMPLE] if len(schema) == 1 else [SAMPLE, *session.scores.score_columns, *passed]
    ranks = session.ranks(view.score) if len(schema) > 1 else np.empty(0, np.uint32)
    for start in range(0, len(rows), _PIECE_ROWS):
        piece = rows[start : start + _PIECE_ROWS]
        found = session.store.fetch(piece, names)
        columns: list[Any] = [found.column(SAMPLE)]
        if len(schema) > 1:
            rank = ranks[piece]
            columns += [found.column(name) for name in session.scores.score_columns]
            columns += [pa.array(rank.astype(np.int64), mask=rank == 0), pa.array(np.ones(len(piece), bool))]
            columns += [pa.nulls(len(piece), pa.string()), *(found.column(name) for name in passed)]
        yield pa.table([column.cast(item.type) for column, item in zip(columns, schema, strict=True)], schema=schema)


def _record(session: Session, view: View, threshold: float, num_kept: int) -> dict[str, Any]:
    """What the file says about itself, as `select`'s files do."""
    from beholder.curate.select.tables import SELECTION_FORMAT

    scores = session.scores
    known = dict(zip(scores.record.get("score_columns") or [], scores.record.get("heads") or [], strict=False))
    record = {
        "format": SELECTION_FORMAT,
        "format_version": FORMAT_VERSION,
        "source": scores.source,
        "rules": {"score": view.score, "min_score": threshold, "where": list(view.conditions)}
        | ({"join": list(session.asked.join)} if session.asked.join else {})
        | _repeated(session),
        "num_rows": session.store.num_rows,
        "num_kept": num_kept,
        "score_columns": list(scores.score_columns),
        "heads": [known.get(name) or {"name": scores.head_names.get(name)} for name in scores.score_columns],
        "source_record": scores.record,
    }
    marks = {mark.word: len(session.marks.marked(mark)) for mark in (Mark.KEEP, Mark.DROP)}
    record["marked"] = marks
    if PICTURES in scores.record:
        record[PICTURES] = scores.record[PICTURES]
    return record


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

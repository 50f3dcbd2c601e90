"""Scores as a path or data frame in Python in; an HTML page out."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from beholder.errors import InputError
from beholder.reporting.options import ReportOptions
from beholder.reporting.report import Progress, ReportSummary, write_report

if TYPE_CHECKING:
    import pyarrow as pa


def report(
    scores: Any, out: str | os.PathLike[str] = "report.html", *, on_progress: Progress | None = None, **options: Any
) -> ReportSummary:
    """Write one self-contained HTML page about scores.

    Args:
        scores: what `beholder score` wrote, or any Parquet or CSV file with a column of scores, a folder or glob of them; or a
            polars, pandas or Arrow table.
        out: the HTML file.
        on_progress: called with (what is being done, how much is done, how much there is; 0: unknown).
        options: those of `beholder report`, by the names of `ReportOptions`: at, selection, groups, per_bucket, pictures,
            root, no_thumbnails, columns, title, max_size, overwrite, ...

    Raises:
        TypeError: no such option, or scores of another kind.
        InputError: scores, selection or groups that cannot be read.
        OutputError: the file is there already, or cannot be written.
    """
    known = {item.name for item in fields(ReportOptions)} - {"scores", "out"}
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise TypeError(f"report() has no option {unknown!r}; there are {', '.join(sorted(known))}")
    for name in ("pictures", "columns"):
        if name in options:
            options[name] = (options[name],) if isinstance(options[name], str) else tuple(options[name])
    for name in ("selection", "groups", "root"):
        if options.get(name) is not None:
            options[name] = os.fspath(options[name])
    if options.get("at") is not None:
        options["at"] = str(options["at"])
    is_place = isinstance(scores, str | os.PathLike)
    place = os.fspath(scores) if is_place else "scores"
    table = None if is_place else as_table(scores)
    return write_report(ReportOptions(scores=place, out=os.fspath(out), **options), table=table, on_progress=on_progress)


def as_table(frame: Any) -> pa.Table:
    """A polars, pandas or Arrow frame as an Arrow table. Raises TypeError for anything else, InputError for odd frames."""
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return frame
    library = type(frame).__module__.split(".")[0]
    try:
        if library == "polars":
            return (frame.collect() if hasattr(frame, "collect") else frame).to_arrow()
        if library == "pandas":
            return pa.Table.from_pandas(frame, preserve_index=False)
        if hasattr(frame, "__arrow_c_stream__") or isinstance(frame, pa.RecordBatch):
            return pa.table(frame)
    except (pa.ArrowException, AttributeError, ValueError) as error:
        raise InputError(f"the frame cannot be read: {' '.join(str(error).split())[:300]}") from None
    raise TypeError(f"report() takes a path or a polars, pandas or Arrow table, not {type(frame).__name__}")

"""Scores as a path or data frame in Python in; an HTML page out."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from beholder.io.frames import as_source, texts_of
from beholder.options import take_old_names
from beholder.reporting.options import ReportOptions
from beholder.reporting.report import Progress, ReportSummary, write_report

if TYPE_CHECKING:
    pass


def report(
    scores: Any, out: str | os.PathLike[str] = "report.html", *, on_progress: Progress | None = None, **options: Any
) -> ReportSummary:
    """Write one self-contained HTML page about scores.

    Args:
        scores: what `beholder score` wrote, or any Parquet or CSV file with a column of scores, a folder or glob of them; or a
            polars, pandas or Arrow table.
        out: the HTML file.
        on_progress: called with (what is being done, how much is done, how much there is; 0: unknown).
        options: those of `beholder report`, by the names of `ReportOptions`: min_score, decisions, groups, per_bucket,
            pictures, root, no_thumbnails, group_by, where, join, title, max_size, overwrite, ... Their former names (at,
            selection, columns) are taken, too.

    Raises:
        TypeError: no such option, or scores of another kind.
        InputError: scores, decisions or groups that cannot be read.
        OutputError: the file is there already, or cannot be written.
    """
    options = take_old_names(options, ReportOptions, "report")
    known = {item.name for item in fields(ReportOptions)} - {"scores", "out"}
    unknown = next((name for name in options if name not in known), None)
    if unknown is not None:
        raise TypeError(f"report() has no option {unknown!r}; there are {', '.join(sorted(known))}")
    for name in ("pictures", "group_by", "where", "join"):
        if name in options:
            options[name] = texts_of(options[name], name, "report")
    for name in ("decisions", "groups", "root"):
        if options.get(name) is not None:
            options[name] = os.fspath(options[name])
    if options.get("min_score") is not None:
        options["min_score"] = str(options["min_score"])
    given, _ = as_source(scores, "report")
    is_place = isinstance(given, str)
    made = ReportOptions(scores=given if is_place else "scores", out=os.fspath(out), **options)
    return write_report(made, table=None if is_place else given, on_progress=on_progress)

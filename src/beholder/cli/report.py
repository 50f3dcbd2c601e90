"""`beholder report`: writes one HTML page, shows its progress and prints its summary."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from beholder.cli.flags import SUMMARY_FLAGS, command
from beholder.reporting.options import ReportOptions

if TYPE_CHECKING:
    from beholder.reporting.report import ReportSummary

EXAMPLES = """Examples:\n
  beholder report scores.parquet -o report.html\n
  beholder report scores/ --min-score 5 -o report.html --per-bucket 48\n
  beholder report scores.parquet --decisions decisions.parquet --groups groups.parquet\n
  beholder report scores.parquet --pictures /new/place/photos -o report.html\n
  beholder report laion.parquet --score-column AESTHETIC_SCORE --no-thumbnails
"""


def run(options: ReportOptions, *, as_json: bool, quiet: bool) -> None:
    """Write the page and tell about it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    from beholder.reporting.report import write_report

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("opening the scores", total=None)

        def shown(text: str, done: int, total: int) -> None:
            progress.update(task, description=text, completed=done, total=total or None)

        summary = write_report(options, arguments=sys.argv[1:], on_progress=shown)
    if as_json:
        print(json.dumps(asdict(summary), indent=2))
    elif not quiet:
        show(summary)


def show(summary: ReportSummary) -> None:
    """Print what was written."""
    from rich.console import Console

    from beholder.columns import WHERE_NOW, PictureReason, reason_text

    console = Console(highlight=False, soft_wrap=True)
    scored = ", ".join(f"{count:,} by {name}" for name, count in summary.num_scored_by_column.items())
    rows = f"{summary.num_rows_that_meet:,} row{'s' if summary.num_rows_that_meet != 1 else ''}"
    if summary.where and summary.num_rows_that_meet < summary.num_rows:
        rows = f"{summary.num_rows_that_meet:,} of {summary.num_rows:,} rows meet the conditions"
    lines = [f"{rows}, scored {scored}; rejected {summary.num_rejected:,}"]
    if summary.num_thumbnails:
        size = f"at most {summary.thumbnail_px} pixels, quality {summary.thumbnail_quality}"
        lines.append(f"{summary.num_thumbnails:,} of {summary.num_pictures:,} chosen pictures are shown, {size}")
    lines += [
        f"  {count:,} not shown, {reason}: {reason_text(reason) or 'left out'}" for reason, count in summary.missing.items()
    ]
    if summary.missing.get(PictureReason.MISSING):
        lines.append(f"  if they were moved: {WHERE_NOW}; if a column has their paths or URLs: --picture-column")
    lines += summary.notes
    lines += [f"warning: {text}" for text in summary.warnings]
    lines += ["", f"report: {summary.output} ({summary.num_bytes / 1e6:.1f} MB, {summary.seconds:.1f} s)"]
    for line in lines:
        console.print(line, markup=False)


report = command(
    ReportOptions,
    run,
    name="report",
    argument="scores",
    sources="What `beholder score` wrote, or any Parquet or CSV file with a column of scores; a folder or glob of them.",
    description="""Write one self-contained HTML page about scores.

    Histogram, kept share per threshold, where others cut, who is kept, galleries by score, rejects, near-duplicates,
    provenance. It asks nothing of any network, can be read on a phone, and is kept below 9 MB.
    """,
    examples=EXAMPLES,
    extra=SUMMARY_FLAGS,
)

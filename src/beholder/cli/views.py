"""The commands that show scores: `beholder report` writes a page, `browse` serves one, `rejects` lists what has none."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from beholder.browse.options import BrowseOptions
from beholder.cli.flags import SCORES_HELP, SUMMARY_FLAGS, command, output_flags
from beholder.errors import number_of
from beholder.options import RejectsOptions
from beholder.reporting.options import ReportOptions

if TYPE_CHECKING:
    from beholder.browse.server import Address
    from beholder.reporting.report import ReportSummary
    from beholder.scoreset.rejects import Rejected


def _report(options: ReportOptions, *, as_json: bool, quiet: bool) -> None:
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
        _show_summary(summary)


def _show_summary(summary: ReportSummary) -> None:
    """Print what was written."""
    from rich.console import Console

    from beholder.columns import WHERE_NOW, PictureReason, reason_text

    console = Console(highlight=False, soft_wrap=True)
    scored = ", ".join(f"{count:,} by {name}" for name, count in summary.num_scored_by_column.items())
    rows = number_of(summary.num_rows_that_meet, "row")
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
    _report,
    name="report",
    argument="scores",
    sources=SCORES_HELP,
    description="""Write one self-contained HTML page about scores.

    Histogram, kept share per threshold, where others cut, who is kept, galleries by score, rejects, near-duplicates,
    provenance. It asks nothing of any network, can be read on a phone, and is kept below 9 MB.
    """,
    examples="""Examples:\n
  beholder report scores.parquet -o report.html\n
  beholder report scores/ --min-score 5 -o report.html --per-bucket 48\n
  beholder report scores.parquet --decisions decisions.parquet --groups groups.parquet\n
  beholder report scores.parquet --pictures /new/place/photos -o report.html\n
  beholder report laion.parquet --score-column AESTHETIC_SCORE --no-thumbnails
""",
    extra=SUMMARY_FLAGS,
)


def _browse(options: BrowseOptions, *, as_json: bool, quiet: bool) -> None:
    """Serve until it is stopped."""
    from beholder.browse.server import browse as serve

    def ready(address: Address) -> None:
        if as_json:
            marks, _ = address.marks
            typer.echo(
                json.dumps({"url": address.url, "num_rows": address.num_rows, "marks": marks, "pictures": address.pictures})
            )
        elif quiet:
            typer.echo(address.url)
        else:
            _show_address(address)

    serve(options, on_ready=ready)
    if not (as_json or quiet):
        typer.echo("\nstopped; all marks are in the file")


def _show_address(address: Address) -> None:
    path, held = address.marks
    typer.echo(f"{address.num_rows:,} rows at  {address.url}")
    if address.pictures is not None:
        typer.echo(address.pictures)
    typer.echo(f"marks go to  {path}  ({held})")
    if address.has_token:
        typer.echo("whoever has this address can see the pictures and mark them; it is printed only once")
    typer.echo("Ctrl-C ends it")


browse = command(
    BrowseOptions,
    _browse,
    name="browse",
    sources="Scores: what `beholder score` wrote, or a Parquet or CSV file, folder or glob with scores.",
    description="""Look at scored pictures in the web browser: threshold slider, gallery, filters, keep and drop marks, export.

    The page is served on this machine only (127.0.0.1) and asks nothing of any other. Pictures are looked for where they
    were scored. Marks are saved at once and are taken by `beholder select --marks`.
    """,
    examples="""Examples:\n
  beholder browse photos.scores/\n
  beholder browse urls.parquet --picture-column image_url --join more.csv\n
  beholder browse scores.parquet --pictures photos/ --port 8080\n
  beholder browse scores.csv --root /data/pictures --marks mine.jsonl\n
  beholder browse laion.scores/ --host 0.0.0.0  # prints an address with a token\n
  beholder select scores.parquet --min-score 5.25 --marks scores.parquet.marks.jsonl -o kept.txt
""",
    argument="scores",
    extra=output_flags(as_json="Print the address as one line of JSON.", quiet="Print nothing but the address."),
)


def _rejects(options: RejectsOptions, *, as_json: bool) -> None:
    """Show the rows, or write them."""
    from beholder.scoreset.rejects import Rejected

    found = Rejected(options)
    if options.out is not None:
        _write_rejects(found, options, as_json=as_json)
    elif as_json:
        _print_rejects(found)
    else:
        _show_rejects(found, options)


def _none(found: Rejected, options: RejectsOptions) -> str:
    if not found.num_all:
        return f"{options.scores}: nothing was rejected"
    return f"{options.scores}: none of the {found.num_all:,} rejects has the reason {' or '.join(options.reason)}"


def _summary(found: Rejected) -> dict[str, Any]:
    return {
        "source": found.tables.source,
        "num_rejected": found.num_rows,
        "reasons": {reason.word: {"count": reason.count, "meaning": reason.text} for reason in found.reasons},
    }


def _write_rejects(found: Rejected, options: RejectsOptions, *, as_json: bool) -> None:
    num_written, left_out = found.write()
    if as_json:
        told = {**_summary(found), "output": options.out, "num_written": num_written, "warnings": [left_out] * bool(left_out)}
        typer.echo(json.dumps(told, indent=2))
        return
    if left_out:
        typer.echo(f"warning: {left_out}", err=True)
    typer.echo(f"{options.out}: {num_written:,} of {found.num_rows:,} rejects" if found.num_rows else _none(found, options))


def _print_rejects(found: Rejected) -> None:
    """One object; the rows are printed as they are read."""
    head = json.dumps(_summary(found), indent=2)
    typer.echo(head.removesuffix("\n}") + ',\n  "rejects": [', nl=False)
    before = "\n    "
    for table in found.rows():
        for row in table.to_pylist():
            typer.echo(before + json.dumps(row, ensure_ascii=False), nl=False)
            before = ",\n    "
    typer.echo(("\n  " if found.num_rows else "") + "]\n}")


def _show_rejects(found: Rejected, options: RejectsOptions) -> None:
    from beholder.cli.show import reject_line

    if not found.num_rows:
        typer.echo(_none(found, options))
        return
    for reason in found.reasons:
        typer.echo(f"{reason.count:,} {reason.word}" + (f": {reason.text}" if reason.text else ""))
        for table in found.rows(reason.word):
            for row in table.select(["sample", "message"]).to_pylist():
                detail = row["message"] if row["message"] != reason.text else ""
                typer.echo(f"  {reject_line(row['sample'], detail)}")
        typer.echo("")
    of_all = "" if found.num_rows == found.num_all else f" of {found.num_all:,}"
    typer.echo(f"{found.num_rows:,}{of_all} rejects of {options.scores}; -o FILE writes them (.csv, .parquet, .jsonl, .txt)")


rejects = command(
    RejectsOptions,
    _rejects,
    name="rejects",
    sources="What beholder score, embed or predict wrote: a folder, .parquet or .csv, local or remote.",
    argument="scores",
    description="""List every picture or row that was rejected, with the reason.""",
    examples="""Examples:\n
  beholder rejects photos.scores\n
  beholder rejects scores.parquet --reason missing --reason unreadable\n
  beholder rejects photos.scores -o rejects.csv\n
  beholder rejects photos.scores --reason truncated -o again.txt\n
""",
    extra=output_flags(as_json="Print the rows, or what was written, as JSON."),
)

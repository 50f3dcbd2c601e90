"""The commands that act: `beholder select` chooses rows and handles their files, `undo` takes that back."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beholder.cli.flags import SCORES_HELP, SUMMARY_FLAGS, command
from beholder.curate.options import SelectOptions

if TYPE_CHECKING:
    from beholder.cli.show import JobProgress
    from beholder.curate.act.messages import ActionSummary
    from beholder.curate.select.selection import Selection

_WIDTH_OF_FILES = 120
"""Columns of the funnel in a file or a pipe where COLUMNS is not set: a rule's 60 and four counts."""


def run(options: SelectOptions, *, as_json: bool, quiet: bool) -> None:
    """Select, write, act, and show it. Exits with 3 when files were left out."""
    from beholder.cli.show import JobProgress, warn
    from beholder.curate.select.selection import check_outputs, select_rows, write_lists
    from beholder.scoreset.row_names import open_each_once

    named = {"score_column": options.score_column, "sample_column": options.sample_column}
    options.check()
    check_outputs(options, options.scores)
    summary: ActionSummary | None = None
    said: list[str] = []
    is_whole = any((options.decisions_out, options.dropped_out, options.groups_out, options.xmp_rejected))
    with JobProgress(enabled=not quiet) as progress:
        progress.stage("opening the scores", 0, 0)
        with (
            open_each_once(options.scores, options.repeated, num_threads=options.threads, **named) as scores,
            select_rows(scores, options, on_rows=progress.stage, is_whole=is_whole) as selection,
        ):
            if options.caption_column is not None:
                from beholder.curate.act.pack import check_caption_column

                check_caption_column(selection.schema, options)
            written = write_lists(selection, options)
            if options.action is not None:
                summary = _act(selection, options, said.append, progress)
    for warning in summary.warnings if summary is not None else ():
        warn(warning)
    if as_json:
        print(
            json.dumps(selection.to_json() | {"written": written, "action": summary.to_json() if summary else None}, indent=2)
        )
    elif not quiet:
        show(selection, written, said, asks_nothing=not written and summary is None)
    if summary is not None and summary.exit_status:
        raise typer.Exit(summary.exit_status)


def _act(selection: Selection, options: SelectOptions, say: Any, progress: JobProgress) -> ActionSummary:
    """Do with the kept rows' files what was asked for."""
    import pyarrow as pa

    from beholder.curate.act.run import perform
    from beholder.curate.select.row_mask import REJECTING
    from beholder.scoreset.score_set import ROW

    kept = selection.kept_rows()
    kept = kept.append_column(ROW, pa.array(selection.order().astype("int64")))
    rejected = selection.dropped_rows(REJECTING) if options.xmp_rejected else None
    done = 0

    def tell(count: int, _: int) -> None:
        nonlocal done
        done += count
        progress.stage("pictures", done, kept.num_rows + (rejected.num_rows if rejected is not None else 0))

    return perform(kept, selection.scores, options, say, rejected=rejected, progress=tell)


def show(selection: Selection, written: list[str], said: list[str], *, asks_nothing: bool) -> None:
    """Print what each rule did, what stays, and what was written."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH_OF_FILES
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    table.add_column("rule", overflow="fold", max_width=60)
    for title in ("rows in", "dropped", "left", "lowest left"):
        table.add_column(title, justify="right")
    table.add_row("all rows", "", "", f"{selection.num_rows:,}", "")
    for step in selection.done_steps:
        counts = (f"{number:,}" for number in (step.rows_in, step.dropped, step.left))
        found = "" if step.lowest is None else f"{step.lowest:.4g}"
        table.add_row(Text(step.text + (f" ({step.note})" if step.note else "")), *counts, found)
    console.print(table)
    total = selection.num_rows
    share = f" ({100 * selection.num_kept / total:.3g} %)" if total else ""
    lines = ["", f"{selection.num_kept:,} of {total:,} rows stay{share}, {selection.seconds:.1f} s"]
    lines += selection.notes
    lines += [f"written: {path}" for path in written]
    if asks_nothing:
        lines.append("nothing was written: -o kept.parquet makes a list, --copy DIR shows what copying would do")
    for line in [*lines, *said]:
        console.print(line, markup=False)


select = command(
    SelectOptions,
    run,
    name="select",
    argument="scores",
    sources=SCORES_HELP,
    description="""Choose which pictures stay: by score, rank, share, group, any SQL condition, near-duplicates, bytes.

    Each rule works on what the ones before it left: --repeated, no score, --exclude, --marks, --where, --min-score,
    --max-score, --quantile, --dedup-against, --dedup, --balance, --top, --top-share, --draw, --budget. Ties are broken by
    sample, so the same call gives the same rows.
    """,
    examples="""Examples:\n
  beholder select scores.parquet --min-score 5 -o kept.txt\n
  beholder select scores/ --where 'width >= 512 and height >= 512' --top-share 10% -o kept.parquet\n
  beholder select scores.parquet --top 100 --per folder -o kept.csv --decisions-out decisions.parquet\n
  beholder select scores/ --dedup 0.95 --dedup-keep pixels --groups-out groups.parquet -o kept.parquet\n
  beholder select scores/ --dedup 0.95 --dedup-against test-embeddings/ --budget 500GB -o kept.parquet\n
  beholder select scores.parquet --join meta.parquet --balance class --top 10000 -o kept.parquet\n
  beholder select scores.parquet --rank-by "0.7*laion-v2 + 0.3*laion-v1" --top 1000 -o kept.txt\n
  beholder select scores.parquet --min-score 5 --copy best/  # shows what would happen; add --apply\n
  beholder select scores.parquet --xmp  # stars in XMP sidecars, by rank; add --apply
""",
    extra=SUMMARY_FLAGS,
)


def undo(
    journal: Annotated[str, typer.Argument(help="The journal that --apply wrote, for example best.journal.jsonl.")],
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without this, what would happen is shown.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Take back what `beholder select ... --apply` did to files.

    Moved files go back to where they were; copies, links and packed files that are as they were made are taken away, as long
    as the pictures they were made of are still there; sidecars that stars were written into become what they were before.
    What has changed since is left as it is, and said. Interrupted, run it again.

    Examples:\n
      beholder undo best.journal.jsonl  # shows what would happen\n
      beholder undo best.journal.jsonl --apply
    """  # noqa: D301 (Typer wants the line breaks)
    from beholder.curate.act.undo import undo as take_back

    def say(line: str) -> None:
        if not quiet and not as_json:
            typer.echo(line)

    if apply and dry_run:
        raise typer.BadParameter("--dry-run and --apply: without --apply nothing is touched; give one of them")
    summary = take_back(journal, dry_run=not apply, say=say)
    if as_json:
        typer.echo(json.dumps(summary.to_json()))
    if summary.exit_status:
        sys.exit(summary.exit_status)

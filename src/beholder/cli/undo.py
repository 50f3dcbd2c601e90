"""`beholder undo`: takes back the act that a journal records."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer


def undo(
    journal: Annotated[str, typer.Argument(help="The journal that --apply wrote, for example best.journal.jsonl.")],
    apply: Annotated[bool, typer.Option("--apply", help="Do it. Without this, what would happen is shown.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", hidden=True)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Take back what `beholder select ... --apply` did to files.

    Moved files go back to where they were; copies, links and packed files that are as they were made are taken away, as long
    as the pictures they were made of are still there. What has changed since is left as it is, and said. Interrupted, run it
    again.

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

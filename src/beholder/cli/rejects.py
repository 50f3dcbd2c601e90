"""`beholder rejects`: what was rejected and why, shown by reason or written as a list."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from beholder.cli.flags import command
from beholder.scoreset.rejects_options import RejectsOptions

if TYPE_CHECKING:
    from beholder.scoreset.rejects import Rejected

EXAMPLES = """Examples:\n
  beholder rejects photos.scores\n
  beholder rejects scores.parquet --reason missing --reason unreadable\n
  beholder rejects photos.scores -o rejects.csv\n
  beholder rejects photos.scores --reason truncated -o again.txt\n
"""


def run(options: RejectsOptions, *, as_json: bool) -> None:
    """Show the rows, or write them."""
    from beholder.scoreset.rejects import Rejected

    found = Rejected(options)
    if options.out is not None:
        _write(found, options, as_json=as_json)
    elif as_json:
        _print_json(found)
    else:
        _show(found, options)


rejects = command(
    RejectsOptions,
    run,
    name="rejects",
    sources="What beholder score, embed or predict wrote: a folder, .parquet or .csv, local or remote.",
    argument="scores",
    description="""List every picture or row that was rejected, with the reason.""",
    examples=EXAMPLES,
    extra={"as_json": (bool, False, typer.Option("--json", help="Print the rows, or what was written, as JSON."))},
)


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


def _write(found: Rejected, options: RejectsOptions, *, as_json: bool) -> None:
    num_written, left_out = found.write()
    if as_json:
        told = {**_summary(found), "output": options.out, "num_written": num_written, "warnings": [left_out] * bool(left_out)}
        typer.echo(json.dumps(told, indent=2))
        return
    if left_out:
        typer.echo(f"warning: {left_out}", err=True)
    typer.echo(f"{options.out}: {num_written:,} of {found.num_rows:,} rejects" if found.num_rows else _none(found, options))


def _print_json(found: Rejected) -> None:
    """One object; the rows are printed as they are read."""
    head = json.dumps(_summary(found), indent=2)
    typer.echo(head.removesuffix("\n}") + ',\n  "rejects": [', nl=False)
    before = "\n    "
    for table in found.rows():
        for row in table.to_pylist():
            typer.echo(before + json.dumps(row, ensure_ascii=False), nl=False)
            before = ",\n    "
    typer.echo(("\n  " if found.num_rows else "") + "]\n}")


def _show(found: Rejected, options: RejectsOptions) -> None:
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

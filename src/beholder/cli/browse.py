"""`beholder browse`: serves a live page on this machine until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from beholder.browse.options import BrowseOptions
from beholder.cli.flags import command, output_flags

if TYPE_CHECKING:
    from beholder.browse.server import Address

EXAMPLES = """Examples:\n
  beholder browse photos.scores/\n
  beholder browse urls.parquet --picture-column image_url --join more.csv\n
  beholder browse scores.parquet --pictures photos/ --port 8080\n
  beholder browse scores.csv --root /data/pictures --marks mine.jsonl\n
  beholder browse laion.scores/ --host 0.0.0.0  # prints an address with a token\n
  beholder select scores.parquet --min-score 5.25 --marks scores.parquet.marks.jsonl -o kept.txt
"""


def run(options: BrowseOptions, *, as_json: bool, quiet: bool) -> None:
    """Serve until it is stopped."""
    from beholder.browse.server import browse as serve

    def ready(address: Address) -> None:
        if as_json:
            import json

            marks, _ = address.marks
            typer.echo(
                json.dumps({"url": address.url, "num_rows": address.num_rows, "marks": marks, "pictures": address.pictures})
            )
        elif quiet:
            typer.echo(address.url)
        else:
            _show(address)

    serve(options, on_ready=ready)
    if not (as_json or quiet):
        typer.echo("\nstopped; all marks are in the file")


def _show(address: Address) -> None:
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
    run,
    name="browse",
    sources="Scores: what `beholder score` wrote, or a Parquet or CSV file, folder or glob with scores.",
    description="""Look at scored pictures in the web browser: threshold slider, gallery, filters, keep and drop marks, export.

    The page is served on this machine only (127.0.0.1) and asks nothing of any other. Pictures are looked for where they
    were scored. Marks are saved at once and are taken by `beholder select --marks`.
    """,
    examples=EXAMPLES,
    argument="scores",
    extra=output_flags(as_json="Print the address as one line of JSON.", quiet="Print nothing but the address."),
)

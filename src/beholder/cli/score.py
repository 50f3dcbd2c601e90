"""`beholder score`: flags in, the scoring job run with a progress bar, its summary shown."""

from __future__ import annotations

import inspect
from typing import Annotated

import typer

DEFAULT_HEAD = "sac+logos+ava1-l14-linearMSE"

EPILOG = """
Examples:\n
  beholder score embeddings.npy\n
  beholder score clip-retrieval-folder/ -o scores/ --column url --column caption\n
  beholder score logits.parquet -o scores.csv --head sac+logos+ava1-l14-linearMSE\n
  beholder score 's3://bucket/img_emb/*.npy' -o scores.parquet --head laion-v1 --head laion-v2
"""


def score(
    sources: Annotated[
        list[str],
        typer.Argument(help="Files, folders, globs, URLs, or .txt lists of embeddings: .npy, .npz, Parquet, CSV."),
    ],
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", help="A folder, or a file ending in .parquet or .csv.  (default: named after SOURCES)"),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help=f"A name (beholder models list), path, URL or hub id; may be repeated.  (default: {DEFAULT_HEAD})"),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Metadata column to pass through; may be repeated; '*' for all.")
    ] = None,
    sample_column: Annotated[
        str | None, typer.Option(help="Column that names the rows.  (default: sample, image_path, key, ... or FILE#ROW)")
    ] = None,
    embedding_column: Annotated[
        str | None,
        typer.Option(help="Column, array, or prefix of numbered columns with the embedding.  (default: found by looking)"),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="What made the embeddings, for sets without a stamp, such as openai/clip-vit-large-patch14."),
    ] = None,
    memory: Annotated[str, typer.Option(help="About how much memory reading may take.")] = "1GB",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads.  (default: all cores)")] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Most rows of a shard: what an interruption can cost.")] = 1_000_000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew where a result exists.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network for heads.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")] = False,
) -> None:
    """Score embeddings with one or several aesthetic heads.

    Run the same command again after an interruption: it continues, and every row is scored exactly once.
    """
    from beholder.cli.show import ScoreProgress, parse_bytes, show_summary
    from beholder.jobs.score import ScoreOptions
    from beholder.jobs.score import score as run_score

    options = ScoreOptions(
        sources=tuple(sources),
        out=out,
        columns=tuple(column or ()),
        sample_column=sample_column,
        embedding_column=embedding_column,
        backbone=backbone,
        memory_bytes=parse_bytes(memory),
        num_threads=threads,
        shard_rows=shard_rows,
        overwrite=overwrite,
        offline=offline or None,
        **({"heads": tuple(head)} if head else {}),
    )
    with ScoreProgress(enabled=not quiet) as progress:
        summary = run_score(options, on_plan=progress.plan, on_progress=progress.advance, on_resume=progress.resumed)
    if as_json:
        import json

        typer.echo(json.dumps(summary.to_json(), indent=2))
    elif not quiet:
        show_summary(summary)
    if summary.num_rejected:
        raise typer.Exit(3)


score.__doc__ = inspect.cleandoc(score.__doc__ or "") + EPILOG

"""The commands that make something from pictures or embeddings: `beholder score`, `embed` and `demo`."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from beholder.cli.flags import SUMMARY_FLAGS, command
from beholder.scoring.options import EmbedOptions, ScoreOptions


def _run(options: ScoreOptions | EmbedOptions, **shown: bool) -> None:
    """Do the job with a progress bar, and show its summary."""
    from beholder.cli.show import run_and_show
    from beholder.scoring import score as jobs

    job: Any = jobs.score if isinstance(options, ScoreOptions) else jobs.embed
    run_and_show(job, options, **shown)


score = command(
    ScoreOptions,
    _run,
    name="score",
    sources="Pictures (folders, files, tars, zips, Parquet, lists, URLs) or embeddings (.npy, .npz, .pt, Parquet, CSV, JSON).",
    description="""Score pictures or embeddings with one or several aesthetic heads.

    Run the same command again after an interruption, or when pictures have come, changed or gone: only what is new is done, and
    every row is there exactly once.
    """,
    examples="""Examples:\n
  beholder score photos/\n
  beholder score 'shards/{00000..00099}.tar' -o scores.parquet --keep-embeddings\n
  beholder score embeddings.npy\n
  beholder score clip-retrieval-folder/ -o scores/ --column url --column caption\n
  beholder score logits.parquet -o scores.csv --head sac+logos+ava1-l14-linearMSE\n
  beholder score 's3://bucket/img_emb/*.npy' -o scores.parquet --head laion-v1 --head laion-v2
""",
    extra=SUMMARY_FLAGS,
)

embed = command(
    EmbedOptions,
    _run,
    name="embed",
    sources="Pictures: folders, files, globs, tars, zips, Parquet files, lists (.txt, .csv), URLs.",
    description="""Turn pictures into CLIP embeddings, with a stamp that says how they were made.

    Run the same command again after an interruption, or when pictures have come, changed or gone: only what is new is done, and
    every picture is there exactly once.
    """,
    examples="""Examples:\n
  beholder embed photos/\n
  beholder embed 'shards/{00000..00099}.tar' -o embeddings/ --precision bf16\n
  beholder embed pictures.parquet -o embeddings.parquet --dtype float32 --raw
""",
    extra=SUMMARY_FLAGS,
)


def demo(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, or that of an earlier demo.")] = Path("beholder-demo"),
    rows: Annotated[
        int, typer.Option("--rows", min=100, help="Embeddings to make and score; a million take 1.6 GB.")
    ] = 1_000_000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed gives other embeddings and another preference.")] = 0,
    real: Annotated[
        bool, typer.Option("--real", help="Score the photographs with the real tower and head: 1.2 GB to fetch.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON and nothing else.")] = False,
) -> None:
    """Go the whole way on synthetic embeddings: make a million, fit a head, score them, draw the scores.

    Then score the photographs that ship inside scikit-image, scikit-learn or matplotlib with a small tower.
    Needs no network. The embeddings are made up and nobody trained the tower, so the scores mean nothing; rates do.
    With --real OpenAI's tower and LAION's head are fetched, and the photographs get real scores.
    Run the same command again after an interruption: it keeps what is complete.
    """
    from beholder.demo.demo import run_demo

    result = run_demo(folder, num_rows=rows, seed=seed, real=real, say=(lambda line: None) if as_json else typer.echo)
    if as_json:
        typer.echo(json.dumps(result, indent=2))


demo.__doc__ = f"""{inspect.cleandoc(demo.__doc__ or "")}

Examples:\n
  beholder demo\n
  beholder demo my-demo --rows 100000\n
  beholder demo --real\n
  beholder demo --json
"""

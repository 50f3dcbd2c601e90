"""`beholder demo`: the demo on synthetic embeddings and on photographs at hand, shown line by line or as JSON."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import typer

EPILOG = """
Examples:\n
  beholder demo\n
  beholder demo my-demo --rows 100000\n
  beholder demo --real\n
  beholder demo --json
"""


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

    if not as_json:
        run_demo(folder, num_rows=rows, seed=seed, real=real, say=typer.echo)
        return
    import json

    result = run_demo(folder, num_rows=rows, seed=seed, real=real, say=lambda line: None)
    typer.echo(json.dumps(result, indent=2))


demo.__doc__ = inspect.cleandoc(demo.__doc__ or "") + "\n" + EPILOG

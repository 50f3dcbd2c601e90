"""`beholder embed`: the embedding job with a progress bar and its summary."""

from __future__ import annotations

from beholder.cli.flags import SUMMARY_FLAGS, command
from beholder.scoring.options import EmbedOptions

EXAMPLES = """Examples:\n
  beholder embed photos/\n
  beholder embed 'shards/{00000..00099}.tar' -o embeddings/ --precision bf16\n
  beholder embed pictures.parquet -o embeddings.parquet --dtype float32 --raw
"""


def run(options: EmbedOptions, *, as_json: bool, quiet: bool) -> None:
    """Do the job and show it."""
    from beholder.cli.show import run_and_show
    from beholder.scoring.score import embed as job

    run_and_show(job, options, as_json=as_json, quiet=quiet)


embed = command(
    EmbedOptions,
    run,
    name="embed",
    sources="Pictures: folders, files, globs, tars, zips, Parquet files, lists (.txt, .csv), URLs.",
    description="""Turn pictures into CLIP embeddings, with a stamp that says how they were made.

    Run the same command again after an interruption, or when pictures have come, changed or gone: only what is new is done, and
    every picture is there exactly once.
    """,
    examples=EXAMPLES,
    extra=SUMMARY_FLAGS,
)

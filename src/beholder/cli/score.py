"""`beholder score`: the scoring job with a progress bar and its summary."""

from __future__ import annotations

from beholder.cli.flags import SUMMARY_FLAGS, command
from beholder.scoring.options import ScoreOptions

EXAMPLES = """Examples:\n
  beholder score photos/\n
  beholder score 'shards/{00000..00099}.tar' -o scores.parquet --keep-embeddings\n
  beholder score embeddings.npy\n
  beholder score clip-retrieval-folder/ -o scores/ --column url --column caption\n
  beholder score logits.parquet -o scores.csv --head sac+logos+ava1-l14-linearMSE\n
  beholder score 's3://bucket/img_emb/*.npy' -o scores.parquet --head laion-v1 --head laion-v2
"""


def run(options: ScoreOptions, *, as_json: bool, quiet: bool) -> None:
    """Do the job and show it."""
    from beholder.cli.show import run_and_show
    from beholder.scoring.score import score as job

    run_and_show(job, options, as_json=as_json, quiet=quiet)


score = command(
    ScoreOptions,
    run,
    name="score",
    sources="Pictures (folders, files, tars, zips, Parquet, lists, URLs) or embeddings (.npy, .npz, .pt, Parquet, CSV, JSON).",
    description="""Score pictures or embeddings with one or several aesthetic heads.

    Run the same command again after an interruption, or when pictures have come, changed or gone: only what is new is done, and
    every row is there exactly once.
    """,
    examples=EXAMPLES,
    extra=SUMMARY_FLAGS,
)

"""Scores pictures in forked children and kills them at random moments; run as a program, so that forking finds no threads.

Arguments: source, folder for outputs, tower, head, wanted kills, seed. Prints "KILLS FINISHED" when both are reached.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from kill_driver import SUFFIXES, moment, run_and_perhaps_kill

import beholder.engine.engine
import beholder.models.towers
import beholder.scoring.pictures  # noqa: F401  (so that children find it imported)
from beholder.scoring.options import ScoreOptions


def main(source: str, folder: str, tower: str, head: str, num_kills: int, seed: int) -> None:
    """Kill `num_kills` runs; outputs out0, out1.parquet, out2.csv, out3, ... are each finished before the next begins."""
    chance = random.Random(seed)
    kills = finished = 0
    killed = False
    while killed or kills < num_kills or finished < len(SUFFIXES):
        out = Path(folder) / f"out{finished}{SUFFIXES[finished % 3]}"
        options = ScoreOptions(
            sources=(source,), out=str(out), backbone=tower, heads=(head,), shard_rows=50, keep_embeddings=True, device="cpu",
            precision="fp32", workers=1, num_threads=1, max_pixels=1_000_000,
        )  # fmt: skip
        killed = run_and_perhaps_kill(options, moment(chance, 1.6, kills, num_kills, finished))
        kills += killed
        finished += not killed
    print(kills, finished)


if __name__ == "__main__":
    main(*sys.argv[1:5], int(sys.argv[5]), int(sys.argv[6]))  # type: ignore[arg-type]

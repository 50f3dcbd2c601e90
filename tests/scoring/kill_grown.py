"""Scores a folder of arrays that changes all the time in forked children and kills them at random moments.

Run as a program, so that forking finds no threads. Arguments: a folder, head, wanted kills of each kind of output, seed. Prints
the number of kills; a result that is not the one of a run from scratch ends it.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
from kill_driver import SUFFIXES, run_and_perhaps_kill

from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.result_bytes import check_same


def edit(source: Path, chance: random.Random) -> None:
    """Add, remove, change or rename an array; never the first one."""
    path = source / f"e{chance.randrange(1, 12)}.npy"
    if path.exists() and chance.random() < 0.4:
        path.unlink()
        return
    rows = np.random.default_rng(chance.randrange(1 << 30)).standard_normal((chance.randrange(1, 400), 24))
    rows[0] *= chance.randrange(2)  # sometimes rejected
    np.save(path, rows.astype(np.float32))


def main(folder: str, head: str, num_kills: int, seed: int) -> None:
    """Kill that many runs of each kind of output, with changes in between, then let one finish and compare it."""
    chance, source = random.Random(seed), Path(folder) / "in"
    source.mkdir()
    np.save(source / "e0.npy", np.ones((5, 24), np.float32))
    kills = 0
    for suffix in SUFFIXES:
        options = ScoreOptions(
            sources=(str(source),), out=f"{folder}/out{suffix}", heads=(head,), shard_rows=50, num_threads=1
        )  # fmt: skip
        score(options)  # in this process, so that children find everything imported and compiled
        for _ in range(num_kills):
            edit(source, chance)
            kills += run_and_perhaps_kill(options, chance.uniform(0.0, 0.4))
        edit(source, chance)
        score(options)
        scratch = Path(folder) / "scratch" / f"out{suffix}"
        score(ScoreOptions(**{**options.__dict__, "out": str(scratch)}))
        check_same(Path(options.out or ""), scratch)
    print(kills)


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]))  # type: ignore[arg-type]

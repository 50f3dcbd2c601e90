"""Scores in forked children and kills them at random moments; run as a program, so that forking finds no threads.

Arguments: source, folder for outputs, head, wanted kills, seed. Prints "KILLS FINISHED" when both are reached.
"""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from pathlib import Path

from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score

SUFFIXES = ("", ".parquet", ".csv")


def run_and_perhaps_kill(options: ScoreOptions, seconds: float) -> bool:
    """Whether the run was killed; a run that fails by itself ends the program."""
    child = os.fork()
    if child == 0:
        try:
            score(options)
            os._exit(0)
        except BaseException as error:
            print(f"failed: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if status != 0:
                sys.exit(f"a run failed: {options.out}")
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def moment(chance: random.Random, most: float, kills: int, num_kills: int, finished: int) -> float:
    """Seconds until the next kill. An output that has had its share is left to finish, however slow the machine is."""
    has_had_enough = kills * len(SUFFIXES) >= num_kills * (finished + 1)
    return math.inf if has_had_enough else chance.uniform(0.0, most)


def main(source: str, folder: str, head: str, num_kills: int, seed: int) -> None:
    """Kill `num_kills` runs; outputs out0, out1.parquet, out2.csv, out3, ... are each finished before the next begins."""
    chance = random.Random(seed)
    # Once in this process, so that children find everything imported and compiled.
    score(ScoreOptions(sources=(source,), out=f"{folder}/warm", heads=(head,), num_threads=1))
    kills = finished = 0
    killed = False
    while killed or kills < num_kills or finished < len(SUFFIXES):
        out = Path(folder) / f"out{finished}{SUFFIXES[finished % 3]}"
        options = ScoreOptions(sources=(source,), out=str(out), heads=(head,), shard_rows=100)
        killed = run_and_perhaps_kill(options, moment(chance, 0.5, kills, num_kills, finished))
        if killed:
            kills += 1
        else:
            finished += 1
    print(kills, finished)


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5]))  # type: ignore[arg-type]

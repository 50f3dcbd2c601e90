"""Scores in forked children that are killed; for programs, so that forking finds no threads."""

from __future__ import annotations

import os
import signal
import sys
import time

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

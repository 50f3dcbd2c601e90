"""Two runs of the same command into one output: one works, the other is refused in one line, whatever becomes of the first."""

from __future__ import annotations

import random
import re
import shutil
import signal
from pathlib import Path

import pytest

from oracles.disturbing import Job, cost_of, one_line, told
from oracles.fault_table import Difference, FaultTable
from oracles.processes import NO_FLOCK
from oracles.program import Done
from oracles.tiers import sized

REFUSED = re.compile(
    r"beholder: .*(another run is writing|was just finished by another run of the same command; nothing is left to do)"
)


def refused(done: Done, job: Job) -> bool:
    """Whether a run was refused in one clear line; if not, it has done the job, or found it done."""
    if done.returncode == job.status:
        return False
    assert done.returncode == 1, f"status {done.returncode}: {done.stderr}"
    assert REFUSED.match(one_line(done)), done.stderr
    return True


def both(job: Job, out: Path, chance: random.Random, suffix: str, before: str, how: str) -> None:
    """Start two runs, perhaps kill the first, and check how both end: at most one is refused."""
    longest = job.seconds[suffix]
    first = job.start(out, before=before)
    if how != "at once":
        first.runs_for(chance.uniform(0.0, longest))
    second = job.start(out, before=before)
    if how == "the first is killed":
        first.runs_for(chance.uniform(0.0, longest))
        first.send(signal.SIGKILL)
        if first.wait() == -signal.SIGKILL:
            refused(second.done(), job)
            return  # and the dead one keeps nobody out: the next run is not refused
    ended = [first.done(), second.done()]
    assert [refused(done, job) for done in ended] != [True, True], [done.stderr for done in ended]


CASES = [(how, lock) for how in ("at once", "staggered", "the first is killed") for lock in ("flock", "lease")]


@pytest.mark.parametrize(("how", "lock", "size"), sized(CASES, [("the first is killed", "lease")]))
def test_two_runs_into_one_output(
    tmp_path: Path, fault_table: FaultTable, rows_job: Job, num_faults: int, how: str, lock: str
) -> None:
    kind = f"two runs into one output, {how}" + (", no locks in the system" if lock == "lease" else "")
    before = NO_FLOCK if lock == "lease" else ""
    chance, cost = random.Random(kind), Difference()
    for number in range(num_faults):
        suffix = chance.choice(rows_job.suffixes)
        out = tmp_path / str(number) / f"out{suffix}"
        with told(f"{kind}, run {number}: out{suffix}"):
            both(rows_job, out, chance, suffix, before, how)
            rows_job.finish(out, before=before)
            cost += cost_of(rows_job.expected(suffix), out)
        shutil.rmtree(out.parent)
    fault_table.record(kind, injected=num_faults, **cost.counts())

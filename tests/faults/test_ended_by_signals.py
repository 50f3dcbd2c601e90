"""Runs that are ended in an orderly way at any moment, once and twice in a row: no process and nothing half-written is left."""

from __future__ import annotations

import itertools
import signal
import time
from pathlib import Path

import pytest

from oracles.disturbing import INTERRUPTED, Fault, Injection, Job, disturb, one_line
from oracles.fault_table import FaultTable
from oracles.program import Done
from oracles.tiers import sized, sizes

NOHUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


def sending(*signals: signal.Signals) -> Injection:
    """Send them, one after the other, at once or with a moment in between."""

    def send(fault: Fault) -> bool:
        for number in signals:
            if fault.running.process.poll() is None:
                fault.running.send(number)
                time.sleep(fault.chance.choice([0.0, fault.chance.uniform(0.0, 0.1)]))
        return True

    return send


def ended(done: Done, job: Job) -> None:
    """By a signal before it could do anything (negative), in an orderly way, or it was done already."""
    assert done.returncode in (-TERM, -INT, -HUP, 143, 130, 129, job.status), f"status {done.returncode}: {done.stderr}"
    if done.returncode in (143, 130, 129):
        assert one_line(done) == f"beholder: {INTERRUPTED}"


EMBEDDINGS = [(TERM,), (INT,), (HUP,), (TERM, TERM), (INT, INT), (HUP, HUP), (INT, TERM)]


@pytest.mark.parametrize(
    ("signals", "size"), sized([(one,) for one in EMBEDDINGS], [((INT, INT),)], [((TERM,),), ((HUP, HUP),), ((INT, TERM),)])
)
def test_a_run_over_embeddings_is_ended(
    tmp_path: Path, fault_table: FaultTable, rows_job: Job, num_faults: int, signals: tuple[signal.Signals, ...]
) -> None:
    kind = ", then ".join(number.name for number in signals) + ": embeddings to scores"
    disturb(kind, rows_job, fault_table, tmp_path, num_faults, sending(*signals), ended)


PICTURES = list(itertools.product(("pictures", "devices"), [(TERM,), (INT, INT)]))


@pytest.mark.parametrize(("name", "signals", "size"), sized(PICTURES, [], PICTURES[:1]))
def test_a_run_over_pictures_is_ended(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    fault_table: FaultTable,
    num_faults: int,
    name: str,
    signals: tuple[signal.Signals, ...],
) -> None:
    what = {"pictures": "pictures to scores", "devices": "--devices cpu:2"}[name]
    kind = ", then ".join(number.name for number in signals) + f": {what}"
    disturb(kind, request.getfixturevalue(f"{name}_job"), fault_table, tmp_path, num_faults, sending(*signals), ended)


@sizes("quick", "soak")
def test_what_nohup_ignores_disturbs_nothing(tmp_path: Path, fault_table: FaultTable, rows_job: Job, num_faults: int) -> None:
    def check(done: Done, job: Job) -> None:
        assert done.returncode == job.status, done.stderr

    disturb(
        "SIGHUP that is ignored (nohup)", rows_job, fault_table, tmp_path, num_faults, sending(HUP, HUP), check,
        before=lambda chance: NOHUP,
    )  # fmt: skip

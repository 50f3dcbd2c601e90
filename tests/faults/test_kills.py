"""Runs, and processes that they have started, killed by the system's hardest means: nothing is lost, nothing doubled."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from oracles.disturbing import Fault, Job, disturb, ends_by, undisturbed
from oracles.fault_table import FaultTable
from oracles.tiers import sized, sizes

KILLED = -signal.SIGKILL


def kill_the_run(fault: Fault) -> bool:
    fault.running.send(signal.SIGKILL)
    return True


def kill_a_child(fault: Fault) -> bool:
    """One of the run's processes, whatever it is at; they come a moment after the run has begun."""
    return fault.kill(fault.children())


def kill_all_children(fault: Fault) -> bool:
    return bool([child for child in fault.children() if fault.kill([child])])


def stop_a_child_for_a_while(fault: Fault) -> bool:
    children = fault.children()
    if not children:
        return False
    victim = fault.chance.choice(children)
    try:
        os.kill(victim, signal.SIGSTOP)
        time.sleep(fault.chance.uniform(0.05, 0.6))
        os.kill(victim, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True


def stop_the_run_for_a_while(fault: Fault) -> bool:
    fault.running.send(signal.SIGSTOP)
    time.sleep(fault.chance.uniform(0.05, 0.6))
    fault.running.send(signal.SIGCONT)
    return True


@sizes("quick", "soak")
def test_a_run_over_embeddings_is_killed(tmp_path: Path, fault_table: FaultTable, rows_job: Job, num_faults: int) -> None:
    kind = "kill -9 of a run: embeddings to scores"
    disturb(kind, rows_job, fault_table, tmp_path, num_faults, kill_the_run, ends_by(KILLED))


@sizes("slow", "soak")
def test_a_run_over_pictures_is_killed(tmp_path: Path, fault_table: FaultTable, pictures_job: Job, num_faults: int) -> None:
    """And its decode workers end by themselves."""
    kind = "kill -9 of a run: pictures to scores, embeddings kept"
    disturb(kind, pictures_job, fault_table, tmp_path, num_faults, kill_the_run, ends_by(KILLED))


@sizes("slow", "soak")
def test_a_run_that_embeds_is_killed(tmp_path: Path, fault_table: FaultTable, embed_job: Job, num_faults: int) -> None:
    disturb("kill -9 of a run: embed", embed_job, fault_table, tmp_path, num_faults, kill_the_run, ends_by(KILLED))


@sizes("soak")
def test_a_run_on_two_devices_is_killed(tmp_path: Path, fault_table: FaultTable, devices_job: Job, num_faults: int) -> None:
    kind = "kill -9 of a run on --devices cpu:2"
    disturb(kind, devices_job, fault_table, tmp_path, num_faults, kill_the_run, ends_by(KILLED))


@sizes("soak")
def test_a_process_of_a_device_is_killed(tmp_path: Path, fault_table: FaultTable, devices_job: Job, num_faults: int) -> None:
    kind = "kill -9 of a process of --devices cpu:2"
    disturb(kind, devices_job, fault_table, tmp_path, num_faults, kill_a_child, undisturbed)


@sizes("slow", "soak")
def test_a_decode_worker_is_killed(tmp_path: Path, fault_table: FaultTable, pictures_job: Job, num_faults: int) -> None:
    kind = "kill -9 of a decode worker"
    disturb(kind, pictures_job, fault_table, tmp_path, num_faults, kill_a_child, undisturbed)


@sizes("soak")
def test_all_decode_workers_are_killed(tmp_path: Path, fault_table: FaultTable, pictures_job: Job, num_faults: int) -> None:
    kind = "kill -9 of all decode workers at once"
    disturb(kind, pictures_job, fault_table, tmp_path, num_faults, kill_all_children, undisturbed)


@pytest.mark.parametrize(("what", "size"), sized([("a decode worker",), ("a run",)], [], [("a decode worker",)]))
def test_what_is_stopped_for_a_while_goes_on(
    tmp_path: Path, fault_table: FaultTable, pictures_job: Job, num_faults: int, what: str
) -> None:
    inject = stop_the_run_for_a_while if what == "a run" else stop_a_child_for_a_while
    disturb(f"SIGSTOP, then SIGCONT, of {what}", pictures_job, fault_table, tmp_path, num_faults, inject, undisturbed)

"""Actors, nodes and drivers of jobs on a Ray cluster of this machine that die: the bytes of a local run, whatever dies when."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oracles.disturbing import Job, Running, cost_of, told
from oracles.fault_jobs import of_pictures, of_rows, write_rows, write_tars
from oracles.fault_table import Difference, FaultTable
from oracles.ray_nodes import NODE, actor_processes, cluster_of
from oracles.tiers import sized

pytestmark = [pytest.mark.filterwarnings("ignore")]

VICTIMS = ("actor", "node", "driver")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes."""
    with cluster_of(3) as made:
        yield made


def num_done(out: Path) -> int:
    return len(list((out / "done").glob("*.json")))


def wait_for_shards(running: Running, out: Path, number: int) -> None:
    """Until so many shards are done, or the process has ended."""
    until = time.monotonic() + 200
    while num_done(out) < number and running.process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)


class Deaths:
    """Kills what is drawn, until each has died so often.

    Args:
        cluster: gets a node that may die.
        wanted: deaths of each of `VICTIMS`.
    """

    def __init__(self, cluster: Any, chance: random.Random, wanted: int) -> None:
        self._cluster, self._chance, self._wanted = cluster, chance, wanted
        self._node = cluster.add_node(**NODE)
        self.counts: Counter[str] = Counter()

    @property
    def are_enough(self) -> bool:
        """Whether all have died so often."""
        return all(self.counts[victim] >= self._wanted for victim in VICTIMS)

    def one(self, driver: Running) -> None:
        """Kill something of those that have to die more often."""
        victim = self._chance.choice([victim for victim in VICTIMS if self.counts[victim] < self._wanted])
        if victim == "actor":
            if not (actors := actor_processes()):
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(actors), signal.SIGKILL)
        elif victim == "node":
            self._cluster.remove_node(self._node, allow_graceful=False)
            self._node = self._cluster.add_node(**NODE)
        else:
            driver.send(signal.SIGKILL)
            driver.wait()
        self.counts[victim] += 1

    def close(self) -> None:
        """Remove the node again."""
        self._cluster.remove_node(self._node)


@pytest.mark.parametrize(("kind", "size"), sized([("pictures",), ("embeddings",)], [], []))
def test_deaths_of_actors_nodes_and_drivers_cost_nothing(
    cluster: Any, tmp_path: Path, fault_table: FaultTable, job_env: dict[str, str], small_tower: Path, small_head: Path,
    plain_head: Path, kind: str, num_faults: int,
) -> None:  # fmt: skip
    """What dies is drawn, and after how many shards; a job that has ended begins anew in another output."""
    if kind == "pictures":
        tars = write_tars(tmp_path / "tars", 200, 12)
        words: tuple[str, ...] = ("score", *of_pictures(tars, small_tower, "--head", str(plain_head), "-j", "0"))
    else:
        words = of_rows(write_rows(tmp_path / "rows", 60_000), small_head)
    here = ("--device", "cpu") if kind == "pictures" else ()
    local = Job((*words, *here), tmp_path / "whole", job_env, suffixes=("",)).prepare()
    job = Job((*words, "--engine", "ray", "--address", cluster.address, "--actors", "3"), tmp_path / "ray", job_env)
    chance, cost = random.Random(f"{kind} {num_faults}"), Difference()
    deaths, num_shards, number = Deaths(cluster, chance, num_faults), num_done(local.expected("")), 0
    with contextlib.closing(deaths):
        while not deaths.are_enough:
            out, number = tmp_path / "outs" / f"{number}" / "out", number + 1
            with told(f"{kind}, output {number}, after {dict(deaths.counts)}"):
                until_done(job, out, deaths, chance, num_shards)
                cost += cost_of(local.expected(""), out)
    for victim in VICTIMS:
        fault_table.record(f"kill -9 of a Ray {victim}: {kind}", injected=deaths.counts[victim], **cost.counts())


def until_done(job: Job, out: Path, deaths: Deaths, chance: random.Random, num_shards: int) -> None:
    """One output, to its end."""
    driver = job.start(out)
    while driver.process.poll() is None:
        wait_for_shards(driver, out, min(num_done(out) + chance.randint(1, num_shards // 8), num_shards - 1))
        if deaths.are_enough or (
            num_done(out) >= num_shards - 1 and chance.random() < 0.7
        ):  # few die while all is put together
            driver.wait()
        elif driver.process.poll() is None:
            deaths.one(driver)
            if driver.process.poll() is not None:
                driver = job.start(out)
    done = driver.done()
    assert done.returncode == job.status, done.stderr

"""Runs whose disk is full, or who may open, make or write no more: one clear line, and they continue once there is room."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oracles.disturbing import Fault, Job, cost_of, disturb, ends_by, told
from oracles.fault_table import Difference, FaultTable
from oracles.program import Done
from oracles.tiers import sized, sizes

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
ROOM = 64 << 20


def mount(place: Path, *options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("this system does not let root mount a tmpfs")


@contextlib.contextmanager
def small_disk(place: Path, *options: str) -> Iterator[Path]:
    """A file system of its own."""
    place.mkdir()
    mount(place, *options)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def used_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def is_full(done: Done, job: Job) -> None:
    """It has said so in one line, unless the room was enough."""
    ends_by(1)(done, job)
    if done.returncode == 1:
        assert "the disk is full; free some space and run the same command again" in done.stderr, done.stderr


def needs(job: Job, folder: Path, suffix: str) -> tuple[int, int]:
    """Bytes and files that an undisturbed run takes when it takes most, about."""
    most_bytes = most_files = 0
    with small_disk(folder, f"size={ROOM}") as disk:
        (disk / "of").mkdir()
        running = job.start(disk / "of" / f"out{suffix}")
        while running.runs_for(0.005):
            files = os.statvfs(disk)
            most_bytes, most_files = max(most_bytes, used_bytes(disk)), max(most_files, files.f_files - files.f_ffree)
        assert running.done().returncode == job.status
    return most_bytes, most_files


@needs_root
@pytest.mark.parametrize(("what", "size"), sized([("bytes",), ("files",)], [("files",)]))
def test_a_disk_that_is_too_small(tmp_path: Path, fault_table: FaultTable, rows_job: Job, num_faults: int, what: str) -> None:
    """Of a size drawn between nothing and what the job takes, so that it is full at any moment; then it is made larger."""
    kind = "disk full" if what == "bytes" else "no file more can be made (inodes)"
    chance, cost = random.Random(kind), Difference()
    suffixes = rows_job.suffixes if num_faults > 1 else rows_job.suffixes[1:2]
    needed = {suffix: needs(rows_job, tmp_path / f"needed{suffix}", suffix) for suffix in suffixes}
    num_full = tries = 0
    while num_full < num_faults:
        tries += 1
        assert tries < 5 * num_faults + 10
        suffix = chance.choice(suffixes)
        most = needed[suffix][what == "files"]
        limit = f"size={chance.randrange(8192, most)}" if what == "bytes" else f"nr_inodes={chance.randrange(4, most)}"
        with told(f"{kind}, run {tries}: out{suffix}, {limit}"), small_disk(tmp_path / f"{tries}", limit) as disk:
            out = disk / "of" / f"out{suffix}"
            out.parent.mkdir()
            done = rows_job.start(out).done()
            is_full(done, rows_job)
            num_full += done.returncode == 1
            subprocess.run(["mount", "-o", f"remount,size={ROOM},nr_inodes=100000", str(disk)], check=True)
            rows_job.finish(out)
            cost += cost_of(rows_job.expected(suffix), out)
    fault_table.record(kind, injected=num_full, **cost.counts())


def fill(fault: Fault) -> bool:
    """Somebody else takes all that is left of the disk; later it is free again."""
    filler = fault.out.parent / "filler"

    def take(size: int) -> bool:
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            return file.write(bytes(size)) == size
        return False

    fault.undone.callback(filler.unlink, missing_ok=True)
    for size in (1 << 20, 1 << 14, 1 << 12, 1):
        while take(size):
            pass
    return True


@needs_root
@pytest.mark.parametrize(("name", "size"), sized([("rows",), ("pictures",)], [], [("pictures",)]))
def test_a_disk_that_others_fill(
    request: pytest.FixtureRequest, tmp_path: Path, fault_table: FaultTable, num_faults: int, name: str
) -> None:
    """At any moment, also while one file is joined or the record is written."""
    job: Job = request.getfixturevalue(f"{name}_job")
    with small_disk(tmp_path / "disk", f"size={ROOM >> 3}") as disk:
        disturb(f"disk filled by others: {name}", job, fault_table, disk, num_faults, fill, is_full)


def limiting(name: str, least: int, most: int) -> Callable[[random.Random], str]:
    """Code that sets a limit of the process, drawn for each run."""

    def code(chance: random.Random) -> str:
        open_now = "max(map(int, os.listdir('/proc/self/fd'))) + " if name == "RLIMIT_NOFILE" else ""
        limit = f"resource.setrlimit(resource.{name}, ({open_now}{chance.randrange(least, most)},) * 2)"
        return f"import os, resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); {limit}"

    return code


def from_the_start(fault: Fault) -> bool:
    """The limit has been there all the time."""
    return True


@sizes("quick", "soak")
@pytest.mark.parametrize(
    ("name", "least", "most"), [("RLIMIT_FSIZE", 0, 60_000), ("RLIMIT_NOFILE", 3, 40)], ids=["FSIZE", "NOFILE"]
)
def test_a_limit_of_the_process(
    tmp_path: Path, fault_table: FaultTable, rows_job: Job, num_faults: int, name: str, least: int, most: int
) -> None:
    """Of the size of files, or of how many are open: a clear line wherever it is met first."""
    kind, before = f"limit of the process: {name}", limiting(name, least, most)
    disturb(kind, rows_job, fault_table, tmp_path, num_faults, from_the_start, ends_by(1), before=before, at_once=True)

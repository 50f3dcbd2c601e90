"""Moves files in forked children and kills them at random points; run as a program, so that forking finds no threads.

Arguments: folder to work in, target, kills while moving, kills while undoing, seed. The folder holds `photos/` and
`samples.txt`. After every kill each file must stand in exactly one of the two places (on two disks: one file may be in both,
and is the same there). Prints "MOVING UNDOING": the kills that hit a running act.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from oracles.acting import act, contents, score_table, take_back


def names_below(folder: str) -> set[str]:
    """Files, but for copies that are being made."""
    found: set[str] = set()
    stack = [""]
    while stack:
        inside = stack.pop()
        try:
            entries = list(os.scandir(f"{folder}/{inside}"))
        except FileNotFoundError:
            continue
        for entry in entries:
            below = f"{inside}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                stack.append(below + "/")
            elif not entry.name.startswith(".beholder-"):
                found.add(below)
    return found


def killed(work: Callable[[], object], has_come_so_far: Callable[[], bool], delay_s: float) -> bool:
    """Run `work` in a child and kill it a moment after it has come so far; false where it ended before."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
    end = 0.0
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            if status != 0:
                sys.exit("a run failed")
            return False
        if not end and has_come_so_far():
            end = time.perf_counter() + delay_s
        if end and time.perf_counter() >= end:
            break
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main(folder: str, target: str, num_moving: int, num_undoing: int, seed: int) -> None:
    """Kill so often, at points spread over the work."""
    os.chdir(folder)
    chance = random.Random(seed)
    samples = Path("samples.txt").read_text().split("\0")
    table = score_table(samples, ["photos"])
    everything = names_below("photos")
    options = {"move": target, "journal": "moves.jsonl"}
    act(table, move=target)  # once in this process, so that children find everything imported
    journal = Path("moves.jsonl")
    most_doubled = int(Path("photos").stat().st_dev != Path(target).parent.stat().st_dev)

    def check() -> None:
        here, there = names_below("photos"), names_below(target)
        assert len(here & there) <= most_doubled, f"twice: {sorted(here & there)[:3]}"
        assert all(Path("photos", name).read_bytes() == Path(target, name).read_bytes() for name in here & there)
        assert here | there == everything, f"lost or new: {sorted((here | there) ^ everything)[:3]}"

    def size() -> int:
        return journal.stat().st_size if journal.exists() else 0

    counts = []
    line_bytes = 170 + len(folder) + len(str(Path(target).absolute()))
    for num_kills, wanted, work in (
        (num_moving, line_bytes * len(everything), lambda: act(table, **options, apply=True)),
        (num_undoing, 22 * len(everything) // 512, lambda: take_back(str(journal))),
    ):
        started, kills = size(), 0
        for number in range(num_kills):
            soon, late = (started + int(wanted * (number + more) / num_kills * 0.85) for more in (chance.random(), 2))
            goal = max(soon, min(size(), late)) if number % 3 else soon  # some die while they look at the journal
            kills += killed(work, lambda goal=goal: size() > goal, chance.uniform(0, 0.02))
            check()
        counts.append(kills)
        work()
        if not counts[1:]:
            assert not names_below("photos"), "something was not moved"
            assert set(contents(Path(target))) == everything, "lost, or left half-made"
    print(*counts)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:6]))

"""What a picture costs the main process of `beholder score`, beside decoding (other processes) and the tower (its own threads).

    python benchmarks/main_process.py [--sides after=. before=../base] [--count 20000] [--workers 1] [--rounds 3] [--save]

The process that feeds the device reads the sources, hands pictures to the decode workers, copies pixels into batches and keeps
the books; all of that shares one interpreter lock, so at N pictures a second each may cost 1/N seconds at most. Sides are
source trees, run in turn over the same tars of small JPEGs (`scale.py` makes them) with a tiny tower. CPU time of the process
is taken from when its first picture is read to the end of the run, and told apart by thread: the tower's lanes do not count.
`-` stands for what remains, as of threads that had ended by the last look.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import machine
import result_files

LOOK_S = 0.05
READER = "beholder-read-ahead"
TOWER = "tower"


class ThreadTimes:
    """CPU seconds of this process's threads by name, from when the thread that reads sources was first seen."""

    def __init__(self) -> None:
        self._before: dict[int, float] = {}
        self._latest: dict[int, tuple[str, float]] = {}
        self.started_s: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="measuring", daemon=True)
        self._thread.start()

    def _look_on(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Note the times of all threads."""
        threads = [(thread.native_id, thread.name) for thread in threading.enumerate()]
        if self.started_s is None:
            if not any(name == READER for _, name in threads):
                return
            self.started_s = time.process_time()
            self._before = {number: _cpu_s(number) for number, _ in threads if number is not None}
        for number, name in threads:
            if number is not None:
                self._latest[number] = (name, max(_cpu_s(number), self._latest.get(number, ("", 0.0))[1]))

    def end(self) -> dict[str, float]:
        """Seconds by name of thread, "-" for what belongs to none of them, "all" for the process."""
        self._stop.set()
        self._thread.join()
        self.look()
        total = time.process_time() - (self.started_s or 0.0)
        found: dict[str, float] = defaultdict(float)
        for number, (name, seconds) in self._latest.items():
            found[TOWER if name.startswith(TOWER) else name] += seconds - self._before.get(number, 0.0)
        found["-"] = total - sum(found.values())
        found["all"] = total
        return dict(found)


def _cpu_s(number: int) -> float:
    """CPU seconds of one thread of this process; 0 when it has ended."""
    try:
        return int(Path(f"/proc/self/task/{number}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def child(arguments: list[str]) -> None:
    """Run the command line in this process and print what its threads took."""
    from beholder.cli.app import app

    times = ThreadTimes()
    began = time.perf_counter()
    try:
        app(arguments, standalone_mode=False)
    finally:
        seconds = time.perf_counter() - began
    print(json.dumps({"wall": seconds, **times.end()}), file=sys.stderr)


def run(tree: Path, tars: Path, out: Path, data: Path, workers: int) -> dict[str, float]:
    """CPU seconds of one side by thread."""
    line = [sys.executable, __file__, "--child", "score", str(tars), "-o", str(out)]
    line += ["--backbone", str(data / "small_tower"), "--head", str(data / "small_head.safetensors"), "--precision", "fp32"]
    line += ["--device", "cpu", "--threads", "1", "--batch-size", "128", "-j", str(workers), "--quiet"]
    path = os.pathsep.join([str(tree / "src"), str(Path(__file__).parent)])
    done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode != 0:
        sys.exit(f"{tree}: {done.stderr[-800:]}")
    told: dict[str, float] = json.loads(done.stderr.strip().splitlines()[-1])
    return told


def rows_of(found: dict[str, list[dict[str, float]]], count: int) -> list[str]:
    """Markdown: microseconds a picture by side and thread, medians."""
    names = list(dict.fromkeys(name for runs in found.values() for one in runs for name in one if name not in ("all", "wall")))
    names = [name for name in names if name not in (TOWER, "measuring")]
    lines = ["| side | all but the tower, us a picture | " + " | ".join(names) + " | pictures/s |"]
    lines += ["|---" * (len(names) + 3) + "|"]

    def median(side: str, of: Any) -> float:
        return statistics.median(of(one) for one in found[side]) / count * 1e6

    for side in found:
        own = median(side, lambda one: one["all"] - one.get(TOWER, 0.0) - one.get("measuring", 0.0))
        cells = [f"{median(side, lambda one, name=name: one.get(name, 0.0)):.0f}" for name in names]
        rate = count / statistics.median(one["wall"] for one in found[side])
        lines.append(f"| {side} | {own:.0f} | {' | '.join(cells)} | {rate:,.0f} |")
    return lines


def main() -> None:
    """Run it."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sides", nargs="+", default=["here=."], help="name=source tree")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--each", type=int, default=1000, help="pictures of a tar; of a shard some 6 ms are its writer's fsync")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    chosen = parser.parse_args()
    from scale import DATA, make_inputs

    DATA.mkdir(exist_ok=True)
    tars = make_inputs(DATA, chosen.count, chosen.each)
    sides = {name: Path(tree).resolve() for name, tree in (side.split("=", 1) for side in chosen.sides)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory(dir=DATA) as scratch:
        for _ in range(chosen.rounds):
            for name, tree in sides.items():
                out = Path(scratch) / name
                shutil.rmtree(out, ignore_errors=True)
                found[name].append(run(tree, tars, out, DATA, chosen.workers))
                print(name, json.dumps({k: round(v, 2) for k, v in found[name][-1].items()}), file=sys.stderr)
        names = list(sides)
        for name in names[1:]:
            for file in sorted((Path(scratch) / names[0] / "scores").iterdir()):
                assert file.read_bytes() == (Path(scratch) / name / "scores" / file.name).read_bytes(), "other bytes"
    lines = [f"# What a picture costs the main process, {chosen.count:,} pictures of 70 x 60, {result_files.month()}", ""]
    lines += machine.lines("beholder", "torch", "numpy")
    lines += [
        f"- tars of {chosen.each:,}; {chosen.workers} decode worker(s)",
        f"- medians of {chosen.rounds} round(s) in turns; all sides wrote the same scores",
        "",
    ]
    lines += rows_of(found, chosen.count)
    print("\n".join(lines))
    if chosen.save:
        result_files.save("main_process", lines)


if __name__ == "__main__":
    main()

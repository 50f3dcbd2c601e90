"""Whether `beholder plan` is right: bench, plan and the real run, one after the other; the run's seconds beside the plan's.

    python benchmarks/plan.py [--cases small photographs rows dropped] [--rounds 3] [--save]

Cases:

- small: 60,000 JPEGs of 70 x 60 in tars of 100 with a small tower (benchmarks/scale.py): what is not computing counts most;
- photographs: 2,000 JPEGs from 512 x 384 to 12 MP (benchmarks/pictures.py) with a middle tower: decoding and the tower;
- rows: ten files of 200,000 embeddings of 768 float16, 3 GB which lie in memory, four times;
- dropped: each of them once, after the system was asked to forget it (posix_fadvise), so that it comes from the storage.

Rates are measured once for each case, by whole commands, as a user does it; then the run is made `--rounds` times, and its
median is compared. Seconds are of whole commands: imports and loading count on both sides. `--save` refuses a machine that
others were using meanwhile.
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
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import machine
import pictures
import result_files
import scale
from beholder import Head, save_head
from beholder.kernels.scoring import Affine

DATA = scale.DATA
COUNTS = {"small": 60_000, "photographs": 2000, "rows": 200_000, "dropped": 200_000}
ROWS = ("rows", "dropped")
ROWS_DIM, ROWS_FILES, ROWS_TIMES = 768, 10, 4
MOST_BUSY = 0.1
WITHIN = 0.15


@dataclass(frozen=True)
class Case:
    """A job: its source, and the words that bench, plan and score share, and those of score alone."""

    name: str
    source: Path
    common: list[str]
    score: list[str]


def case_of(name: str, count: int) -> Case:
    """Make the inputs of a case where they are not there."""
    DATA.mkdir(exist_ok=True)
    if name in ROWS:
        return _rows(name, count)
    small = scale.make_inputs(DATA, count if name == "small" else scale.EACH)
    source = pictures.make_set(DATA / f"pictures_{count}", count) / "tars" if name == "photographs" else small
    tower = "small" if name == "small" else "middle"
    words = ["--backbone", str(DATA / f"{tower}_tower"), "--precision", "fp32"]
    return Case(name, source, words, ["--head", str(DATA / scale.HEAD), "--device", "cpu"])


def _rows(name: str, count: int) -> Case:
    folder, head = DATA / f"plan_rows_{count}", DATA / "plan_head.safetensors"
    save_head(Head(name="plan", math=Affine(np.random.default_rng(5).standard_normal(ROWS_DIM), 5.0)), head)
    if not folder.is_dir():
        made = Path(tempfile.mkdtemp(dir=DATA))
        for number in range(ROWS_FILES):
            rows = np.random.default_rng(number).standard_normal((count, ROWS_DIM), np.float32).astype(np.float16)
            np.save(made / f"{number}.npy", rows)
        made.rename(folder)
    if name == "rows":
        many = folder.with_name(f"{folder.name}_by_{ROWS_TIMES}")
        many.mkdir(exist_ok=True)
        for link in range(ROWS_FILES * ROWS_TIMES):
            (many / f"{link:02d}.npy").unlink(missing_ok=True)
            (many / f"{link:02d}.npy").symlink_to(folder / f"{link % ROWS_FILES}.npy")
        folder = many
    return Case(name, folder, [], ["--head", str(head), "--space-check", "off"])


def run(*words: str) -> tuple[float, str]:
    """Seconds of a command of beholder, and what it printed."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "beholder", *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode not in (0, 3):
        sys.exit(f"{' '.join(words)}: {done.stderr[-500:]}")
    return seconds, done.stdout


def prepare(case: Case) -> None:
    """Have the inputs in memory as reading them from the storage leaves them there, or not at all."""
    for path in sorted(path for path in case.source.rglob("*") if path.is_file()):
        with path.open("rb", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while case.name != "dropped" and file.read(8 << 20):
                pass


def measured(case: Case, rounds: int, scratch: Path) -> dict[str, Any]:
    """What was planned and what it took."""
    rates, out = scratch / f"{case.name}.json", scratch / case.name
    bench = ["bench", "--device", "cpu", "--storage", str(scratch), "-o", str(rates), "--json"]
    if case.name in ROWS:  # of its length, and no pictures to decode
        bench += ["--backbone", "ViT-L/14", "--precision", "fp32", "--max-time", "20"]
    else:
        bench += [str(case.source), *case.common]
    bench_s, printed = run(*bench)
    known = json.loads(printed)
    prepare(case)
    _, printed = run("plan", str(case.source), "--rates", str(rates), *case.common, "--json")
    planned, seconds = json.loads(printed), []
    for _ in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        prepare(case)
        seconds.append(run("score", str(case.source), "-o", str(out), *case.common, *case.score)[0])
        print(f"{case.name}: planned {planned['hours'] * 3600:.1f} s, took {seconds[-1]:.1f} s", file=sys.stderr)
    return {
        "case": case.name, "count": planned["count"], "unit": planned["unit"], "binds": planned["binds"], "bench_s": bench_s,
        "planned_s": planned["hours"] * 3600, "start_s": planned["start_seconds"], "took_s": statistics.median(seconds),
        "busy": known["busy"],
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown."""
    lines = ["| case | | planned | of it the start | the run took | planned / took | binds | bench took |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for one in found:
        ratio = one["planned_s"] / one["took_s"]
        what = f"{one['count']:,} {one['unit']}"
        times = f"{one['planned_s']:.1f} s | {one['start_s']:.1f} s | {one['took_s']:.1f} s | {ratio:.2f}"
        lines.append(f"| {one['case']} | {what} | {times} | {one['binds']} | {one['bench_s']:.0f} s |")
    return lines


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=COUNTS, default=list(COUNTS))
    parser.add_argument("--count", type=int, help="pictures, or rows a file, in place of a case's own number")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    chosen = parser.parse_args()
    os.environ["BEHOLDER_PROGRESS_S"] = "0"
    with tempfile.TemporaryDirectory(dir=_made(DATA)) as scratch:
        cases = [case_of(name, chosen.count or COUNTS[name]) for name in chosen.cases]
        found = [measured(case, chosen.rounds, Path(scratch)) for case in cases]
    busy = max(one["busy"] for one in found)
    lines = [f"# What plan says and what the run takes, {result_files.month()}", ""]
    lines += machine.lines("beholder", "torch", "pillow", "numpy")
    lines.append(
        f"- whole commands; medians of {chosen.rounds} round(s); others had {100 * busy:.0f} % of the processor at most"
    )
    lines += ["", *table(found)]
    print("\n".join(lines))
    off = [one["case"] for one in found if abs(one["planned_s"] / one["took_s"] - 1) > WITHIN]
    if off:
        print(f"further off than {100 * WITHIN:.0f} %: {', '.join(off)}", file=sys.stderr)
    if chosen.save and busy > MOST_BUSY:
        sys.exit("not saved: others were using this machine")
    if chosen.save:
        result_files.save("plan", lines)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


if __name__ == "__main__":
    main()

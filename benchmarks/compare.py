"""Two checkouts of beholder beside each other: seconds of whole commands, in turns, and whether they give the same tables.

    python benchmarks/compare.py OTHER [--rounds 3] [--tasks ...] [--save]

OTHER is a folder with another checkout (`git worktree add ../before v0.1.0`). Each task is one command of the program, run as a
process of its own by this Python with the source of either checkout, the sides in turn after a first run of each that does not
count (compiled code, remembered settings, page cache). Seconds are what the user waits for, start and imports included; those
of all cores stand beside them, which other programs on the machine change less.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import machine
import result_files
from beholder.models.backbones import SHAPES
from beholder.models.clip import random_tensors
from beholder.models.spaces import space_of
from pictures import make_set
from select_rows import make_rows
from tower_checkpoints import save_hugging_face
from whole_path import models_folder, tars

DATA = result_files.REPOSITORY / "benchmarks" / "data"
ROWS, FEW_ROWS, PICTURES, FEW_PICTURES = 1_000_000, 50_000, 2000, 192
B32 = "openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class Task:
    """A command.

    Attributes:
        title: what is done.
        line: its words, for a folder or file to write.
        out: name of what it writes; "": it writes nothing.
        is_server: it serves a page until it is stopped; the time is that until the page has come.
    """

    title: str
    line: Callable[[Path], list[str]]
    out: str = ""
    is_server: bool = False


def head(name: str = "sac+logos+ava1-l14-linearMSE") -> list[str]:
    """A public head."""
    return ["--head", str(models_folder() / f"{name}.pth")]


def make_embeddings() -> None:
    """Float16 rows near the centroid of L/14's embeddings as .npy and Parquet, and fewer as CSV of numbers."""
    space = space_of("ViT-L/14")
    assert space is not None
    rng = np.random.default_rng(7)
    if not (DATA / "compare.npy").exists():
        rows = np.empty((ROWS, 768), np.float16)
        for first in range(0, ROWS, FEW_ROWS):
            rows[first : first + FEW_ROWS] = 24 * space.centroid + rng.standard_normal((FEW_ROWS, 768), np.float32)
        np.save(DATA / "compare.npy", rows)
    rows = np.load(DATA / "compare.npy", mmap_mode="r")
    names = [f"{number:09d}" for number in range(ROWS)]
    if not (DATA / "compare.parquet").exists():
        listed = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows[: ROWS // 16]).ravel()), 768)
        pq.write_table(
            pa.table({"sample": names[: ROWS // 16], "embedding": listed}), DATA / "compare.parquet", row_group_size=8192
        )
    if not (DATA / "compare.csv").exists():
        numbers = rows[:FEW_ROWS].astype(np.float32)
        with (DATA / "compare.csv").open("w") as file:
            file.write(",".join(["sample", *map(str, range(768))]) + "\n")
            for name, row in zip(names, numbers, strict=False):
                file.write(f"{name}," + ",".join(map(str, row.tolist())) + "\n")


def make_towers() -> None:
    """A tower that takes next to no time, and B/32's shape; random weights."""
    small = replace(SHAPES[B32], width=64, num_layers=1, num_heads=1, mlp_width=64)
    for name, shape in (("compare_tiny", small), ("compare_b32", SHAPES[B32])):
        if not (DATA / "towers" / name).exists():
            save_hugging_face(DATA / "towers" / name, shape, random_tensors(shape))


def all_tasks() -> dict[str, Task]:
    """Every command by the name that --tasks takes."""
    rows = str(make_rows(10_000_000, True))
    some = str(make_rows(100_000, True))
    pictures, few = DATA / f"pictures_{PICTURES}", DATA / f"pictures_{FEW_PICTURES}"
    b32_head = head("sa_0_4_vit_b_32_linear")

    def select(*rules: str) -> Callable[[Path], list[str]]:
        return lambda out: ["select", rows, "-o", str(out), *rules]

    def score(source: str, *more: str) -> Callable[[Path], list[str]]:
        return lambda out: ["score", source, "-o", str(out), *more]

    def embed(made: Path, tower: str) -> Callable[[Path], list[str]]:
        return lambda out: ["embed", tars(made), "-o", str(out), "--backbone", str(DATA / "towers" / tower)]

    def whole(out: Path) -> list[str]:
        return ["score", tars(few), "-o", str(out), "--backbone", str(DATA / "towers" / "compare_b32"), *b32_head]

    return {
        "help": Task("`--help`", lambda out: ["--help"]),
        "ten": Task("`score` of 10 rows", score(str(DATA / "compare_10.npy"), *head()), "out.parquet"),
        "npy": Task(f"`score`, {ROWS:,} float16 rows of a .npy", score(str(DATA / "compare.npy"), *head()), "out.parquet"),
        "parquet": Task(f"`score`, {ROWS // 16:,} Parquet rows", score(str(DATA / "compare.parquet"), *head()), "out.parquet"),
        "csv": Task(f"`score`, {FEW_ROWS:,} rows of CSV", score(str(DATA / "compare.csv"), *head()), "out.csv"),
        "decode": Task(f"`embed`, tars of {PICTURES:,} JPEGs, a tiny tower", embed(pictures, "compare_tiny"), "out"),
        "whole": Task(f"`score`, tars of {FEW_PICTURES} JPEGs, B/32", whole, "out"),
        "top": Task("`select`, best 1 % of 10 million rows", select("--top", "100000"), "out.parquet"),
        "threshold": Task("`select --min-score 6`, 10 million rows", select("--min-score", "6"), "out.parquet"),
        "per": Task("`select`, best 1,000 of 1,000 categories", select("--top", "1000", "--per", "category"), "out.parquet"),
        "where": Task("`select --where`, 10 million rows", select("--where", "width >= 768 AND punsafe < 0.1"), "out.parquet"),
        "draw": Task("`select`, 100,000 rows drawn by score", select("--sample", "100000"), "out.parquet"),
        "dedup": Task(
            "`select --dedup 0.95`, 50,000 rows of 768 dimensions",
            lambda out: ["select", str(DATA / "compare_50000.parquet"), "-o", str(out), "--dedup", "0.95",
                         "--embeddings", str(DATA / "compare_50000.npy")],
            "out.parquet",
        ),
        "advise": Task("`advise`, 100,000 rows", lambda out: ["advise", some]),
        "report": Task("`report`, 100,000 rows", lambda out: ["report", some, "-o", str(out)], "report.html"),
        "browse": Task("`browse`, 100,000 rows, until the page is there", lambda out: ["browse", some], is_server=True),
        "copy": Task(
            f"`select --copy`, {PICTURES:,} pictures",
            lambda out: ["select", str(DATA / "compare_scores.parquet"), "--min-score", "-1000", "--copy", str(out)],
        ),
    }  # fmt: skip


def make_data() -> None:
    """All that the tasks read, in benchmarks/data."""
    DATA.mkdir(exist_ok=True)
    make_embeddings()
    make_towers()
    rows = np.load(DATA / "compare.npy", mmap_mode="r")
    for count in (10, 50_000):
        np.save(DATA / f"compare_{count}.npy", rows[:count])
    for count in (PICTURES, FEW_PICTURES):
        make_set(DATA / f"pictures_{count}", count)
    files = sorted((DATA / f"pictures_{PICTURES}" / "folder" / "pictures").glob("*.jpg"))
    scores = pa.array(np.random.default_rng(1).normal(5, 1, 50_000).astype(np.float32))
    named = {"sample": [str(path) for path in files], "aesthetic_score": scores[: len(files)]}
    pq.write_table(pa.table(named), DATA / "compare_scores.parquet")
    samples = [f"compare_50000.npy#{number}" for number in range(50_000)]
    pq.write_table(pa.table({"sample": samples, "aesthetic_score": scores}), DATA / "compare_50000.parquet")


def run(task: Task, checkout: Path, work: Path) -> tuple[float, float]:
    """Run a command in an empty folder; seconds on the wall, and of all cores."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    line = [sys.executable, "-m", "beholder", *task.line(work / (task.out or "out"))]
    env = {**os.environ, "PYTHONPATH": str(checkout / "src"), "BEHOLDER_CACHE": str(DATA / "compare_cache" / checkout.name)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    if task.is_server:
        seconds = until_served(line, env, work)
    else:
        done = subprocess.run(line, cwd=work, env=env, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"{' '.join(line)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def until_served(line: list[str], env: dict[str, str], work: Path) -> float:
    """Seconds until the live page answers."""
    started = time.perf_counter()
    with subprocess.Popen(
        [*line, "--no-open"], cwd=work, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        for text in server.stdout:
            if "http://" in text:
                url = text[text.index("http://") :].split()[0]
                with urllib.request.urlopen(url) as page:
                    assert page.read()
                break
        else:
            raise RuntimeError(f"{' '.join(line)} served nothing")
        seconds = time.perf_counter() - started
        server.terminate()
        server.stdout.read()
    return seconds


def written(path: Path) -> dict[str, pa.Table | bytes]:
    """What a command wrote, by name: tables of Parquet files with their columns in order of names, bytes of CSVs."""
    if path.suffix == ".csv":
        return {"": path.read_bytes()}
    files = [path] if path.suffix == ".parquet" else sorted(path.rglob("*.parquet"))
    tables = {str(file.relative_to(path)): pq.read_table(file) for file in files}
    return {name: table.select(sorted(table.column_names)) for name, table in tables.items()}


def measure(names: list[str], checkouts: list[Path], rounds: int, work: Path) -> list[str]:
    """The table."""
    tasks = all_tasks()
    rows = [
        "| command | other, s | this, s | ratio | other, s of cores | this | ratio | same tables |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        task = tasks[name]
        found: list[list[tuple[float, float]]] = [[], []]
        made = []
        for number in range(rounds + 1):
            for side, checkout in enumerate(checkouts):
                one = run(task, checkout, work)
                if number:
                    found[side].append(one)
                else:
                    made.append(written(work / task.out) if task.out else {})
        same = "" if not made[0] else "yes" if made[0] == made[1] else "**no**"
        cells = []
        for at in (0, 1):
            other, this = (statistics.median(one[at] for one in side) for side in found)
            cells += [f"{other:.2f}", f"{this:.2f}", f"{this / other:.2f}"]
        rows.append(f"| {task.title} | {' | '.join(cells)} | {same} |")
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Measure and print; with --save keep the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", type=Path, help="the folder of the other checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", help="only these")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/compare_PROCESSOR_YYYYMM.md")
    options = parser.parse_args()
    make_data()
    names = options.tasks or list(all_tasks())
    checkouts = [options.other.resolve(), result_files.REPOSITORY]
    commits = [
        subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=path, capture_output=True, text=True).stdout.strip()
        for path in checkouts
    ]
    text = [
        f"# Whole commands of two checkouts, {result_files.month()}",
        "",
        *machine.lines("beholder", "torch", "pyarrow", "numba"),
    ]
    text.append(f"- other: {commits[0]}, this: {commits[1]}; in turns, medians of {options.rounds} after a first run of each")
    text.append("- ratio below 1: this one takes less")
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        text += ["", *measure(names, checkouts, options.rounds, Path(folder) / "work")]
    print("\n".join(text))
    if options.save:
        result_files.save("compare", text)


if __name__ == "__main__":
    main()

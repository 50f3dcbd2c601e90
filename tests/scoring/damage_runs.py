"""Changes one byte of what earlier runs wrote, runs again, and counts what was noticed; run as a program for many changes.

    PYTHONPATH=src:tests python tests/jobs/damage_runs.py 600 [SEED]

A change is *noticed* when its shard is done again and the summary names it, or when the run is refused in one line; it is
*harmless* when results and summary are those of the undisturbed run all the same (white space in a record); anything else is
*wrong*.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from beholder import BeholderError, Head, save_head
from beholder.kernels.scoring import Affine
from beholder.models.backbones import TowerShape
from beholder.models.clip import random_tensors
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import embed, score
from beholder.scoring.summary import RunSummary
from beholder.sources.stamp import read_stamp
from oracles.checkpoints import hf_config, hf_state, write_json, write_safetensors
from oracles.picture_jobs import SIDE, embed_options, picture_bytes, score_options

DIM = 24
Job = Callable[..., RunSummary]
_OF_THIS_RUN = {"output", "rejects", "embeddings", "num_new", "seconds", "rows_per_second", "bytes_read", "damaged_shards",
                "waited_for", "notes", "warnings", "list_rejects", "read_with"}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A finished or interrupted result, the job that made it, and what a run must give.

    Attributes:
        folder: holds the result, called `out` with the case's ending.
        job: called with the output's path (and `on_progress`).
        summary, contents: of the undisturbed run.
    """

    name: str
    folder: Path
    ending: str
    job: Job
    summary: dict[str, Any]
    contents: dict[str, Any]


def facts(summary: RunSummary) -> dict[str, Any]:
    """The summary without what differs from run to run."""
    return {key: value for key, value in summary.to_json().items() if key not in _OF_THIS_RUN}


def contents(out: Path) -> dict[str, Any]:
    """Everything that a reader finds in a result: rows of tables, arrays, stamps."""
    found: dict[str, Any] = {}
    for path in sorted(out.parent.rglob("*")):
        name = str(path.relative_to(out.parent))
        if "/done/" in name or not path.is_file() or path.name == ".lock":
            continue
        if path.suffix == ".parquet":
            found[name] = repr(pl.read_parquet(path).rows())  # as text, in which NaN is itself
        elif path.suffix == ".csv":
            found[name] = path.read_bytes()
        elif path.suffix == ".npy":
            found[name] = np.load(path).tobytes()
        elif path.name.endswith("beholder.json"):
            found[name] = read_stamp(str(path)).record
    return found


def interrupted(job: Job, out: Path, num_rows: int) -> None:
    """Run the job up to its last rows, so that shards stand in a folder of their own and are not joined."""
    seen = 0

    def stop(rows: int, num_bytes: int) -> None:
        nonlocal seen
        seen += rows
        if seen == num_rows:
            raise KeyboardInterrupt

    try:
        job(out, on_progress=stop)
    except KeyboardInterrupt:
        return
    raise AssertionError("the job was not interrupted")


def make_tower(folder: Path) -> Path:
    """A random tower in Hugging Face's layout."""
    shape = TowerShape.small(image_px=SIDE, patch_px=14, width=64, dim=DIM)
    folder.mkdir()
    write_json(folder / "config.json", hf_config(shape))
    return write_safetensors(folder / "model.safetensors", hf_state(random_tensors(shape)))


def make_cases(root: Path, *, with_pictures: bool = True) -> list[Case]:
    """Results of every layout, below `root`: of embeddings, and (slower) of pictures."""
    rows = np.random.default_rng(1).standard_normal((900, DIM)).astype(np.float16)
    rows[[3, 450, 899]] = 0
    np.save(root / "x.npy", rows)
    head = root / "head.safetensors"
    save_head(Head(name="small", math=Affine(np.random.default_rng(2).standard_normal(DIM), 5.0)), head)

    def score_rows(out: Path, **more: Any) -> RunSummary:
        options = ScoreOptions(sources=(str(root / "x.npy"),), out=str(out), heads=(str(head),), shard_rows=300, num_threads=1)
        return score(options, **more)

    jobs: list[tuple[str, str, Job, int]] = [("scores", ending, score_rows, 900) for ending in ("", ".parquet", ".csv")]
    if with_pictures:
        photos, tower = root / "photos", make_tower(root / "tower")
        photos.mkdir()
        for number in range(6):
            (photos / f"{number}.jpg").write_bytes(picture_bytes(number) if number != 4 else b"<html>")

        def embed_photos(out: Path, **more: Any) -> RunSummary:
            return embed(embed_options(str(photos), out, tower, shard_rows=2, workers=0), **more)

        def keep_photos(out: Path, **more: Any) -> RunSummary:
            keep = score_options(str(photos), out, tower, head, shard_rows=2, workers=0, keep_embeddings=True)
            return score(keep, **more)

        jobs += [("embeddings", "", embed_photos, 6), ("embeddings", ".parquet", embed_photos, 6)]
        jobs += [("scores and embeddings", "", keep_photos, 6), ("scores and embeddings", ".parquet", keep_photos, 6)]
    cases = []
    for name, ending, job, num_rows in jobs:
        folder = root / f"{name}{ending} finished"
        folder.mkdir()
        summary, whole = facts(job(folder / f"out{ending}")), contents(folder / f"out{ending}")
        cases.append(Case(f"{name}, {ending or 'folder'}, finished", folder, ending, job, summary, whole))
        if ending:
            folder = root / f"{name}{ending} interrupted"
            folder.mkdir()
            interrupted(job, folder / f"out{ending}", num_rows)
            cases.append(Case(f"{name}, {ending}, interrupted", folder, ending, job, summary, whole))
    return cases


def kind_of(path: Path) -> str:
    """What sort of file a byte is changed in."""
    if path.suffix == ".zst":
        return "index"
    if path.parent.name == "done":
        return "marker"
    if path.name.endswith("beholder.json"):
        return "record"
    if path.parent.name in ("scores", "rejects", "embeddings", "img_emb", "metadata", "_inputs"):
        return f"shard: {path.parent.name}"
    return "joined file"


def change_and_run(case: Case, scratch: Path, rng: random.Random) -> tuple[str, str, str]:
    """Change a byte of a copy, run the job, and judge: (kind of file, outcome, what was seen)."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(case.folder, scratch)
    victims = sorted(path for path in scratch.rglob("*") if path.is_file() and path.stat().st_size)
    path = rng.choice(victims)
    data = bytearray(path.read_bytes())
    at, flip = rng.randrange(len(data)), rng.randrange(1, 256)
    data[at] ^= flip
    path.write_bytes(data)
    where = f"{case.name}: {path.relative_to(scratch)} at {at}, by {flip:#x}"
    out = scratch / f"out{case.ending}"
    try:
        summary = case.job(out)
        found = contents(out)
    except BeholderError as error:
        is_line = "\n" not in str(error) and path.name in str(error)
        return kind_of(path), "refused" if is_line else "wrong", f"{where}: {error}"
    if facts(summary) != case.summary or found != case.contents:
        return kind_of(path), "wrong", f"{where}: other results, damaged: {summary.damaged}"
    return kind_of(path), "done again" if summary.damaged else "harmless", where


def main() -> None:
    """Make as many changes as were asked for, over all cases in turn, and print the table."""
    wanted, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    rng = random.Random(seed)
    table: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="beholder-damage-") as folder:
        cases = make_cases(Path(folder))
        for number in range(wanted):
            kind, outcome, seen = change_and_run(cases[number % len(cases)], Path(folder) / "scratch", rng)
            table[kind, outcome] += 1
            if outcome == "wrong":
                print("WRONG", seen, flush=True)
    outcomes = ("done again", "refused", "harmless", "wrong")
    print("\n| changed in | changes | " + " | ".join(outcomes) + " |\n|---|---|" + "---|" * len(outcomes))
    for kind in [*sorted({kind for kind, _ in table}), None]:
        counts = [sum(n for (k, o), n in table.items() if o == outcome and kind in (None, k)) for outcome in outcomes]
        print(f"| {kind or 'all'} | {sum(counts)} | " + " | ".join(map(str, counts)) + " |")
    sys.exit(1 if any(outcome == "wrong" for _, outcome in table) else 0)


if __name__ == "__main__":
    main()

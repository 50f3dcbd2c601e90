"""Finished and interrupted results of every layout in; what comes of each after damage at rest out.

Damage is *noticed* when its shard is done again and the summary names it, or when the run is refused in one line; it is
*harmless* when results and summary are those of the undisturbed run all the same (white space in a record); anything else is
*wrong*.
"""

from __future__ import annotations

import os
import random
import shutil
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
from beholder.scoring.check import check_result, is_result
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
        before: what a reader finds in the result as it is.
    """

    name: str
    folder: Path
    ending: str
    job: Job
    summary: dict[str, Any]
    contents: dict[str, Any]
    before: dict[str, Any]


def facts(summary: RunSummary) -> dict[str, Any]:
    """The summary without what differs from run to run."""
    return {key: value for key, value in summary.to_json().items() if key not in _OF_THIS_RUN}


def contents(out: Path) -> dict[str, Any]:
    """Everything that a reader finds in a result: rows of tables, arrays, stamps."""
    found: dict[str, Any] = {}
    for path in sorted(out.parent.rglob("*")):
        name = str(path.relative_to(out.parent))
        if "/done/" in name or not path.is_file() or path.name in (".lock", "run.json"):
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
    """Run the job up to its last rows, so that shards stand in a folder of their own and are not joined; some are finished."""
    seen = 0

    def stop(rows: int, num_bytes: int) -> None:
        nonlocal seen
        seen += rows
        if seen == num_rows:
            raise KeyboardInterrupt

    try:
        job(out, on_progress=stop)
    except KeyboardInterrupt:
        assert list(out.parent.glob("out*/done/*.json")), "nothing is finished"
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
            return embed(embed_options(str(photos), out, tower, shard_rows=2, batch_size=1, workers=0), **more)

        def keep_photos(out: Path, **more: Any) -> RunSummary:
            keep = score_options(str(photos), out, tower, head, shard_rows=2, batch_size=1, workers=0, keep_embeddings=True)
            return score(keep, **more)

        jobs += [("embeddings", "", embed_photos, 6), ("embeddings", ".parquet", embed_photos, 6)]
        jobs += [("scores and embeddings", "", keep_photos, 6), ("scores and embeddings", ".parquet", keep_photos, 6)]
    cases = []
    for name, ending, job, num_rows in jobs:
        folder = root / f"{name}{ending} finished"
        folder.mkdir()
        summary, whole = facts(job(folder / f"out{ending}")), contents(folder / f"out{ending}")
        cases.append(Case(f"{name}, {ending or 'folder'}, finished", folder, ending, job, summary, whole, whole))
        if ending:
            folder = root / f"{name}{ending} interrupted"
            folder.mkdir()
            interrupted(job, folder / f"out{ending}", num_rows)
            left = contents(folder / f"out{ending}")
            cases.append(Case(f"{name}, {ending}, interrupted", folder, ending, job, summary, whole, left))
    return cases


def kind_of(path: Path) -> str:
    """What sort of file is damaged."""
    if path.suffix == ".zst":
        return "index"
    if path.parent.name == "done":
        return "marker"
    if path.name.endswith("beholder.json"):
        return "record"
    if path.name == "run.json" or path.name.endswith(".run.json"):
        return "times of runs"
    if path.parent.name in ("scores", "rejects", "embeddings", "img_emb", "metadata", "_inputs"):
        return f"shard: {path.parent.name}"
    return "joined file"


def flip_a_bit(path: Path, others: list[Path], rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def cut_short(path: Path, others: list[Path], rng: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(1, path.stat().st_size)])


def zero_a_block(path: Path, others: list[Path], rng: random.Random) -> None:
    """A block of 512 bytes, as disks lose them; the one before where it holds nothing else."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data)) // 512 * 512
    data[at : at + 512] = bytes(len(data[at : at + 512]))
    path.write_bytes(data)


def empty(path: Path, others: list[Path], rng: random.Random) -> None:
    path.write_bytes(b"")


def delete(path: Path, others: list[Path], rng: random.Random) -> None:
    path.unlink()


def swap(path: Path, others: list[Path], rng: random.Random) -> None:
    """With another file of the same kind of name where there is one, else with any."""
    alike = [other for other in others if other.suffix == path.suffix and other.read_bytes() != path.read_bytes()]
    other = rng.choice(alike or [one for one in others if one != path])
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


DAMAGES: dict[str, Callable[[Path, list[Path], random.Random], None]] = {
    "bit flipped": flip_a_bit, "cut short": cut_short, "block of zeros": zero_a_block, "emptied": empty, "deleted": delete,
    "swapped": swap,
}  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What came of one damage.

    Attributes:
        kind: of the file.
        outcome: "done again", "refused", "harmless" or "wrong".
        text: what was damaged, and what was seen.
        is_told: whether `beholder verify` had found it, as far as it matters.
    """

    kind: str
    outcome: str
    text: str
    is_told: bool = True


def readable(out: Path) -> dict[str, Any] | None:
    """What a reader finds in a result; None where it meets an error."""
    try:
        return contents(out)
    except Exception:  # of whichever reader
        return None


def damage_and_run(case: Case, damage: str, scratch: Path, rng: random.Random, *, is_silent: bool) -> Seen:
    """Damage a file of a copy, have it verified, run the job, and judge.

    is_silent: the damaged file has the time that it had before, as when a disk loses bits.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(case.folder, scratch)
    out = scratch / f"out{case.ending}"
    victims = sorted(path for path in scratch.rglob("*") if path.is_file() and path.stat().st_size)
    by_kind = {kind_of(path): [one for one in victims if kind_of(one) == kind_of(path)] for path in victims}
    path = rng.choice(by_kind[rng.choice(sorted(by_kind))])
    times = {one: one.stat().st_mtime_ns for one in victims}
    DAMAGES[damage](path, victims, rng)
    for one, time_ns in times.items():
        if is_silent and one.exists():
            os.utime(one, ns=(time_ns, time_ns))
    where = f"{case.name}: {damage}{' in silence' if is_silent else ''}: {path.relative_to(scratch)}"
    now = readable(out)
    try:
        told = bool(check_result(str(out)).findings) if is_result(str(out)) else True
    except BeholderError:
        told = True
    matters = now is None or now != case.before
    try:
        summary = case.job(out)
        found = contents(out)
    except BeholderError as error:
        is_line = "\n" not in str(error) and scratch.name in str(error)
        return Seen(kind_of(path), "refused" if is_line else "wrong", f"{where}: {error}", told or not matters)
    if facts(summary) != case.summary or found != case.contents:
        names = [name for name in found.keys() | case.contents.keys() if found.get(name) != case.contents.get(name)]
        text = f"{where}: other results ({names}), damaged: {summary.damaged}, verified: {told}"
        return Seen(kind_of(path), "wrong", text, told or not matters)
    return Seen(kind_of(path), "done again" if summary.damaged or told else "harmless", where, told or not matters)

"""Sources of small jobs that are disturbed, and the words of commands over them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from oracles.hostile import hostile_files
from oracles.picture_jobs import picture_bytes
from oracles.tar_making import tar


def write_rows(folder: Path, num_rows: int = 6000) -> Path:
    """Two arrays of embeddings; five rows are rejected."""
    folder.mkdir(parents=True)
    rows = np.random.default_rng(0).standard_normal((num_rows, 24)).astype(np.float32)
    rows[[5, 77, num_rows // 2, num_rows - 1]] = 0
    rows[100, 3] = np.nan
    np.save(folder / "a.npy", rows[: num_rows // 3])
    np.save(folder / "b.npy", rows[num_rows // 3 :])
    return folder


def write_photos(folder: Path, count: int = 48, num_hostile: int = 0) -> Path:
    """Small pictures in three folders; every eleventh is none inside. With hostile files among them, if asked for."""
    for number in range(count):
        path = folder / "abc"[number % 3] / f"p{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no picture" if number % 11 == 7 else picture_bytes(number, "PNG", (40 + number, 60)))
    for number, (name, data, reason) in enumerate(hostile_files(random.Random(7), num_hostile)):
        (folder / "abc"[number % 3] / f"{Path(name).stem} {reason.value}.jpg").write_bytes(data)
    return folder


def write_tars(folder: Path, count: int = 8, each: int = 6) -> Path:
    """Tars of small pictures; every eleventh is none inside."""
    folder.mkdir(parents=True)
    for number in range(count):
        members = [
            (f"{at:03}.jpg", b"no picture" if (number * each + at) % 11 == 7 else picture_bytes(number * each + at))
            for at in range(each)
        ]
        (folder / f"{number:03}.tar").write_bytes(tar(members))
    return folder


def of_rows(source: Path, head: Path) -> tuple[str, ...]:
    """A command that scores embeddings in many shards."""
    return ("score", str(source), "--head", str(head), "--shard-rows", "100", "--threads", "1", "-q")


def of_pictures(source: Path, tower: Path, *more: str) -> tuple[str, ...]:
    """The words that commands on pictures share."""
    return (str(source), "--backbone", str(tower), "--precision", "fp32", "--threads", "1", "--shard-rows", "6", "-q", *more)

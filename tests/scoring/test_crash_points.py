"""Runs that die at each named point of the runner and of publishing, once: the next run gives what a run from scratch gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oracles.program import python

ONLY_UPLOADED = {"upload begun", "file uploaded"}
"""Points that only remote outputs meet."""
ONLY_JOINED = {
    "inputs packed", "rejects published", "embeddings published", "result published", "result recorded", "shards removed",
    "shard adopted", "result opened", "opened result set aside", "embeddings moved away",
}  # fmt: skip
"""Points that only outputs of one file meet."""
ONLY_FOLDERS = {"shard linked aside", "shard set aside"}
"""Points that only folders of shards meet."""


def drive(tmp_path: Path, head: Path, tower: str, *suffixes: str) -> tuple[set[str], set[str]]:
    """The points that were reached, and all there are."""
    tests = Path(__file__).resolve().parents[1]
    done = python(str(tests / "scoring" / "crash_driver.py"), str(tmp_path), str(head), tower, *suffixes)
    assert done.returncode == 0, done.stderr[-3000:]
    reached, points = json.loads(done.stdout)
    return set(reached), set(points)


@pytest.mark.parametrize("suffix", ["", ".parquet", pytest.param(".csv", marks=pytest.mark.slow)])
def test_embeddings_are_scored_once_wherever_a_run_dies(tmp_path: Path, small_head: Path, suffix: str) -> None:
    reached, points = drive(tmp_path, small_head, "", suffix)
    assert points - reached == ONLY_UPLOADED | (ONLY_FOLDERS | {"embeddings moved away"} if suffix else ONLY_JOINED)


def test_pictures_are_scored_once_wherever_a_run_dies(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    reached, _ = drive(tmp_path, plain_head, str(small_tower), ".parquet")
    assert reached == {"embeddings moved away", "embeddings published", "result published"}

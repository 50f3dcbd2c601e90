"""Runs that die at each named point of the runner and of publishing, once: the next run gives what a run from scratch gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oracles.program import python
from oracles.tiers import mostly_slow

ONLY_REMOTE = {"embeddings taken away", "embeddings copied"}
"""Points that only remote outputs meet."""
ONLY_FOLDERS = {"shard linked aside", "shard set aside", "index written"}
"""Points that only folders of shards meet."""


def drive(how: str, tmp_path: Path, head: Path, tower: str, *suffixes: str) -> tuple[set[str], set[str]]:
    """The points that were reached, and all there are."""
    done = python(str(Path(__file__).with_name("crash_driver.py")), how, str(tmp_path), str(head), tower, *suffixes)
    assert done.returncode == 0, done.stderr[-3000:]
    reached, points = json.loads(done.stdout)
    return set(reached), set(points)


@pytest.mark.slow
def test_embeddings_are_scored_once_wherever_a_run_dies(tmp_path: Path, small_head: Path) -> None:
    reached, points = drive("once", tmp_path, small_head, "", "", ".parquet")
    assert points - reached == ONLY_REMOTE | {"embeddings moved away"}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", mostly_slow([".parquet", ".csv"], quick=0, slow=1))
def test_one_file_is_whole_wherever_a_run_dies(tmp_path: Path, small_head: Path, suffix: str) -> None:
    reached, points = drive("each", tmp_path, small_head, "", suffix)
    assert points - reached == ONLY_REMOTE | ONLY_FOLDERS | {"embeddings moved away"}


def test_pictures_are_scored_once_wherever_a_run_dies(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    reached, _ = drive("each", tmp_path, plain_head, str(small_tower), ".parquet")
    assert reached == {"embeddings moved away", "embeddings published", "result published"}

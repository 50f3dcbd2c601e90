"""Killed at random moments, continued, undone: no file is ever lost or doubled, and all come back, byte for byte."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from oracles.acting import contents
from oracles.program import python

NUM_FILES, NUM_KILLS, NUM_KILLS_UNDOING = 10_000, 30, 8


def make_files(folder: Path, count: int) -> None:
    """Four of five are pictures, the fifth is the caption of the one before; what is to be moved stands in samples.txt."""
    samples = []
    for i in range(count):
        owner = i - 1 if i % 5 == 4 else i
        name = f"photos/{owner % 37}/é {owner // (count // 2 + 1)}/{owner:05d}.{'txt' if i % 5 == 4 else 'jpg'}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"{i} ".encode() * (i % 50 + 1))
        if i % 5 != 4:
            samples.append(name)
    (folder / "samples.txt").write_text("\0".join(samples))


def move_and_kill(folder: Path, target: str, num_moving: int, num_undoing: int) -> list[int]:
    line = [str(Path(__file__).with_name("kill_moves.py")), str(folder), target]
    line += [str(number) for number in (num_moving, num_undoing, 0)]
    result = python(*line)
    assert result.returncode == 0, result.stderr
    return [int(count) for count in result.stdout.split()]


@pytest.mark.soak
def test_ten_thousand_files_moved_through_thirty_kills_come_back(tmp_path: Path) -> None:
    make_files(tmp_path, NUM_FILES)
    before = contents(tmp_path / "photos")
    assert len(before) == NUM_FILES
    moving, undoing = move_and_kill(tmp_path, "best", NUM_KILLS, NUM_KILLS_UNDOING)
    assert moving == NUM_KILLS
    assert undoing >= NUM_KILLS_UNDOING // 2
    assert contents(tmp_path / "photos") == before
    assert not (tmp_path / "best").exists()


@pytest.mark.slow
def test_killed_between_two_disks_every_file_stays_whole(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this system has no second disk that can be written")
    make_files(tmp_path, 800)
    before = contents(tmp_path / "photos")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        moving, _ = move_and_kill(tmp_path, f"{folder}/best", 10, 4)
        assert moving >= 8
        assert contents(tmp_path / "photos") == before
        assert not Path(folder, "best").exists()

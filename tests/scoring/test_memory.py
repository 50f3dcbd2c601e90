"""Memory: scoring many files takes no more of it than scoring one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beholder import Head, save_head
from beholder.kernels.scoring import Affine
from oracles.tiers import mostly_slow

D = 768
NUM_FILES = 12
FILE_BYTES = 150_000_000
MOST_GROWTH = 30 << 20
ROW_GROUP_BYTES = 80 << 20
"""Joining parts to one Parquet file holds one row group of about a million rows and its compressed pages."""

pytestmark = pytest.mark.slow

CHILD = """
import sys, threading, time
from pathlib import Path
from beholder.scoring.score import ScoreOptions, score

peak, done = 0, threading.Event()

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    global peak
    while not done.wait(0.005):
        peak = max(peak, anonymous())

sources, out, head = sys.argv[1:]
watcher = threading.Thread(target=watch)
watcher.start()
summary = score(ScoreOptions(sources=(sources,), out=out, heads=(head,), memory_bytes=256 * 10**6),
                on_progress=lambda rows, num_bytes: globals().update(peak=max(peak, anonymous())))
done.set()
watcher.join()
print(peak, summary.num_read)
"""


def _peak(sources: Path, out: Path, head: Path) -> tuple[int, int]:
    """Peak of anonymous memory (not counting mapped files) and rows read by a process that scores `sources`."""
    line = [sys.executable, "-c", CHILD, str(sources), str(out), str(head)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    peak, rows = map(int, done.stdout.split())
    return peak, rows


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see memory")
@pytest.mark.parametrize("fortran", mostly_slow([False, True], quick=0, slow=1), ids=["rows", "columns"])
def test_twelve_files_take_hardly_more_memory_than_one(tmp_path: Path, fortran: bool) -> None:
    """The same file under many names, as hard links: as much to read, and no more on the disk."""
    num_rows = FILE_BYTES // (2 * D)
    rows = np.tile(np.random.default_rng(0).standard_normal((1000, D)).astype(np.float16), (num_rows // 1000 + 1, 1))[:num_rows]
    for folder in ("one", "many"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "one" / "0.npy", np.asfortranarray(rows) if fortran else rows)
    for i in range(NUM_FILES):
        os.link(tmp_path / "one" / "0.npy", tmp_path / "many" / f"{i}.npy")
    head = tmp_path / "head.safetensors"
    save_head(Head(name="head", math=Affine(np.linspace(-1, 1, D), 5.0)), head)
    try:
        one, rows_of_one = _peak(tmp_path / "one", tmp_path / "out-one", head)
        many, rows_of_many = _peak(tmp_path / "many", tmp_path / "out-many", head)
        joined, _ = _peak(tmp_path / "many", tmp_path / "many.parquet", head)
    finally:
        for path in tmp_path.rglob("*.npy"):
            path.unlink()
    assert (rows_of_one, rows_of_many) == (num_rows, NUM_FILES * num_rows)
    assert one > 10 << 20
    text = f"{one >> 20} MiB for one file, {many >> 20} MiB for {NUM_FILES}, {joined >> 20} MiB with the parts joined"
    assert many - one < MOST_GROWTH, text
    assert joined - one < MOST_GROWTH + ROW_GROUP_BYTES, text

"""Shards whose labels are too many to be held: they are written while they are scored, whatever becomes of the output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from oracles.score_jobs import D, read_scores, run

LONG = 8000
LARGE = 5000
"""So many rows with captions of `LONG` bytes are 40 MB, and 16 MB may wait to be written."""


def captioned(path: Path, rows: int, more: int = LONG) -> list[str]:
    """A table of embeddings with captions, in small row groups; the captions."""
    captions = [f"{path.stem} {number} " + "c" * more for number in range(rows)]
    vectors = np.random.default_rng(rows).standard_normal((rows, D)).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), D)
    names = [f"{path.stem}{number}" for number in range(rows)]
    table = pa.table({"sample": names, "caption": captions, "embedding": lists})
    pq.write_table(table, path, compression="zstd", row_group_size=500)
    return captions


def test_an_output_that_cannot_be_opened_ends_the_run(tmp_path: Path, small_head: Path) -> None:
    """The folder of scores leads nowhere when a part that is too large to be held is to be written."""
    out, options = tmp_path / "out", {"columns": ("caption",), "memory_bytes": 64 * 10**6}
    captioned(tmp_path / "a.parquet", 10)
    run(tmp_path / "a.parquet", out, small_head, **options)
    (out / "scores" / "a.parquet").unlink()
    (out / "scores").rmdir()
    (out / "scores").symlink_to(tmp_path / "gone")
    captioned(tmp_path / "b.parquet", LARGE)
    line = [sys.executable, "-m", "beholder", "score", str(tmp_path / "b.parquet"), str(tmp_path / "a.parquet")]
    line += ["--head", str(small_head), "-o", str(out), "--column", "caption", "--memory", "64MB"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert f"cannot write {out}/scores/b.parquet" in done.stderr
    assert "Traceback" not in done.stderr


def test_large_shards_are_written_whole(tmp_path: Path, small_head: Path) -> None:
    captions = captioned(tmp_path / "b.parquet", LARGE)
    run(tmp_path / "b.parquet", tmp_path / "out", small_head, columns=("caption",), memory_bytes=64 * 10**6)
    assert read_scores(tmp_path / "out")["caption"].to_list() == captions

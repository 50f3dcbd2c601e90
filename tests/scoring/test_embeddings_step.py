"""Shards whose labels are too many to be held, or lie in a file of their own: written while they are scored, whatever comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beholder.sources.labels import ConsecutiveLabels
from beholder.sources.reader import Part, ReadOptions
from oracles.program import beholder
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
    line = ["score", str(tmp_path / "b.parquet"), str(tmp_path / "a.parquet")]
    line += ["--head", str(small_head), "-o", str(out), "--column", "caption", "--memory", "64MB"]
    done = beholder(*line)
    assert done.returncode == 1, done.stderr
    assert f"cannot write {out}/scores/b.parquet" in done.stderr
    assert "Traceback" not in done.stderr


def test_large_shards_are_written_whole(tmp_path: Path, small_head: Path) -> None:
    captions = captioned(tmp_path / "b.parquet", LARGE)
    run(tmp_path / "b.parquet", tmp_path / "out", small_head, columns=("caption",), memory_bytes=64 * 10**6)
    assert read_scores(tmp_path / "out")["caption"].to_list() == captions


def test_metadata_of_one_row_group_is_read_once_however_many_blocks(tmp_path: Path) -> None:
    """4 MB of captions in one row group, taken in 40 blocks: the file is read once, by the bytes that the process read."""
    rows = 4000
    captions = [f"{number} " + np.random.default_rng(number).bytes(500).hex() for number in range(rows)]
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"image_path": captions}), path, compression="none", use_dictionary=False)
    part = Part("x.npy", "x", "npy", rows, D, "float32", 4 * D * rows, metadata_path=str(path))
    before = bytes_read()
    labels = ConsecutiveLabels(part, 0, rows, ReadOptions())
    taken = [list(labels.take(100)) for _ in range(40)]
    assert bytes_read() - before < 2 * path.stat().st_size
    labels.close()
    assert [name for pieces in taken for piece in pieces for name in piece["sample"].to_pylist()] == captions
    assert {sum(piece.num_rows for piece in pieces) for pieces in taken} == {100}
    assert list(labels.take(1)) == []


def bytes_read() -> int:
    """Bytes that this process has had from `read` and the like."""
    text = Path("/proc/self/io").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("rchar")))


def test_shards_of_an_array_take_their_rows_of_the_metadata(tmp_path: Path, small_head: Path) -> None:
    """Shards begin within row groups, blocks end within them."""
    rows = 5000
    (tmp_path / "set" / "img_emb").mkdir(parents=True)
    (tmp_path / "set" / "metadata").mkdir()
    vectors = np.random.default_rng(0).standard_normal((rows, D)).astype(np.float32)
    np.save(tmp_path / "set" / "img_emb" / "img_emb_0.npy", vectors)
    captions = [f"caption {number}" for number in range(rows)]
    table = pa.table({"image_path": [f"p{number}" for number in range(rows)], "caption": captions})
    pq.write_table(table, tmp_path / "set" / "metadata" / "metadata_0.parquet", row_group_size=2100)
    run(tmp_path / "set", tmp_path / "out", small_head, columns=("caption",), shard_rows=1600)
    found = read_scores(tmp_path / "out").sort("sample")
    assert dict(zip(found["sample"], found["caption"], strict=True)) == {f"p{n}": f"caption {n}" for n in range(rows)}

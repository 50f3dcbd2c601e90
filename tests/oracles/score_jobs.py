"""Embeddings for small scoring jobs, the jobs themselves, and what they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from beholder.scoring.summary import RunSummary

N, D = 3000, 24
ROWS = np.random.default_rng(0).standard_normal((N, D)).astype(np.float16)
NAMES = [f"pictures/{i:05d}.jpg" for i in range(N)]


def run(sources: Any, out: Path, head: Path, **options: Any) -> RunSummary:
    """Score sources, by one head or, with `heads`, by several."""
    sources = tuple(str(source) for source in (sources if isinstance(sources, list | tuple) else [sources]))
    heads = tuple(str(h) for h in options.pop("heads", [head]))
    return score(ScoreOptions(sources=sources, out=str(out), heads=heads, **options))


def read_scores(out: Path) -> pl.DataFrame:
    """All scores of an output: a folder's, or one Parquet file's."""
    return pl.read_parquet(out / "scores" / "*.parquet" if out.is_dir() else out)


def clip_retrieval_set(root: Path, padding: int = 0, parts: int = 12) -> Path:
    """A set in clip-retrieval's layout: img_emb/img_emb_I.npy and metadata/metadata_I.parquet."""
    (root / "img_emb").mkdir(parents=True)
    (root / "metadata").mkdir()
    for i, (rows, names) in enumerate(zip(np.array_split(ROWS, parts), np.array_split(NAMES, parts), strict=True)):
        np.save(root / "img_emb" / f"img_emb_{i:0{padding}d}.npy", rows)
        table = pa.table({"image_path": names, "width": np.arange(len(names)), "caption": [f"c, {n}" for n in names]})
        pq.write_table(table, root / "metadata" / f"metadata_{i:0{padding}d}.parquet", row_group_size=100)
    return root

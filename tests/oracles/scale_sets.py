"""Tables of scores whose records say which head made them, for maps between scales."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from beholder.models import catalog

V2, V1 = "sac+logos+ava1-l14-linearMSE", "sa_0_4_vit_l_14_linear"
SHORT_V2, SHORT_V1 = "laion-v2", "laion-v1"


def head_record(name: str, sha256: str | None = None) -> dict[str, Any]:
    """What a score set says of a head; of a public one with its published sha256."""
    entry = catalog.find(name)
    return {"name": entry.name if entry is not None else name, "sha256": sha256 or (entry.sha256 if entry is not None else "")}


def write_scores(
    path: Path,
    scores: dict[str, Any],
    heads: Sequence[dict[str, Any]],
    samples: Sequence[str] | None = None,
    **more: Any,
) -> Path:
    """Write a Parquet file of scores: column -> (N,) numbers, with the heads behind these columns; further columns as given."""
    num_rows = len(next(iter(scores.values())))
    names = list(samples) if samples is not None else [f"photos/{number:05d}.jpg" for number in range(num_rows)]
    columns = {name: pa.array(np.asarray(values, np.float32)) for name, values in scores.items()}
    record = {"format": "beholder-score-set", "version": 1, "score_columns": list(scores), "heads": list(heads)}
    table = pa.table({"sample": names, **columns, **more})
    pq.write_table(table.replace_schema_metadata({b"beholder": json.dumps(record).encode()}), path)
    return path


def two_heads(folder: Path, num_rows: int = 400, noise: float = 0.3, seed: int = 0) -> tuple[Path, Path, Any, Any]:
    """The same pictures scored by laion-v2 and laion-v1: two files, and the scores as float32."""
    rng = np.random.default_rng(seed)
    v2 = rng.normal(5, 0.8, num_rows).astype(np.float32)
    v1 = (1.4 * v2 - 2 + rng.normal(0, noise, num_rows)).astype(np.float32)
    one = write_scores(folder / "v2.parquet", {"aesthetic_score": v2}, [head_record(V2)])
    two = write_scores(folder / "v1.parquet", {"aesthetic_score": v1}, [head_record(V1)])
    return one, two, v2, v1

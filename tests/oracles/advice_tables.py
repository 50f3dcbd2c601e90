"""Score sets in memory for tests of advice: scores by a known head, marked as `beholder score` would mark them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

V2, V1 = "sac+logos+ava1-l14-linearMSE", "sa_0_4_vit_l_14_linear"


def table_of(scores: Any, head: str | None = None, **more: Any) -> pa.Table:
    """A score set in memory, as `beholder score` would mark it."""
    numbers = pa.array(scores, pa.float32())
    table = pa.table({"sample": [f"s{i}" for i in range(len(numbers))], "aesthetic_score": numbers, **more})
    if head is None:
        return table
    record = {"score_columns": ["aesthetic_score"], "heads": [{"name": head, "backbone": "openai/clip-vit-large-patch14"}]}
    return table.replace_schema_metadata({"beholder": json.dumps(record)})


def normal(rows: int = 2000, mean: float = 4.8, deviation: float = 0.6) -> np.ndarray:
    return np.random.default_rng(0).normal(mean, deviation, rows).astype(np.float32)

"""Score sets to report on: small ones made in code, and a folder of photographs with scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.models.catalog import DEFAULT_HEAD
from oracles.report_page import MakeSet
from oracles.score_records import record_of


@pytest.fixture
def make_set(tmp_path: Path) -> MakeSet:
    """Writes a score set: columns of scores by name, samples, other columns, rejects."""

    def make(
        scores: dict[str, Any],
        samples: Sequence[str] | None = None,
        *,
        name: str = "scores.parquet",
        heads: Sequence[str] | None = None,
        columns: dict[str, Any] | None = None,
        rejects: Sequence[tuple[str, str, str]] = (),
        record: dict[str, Any] | None = None,
    ) -> Path:
        num_rows = len(next(iter(scores.values())))
        names = samples if samples is not None else [f"photos/{row:05d}.jpg" for row in range(num_rows)]
        table: dict[str, Any] = {"sample": pa.array(names, pa.large_string())}
        table |= {column: pa.array(values, pa.float32()) for column, values in scores.items()}
        table |= columns or {}
        path = tmp_path / name
        made = record_of(list(zip(scores, heads or [DEFAULT_HEAD] * len(scores), strict=True))) | (record or {})
        pq.write_table(pa.table(table).replace_schema_metadata({b"beholder": json.dumps(made).encode()}), path)
        path.with_name(f"{name}.beholder.json").write_text(json.dumps(made))
        if rejects:
            fields = {"sample": [], "stage": [], "reason": [], "message": []}  # type: dict[str, list[str]]
            for sample, reason, message in rejects:
                for field, text in zip(fields, (sample, "decode", reason, message), strict=True):
                    fields[field].append(text)
            pq.write_table(pa.table(fields), path.with_name(f"{name}.rejects.parquet"))
        return path

    return make


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder `photos` with 24 pictures of different sizes and colours."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(8)
    for number in range(24):
        height, width = rng.integers(40, 300, 2)
        x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        waves = [127 + 120 * np.sin(phase + 9 * x * (1 + number % 3) + 7 * y) for phase in rng.uniform(0, 6, 3)]
        Image.fromarray(np.stack(waves, -1).astype(np.uint8)).save(folder / f"{number:05d}.jpg", quality=90)
    return folder

"""A threshold means the same everywhere: select, advise, report and browse keep the same rows, as float32 numbers compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import beholder
from beholder.browse.ranking import View
from beholder.reporting.numbers import HeadNumbers

TENTHS = np.round(np.random.default_rng(3).normal(5, 0.6, 400), 1)


@pytest.mark.parametrize("threshold", [4.7, 5.1, 5.3, 5.0, 6.1])
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_scores_stored_as_the_threshold_are_kept_by_all(kind: pa.DataType, threshold: float) -> None:
    table = pa.table({"sample": [f"{row:03d}" for row in range(len(TENTHS))], "aesthetic_score": pa.array(TENTHS, kind)})
    wanted = int((np.round(TENTHS * 10) >= round(threshold * 10)).sum())
    scores = TENTHS.astype(np.float32)
    with beholder.select(table, min_score=threshold) as chosen:
        assert chosen.num_kept == wanted
    advice = beholder.advise(table, at=threshold, columns=["sample"])
    assert advice.num_kept == wanted
    assert HeadNumbers("aesthetic_score", None, scores).count_at_least(threshold) == wanted
    best_first = np.argsort(-scores, kind="stable")
    view = View("all", "aesthetic_score", (), best_first, np.sort(scores), None, len(scores))
    assert view.count_at_least(threshold) == wanted


def test_a_joined_table_that_lacks_rows_is_told(tmp_path: Path) -> None:
    part = tmp_path / "part.csv"
    part.write_text("sample,language\na,en\n")
    table = pa.table({"sample": ["a", "b", "c"], "aesthetic_score": [1.0, 2.0, 3.0]})
    with beholder.select(table, join=str(part), where="language IS NOT NULL") as chosen:
        assert chosen.num_kept == 1
        assert f"--join {part} lacks 2 of 3 rows; its columns are null there" in chosen.selection.notes

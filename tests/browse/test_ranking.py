"""The order of rows against plain Python over all rows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.browse.ranking import best_first
from beholder.browse.rows import RowStore
from beholder.scoreset.score_set import open_scores

SCORES = st.one_of(st.sampled_from([4.5, 5.0, 5.1, math.nan, -0.0, 0.0, math.inf, -math.inf]), st.floats(3, 7, width=32))
NAMES = st.text(alphabet="abÅ猫😀/.", max_size=4)


def store_of(names: list[str | None], scores: list[float], folder: Path) -> RowStore:
    table = pa.table({"sample": pa.array(names, pa.string()), "aesthetic_score": pa.array(scores, pa.float32())})
    with open_scores(table) as found:
        return RowStore(found, folder)


@settings(max_examples=60)
@given(st.lists(st.tuples(NAMES, SCORES), min_size=1, max_size=40))
def test_rows_come_best_first_with_ties_by_name_in_bytes_then_by_row(tmp_path_factory, pairs) -> None:
    names, scores = [name for name, _ in pairs], np.array([score for _, score in pairs], np.float32)
    rows = best_first(scores, store_of(names, scores.tolist(), tmp_path_factory.mktemp("s")))
    wanted = [row for row in range(len(scores)) if math.isfinite(scores[row])]
    wanted.sort(key=lambda row: (-scores[row], names[row].encode(), row))
    assert rows.tolist() == wanted

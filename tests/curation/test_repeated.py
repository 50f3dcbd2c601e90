"""Files that hold the same pictures: each sample counts once, in `select`, `advise`, `report` and `browse`, and it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import beholder
from beholder.curation.repeated import open_each_once, repeated_rows
from beholder.reporting.api import report
from beholder.scores.score_set import open_scores


@pytest.fixture(params=["parquet", "csv", "table"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Two sets, of which the second has b and c again with other scores, and one b within itself; two rows have no name."""
    first = pa.table({"sample": ["a", "b", "c", None], "aesthetic_score": [4.0, 3.0, 2.0, 1.0], "n": ["1", "2", "3", "4"]})
    second = pa.table({"sample": ["b", "d", "c", "b", None], "aesthetic_score": [9.0, 5.0, 8.0, 7.0, 0.5], "n": list("56789")})
    if request.param == "table":
        return pa.concat_tables([first, second])
    for name, table in (("1", first), ("2", second)):
        if request.param == "parquet":
            pq.write_table(table, tmp_path / f"{name}.parquet")
        else:
            rows = [",".join(str(value or "") for value in row.values()) for row in table.to_pylist()]
            (tmp_path / f"{name}.csv").write_text("\n".join(["sample,aesthetic_score,n", *rows]) + "\n")
    return str(tmp_path / f"*.{request.param}")


def test_the_first_row_of_each_stays_and_it_is_said(source: Any) -> None:
    with open_each_once(source) as scores:
        names = [name for piece in scores.samples() for name in piece.to_pylist()]
        is_csv = isinstance(source, str) and source.endswith("csv")  # there a missing name is an empty one
        assert names == ["a", "b", "c", "" if is_csv else "#3", "d", "" if is_csv else "#8"]
        assert scores.scores("aesthetic_score").tolist() == [4, 3, 2, 1, 5, 0.5]
        told = f"3 rows of {scores.source} name a sample that came before (the first: 'b')"
        assert scores.notes == (f"{told}; the first row of each sample is kept (--repeated)",)
    with open_each_once(source, "all") as scores:
        assert (scores.num_rows, scores.notes) == (9, ())
    with pytest.raises(beholder.InputError, match="rows of .* name a sample that came before .*keep-first"):
        open_each_once(source, "refuse").__enter__()
    with pytest.raises(beholder.InputError, match="--repeated twice: one of keep-first, refuse, all"):
        open_each_once(source, "twice").__enter__()


def test_everything_that_reads_scores_counts_each_sample_once(source: Any, tmp_path: Path) -> None:
    with beholder.select(source, min_score=2) as found:
        assert found.kept_rows().column("sample").to_pylist() == ["d", "a", "b", "c"]
        assert [note for note in found.selection.notes if "came before" in note]
    with beholder.select(source, min_score=2, repeated="all") as found:
        assert found.num_kept == 7
        assert not found.selection.notes
    with pytest.raises(beholder.InputError, match="came before"):
        beholder.select(source, min_score=2, repeated="refuse")
    advice = beholder.advise(source, at=2)
    assert advice.num_rows == 6
    assert [line for line in advice.warnings if "came before" in line]
    summary = report(source, out=str(tmp_path / "page.html"), no_thumbnails=True)
    assert [line for line in summary.warnings if "came before" in line]
    assert summary.num_rows == 6


def test_against_python_with_hashes_sorted_in_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    names = [f"photos/{number:05d}.jpg" for number in rng.integers(0, 40_000, 10_000)]
    for part in range(3):
        pq.write_table(
            pa.table({"sample": names[part::3], "score": np.zeros(len(names[part::3]))}), tmp_path / f"{part}.parquet"
        )
    names = names[0::3] + names[1::3] + names[2::3]
    seen: set[str] = set()
    expected = [row for row, name in enumerate(names) if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    with open_scores(str(tmp_path / "*.parquet")) as scores:
        for at_once in (700, 1 << 20):
            assert repeated_rows(scores, 2, sorted_at_once=at_once).tolist() == expected
    assert 1000 < len(expected) < 1500

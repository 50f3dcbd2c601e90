"""Files that hold the same pictures: each sample counts once, in `select`, `advise`, `report` and `browse`, and it is said."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import beholder
from beholder.cli.app import app
from beholder.reporting.report import report
from beholder.scoreset.row_names import open_each_once, repeated_rows
from beholder.scoreset.score_set import open_scores


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


def run_command(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output


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
    assert (advice.num_rows, advice.num_rows_that_meet) == (9, 6)
    assert [line for line in advice.warnings if "came before" in line]
    summary = report(source, out=str(tmp_path / "page.html"), no_thumbnails=True)
    assert [line for line in summary.warnings if "came before" in line]
    assert (summary.num_rows, summary.num_rows_that_meet) == (9, 6)


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
            assert repeated_rows(scores, 2, sorted_at_once=at_once, few_rows=0).tolist() == expected
        assert repeated_rows(scores).tolist() == expected
    assert 1000 < len(expected) < 1500


def test_hashes_of_many_row_groups_lie_in_a_file_in_shares(tmp_path: Path) -> None:
    """600,000 rows in two stretches of the file and five shares; some samples are there again far away, some next to it."""
    numbers = np.arange(600_000) * 7919 % 1_000_003
    numbers[[599_999, 300_001, 17]] = numbers[[0, 300_000, 550_000]]
    names = pa.array([f"{number:06d}" for number in numbers.tolist()])
    table = pa.table({"sample": names, "score": np.zeros(600_000, np.float32)})
    pq.write_table(table, tmp_path / "s.parquet", row_group_size=150_000)
    with open_scores(str(tmp_path / "s.parquet")) as scores:
        assert repeated_rows(scores, 2, sorted_at_once=1 << 17, few_rows=0).tolist() == [300_001, 550_000, 599_999]
        assert repeated_rows(scores, 2, few_rows=0).tolist() == [300_001, 550_000, 599_999]


def test_a_selection_tells_of_every_row_and_of_those_that_come_again(source: Any) -> None:
    """Worked out by hand: rows 4, 6 and 7 are b, c and b again; they have no rank and count in no rule."""
    with beholder.select(source, min_score=2, rank_by="0 - aesthetic_score", score="aesthetic_score") as found:
        told = found.selection.to_json()
        assert (told["num_rows"], told["num_rows_that_meet"]) == (9, 6)
        assert found.kept.tolist() == [True, True, True, False, False, True, False, False, False]
        decisions = found.decisions()
        assert decisions.num_rows == 9
        again, low = "repeated", "min_score"
        assert decisions.column("dropped_by").to_pylist() == [None, None, None, low, again, None, again, again, low]
        assert decisions.column("rank").to_pylist() == [5, 4, 3, 2, None, 6, None, None, 1]
        assert decisions.column("aesthetic_score").to_pylist() == [4, 3, 2, 1, 9, 5, 8, 7, 0.5]
        assert [(step.word, step.rows_in, step.left) for step in found.funnel] == [("repeated", 9, 6), (low, 6, 4)]
    with beholder.select(source, top_share="50%") as found:  # of the 6, not of the 9
        assert found.kept_rows().column("sample").to_pylist() == ["d", "a", "b"]
        assert found.kept_rows().column("rank").to_pylist() == [1, 2, 3]


def test_nothing_is_copied_for_a_row_that_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary files stay small, however many bytes the pictures in the set have."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    names = [*(f"{number}.jpg" for number in range(40)), "7.jpg"]
    bytes_of = np.random.default_rng(1).bytes
    table = pa.table({"sample": names, "aesthetic_score": np.arange(41.0), "image": [bytes_of(100_000) for _ in names]})
    pq.write_table(table, tmp_path / "s.parquet")
    with open_each_once(str(tmp_path / "s.parquet")) as scores:
        assert scores.num_rows == 40
        assert len(np.concatenate([piece.to_numpy() for piece in scores.samples()])) == 40
        assert sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file()) < 1_000_000


def test_the_database_numbers_rows_without_those_left_out(tmp_path: Path) -> None:
    """Rows in pairs, in a row, at both ends of spans, and none: against Python."""
    rng = np.random.default_rng(3)
    for kind, names in (
        ("pairs", [str(row // 2) for row in range(1100)]),
        ("none", [f"{row}.jpg" for row in range(300)]),
        ("all", ["x"] * 700),
        ("block", [*map(str, range(513)), *map(str, range(511)), *"abc"]),
        ("random", [str(number) for number in rng.integers(0, 900, 1500)]),
    ):
        table = pa.table(
            {"key": [None if name == "5" else name for name in names], "score": np.arange(len(names), dtype=float)}
        )
        pq.write_table(table, tmp_path / f"{kind}.parquet")
        seen: set[str] = set()
        once = [row for row, name in enumerate(names) if name == "5" or not (name in seen or seen.add(name))]  # type: ignore[func-returns-value]
        expected = [(at, f"#{row}" if names[row] == "5" else names[row], float(row)) for at, row in enumerate(once)]
        with open_each_once(str(tmp_path / f"{kind}.parquet")) as scores, duckdb.connect() as connection:
            scores.register(connection)
            found = connection.execute("SELECT beholder_row, sample, score FROM scores ORDER BY 1").fetchall()
            assert found == expected, kind
            assert scores.scores("score").tolist() == [float(row) for row in once]


def test_a_report_takes_decisions_and_groups_about_all_rows(tmp_path: Path) -> None:
    """Pictures of a selection that dropped the second a are the report's own rows."""
    rng = np.random.default_rng(2)
    names = ["a", "b", "a", "c", "d", "e"]
    table = pa.table({"sample": names, "aesthetic_score": np.array([5.0, 4, 9, 3, 2, 1])})
    pq.write_table(table, tmp_path / "s.parquet")
    vectors = rng.normal(size=(6, 8)).astype(np.float32)
    vectors[2], vectors[5] = vectors[0], vectors[3]
    embeddings = {f"e{number}": vectors[:, number] for number in range(8)}
    pq.write_table(pa.table({"sample": names, **embeddings}), tmp_path / "e.parquet")
    lists = [f"--{name}={tmp_path / f'{name}.parquet'}" for name in ("decisions", "groups")]
    asked = ["select", str(tmp_path / "s.parquet"), "--dedup", "0.99", "--embeddings", str(tmp_path / "e.parquet"), *lists]
    run_command(asked)
    decided = pq.read_table(tmp_path / "decisions.parquet")
    assert decided.column("dropped_by").to_pylist() == [None, None, "repeated", None, None, "duplicate"]
    groups = pq.read_table(tmp_path / "groups.parquet").to_pylist()
    assert [(group["sample"], group["row"]) for group in groups] == [("c", 3), ("e", 5)]
    page = tmp_path / "page.html"
    run_command(["report", str(tmp_path / "s.parquet"), "--decisions", str(tmp_path / "decisions.parquet"),
                 "--groups", str(tmp_path / "groups.parquet"), "--no-thumbnails", "-o", str(page)])  # fmt: skip
    assert "4 of 5 rows stay" in page.read_text()

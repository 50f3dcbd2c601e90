"""A threshold means the same everywhere: select, advise, report and browse keep the same rows, as float32 numbers compare."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import beholder
from beholder.cli.app import app
from beholder.errors import InputError
from beholder.scoreset.numbers import count_at_least

TENTHS = np.round(np.random.default_rng(3).normal(5, 0.6, 400), 1)


@pytest.mark.parametrize("threshold", [4.7, 5.1, 5.3, 5.0, 6.1])
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_scores_stored_as_the_threshold_are_kept_by_all(kind: pa.DataType, threshold: float) -> None:
    table = pa.table({"sample": [f"{row:03d}" for row in range(len(TENTHS))], "aesthetic_score": pa.array(TENTHS, kind)})
    wanted = int((np.round(TENTHS * 10) >= round(threshold * 10)).sum())
    with beholder.select(table, min_score=threshold) as chosen:
        assert chosen.num_kept == wanted
    advice = beholder.advise(table, min_score=threshold, group_by=["sample"])
    assert advice.num_kept == wanted
    assert count_at_least(np.sort(TENTHS.astype(np.float32)), threshold) == wanted  # of report and browse


@pytest.mark.parametrize(("name", "kept"), [("sd-v1", "cd"), ("SD-V1", "cd"), ("laion-5plus", "bcd"), ("5", "bcd"), (5, "bcd")])
def test_landmarks_say_where_select_cuts(tmp_path: Path, name: str | float, kept: str) -> None:
    """Stable Diffusion took what is above 5, LAION's 5+ what is at least 5; the next float32 above 5 is above it."""
    above = np.nextafter(np.float32(5), np.float32(6))
    table = pa.table({"sample": list("abcd"), "aesthetic_score": pa.array([4.99, 5.0, above, 5.5], pa.float32())})
    with beholder.select(table, min_score=name) as chosen:
        assert sorted(chosen.kept_rows().column("sample").to_pylist()) == list(kept)
        sign = ">" if kept == "cd" else ">="
        assert chosen.funnel[-1].text.startswith(f"score {sign} 5")
    pq.write_table(table, tmp_path / "s.parquet")
    names = tmp_path / "d.parquet"
    command = ["select", str(tmp_path / "s.parquet"), "--min-score", str(name), "--decisions-out", str(names)]
    assert CliRunner().invoke(app, command).exit_code == 0
    decided = pq.read_table(names)
    assert sorted(decided.column("sample").filter(decided.column("kept")).to_pylist()) == list(kept)
    page = tmp_path / "page.html"  # the page reads the threshold from the decisions
    beholder.report(tmp_path / "s.parquet", page, decisions=names, no_thumbnails=True)
    assert "kept at 5 or more" in page.read_text(encoding="utf-8")
    assert "a threshold, as an example" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "is_told"), [("sd-v1", True), ("laion-v1-good", False)])
def test_a_landmark_of_another_head_is_told(tmp_path: Path, name: str, is_told: bool) -> None:
    """LAION's first head has another scale than that whose scores Stable Diffusion cut at 5."""
    path = tmp_path / "s.parquet"
    record = {"format": "beholder-scores", "format_version": 1, "score_columns": ["v1"], "heads": [{"name": "laion-v1"}]}
    table = pa.table({"sample": ["a", "b"], "v1": pa.array([4.0, 6.0], pa.float32())})
    pq.write_table(table.replace_schema_metadata({"beholder": json.dumps(record)}), path)
    with beholder.select(path, min_score=name) as chosen:
        assert chosen.num_kept == 1
        notes = " ".join(chosen.selection.notes)
    assert ("whose scale is another" in notes) == is_told
    assert ("Stable Diffusion v1-2 to v1-5 cut scores by" in notes) == is_told


def test_a_strict_landmark_at_the_highest_score_leaves_nothing() -> None:
    table = pa.table({"sample": ["a"], "aesthetic_score": [5.0]})
    with pytest.raises(InputError, match="--min-score sd-v1 keeps only what is above --max-score 5; nothing could stay"):
        beholder.select(table, min_score="sd-v1", max_score=5)


def test_former_names_of_options_are_taken_in_python(tmp_path: Path) -> None:
    table = pa.table({"sample": list("abcd"), "aesthetic_score": [1.0, 2.0, 3.0, 4.0], "kind": list("xxyy")})
    old = beholder.advise(table, at=3, thresholds=[2], columns=["kind"])
    new = beholder.advise(table, min_score=3, grid=[2], group_by=["kind"])
    assert {**old.to_json(), "seconds": 0} == {**new.to_json(), "seconds": 0}
    with pytest.raises(TypeError, match="'min_score' twice"):
        beholder.advise(table, at=3, min_score=4)
    with pytest.raises(TypeError, match="no option 'att'") as failed:
        beholder.advise(table, att=3)
    named = set(inspect.signature(beholder.advise).parameters) - {"scores", "old_names"}
    assert set(str(failed.value).partition("there are ")[2].split(", ")) == named >= {"repeated", "sample_column", "grid"}
    for number, names in enumerate(({"at": 3, "columns": "kind"}, {"min_score": 3, "group_by": "kind"})):
        beholder.report(table, tmp_path / f"{number}.html", **names, no_thumbnails=True)
        assert "kept at 3 or more" in (tmp_path / f"{number}.html").read_text(encoding="utf-8")
    with pytest.raises(TypeError, match="'min_score' twice"):
        beholder.report(table, tmp_path / "x.html", at=3, min_score=3)


@pytest.mark.slow
def test_former_flags_do_what_the_present_ones_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scores = [row / 25 for row in range(200)]
    table = pa.table({"sample": [f"{row:03d}" for row in range(200)], "aesthetic_score": scores, "kind": list("xy") * 100})
    pq.write_table(table, "s.parquet")
    select = "select s.parquet --min-score 5 -q"
    pairs = {
        f"{select} --decisions old.csv --dropped oldx.csv": f"{select} --decisions-out new.csv --dropped-out newx.csv",
        "advise s.parquet --at 5 --threshold 4 --column kind --groups 2 --repeated all": (
            "advise s.parquet --min-score 5 --grid 4 --group-by kind --groups-shown 2 --repeated all"
        ),
        "report s.parquet --at 5 --column kind --no-thumbnails -q -o old.html": (
            "report s.parquet --min-score 5 --group-by kind --no-thumbnails -q -o new.html"
        ),
        "report s.parquet --selection old.csv --no-thumbnails -q -o old2.html": (
            "report s.parquet --decisions new.csv --no-thumbnails -q -o new2.html"
        ),
        "score s.parquet --activation gelu": "score s.parquet --tower-activation gelu",
    }
    for former, present in pairs.items():
        results = [CliRunner().invoke(app, line.split()) for line in (former, present)]
        assert (results[0].exit_code, results[0].output) == (results[1].exit_code, results[1].output)
        assert str(results[0].exception) == str(results[1].exception)
    for name in ("{}.csv", "{}x.csv"):
        assert Path(name.format("old")).read_bytes() == Path(name.format("new")).read_bytes()
    assert "kept at 5 or more" in Path("old.html").read_text(encoding="utf-8")
    assert "kept by the selection" in Path("old2.html").read_text(encoding="utf-8")


def test_a_joined_table_that_lacks_rows_is_told(tmp_path: Path) -> None:
    part = tmp_path / "part.csv"
    part.write_text("sample,language\na,en\n")
    table = pa.table({"sample": ["a", "b", "c"], "aesthetic_score": [1.0, 2.0, 3.0]})
    with beholder.select(table, join=str(part), where="language IS NOT NULL") as chosen:
        assert chosen.num_kept == 1
        assert f"--join {part} lacks 2 of 3 rows; its columns are null there" in chosen.selection.notes

"""`select --scale-of`: thresholds on another head's scale, against what the map makes of every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from beholder import select
from beholder.cli.select import select as command
from beholder.errors import BeholderError, InputError
from beholder.scoreset.head_key import HeadKey
from beholder.scoreset.kept_scales import head_named, keep_map
from beholder.scoreset.scales import ScaleMap, StepMap
from oracles.scale_sets import V1, V2, head_record, write_scores

app = typer.Typer()
app.command()(command)
STEPS = StepMap(np.array([2.0, 4.0, 5.0, 6.0, 8.0]), np.array([1.0, 4.2, 4.2, 6.0, 9.0]))


def keep(of: HeadKey, onto: HeadKey | None, steps: StepMap = STEPS, **more: Any) -> ScaleMap:
    given = {"kind": "head" if onto is not None else "ratings", "method": "isotonic", **more}
    made = ScaleMap(of=of, onto=onto, **given, steps=steps, num_pictures=10_000, error=0.214)
    keep_map(made)
    return made


@pytest.fixture
def scores(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Scores by laion-v2, rounded so that many tie, some beyond what the map was fitted to, one missing."""
    values = np.round(np.random.default_rng(0).normal(5, 1.2, 500), 2).astype(np.float32)
    values[7] = np.nan
    return write_scores(tmp_path / "v2.parquet", {"aesthetic_score": values}, [head_record(V2)]), values


def kept(path: Path, **rules: Any) -> set[int]:
    with select(path, **rules) as found:
        return set(np.flatnonzero(found.kept).tolist())


@pytest.mark.parametrize("threshold", [1.0, 2.345, 4.2, 4.2000001, 5.1, 6.0, 9.0])
def test_rows_stay_whose_mapped_score_reaches_the_threshold(scores: tuple[Path, np.ndarray], threshold: float) -> None:
    path, values = scores
    keep(head_named("laion-v2"), head_named("laion-v1"))
    mapped = STEPS(values).astype(np.float32)  # level beyond 2 and 8, NaN where there is no score
    assert kept(path, min_score=threshold, scale_of="laion-v1") == set(np.flatnonzero(mapped >= np.float32(threshold)).tolist())
    assert kept(path, max_score=threshold, scale_of="laion-v1") == set(np.flatnonzero(mapped <= np.float32(threshold)).tolist())


def test_the_ends_of_percentiles_keep_everything(scores: tuple[Path, np.ndarray]) -> None:
    path, values = scores
    keep(head_named("laion-v2"), None, StepMap(np.array([4.0, 6.0]), np.array([0.5, 99.0])), kind="percentiles")
    every = set(np.flatnonzero(np.isfinite(values)).tolist())
    assert kept(path, max_score=100, scale_of="percentiles") == every
    assert kept(path, min_score=0, scale_of="percentiles") == every
    assert kept(path, min_score=99, scale_of="percentiles") == set(np.flatnonzero(values >= 6).tolist())
    line = [str(path), "--min-score", "0", "--scale-of", "percentiles"]
    assert "0 on percentiles is any score on laion-v2" in CliRunner().invoke(app, line, catch_exceptions=False).output
    found = json.loads(CliRunner().invoke(app, [*line, "--json"], catch_exceptions=False).output)
    assert found["translated"][0]["used"] is None
    assert kept(path, min_score=100, scale_of="percentiles") == set()


def test_both_ends_at_a_level_stretch_keep_all_of_it(scores: tuple[Path, np.ndarray]) -> None:
    path, values = scores
    keep(head_named("laion-v2"), None)
    wanted = set(np.flatnonzero((values >= 4) & (values <= 5)).tolist())
    assert kept(path, min_score=4.2, max_score=4.2, scale_of="ratings") == wanted


def test_a_map_that_goes_the_other_way(scores: tuple[Path, np.ndarray]) -> None:
    path, values = scores
    keep(head_named("laion-v1"), head_named("laion-v2"), method="quantile")
    # 4.5 on laion-v1 becomes 4.2, as all of 4 to 5 does; 7 becomes 6 + 3 / 2.
    assert kept(path, min_score=4.5, scale_of="laion-v1") == set(np.flatnonzero(values >= np.float32(4.2)).tolist())
    assert kept(path, max_score=7, scale_of="laion-v1") == set(np.flatnonzero(values <= 7.5).tolist())


def test_a_strict_landmark_on_its_own_scale(scores: tuple[Path, np.ndarray]) -> None:
    path, values = scores
    keep(
        head_named("laion-v2"), head_named("laion-v1"), StepMap(np.array([2.0, 4.0, 6.0, 8.0]), np.array([1.0, 5.0, 5.0, 9.0]))
    )
    # laion-v1-good is score > 5: only what lies beyond the level stretch stays.
    assert kept(path, min_score="laion-v1-good", scale_of="laion-v1") == set(np.flatnonzero(values > 6).tolist())
    with pytest.raises(InputError, match="sd-v1 is on the scale of .*, and --scale-of names laion-v1; give a number"):
        select(path, min_score="sd-v1", scale_of="laion-v1")


def test_summary_json_and_record_have_the_threshold_as_given_and_as_used(
    scores: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    path, values = scores
    keep(head_named("laion-v2"), head_named("laion-v1"))
    out = tmp_path / "kept.parquet"
    line = [str(path), "--min-score", "5.1", "--scale-of", "laion-v1", "-o", str(out)]
    shown = CliRunner().invoke(app, line, catch_exceptions=False).output
    assert "5.1 on laion-v1 is 5.5 on laion-v2 (isotonic, 10,000 pictures, error 0.21)" in shown
    assert "score >= 5.5 (5.1 on laion-v1)" in shown
    found = json.loads(CliRunner().invoke(app, [*line, "--json", "--overwrite"], catch_exceptions=False).output)
    assert found["rules"] == {"min_score": 5.1, "scale_of": "laion-v1"}
    (translated,) = found["translated"]
    assert (translated["rule"], translated["given"], translated["scale_of"]) == ("min_score", 5.1, "laion-v1")
    assert translated["used"] == pytest.approx(5.5, abs=1e-6)
    assert translated["map"]["of"]["name"] == V2
    assert translated["map"]["onto"]["name"] == V1
    assert "scores" not in translated["map"]
    assert found["num_kept"] == int((values >= np.float32(translated["used"])).sum())
    record = json.loads(pq.read_schema(out).metadata[b"beholder"])
    assert record["translated"] == [translated]
    assert record["rules"] == found["rules"]


def test_of_a_set_with_several_scores_that_of_the_rule_is_meant(tmp_path: Path) -> None:
    own = head_record("mine", "c" * 64)
    path = write_scores(tmp_path / "both.parquet", {"laion-v2": [3, 5, 7], "mine": [0.1, 0.5, 0.9]}, [head_record(V2), own])
    steps = StepMap(np.array([0.0, 1.0]), np.array([2.0, 8.0]))
    keep(HeadKey(name="mine", hashes=("c" * 64,)), head_named("laion-v2"), steps, method="quantile")
    assert kept(path, score="mine", min_score=5, scale_of="laion-v2") == {1, 2}
    assert kept(path, score="laion-v2", min_score=0.5, scale_of="mine") == {1, 2}


def fails(path: Path, *more: str) -> str:
    result = CliRunner().invoke(app, [str(path), *more])
    assert isinstance(result.exception, BeholderError), result.output
    return str(result.exception)


def test_refused_in_one_line(scores: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, _ = scores
    assert "no map between laion-v2 and laion-v1 is kept; make one: beholder calibrate" in fails(
        path, "--min-score", "5", "--scale-of", "laion-v1"
    )
    assert "there is no head laion-v9" in fails(path, "--min-score", "5", "--scale-of", "laion-v9")
    assert "on this scale already" in fails(path, "--min-score", "5", "--scale-of", "laion-v2")
    assert fails(path, "--top", "5", "--scale-of", "laion-v1") == (
        "--scale-of is for --min-score and --max-score, which is not given"
    )
    keep(head_named("laion-v2"), head_named("laion-v1"))
    assert "was fitted from 1 to 9 on laion-v1" in fails(path, "--min-score", "9.5", "--scale-of", "laion-v1")
    nobodys = tmp_path / "nobody.csv"
    nobodys.write_text("sample,score\na,4\nb,5\n")
    assert "does not say which head its scores score are by" in fails(nobodys, "--min-score", "5", "--scale-of", "laion-v1")
    told = CliRunner().invoke(app, [str(nobodys), "--min-score", "4.2", "--scale-of", "laion-v1", "--head", "laion-v2"])
    assert "2 of 2 rows stay" in told.output
    assert "--head is for --scale-of" in fails(nobodys, "--min-score", "5", "--head", "laion-v2")

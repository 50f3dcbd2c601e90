"""What `beholder score` wrote, read by pandas, polars, pyarrow and DuckDB: the rows in order, read as the summary says."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pandas
import polars as pl
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import beholder
from beholder.cli.app import app


@pytest.fixture
def sources(here: Path) -> list[str]:
    """Three arrays with a bad row each; the expected samples are all others, in order."""
    for number in range(3):
        rows = np.random.default_rng(number).standard_normal((30, 24)).astype(np.float32)
        rows[number] = 0
        np.save(f"part_{number}.npy", rows)
    return [f"part_{number}.npy" for number in range(3)]


EXPECTED = [f"part_{number}.npy#{row}" for number in range(3) for row in range(30) if row != number]


@pytest.mark.filterwarnings("ignore:no stamp")
def test_a_folder(sources: list[str], small_head: Path) -> None:
    run = beholder.score(sources, "pics.scores", heads=str(small_head), shard_rows=7)
    assert run.summary.read_with == 'pandas.read_parquet("pics.scores/scores")'
    scores = run.scores()["aesthetic_score"].to_numpy()
    assert len(list(Path("pics.scores/scores").iterdir())) == 15
    glob = "pics.scores/scores/*.parquet"
    for found in (
        eval(run.summary.read_with, {"pandas": pandas}),
        pl.read_parquet("pics.scores/scores").to_pandas(),
        pl.read_parquet(glob).to_pandas(),
        pq.read_table("pics.scores/scores").to_pandas(),
        duckdb.sql(f"FROM '{glob}'").df(),
    ):
        assert found["sample"].tolist() == EXPECTED
        np.testing.assert_array_equal(found["aesthetic_score"].to_numpy(), scores)
    record = json.loads(Path("pics.scores/beholder.json").read_text())
    assert "pandas.read_parquet('THIS_FOLDER/scores')" in record["read"]
    shown = CliRunner().invoke(app, ["score", *sources, "-o", "pics.scores", "--head", str(small_head), "--shard-rows", "7"])
    assert shown.stdout.rstrip().splitlines()[-2:] == ["scores: pics.scores", f"read them with: {run.summary.read_with}"]


@pytest.mark.filterwarnings("ignore:no stamp")
def test_one_file(sources: list[str], small_head: Path) -> None:
    run = beholder.score(sources, "s.parquet", heads=str(small_head), shard_rows=7)
    scores = run.scores()["aesthetic_score"].to_numpy()
    for found in (
        eval(run.summary.read_with or "", {"pandas": pandas}),
        pl.read_parquet("s.parquet").to_pandas(),
        duckdb.sql("FROM 's.parquet'").df(),
    ):
        assert found["sample"].tolist() == EXPECTED
        np.testing.assert_array_equal(found["aesthetic_score"].to_numpy(), scores)
    run = beholder.score(sources, "s.csv", heads=str(small_head), shard_rows=7)
    read = eval(run.summary.read_with or "", {"pandas": pandas})
    for found in (read, pl.read_csv("s.csv").to_pandas(), duckdb.sql("FROM 's.csv'").df()):
        found = found[found["status"] == "ok"]
        assert found["sample"].tolist() == EXPECTED
        np.testing.assert_array_equal(found["aesthetic_score"].to_numpy().astype(np.float32), scores)

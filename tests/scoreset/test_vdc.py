"""Our CSV goes unchanged into VDC 0.1.1: `apply_score_filter` (the installed package) and what `explore_scores` does with it.

`explore_scores` is a notebook of VDC's repository, in none of its packages; the calls it makes on the file (polars
`read_csv`, `describe`, `hist(bin_count=20)`, `filter`, `sample`) are repeated here on the peers' polars.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from beholder import Head, load_head, save_head
from beholder.kernels.scoring import Affine
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.peers import PEERS, needs_peers

pytestmark = [needs_peers("VDC is"), pytest.mark.slow]

FILTER = [str(PEERS), "-m", "vdc.scripts.apply_score_filter", "--report-csv", "scores.csv"]
FILTER += ["--score-column", "aesthetic_score", "--threshold", "5.0"]

EXPLORE = """
import polars as pl
df = pl.read_csv("scores.csv")
assert df.schema["aesthetic_score"] == pl.Float64, df.schema
assert df.schema["sample"] == pl.String
print(df["aesthetic_score"].describe())
assert df["aesthetic_score"].hist(bin_count=20)["count"].sum() == df["aesthetic_score"].count()
low = df.filter(pl.col("aesthetic_score") < 5.0).sample(9)
print(*[row["sample"] for row in low.iter_rows(named=True)])
"""


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """scores.csv of 300 files that exist, the first 150 with whole numbers as scores, three of them rejected."""
    (tmp_path / "pictures").mkdir()
    rows = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    rows[:150] = 0
    rows[:150, 0] = np.where(np.arange(150) % 2, 1, -1)
    rows[[7, 200, 299]] = 0
    names = [f"pictures/{i:03d}, of 300.jpg" for i in range(300)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    frame = pl.DataFrame({"sample": names, **{str(i): rows[:, i] for i in range(8)}})
    frame.write_parquet(tmp_path / "logits.parquet")
    weight = np.zeros(8)
    weight[0] = 1.0
    save_head(Head(name="first", math=Affine(weight, 5.0)), tmp_path / "head.safetensors")
    heads = (str(tmp_path / "head.safetensors"),)
    score(ScoreOptions(sources=(str(tmp_path / "logits.parquet"),), out=str(tmp_path / "scores.csv"), heads=heads))
    return tmp_path, load_head(heads[0]).score(rows)


@pytest.mark.soak
def test_apply_score_filter_plans_exactly_the_low_scores(scored: tuple[Path, np.ndarray]) -> None:
    folder, scores = scored
    line = [*FILTER, "--output-csv", "plan.csv"]
    result = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    plan = pl.read_csv(folder / "plan.csv")
    low = np.flatnonzero(scores < 5.0)  # NaN, which stands for a rejected row here, is not below anything
    assert len(low) > 100
    assert plan["file_path"].to_list() == [f"pictures/{i:03d}, of 300.jpg" for i in low]
    assert np.array_equal(plan["score"].cast(pl.Float32).to_numpy(), scores[low])
    assert set(plan["remediation_status"]) == {"not_applied"}


def test_apply_score_filter_deletes_them_and_no_other(scored: tuple[Path, np.ndarray]) -> None:
    folder, scores = scored
    line = [*FILTER, "--output-csv", "done.csv", "--apply-deletion", "--backup-dir", "backup"]
    result = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert set(pl.read_csv(folder / "done.csv")["remediation_status"]) == {"deleted"}
    left = {path.name for path in (folder / "pictures").iterdir()}
    assert left == {f"{i:03d}, of 300.jpg" for i in range(300) if not scores[i] < 5.0}


def test_what_explore_scores_does_with_the_file(scored: tuple[Path, np.ndarray]) -> None:
    result = subprocess.run([str(PEERS), "-c", EXPLORE], cwd=scored[0], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "pictures/" in result.stdout

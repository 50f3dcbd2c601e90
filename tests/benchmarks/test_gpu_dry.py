"""benchmarks/gpu.py, which is made for a machine with a GPU, runs all of its parts on the processor with a tiny tower."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from oracles.program import python

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_part_runs_and_the_result_says_that_it_is_dry(tmp_path: Path) -> None:
    done = python(str(REPOSITORY / "benchmarks" / "gpu.py"), "--out", str(tmp_path), "--dry", "--minutes", "4")
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    parts = record["parts"]
    assert record["is_dry"]
    assert "dry run" in (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert {"correct", "products", "rates", "path", "head"} <= set(parts)
    assert list(parts["stages"]) == ["correct", "products", "compiled", "eager", "peers", "path", "head"]
    if "beholder fp32" in parts["correct"] and "transformers" in parts["correct"]["reference"]:
        assert parts["correct"]["beholder fp32"]["embedding"] < 2e-5
    assert 1e-5 < parts["correct"]["beholder bf16"]["embedding"] < 2e-2
    assert "--precision fp8: not on cpu" in parts["correct"]["beholder fp8 compiled"]
    assert parts["rates"]["beholder bf16, batch 2"]["pictures_per_second"] > 0
    account = parts["path"]["beholder score --decoder pillow"]["account"]
    assert (account["num_scored"], account["num_rejected"]) == (16, 0)
    assert "no CUDA device" in parts["path"]["decoding on the GPU"]
    assert {found["largest_difference"] for found in parts["head"].values()} == {0.0}


@pytest.mark.slow
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = python(str(REPOSITORY / "benchmarks" / "gpu.py"), "--out", str(tmp_path / "none"), env=environment)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("gpu.py: no CUDA device here")
    assert not (tmp_path / "none").exists()

"""Mutated embeddings scored by the whole command: what was read is what was scored and rejected, and as much was written."""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pytest

import beholder
from beholder.kernels.scoring import Affine
from oracles import inside_formats as inside
from oracles.fuzzing import Target, check
from oracles.fuzzing_seeds import CSV, DIM, JSON, NUMPY, PARQUET, ROWS, ZIP, csv_of, json_lines, npy, npz, parquet
from oracles.tiers import mostly_slow

WEIGHT = np.random.default_rng(8).standard_normal(DIM)


@functools.cache
def _head(folder: Path) -> str:
    path = folder / "head.safetensors"
    beholder.save_head(beholder.Head(name="small", math=Affine(WEIGHT, 5.0)), path)
    return str(path)


def scored(path: Path) -> Hashable:
    """As Parquet; rows that were scored have the score that numpy gives for the first of them, if it is the seeds' own."""
    os.environ["BEHOLDER_OFFLINE"] = "1"  # what was made pictures needs a tower
    home = path.parent.parent
    out = home / "out.parquet"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what the command warns of
        run = beholder.score(path, out, head=_head(home), column=["*"], overwrite=True, space_check="off")
    assert run.num_read == run.num_scored + run.num_rejected
    scores, rejects = run.scores(), run.rejects()
    assert (scores.num_rows, rejects.num_rows) == (run.num_scored, run.num_rejected)
    values = scores.column("aesthetic_score").to_numpy()
    assert np.isfinite(values).all()
    for left in home.glob("out.parquet*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return min(run.num_read, 30), tuple(sorted(run.reasons)), scores.num_columns


TARGETS = {
    "npy": Target(
        read=scored,
        seeds=lambda: [npy(ROWS)],
        name="x.npy",
        tokens=NUMPY,
        insides=(inside.in_npy_header,),
        count=6,
        names_file=False,
    ),
    "npz": Target(
        read=scored,
        seeds=lambda: [npz(packed=True)],
        name="x.npz",
        tokens=ZIP,
        insides=(inside.in_zip_member,),
        count=6,
        names_file=False,
    ),
    "parquet": Target(
        read=scored,
        seeds=lambda: [parquet("list"), parquet("gaps")],
        name="x.parquet",
        tokens=PARQUET,
        insides=(inside.in_parquet_footer, inside.in_parquet_pages),
        count=6,
        names_file=False,
    ),
    "csv": Target(read=scored, seeds=lambda: [csv_of()], name="x.csv", tokens=CSV, is_text=True, count=6, names_file=False),
    "json lines": Target(
        read=scored,
        seeds=json_lines,
        name="x.jsonl",
        tokens=JSON,
        insides=(inside.in_json_value,),
        is_text=True,
        count=6,
        names_file=False,
    ),
}


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)

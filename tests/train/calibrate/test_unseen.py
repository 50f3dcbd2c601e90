"""Bounds are measured on pictures that the head was not trained on, or there are none."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import beholder
from beholder.errors import InputError
from beholder.scoreset.scales import read_map
from beholder.train.calibrate.job import Calibrated, calibrate
from beholder.train.calibrate.options import CalibrateOptions
from beholder.train.job import train
from beholder.train.options import TrainJobOptions
from oracles.program import beholder as program

NUM, DIM, TRAINED = 1200, 40, 100
"""A head of 40 weights from 100 ratings fits these far better than others."""


@pytest.fixture
def values(tmp_path: Path) -> np.ndarray:
    """Embeddings e.npy, what they are rated, and scores.parquet by a head that was trained on the first ratings."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((NUM, DIM)).astype(np.float32)
    np.save(tmp_path / "e.npy", rows)
    found = np.round(5 + rows @ rng.standard_normal(DIM) / 6 + rng.standard_normal(NUM), 4)
    ratings = rated(tmp_path, found, range(TRAINED), "first.csv")
    out = str(tmp_path / "mine.safetensors")
    train(TrainJobOptions(sources=(str(tmp_path / "e.npy"),), ratings=ratings, out=out, compare_with=()))
    with pytest.warns(UserWarning, match="no stamp"):
        beholder.score(tmp_path / "e.npy", tmp_path / "scores.parquet", head=out)
    return found


def rated(tmp_path: Path, values: np.ndarray, at: range, name: str) -> str:
    with (tmp_path / name).open("w", newline="") as file:
        csv.writer(file).writerows([["image", "rating"], *[[f"e.npy#{row}", values[row]] for row in at]])
    return str(tmp_path / name)


def calibrated(tmp_path: Path, ratings: str, **more: object) -> Calibrated:
    return calibrate(CalibrateOptions(scores=str(tmp_path / "scores.parquet"), ratings=ratings, **more))  # type: ignore[arg-type]


def test_bounds_hold_pictures_that_the_head_has_not_seen_whatever_it_was_trained_on(tmp_path: Path, values: np.ndarray) -> None:
    ratings = rated(tmp_path, values, range(TRAINED + 300), "more.csv")
    made = calibrated(tmp_path, ratings, interval=0.9, out=str(tmp_path / "out.parquet"), near_duplicates=0)
    assert any(f"Of 400 pictures {TRAINED} are left out, since mine was trained on them" in line for line in made.lines)
    table = pq.read_table(tmp_path / "out.parquet").to_pandas()[TRAINED + 300 :]
    others = values[TRAINED + 300 :]
    held = np.mean((table.filter(like="_low").iloc[:, 0] <= others) & (others <= table.filter(like="_high").iloc[:, 0]))
    assert held == pytest.approx(0.9, abs=0.08)  # of 800, and of bounds from 150: three standard deviations
    assert "trained_on_share" not in made.found.more


def test_a_map_of_pictures_that_it_was_trained_on_has_no_bounds_and_says_why(tmp_path: Path, values: np.ndarray) -> None:
    ratings = str(tmp_path / "first.csv")
    with pytest.raises(InputError, match="fitted to pictures that mine was trained on, so it has no bounds"):
        calibrated(tmp_path, ratings, interval=0.9, out=str(tmp_path / "out.parquet"))
    assert not (tmp_path / "out.parquet").exists()
    made = calibrated(tmp_path, ratings)
    assert any(line.startswith("WARNING: mine was trained on all of these pictures") for line in made.lines)
    assert made.kept is not None
    kept = read_map(made.kept)
    assert (kept.bounds, kept.more["trained_on_share"], kept.num_pictures) == (None, 1.0, TRAINED)
    line = ["calibrate", str(tmp_path / "scores.parquet"), "--scale-of", "ratings"]
    done = program(*line, "--interval", "0.9", "-o", str(tmp_path / "out.csv"))
    assert done.returncode == 1
    assert "fitted to pictures that mine was trained on" in done.stderr


def test_a_few_others_are_not_enough(tmp_path: Path, values: np.ndarray) -> None:
    made = calibrated(tmp_path, rated(tmp_path, values, range(TRAINED + 19), "more.csv"))
    assert made.found.more["trained_on_share"] == pytest.approx(TRAINED / (TRAINED + 19))
    assert any("about 84 % of these pictures" in line for line in made.lines)
    assert made.found.num_pictures == TRAINED + 19


def test_near_duplicates_of_trained_pictures_are_left_out_too(tmp_path: Path, values: np.ndarray) -> None:
    rows = np.load(tmp_path / "e.npy")
    rows[100:150] = 2 * rows[:50]
    np.save(tmp_path / "e.npy", rows)
    ratings = rated(tmp_path, values, range(50, 300), "more.csv")
    assert calibrated(tmp_path, ratings, near_duplicates=0).found.num_pictures == 200
    made = calibrated(tmp_path, ratings, embeddings=str(tmp_path / "e.npy"), overwrite=True)
    assert made.found.num_pictures == 200, "a near-duplicate of a picture that nobody rated here is not known for one"
    ratings = rated(tmp_path, values, range(300), "all.csv")
    made = calibrated(tmp_path, ratings, embeddings=str(tmp_path / "e.npy"), overwrite=True)
    assert made.found.num_pictures == 150

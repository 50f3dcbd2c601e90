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
from beholder.train.job import train
from beholder.train.options import CalibrateOptions, TrainJobOptions
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
    assert made.found.num_pictures == 150, "told by their embeddings, though nobody rated here what they are copies of"
    ratings = rated(tmp_path, values, range(300), "all.csv")
    made = calibrated(tmp_path, ratings, embeddings=str(tmp_path / "e.npy"), overwrite=True)
    assert made.found.num_pictures == 150


@pytest.mark.parametrize("near", [0.0, 0.9])
def test_rows_of_another_file_of_the_same_name_are_told_by_their_embeddings(
    tmp_path: Path, values: np.ndarray, near: float
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    rows = np.random.default_rng(5).standard_normal((TRAINED, DIM)).astype(np.float32)
    np.save(other / "e.npy", rows)
    with pytest.warns(UserWarning, match="no stamp"):
        beholder.score(other / "e.npy", other / "scores.parquet", head=tmp_path / "mine.safetensors")
    scores = pq.read_table(other / "scores.parquet")
    of_head = np.asarray(scores.column(scores.column_names[-1]), float)
    ratings = rated(other, of_head + np.random.default_rng(6).standard_normal(TRAINED) / 9, range(TRAINED), "r.csv")
    asked = {"scores": str(other / "scores.parquet"), "ratings": ratings, "near_duplicates": near}
    by_names = calibrate(CalibrateOptions(**asked))  # type: ignore[arg-type]
    assert by_names.found.bounds is None
    assert any("by their names alone" in line and "with --embeddings." in line for line in by_names.lines)
    with pytest.raises(InputError, match="or with --embeddings, since these were known by their names alone"):
        calibrate(CalibrateOptions(**asked, overwrite=True, interval=0.5, out=str(other / "o.csv")))  # type: ignore[arg-type]
    told = calibrate(CalibrateOptions(**asked, overwrite=True, embeddings=str(other / "e.npy")))  # type: ignore[arg-type]
    assert told.found.bounds is not None
    assert told.found.num_pictures == TRAINED
    assert not any("trained on" in line for line in told.lines)


def test_the_head_that_is_named_counts_before_the_place_in_the_record(
    tmp_path: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="no stamp"):
        beholder.score("e.npy", "scores.parquet", head="mine.safetensors", overwrite=True)
    ratings = rated(tmp_path, values, range(TRAINED + 300), "more.csv")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    lost = calibrated(tmp_path, ratings, near_duplicates=0)
    assert any("its file mine.safetensors is not there" in line and "with --head" in line for line in lost.lines)
    made = calibrated(tmp_path, ratings, head=str(tmp_path / "mine.safetensors"), near_duplicates=0)
    assert made.found.num_pictures == 300
    assert program("models", "add", str(tmp_path / "mine.safetensors"), "--name", "taste").returncode == 0
    made = calibrated(tmp_path, ratings, head="taste", near_duplicates=0, overwrite=True)
    assert made.found.num_pictures == 300

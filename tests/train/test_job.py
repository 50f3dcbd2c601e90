"""`beholder train`: ratings and embeddings in, a head, its card and its record out; and what cannot be used, in one line."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from huggingface_hub import ModelCard
from sklearn.linear_model import LogisticRegression, Ridge

import beholder
from beholder import Head, load_head, save_head
from beholder.cli.train import summary_lines
from beholder.errors import HeadError, InputError
from beholder.train.job import TrainRun, train
from beholder.train.options import TrainJobOptions
from oracles.hub import Hub
from oracles.picture_jobs import picture_bytes, score_options
from oracles.program import beholder as program
from oracles.web import running

DIM, NUM_ROWS = 16, 240


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(DIM)


@pytest.fixture
def rows(tmp_path: Path) -> np.ndarray:
    """Embeddings e.npy, whose rows are called e.npy#0 and so on."""
    made = np.random.default_rng(0).standard_normal((NUM_ROWS, DIM)).astype(np.float32)
    np.save(tmp_path / "e.npy", made)
    return made


def unit(rows: np.ndarray) -> np.ndarray:
    wide = rows.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


def write_csv(path: Path, header: list[str], lines: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
    return path


@pytest.fixture
def means(tmp_path: Path, rows: np.ndarray, truth: np.ndarray) -> tuple[Path, np.ndarray, np.ndarray]:
    """Ratings of every second row, with votes and deviations; the rated rows, and their ratings."""
    at = np.arange(0, NUM_ROWS, 2)
    rng = np.random.default_rng(2)
    votes = 3 + 2 * unit(rows)[at] @ truth[:, None] + 0.3 * rng.standard_normal((len(at), 4))
    lines = [[f"e.npy#{row}", f"{v.mean():.6f}", 4, f"{v.std(ddof=1):.6f}"] for row, v in zip(at, votes, strict=True)]
    path = write_csv(tmp_path / "means.csv", ["image", "rating", "num_votes", "std"], lines)
    return path, at, np.array([float(line[1]) for line in lines])


def job(tmp_path: Path, ratings: Path | str, **more: Any) -> TrainRun:
    given = {"sources": (str(tmp_path / "e.npy"),), "ratings": str(ratings), "out": str(tmp_path / "head.safetensors"), **more}
    return train(TrainJobOptions(**given))


def test_the_head_is_the_ridge_of_the_rated_rows(
    tmp_path: Path, rows: np.ndarray, means: tuple[Path, np.ndarray, np.ndarray]
) -> None:
    path, at, ratings = means
    found = job(tmp_path, path)
    strength = found.record["fit"]["strength"]
    expected = Ridge(alpha=strength * len(at), solver="cholesky").fit(unit(rows)[at], ratings)
    np.testing.assert_allclose(found.head.weight, expected.coef_, rtol=1e-7, atol=1e-9)
    assert found.head.bias == pytest.approx(expected.intercept_, rel=1e-8)
    loaded = load_head(tmp_path / "head.safetensors")
    assert (loaded.name, loaded.dim) == ("head", DIM)
    np.testing.assert_array_equal(loaded.weight, found.head.weight)
    assert hashlib.sha256((tmp_path / "head.safetensors").read_bytes()).hexdigest() == found.record["sha256"]


def test_what_is_written_beside_it(tmp_path: Path, means: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, at, ratings = means
    found = job(tmp_path, path, name="taste", licence="mit")
    record = json.loads((tmp_path / "head.json").read_text())
    assert record["sha256"] == found.record["sha256"]
    assert record["ratings"]["num_matched"] == len(at)
    assert record["ratings"]["layout"] == "one rating a picture, column 'rating', votes in 'num_votes', deviations in 'std'"
    assert record["scale"] == {"lowest": ratings.min(), "highest": ratings.max(), "mean": pytest.approx(ratings.mean())}
    names = [f"e.npy#{row}" for row in at]
    assert record["test_samples"] == names
    text = "".join(f"{name}\n" for name in sorted(names))
    assert record["measured"]["samples_sha256"] == hashlib.sha256(text.encode()).hexdigest()
    # Noise of a mean of four votes with deviation 0.3 is 0.15; the head of the truth misses by no less.
    assert record["ceiling"]["values"]["rmse"]["value"] == pytest.approx(0.15, abs=0.02)
    assert record["measures"]["values"]["rmse"]["value"] == pytest.approx(0.15, abs=0.04)
    assert record["measures"]["values"]["srcc"]["value"] > 0.9
    card = (tmp_path / "head.md").read_text()
    assert "license: mit" in card
    assert "# taste" in card
    assert "beholder score photos/ --head ./head.safetensors" in card
    assert f"on {len(at)} pictures ({len(at)} groups), with 95 % intervals. No group is on both sides" in card
    assert f"{record['measures']['values']['srcc']['value']:.3f} (" in card
    assert record["measured"]["samples_sha256"] in card
    loaded = load_head(tmp_path / "head.safetensors")
    assert json.loads(loaded.notes["measured"])["samples_sha256"] == record["measured"]["samples_sha256"]
    assert loaded.licence == "mit"


def test_same_data_and_seed_give_the_same_bits(tmp_path: Path, means: tuple[Path, np.ndarray, np.ndarray]) -> None:
    first = job(tmp_path, means[0])
    again = job(tmp_path, means[0], overwrite=True, num_threads=2)
    assert first.head.sha256 == again.head.sha256
    other = job(tmp_path, means[0], overwrite=True, seed=5)
    assert other.record["measures"] != first.record["measures"]


def test_marks_become_a_logistic_head(tmp_path: Path, rows: np.ndarray, truth: np.ndarray) -> None:
    is_kept = unit(rows) @ truth + 0.3 * np.random.default_rng(3).standard_normal(NUM_ROWS) > 0
    lines = [[f"e.npy#{row}", "keep" if kept else "drop"] for row, kept in enumerate(is_kept)]
    found = job(tmp_path, write_csv(tmp_path / "marks.csv", ["sample", "decision"], lines))
    cost = 1 / (found.record["fit"]["strength"] * NUM_ROWS)
    expected = LogisticRegression(C=cost, tol=1e-10, max_iter=10_000).fit(unit(rows), is_kept)
    np.testing.assert_allclose(found.head.weight, expected.coef_[0], rtol=1e-4, atol=1e-5)
    assert found.record["method"] == "logistic"
    assert found.record["measures"]["values"]["accuracy"]["value"] > 0.8


def test_pairs_are_measured_on_pictures_that_were_not_seen(tmp_path: Path, rows: np.ndarray, truth: np.ndarray) -> None:
    rng, scores = np.random.default_rng(4), unit(rows) @ truth
    lines = []
    for _ in range(500):
        one, other = rng.choice(NUM_ROWS, 2, replace=False).tolist()
        better, worse = (one, other) if scores[one] > scores[other] else (other, one)
        lines.append([f"e.npy#{better}", f"e.npy#{worse}"])
    ratings = write_csv(tmp_path / "pairs.csv", ["better", "worse"], lines)
    right = Head.affine(truth, name="right")
    wrong = Head.affine(-truth, name="wrong")
    for head in (right, wrong):
        save_head(head, tmp_path / f"{head.name}.safetensors")
    found = job(tmp_path, ratings, compare_with=tuple(str(tmp_path / f"{name}.safetensors") for name in ("right", "wrong")))
    values = {one["name"]: one["measures"]["values"]["pair_accuracy"]["value"] for one in found.record["beside"]}
    assert values == {"right": 1.0, "wrong": 0.0}
    card = (tmp_path / "head.md").read_text()
    assert f"on {found.record['measures']['num_rows']} pairs, with 95 % intervals." in card
    ours = found.record["measures"]["values"]["pair_accuracy"]
    assert 0.9 < ours["value"] < 1.0
    assert ours["low"] < ours["value"] < ours["high"]
    cosine = found.head.weight @ truth / np.linalg.norm(found.head.weight) / np.linalg.norm(truth)
    assert cosine > 0.95


def test_names_are_matched_and_it_is_said(tmp_path: Path, truth: np.ndarray) -> None:
    made = np.random.default_rng(0).standard_normal((40, DIM)).astype(np.float32)
    names = [f"set/{row:03}.jpg" for row in range(40)]
    pl.DataFrame({"sample": names, "embedding": list(made)}).write_parquet(tmp_path / "e.parquet")
    lines = [[f"{row:03}.png", 5 + 3 * float(unit(made)[row] @ truth)] for row in range(30)]
    ratings = write_csv(tmp_path / "r.csv", ["file", "score"], [*lines, ["nowhere.png", 3.0]])
    found = job(tmp_path, ratings, sources=(str(tmp_path / "e.parquet"),))
    assert found.record["ratings"]["num_matched"] == 30
    assert found.record["test_samples"] == [f"{row:03}.png" for row in range(30)]
    told = "\n".join(found.record["remarks"])
    assert "30 of 31 rated pictures are in the set of 40." in told
    assert "nowhere.png" in told


def test_groups_are_kept_together(tmp_path: Path, rows: np.ndarray, truth: np.ndarray) -> None:
    lines = [[f"e.npy#{row}", 4 + 2 * float(unit(rows)[row] @ truth), f"p{row % 7}"] for row in range(NUM_ROWS)]
    ratings = write_csv(tmp_path / "r.csv", ["image", "rating", "photographer"], lines)
    found = job(tmp_path, ratings, split_by="photographer")
    assert found.record["rows"]["num_groups"] == 7
    assert found.record["measured"]["num_folds"] == 7


@pytest.mark.slow
def test_a_score_set_with_kept_embeddings_and_use_of_the_head(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        (photos / f"p{number}.jpg").write_bytes(picture_bytes(number))
    out = tmp_path / "set.parquet"
    beholder.score(
        photos, out, backbone=small_tower, head=plain_head, keep_embeddings=True, precision="fp32", device="cpu", workers=0
    )
    lines = [[f"p{number}.jpg", number % 5 + 1] for number in range(24)]
    ratings = write_csv(tmp_path / "r.csv", ["image", "rating"], lines)
    found = job(tmp_path, ratings, sources=(str(out),), near_duplicates=0)  # an untrained tower sees no differences
    assert found.record["ratings"]["num_matched"] == 24
    again = tmp_path / "again.parquet"
    done = program("score", str(out) + ".embeddings", "--head", str(tmp_path / "head.safetensors"), "-o", str(again))
    assert done.returncode == 0, done.stderr
    scores = pl.read_parquet(again)["aesthetic_score"].to_numpy()
    matrix = np.concatenate([np.load(path) for path in sorted(Path(f"{out}.embeddings").rglob("*.npy"))])
    np.testing.assert_allclose(scores, unit(matrix) @ found.head.weight + found.head.bias, atol=1e-5)


@pytest.mark.slow
def test_pictures_are_embedded_first_and_kept(tmp_path: Path, small_tower: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        (photos / f"p{number}.jpg").write_bytes(picture_bytes(number))
    ratings = write_csv(tmp_path / "r.csv", ["image", "rating"], [[f"p{number}.jpg", number] for number in range(12)])
    found = job(tmp_path, ratings, sources=(str(photos),), backbone=str(small_tower), device="cpu", near_duplicates=0)
    kept = found.record["embeddings"]["source"]
    assert kept == str(tmp_path / "head.embeddings")
    again = job(tmp_path, ratings, sources=(kept,), overwrite=True, near_duplicates=0)
    assert again.record["sha256"] == found.record["sha256"]


def wrong(tmp_path: Path, *more: str) -> str:
    """The one line of a command that fails, with nothing written."""
    before = sorted(path.name for path in tmp_path.iterdir())
    done = program("train", str(tmp_path / "e.npy"), "-o", str(tmp_path / "head.safetensors"), *more)
    assert (done.returncode, done.stdout) == (1, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (line,) = done.stderr.splitlines()
    assert line.startswith("beholder: ")
    return line.removeprefix("beholder: ")


def test_what_cannot_be_used_is_one_line(tmp_path: Path, rows: np.ndarray, means: tuple[Path, np.ndarray, np.ndarray]) -> None:
    ratings = str(means[0])
    assert wrong(tmp_path).startswith("--ratings is needed: a file with ratings")
    assert "does not exist" in wrong(tmp_path, "--ratings", str(tmp_path / "none.csv"))
    line = wrong(tmp_path, "--ratings", ratings, "--split-by", "photographer")
    assert line == f"{ratings} has no column 'photographer'; it has image, rating, num_votes, std"
    assert "logistic is for keep and drop" in wrong(tmp_path, "--ratings", ratings, "--method", "logistic")
    save_head(Head.affine(np.ones(8), name="short"), tmp_path / "short.safetensors")
    line = wrong(tmp_path, "--ratings", ratings, "--start-from", str(tmp_path / "short.safetensors"))
    assert line.endswith("scores embeddings of 8 numbers, these have 16")
    strange = write_csv(tmp_path / "strange.csv", ["image", "rating"], [[f"other-{row}.jpg", row] for row in range(9)])
    assert "none of its 9 rated pictures is among the 240 of the set" in wrong(tmp_path, "--ratings", str(strange))
    same = write_csv(tmp_path / "same.csv", ["image", "rating"], [[f"e.npy#{row}", 3] for row in range(9)])
    assert "3" in wrong(tmp_path, "--ratings", str(same))
    three = write_csv(tmp_path / "three.csv", ["image", "rating"], [[f"e.npy#{row}", row] for row in range(3)])
    assert "3" in wrong(tmp_path, "--ratings", str(three))


def test_nothing_is_replaced_unless_that_is_asked_for(tmp_path: Path, means: tuple[Path, np.ndarray, np.ndarray]) -> None:
    (tmp_path / "head.md").write_text("mine")
    line = wrong(tmp_path, "--ratings", str(means[0]))
    assert line == f"{tmp_path}/head.md is there already; use --overwrite to replace it, or another --out"


@pytest.mark.parametrize("name", ["head.safetensors", "head.md", "head.json"])
def test_files_of_others_beside_the_head_are_never_replaced(
    tmp_path: Path, means: tuple[Path, np.ndarray, np.ndarray], name: str
) -> None:
    (tmp_path / name).write_text("mine")
    line = wrong(tmp_path, "--ratings", str(means[0]), "--overwrite")
    assert line == f"{tmp_path}/{name} would be replaced, and was not written by this command; move it, or use another --out"
    assert (tmp_path / name).read_text() == "mine"


def test_scores_without_embeddings_are_no_source(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    from beholder.scoring.score import score

    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "p.jpg").write_bytes(picture_bytes(1))
    score(score_options((str(tmp_path / "photos"),), tmp_path / "set", small_tower, plain_head))
    ratings = write_csv(tmp_path / "r.csv", ["image", "rating"], [["p.jpg", 1], ["q.jpg", 2]])
    with pytest.raises(beholder.InputError, match="holds scores without embeddings; give its pictures .* --keep-embeddings"):
        job(tmp_path, ratings, sources=(str(tmp_path / "set"),))


def test_a_head_goes_to_the_hub_with_its_card(
    tmp_path: Path, means: tuple[Path, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded from there is what is here; measures stand in the card as hubs read them; names of pictures stay."""
    with running(Hub()) as hub:
        for name, value in (("HF_ENDPOINT", hub.url), ("HF_TOKEN", hub.token), ("XDG_CACHE_HOME", str(tmp_path / "cache"))):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        dry = job(tmp_path, means[0], push_to_hub="me/taste", dry_run=True, licence="cc0-1.0")
        assert dry.upload is not None
        assert dry.upload.url is None
        assert not hub.log
        found = job(tmp_path, means[0], push_to_hub="me/taste", private=True, licence="cc0-1.0", overwrite=True)
        assert found.upload is not None
        assert hub.made == {"me/taste": True}
        np.testing.assert_array_equal(load_head("me/taste").weight, found.head.weight)
        sent = ModelCard(found.upload.files["README.md"].decode())
        assert (sent.data.license, sent.data.library_name) == ("cc0-1.0", "beholder")
        results = {one.metric_type: one.metric_value for one in sent.data.eval_results}
        assert results["spearmanr"] == pytest.approx(found.record["measures"]["values"]["srcc"]["value"], abs=1e-6)
        assert {one.dataset_name for one in sent.data.eval_results} == {"means.csv"}
        assert not any(b"e.npy#" in data or str(tmp_path).encode() in data for data in found.upload.files.values())


def test_a_head_that_cannot_be_uploaded_is_written_all_the_same(
    tmp_path: Path, means: tuple[Path, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Hub()) as hub:
        url = hub.url
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(
        HeadError, match=r"the head is written to .*head\.safetensors, and is uploaded later by: beholder models"
    ):
        job(tmp_path, means[0], push_to_hub="me/taste")
    assert load_head(tmp_path / "head.safetensors").dim == DIM


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dry_run": True}, "--dry-run says how to upload; add --push-to-hub ORG/NAME"),
        ({"private": True}, "--private says how to upload; add --push-to-hub ORG/NAME"),
        ({"push_to_hub": "taste"}, "'taste' is no repository of the hub"),
    ],
)
def test_how_to_upload_needs_a_repository(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        job(tmp_path, tmp_path / "none.csv", **more)


def test_ratings_that_are_noise_alone_have_a_ceiling_of_nothing(tmp_path: Path, rows: np.ndarray) -> None:
    """Histograms whose means differ less than their votes would have them differ."""
    lines = [[f"e.npy#{row}", 10 + row % 2, 10, 10] for row in range(40)]
    ratings = write_csv(tmp_path / "r.csv", ["image", "score1", "score2", "score3"], lines)
    found = job(tmp_path, ratings)
    assert found.record["ceiling"]["values"]["reliability"]["value"] == 0
    assert "nothing shows that any head could order these pictures better than chance" in (tmp_path / "head.md").read_text()
    assert "nothing shows that any head" in "\n".join(summary_lines(found))


def test_pictures_of_few_groups_are_warned_of(tmp_path: Path, truth: np.ndarray) -> None:
    """120 pictures about 4 directions: near-duplicates all, so of 4 groups of 30."""
    chance = np.random.default_rng(5)
    made = np.repeat(chance.standard_normal((4, DIM)), 30, axis=0) + 0.01 * chance.standard_normal((120, DIM))
    np.save(tmp_path / "e.npy", made.astype(np.float32))
    lines = [[f"e.npy#{row}", f"{3 + value:.3f}"] for row, value in enumerate(made @ truth)]
    found = job(tmp_path, write_csv(tmp_path / "r.csv", ["image", "rating"], lines))
    said = "Warning: the pictures are of 4 groups alone (the largest has 30 pictures)"
    assert said in (tmp_path / "head.md").read_text()
    assert said in "\n".join(summary_lines(found))
    ran = program("models", "info", str(tmp_path / "head.safetensors"))
    value = found.record["measures"]["values"]["srcc"]["value"]
    assert f"srcc: {value:.4g} (" in ran.stdout

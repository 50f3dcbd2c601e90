"""Embeddings that are none of the head's tower are refused by where they lie; those that are, scored with a calm line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from beholder import Head, InputError, load_head, save_head
from beholder.cli.app import app
from beholder.models.spaces import space_of
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from beholder.scoring.summary import RunSummary
from oracles.spaces import rows_at
from oracles.tiers import mostly_slow

L14, B32, B16 = "openai/clip-vit-large-patch14", "openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16"
NO_STAMP = "no stamp (beholder.json) says what made these embeddings"


def head_for(backbone: str | None, dim: int, name: str = "mine") -> str:
    save_head(Head.affine(np.linspace(-1, 1, dim), 5.0, name=name, backbone=backbone), f"{name}.safetensors")
    return f"{name}.safetensors"


@pytest.fixture(autouse=True)
def l14(here: Path) -> str:
    """A head for ViT-L/14 in the current folder."""
    return head_for(L14, 768)


def run(*sources: str, heads: tuple[str, ...] = ("mine.safetensors",), out: str = "s.parquet", **options: Any) -> RunSummary:
    return score(ScoreOptions(sources=sources, out=out, heads=heads, overwrite=True, **options))


def refusal(*sources: str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        run(*sources, out="refused", **options)
    assert not Path("refused").exists()
    text = str(caught.value)
    assert "\n" not in text
    return text


def write(kind: str, rows: npt.NDArray[Any], name: str) -> str:
    """The rows as float32 in a file, or folder, of the kind."""
    table = {str(column): rows[:, column] for column in range(rows.shape[1])}
    lists = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])})
    match kind:
        case "npy":
            np.save(f"{name}.npy", rows)
        case "Fortran":
            np.save(f"{name}.npy", np.asfortranarray(rows))
        case "npz":
            np.savez_compressed(f"{name}.npz", embeddings=rows)
        case "wide":
            pl.DataFrame(table).write_parquet(f"{name}.parquet")
        case "lists":
            pq.write_table(lists, f"{name}.parquet", row_group_size=100)
        case "csv":
            pl.DataFrame(table).write_csv(f"{name}.csv")
        case "folder" | "glob":
            Path(name).mkdir()
            for number in range(3):
                np.save(f"{name}/{number}.npy", rows[number::3])
            return f"{name}/*.npy" if kind == "glob" else name
        case "remote":
            with fsspec.open(f"memory://space-check/{name}.npy", "wb") as file:
                np.save(file, rows)
            return f"memory://space-check/{name}.npy"
        case "remote Parquet":
            with fsspec.open(f"memory://space-check/{name}.parquet", "wb") as file:
                pq.write_table(lists, file)
            return f"memory://space-check/{name}.parquet"
    return next(str(path) for path in Path().glob(f"{name}.*"))


KINDS = ("npy", "Fortran", "npz", "wide", "lists", "csv", "folder", "glob", "remote", "remote Parquet")


@pytest.mark.parametrize("kind", mostly_slow(KINDS, quick=4))
def test_every_kind_of_source_is_looked_at(kind: str) -> None:
    text = refusal(write(kind, rows_at(0.02, 300), "other"))
    assert text.startswith("these are not CLIP ViT-L/14 image embeddings (")
    assert "), which mine is made for: the mean cosine of all 300 rows" in text
    assert "is 0.02, where real sets have 0.6 to 0.8, text embeddings 0.2" in text
    assert text.endswith("score them all the same with --space-check off")
    doubtful = run(write(kind, rows_at(0.38, 300), "doubtful"))
    (warning,) = doubtful.warnings
    assert warning.startswith(f"{NO_STAMP}, and these may not be CLIP ViT-L/14 image embeddings")
    assert "is 0.38," in warning
    real = run(write(kind, rows_at(0.66, 300), "real"))
    assert real.warnings == []
    assert real.notes == [
        f"{NO_STAMP}; they look like CLIP ViT-L/14 image embeddings: the mean cosine of all 300 rows to their centroid is 0.66"
    ]
    assert (doubtful.num_scored, real.num_scored) == (300, 300)


def test_random_rows_those_of_texts_and_of_another_tower_are_refused() -> None:
    head_for(B32, 512, "small")
    np.save("random.npy", np.random.default_rng(1).standard_normal((500, 768)))
    np.save("text.npy", rows_at(0.23, 500, B32))
    assert "is 0.00," in refusal("random.npy")
    text = refusal("text.npy", heads=("small.safetensors",))
    assert text.startswith("these are not CLIP ViT-B/32 image embeddings (text.npy), which small is made for: ")
    assert "is 0.23, where real sets have 0.6 to 0.8, text embeddings 0.2" in text


def test_whoever_says_so_scores_them_all_the_same() -> None:
    np.save("x.npy", rows_at(0.0, 300))
    summary = run("x.npy", space_check="off")
    assert summary.warnings == [f"{NO_STAMP}; the scores are right only if it was {L14}"]
    assert summary.num_scored == 300
    with pytest.raises(InputError, match="--space-check maybe: choose on or off"):
        run("x.npy", space_check="maybe")


def test_the_figure_is_the_mean_of_the_cosines_of_rows_that_have_a_direction() -> None:
    rows = np.concatenate([rows_at(0.5, 60), rows_at(0.7, 40, seed=1), np.zeros((7, 768)), np.full((5, 768), np.nan)])
    rows[3, 5], rows[4, 6] = np.inf, np.nan
    np.save("x.npy", rows)
    space = space_of(L14)
    assert space is not None
    good = rows[[number for number in range(100) if number not in (3, 4)]]
    expected = float(np.mean(good @ space.centroid / np.linalg.norm(good, axis=1)))
    (note,) = run("x.npy").notes
    assert note.endswith(f"the mean cosine of all 98 rows to their centroid is {expected:.2f}")
    np.save("none.npy", np.zeros((50, 768), np.float32))
    assert run("none.npy").warnings == [f"{NO_STAMP}; the scores are right only if it was {L14}"]


def test_float16_rows_that_overflow_when_they_are_squared() -> None:
    rows = rows_at(0.66, 50, dtype=np.float64)
    rows /= np.abs(rows).max()
    np.save("x.npy", (rows * 60000).astype(np.float16))
    assert run("x.npy").notes[0].endswith("is 0.66")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "lists", "folder"])
def test_no_more_than_the_first_ten_thousand_rows_count(kind: str) -> None:
    rows = np.concatenate([rows_at(0.66, 10_000), rows_at(-0.9, 200, seed=1)]).astype(np.float16).astype(np.float32)
    if kind == "folder":
        Path("set").mkdir()
        np.save("set/a.npy", rows[:4000])
        np.save("set/b.npy", rows[4000:])
        source = "set"
    else:
        source = write(kind, rows, "set")
    (note,) = run(source).notes
    assert note.endswith("the mean cosine of the first 10,000 rows to their centroid is 0.66")


def test_a_handful_of_rows_is_never_refused() -> None:
    for num_rows, cosine in ((9, 0.0), (1, 0.2)):
        np.save("few.npy", rows_at(cosine, num_rows))
        (warning,) = run("few.npy").warnings
        assert f"is {cosine:.2f}" in warning
    np.save("one.npy", rows_at(0.43, 1))
    summary = run("one.npy")
    assert summary.warnings == []
    assert summary.notes[0].endswith("the mean cosine of its one row to their centroid is 0.43")
    np.save("ten.npy", rows_at(0.0, 10))
    assert "all 10 rows" in refusal("ten.npy")
    np.save("zero.npy", rows_at(0.0, 0))
    with pytest.raises(InputError, match="zero rows, nothing to score"):
        run("zero.npy")


def test_with_a_stamp_or_the_users_word_it_is_a_warning() -> None:
    np.save("x.npy", rows_at(0.0, 300))
    (warning,) = run("x.npy", backbone="ViT-L/14").warnings
    assert warning.startswith("these may not be CLIP ViT-L/14 image embeddings")
    Path("x.npy.beholder.json").write_text(json.dumps({"backbone": L14}))
    summary = run("x.npy")
    assert summary.warnings == [warning]
    assert summary.notes == []
    assert run("x.npy", space_check="off").warnings == []
    np.save("y.npy", rows_at(0.66, 300))
    assert (run("y.npy", backbone=L14).warnings, run("y.npy", backbone=L14).notes) == ([], [])


def test_parts_with_and_without_a_stamp_are_looked_at_apart() -> None:
    for name, cosine in (("a", 0.0), ("b", 0.7)):
        Path(name).mkdir()
        np.save(f"{name}/{name}.npy", rows_at(cosine, 200))
    Path("a/beholder.json").write_text(json.dumps({"backbone": L14}))
    summary = run("a/a.npy", "b/b.npy")
    assert summary.notes[0].startswith("no stamp in 1 of 2 parts says")
    assert summary.notes[0].endswith("is 0.70")
    (warning,) = summary.warnings
    assert "the mean cosine of all 200 rows to their centroid is" in warning
    Path("a/beholder.json").rename("b/beholder.json")
    assert "these are not CLIP" in refusal("a/a.npy", "b/b.npy")


def test_towers_without_a_centroid_keep_the_warning() -> None:
    other, unknown = head_for(B16, 512, "b16"), head_for(None, 768, "unknown")
    np.save("x.npy", np.random.default_rng(0).standard_normal((50, 512)))
    assert run("x.npy", heads=(other,)).warnings == [f"{NO_STAMP}; the scores are right only if it was {B16}"]
    np.save("y.npy", rows_at(0.66, 50))
    known = run("y.npy", heads=(unknown,))
    assert known.warnings == [f"{NO_STAMP}; the scores are right only if it was the backbone of your head"]
    both = run("y.npy", heads=("mine.safetensors", unknown))
    assert both.notes[0].endswith("is 0.66")
    assert both.warnings == known.warnings
    np.save("text.npy", rows_at(0.2, 50))
    assert "these are not CLIP ViT-L/14" in refusal("text.npy", heads=(unknown, "mine.safetensors"))
    wrong = np.random.default_rng(0).standard_normal((50, 767))
    np.save("w.npy", wrong)
    with pytest.raises(InputError, match="767"):
        run("w.npy")


def test_of_a_finished_run_and_of_the_library(l14: str) -> None:
    np.save("x.npy", rows_at(0.66, 300))
    first = run("x.npy", out="set")
    again = score(ScoreOptions(sources=("x.npy",), out="set", heads=(l14,), space_check="off"))
    assert (again.num_new, again.num_read) == (0, 300)  # the check decides nothing about a result
    assert first.notes
    scores = load_head(l14).score(rows_at(0.0, 3))
    assert np.isfinite(scores).all()


def test_the_command(l14: str) -> None:
    np.save("x.npy", rows_at(0.01, 200))
    line = ["score", "x.npy", "-o", "s.csv", "--head", l14]
    refused = CliRunner().invoke(app, line)
    assert str(refused.exception).startswith("these are not CLIP ViT-L/14 image embeddings (x.npy)")
    assert not Path("s.csv").exists()
    scored = CliRunner().invoke(app, [*line, "--space-check", "off", "--json"])
    assert json.loads(scored.stdout)["num_scored"] == 200
    np.save("x.npy", rows_at(0.7, 200))
    calm = CliRunner().invoke(app, [*line, "--overwrite"])
    assert calm.exit_code == 0
    assert "warning" not in calm.stderr
    assert f"{NO_STAMP}; they look like CLIP ViT-L/14 image embeddings" in calm.stderr
    assert "--space-check" in CliRunner().invoke(app, ["score", "--help"], env={"COLUMNS": "200"}).stdout


def test_the_centroids_are_the_published_ones(shared_reference: Path) -> None:
    with np.load(shared_reference / "centroids.npz") as arrays:
        for backbone, name in ((L14, "vit_l_14"), (B32, "vit_b_32")):
            space = space_of(backbone)
            assert space is not None
            given = arrays[name].astype(np.float64)
            np.testing.assert_allclose(space.centroid, given / np.linalg.norm(given), rtol=0, atol=1e-15)
    space = space_of("ViT-L-14-quickgelu/openai")
    assert space is not None
    assert space.name == "CLIP ViT-L/14"
    assert space_of("openai/clip-vit-large-patch14-336") is space_of("my/tower") is None
    ratings = [np.load(shared_reference / f"laion_vit_l_14_rating{number}.npy").reshape(1, -1) for number in (0, 5, 9)]
    np.save("ratings.npy", np.concatenate(ratings).astype(np.float32))
    assert run("ratings.npy").warnings == []

"""`beholder evaluate`: scores, heads and ratings in, figures and a page out; and what cannot be used, in one line."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from scipy import stats

import beholder
from beholder import Head, InputError, save_head
from beholder.columns import SCORE_SET_FORMAT
from beholder.train.evaluate.job import Evaluation, evaluate
from beholder.train.job import train
from beholder.train.options import EvaluateOptions, TrainJobOptions
from oracles.picture_jobs import picture_bytes
from oracles.program import beholder as program

NUM = 80
NAMES = [f"set/p{row:03}.jpg" for row in range(NUM)]


def write_csv(path: Path, header: list[str], lines: Any) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
    return path


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(NUM)


@pytest.fixture
def good(truth: np.ndarray) -> np.ndarray:
    return np.round(truth + 0.3 * np.random.default_rng(1).standard_normal(NUM), 4)


@pytest.fixture
def ratings(tmp_path: Path, truth: np.ndarray) -> Path:
    """Ratings of the pictures, by the names of their files."""
    lines = [
        [name.split("/")[1], f"{3 + value:.4f}", row % 2] for row, (name, value) in enumerate(zip(NAMES, truth, strict=True))
    ]
    return write_csv(tmp_path / "ratings.csv", ["image", "rating", "kind"], lines)


@pytest.fixture
def scores(tmp_path: Path, good: np.ndarray) -> Path:
    poor = np.random.default_rng(2).standard_normal(NUM)
    return write_csv(tmp_path / "scores.csv", ["sample", "score", "other"], zip(NAMES, good, poor, strict=True))


def job(sources: Path | tuple[Path | str, ...], ratings: Path | str, **more: Any) -> Evaluation:
    given = sources if isinstance(sources, tuple) else (sources,)
    return evaluate(EvaluateOptions(sources=tuple(map(str, given)), ratings=str(ratings), **more))


def test_one_table_of_scores(scores: Path, ratings: Path, good: np.ndarray, truth: np.ndarray) -> None:
    found = job(scores, ratings)
    record = found.record
    (head,) = record["heads"]
    assert (head["name"], head["column"], head["source"]) == ("score", "score", str(scores))
    rounded = np.array([float(f"{3 + value:.4f}") for value in truth])
    assert head["measures"]["values"]["srcc"]["value"] == pytest.approx(stats.spearmanr(good, rounded).statistic, abs=1e-12)
    assert record["measured"]["num_rows"] == record["measured"]["num_groups"] == NUM
    names = sorted(name.split("/")[1] for name in NAMES)
    digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
    assert record["measured"]["samples_sha256"] == digest
    assert "80 rated pictures matched by the file's name, where only one fits." in found.remarks
    assert any("near-duplicates could not be looked for" in note for note in found.notes)
    json.dumps(record, allow_nan=False)


def test_the_same_seed_gives_the_same_figures(scores: Path, ratings: Path) -> None:
    one, again, other = (job(scores, ratings, seed=seed).record for seed in (1, 1, 2))
    assert {**one, "seconds": 0} == {**again, "seconds": 0}
    assert one["heads"][0]["measures"] != other["heads"][0]["measures"]


def test_several_columns_and_sources_are_measured_on_what_all_have(tmp_path: Path, scores: Path, ratings: Path) -> None:
    third = np.random.default_rng(5).standard_normal(NUM)
    values = [
        [name, value if row >= 7 else ("" if row else "nan")]
        for row, (name, value) in enumerate(zip(NAMES, third, strict=True))
    ]
    more = write_csv(tmp_path / "more.csv", ["path", "score"], values[:70])
    found = job((scores, more), ratings, score_column=("score", "other"))
    assert {one.name for one in found.compared.judged} == {f"score ({scores})", "other", f"score ({more})"}
    assert found.record["measured"]["num_rows"] == 63
    assert any(note.startswith("Of 80 rated pictures that a head scores, all heads score 63") for note in found.notes)
    assert any(f"score ({more}) lacks 17" in note for note in found.notes)
    assert len(found.record["differences"]) == 3


def test_heads_on_embeddings_and_near_duplicates(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 12)).astype(np.float32)
    rows[30:] = rows[:30] * 2  # the same directions
    np.save(tmp_path / "e.npy", rows)
    direction = rng.standard_normal(12)
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    values = 3 + unit @ direction
    rated = write_csv(tmp_path / "r.csv", ["image", "rating"], [[f"e.npy#{row}", f"{v:.6f}"] for row, v in enumerate(values)])
    for name, weight in (("right", direction), ("wrong", -direction)):
        save_head(Head.affine(weight, name=name), tmp_path / f"{name}.safetensors")
    heads = tuple(str(tmp_path / f"{name}.safetensors") for name in ("wrong", "right"))
    found = job(tmp_path / "e.npy", rated, head=heads)
    assert [one.name for one in found.compared.judged] == ["right", "wrong"]
    assert found.compared.judged[0].measures["srcc"].value == pytest.approx(1, abs=1e-3)
    assert found.compared.judged[1].measures["srcc"].value == pytest.approx(-1, abs=1e-3)
    assert found.record["measured"]["num_groups"] == 30
    assert found.record["measured"]["near_duplicates"] == 0.95
    assert job(tmp_path / "e.npy", rated, head=heads, near_duplicates=0).record["measured"]["num_groups"] == 60
    with pytest.raises(InputError, match="no head scores these embeddings: name one with --head; nobody says which tower"):
        job(tmp_path / "e.npy", rated)
    save_head(Head.affine(np.ones(5), name="short"), tmp_path / "short.safetensors")
    with pytest.raises(InputError, match="short scores embeddings of 5 numbers, and .* has 12"):
        job(tmp_path / "e.npy", rated, head=(str(tmp_path / "short.safetensors"),))


def test_a_head_of_train_has_the_figures_that_its_rivals_had(tmp_path: Path) -> None:
    """A head beside a trained one, and the same head evaluated, on the same ratings with the same seed."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((90, 10)).astype(np.float32)
    np.save(tmp_path / "e.npy", rows)
    direction = rng.standard_normal(10)
    unit = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    votes = 3 + (unit @ direction)[:, None] + 0.5 * rng.standard_normal((90, 5))
    lines = [[f"e.npy#{row}", f"{v.mean():.6f}", 3 + row % 4, f"{v.std(ddof=1):.6f}"] for row, v in enumerate(votes)]
    rated = write_csv(tmp_path / "r.csv", ["image", "rating", "num_votes", "std"], lines)
    save_head(Head.affine(direction + rng.standard_normal(10), name="rival"), tmp_path / "rival.safetensors")
    rival = (str(tmp_path / "rival.safetensors"),)
    beside = train(
        TrainJobOptions(
            sources=(str(tmp_path / "e.npy"),), ratings=str(rated), out=str(tmp_path / "h.safetensors"), compare_with=rival
        )
    ).record["beside"]
    found = job(tmp_path / "e.npy", rated, head=rival).record
    (there,) = [one["measures"]["values"] for one in beside if one["name"] == "rival"]
    for name, value in found["heads"][0]["measures"]["values"].items():
        assert value == pytest.approx(there[name], abs=1e-9), name
    (constant,) = [one["measures"]["values"] for one in beside if one["name"] == "constant"]
    assert found["beside"][0]["measures"]["values"]["rmse"] == pytest.approx(constant["rmse"], abs=1e-9)
    assert found["ceiling"]["values"]["plcc"]["high"] < 1
    pictures = job(tmp_path / "e.npy", rated, head=rival, weigh_by="pictures").record["heads"][0]["measures"]["values"]
    means = np.array([float(line[1]) for line in lines])
    head = beholder.load_head(rival[0])
    assert pictures["srcc"]["value"] == pytest.approx(stats.spearmanr(head.score(rows), means).statistic, abs=1e-12)


def test_pairs_and_marks(tmp_path: Path, scores: Path, truth: np.ndarray, good: np.ndarray) -> None:
    rng = np.random.default_rng(4)
    lines = []
    for _ in range(150):
        one, other = rng.choice(NUM, 2, replace=False).tolist()
        lines.append([NAMES[one], NAMES[other], int(np.sign(truth[one] - truth[other]))])
    lines.append([NAMES[0], NAMES[1], 0])
    found = job(scores, write_csv(tmp_path / "pairs.csv", ["left", "right", "winner"], lines))
    at = {name: row for row, name in enumerate(NAMES)}
    right = [(good[at[one]] - good[at[other]]) * sign > 0 for one, other, sign in lines[:-1]]
    assert found.record["heads"][0]["measures"]["values"]["pair_accuracy"]["value"] == pytest.approx(np.mean(right))
    assert found.record["measured"]["unit"] == "pairs"
    assert "1 pair that people found equal is left out." in found.notes
    marks = write_csv(
        tmp_path / "marks.csv",
        ["sample", "mark"],
        [[n, "keep" if v > 0 else "drop"] for n, v in zip(NAMES, truth, strict=True)],
    )
    found = job(scores, marks, by=("folder",))
    auc = stats.mannwhitneyu(good[truth > 0], good[truth <= 0]).statistic / ((truth > 0).sum() * (truth <= 0).sum())
    assert found.record["heads"][0]["measures"]["values"]["pair_accuracy"]["value"] == pytest.approx(auc)
    assert found.record["by"][0]["groups"][0]["value"] == "set"


@pytest.mark.slow
def test_a_score_set_with_kept_embeddings(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    """Its embeddings show near-duplicates, and the head that made its scores makes them again."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(24):
        (photos / f"p{number}.jpg").write_bytes(picture_bytes(number % 20))  # four pictures are there twice
    out = tmp_path / "set.parquet"
    beholder.score(
        photos, out, backbone=small_tower, head=plain_head, keep_embeddings=True, precision="fp32", device="cpu", workers=0
    )
    lines = [[f"p{number}.jpg", 1 + (7 * number) % 5] for number in range(24)]
    rated = write_csv(tmp_path / "r.csv", ["image", "rating"], lines)
    found = job(out, rated, near_duplicates=0.9999999)
    assert found.record["measured"]["num_groups"] == 20
    assert len(found.compared.judged) == 1
    both = job(out, rated, head=(str(plain_head),), near_duplicates=0)
    (difference,) = both.record["differences"]
    assert difference["difference"]["values"]["srcc"]["value"] == pytest.approx(0, abs=1e-9)
    assert difference["verdict"] == "not told apart"
    assert both.record["measured"]["num_groups"] == 24


def test_ceilings_have_intervals_and_explain_heads_above_them(tmp_path: Path, truth: np.ndarray) -> None:
    """Heads that follow the ratings with their noise lie above what the raters allow."""
    rng = np.random.default_rng(6)
    rated = truth + rng.normal(0, 0.6, NUM)
    head = np.round(truth + 0.02 * rng.standard_normal(NUM), 4)
    lines = [[name, f"{3 + value:.4f}", 4, 1.2] for name, value in zip(NAMES, rated, strict=True)]
    ratings = write_csv(tmp_path / "r.csv", ["image", "rating", "num_votes", "std"], lines)
    lies = {}
    for name, values in {"fair": head, "seen": np.round(rated, 3)}.items():
        write_csv(tmp_path / f"{name}.csv", ["sample", "score"], zip(NAMES, values, strict=True))
        found = job(tmp_path / f"{name}.csv", ratings).record
        most, value = found["ceiling"]["values"]["srcc"], found["heads"][0]["measures"]["values"]["srcc"]["value"]
        said = program("evaluate", f"{name}.csv", "--ratings", "r.csv", cwd=tmp_path).stdout
        assert f"a rank correlation of {most['value']:.3f} ({most['low']:.3f} to {most['high']:.3f})" in said
        lies[name] = value
        assert ("score lies above its whole interval" in said) == (value > most["high"])
        assert ("score lies above it and within its interval" in said) == (most["value"] < value <= most["high"])
    assert lies["seen"] > 0.99


@pytest.mark.parametrize("repeated", [12, 40])
def test_a_ceiling_of_few_repeated_pairs_is_too_few_to_tell(tmp_path: Path, scores: Path, repeated: int) -> None:
    once = [[NAMES[at], NAMES[at + 1]] for at in range(60)]
    again = [[NAMES[at + 1], NAMES[at]] if at % 4 == 0 else [NAMES[at], NAMES[at + 1]] for at in range(repeated)]
    write_csv(tmp_path / "pairs.csv", ["better", "worse"], [*once, *again])
    said = program("evaluate", scores, "--ratings", "pairs.csv", cwd=tmp_path).stdout
    found = job(scores, tmp_path / "pairs.csv").record["ceiling"]
    assert found["num_rows"] == repeated
    if repeated == 12:
        assert found["values"]["pair_accuracy"] == {"value": None, "low": None, "high": None}
        assert "12 pairs have several votes: too few to tell how many pairs a head could put right at all." in said
        return
    # Two votes a pair, of which every fourth pair's disagree: they agree with chance .75, so p = (1 + sqrt(.5)) / 2.
    value = found["values"]["pair_accuracy"]
    assert value["value"] == pytest.approx((1 + 0.5**0.5) / 2)
    bounds = f"({100 * value['low']:.1f} to {100 * value['high']:.1f} %)"
    assert f"no order could put more than 85.4 % {bounds} of the pairs right, by the 40 pairs that have several votes." in said


def test_groups_by_a_column(scores: Path, ratings: Path, good: np.ndarray, truth: np.ndarray) -> None:
    found = job(scores, ratings, by=("kind",), split_by="kind")
    assert [(group["value"], group["num_rows"]) for group in found.record["by"][0]["groups"]] == [("0", 40), ("1", 40)]
    for start, group in enumerate(found.record["by"][0]["groups"]):
        expected = stats.spearmanr(good[start::2], np.round(truth[start::2], 4)).statistic
        assert group["heads"][0]["value"] == pytest.approx(expected, abs=1e-9)
    assert found.record["measured"]["num_groups"] == 2
    assert any("resampling 2 groups, too few" in note for note in found.notes)


@pytest.mark.parametrize("flag", ["by", "split_by"])
def test_a_column_that_differs_within_a_picture_is_refused(tmp_path: Path, scores: Path, truth: np.ndarray, flag: str) -> None:
    """Votes, a row each: what is said of the picture is the same in all of its rows, what is said of the rater is not."""
    votes = [
        [name, f"u{vote}", f"{3 + value + 0.1 * vote:.3f}", "" if vote == 0 else f"k{row % 2}", f"{20 + vote}" if row else "20"]
        for row, (name, value) in enumerate(zip(NAMES, truth, strict=True))
        for vote in range(3)
    ]
    rated = write_csv(tmp_path / "votes.csv", ["image", "user", "rating", "kind", "age"], votes)
    given = {"by": ("kind",), "split_by": "kind"}[flag]
    found = job(scores, rated, **{"by": ("kind",), flag: given})
    assert [(group["value"], group["num_rows"]) for group in found.record["by"][0]["groups"]] == [("k0", 40), ("k1", 40)]
    refused = {"by": ("age",), "split_by": "age"}[flag]
    with pytest.raises(InputError) as error:
        job(scores, rated, **{flag: refused})
    assert str(error.value) == (
        f"--by and --split-by age: {rated} has several values in that column for 79 pictures ({NAMES[1]}: 20 and 21), and a "
        "picture is in one group; name a column that says something of the picture, not of who rated it, or say folder"
    )


def test_an_odd_rating_is_found(tmp_path: Path, scores: Path, good: np.ndarray) -> None:
    values = good.copy()
    values[17] = -values[17] + 9
    found = job(scores, write_csv(tmp_path / "r.csv", ["image", "rating"], zip(NAMES, values, strict=True)))
    assert found.suspicious[0]["sample"] == NAMES[17]


def test_scores_and_ratings_in_one_file(tmp_path: Path, good: np.ndarray, truth: np.ndarray) -> None:
    table = write_csv(tmp_path / "t.csv", ["image", "a", "mos"], zip(NAMES, good, truth, strict=True))
    found = job(table, table, sample_column="image", score_column=("a",), rating_column="mos")
    assert found.record["heads"][0]["measures"]["values"]["srcc"]["value"] == pytest.approx(
        stats.spearmanr(good, truth).statistic
    )
    with pytest.raises(InputError, match="column 'mos' is the ratings themselves"):
        job(table, table, sample_column="image", score_column=("mos",), rating_column="mos")


def test_a_set_of_scores_with_several_heads(tmp_path: Path, ratings: Path, good: np.ndarray) -> None:
    record = {
        "format": SCORE_SET_FORMAT,
        "score_columns": ["aesthetic_score_a", "aesthetic_score_b"],
        "heads": [{"name": "a"}, {"name": "b"}],
    }
    table = pl.DataFrame({"sample": NAMES, "aesthetic_score_a": good, "aesthetic_score_b": -good}).to_arrow()
    pq.write_table(table.replace_schema_metadata({b"beholder": json.dumps(record).encode()}), tmp_path / "set.parquet")
    found = job(tmp_path / "set.parquet", ratings)
    assert [one.name for one in found.compared.judged] == ["a", "b"]


def wrong(tmp_path: Path, *arguments: str) -> str:
    """The one line of a command that fails, with nothing written."""
    before = sorted(path.name for path in tmp_path.iterdir())
    done = program("evaluate", *arguments, "-o", str(tmp_path / "page.html"))
    assert (done.returncode, done.stdout) == (1, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (line,) = done.stderr.splitlines()
    assert line.startswith("beholder: ")
    return line.removeprefix("beholder: ")


def test_what_cannot_be_used_is_one_line(tmp_path: Path, scores: Path, ratings: Path, good: np.ndarray) -> None:
    set_, rated = str(scores), str(ratings)

    def table(name: str, lines: Any, header: tuple[str, str] = ("image", "rating")) -> str:
        return str(write_csv(tmp_path / name, list(header), lines))

    assert wrong(tmp_path, set_).startswith("--ratings is needed: a file with ratings")
    assert "does not exist" in wrong(tmp_path, str(tmp_path / "nothing.csv"), "--ratings", rated)
    assert "does not exist" in wrong(tmp_path, set_, "--ratings", str(tmp_path / "none.csv"))
    strangers = table("strangers.csv", [[f"q{row}.jpg", row] for row in range(9)])
    assert "none of its 9 rated pictures is among the 80 of the set" in wrong(tmp_path, set_, "--ratings", strangers)
    three = table("three.csv", [[NAMES[row], row] for row in range(3)])
    assert "3 rated pictures are in the set, too few" in wrong(tmp_path, set_, "--ratings", three)
    one = table("one.csv", [[NAMES[0], 3]])
    assert "1 rated picture is in the set, too few" in wrong(tmp_path, set_, "--ratings", one)
    empty = table("empty.csv", [])
    assert wrong(tmp_path, set_, "--ratings", empty) == f"{empty} has no rows; a row for each rating was expected"
    no_scores = table("no-scores.csv", [[name, "nan"] for name in NAMES], ("sample", "score"))
    assert (
        wrong(tmp_path, no_scores, "--ratings", rated) == f"{no_scores}: score has no score of any rated picture; leave it out"
    )
    captions = table("captions.csv", [[name, "a cat"] for name in NAMES], ("sample", "caption"))
    line = wrong(tmp_path, captions, "--ratings", rated)
    assert "has no column of scores that is known; it has sample, caption; name it with --score-column" in line
    assert wrong(tmp_path, set_, "--ratings", rated, "--score-column", "x").endswith("has no column 'x' (--score-column)")
    assert "has no column 'who'" in wrong(tmp_path, set_, "--ratings", rated, "--by", "who")
    assert "kept no embeddings, which --head is for" in wrong(tmp_path, set_, "--ratings", rated, "--head", "laion-v2")
    few = table(
        "few.csv",
        [[name, value if row < 3 else ""] for row, (name, value) in enumerate(zip(NAMES, good, strict=True))],
        ("sample", "score"),
    )
    line = wrong(tmp_path, set_, few, "--ratings", rated)
    assert "all heads score 3 (" in line
    assert "lacks 77" in line
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "p000.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    photos = str(tmp_path / "photos")
    line = wrong(tmp_path, photos, "--ratings", rated)
    assert line == f"{photos} holds pictures without scores; score them first: beholder score {photos} --keep-embeddings"


def test_ratings_by_place_and_all_the_same_scores(tmp_path: Path, good: np.ndarray) -> None:
    flat = write_csv(tmp_path / "flat.csv", ["sample", "score"], [[name, 4] for name in NAMES])
    np.save(tmp_path / "y.npy", good)
    found = job(flat, tmp_path / "y.npy")
    values = found.record["heads"][0]["measures"]["values"]
    assert (values["srcc"]["value"], values["pair_accuracy"]["value"]) == (None, 0.5)
    assert values["rmse"]["value"] == pytest.approx(found.record["beside"][0]["measures"]["values"]["rmse"]["value"])
    assert "score gives all of them the same score, so it orders nothing." in found.notes
    assert found.record["heads"][0]["map"] == {"slope": None, "intercept": None}


def test_pages_of_others_are_never_replaced(tmp_path: Path, scores: Path, ratings: Path) -> None:
    page = tmp_path / "page.html"
    line = [str(scores), "--ratings", str(ratings)]
    page.write_text("mine")
    assert wrong(tmp_path, *line) == f"{page} is there already; use --overwrite to replace it, or another --out"
    said = wrong(tmp_path, *line, "--overwrite")
    assert said == f"{page} would be replaced, and was not written by this command; move it, or use another --out"
    assert page.read_text() == "mine"
    page.unlink()
    for more in ((), ("--overwrite",)):
        done = program("evaluate", *line, "-o", str(page), *more)
        assert done.returncode == 0, done.stderr
    assert "is there already" in wrong(tmp_path, *line)


def test_what_the_command_prints(tmp_path: Path, scores: Path, ratings: Path) -> None:
    page = tmp_path / "page.html"
    arguments = [str(scores), "--ratings", str(ratings), "--score-column", "score", "--score-column", "other", "--by", "kind"]
    done = program("evaluate", *arguments, "-o", str(page))
    assert done.returncode == 0, done.stderr
    assert "score orders the pictures best: rank correlation (Spearman) 0.9" in done.stdout
    assert "Its lead over other, " in done.stdout
    assert ", real\n" in done.stdout
    assert f"page: {page} (" in done.stdout
    assert "by kind, rank correlation (Spearman) of score:" in done.stdout
    shown = json.loads(program("evaluate", *arguments, "-o", str(page), "--overwrite", "--json").stdout)
    assert shown["output"] == str(page)
    assert shown["measured"]["num_rows"] == NUM
    assert shown["heads"][1]["verdict"] == "real"

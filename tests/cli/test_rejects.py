"""`beholder rejects`: every rejected row with its reason, of every kind of output; lists of them; three in each summary."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from beholder.cli.app import app
from beholder.columns import reason_text
from beholder.errors import BeholderError
from beholder.scoreset.score_set import open_scores
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import embed, score
from beholder.scoring.summary import RunSummary
from oracles.picture_jobs import embed_options, picture_bytes, score_options
from oracles.s3 import BUCKET
from oracles.tar_making import tar
from oracles.tiers import mostly_slow

EMPTY, NONE = ["photos/b.png", "photos/ü d.png"], [f"photos/n{number}.jpg" for number in range(5)]


def rejects(*arguments: object) -> str:
    """What the command prints; it must end well."""
    found = CliRunner().invoke(app, ["rejects", *map(str, arguments)])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == 0, found.output
    return found.stdout


def listed(path: Path) -> list[dict[str, Any]]:
    """Rows of a list by its kind."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pl.read_parquet(path).to_dicts()


@pytest.fixture
def photos(here: Path) -> Path:
    """photos/ in the current folder: three pictures, two empty files, five that are no pictures."""
    (here / "photos").mkdir()
    for name in ("a.jpg", "m.jpg", "z.jpg"):
        (here / "photos" / name).write_bytes(picture_bytes(ord(name[0])))
    for name in EMPTY:
        Path(name).touch()
    for name in NONE:
        Path(name).write_bytes(b"no picture")
    return Path("photos")


def check_list(out: object) -> None:
    """Everything about the rejects of `photos`, in all forms."""
    found = json.loads(rejects(out, "--json"))
    reasons = {row["sample"]: row["reason"] for row in found["rejects"]}
    assert reasons == {**dict.fromkeys(EMPTY, "empty"), **dict.fromkeys(NONE, "not_an_image")}
    assert found["num_rejected"] == len(found["rejects"]) == 7
    assert [(word, one["count"]) for word, one in found["reasons"].items()] == [("not_an_image", 5), ("empty", 2)]
    for suffix in ("csv", "parquet", "jsonl"):
        path = Path(f"list.{suffix}")
        rejects(out, "-o", path, "--overwrite")
        rows = listed(path)
        assert rows == found["rejects"]
        assert all(row["meaning"] == reason_text(row["reason"]) and row["stage"] == "decode" for row in rows)
    shown = rejects(out).splitlines()
    assert [line.split(":")[0] for line in shown if line and not line.startswith(" ")][:2] == ["5 not_an_image", "2 empty"]
    assert sum(line.startswith("  photos/") for line in shown) == 7
    rejects(out, "--reason", "empty", "-o", "empty.txt", "--overwrite")
    assert sorted(Path("empty.txt").read_text().splitlines()) == sorted(EMPTY)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("name", mostly_slow(["out", "out.parquet", "out.csv"], quick=2))
def test_rejects_of_scores_are_listed_and_can_be_scored_again(
    photos: Path, small_tower: Path, plain_head: Path, name: str, keeps: bool
) -> None:
    summary = score(score_options("photos", Path(name), small_tower, plain_head, workers=0, keep_embeddings=keeps))
    check_list(name)
    assert {word: [one["sample"] for one in some] for word, some in summary.reject_examples.items()} == {
        "not_an_image": NONE[:3],
        "empty": EMPTY,
    }
    assert summary.list_rejects == f"beholder rejects {name}"
    for number, path in enumerate(EMPTY):
        Path(path).write_bytes(picture_bytes(number))
    again = score(score_options("empty.txt", Path("again"), small_tower, plain_head, workers=0))
    assert (again.num_scored, again.num_rejected) == (2, 0)
    assert rejects("again") == "again: nothing was rejected\n"
    assert again.reject_examples == {}
    assert again.list_rejects is None


def test_the_folder_with_the_rows_of_a_run_means_the_run(
    photos: Path, s3: Any, small_tower: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For `rejects`, and for rules that need what lies beside the rows; named with and without a slash, from within, remote."""
    score(score_options("photos", Path("out"), small_tower, plain_head, workers=0, keep_embeddings=True))
    for path in filter(Path.is_file, Path("out").rglob("*")):
        s3.upload_file(str(path), BUCKET, str(path))
    within = str(Path("out").resolve())
    for start, source in ((".", "out/scores"), (".", "./out/scores/"), (".", f"s3://{BUCKET}/out/scores"), (within, "scores"),
                          (f"{within}/scores", "."), (".", f"file://{within}/scores"), (".", "out/s*")):  # fmt: skip
        with monkeypatch.context() as moved:
            moved.chdir(start)
            if "*" not in source:
                assert json.loads(rejects(source, "--json"))["num_rejected"] == 7, source
            with open_scores(source) as scores:
                assert (scores.num_rows, len(scores.rejects)) == (3, 1), source
                assert scores.embeddings is not None, source
    found = CliRunner().invoke(app, ["select", "out/scores", "--dedup", "0.99", "-o", "kept.txt"])
    assert found.exit_code == 0, found.output
    Path("other/scores").mkdir(parents=True)
    pq.write_table(pa.table({"sample": ["a"], "score": [1.0]}), "other/scores/a.parquet")
    with open_scores("other/scores") as scores:  # of no run
        assert scores.num_rows == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_remote", [False, True])
def test_scores_given_as_embeddings_are_told_where_these_are(
    photos: Path, s3: Any, small_tower: Path, plain_head: Path, is_remote: bool
) -> None:
    """A folder of scores, and one of several, with and without kept embeddings; what is named can be scored."""
    for keeps in (False, True):
        score(score_options("photos", Path(f"sets/{keeps}"), small_tower, plain_head, workers=0, keep_embeddings=keeps))
    for path in filter(Path.is_file, Path("sets").rglob("*")):
        s3.upload_file(str(path), BUCKET, str(path))
    sets = f"s3://{BUCKET}/sets" if is_remote else "sets"

    def told(source: str) -> str:
        with pytest.raises(BeholderError) as caught:
            score(ScoreOptions(sources=(source,), out="again", heads=(str(plain_head),)))
        return str(caught.value)

    where = f"holds scores; the embeddings that were kept are in {sets}/True/embeddings: score those"
    assert told(f"{sets}/True") == f"{sets}/True {where}"
    assert told(sets) == f"{sets} {where}"
    wanted = "holds scores and no embeddings; score its pictures with --keep-embeddings to have them"
    assert told(f"{sets}/False") == f"{sets}/False {wanted}"
    again = score(ScoreOptions(sources=(f"{sets}/True/embeddings",), out="again", heads=(str(plain_head),)))
    assert (again.num_scored, again.num_rejected) == (3, 0)


@pytest.mark.parametrize("name", ["e", "e.parquet", "e.csv"])
def test_rejects_of_embeddings_are_listed(photos: Path, small_tower: Path, name: str) -> None:
    embed(embed_options("photos", Path(name), small_tower, workers=0))
    check_list(name)


@pytest.mark.slow
def test_rejects_in_a_bucket(photos: Path, s3: Any, small_tower: Path, plain_head: Path) -> None:
    for name in ("out", "out.parquet"):
        out = f"s3://{BUCKET}/{name}"
        options = score_options("photos", tmp_out := Path("x"), small_tower, plain_head, workers=0)
        assert tmp_out
        summary: RunSummary = score(ScoreOptions(**{**vars(options), "out": out}))
        assert len(summary.reject_examples["not_an_image"]) == 3
        check_list(out)
    rejects(f"s3://{BUCKET}/out", "-o", f"s3://{BUCKET}/list.csv")
    data = s3.get_object(Bucket=BUCKET, Key="list.csv")["Body"].read().decode()
    assert len(data.splitlines()) == 8


def test_members_of_archives_are_left_out_of_lists_of_names(here: Path, small_tower: Path, plain_head: Path) -> None:
    Path("a.tar").write_bytes(tar([("x.jpg", picture_bytes(1)), ("y.jpg", b"none")]))
    Path("b.png").write_bytes(b"none")
    score(score_options(("a.tar", "b.png"), Path("out"), small_tower, plain_head, workers=0))
    found = CliRunner().invoke(app, ["rejects", "out", "-o", "list.txt"])
    assert found.exit_code == 0, found.output
    assert Path("list.txt").read_text() == "b.png\n"
    assert "1 of 2 rejects" in found.stdout
    assert "not in the list: 1 without a path or address of their own" in " ".join(found.stderr.split())


def test_names_that_no_list_can_hold_are_left_out_of_it_and_counted(here: Path, small_tower: Path, plain_head: Path) -> None:
    Path("photos").mkdir()
    for name in (b"photos/line\nbreak.jpg", b"photos/latin\xff.jpg", b"photos/ # [x] plain.jpg"):
        Path(os.fsdecode(name)).write_bytes(b"none")
    score(score_options("photos", Path("out"), small_tower, plain_head, workers=0))
    found = CliRunner().invoke(app, ["rejects", "out", "-o", "list.txt"])
    assert found.exit_code == 0, found.output
    assert Path("list.txt").read_text() == "photos/ # [x] plain.jpg\n"
    assert "1 of 3 rejects" in found.stdout
    assert "2 whose names a list cannot hold" in " ".join(found.stderr.split())
    again = score(score_options("list.txt", Path("again"), small_tower, plain_head, workers=0))
    assert again.reasons == {"not_an_image": 1}


def test_rows_of_embeddings_are_listed_but_have_no_names(here: Path, small_head: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((9, 24)).astype(np.float32)
    rows[2], rows[4:8] = np.nan, 0
    np.save("rows.npy", rows)
    summary = score(ScoreOptions(sources="rows.npy", out="out", heads=(str(small_head),)))  # type: ignore[arg-type]
    shown = CliRunner().invoke(app, ["score", "rows.npy", "-o", "out", "--head", str(small_head)]).stdout
    assert "      rows.npy#4\n      rows.npy#5\n      rows.npy#6\n      ...\n" in shown
    assert "all of them: beholder rejects out\n" in shown
    assert summary.to_json()["reject_examples"]["nan"] == [{"sample": "rows.npy#2", "message": "the embedding holds NaN"}]
    found = json.loads(rejects("out", "--reason", "nan", "--reason", "zero_norm", "--json"))
    assert [row["sample"] for row in found["rejects"]] == [f"rows.npy#{row}" for row in (2, 4, 5, 6, 7)]
    assert rejects("out", "--reason", "missing") == "out: none of the 5 rejects has the reason missing\n"
    assert json.loads(rejects("out", "--reason", "missing", "--json"))["rejects"] == []
    for arguments, text in (
        (["out", "-o", "x.txt"], "nothing says where the pictures of out were found"),
        (["out", "-o", "x.xlsx"], "--out x.xlsx: a list is written as"),
        (["out", "-o", "out"], "--out out: a list is written as"),
        (["out", "--reason", "ugly"], "--reason ugly: there is no such reason; out has zero_norm, nan"),
        (["rows.npy"], "rows.npy is no set of scores or embeddings"),
        (["gone"], "gone does not exist"),
        ([str(here)], "is no set of scores or embeddings"),
    ):
        with pytest.raises(BeholderError, match=text):
            rejects(*arguments)
    rejects("out", "-o", "x.csv")
    with pytest.raises(BeholderError, match="--out x.csv exists"):
        rejects("out", "-o", "x.csv")


@pytest.mark.slow
def test_many_rejects_of_many_files_and_hostile_names(here: Path) -> None:
    """Made by hand: 300,000 rows in three files, in natural order; names cannot drive a terminal."""
    (here / "out" / "rejects").mkdir(parents=True)
    for number in (1, 2, 10):
        names = [f"{number}-{row}\x1b[2J\n.jpg" for row in range(100_000)]
        table = pa.table(
            {"sample": names, "stage": ["x"] * len(names), "reason": ["odd" if number == 2 else None] * len(names)}
        )
        pq.write_table(table, here / "out" / "rejects" / f"p-{number}.parquet")
    rejects("out", "-o", "list.parquet")
    rows = pl.read_parquet("list.parquet")
    assert rows["sample"].str.extract(r"^(\d+)-", 1).unique(maintain_order=True).to_list() == ["1", "2", "10"]
    assert dict(rows["reason"].value_counts().iter_rows()) == {"unknown": 200_000, "odd": 100_000}
    shown = rejects("out", "--reason", "odd")
    assert "\x1b" not in shown
    assert shown.count("\\x1b[2J\\n.jpg\n") == 100_000

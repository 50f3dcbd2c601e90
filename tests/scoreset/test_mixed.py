"""Files of one set that were scored in different ways."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.scoring.score import score
from oracles.picture_jobs import score_options
from oracles.program import beholder as program
from oracles.scale_sets import V1, V2, head_record, write_scores

TWIN = {"name": "aesthetic-v2", "sha256": "a" * 64, "source_sha256": head_record(V2)["sha256"]}
"""The weights of laion-v2 in a file of one's own."""


def sets(folder: Path, *heads: dict[str, Any], suffix: str = ".parquet") -> None:
    """A file of ten scores by each head."""
    folder.mkdir()
    for number, head in enumerate(heads):
        path = folder / f"{number}.parquet"
        names = [f"{number}/{row}.jpg" for row in range(10)]
        write_scores(path, {"aesthetic_score": np.arange(10) + number / 2}, [head], names)
        if suffix == ".csv":
            table = pq.read_table(path)
            record = json.loads(table.schema.metadata[b"beholder"])
            (folder / f"{number}.csv.beholder.json").write_text(json.dumps(record))
            rows = zip(*(table[name].to_pylist() for name in ("sample", "aesthetic_score")), strict=True)
            path.with_suffix(".csv").write_text(
                "sample,aesthetic_score\n" + "".join(f"{name},{score}\n" for name, score in rows)
            )
            path.unlink()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    "words",
    [
        ["select", "set", "--top", "3"],
        ["advise", "set"],
        ["report", "set", "-o", "r.html"],
        ["calibrate", "set", "--percentiles"],
    ],
)
def test_scores_of_two_heads_are_refused(
    words: list[str], suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sets(tmp_path / "set", head_record(V2), head_record(V1), suffix=suffix)
    done = program(*words)
    assert done.returncode == 1
    line = f"set: aesthetic_score is by laion-v2 in {tmp_path}/set/0{suffix} and by laion-v1 in {tmp_path}/set/1{suffix}; "
    assert line.replace(f"{tmp_path}/", "") in done.stderr.replace(f"{tmp_path}/", "")
    assert done.stderr.strip().endswith("scores of two heads cannot be compared, so name the files of one")


def test_two_heads_of_one_name(tmp_path: Path) -> None:
    sets(tmp_path / "set", head_record("mine", "a" * 64), head_record("mine", "b" * 64))
    done = program("select", str(tmp_path / "set"), "--top", "3")
    assert done.returncode == 1
    assert "1.parquet, another head of that name; " in done.stderr


@pytest.mark.parametrize("other", [head_record(V2), TWIN, {"name": None}])
def test_the_same_head_and_a_file_that_does_not_say_are_one_set(other: dict[str, Any], tmp_path: Path) -> None:
    sets(tmp_path / "set", head_record(V2), other)
    done = program("select", str(tmp_path / "set"), "--top", "3", "-o", str(tmp_path / "list.txt"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "list.txt").read_text().split() == ["1/9.jpg", "0/9.jpg", "1/8.jpg"]


def test_the_same_weights_in_other_bytes_are_one_head(tmp_path: Path) -> None:
    """As `models save` or another program writes them; heads of length 1 without a bias may be any."""

    def status(norm: float, bias: float) -> int:
        heads = [{**head_record("mine", digit * 64), "dim": 768, "weight_norm": norm, "bias": bias} for digit in "ab"]
        shutil.rmtree(tmp_path / "set", ignore_errors=True)
        sets(tmp_path / "set", *heads)
        return program("select", str(tmp_path / "set"), "--top", "3").returncode

    assert (status(17.995624776433647, -3.5), status(1.0, 0.0), status(0.0, 5.0)) == (0, 1, 1)


def test_texts_of_two_heads_are_read_as_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.csv").write_text(f"sample,v2,v1\na{number},{number},2.5\nb{number},0.5,{number}\n")
        record = {"format": "beholder-score-set", "score_columns": ["v2", "v1"], "heads": [head_record(V2), head_record(V1)]}
        (folder / f"{number}.csv.beholder.json").write_text(json.dumps(record))
    done = program("select", str(folder), "--score", "laion-v1", "--top", "2", "-o", str(tmp_path / "list.txt"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "list.txt").read_text().split() == ["a0", "a1"]


@pytest.mark.parametrize("command", [["select", "--top", "3"], ["advise"]])
def test_other_presets_and_towers_are_told(command: list[str], tmp_path: Path) -> None:
    sets(tmp_path / "set", head_record(V2), head_record(V2))
    for number, preset, tower in ((0, "reference", "a" * 64), (1, "upright", "b" * 64)):
        path = tmp_path / "set" / f"{number}.parquet"
        table = pq.read_table(path)
        record = json.loads(table.schema.metadata[b"beholder"])
        record |= {"pixels": {"preset": preset}, "backbone": "model", "weights_sha256": tower}
        pq.write_table(pa.table(table).replace_schema_metadata({b"beholder": json.dumps(record).encode()}), path)
    done = program(command[0], str(tmp_path / "set"), *command[1:])
    assert done.returncode == 0, done.stderr
    said = " ".join((done.stdout + done.stderr).split())
    assert "scored with the preset reference (" in said
    assert "scored by the tower model, weights aaaaaaaa (" in said


@pytest.mark.parametrize("has_record", [True, False])
def test_pictures_of_texts_are_found_whether_these_have_records_or_not(
    has_record: bool, tmp_path: Path, small_tower: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for at in range(3):
            Image.new("RGB", (40, 30), (80 * at, 30, 200 - 60 * at)).save(tmp_path / name / f"{at}.png")
        score(score_options((name,), tmp_path / "set" / f"{name}.csv", small_tower, plain_head))
    if not has_record:
        (tmp_path / "set" / "two.csv.beholder.json").unlink()
    done = program("select", "set", "--top", "6", "--copy", "kept", "--apply")
    assert done.returncode == 0, done.stderr
    assert len([*Path("kept").rglob("*.png")]) == 6


def test_runs_of_other_folders_are_told(
    tmp_path: Path, small_tower: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "photos").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        Image.new("RGB", (40, 30)).save(tmp_path / name / "photos" / f"{name}.png")
        score(score_options(("photos",), tmp_path / "set" / f"{name}.parquet", small_tower, plain_head))
    said = " ".join(program("select", str(tmp_path / "set"), "--top", "2").stdout.split())
    assert f"runs of this set were made in different folders, {tmp_path}/one (" in said
    assert "name those of the others with --pictures" in said


def test_pictures_of_all_runs_of_a_set_are_found(
    tmp_path: Path, small_tower: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("one", "two")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for at in range(3):
            colour = (80 * at + 10 * number, 30, 200 - 60 * at)
            Image.new("RGB", (40, 30), colour).save(folder / f"{at}.png")
        score(score_options((f"photos/{name}",), tmp_path / "set" / f"{name}.parquet", small_tower, plain_head))
    done = program("select", "set", "--top", "6", "--copy", "kept", "--apply")
    assert done.returncode == 0, done.stderr
    kept = sorted(str(path.relative_to("kept")) for path in Path("kept").rglob("*.png"))
    assert len(kept) == 6
    assert {Path(path).parent.name for path in kept} == {"one", "two"}


def test_a_run_that_is_not_finished_is_told(tmp_path: Path, small_head: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((100, 24)).astype(np.float32))
    line = ["score", str(tmp_path / "x.npy"), "-o", str(tmp_path / "out"), "--head", str(small_head), "--shard-rows", "20"]
    died = program(*line, env={**os.environ, "BEHOLDER_CRASH_AT": "shard x-from-000000000040 written"})
    assert died.returncode == 137, died.stderr
    select = ["select", str(tmp_path / "out"), "--top", "3"]
    told = f"{tmp_path}/out is not finished: 2 of 5 shards are done, and the rows of the others are missing here"
    assert told in " ".join(program(*select).stdout.split())
    np.save(tmp_path / "y.npy", np.ones((5, 24), np.float32))
    other = ["score", str(tmp_path / "y.npy"), "-o", str(tmp_path / "other"), "--head", str(small_head), "--space-check", "off"]
    assert program(*other).returncode == 0
    for several in (str(tmp_path), f"{tmp_path}/o*"):
        assert told in " ".join(program("select", several, "--top", "3").stdout.split())
    shutil.rmtree(tmp_path / "other")
    assert program(*line).returncode == 0
    assert "not finished" not in program(*select).stdout

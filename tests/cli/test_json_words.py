"""What `--json` prints: a key that several commands have means the same, and has the same type, in all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from beholder.cli.app import app

KINDS: dict[str, type | tuple[type, ...]] = {
    "num_read": int, "num_scored": int, "num_rejected": int, "num_rows": int, "num_rows_that_meet": int, "num_kept": int,
    "num_bytes": int, "num_pictures": int, "seconds": float, "warnings": list, "notes": list, "where": list, "reasons": dict,
    "output": str, "source": str,
}  # fmt: skip


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Command -> what it printed, one after the other on the same set."""
    folder = tmp_path_factory.mktemp("json")
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(200, 4)).astype(np.float32)
    rows[0] = np.nan
    np.save(folder / "rows.npy", rows)
    np.savez(folder / "head.npz", coef_=rng.normal(size=4), intercept_=np.array(5.0))
    return {name: _run(folder, line.split()) for name, line in (
        ("score", "score rows.npy --head head.npz --backbone unknown -o scores.parquet --space-check off --json"),
        ("advise", "advise scores.parquet --json"),
        ("select", "select scores.parquet --top 20 -o kept.parquet --json"),
        ("report", "report scores.parquet --where true --no-thumbnails -o page.html --json"),
    )}  # fmt: skip


def _run(folder: Path, arguments: list[str]) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (0, 3), (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.slow
def test_one_key_has_one_type(printed: dict[str, dict[str, Any]]) -> None:
    for command, record in printed.items():
        for key, kind in KINDS.items():
            assert key not in record or isinstance(record[key], kind), (command, key)
    shared = {key for key in KINDS if sum(key in record for record in printed.values()) > 1}
    assert {"num_scored", "num_rejected", "num_rows", "num_kept", "seconds", "warnings", "notes", "where", "source"} <= shared
    assert "num_rows_that_meet" in shared


def test_one_key_means_one_thing(printed: dict[str, dict[str, Any]]) -> None:
    assert {record["num_scored"] for record in printed.values() if "num_scored" in record} == {199}
    assert {record["num_rejected"] for record in printed.values() if "num_rejected" in record} == {1}
    assert {record["num_rows"] for record in printed.values() if "num_rows" in record} == {199}
    assert {record["num_rows_that_meet"] for record in printed.values() if "num_rows" in record} == {199}
    assert "num_kept" not in printed["score"]  # of select and advise: rows that stay
    assert printed["score"]["num_vanished_kept"] == 0
    assert list(printed["report"]["num_scored_by_column"].values()) == [199]


@pytest.mark.slow
def test_rows_of_the_set_and_rows_that_meet_conditions_are_told_apart(tmp_path: Path) -> None:
    """300 pictures, 10 of them named twice; of the first 100, widths 0 to 99, the first 40 are of kind a."""
    names = [*(f"{row:03d}" for row in range(300)), *(f"{row:03d}" for row in range(10))]
    (tmp_path / "scores.csv").write_text(
        "sample,aesthetic_score\n" + "".join(f"{name},{5 + int(name) / 300}\n" for name in names)
    )
    more = "".join(f"{row:03d},{row},{'a' if row < 40 else 'b'}\n" for row in range(300))
    (tmp_path / "more.csv").write_text(f"sample,width,kind\n{more}")
    join, where = "--join more.csv --json", ("--where", "width < 100", "--where", "kind = 'b'")
    for command in ("advise", "select --top 20", "report --overwrite --no-thumbnails -o page.html"):
        word, *flags = f"{command} {join}".split()
        for conditions, wanted in (((), 300), (where, 60)):
            found = _run(tmp_path, [word, "scores.csv", *flags, *conditions])
            assert (found["num_rows"], found["num_rows_that_meet"]) == (310, wanted), (command, conditions)
            assert "num_rows_of_set" not in found
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        lines = ["report", "scores.csv", "--join", "more.csv", "--overwrite", "--no-thumbnails", "-o", "page.html"]
        assert "60 of 310 rows meet the conditions, scored" in CliRunner().invoke(app, [*lines, *where]).output
        assert "300 rows, scored" in CliRunner().invoke(app, lines).output
        assert "60 scores in 60 rows" in CliRunner().invoke(app, ["advise", "scores.csv", "--join", "more.csv", *where]).output


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What train, evaluate and calibrate print of the same ratings with votes, and the record that train writes."""
    folder = tmp_path_factory.mktemp("rated")
    rng = np.random.default_rng(7)
    rows, weight = rng.normal(size=(90, 6)).astype(np.float32), rng.normal(size=6)
    np.save(folder / "rows.npy", rows)
    np.savez(folder / "head.npz", coef_=weight, intercept_=np.array(5.0))
    scores = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ weight
    lines = [f"rows.npy#{row},{4 + score:.4f},{3 + row % 3},0.2" for row, score in enumerate(scores + rng.normal(0, 0.1, 90))]
    (folder / "r.csv").write_text("\n".join(["image,rating,num_votes,std", *lines]) + "\n")
    found = {name: _run(folder, line.split()) for name, line in (
        ("score", "score rows.npy --head head.npz --backbone unknown -o scores.parquet --space-check off --json"),
        ("train", "train rows.npy --ratings r.csv -o mine.safetensors --compare-with head.npz --json"),
        ("evaluate", "evaluate rows.npy --ratings r.csv --head head.npz -o page.html --json"),
        ("calibrate", "calibrate scores.parquet --ratings r.csv --embeddings rows.npy --json"),
    )}  # fmt: skip
    found["record"] = json.loads((folder / "mine.json").read_text())
    return found


@pytest.mark.slow
def test_train_evaluate_and_calibrate_call_one_thing_by_one_name(rated: dict[str, dict[str, Any]]) -> None:
    three = [rated[name] for name in ("train", "evaluate", "calibrate")]
    assert rated["record"].keys() <= rated["train"].keys()
    (ratings,) = {frozenset(one["ratings"]) for one in three}
    assert ratings == {"file", "public_name", "kind", "layout", "scale", "num_pictures", "num_matched", "ways"}
    assert [one["ratings"]["num_matched"] for one in three] == [90, 90, 90]
    shared = {"unit", "near_duplicates", "split_by", "weigh_by", "num_pictures", "samples_sha256"}
    assert all(shared <= one["measured"].keys() for one in three)
    assert [{key: one["measured"][key] for key in shared} for one in three] == [
        {
            "unit": "pictures", "near_duplicates": 0.95, "split_by": None, "weigh_by": "votes", "num_pictures": 90,
            "samples_sha256": one["measured"]["samples_sha256"],
        }
        for one in three
    ]  # fmt: skip
    assert len({one["measured"]["samples_sha256"] for one in three}) == 1
    assert all(isinstance(one["remarks"], list) and one["seed"] == 0 for one in three)
    of_heads = [rated["train"], *rated["evaluate"]["heads"], rated["calibrate"]]
    of_heads += [one for record in three for one in record["beside"]]
    (measures,) = {frozenset(one["measures"]) for one in of_heads}
    assert measures == {"num_rows", "num_groups", "level", "num_resamples", "cut", "values"}
    assert all(one["difference"] is None or one["difference"].keys() == measures for one in of_heads[3:])
    assert {one["name"] for record in three for one in record["beside"]} == {"constant", "head", "a straight line"}
    assert rated["train"]["ceiling"] == rated["evaluate"]["ceiling"]
    assert {frozenset(one) for head in of_heads for one in head["measures"]["values"].values()} == {
        frozenset({"value", "low", "high"})
    }
    theirs = next(one for one in rated["train"]["beside"] if one["name"] == "head")["measures"]["values"]
    for name, value in rated["evaluate"]["heads"][0]["measures"]["values"].items():
        assert value == pytest.approx(theirs[name], abs=1e-9), name

"""The demo from an empty folder to the picture, recomputed from its files; continued, refused, and run as a command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import scipy.stats

from beholder import load_head
from beholder.demo.demo import run_demo
from beholder.errors import InputError, OutputError
from oracles.program import beholder
from oracles.tiers import mostly_slow

SMALL: dict[str, Any] = {"num_rows": 3000, "dim": 40, "seed": 3}
RESULTS = ("scores.parquet", "head.safetensors", "embeddings/beholder.json", "embeddings/img_emb/img_emb_0.npy")


class Told:
    """Keeps the lines; raises at one of them, as an interruption would."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.lines: list[str] = []
        self.stop_at = stop_at

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if len(self.lines) == self.stop_at:
            raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, Any]:
    """The results' bytes; of the score set the table, as its metadata names the folder."""
    found: dict[str, Any] = {name: (folder / name).read_bytes() for name in RESULTS}
    return {**found, "scores.parquet": pq.read_table(folder / "scores.parquet").replace_schema_metadata(None)}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Told]:
    folder, told = tmp_path_factory.mktemp("demo") / "beholder-demo", Told()
    return folder, run_demo(folder, **SMALL, say=told), told


def test_written_scores_are_the_heads_on_the_written_rows(done: tuple[Path, dict[str, Any], Told]) -> None:
    folder, result, _ = done
    table = pq.read_table(folder / "scores.parquet")
    assert table.column_names == ["sample", "aesthetic_score", "truth", "rating"]
    metadata = pq.read_table(folder / "embeddings" / "metadata" / "metadata_0.parquet")
    assert table.column("sample").to_pylist() == metadata.column("sample").to_pylist()
    rows = np.load(folder / "embeddings" / "img_emb" / "img_emb_0.npy").astype(np.float64)
    tensors = list(safetensors.numpy.load_file(folder / "head.safetensors").values())
    weight = next(t for t in tensors if t.size == 40).reshape(40).astype(np.float64)
    bias = float(next(t for t in tensors if t.size == 1).reshape(()))
    expected = rows @ weight / np.linalg.norm(rows, axis=1) + bias
    np.testing.assert_allclose(table.column("aesthetic_score").to_numpy(), expected, atol=3e-5)
    assert result["score"]["num_read"] == result["score"]["num_scored"] == 3000
    assert result["score"]["num_rejected"] == 0


def test_correlations_are_those_of_the_written_files(done: tuple[Path, dict[str, Any], Told]) -> None:
    folder, result, _ = done
    table = pq.read_table(folder / "scores.parquet")
    scores, truth = table.column("aesthetic_score").to_numpy(), table.column("truth").to_numpy()
    rated = table.column("rating").is_valid().to_numpy()
    assert rated.sum() == 1500
    everywhere, unrated = result["with_hidden_truth"]["all_rows"], result["with_hidden_truth"]["unrated_rows"]
    assert everywhere["srcc"] == pytest.approx(scipy.stats.spearmanr(scores, truth).statistic, abs=1e-9)
    assert unrated["srcc"] == pytest.approx(scipy.stats.spearmanr(scores[~rated], truth[~rated]).statistic, abs=1e-9)
    assert (everywhere["num_rows"], unrated["num_rows"]) == (3000, 1500)
    ratings = table.column("rating").to_numpy()[rated]
    ceiling = scipy.stats.spearmanr(truth[rated], ratings).statistic
    assert result["fit"]["rated_truth_srcc"] == pytest.approx(ceiling, abs=1e-9)
    # The fit learns the hidden direction, and cannot agree with noisy ratings better than the truth does, chance aside.
    assert everywhere["srcc"] > 0.9
    assert 0.5 < result["fit"]["test"]["srcc"] < ceiling + 0.1
    assert result["fit"]["rows"] == {"given": 1500, "train": 1200, "validation": 150, "test": 150, "excluded": {}}


def test_it_says_what_it_is_and_where_everything_lies(done: tuple[Path, dict[str, Any], Told]) -> None:
    folder, result, told = done
    text = "\n".join(told.lines)
    assert text.count("The embeddings are synthetic: no picture is behind them, and their scores mean nothing.") == 2
    for word in ("held-out", "rank correlation with the hidden truth", "rows/s", "beholder score YOUR_PHOTOS", "rm -r"):
        assert word in text, word
    for path in result["paths"].values():
        assert path in text
        assert Path(path).exists()
    assert (folder / "histogram.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert result["num_bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert result["seconds"] >= sum(result["seconds_by_step"].values()) > 0
    assert set(result["seconds_by_step"]) == {
        "make",
        "fit",
        "check",
        "score",
        "compare",
        "draw",
        "photographs",
        "select",
        "report",
        "taste",
    }
    assert result["rows_per_second"] > 0
    assert result["synthetic"] is True
    json.dumps(result, allow_nan=False)


def test_a_head_is_learned_from_marks_that_are_said_to_be_made_up(done: tuple[Path, dict[str, Any], Told]) -> None:
    folder, result, told = done
    text, found = "\n".join(told.lines), result["taste"]
    assert "200 made-up marks (100 keep, 100 drop) by a made-up taste" in text
    assert "marks and taste are made up: nobody looked at anything" in text
    assert (found["num_keep"], found["num_drop"]) == (100, 100)
    ranked = found["srcc_with_taste"]
    assert ranked["learned"] > ranked["before"] + 0.05
    rows = np.load(folder / "embeddings" / "img_emb" / "img_emb_0.npy").astype(np.float64)
    head = load_head(folder / "taste.safetensors")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    table = pq.read_table(folder / "scores.parquet")
    centred = unit - unit.mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    along, truth = unit @ axis, table.column("truth").to_numpy()
    parts = [(part - part.mean()) / part.std() for part in (truth, along)]
    by_either_end = [
        scipy.stats.spearmanr(unit @ head.weight, 0.8 * parts[0] + end * parts[1]).statistic for end in (0.6, -0.6)
    ]
    assert max(by_either_end) == pytest.approx(ranked["learned"], abs=0.02)


def test_the_best_hundredth_is_that_of_the_written_scores(done: tuple[Path, dict[str, Any], Told]) -> None:
    folder, result, _ = done
    every = pq.read_table(folder / "scores.parquet").to_pandas()
    wanted = every.sort_values(["aesthetic_score", "sample"], ascending=[False, True]).head(30)
    found = pq.read_table(folder / "best.parquet").to_pandas()
    assert found["sample"].to_list() == wanted["sample"].to_list()
    assert found["rank"].to_list() == list(range(1, 31))
    assert result["selected"]["path"] == str(folder / "best.parquet")


def test_the_page_shows_the_photographs_and_says_what_they_are(done: tuple[Path, dict[str, Any], Told]) -> None:
    folder, result, _ = done
    page = (folder / "photographs.html").read_text()
    assert "a tower nobody trained, which mean nothing" in page
    assert result["report"]["num_thumbnails"] > 10
    assert "data:image/" in page


@pytest.mark.slow
def test_run_again_it_keeps_what_is_complete(done: tuple[Path, dict[str, Any], Told]) -> None:
    folder, first, _ = done
    before = {name: (folder / name).stat().st_mtime_ns for name in RESULTS if not name.endswith("beholder.json")}
    told = Told()
    again = run_demo(folder, **SMALL, say=told)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    assert "\n".join(told.lines).count("kept from before") == 4
    assert again["photographs"]["score"]["num_new"] == 0
    assert again["rows_per_second"] is None
    assert again["with_hidden_truth"] == first["with_hidden_truth"]
    assert again["fit"] == first["fit"]


@pytest.mark.parametrize("stop_at", mostly_slow(range(1, 11), quick=2, slow=2))
def test_interrupted_anywhere_it_continues_to_the_same_result(
    done: tuple[Path, dict[str, Any], Told], tmp_path: Path, stop_at: int
) -> None:
    folder = tmp_path / "demo"
    with pytest.raises(KeyboardInterrupt):
        run_demo(folder, **SMALL, find=lambda: None, say=Told(stop_at))
    result = run_demo(folder, **SMALL, find=lambda: None, say=Told())
    assert contents(folder) == contents(done[0])
    assert result["with_hidden_truth"] == done[1]["with_hidden_truth"]


def test_a_lost_head_is_fitted_again_and_everything_scored_again(tmp_path: Path) -> None:
    run_demo(tmp_path / "demo", num_rows=400, dim=8, find=lambda: None, say=Told())
    before = contents(tmp_path / "demo")
    (tmp_path / "demo" / "head.safetensors").write_bytes(b"not a head")
    (tmp_path / "demo" / ".beholder-half.tmp").write_bytes(b"left by a killed run")
    result = run_demo(tmp_path / "demo", num_rows=400, dim=8, find=lambda: None, say=Told())
    assert result["score"]["num_new"] == 400
    assert contents(tmp_path / "demo") == before
    assert not (tmp_path / "demo" / ".beholder-half.tmp").exists()


@pytest.mark.parametrize(
    ("changed", "words"), [({"num_rows": 3001}, "num_rows was 3000"), ({"seed": 4}, "seed was 3"), ({"dim": 41}, "dim was 40")]
)
def test_another_demo_is_not_mixed_in(done: tuple[Path, dict[str, Any], Told], changed: dict[str, int], words: str) -> None:
    before = contents(done[0])
    with pytest.raises(OutputError, match=words):
        run_demo(done[0], **{**SMALL, **changed}, say=Told())
    assert contents(done[0]) == before


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("miaow")
    with pytest.raises(OutputError, match="is not empty and holds no demo"):
        run_demo(tmp_path / "photos", **SMALL, say=Told())
    with pytest.raises(OutputError, match="is a file"):
        run_demo(tmp_path / "photos" / "cat.jpg", **SMALL, say=Told())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "demo.json").write_text('{"name": "somebody else\'s demo"}')
    with pytest.raises(OutputError, match="not of a demo"):
        run_demo(tmp_path / "other", **SMALL, say=Told())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["cat.jpg", "demo.json", "other", "photos"]


def test_too_few_rows_and_too_little_disk(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 100 rows"):
        run_demo(tmp_path / "demo", num_rows=99, say=Told())
    with pytest.raises(OutputError, match=r"needs [\d.]+ GB .* are free"):
        run_demo(tmp_path / "demo", num_rows=10**13, say=Told())
    assert list(tmp_path.iterdir()) == []


def run_command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return beholder("demo", *arguments, cwd=folder)


@pytest.mark.soak
def test_the_command_tells_and_fills_the_default_folder(tmp_path: Path) -> None:
    result = run_command("--rows", "100", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "synthetic" in result.stdout
    assert "100 scored, 0 rejected" in result.stdout
    assert (tmp_path / "beholder-demo" / "histogram.png").is_file()
    refused = run_command("--rows", "101", folder=tmp_path)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.splitlines() == [
        "beholder: beholder-demo holds a demo with other options: num_rows was 100, now it is 101; "
        "use the same options to continue, remove it, or choose another folder"
    ]


@pytest.mark.soak
def test_the_command_prints_json_alone(tmp_path: Path) -> None:
    result = run_command("here", "--rows", "200", "--seed", "9", "--json", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["options"]["seed"] == 9
    assert record["paths"]["scores"] == "here/scores.parquet"

"""Heads of one's own are not measured on the pictures that they were trained on without saying so."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import beholder
from beholder import load_head
from beholder.train.evaluate.job import Evaluation, evaluate
from beholder.train.job import TrainRun, train
from beholder.train.options import EvaluateOptions, TrainJobOptions
from beholder.train.trained_on import MOST, Pictures, TrainedOn, trained_on
from oracles.program import beholder as program

NUM, DIM = 200, 12


@pytest.fixture
def values(tmp_path: Path) -> np.ndarray:
    """Embeddings e.npy and what they are rated."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((NUM, DIM)).astype(np.float32)
    np.save(tmp_path / "e.npy", rows)
    return np.round(3 + rows @ rng.standard_normal(DIM) / 4 + rng.standard_normal(NUM), 4)


def rated(tmp_path: Path, values: np.ndarray, at: range, name: str = "r.csv") -> str:
    with (tmp_path / name).open("w", newline="") as file:
        csv.writer(file).writerows([["image", "rating"], *[[f"e.npy#{row}", values[row]] for row in at]])
    return str(tmp_path / name)


def trained(tmp_path: Path, ratings: str, name: str = "mine") -> TrainRun:
    return train(
        TrainJobOptions(
            sources=(str(tmp_path / "e.npy"),), ratings=ratings, out=str(tmp_path / f"{name}.safetensors"), compare_with=()
        )
    )


def measured(tmp_path: Path, ratings: str, *heads: str, source: str = "e.npy") -> Evaluation:
    named = tuple(str(tmp_path / f"{head}.safetensors") for head in heads)
    return evaluate(EvaluateOptions(sources=(str(tmp_path / source),), ratings=ratings, head=named))


def rank_correlation(tmp_path: Path, values: np.ndarray, at: range) -> float:
    """Of the head on some rows."""
    scores = load_head(tmp_path / "mine.safetensors").score(np.load(tmp_path / "e.npy")[list(at)])
    return float(stats.spearmanr(scores, values[list(at)]).statistic)


def test_the_record_has_the_first_bytes_of_the_hashes_of_the_names(tmp_path: Path, values: np.ndarray) -> None:
    trained(tmp_path, rated(tmp_path, values, range(100)))
    kept = json.loads((tmp_path / "mine.json").read_text())["trained_on"]
    names = [f"e.npy#{row}" for row in range(100)]
    wanted = sorted({hashlib.sha256(name.encode()).digest()[:8] for name in names})
    assert base64.b64decode(kept["hashes"]) == b"".join(wanted)
    assert kept["samples_sha256"] == hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest()
    assert (kept["num_pictures"], kept["is_whole"]) == (100, True)


def test_pictures_that_a_head_was_trained_on_are_left_out_for_all(tmp_path: Path, values: np.ndarray) -> None:
    trained(tmp_path, rated(tmp_path, values, range(100)))
    beholder.save_head(beholder.Head.affine(np.arange(DIM), name="other"), tmp_path / "other.safetensors")
    found = measured(tmp_path, rated(tmp_path, values, range(60, NUM), "more.csv"), "mine", "other")
    assert found.samples == [f"e.npy#{row}" for row in range(100, NUM)]
    assert any(
        note.startswith("Of 140 pictures 40 are left out for all heads") and "mine on 40" in note for note in found.notes
    )
    assert found.warnings == []
    (mine,) = [one for one in found.compared.judged if one.name == "mine"]
    assert mine.measures["srcc"].value == pytest.approx(rank_correlation(tmp_path, values, range(100, NUM)), abs=1e-9)
    assert {one["name"]: one["trained_on_share"] for one in found.record["heads"]} == {"mine": 0.0, "other": None}


@pytest.mark.parametrize("most", [100, 119])
def test_where_too_few_others_are_there_a_warning_says_so(tmp_path: Path, values: np.ndarray, most: int) -> None:
    trained(tmp_path, rated(tmp_path, values, range(100)))
    found = measured(tmp_path, rated(tmp_path, values, range(most), "more.csv"), "mine")
    (warning,) = found.warnings
    assert warning.startswith(f"mine was trained on {'all' if most == 100 else 'about 84 %'} of the measured pictures")
    (head,) = found.record["heads"]
    assert head["trained_on_share"] == pytest.approx(100 / most)
    assert head["measures"]["values"]["srcc"]["value"] == pytest.approx(
        rank_correlation(tmp_path, values, range(most)), abs=1e-9
    )
    assert found.record["warnings"] == [warning]


def test_the_warning_is_on_the_page_and_in_the_terminal(tmp_path: Path, values: np.ndarray) -> None:
    ratings = rated(tmp_path, values, range(100))
    trained(tmp_path, ratings)
    page, head = tmp_path / "page.html", str(tmp_path / "mine.safetensors")
    done = program("evaluate", str(tmp_path / "e.npy"), "--ratings", ratings, "--head", head, "-o", str(page))
    assert done.returncode == 0, done.stderr
    assert "WARNING: mine was trained on all of the measured pictures" in done.stdout
    assert "<strong>Warning:</strong> mine was trained on all of the measured pictures" in page.read_text()


def test_a_score_set_knows_the_head_that_made_it(tmp_path: Path, values: np.ndarray) -> None:
    ratings = rated(tmp_path, values, range(100))
    trained(tmp_path, ratings)
    head = tmp_path / "mine.safetensors"
    with pytest.warns(UserWarning, match="no stamp"):
        beholder.score(tmp_path / "e.npy", tmp_path / "s.parquet", head=head)
    assert measured(tmp_path, ratings, source="s.parquet").warnings
    trained(tmp_path, rated(tmp_path, values, range(100, NUM), "others.csv"), "another")
    shutil.copy(tmp_path / "another.json", tmp_path / "mine.json")  # the record of another file says nothing of this one
    assert not measured(tmp_path, ratings, source="s.parquet").warnings


def test_near_duplicates_of_trained_pictures_are_left_out_too(tmp_path: Path, values: np.ndarray) -> None:
    rows = np.load(tmp_path / "e.npy")
    rows[150:] = 2 * rows[50:100]
    np.save(tmp_path / "e.npy", rows)
    trained(tmp_path, rated(tmp_path, values, range(100)))
    found = measured(tmp_path, rated(tmp_path, values, range(50, NUM), "more.csv"), "mine")
    assert found.samples == [f"e.npy#{row}" for row in range(100, 150)]


def test_pairs_with_a_picture_it_was_trained_on(tmp_path: Path, values: np.ndarray) -> None:
    trained(tmp_path, rated(tmp_path, values, range(100)))
    rng = np.random.default_rng(2)
    lines = [rng.choice(range(80, 140), 2, replace=False).tolist() for _ in range(200)]
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        winners = [1 if values[one] > values[other] else -1 for one, other in lines]
        named = [[f"e.npy#{one}", f"e.npy#{other}", won] for (one, other), won in zip(lines, winners, strict=True)]
        csv.writer(file).writerows([["left", "right", "winner"], *named])
    found = measured(tmp_path, str(tmp_path / "pairs.csv"), "mine")
    assert found.record["measured"]["num_rows"] == len({frozenset(pair) for pair in lines if min(pair) >= 100})


def test_of_very_many_names_the_smallest_hashes_estimate_the_share() -> None:
    names = [f"p{row}" for row in range(MOST * 2)]
    found = TrainedOn.of(names)
    assert not found.is_whole
    assert len(found.hashes) == MOST
    assert len(found.to_json()["hashes"]) < 1_100_000
    asked = [*names[:30_000], *(f"q{row}" for row in range(10_000))]
    assert found.share(Pictures.named(asked, asked)) == pytest.approx(0.75, abs=0.01)
    assert found.share(Pictures.named(["q1", "q2"])) == 0


_ENDLESS = '{"trained_on": {"hashes": "", "samples_sha256": "", "is_whole": true, "num_pictures": 1e999}}'


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"trained_on": {"hashes": "%%"}}', '{"trained_on": 3}', "\xff", "[" * 100_000, _ENDLESS]
)
def test_what_is_no_record_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "h.json").write_text(text, encoding="latin-1")
    assert trained_on(str(tmp_path / "h.safetensors")) is None
    assert trained_on(str(tmp_path / "nothing.safetensors")) is None


def rated_in(folder: Path, values: np.ndarray, name: str = "e.npy") -> str:
    """Ratings of all rows of a file of embeddings, by their places."""
    folder.mkdir(exist_ok=True)
    with (folder / "r.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "rating"], *[[f"{name}#{row}", value] for row, value in enumerate(values)]])
    return str(folder / "r.csv")


def test_rows_of_another_file_of_the_same_name_are_other_pictures(tmp_path: Path, values: np.ndarray) -> None:
    trained(tmp_path, rated(tmp_path, values, range(NUM)))
    ratings = rated_in(tmp_path / "other", values)
    np.save(tmp_path / "other" / "e.npy", np.random.default_rng(9).standard_normal((NUM, DIM)).astype(np.float32))
    found = measured(tmp_path, ratings, "mine", source="other/e.npy")
    assert (len(found.samples), found.warnings) == (NUM, [])
    assert found.record["heads"][0]["trained_on_share"] == 0
    assert not any("places in a file" in note for note in found.notes)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_same_rows_are_known_in_another_file_order_length_and_precision(
    tmp_path: Path, values: np.ndarray, dtype: type
) -> None:
    trained(tmp_path, rated(tmp_path, values, range(100)))
    order = np.random.default_rng(3).permutation(NUM)
    ratings = rated_in(tmp_path / "other", values[order], "all.npy")
    np.save(tmp_path / "other" / "all.npy", (7 * np.load(tmp_path / "e.npy")[order]).astype(dtype))
    found = measured(tmp_path, ratings, "mine", source="other/all.npy")
    assert found.samples == [f"all.npy#{row}" for row in np.flatnonzero(order >= 100)]


def test_names_that_are_places_count_where_no_embeddings_tell_and_a_line_says_so(tmp_path: Path, values: np.ndarray) -> None:
    trained(tmp_path, rated(tmp_path, values, range(100)))
    ratings = rated(tmp_path, values, range(60, NUM), "more.csv")
    with pytest.warns(UserWarning, match="no stamp"):
        beholder.score(tmp_path / "e.npy", tmp_path / "s.parquet", head=tmp_path / "mine.safetensors")
    found = measured(tmp_path, ratings, source="s.parquet")
    assert len(found.samples) == NUM - 100
    (line,) = [note for note in found.notes if "places in a file" in note]
    assert line.startswith("40 of 140 pictures count as those that mine was trained on by their names alone")
    assert line.endswith("to tell by their embeddings, name embeddings of them as a source as well.")
    named = evaluate(EvaluateOptions(sources=(str(tmp_path / "s.parquet"), str(tmp_path / "e.npy")), ratings=ratings))
    assert len(named.samples) == NUM - 100
    assert not any("places in a file" in note for note in named.notes)


def test_a_record_of_an_earlier_version_counts_by_its_names(tmp_path: Path, values: np.ndarray) -> None:
    trained(tmp_path, rated(tmp_path, values, range(100)))
    record = json.loads((tmp_path / "mine.json").read_text())
    for key in ("sketches", "dim", "backbone"):
        del record["trained_on"][key]
    (tmp_path / "mine.json").write_text(json.dumps(record))
    found = measured(tmp_path, rated(tmp_path, values, range(60, NUM), "more.csv"), "mine")
    assert found.samples == [f"e.npy#{row}" for row in range(100, NUM)]
    assert any("train mine again, since its record is of an earlier version" in note for note in found.notes)


def test_a_head_with_a_name_of_its_own_is_known_from_any_folder(
    tmp_path: Path, values: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(tmp_path, rated(tmp_path, values, range(100)))
    monkeypatch.chdir(tmp_path)
    added = program("models", "add", "mine.safetensors", "--name", "taste")
    assert added.returncode == 0, added.stderr
    with pytest.warns(UserWarning, match="no stamp"):
        beholder.score("e.npy", "s.parquet", head="taste")
    with pytest.warns(UserWarning, match="no stamp"):
        beholder.score("e.npy", "by_file.parquet", head="mine.safetensors")
    ratings = rated(tmp_path, values, range(60, NUM), "more.csv")
    (tmp_path / "mine.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    asked = EvaluateOptions(sources=(str(tmp_path / "e.npy"),), ratings=ratings, head=("taste",))
    assert len(evaluate(asked).samples) == NUM - 100
    assert len(measured(tmp_path, ratings, source="s.parquet").samples) == NUM - 100
    lost = measured(tmp_path, ratings, source="by_file.parquet")
    assert any("its file mine.safetensors is not there, or is another by now" in note for note in lost.notes)
    both = EvaluateOptions(
        sources=(str(tmp_path / "by_file.parquet"), str(tmp_path / "e.npy")), ratings=ratings, head=("taste",)
    )
    assert len(evaluate(both).samples) == NUM - 100

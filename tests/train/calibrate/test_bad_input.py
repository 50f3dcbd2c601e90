"""The table "Scales" of docs/bad-input.md against what is seen here: every row, its line word for word, its exit status."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from beholder.train.trained_on import KEY, TrainedOn
from oracles.program import beholder
from oracles.scale_sets import V1, head_record, two_heads, write_scores

PAGE = Path(__file__).resolve().parents[3] / "docs" / "bad-input.md"
ONTO = ["calibrate", "v2.parquet", "--onto"]
SITUATIONS: dict[str, list[str]] = {
    "no scale": ["calibrate", "v2.parquet"],
    "two scales": [*ONTO, "v1.parquet", "--percentiles"],
    "scores onto themselves": [*ONTO, "v2.parquet"],
    "a head that nobody names": ["calibrate", "nobody.csv", "--percentiles"],
    "a head nobody knows": ["calibrate", "nobody.csv", "--percentiles", "--head", "laion-v11"],
    "another head than the set says": ["calibrate", "v2.parquet", "--percentiles", "--head", "laion-v1"],
    "too few common pictures": [*ONTO, "few.parquet", "--map", "isotonic"],
    "too few scores": [*ONTO, "few.parquet"],
    "scores that are all the same": [*ONTO, "constant.parquet"],
    "scores that fall where the others rise": [*ONTO, "falling.parquet"],
    "pairs as ratings": ["calibrate", "v2.parquet", "--ratings", "pairs.csv"],
    "a chance that is none": [*ONTO, "v1.parquet", "--interval", "1.5", "-o", "out.parquet"],
    "bounds without a table": [*ONTO, "v1.parquet", "--interval", "0.9"],
    "bounds of too few pictures": [*ONTO, "v1.parquet", "--interval", "0.99", "-o", "out.parquet"],
    "bounds of too few groups": [
        *["calibrate", "v2.parquet", "--ratings", "ratings.csv"],
        *["--split-by", "who", "--interval", "0.9", "-o", "out.csv"],
    ],
    "bounds from pictures that the head was trained on": [
        *["calibrate", "trained.parquet", "--ratings", "ratings.csv", "--interval", "0.9", "-o", "out.parquet"],
    ],
    "a column of groups that is nowhere": ["calibrate", "v2.parquet", "--ratings", "ratings.csv", "--split-by", "nobody"],
    "a table that is read": [*ONTO, "v1.parquet", "-o", "./v2.parquet", "--overwrite"],
    "a table of somebody else": [*ONTO, "v1.parquet", "-o", "constant.parquet", "--overwrite"],
    "a map that is there": [*ONTO, "v1.parquet"],
    "a map of other weights": ["select", "other.parquet", "--min-score", "5", "--scale-of", "laion-v1"],
    "no map": ["select", "v2.parquet", "--min-score", "3", "--scale-of", "ratings"],
    "a map of the other direction": ["select", "v1.parquet", "--min-score", "5", "--scale-of", "laion-v2"],
    "a threshold that the map does not reach": ["select", "v2.parquet", "--min-score", "12", "--scale-of", "laion-v1"],
    "a scale of no head": ["select", "v2.parquet", "--min-score", "5", "--scale-of", "laion-v11"],
    "a scale without a threshold": ["select", "v2.parquet", "--top", "5", "--scale-of", "laion-v1"],
    "a damaged map": ["select", "damaged.parquet", "--min-score", "5", "--scale-of", "laion-v1"],
}
NEED_A_MAP = ("a map that is there", "a map of the other direction", "a threshold that the map does not reach")


def documented() -> dict[str, tuple[str, str]]:
    """Situation -> (line, exit status)."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Scales\n", 1)[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert all(todo for _, _, todo, _ in rows)
    return {situation: (line.strip("`"), status) for situation, line, _, status in rows[2:]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with scores of all kinds."""
    monkeypatch.chdir(tmp_path)
    _, _, v2, v1 = two_heads(tmp_path, num_rows=60)
    for name, scores in (("few", v1[:10]), ("constant", np.full(60, 4.0)), ("falling", -v2)):
        write_scores(tmp_path / f"{name}.parquet", {"aesthetic_score": scores}, [head_record(V1)])
    for name, sha256 in (("mine", "a" * 64), ("other", "b" * 64)):
        write_scores(tmp_path / f"{name}.parquet", {"aesthetic_score": v2}, [head_record("mine", sha256)])
    write_scores(tmp_path / "damaged.parquet", {"aesthetic_score": v2}, [head_record("torn", "c" * 64)])
    trained = head_record("trained", "d" * 64) | {"source": str(tmp_path / "trained.safetensors")}
    write_scores(tmp_path / "trained.parquet", {"aesthetic_score": v2}, [trained])
    known = TrainedOn.of([f"photos/{row:05d}.jpg" for row in range(60)])
    (tmp_path / "trained.json").write_text(json.dumps({"sha256": "d" * 64, KEY: known.to_json()}))
    (tmp_path / "nobody.csv").write_text("sample,score\n" + "".join(f"{row},{value}\n" for row, value in enumerate(v2)))
    rated = "".join(f"photos/{row:05d}.jpg,{value},p{row % 6}\n" for row, value in enumerate(v2))
    (tmp_path / "ratings.csv").write_text("image,rating,who\n" + rated)
    (tmp_path / "pairs.csv").write_text("better,worse\nphotos/00001.jpg,photos/00002.jpg\nphotos/00003.jpg,photos/00002.jpg\n")
    return tmp_path


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_bad_input_says_is_documented(situation: str, here: Path) -> None:
    if situation in NEED_A_MAP:
        assert beholder("calibrate", "v2.parquet", "--onto", "v1.parquet", "-q").returncode == 0
    if situation == "a map of other weights":
        assert beholder("calibrate", "mine.parquet", "--onto", "v1.parquet", "-q").returncode == 0
    if situation == "a damaged map":
        done = beholder("calibrate", "damaged.parquet", "--onto", "v1.parquet", "--json")
        (path,) = re.findall(r'"map_file": "(.*)"', done.stdout)
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[: len(whole) // 2])
    done = beholder(*SITUATIONS[situation])
    line, status = documented()[situation]
    assert str(done.returncode) == status
    told = re.escape(line).replace(r"\.\.\.", ".*")
    assert re.fullmatch(told, done.stderr.strip()), done.stderr
    assert not (here / "out.parquet").exists()
    assert documented().keys() == SITUATIONS.keys()

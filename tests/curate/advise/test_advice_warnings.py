"""What advice warns about: thresholds of other heads, strict cuts, scores, pixels and towers that look off, few rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.curate.advise.advice import advise
from beholder.errors import InputError
from oracles.advice_tables import V1, V2, normal, table_of


def warning(advice: Any, text: str) -> str:
    found = [line for line in advice.warnings if text in line]
    assert len(found) == 1, advice.warnings
    return found[0]


def test_thresholds_of_one_head_on_scores_of_another() -> None:
    v1 = table_of(normal(mean=5, deviation=1.3), V1)
    line = warning(advise(v1, at="sd-v1", with_price=False), "Stable Diffusion v1-2 to v1-5")
    assert V2 in line
    assert V1 in line
    assert "25 % of LAION-2B-en, which here lies between 5 and 6" in line  # v1 keeps 43 % at 5 and 15 % at 6
    warning(advise(v1, at=4.5, with_price=False), "whose scale is another")
    warning(advise(v1, at=5, with_price=False), "whose scale is another")  # three cut v2 scores at 5, one v1 scores
    assert not [line for line in advise(v1, at=7, with_price=False).warnings if "another" in line]
    v2 = table_of(normal(), V2)
    assert not [line for line in advise(v2, at=5, with_price=False).warnings if "another" in line]
    line = warning(advise(v2, at="laion-art", with_price=False), "laion-art")
    assert "0.16 % of LAION-2B-en, which here lies between 6 and 6.25" in line
    warning(advise(v2, at="trellis", with_price=False), "a head that its makers do not name")
    warning(advise(v2, at="v2-5-great", with_price=False), "aesthetic-predictor-v2-5")


def test_unknown_heads() -> None:
    warning(advise(table_of(normal()), with_price=False), "nobody says which head")
    line = warning(advise(table_of(normal(), "my-head"), at=5, with_price=False), "whose scale is another")
    assert "my-head" in line
    warning(advise(table_of(normal(), "my-head"), with_price=False), "nothing is published for the head my-head")
    told = advise(table_of(normal()), head="laion-v2", with_price=False)
    assert told.head == V2
    assert not [line for line in told.warnings if "head" in line]
    with pytest.raises(InputError, match="leave --head out"):
        advise(table_of(normal(), V1), head="laion-v2")
    assert advise(table_of(normal(), V2), head="improved-aesthetic-predictor", with_price=False).head == V2


def test_scores_that_look_off() -> None:
    line = warning(advise(table_of(normal(mean=24, deviation=3), V2), with_price=False), "not normalised")
    assert "23.9" in line
    warning(advise(table_of(normal() / 10, V2), with_price=False), "divided by 10")
    warning(advise(table_of(normal(mean=9, deviation=1.5), V1), with_price=False), "outside 0 to 10")
    warning(advise(table_of([5.0] * 3000, V2), with_price=False), "all scores are 5")
    assert advise(table_of(normal(), V2), with_price=False).warnings == ()


def test_rows_and_thresholds_that_say_little() -> None:
    warning(advise(table_of(normal(50), V2), with_price=False), "50 scores are few")
    warning(advise(table_of([5.0], V2), with_price=False), "1 score is few")
    warning(advise(table_of([*normal(), None, None], V2), with_price=False), "2 of 2,002 rows have no score")
    warning(advise(table_of(normal(), V2), at=9.5, with_price=False), "nothing reaches 9.5")
    warning(advise(table_of(normal(), V2), at=1, with_price=False), "1 keeps everything")
    warning(advise(table_of([], V2), with_price=False), "there are no rows")
    warning(advise(table_of([None, None], V2), with_price=False), "none of the 2 rows has a score")


def record_of(**more: Any) -> dict[str, Any]:
    head = {"name": V2, "backbone": "openai/clip-vit-large-patch14"}
    return {"score_columns": ["aesthetic_score"], "heads": [head], **more}


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (record_of(pixels={"preset": "squash"}), "squashed to squares"),
        (record_of(backbone="openai/clip-vit-large-patch14-336"), "these scores mean nothing"),
        (record_of(backbone="openai/clip-vit-large-patch14", activation="gelu"), "trained with quick_gelu"),
    ],
)
def test_other_pixels_and_towers(tmp_path: Path, record: dict[str, Any], text: str) -> None:
    pq.write_table(table_of(normal()), tmp_path / "s.parquet")
    (tmp_path / "s.parquet.beholder.json").write_text(json.dumps(record), encoding="utf-8")
    warning(advise(tmp_path / "s.parquet", with_price=False), text)


def test_scores_that_others_published() -> None:
    scores = pa.array(normal())
    table = pa.table({"url": [f"https://x/{i}" for i in range(2000)], "AESTHETIC_SCORE": scores})
    advice = advise(table, with_price=False)
    assert advice.head == V2
    warning(advice, "from other pixels")


def test_the_usual_pixels_bring_no_warning(tmp_path: Path) -> None:
    pq.write_table(table_of(normal()), tmp_path / "s.parquet")
    record = record_of(pixels={"preset": "reference"}, backbone="openai/clip-vit-large-patch14", activation="quick_gelu")
    (tmp_path / "s.parquet.beholder.json").write_text(json.dumps(record), encoding="utf-8")
    assert advise(tmp_path / "s.parquet", with_price=False).warnings == ()


def test_a_landmark_that_dropped_what_lies_on_it() -> None:
    above = float(np.nextafter(np.float32(5), np.float32(6)))
    table = table_of([*normal(), 5.0, 5.0, above], V2)
    advice = advise(table, at="sd-v1", with_price=False)
    line = warning(advice, "kept scores above 5 only")
    assert line.startswith("Stable Diffusion v1-2 to v1-5 ")
    assert "by --min-score 5, the 2 rows that have exactly 5 stay as well" in line
    kept = {row.threshold: row.num_kept for row in advice.grid}[5.0]
    assert kept - next(row.num_kept for row in advice.landmarks if row.landmark.key == "sd-v1") == 2
    warning(advise(table_of([*normal(), 5.0], V2), at="sd-v1", with_price=False), "the row that has exactly 5")
    for other, at in ((table_of([*normal(), above], V2), "sd-v1"), (table, "laion-5plus"), (table, 5)):
        assert not [line for line in advise(other, at=at, with_price=False).warnings if "only" in line]

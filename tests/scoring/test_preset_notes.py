"""Before a run it is said for how many pictures the preset matters; not where the chosen one settles it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from beholder.scoring.score import plan as plan_embed
from beholder.scoring.score import plan as plan_score
from oracles.made_pictures import encoded, noise, smooth
from oracles.picture_jobs import embed_options, score_options
from oracles.picture_sources import put


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """Three pictures of a phone that are turned, one with a palette, two plain ones."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(3):
        put(tmp_path / "phone" / f"turned{number}.jpg", encoded(smooth(60, 40), "JPEG", exif=exif))
        put(tmp_path / "plain" / f"{number}.jpg", encoded(smooth(60, 40), "JPEG"))
    put(tmp_path / "phone" / "palette.png", encoded(noise("P", 40, 40, 1), "PNG"))
    for number in range(2):
        put(tmp_path / "phone" / f"plain{number}.jpg", encoded(smooth(60, 40), "JPEG"))
    return tmp_path / "phone"


def said(notes: list[str]) -> list[str]:
    return [note for note in notes if "looked at" in note]


@pytest.mark.parametrize(
    ("preset", "line"),
    [
        (
            "reference",
            "of 6 pictures looked at, 3 are turned by EXIF, 1 has a palette: --preset upright scores them as people see them; "
            "reference, the default, scores them as stored",
        ),
        (
            "rgb",
            "of 6 pictures looked at, 3 are turned by EXIF: --preset upright scores them as people see them; "
            "rgb scores them as stored",
        ),
        ("upright", None),
    ],
)
def test_what_is_said(phone: Path, small_tower: Path, plain_head: Path, preset: Any, line: str | None) -> None:
    options = score_options(str(phone), phone.parent / "s.parquet", small_tower, plain_head, preset=preset)
    assert said(plan_score(options).summary.notes) == ([] if line is None else [line])
    assert plan_score(options).summary.preset == preset


def test_embed_says_it_too_and_plain_pictures_nothing(phone: Path, small_tower: Path) -> None:
    (line,) = said(plan_embed(embed_options(str(phone), phone.parent / "e", small_tower)).summary.notes)
    assert "--preset upright embeds them as people see them; reference, the default, embeds them as stored" in line
    assert said(plan_embed(embed_options(str(phone.parent / "plain"), phone.parent / "e", small_tower)).summary.notes) == []

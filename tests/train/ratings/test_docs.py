"""The examples of docs/train.md are understood as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from beholder.train.ratings.read import read_ratings

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "train.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```\w+ (\S+)\n(.*?)^```\n\n> ([^\n]+)$", PAGE, flags=re.M | re.S)


def test_all_examples_are_found() -> None:
    assert len(EXAMPLES) == len(re.findall(r"^> ", PAGE, flags=re.M)) == 12


@pytest.mark.parametrize(("name", "text", "layout"), EXAMPLES, ids=[name for name, _, _ in EXAMPLES])
def test_example(name: str, text: str, layout: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    found = read_ratings(path)
    assert found.layout == layout
    assert found.num_samples >= 2

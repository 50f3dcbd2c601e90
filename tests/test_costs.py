"""The costs in docs/scale.md: each line recomputed, each rate found in the result file that the page names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = (DOCS / "scale.md").read_text(encoding="utf-8").partition("## What very large jobs cost")[2].partition("\n## ")[0]
LINES = re.findall(r"^\| ([^|]+) \| `([^`]+)` \| ([\d.,]+) ", PAGE, re.M) + [
    ("in the text", *found) for found in re.findall(r"`([^`]+)` = ([\d.,]+) ", PAGE)
]


def test_there_are_lines() -> None:
    assert len(LINES) == 24


@pytest.mark.parametrize(("title", "expression", "told"), LINES, ids=lambda text: text)
def test_the_arithmetic_comes_to_what_is_told(title: str, expression: str, told: str) -> None:
    assert re.fullmatch(r"[\d.e+*/() -]+", expression), title
    digits = len(told.partition(".")[2])
    assert f"{eval(expression):,.{digits}f}" == told  # numbers and operators alone


def test_rates_are_those_of_the_result_files() -> None:
    rows = re.findall(r"^\| (.+?) \| ([\d.,]+ ?[MG]?B?) ?(?:rows/s|pictures/s)? \| .+ \| (.+) \|$", PAGE, re.M)
    where = ""
    checked = 0
    for title, rate, link in rows:
        found = re.search(r"\]\((\.\./benchmarks/results/[^)]+)\)", link)
        where = found[1] if found else where if link == "the same" else ""
        if where:
            assert rate.strip() in (DOCS / where).read_text(encoding="utf-8"), title
            checked += 1
    assert checked == 7

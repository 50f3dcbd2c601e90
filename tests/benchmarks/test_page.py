"""benchmarks/page.py: which numbers of a result are plotted; and the README's figures, which stand in the results they name."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import page  # noqa: E402

TEXT = """# A result

| what | other |
|---|---|
| x | 1 |

| selection | side | seconds | |
|---|---|---|---|
| best 1 % | **ours** | 1,234.5 | 3 x |
|  | theirs | 2 s | |
| `a | b` | - | |

| side | seconds |
|---|---|
| later | 9 |
"""


def test_numbers_of_the_first_table_with_the_column() -> None:
    text = TEXT.replace("| `a | b` | - | |\n", "|  | none | - | |\n")
    assert page.rows_of(text, "seconds") == [("best 1 %: ours", 1234.5), ("best 1 %: theirs", 2.0)]
    assert page.rows_of(text, "other") == [("x", 1.0)]
    assert page.rows_of(text, "no such") == []


def test_thousands_and_millions() -> None:
    assert page.rows_of("| what | rows/s |\n|---|---|\n| a | 15.23 M |\n| b | 63 k |\n", "rows/s") == [
        ("a", 15.23e6),
        ("b", 63e3),
    ]


def test_every_result_is_on_the_page() -> None:
    text = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for path in (REPOSITORY / "benchmarks" / "results").glob("*.md"):
        assert f"(../benchmarks/results/{path.name})" in text


def numbers(text: str) -> list[tuple[float, float]]:
    """Numbers of a text, with M and k written out, and half of what their last digit is worth."""
    found = []
    for whole, decimals, unit in re.findall(r"(?<![\w./-])(\d[\d,]*)(?:\.(\d+))?(?: (M|k)\b)?", text):
        worth = {"M": 1e6, "k": 1e3}.get(unit, 1.0)
        number = float(f"{whole.replace(',', '')}.{decimals or 0}") * worth
        found.append((number, 0.5 * worth * 10.0 ** -len(decimals)))
    return found


def rows() -> list[tuple[str, str]]:
    """Of the README's table: the result that a row names, or the row before it, and what stands beside it."""
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("## How fast")[1].split("\n## ")[0].splitlines()
    found, last = [], ""
    for line in lines:
        cells = line.strip("|").split("|")
        if line.startswith("|") and len(cells) == 3 and numbers(cells[1]):
            named = re.search(r"\((benchmarks/results/[^)]+)\)", cells[0])
            last = named[1] if named else last
            found.append((last, cells[1] + " ; " + cells[2]))
    return found


@pytest.mark.parametrize(("result", "figures"), rows())
def test_figures_of_the_readme_stand_in_the_result_that_it_names(result: str, figures: str) -> None:
    """Rounded as the README rounds them."""
    there = [number for number, _ in numbers((REPOSITORY / result).read_text(encoding="utf-8"))]
    for figure, nearness in numbers(figures):
        assert any(abs(one - figure) <= nearness * (1 + 1e-9) for one in there), (figure, result)

"""The page of `beholder evaluate`: self-contained, with the figures that were found, for every kind of ratings."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.errors import InputError, OutputError
from beholder.reporting.evaluation import MARK, EvaluationRun, write_evaluation
from beholder.train.options import EvaluateOptions
from oracles.html_page import Page
from oracles.report_page import check, table_rows
from oracles.score_records import HOSTILE


def write_csv(path: Path, header: list[str], lines: Any) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
    return path


def made(tmp_path: Path, kind: str, num: int = 120, num_heads: int = 2, **more: Any) -> tuple[Page, EvaluationRun]:
    """The page about some heads and ratings of a kind."""
    rng = np.random.default_rng(num)
    truth = rng.standard_normal(num)
    names = [f"{HOSTILE[row % 5]}/{row}.jpg".replace("\n", " ") for row in range(num)]
    columns = [truth + (0.3 + at) * rng.standard_normal(num) for at in range(num_heads)]
    header = ["sample", *(f"<b>head {at}" for at in range(num_heads))]
    scores = write_csv(tmp_path / "s.csv", header, zip(names, *columns, strict=True))
    if kind == "pairs":
        order = [rng.choice(num, 2, replace=False) for _ in range(3 * num)]
        pairs = [(one, other) if truth[one] > truth[other] else (other, one) for one, other in order]
        ratings = write_csv(tmp_path / "r.csv", ["better", "worse"], [[names[one], names[other]] for one, other in pairs])
    elif kind == "marks":
        lines = [[name, "keep" if value > 0 else "drop"] for name, value in zip(names, truth, strict=True)]
        ratings = write_csv(tmp_path / "r.csv", ["image", "mark"], lines)
    else:
        lines = [[name, 3 + value, 5, 0.4, f"g{row % 3}"] for row, (name, value) in enumerate(zip(names, truth, strict=True))]
        ratings = write_csv(tmp_path / "r.csv", ["image", "rating", "votes", "std", "group"], lines)
    options = EvaluateOptions(
        sources=(str(scores),), ratings=str(ratings), score_column=tuple(header[1:]), out=str(tmp_path / "page.html"), **more
    )
    run = write_evaluation(options, arguments=["evaluate", str(scores)])
    data = Path(run.output).read_bytes()
    assert run.num_bytes == len(data) < 3_000_000
    assert MARK.encode() in data
    page = Page(data.decode())
    check(page)
    return page, run


def ids(page: Page) -> set[str]:
    return {element.attributes["id"] or "" for element in page.elements if "id" in element.attributes}


def test_ratings(tmp_path: Path) -> None:
    page, run = made(tmp_path, "means", by=("group",))
    rows = table_rows(page, "Heads by rank correlation (Spearman), with 95 % intervals")
    assert rows[0][:5] == ["head", "the best's lead", "SRCC", "PLCC", "tau-b"]
    assert [row[0] for row in rows[1:]] == ["<b>head 0", "<b>head 1", "one guess", "ceiling"]
    found = run.found.compared.judged[0].measures["srcc"]
    assert rows[1][2] == f"{found.value:.3f} {found.low:.3f} to {found.high:.3f}"
    assert [row[1] for row in rows[1:]] == ["best", "real", "", ""]
    groups = table_rows(page, "By group: rank correlation (Spearman)")
    assert [row[:2] for row in groups[1:]] == [["g0", "40"], ["g1", "40"], ["g2", "40"]]
    assert {"calibration-0", "scatter-0", "residuals-0", "calibration-1", "scatter-1", "residuals-1"} <= ids(page)
    (scatter,) = [item for item in page.elements if item.attributes.get("id") == "scatter-0"]
    assert len(scatter.all("circle", class_="dot")) == 120
    assert len(page.json("calibration-0-reads")) == len(run.found.compared.judged[0].bins)
    assert "real" in page.root.one("p", class_="more").text


def test_marks_and_pairs(tmp_path: Path) -> None:
    page, _ = made(tmp_path, "marks")
    assert {"calibration-0", "marks-0"} <= ids(page)
    assert "scatter-0" not in ids(page)
    assert table_rows(page, "Heads by pairs in the right order")[1][0] == "<b>head 0"
    (tmp_path / "page.html").unlink()
    page, run = made(tmp_path, "pairs")
    assert "calibration-0" in ids(page)
    assert "suspicious" not in ids(page)
    rows = table_rows(page, "Heads by pairs in the right order")
    assert rows[0] == ["head", "the best's lead", "pairs"]
    assert rows[3] == ["one guess", "", "0.500 0.500 to 0.500"]
    assert run.found.compared.unit == "pairs"


def test_many_pictures_are_squares_and_many_heads_are_tabs(tmp_path: Path) -> None:
    page, run = made(tmp_path, "means", num=1500, num_heads=7)
    (scatter,) = [item for item in page.elements if item.attributes.get("id") == "scatter-0"]
    assert scatter.all("circle", class_="dot") == []
    cells = scatter.one("g", class_="cells").all("rect")
    assert 50 < len(cells) < 52 * 24
    assert max(float(cell.attributes["fill-opacity"] or 0) for cell in cells) == 1.0
    assert len(page.root.all("button", role="tab")) == 7
    assert len(run.found.compared.differences) == 21
    assert any("6 more" in item.text for item in page.root.all("summary"))


def test_one_head_and_few_pictures(tmp_path: Path) -> None:
    page, _ = made(tmp_path, "means", num=6, num_heads=1)
    assert "differences" not in ids(page)
    assert page.root.all("button", role="tab") == []
    assert "too few for them to be relied on" in page.root.text


def test_the_same_data_give_the_same_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made(tmp_path, "means")
    first = (tmp_path / "page.html").read_bytes()
    made(tmp_path, "means", overwrite=True)
    assert (tmp_path / "page.html").read_bytes() == first


def test_the_page_is_an_html_file(tmp_path: Path) -> None:
    options = EvaluateOptions(sources=("s.csv",), ratings="r.csv", out=str(tmp_path / "page.pdf"))
    with pytest.raises(OutputError, match=r"page\.pdf: the page is an HTML file; give it a name that ends in \.html"):
        write_evaluation(options)


@pytest.mark.parametrize("moment", ["soon", "1e9", "9" * 30, "nan"])
def test_a_moment_that_is_none(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", moment)
    with pytest.raises(InputError, match=f"SOURCE_DATE_EPOCH is '{moment}'; give seconds since 1970, or unset it"):
        made(tmp_path, "means")
    assert not (tmp_path / "page.html").exists()

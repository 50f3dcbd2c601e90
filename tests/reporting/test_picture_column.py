"""Pictures that a column beside the rows' names says the places of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.errors import InputError
from beholder.reporting.report import report
from oracles.html_page import Page
from oracles.report_page import MakeSet, check
from oracles.tar_making import png
from oracles.web import serving


def urls_of(server: str) -> list[str | None]:
    return [f"{server}/0.png", f"{server}/gone.png", None, f"{server}/0.png?size=2"]


def made(make_set: MakeSet, server: str) -> Path:
    columns: dict[str, Any] = {"url": urls_of(server), "Caption": ["a red door", "<b>gone</b>", "no place", ""]}
    return make_set({"aesthetic_score": np.array([4.0, 5, 6, 7])}, ["k0", "k1", "k2", "k3"], columns=columns)


@pytest.mark.parametrize("options", [{}, {"picture_column": "url"}])
def test_pictures_of_a_column_of_urls(make_set: MakeSet, tmp_path: Path, options: dict[str, str]) -> None:
    with serving({"0.png": png()}) as server:
        summary = report(made(make_set, server.url), tmp_path / "page.html", per_bucket=1, **options)
    assert (summary.num_pictures, summary.num_thumbnails, summary.picture_column) == (3, 2, "url")
    assert summary.notes[0].startswith("pictures are shown from column 'url'")
    page = Page((tmp_path / "page.html").read_text())
    check(page)
    names = {key: picture["name"] for key, picture in page.json("pictures").items()}
    shots = {names[shot.attributes["data-picture"] or ""]: shot for shot in page.root.all("button", class_="shot")}
    assert [bool(shots[name].all("img")) for name in ("k0", "k1", "k2", "k3")] == [True, False, False, True]
    assert "<b>gone</b>" in shots["k1"].text
    assert "missing" in shots["k1"].text
    assert "no place" in shots["k2"].text
    assert "column 'url' is empty for this row" in shots["k2"].text
    assert "a red door" not in shots["k0"].text


def test_names_and_captions_where_no_picture_can_be_had(make_set: MakeSet, tmp_path: Path) -> None:
    summary = report(made(make_set, "http://127.0.0.1:1"), tmp_path / "page.html", offline=True)
    assert summary.num_thumbnails == 0
    text = Page((tmp_path / "page.html").read_text()).root.text
    assert "k0" in text
    assert "a red door" in text


def test_a_column_that_cannot_be_meant(make_set: MakeSet, tmp_path: Path) -> None:
    path = made(make_set, "http://127.0.0.1:1")
    for column, message in (("nope", "has no such column"), ("aesthetic_score", "not paths or URLs")):
        with pytest.raises(InputError, match=message):
            report(path, tmp_path / "page.html", picture_column=column)
    with pytest.raises(InputError, match="--picture-column"):
        report(path, tmp_path / "page.html", picture_column="url", no_thumbnails=True)

"""Pictures that crash, hang, eat memory or end their decoder, in a report: each costs its own tile, and no process is left."""

from __future__ import annotations

import base64
import os
from functools import partial
from pathlib import Path

import pytest

from beholder.errors import BeholderError
from beholder.pixels.thumbnail import make_thumbnail
from beholder.reporting import pictures
from beholder.reporting.options import ReportOptions
from beholder.reporting.report import ReportSummary, write_report
from beholder.workers.pool import ThumbnailPool
from oracles import odd_thumbnails
from oracles.hostile_set import HOSTILE, order_of, picture, write_hostile_set
from oracles.html_page import Page
from oracles.processes import children_of, wait_until_gone
from oracles.report_page import check


def written(folder: Path, scores: Path, timeout_s: float = 3.0) -> ReportSummary:
    options = ReportOptions(scores=str(scores), out=str(folder / "report.html"), timeout=timeout_s, overwrite=True)
    odd = partial(ThumbnailPool, decoder=odd_thumbnails.NAME, memory_bytes=128 << 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "ThumbnailPool", odd)
        return write_report(options)


def titles(page: Page, what: str) -> set[str]:
    """Names of the pictures whose tile holds an image (`img`), or words in place of it (`span.blank`)."""
    tiles = [element for element in page.elements if element.attributes.get("class") == "shot"]
    inside = {tile.all("bdi")[0].text: tile.all("img") if what == "img" else tile.all("span", class_="blank") for tile in tiles}
    return {name for name, found in inside.items() if found}


def test_each_costs_its_own_tile(tmp_path: Path) -> None:
    scores = write_hostile_set(tmp_path)
    before = set(children_of(os.getpid()))
    summary = written(tmp_path, scores)
    wait_until_gone(sorted(set(children_of(os.getpid())) - before), 10)
    assert (summary.num_pictures, summary.num_thumbnails) == (10, 5)
    assert summary.missing == {"crashed": 2, "timed_out": 2, "too_large": 1}
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    check(page)
    assert titles(page, "img") == {f"{number}.png" for number in range(0, 10, 2)}
    assert titles(page, "blank") == {f"{number}{order_of(number)}.png" for number in range(1, 10, 2)}
    for number in range(0, 10, 2):
        thumbnail = make_thumbnail(picture(number), longest_px=summary.thumbnail_px, quality=summary.thumbnail_quality)
        assert base64.b64encode(thumbnail.data).decode() in text
    assert all(reason.replace("_", " ") in text for reason in HOSTILE.values())


def test_workers_that_cannot_start_end_it_with_one_line_and_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODD_THUMBNAILS_FAIL_TO_START", "1")
    scores = write_hostile_set(tmp_path)
    with pytest.raises(BeholderError, match="told not to start") as caught:
        written(tmp_path, scores)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()

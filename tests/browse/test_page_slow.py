"""The page in headless Chromium while pictures are slow: counts, rows, marks and what is quick are not held up by them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.browse.options import BrowseOptions
from oracles.browse_page import Open, events, kept, until, wait_for_threshold
from oracles.browse_sets import running, write_set
from oracles.made_pictures import encoded, smooth
from oracles.web import Answer, Server
from oracles.web import running as answering

NUM_ROWS = 400
WAIT_S = 60


class SlowServer(Server):
    """Gives one picture under every name; those with "slow" in it not before `gate` is opened."""

    def __init__(self) -> None:
        super().__init__(_Slow)
        self.gate = threading.Event()
        self.asked: list[str] = []
        self.picture = encoded(smooth(90, 60), "JPEG")


class _Slow(Answer):
    server: SlowServer

    def answer(self, *, with_body: bool) -> None:
        if with_body:
            self.server.asked.append(self.name)
            if "slow" in self.name:
                self.server.gate.wait(WAIT_S)
        self.send(200, self.server.picture if with_body else b"", promised=len(self.server.picture))


@pytest.fixture
def slow_web() -> Iterator[SlowServer]:
    with answering(SlowServer()) as server:
        yield server
        server.gate.set()


def table(folder: Path, web: SlowServer, slow_every: int) -> tuple[Path, np.ndarray[Any, Any]]:
    """A set of addresses, best first; of so many rows one is slow."""
    scores = np.linspace(7, 3, NUM_ROWS, dtype=np.float32)
    names = [f"{web.url}/{'slow' if row % slow_every == 0 else 'quick'}/{row}.jpg" for row in range(NUM_ROWS)]
    return write_set(folder / "s.parquet", {"sample": names, "aesthetic_score": scores}), scores


def loading(page: Any) -> int:
    """Thumbnails that the page waits for."""
    script = "() => [...document.querySelectorAll('.tile img[src]')].filter((image) => !image.complete).length"
    return int(page.evaluate(script))


@pytest.mark.soak
def test_counts_rows_and_marks_are_answered_while_pictures_wait(slow_web: SlowServer, tmp_path: Path, open_page: Open) -> None:
    path, scores = table(tmp_path, slow_web, slow_every=1)
    options = BrowseOptions(scores=str(path), no_open=True, marks=str(tmp_path / "m.jsonl"))
    with running(options, tmp_path) as served:
        page = open_page(served.url)
        until(lambda: len(slow_web.asked) >= 4 and loading(page) == 4)
        for threshold in (4.4, 5.6):
            page.fill("#threshold-number", str(threshold))
            page.press("#threshold-number", "Enter")
            wait_for_threshold(page, threshold)
            assert kept(page) == int((scores >= np.float32(threshold)).sum())
        page.locator("#gallery").focus()
        page.keyboard.press("End")
        page.wait_for_selector(f"#tile-{NUM_ROWS - 1}[data-row='{NUM_ROWS - 1}']")
        page.keyboard.press("d")
        until(lambda: len(events(tmp_path / "m.jsonl")) == 1)
        assert loading(page) <= 4
        page.keyboard.press("Enter")
        page.wait_for_selector("#viewer[open]")
        for at, key in enumerate(("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft")):
            page.wait_for_timeout(300)  # the next and the one before are asked for ahead
            page.keyboard.press(key)
            page.keyboard.press("k")
            until(lambda at=at: len(events(tmp_path / "m.jsonl")) == at + 2)  # type: ignore[misc]
        assert not page.locator(".tile img.here").count(), "no picture has come"
        page.keyboard.press("Escape")
        page.wait_for_selector("#viewer:not([open])", state="attached")
        slow_web.gate.set()
        page.wait_for_selector(f"#tile-{NUM_ROWS - 1} img.here")
        page.context.close()


@pytest.mark.slow
def test_quick_pictures_come_while_slow_ones_wait(slow_web: SlowServer, tmp_path: Path, open_page: Open) -> None:
    path, _ = table(tmp_path, slow_web, slow_every=17)
    options = BrowseOptions(scores=str(path), no_open=True, marks=str(tmp_path / "m.jsonl"))
    with running(options, tmp_path) as served:
        page = open_page(served.url, width=700, height=620)
        until(lambda: page.evaluate("() => document.querySelectorAll('.tile:not([hidden]) img.here').length") >= 12)
        assert not page.locator("#tile-0 img.here, #tile-17 img.here").count()
        page.locator("#tile-1").click()
        page.wait_for_selector("#view-large.here")
        page.context.close()

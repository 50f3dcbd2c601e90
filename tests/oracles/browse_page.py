"""A page of `beholder browse` and its score set in; what the set says should be shown, and what the page shows, out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

Page = Any
Open = Callable[..., Page]


def scores_of(served: Any) -> np.ndarray:
    found: np.ndarray = pq.read_table(served.options.scores).column("aesthetic_score").to_numpy()
    return found


def best_first(served: Any) -> list[str]:
    table = pq.read_table(served.options.scores)
    names, scores = table.column("sample").to_pylist(), table.column("aesthetic_score").to_pylist()
    return [names[row] for row in sorted(range(len(names)), key=lambda row: (-scores[row], names[row].encode()))]


def kept(page: Page) -> int:
    return int(page.locator("#kept").inner_text().replace(",", ""))


def wait_for_threshold(page: Page, threshold: float) -> None:
    page.wait_for_function("at => Number(document.getElementById('kept').dataset.threshold) === at", arg=threshold)


def tiles(page: Page) -> dict[int, str]:
    """Index -> the start of its label (the sample), of the tiles that are in sight and filled."""
    script = """() => {
      const box = document.getElementById('gallery').getBoundingClientRect();
      return [...document.querySelectorAll('.tile:not([hidden])')].filter((tile) => {
        const place = tile.getBoundingClientRect();
        return tile.dataset.row !== undefined && place.bottom > box.top && place.top < box.bottom;
      }).map((tile) => [Number(tile.dataset.index), tile.getAttribute('aria-label').split(/, -?[0-9]/)[0]]);
    }"""
    return dict(page.evaluate(script))


def wait_for_tiles(page: Page) -> None:
    script = """() => {
      const box = document.getElementById('gallery').getBoundingClientRect();
      const seen = [...document.querySelectorAll('.tile:not([hidden])')].filter((tile) => {
        const place = tile.getBoundingClientRect();
        return place.bottom > box.top + 2 && place.top < box.bottom - 2;
      });
      return seen.length > 0 && seen.every((tile) => tile.dataset.row !== undefined);
    }"""
    page.wait_for_function(script)


def events(path: Path) -> list[tuple[str, str | None]]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(event["sample"], event["mark"]) for event in map(json.loads, lines)]


def until(test: Callable[[], bool], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)

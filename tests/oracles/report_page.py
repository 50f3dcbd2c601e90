"""Score sets in; the page of their report, checked as a whole, and what stands in it, out."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from beholder.reporting.report import report
from oracles.html_page import Page

MakeSet = Callable[..., Path]
"""The fixture `make_set`."""


def page_of(scores: Any, **options: Any) -> Page:
    """The page of a report, which is always checked as a whole."""
    out = Path(options.pop("folder")) / "report.html"
    summary = report(scores, out, overwrite=True, **options)
    data = out.read_bytes()
    assert summary.num_bytes == len(data) <= options.get("max_size", 9_000_000)
    page = Page(data.decode())
    check(page)
    return page


def check(page: Page) -> None:
    """What holds for every page: well-formed, self-contained, no foreign code, every reference to something in it."""
    assert page.faults == []
    for tag, name, value in page.addresses():
        if tag == "img":
            assert re.fullmatch(r"data:image/(webp|jpeg);base64,[A-Za-z0-9+/=]+", value), (tag, name, value[:80])
        elif tag == "link":
            assert value == "data:,"
        else:
            assert tag == "a", (tag, name, value[:80])
            assert value.startswith("#") or re.match(
                r"https://(github\.com|huggingface\.co|laion\.ai|arxiv\.org|modelscope)", value
            )
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in element.attributes), element
        for name in ("aria-labelledby", "aria-describedby", "aria-controls", "for"):
            value = element.attributes.get(name)
            assert value is None or value in ids, (name, value)
        if element.tag == "img":
            assert element.attributes.get("alt")
        if element.tag == "a" and (element.attributes["href"] or "").startswith("#"):
            assert (element.attributes["href"] or "")[1:] in ids
    check_policy(page)


def check_policy(page: Page) -> None:
    """The page's own style and script are named by their hashes, and nothing else may run or be loaded."""
    (meta,) = [item for item in page.elements if item.attributes.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(part.strip().split(" ", 1) for part in (meta.attributes["content"] or "").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (own,) = [item for item in page.elements if item.tag == tag and item.attributes.get("type") != "application/json"]
        digest = base64.b64encode(hashlib.sha256("".join(own.texts).encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def table_rows(page: Page, caption: str) -> list[list[str]]:
    """The cells of the table with this caption."""
    (table,) = [item for item in page.root.all("table") if any(c.text.startswith(caption) for c in item.all("caption"))]
    return [[cell.text for cell in row.inside] for row in table.all("tr")]


def shown(page: Page, label: str) -> list[str]:
    """Names in the gallery with this label, in order."""
    pictures = page.json("pictures")
    gallery = page.root.one("ul", **{"aria-label": label})
    return [pictures[shot.attributes["data-picture"]]["name"] for shot in gallery.all("button")]


def some_scores(num_rows: int, seed: int = 1) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scores like a real head's, from a seed."""
    return np.random.default_rng(seed).normal(4.9, 0.7, num_rows).astype(np.float32)


def heading_of(page: Page, label: str) -> str:
    """The id of the heading of a bucket; label: "score 4.5 to 5"."""
    (heading,) = [item for item in page.root.all("h4") if f"score {item.text}" == label]
    return heading.attributes["id"] or ""

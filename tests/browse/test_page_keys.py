"""The page in headless Chromium by keyboard: what keys do wherever the focus is, and what can be reached with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oracles.browse_page import Open, best_first, events, until, wait_for_tiles
from oracles.tiers import mostly_slow


@pytest.mark.slow
def test_everything_can_be_reached_with_the_keyboard(photo_server: Any, open_page: Open) -> None:
    page = open_page(photo_server.url)
    page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {
        "open-filters",
        "open-export",
        "theme",
        "open-help",
        "threshold",
        "threshold-number",
        "sort",
        "gallery",
        "tab",
    } <= reached
    page.keyboard.press("Escape")
    page.locator("#gallery").focus()
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    page.wait_for_selector("#filters[open]")
    page.keyboard.press("Escape")
    page.locator('.tab[data-tab="all"]').focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('.tab[data-tab="kept"][aria-selected="true"]')


def focus_of(page: Any) -> str:
    return str(page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.tagName"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", mostly_slow(["tab", "export", "large", "filters", "theme", "whole", "to-cut", "help"], 3, slow=0)
)
def test_keys_go_to_the_gallery_wherever_one_clicked_before(
    photo_server: Any, open_page: Open, tmp_path: Path, how: str
) -> None:
    names = best_first(photo_server)
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    if how == "tab":
        page.click('.tab[data-tab="kept"]')
        page.wait_for_function("() => document.getElementById('shown').textContent === '40 pictures'")
    elif how == "large":
        page.locator("#tile-0").click(position={"x": 20, "y": 20})
        page.wait_for_selector("#viewer[open]")
    else:
        page.click({"export": "#open-export", "help": "#open-help", "filters": "#open-filters"}.get(how, f"#{how}"))
    if how in ("export", "help", "filters", "large"):
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.activeElement.id === 'gallery'")
    else:
        assert focus_of(page) != "gallery" or how == "to-cut"
    wait_for_tiles(page)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    columns = page.evaluate("Number(document.querySelector('.tile.active').dataset.index)")
    assert columns > 1
    until(lambda: events(tmp_path / "m.jsonl") == [(names[columns], "keep")])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    assert page.locator("#view-place").inner_text().startswith(f"{columns + 2} of ")


@pytest.mark.slow
def test_what_has_the_focus_keeps_its_own_keys(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    active = page.get_attribute("#gallery", "aria-activedescendant")
    for name in ("#threshold", "#threshold-number", "#sort", "#size"):
        page.locator(name).focus()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("k")
        assert f"#{focus_of(page)}" == name
    assert float(page.input_value("#threshold-number")) > 5
    assert page.get_attribute("#gallery", "aria-activedescendant") == active
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.locator("#theme").focus()
    for key in ("Enter", "Space"):
        page.keyboard.press(key)
        after = page.evaluate("document.documentElement.dataset.theme")
        assert after != theme
        theme = after
    page.locator("#whole").focus()
    page.keyboard.press("Space")
    assert page.is_checked("#whole")
    page.click('.tab[data-tab="all"]')
    for key, tab in (("ArrowRight", "kept"), ("ArrowLeft", "all"), ("ArrowLeft", "all")):
        page.keyboard.press(key)
        assert page.get_attribute(f'.tab[data-tab="{tab}"]', "aria-selected") == "true"
    assert page.get_attribute("#gallery", "aria-activedescendant") == active, "no tab is left of the first"
    page.click('.tab[data-tab="rejects"]')
    page.wait_for_selector("#rejects .reject:not([hidden])")
    page.keyboard.press("d")
    page.click("#open-help")
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.activeElement.id === 'rejects'")
    assert events(tmp_path / "m.jsonl") == []
    assert not page.locator("#viewer[open]").count()

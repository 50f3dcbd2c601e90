"""Pictures selected and marked at once by mouse, keyboard and touch; marks undone and done again; filters by column; tabs."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from oracles.browse_page import Open, best_first, events, until, wait_for_tiles
from oracles.tiers import mostly_slow

PLACE = {"x": 30, "y": 30}


def chosen(page: Any) -> list[int]:
    tiles = page.locator(".tile.chosen:not([hidden])")
    found: list[int] = sorted(tiles.evaluate_all("tiles => tiles.map((tile) => Number(tile.dataset.index))"))
    selected = page.locator(".tile[aria-selected=true]:not([hidden])")
    assert sorted(selected.evaluate_all("tiles => tiles.map((tile) => Number(tile.dataset.index))")) == found
    return found


def state(path: Path) -> dict[str, str]:
    """Marks as the file has them: the last of each name counts."""
    found = dict(events(path))
    return {name: mark for name, mark in found.items() if mark is not None}


@pytest.mark.slow
def test_shift_and_ctrl_select_and_a_key_marks_all(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    marks, names = tmp_path / "m.jsonl", best_first(photo_server)
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    page.locator("#tile-1").click(position=PLACE, modifiers=["Control"])
    page.locator("#tile-4").click(position=PLACE, modifiers=["Shift"])
    page.locator("#tile-6").click(position=PLACE, modifiers=["Control"])
    page.locator("#tile-3").click(position=PLACE, modifiers=["Control"])
    assert chosen(page) == [1, 2, 4, 6]
    assert page.locator("#chosen-count").inner_text() == "4 selected"
    assert not page.locator("#viewer").is_visible()
    page.keyboard.press("k")
    until(lambda: len(events(marks)) == 4)
    assert state(marks) == {names[at]: "keep" for at in (1, 2, 4, 6)}
    assert chosen(page) == []
    assert not page.locator("#chosen").is_visible()
    page.locator("#tile-2").click(position=PLACE, modifiers=["Control"])
    page.locator("#tile-0").click(position=PLACE, modifiers=["Shift"])
    assert chosen(page) == [0, 1, 2]
    page.click("#chosen-drop")
    until(lambda: len(events(marks)) == 7)
    assert state(marks) == {names[0]: "drop", names[1]: "drop", names[2]: "drop", names[4]: "keep", names[6]: "keep"}

    before = state(marks)
    page.keyboard.press("Control+z")
    until(lambda: state(marks) == {names[at]: "keep" for at in (1, 2, 4, 6)})
    page.keyboard.press("Control+z")
    until(lambda: state(marks) == {})
    page.keyboard.press("Control+z")
    page.wait_for_function("() => document.getElementById('toast').textContent === 'There is no mark to undo'")
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("Control+Shift+z")
    until(lambda: state(marks) == before)
    page.wait_for_selector("#tile-0[data-mark=drop]")
    page.reload()
    wait_for_tiles(page)
    assert page.get_attribute("#tile-6", "data-mark") == "keep"


@pytest.mark.slow
def test_keys_alone_select_and_undo_works_in_the_large_view(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    marks, names = tmp_path / "m.jsonl", best_first(photo_server)
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    page.locator("#gallery").focus()
    for key in ("ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowLeft", "ArrowRight", "ArrowRight", "x"):
        page.keyboard.press(key)
    assert chosen(page) == [1, 2, 4]
    page.keyboard.press("d")
    until(lambda: state(marks) == {names[at]: "drop" for at in (1, 2, 4)})
    page.keyboard.press("x")
    page.keyboard.press("Escape")
    assert chosen(page) == []
    page.keyboard.press("Control+a")
    assert page.locator("#chosen-count").inner_text() == "60 selected"
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    page.keyboard.press("k")
    until(lambda: state(marks).get(names[4]) == "keep")
    page.keyboard.press("Control+z")
    until(lambda: state(marks).get(names[4]) == "drop")
    page.wait_for_selector("#view-drop[aria-pressed=true]")
    page.wait_for_selector("#toast.shown:popover-open")


@pytest.mark.slow
def test_undo_leaves_what_somebody_else_marked_since(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    marks, names = tmp_path / "m.jsonl", best_first(photo_server)
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    page.locator("#tile-0").click(position=PLACE, modifiers=["Control"])
    page.locator("#tile-1").click(position=PLACE, modifiers=["Control"])
    page.keyboard.press("k")
    until(lambda: len(events(marks)) == 2)
    with marks.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"sample": names[0], "mark": "drop", "time": "x"}) + "\n")
    page.wait_for_selector("#tile-0[data-mark=drop]")
    page.keyboard.press("Control+z")
    until(lambda: state(marks) == {names[0]: "drop"})
    assert page.locator("#toast").inner_text() == "Undone: 1 mark; 1 changed elsewhere since, and stay"


@pytest.mark.slow
def test_a_range_far_beyond_what_is_loaded(large_server: Any, open_page: Open) -> None:
    """Rows between the two ends were never in the page. The mark is caught: other tests use the set."""
    page = open_page(large_server.url)
    wait_for_tiles(page)
    page.locator("#tile-0").click(position=PLACE, modifiers=["Control"])
    page.evaluate("document.getElementById('gallery').scrollTop = 40_000")
    page.wait_for_function(
        "() => document.querySelector('.tile:not([hidden])[data-row]') && !document.getElementById('tile-0')"
    )
    last = page.evaluate("""() => {
      const box = document.getElementById('gallery').getBoundingClientRect();
      const seen = [...document.querySelectorAll('.tile:not([hidden])')].filter((tile) => {
        const place = tile.getBoundingClientRect();
        return tile.dataset.row && place.top > box.top && place.bottom < box.bottom;
      });
      return Number(seen[0].dataset.index);
    }""")
    assert 500 < last < 9_000
    with page.expect_request("**/api/selection?*") as asked, page.expect_request("**/api/marks") as marked:
        page.route("**/api/marks", lambda route: route.fulfill(json={"version": 0}))
        page.locator(f"#tile-{last}").click(position=PLACE, modifiers=["Shift"])
        assert page.locator("#chosen-count").inner_text() == f"{last + 1:,} selected"
        page.keyboard.press("d")
    assert f"start=0&count={last + 1}" in asked.value.url
    order = np.lexsort((np.arange(120_000), -pq.read_table(large_server.options.scores).column("aesthetic_score").to_numpy()))
    first = json.loads(marked.value.post_data)["rows"]
    assert first == order[: min(5000, last + 1)].tolist()
    page.keyboard.press("Control+a")
    page.wait_for_function("() => document.getElementById('chosen-count').textContent === '10,000 selected'")
    assert "10,000 pictures are the most" in page.locator("#toast").inner_text()
    page.evaluate("document.getElementById('toast').textContent = ''")
    page.keyboard.press("End")
    page.keyboard.press("x")  # one more, by itself
    assert "10,000 pictures are the most" in page.locator("#toast").inner_text()
    assert page.locator("#chosen-count").inner_text() == "10,000 selected"
    refused = httpx.get(f"{large_server.url}api/selection", params={"listing": "x", "start": 0, "count": 10_001})
    assert refused.status_code == 400


@pytest.mark.slow
def test_nothing_is_marked_where_other_pictures_are_shown_before_the_selected_ones_are_known(
    large_server: Any, open_page: Open
) -> None:
    page = open_page(large_server.url)
    wait_for_tiles(page)
    held: list[Any] = []
    marked: list[Any] = []
    page.route("**/api/selection?*", lambda route: held.append(route))
    page.route("**/api/marks", lambda route: (marked.append(route.request.post_data), route.fulfill(json={"version": 0})))
    page.locator("#gallery").focus()
    page.keyboard.press("Control+a")
    with page.expect_request("**/api/selection?*"):
        page.keyboard.press("d")
    with page.expect_response("**/api/listing"):
        page.click("#tabs [data-tab=dropped]")
    page.wait_for_function("() => document.getElementById('chosen').hidden")
    page.locator("#tile-1").click(position=PLACE, modifiers=["Control"])
    held[0].continue_()
    page.wait_for_function("() => document.getElementById('toast').textContent.startsWith('Nothing was marked')")
    assert chosen(page) == [1]  # of the pictures that are shown now
    page.keyboard.press("Escape")
    assert marked == []


@pytest.mark.parametrize("width", mostly_slow([390, 1280]))
def test_selecting_moves_nothing(photo_server: Any, open_page: Open, width: int) -> None:
    """The bar that appears takes room; pictures stay where they are on the screen, and are not drawn anew."""
    page = open_page(photo_server.url, width=width, height=700)
    wait_for_tiles(page)
    page.locator("#gallery").evaluate("viewport => { viewport.scrollTop = 37; }")
    tile = page.locator("#tile-3")
    before = tile.bounding_box()
    page.evaluate(
        """() => {
          window.wasHidden = 0;
          const tile = document.querySelector("#tile-3");
          new MutationObserver((found) => (window.wasHidden += found.length)).observe(tile, { attributeFilter: ["hidden"] });
        }"""
    )
    for is_chosen in (True, False):
        tile.click(modifiers=["Control"], position=PLACE)
        page.wait_for_selector("#chosen", state="visible" if is_chosen else "hidden")
        page.wait_for_timeout(100)
        assert chosen(page) == [3] * is_chosen
        assert (tile.bounding_box(), page.evaluate("window.wasHidden")) == (before, 0)


@pytest.mark.slow
def test_touch_selects_on_a_phone(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    names = best_first(photo_server)
    page = open_page(photo_server.url, width=390, height=844, is_mobile=True, has_touch=True)
    wait_for_tiles(page)
    page.tap("#choose")
    page.wait_for_selector("#choose[aria-pressed=true]")
    for expected in ([0], [0, 4]):  # a tap is a click only a little later, and the next one may scroll the page before
        page.locator(f"#tile-{expected[-1]}").tap(position=PLACE)
        page.wait_for_selector(f"#tile-{expected[-1]}.chosen")
        assert chosen(page) == expected
    for name in ("#chosen-keep", "#chosen-drop", "#chosen-none", "#chosen-clear", "#choose", "#undo"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390, name
    page.tap("#chosen-keep")
    until(lambda: state(tmp_path / "m.jsonl") == {names[at]: "keep" for at in (0, 4)})
    page.tap("#undo")
    page.wait_for_selector("#toast.shown:visible")
    until(lambda: state(tmp_path / "m.jsonl") == {})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.slow
def test_tabs_that_have_no_room_show_that_there_are_more(photo_server: Any, open_page: Open) -> None:
    page = open_page(photo_server.url, width=390, height=844)
    assert page.locator("#tabs-on").is_visible()
    assert not page.locator("#tabs-back").is_visible()
    page.click("#tabs-on")
    page.wait_for_selector("#tabs-back:visible")
    page.locator(".tab[data-tab=all]").focus()
    for _ in range(page.locator(".tab").count() - 1):
        page.keyboard.press("ArrowRight")
    page.wait_for_selector("#tabs-on", state="hidden")
    box = page.locator(".tab[data-tab=rejects]").bounding_box()
    assert box["x"] + box["width"] <= 390
    wide = open_page(photo_server.url, width=2000)
    assert not wide.locator("#tabs-on, #tabs-back").first.is_visible()


def test_counts_of_tabs_are_exact(large_server: Any, open_page: Open) -> None:
    page = open_page(large_server.url)
    assert page.locator(".tab[data-tab=all] small").inner_text() == "120,000"


@pytest.mark.slow
@pytest.mark.parametrize("width", mostly_slow([1280, 390], slow=0))
def test_sliders_and_chips_write_the_condition(photo_server: Any, open_page: Open, width: int) -> None:
    rows = pq.read_table(photo_server.options.scores).to_pylist()
    page = open_page(photo_server.url, width=width, height=800)
    page.keyboard.press("f")
    low = page.locator(".column-filter[data-column=width] input.from")
    low.wait_for()
    assert page.locator(".column-filter[data-column=width] header small").inner_text() == "64 to 123"
    low.focus()
    for _ in range(16):
        page.keyboard.press("ArrowRight")
    assert page.input_value(".column-filter[data-column=width] .low") == "80"
    high = page.locator(".column-filter[data-column=width] input.to")
    high.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("End")
    label = page.locator(".column-filter[data-column=label]")
    label.scroll_into_view_if_needed()
    for value in ('"cat"', "null"):
        label.locator(f"input[value='{value}']").check()
    wanted = """"label" IN ('cat') OR "label" IS NULL"""
    sql = page.locator("#filter-sql")
    assert sorted(sql.inner_text().split("\nAND ")) == ['"width" >= 80', f"({wanted})"]
    page.fill("#where", "caption LIKE '%more%'")
    assert sql.inner_text().startswith("(caption LIKE '%more%')\nAND ")
    page.locator("#where").press("Enter")
    page.wait_for_selector("#filters:not([open])", state="attached")
    inside = [row for row in rows if row["width"] >= 80 and row["label"] != "dog"]
    page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=f"{len(inside)} pictures")
    page.click("#open-export")
    page.wait_for_function("() => document.getElementById('export-command').textContent.startsWith('beholder')")
    words = shlex.split(page.locator("#export-command").inner_text())
    conditions = [words[at + 1] for at, word in enumerate(words) if word == "--where"]
    assert sorted(conditions) == sorted(["caption LIKE '%more%'", '"width" >= 80', f"({wanted})"]), "as the page showed them"
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    page.click("button[aria-label='Remove the filter on width']")
    page.locator("#where").fill("")
    page.keyboard.press("Shift+Enter")
    page.keyboard.press("Enter")
    inside = [row for row in rows if row["label"] != "dog"]
    page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=f"{len(inside)} pictures")
    assert page.locator("#chips .chip").count() == 1

"""The page in headless Chromium against the data: slider, gallery of any length, tabs, orders, heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.browse.options import BrowseOptions
from oracles.browse_page import Open, best_first, kept, scores_of, tiles, wait_for_threshold, wait_for_tiles
from oracles.browse_sets import running, write_set


def test_the_count_follows_the_slider_while_it_is_dragged(large_server: Any, open_page: Open) -> None:
    scores = scores_of(large_server)
    page = open_page(large_server.url)
    assert kept(page) == int((scores >= np.float32(5)).sum())
    box = page.locator("#threshold").bounding_box()
    seen = set()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for step in range(1, 9):
        page.mouse.move(box["x"] + box["width"] * (0.5 + step * 0.03), box["y"] + box["height"] / 2)
        at = page.evaluate("Number(document.getElementById('threshold').value)")
        wait_for_threshold(page, at)
        assert kept(page) == int((scores >= np.float32(at)).sum()), at
        seen.add(kept(page))
    assert len(seen) > 5, "the button is still down"
    page.mouse.up()
    for text in ("5.10", "-3", "99", "4.999"):
        page.fill("#threshold-number", text)
        page.press("#threshold-number", "Enter")
        wait_for_threshold(page, float(text))
        assert kept(page) == int((scores >= np.float32(text)).sum())
    page.locator("#gallery").focus()
    page.keyboard.press("Period")
    wait_for_threshold(page, 5.0)
    assert page.locator("#share").inner_text() == f"{100 * (scores >= 5).mean():.1f} %"


@pytest.mark.slow
def test_a_hundred_thousand_rows_scroll_and_only_what_is_seen_is_in_the_page(large_server: Any, open_page: Open) -> None:
    names = best_first(large_server)
    asked: list[str] = []
    page = open_page(large_server.url)
    page.on("request", lambda request: asked.append(request.url))
    wait_for_tiles(page)
    for place in (0.0, 0.31, 0.5, 0.77, 1.0, 0.001):
        page.evaluate(
            """place => {
              const gallery = document.getElementById('gallery');
              gallery.scrollTop = place * (gallery.scrollHeight - gallery.clientHeight);
            }""",
            place,
        )
        page.wait_for_timeout(60)
        wait_for_tiles(page)
        found = tiles(page)
        assert len(found) >= 9
        assert all(names[index] == name for index, name in found.items())
        assert abs(np.mean(list(found)) / len(names) - place) < 0.01
        assert page.locator(".tile").count() < 80
        if place == 1.0:
            assert max(found) == len(names) - 1
    asked.clear()
    page.evaluate("""() => new Promise((done) => {
      const g = document.getElementById('gallery'); let step = 0;
      const go = () => {
        g.scrollTop = (step / 60) * g.scrollHeight;
        step += 1;
        step <= 60 ? requestAnimationFrame(go) : done();
      };
      go();
    })""")
    wait_for_tiles(page)
    page.wait_for_timeout(150)
    pictures = [url for url in asked if "/thumb/" in url]
    assert len(pictures) < 150, "what flew past was not asked for: it was over 100,000 tiles"
    assert len([url for url in asked if "/api/rows" in url]) < 40


@pytest.mark.slow
def test_lists_longer_than_a_browser_can_lay_out_scroll_row_by_row_and_to_the_end(large_server: Any, open_page: Open) -> None:
    names = best_first(large_server)
    page = open_page(large_server.url, width=800)
    page.locator("#size").evaluate("input => { input.value = 360; input.dispatchEvent(new Event('input')); }")
    wait_for_tiles(page)
    assert page.evaluate("document.getElementById('gallery').scrollHeight") == 8_000_000 < len(names) / 2 * 300
    box = page.locator("#gallery").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    first = min(tiles(page))
    for _ in range(12):
        page.mouse.wheel(0, 300)
        page.wait_for_timeout(30)
        wait_for_tiles(page)
        found = tiles(page)
        assert 0 <= min(found) - first <= 4, "no jump"
        first = min(found)
        assert all(names[index] == name for index, name in found.items())
    page.locator("#gallery").focus()
    page.keyboard.press("End")
    wait_for_tiles(page)
    page.wait_for_function(f"() => document.getElementById('tile-{len(names) - 1}')?.dataset.row !== undefined")
    found = tiles(page)
    assert max(found) == len(names) - 1
    assert all(names[index] == name for index, name in found.items())
    page.keyboard.press("Home")
    wait_for_tiles(page)
    assert min(tiles(page)) == 0


@pytest.mark.slow
def test_tabs_orders_and_the_way_to_the_cut(large_server: Any, open_page: Open) -> None:
    scores = scores_of(large_server)
    names = best_first(large_server)
    page = open_page(large_server.url)
    wait_for_tiles(page)
    page.click("#to-cut")
    above = int((scores >= np.float32(5)).sum())
    page.wait_for_selector(f"#tile-{above}[data-row]")
    assert "not kept" in page.get_attribute(f"#tile-{above}", "aria-label")
    assert "not kept" not in page.get_attribute(f"#tile-{above - 1}", "aria-label")
    assert "below" in page.get_attribute(f"#tile-{above}", "class")
    page.click('.tab[data-from="5.5"]')
    wanted = int(((scores >= np.float32(5.5)) & (scores < 6)).sum())
    page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=f"{wanted:,} pictures")
    wait_for_tiles(page)
    first = int((scores >= np.float32(6)).sum())
    assert tiles(page)[0] == names[first]
    page.select_option("#sort", "worst")
    page.wait_for_function(
        "name => document.getElementById('tile-0')?.ariaLabel?.startsWith(name)", arg=names[first + wanted - 1]
    )
    page.select_option("#sort", "random")
    page.wait_for_selector("#shuffle:visible")
    page.wait_for_selector("#tile-0[data-row]")
    wait_for_tiles(page)
    one = tiles(page)
    page.click("#shuffle")
    page.wait_for_function("name => !document.getElementById('tile-0')?.ariaLabel?.startsWith(name)", arg=one[0])
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.get_attribute('.tab[data-from="5.5"]', "aria-selected") == "true", "the address says what was chosen"
    page.click('.tab[data-tab="kept"]')
    page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=f"{above:,} pictures")
    page.fill("#threshold-number", "6.5")
    page.press("#threshold-number", "Enter")
    fewer = int((scores >= np.float32(6.5)).sum())
    page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=f"{fewer:,} pictures")


@pytest.mark.slow
def test_another_head_has_its_own_axis_counts_and_landmarks(tmp_path: Path, open_page: Open) -> None:
    rng = np.random.default_rng(2)
    one, two = rng.normal(5, 0.5, 500).astype(np.float32), rng.normal(50, 9, 500).astype(np.float32)
    heads = {"laion-v2": "sac+logos+ava1-l14-linearMSE", "mine": "my-head"}
    rows = {"sample": [f"{number}.jpg" for number in range(500)], "laion-v2": one, "mine": two}
    path = write_set(tmp_path / "two.parquet", rows, heads=heads)
    with running(BrowseOptions(scores=str(path), no_open=True), tmp_path) as served:
        page = open_page(served.url)
        assert kept(page) == int((one >= 5).sum())
        assert page.locator(".landmark").count() > 3
        page.select_option("#score", "mine")
        page.wait_for_function("() => document.querySelectorAll('.landmark').length === 0")
        page.fill("#threshold-number", "60")
        page.press("#threshold-number", "Enter")
        wait_for_threshold(page, 60)
        assert kept(page) == int((two >= 60).sum())
        page.wait_for_function("() => location.hash.includes('t=60')")
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert kept(page) == int((two >= 60).sum())
        page.context.close()

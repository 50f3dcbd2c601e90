"""The page in headless Chromium: slider, gallery, marks, filters, full view, export, phone, keyboard; against the data."""

from __future__ import annotations

import http.server
import json
import re
import shlex
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from beholder.browse.options import BrowseOptions
from oracles.browse_sets import running

Page = Any
Open = Callable[..., Page]

LIVE = ".tile:not([hidden])"


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


def test_marks_by_keyboard_are_on_the_disk_and_stay(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    marks = tmp_path / "m.jsonl"
    names = best_first(photo_server)
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    before = kept(page)
    page.locator("#gallery").focus()
    page.keyboard.press("d")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("k")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("d")
    page.keyboard.press("u")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    page.keyboard.press("d")
    until(lambda: len(events(marks)) == 5)
    columns = page.evaluate("Number(document.querySelector('.tile.active').dataset.index)") - 2
    wanted = [(names[0], "drop"), (names[1], "keep"), (names[2], "drop"), (names[2], None), (names[2 + columns], "drop")]
    assert events(marks) == wanted
    page.wait_for_function(f"() => document.getElementById('kept').textContent === '{before - 2}'")
    assert page.get_attribute("#view-drop", "aria-pressed") == "true"
    page.reload()
    page.wait_for_selector("body[data-ready]")
    wait_for_tiles(page)
    assert kept(page) == before - 2
    assert page.get_attribute("#tile-0", "data-mark") == "drop"
    assert page.get_attribute("#tile-1", "data-mark") == "keep"
    assert not page.get_attribute("#tile-2", "data-mark")
    page.click('.tab[data-tab="marked_drop"]')
    page.wait_for_function("() => document.getElementById('shown').textContent === '2 pictures'")
    page.hover("#tile-0")
    page.click("#tile-0 .quick button[data-mark=keep]")
    until(lambda: events(marks)[-1] == (names[0], "keep"))


def test_tabs_of_one_browser_and_of_others_see_each_others_marks(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    one = open_page(photo_server.url)
    two, other = open_page(photo_server.url, context=one.context), open_page(photo_server.url)
    for page in (one, two, other):
        wait_for_tiles(page)
    two.bring_to_front()
    two.locator("#gallery").focus()
    two.keyboard.press("k")
    for page in (one, other):
        page.bring_to_front()
        page.wait_for_selector("#tile-0[data-mark=keep]")
    with (tmp_path / "m.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"sample": best_first(photo_server)[0], "mark": "drop", "time": "x"}) + "\n")
    other.wait_for_selector("#tile-0[data-mark=drop]")


def test_a_mark_that_cannot_be_written_is_taken_back_and_said(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    (tmp_path / "m.jsonl").mkdir()
    page.locator("#gallery").focus()
    page.keyboard.press("d")
    page.wait_for_selector(".toast.shown.bad")
    assert "m.jsonl" in page.locator("#toast").inner_text()
    page.wait_for_function("() => document.getElementById('tile-0').dataset.mark === ''")
    (tmp_path / "m.jsonl").rmdir()


def test_filters_written_and_clicked(photo_server: Any, open_page: Open) -> None:
    rows = pq.read_table(photo_server.options.scores).to_pylist()
    page = open_page(photo_server.url)
    page.click("#open-filters")
    page.fill("#where", "wdth > 3")
    page.click("#apply-filters")
    page.wait_for_function("() => document.getElementById('where-error').textContent.includes('wdth')")
    assert page.locator("#filters").get_attribute("open") is not None
    page.fill("#where", "(SELECT count(*) FROM read_text('/etc/passwd')) > 0")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => document.getElementById('where-error').textContent.includes('disabled')")
    page.fill("#where", "caption LIKE '%<b>%'")
    page.select_option("#add-filter", "label")
    page.check(".column-filter[data-column=label] input[type=checkbox][value='\"cat\"']")
    page.select_option("#add-filter", "width")
    page.fill(".column-filter[data-column=width] .low", "80")
    page.click("#apply-filters")
    page.wait_for_selector("#filters:not([open])", state="attached")
    inside = [row for row in rows if row["label"] == "cat" and row["width"] >= 80]
    page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=f"{len(inside)} pictures")
    assert kept(page) == sum(row["aesthetic_score"] >= 5 for row in inside)
    assert page.locator("#chips .chip").count() == 3
    assert page.locator("#filter-count").inner_text() == "3"
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#shown").inner_text() == f"{len(inside)} pictures"
    page.locator("#chips .chip", has_text="label").click()
    page.wait_for_function("() => document.querySelectorAll('#chips .chip').length === 2")
    fewer = sum(row["width"] >= 80 for row in rows)
    page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=f"{fewer} pictures")
    page.click("#open-filters")
    page.click("#clear-filters")
    page.wait_for_function("() => document.getElementById('shown').textContent === '60 pictures'")


def test_the_full_view_shows_the_picture_and_all_values_as_text(photo_server: Any, open_page: Open) -> None:
    names = best_first(photo_server)
    odd = next(index for index, name in enumerate(names) if "onerror" in name)
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    page.locator("#tile-0").click(position={"x": 20, "y": 20})
    page.wait_for_selector("#view-large.here")
    assert page.evaluate(
        "[document.getElementById('view-large').naturalWidth, document.getElementById('view-large').naturalHeight]"
    ) == [64, 48]
    assert page.locator("#view-place").inner_text() == "1 of 60"
    assert page.locator("#view-back").is_disabled()
    for index in range(1, odd + 1):
        page.keyboard.press("ArrowRight")
        page.wait_for_function("name => document.getElementById('view-large').alt === name", arg=names[index])
    page.wait_for_function("name => document.querySelector('#view-values dd')?.textContent === name", arg=names[odd])
    values = dict(
        zip(page.locator("#view-values dt").all_inner_texts(), page.locator("#view-values dd").all_inner_texts(), strict=True)
    )
    row = next(row for row in pq.read_table(photo_server.options.scores).to_pylist() if row["sample"] == names[odd])
    assert (values["sample"], values["caption"]) == (row["sample"], row["caption"])
    assert page.locator("#view-values b, #view-values img").count() == 0
    page.check("#view-advance")
    page.keyboard.press("k")
    page.wait_for_function("name => document.getElementById('view-large').alt === name", arg=names[odd + 1])
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer:not([open])", state="attached")
    page.wait_for_selector(f"#tile-{odd + 1}.active")
    page.wait_for_function("() => document.activeElement.id === 'gallery'")


def test_a_picture_that_is_gone_says_why(large_server: Any, open_page: Open) -> None:
    page = open_page(large_server.url)
    page.wait_for_selector(f"{LIVE}.failed")
    page.locator("#gallery").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-problem:visible")
    assert "missing" in page.locator("#view-problem").inner_text()


def test_export_downloads_what_is_kept_and_names_the_command(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    names, scores = best_first(photo_server), sorted(scores_of(photo_server).tolist(), reverse=True)
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    page.locator("#gallery").focus()
    page.keyboard.press("d")
    page.wait_for_function("() => document.querySelector('.tab[data-tab=marked_drop] small').textContent === '1'")
    page.keyboard.press("e")
    page.locator("#export-formats label", has_text="TXT").click()
    page.wait_for_function("() => document.getElementById('export-command').textContent.endsWith('selection.txt')")
    with page.expect_download() as download:
        page.click("#export-download")
    text = Path(download.value.path()).read_text(encoding="utf-8")
    wanted = [name for name, score in zip(names, scores, strict=True) if score >= 5][1:]
    assert text.splitlines() == wanted
    assert download.value.suggested_filename == "selection.txt"
    words = shlex.split(page.locator("#export-command").inner_text())
    assert words[:3] == ["beholder", "select", photo_server.options.scores]
    assert words[words.index("--marks") + 1] == str(tmp_path / "m.jsonl")


def test_rejects_with_their_reasons_as_text(photo_server: Any, open_page: Open) -> None:
    page = open_page(photo_server.url)
    page.click('.tab[data-tab="rejects"]')
    page.wait_for_selector(".reject:not([hidden])")
    assert "breaks off <i>here</i>" in page.locator("#rejects").inner_text()
    page.locator("#reasons .chip", has_text="missing").click()
    page.wait_for_function("() => document.querySelectorAll('.reject:not([hidden])').length === 1")
    page.click('.tab[data-tab="all"]')
    wait_for_tiles(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(photo_server: Any, open_page: Open, scheme: str) -> None:
    page = open_page(photo_server.url, width=390, height=844, is_mobile=True, has_touch=True, color_scheme=scheme)
    wait_for_tiles(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert len({page.locator(f"#tile-{index}").bounding_box()["y"] for index in range(3)}) == 1, "three in a row"
    for name in ("#open-filters", "#open-export", "#theme", "#threshold"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", ground)[0])
    assert red < 50 if scheme == "dark" else red > 200
    page.locator("#tile-1").tap()
    page.wait_for_selector("#view-large.here")
    for name in ("#view-keep", "#view-drop", "#view-next", "#view-close"):
        box = page.locator(name).bounding_box()
        assert box["x"] + box["width"] <= 390
        assert min(box["width"], box["height"]) >= 34
    page.tap("#view-drop")
    page.wait_for_selector("#view-drop[aria-pressed=true]")


def test_nothing_jumps_while_the_page_loads_and_the_slider_moves(photo_server: Any, open_page: Open) -> None:
    page = open_page(photo_server.url)
    script = """() => new Promise((done) => {
      let sum = 0;
      const watch = new PerformanceObserver((list) => { for (const entry of list.getEntries()) sum += entry.value; });
      watch.observe({ type: 'layout-shift', buffered: true });
      setTimeout(() => done(sum), 300);
    })"""
    page.fill("#threshold-number", "5.6")
    page.press("#threshold-number", "Enter")
    wait_for_threshold(page, 5.6)
    assert page.evaluate(script) < 0.02


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
    assert page.get_attribute('.tab[data-tab="kept"]', "aria-selected") == "true"


def test_with_a_token_the_address_forgets_it_and_the_cookie_lasts(photo_set: Path, tmp_path: Path, open_page: Open) -> None:
    options = BrowseOptions(scores=str(photo_set), token=True, no_open=True, marks=str(tmp_path / "m.jsonl"))
    with running(options, tmp_path) as served:
        page = open_page(served.url)
        assert "token" not in page.url
        page.reload()
        page.wait_for_selector("body[data-ready]")
        assert page.evaluate("document.cookie") == ""
        page.context.close()


def test_other_sites_cannot_mark_or_read(photo_server: Any, chromium: Any, tmp_path: Path) -> None:
    """A page of another origin tries what a hostile site would: a form, fetches, an image, a frame."""
    hostile = f"""<!doctype html><iframe src="{photo_server.url}"></iframe>
    <form method=post enctype="text/plain" action="{photo_server.url}api/marks" target=f>
    <input name='{{"rows":[0],"mark":"drop","x":"' value='"}}'></form>
    <iframe name=f></iframe><script>
      const tell = (name, value) => {{ document.title += ` ${{name}}:${{value}}`; }};
      document.forms[0].submit();
      const body = JSON.stringify({{ rows: [0], mark: 'drop' }});
      for (const mode of ['cors', 'no-cors']) for (const type of ['application/json', 'text/plain'])
        fetch('{photo_server.url}api/marks', {{ method: 'POST', mode, body, headers: {{ 'content-type': type }} }})
          .then((r) => tell('mark', r.type), () => tell('mark', 'failed'));
      fetch('{photo_server.url}api/set').then(() => tell('read', 'yes'), () => tell('read', 'failed'));
      const image = new Image();
      image.onload = () => tell('image', 'yes');
      image.onerror = () => tell('image', 'failed');
      image.src = '{photo_server.url}thumb/x/160/0';
    </script>"""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(hostile.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        page = chromium.new_page()
        for name in ("127.0.0.1", "localhost"):
            page.goto(f"http://{name}:{site.server_port}/")
            until(lambda: page.title().count("mark:") == 4 and "read:" in page.title() and "image:" in page.title())
            assert "yes" not in page.title()
            frames = [frame for frame in page.frames if frame.url.startswith(photo_server.url)]
            assert all(frame.query_selector("#gallery") is None for frame in frames)
        page.close()
        site.shutdown()
    assert events(tmp_path / "m.jsonl") == []

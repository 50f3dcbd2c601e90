"""The page in headless Chromium, used: marks, filters, full view, export, rejects, phone, token, hostile sites."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from beholder.browse.options import BrowseOptions
from oracles.browse_page import Open, best_first, events, kept, scores_of, until, wait_for_threshold, wait_for_tiles
from oracles.browse_sets import running, write_set
from oracles.made_pictures import encoded, smooth
from oracles.tiers import mostly_slow
from oracles.web import serving


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_mark_that_cannot_be_written_is_taken_back_and_said(photo_server: Any, open_page: Open, tmp_path: Path) -> None:
    page = open_page(photo_server.url)
    wait_for_tiles(page)
    (tmp_path / "m.jsonl").mkdir()
    page.locator("#gallery").focus()
    page.keyboard.press("d")
    page.wait_for_selector(".toast.shown.bad")
    assert "m.jsonl" in page.locator("#toast").inner_text()
    page.wait_for_function("() => document.getElementById('tile-0').dataset.mark === ''")
    page.keyboard.press("Control+z")
    page.wait_for_function("() => document.getElementById('toast').textContent === 'There is no mark to undo'")
    (tmp_path / "m.jsonl").rmdir()
    page.keyboard.press("k")
    page.wait_for_selector("#tile-0[data-mark=keep]")
    until(lambda: len(events(tmp_path / "m.jsonl")) == 1)
    page.route("**/api/marks", lambda route: route.fulfill(status=507, json={"error": "the disk is full"}))
    page.keyboard.press("Control+z")
    page.wait_for_function("() => document.getElementById('toast').textContent === 'Not saved: the disk is full'")
    page.wait_for_selector("#tile-0[data-mark=keep]")
    page.unroute("**/api/marks")
    page.keyboard.press("Control+z")
    until(lambda: [mark for _, mark in events(tmp_path / "m.jsonl")] == ["keep", None])


def test_filters_written_and_clicked(photo_server: Any, open_page: Open) -> None:
    rows = pq.read_table(photo_server.options.scores).to_pylist()
    page = open_page(photo_server.url)
    page.click("#open-filters")
    page.fill("#where", "wdth > 3")
    page.click("#apply-filters")
    page.wait_for_function("() => document.getElementById('where-error').textContent.includes('wdth')")
    assert page.locator("#filters").get_attribute("open") is not None
    page.fill("#where", "(SELECT count(*) FROM read_text('/etc/passwd')) > 0")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('where-error').textContent.includes('disabled')")
    page.fill("#where", "caption LIKE '%<b>%'")
    page.check(".column-filter[data-column=label] input[type=checkbox][value='\"cat\"']")
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_picture_that_is_gone_says_why(large_server: Any, open_page: Open) -> None:
    page = open_page(large_server.url)
    page.wait_for_selector(".tile.failed:not([hidden])")
    page.locator("#gallery").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#view-problem:visible")
    assert "missing" in page.locator("#view-problem").inner_text()
    long = json.dumps({"error": f"beginning {'x' * 20_000} end"})
    page.route("**/picture/**", lambda route: route.fulfill(status=502, content_type="application/json", body=long))
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('view-problem').textContent.startsWith('beginning')")
    said = page.locator("#view-problem").inner_text()
    assert said.endswith("x end")
    assert len(said) < 700


@pytest.mark.slow
def test_a_picture_that_the_browser_cannot_show_says_so_in_words(tmp_path: Path, open_page: Open) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    broken = b"\x89PNG\r\n\x1a\n" + bytes(200)
    for name in ("good.png", "later.png"):
        (folder / name).write_bytes(encoded(smooth(90, 60), "PNG"))
    (folder / "broken.png").write_bytes(broken)
    rows = {
        "sample": [f"pictures/{name}" for name in ("later.png", "broken.png", "good.png")],
        "aesthetic_score": [7.0, 6.0, 5.0],
    }
    path = write_set(tmp_path / "s.parquet", rows, sources=["pictures"], folder=tmp_path)
    with running(BrowseOptions(scores=str(path), no_open=True, marks=str(tmp_path / "m.jsonl")), tmp_path) as served:
        page = open_page(served.url)
        page.wait_for_selector("#tile-0 img.here")
        (folder / "later.png").write_bytes(broken)  # its thumbnail is kept, so nobody but the browser has tried
        page.locator("#tile-0").click()
        page.wait_for_selector("#view-problem:visible")
        assert page.locator("#view-problem").inner_text() == "this browser cannot show the picture: it may be damaged"
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.getElementById('view-problem').textContent.startsWith('truncated: ')")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector("#view-large.here")
        assert not page.locator("#view-problem").is_visible()
        page.context.close()


@pytest.mark.slow
def test_marks_outside_a_filter_are_in_all_numbers(photo_server: Any, open_page: Open) -> None:
    """Rows 0 to 59 have widths 64 to 123: 20 satisfy the filter; of the others 3 are marked keep and one drop."""
    scores = scores_of(photo_server)
    own = {"origin": photo_server.url.rstrip("/")}
    for rows, mark in (([30, 40, 50], "keep"), ([3, 55], "drop")):
        found = httpx.post(f"{photo_server.url}api/marks", json={"rows": rows, "mark": mark}, headers=own)
        assert found.status_code == 200
    page = open_page(f"{photo_server.url}#t=5&where=width+%3C+84")
    kept = {row for row in range(20) if scores[row] >= 5 and row != 3} | {30, 40, 50}
    wanted = {"all": 23, "kept": len(kept), "dropped": 23 - len(kept), "marked_keep": 3, "marked_drop": 1}
    page.wait_for_function("() => document.querySelector('.tab[data-tab=all] small').textContent === '23'")
    for tab, number in wanted.items():
        assert page.locator(f".tab[data-tab={tab}] small").inner_text() == str(number)
        page.click(f".tab[data-tab={tab}]")
        noun = "picture" if number == 1 else "pictures"
        page.wait_for_function("text => document.getElementById('shown').textContent === text", arg=f"{number} {noun}")
    buckets = [int(text) for text in page.locator(".tab[data-tab=bucket] small").all_inner_texts()]
    assert sum(buckets) == 23
    assert page.locator("#kept").inner_text() == str(len(kept))
    assert page.locator("#of").inner_text() == "kept of 23"
    assert page.locator("#outside").inner_text() == "with 3 marked keep outside the filter"
    page.click("#open-export")
    assert page.locator("#export-what").inner_text().startswith(f"{len(kept)} of 23: ")
    address = str(page.locator("#export-download").get_attribute("href")).lstrip("/")
    exported = httpx.get(f"{photo_server.url}{address}", timeout=100).text
    assert len(exported.splitlines()) == len(kept) + 1
    page.keyboard.press("Escape")
    page.click("#chips .chip")
    page.wait_for_function("() => document.getElementById('of').textContent === 'kept of 60'")
    assert not page.locator("#outside").is_visible()
    assert page.locator(".tab[data-tab=marked_drop] small").inner_text() == "2"


@pytest.mark.slow
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


@pytest.mark.slow
def test_rejects_with_their_reasons_as_text(photo_server: Any, open_page: Open) -> None:
    page = open_page(photo_server.url)
    page.click('.tab[data-tab="rejects"]')
    page.wait_for_selector(".reject:not([hidden])")
    assert "breaks off <i>here</i>" in page.locator("#rejects").inner_text()
    page.locator("#reasons .chip", has_text="missing").click()
    page.wait_for_function("() => document.querySelectorAll('.reject:not([hidden])').length === 1")
    page.click('.tab[data-tab="all"]')
    wait_for_tiles(page)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", mostly_slow(["light", "dark"]))
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


@pytest.mark.slow
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


@pytest.mark.slow
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

    with serving({"": hostile.encode()}, "text/html") as site:
        page = chromium.new_page()
        for name in ("127.0.0.1", "localhost"):
            page.goto(f"http://{name}:{site.server_port}/")
            until(lambda: page.title().count("mark:") == 4 and "read:" in page.title() and "image:" in page.title())
            assert "yes" not in page.title()
            frames = [frame for frame in page.frames if frame.url.startswith(photo_server.url)]
            assert all(frame.query_selector("#gallery") is None for frame in frames)
        page.close()
    assert events(tmp_path / "m.jsonl") == []

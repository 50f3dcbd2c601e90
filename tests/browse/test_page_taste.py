"""My taste in headless Chromium: mark, learn, the order changes, switch, undecided, save, reload; keys; a narrow screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from beholder import load_head
from beholder.browse.options import BrowseOptions
from oracles.browse_page import Open, kept, tiles, until, wait_for_tiles
from oracles.browse_sets import Served, TasteSet, running, write_taste_set
from oracles.tiers import mostly_slow

N, DIM, WITHOUT = 90, 10, 6


def draw(path: Path, number: int, liking: float) -> None:
    """A picture of its number, the greener the more it is liked."""
    share = float(np.clip((liking + 2) / 4, 0, 1))
    image = Image.new("RGB", (160, 120), (int(190 * (1 - share)) + 30, int(170 * share) + 40, 90))
    ImageDraw.Draw(image).text((60, 45), str(number), fill="white", font_size=28)
    image.save(path, "JPEG", quality=90)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TasteSet:
    folder = tmp_path_factory.mktemp("taste")
    (folder / "pictures").mkdir()
    columns = {"width": pa.array(np.arange(N, dtype=np.int32))}
    found = write_taste_set(folder, N, DIM, num_without=WITHOUT, columns=columns, sources=["pictures"], folder=folder)
    for number, name in enumerate(found.names):
        draw(folder / name, number, float(found.liking[number]))
    return found


@pytest.fixture
def served(made: TasteSet, tmp_path: Path) -> Iterator[Served]:
    options = BrowseOptions(scores=str(made.path), no_open=True, marks=str(tmp_path / "m.jsonl"))
    with running(options, made.path.parent) as found:
        yield found


def number_of(name: str) -> int:
    return int(name.removesuffix(".jpg").rsplit("/", 1)[-1])


def mark_first(page: Any, made: TasteSet, count: int) -> None:
    """Mark the first tiles by the taste, with the keyboard."""
    wait_for_tiles(page)
    page.locator("#gallery").focus()
    page.keyboard.press("Home")
    for index in range(count):
        page.wait_for_selector(f"#tile-{index}.active[data-row]")
        row = int(page.get_attribute(f"#tile-{index}", "data-row"))
        page.keyboard.press("k" if made.liking[row] > 0 else "d")
        page.wait_for_selector(f'#tile-{index}[data-mark="{"keep" if made.liking[row] > 0 else "drop"}"]')
        page.keyboard.press("ArrowRight")


def wait_for_learned(page: Any) -> None:
    page.wait_for_selector("#taste-switch:visible", timeout=30_000)
    page.wait_for_function("() => document.getElementById('learn').getAttribute('aria-busy') === 'false'", timeout=30_000)
    wait_for_tiles(page)


def in_order(page: Any) -> list[int]:
    wait_for_tiles(page)
    found = tiles(page)
    return [number_of(found[index]) for index in sorted(found)]


def test_mark_twelve_learn_switch_save_and_reload(served: Served, made: TasteSet, open_page: Open, tmp_path: Path) -> None:
    page = open_page(served.url, width=1280, height=800)
    assert page.inner_text("#taste-said").startswith("Mark some pictures keep (K) and some drop (D)")
    assert page.locator("#taste-switch").is_hidden()
    public = in_order(page)
    assert public == sorted(public, key=lambda row: -made.public[row])
    mark_first(page, made, 12)
    page.wait_for_function("() => document.getElementById('learn-count').textContent === '12'")
    page.click("#learn")
    wait_for_learned(page)
    mine = in_order(page)
    assert mine != public
    assert page.is_checked("#taste-switch input[value=taste]")
    assert page.inner_text("#taste-said") == "Too few marks to tell how well it foretells others"
    assert page.locator("#learn-count").is_hidden()
    assert np.mean(made.liking[mine[:10]]) > np.mean(made.liking[public[:10]])
    assert "by my taste" in page.inner_text("#about")
    assert float(page.input_value("#threshold-number")) == 0

    page.click("#taste-switch label:has(input[value=public])")
    page.wait_for_function("row => document.getElementById('tile-0')?.dataset.row === String(row)", arg=public[0])
    assert in_order(page) == public
    page.keyboard.press("t")
    page.wait_for_function("row => document.getElementById('tile-0')?.dataset.row === String(row)", arg=mine[0])

    page.click("#undecided")
    page.wait_for_function("() => /^\\d+ pictures to mark next$/.test(document.getElementById('shown').textContent)")
    asked = in_order(page)
    assert not set(asked) & set(public[:12]), "what is marked is not asked again"
    assert page.get_attribute('.tab[data-tab="undecided"]', "aria-selected") == "true"
    mark_first(page, made, 3)
    page.wait_for_function("() => document.getElementById('learn-count').textContent === '3'")
    assert in_order(page) == asked, "marks move no tile"
    page.click("#undecided")
    page.wait_for_function("row => document.getElementById('tile-0')?.dataset.row !== String(row)", arg=asked[0])
    assert not set(in_order(page)) & set(asked[:3])

    page.click("#taste-more")
    assert "started from public" in page.inner_text("#taste-told")
    assert f"Embeddings in memory: {N - WITHOUT} of {DIM} float16, 0.0 MB" in page.inner_text("#taste-embeddings")
    assert f"{WITHOUT} pictures have none: they come last" in page.inner_text("#taste-embeddings")
    page.click("#save-taste")
    until(lambda: (tmp_path / "m.taste.md").exists())
    page.wait_for_function("() => document.getElementById('taste-file').textContent.startsWith('Saved in')")
    assert load_head(tmp_path / "m.taste.safetensors").dim == DIM
    page.keyboard.press("Escape")

    page.click('.tab[data-tab="all"]')
    wait_for_tiles(page)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.is_checked("#taste-switch input[value=taste]"), "the address says it, the server has it"
    assert in_order(page) == mine
    page.click("#taste-more")
    assert page.inner_text("#taste-file").startswith(f"Saved in {tmp_path}/m.taste.safetensors")


def test_filters_thresholds_the_large_view_and_exports_are_of_the_score_shown(
    served: Served, made: TasteSet, open_page: Open
) -> None:
    page = open_page(served.url, width=1280, height=800)
    mark_first(page, made, 24)
    page.keyboard.press("l")
    wait_for_learned(page)
    mine = in_order(page)
    page.click("#open-filters")
    page.fill("#where", "width >= 45")
    page.click("#apply-filters")
    page.wait_for_selector("#filters:not([open])", state="attached")
    page.wait_for_function("() => document.querySelectorAll('#chips .chip').length === 1")
    page.keyboard.press("t")
    page.wait_for_function("() => document.querySelector('#taste-switch input[value=public]').checked")
    page.wait_for_function("() => document.getElementById('threshold-number').value === '5.00'")
    page.keyboard.press("t")
    page.wait_for_function("() => Number(document.getElementById('threshold-number').value) === 0")
    page.wait_for_selector('.tab[data-tab="undecided"]')
    page.fill("#threshold-number", "0.4")
    page.press("#threshold-number", "Enter")
    page.wait_for_function("() => Number(document.getElementById('kept').dataset.threshold) === 0.4")
    number = kept(page)
    page.locator("#gallery").focus()
    page.keyboard.press("e")
    page.wait_for_selector("#export[open]")
    assert page.inner_text("#export-what").startswith(f"{number} of ")
    assert "my taste at least 0.4, filtered" in page.inner_text("#export-what")
    assert page.inner_text("#export-download") == "Download selection-by-my-taste.csv"
    with page.expect_download() as download:
        page.click("#export-download")
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("sample,aesthetic_score,my_taste,rank")
    assert len(lines) == number + 1
    page.keyboard.press("Escape")
    with page.expect_response(lambda answer: "/api/rows" in answer.url):  # a tile opens once its row has come
        page.click("#chips .chip")
    page.wait_for_function("row => document.getElementById('tile-0')?.dataset.row === String(row)", arg=mine[0])
    page.click("#tile-0", position={"x": 40, "y": 40})
    page.wait_for_selector("#viewer[open]")
    page.wait_for_function("() => document.getElementById('view-score').textContent !== ''")
    assert page.inner_text("#view-by") == "my taste"
    page.wait_for_function(
        "() => [...document.querySelectorAll('#view-values dt')].some((one) => one.textContent === 'my taste')"
    )


def test_too_few_marks_are_one_line_and_nothing_breaks(served: Served, made: TasteSet, open_page: Open) -> None:
    page = open_page(served.url)
    page.keyboard.press("n")
    page.wait_for_selector("#toast.bad")
    assert page.inner_text("#toast") == "Learn from some marks first"
    page.keyboard.press("l")
    page.wait_for_function(
        "() => document.getElementById('toast').textContent.startsWith('too few marks to learn from: 0 keep')"
    )
    mark_first(page, made, 3)
    page.click("#learn")
    page.wait_for_function("() => / keep and [0-3] drop/.test(document.getElementById('toast').textContent)")
    page.wait_for_selector("#learn:enabled")
    assert page.locator("#taste-switch").is_hidden()


@pytest.mark.slow
def test_two_pages_follow_each_other(served: Served, made: TasteSet, open_page: Open) -> None:
    one = open_page(served.url)
    mark_first(one, made, 12)
    one.keyboard.press("l")
    wait_for_learned(one)
    other = open_page(f"{served.url}#by=taste")
    assert other.is_checked("#taste-switch input[value=taste]")
    for _ in range(3):  # the order that the other page shows is let go of
        mark_first(one, made, 2)
        before = one.evaluate(
            "() => fetch('/api/taste').then((answer) => answer.json()).then((state) => state.learned.score.name)"
        )
        one.keyboard.press("l")
        one.wait_for_function(
            "name => fetch('/api/taste').then((answer) => answer.json()).then((state) => state.learned.score.name !== name)",
            arg=before,
        )
        wait_for_learned(one)
    other.fill("#threshold-number", "0.1")
    other.press("#threshold-number", "Enter")
    other.wait_for_function("() => Number(document.getElementById('kept').dataset.threshold) === 0.1")
    assert in_order(other)[0] == in_order(one)[0]


def test_a_set_without_embeddings_has_no_row_and_says_why(photo_server: Any, open_page: Open) -> None:
    page = open_page(photo_server.url)
    assert page.locator("#taste").is_hidden()
    page.keyboard.press("l")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    assert "there are no embeddings of these pictures" in page.inner_text("#help-taste")
    assert page.locator(".taste-key").is_hidden()


@pytest.mark.parametrize("scheme", mostly_slow(["light", "dark"]))
def test_at_390_pixels_everything_is_there_and_nothing_runs_over(
    scheme: str, served: Served, made: TasteSet, open_page: Open
) -> None:
    page = open_page(served.url, width=390, height=844, color_scheme=scheme, has_touch=True)
    mark_first(page, made, 20)
    page.tap("#learn")
    wait_for_learned(page)
    page.tap("#undecided")
    page.wait_for_function(
        "() => document.querySelector('.tab[data-tab=\"undecided\"]').getAttribute('aria-selected') === 'true'"
    )
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for name in ("#learn", "#taste-switch", "#undecided", "#taste-more", "#taste-said"):
        box = page.locator(name).bounding_box()
        assert box is not None
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= 390, name
    tops = {page.locator(name).bounding_box()["y"] for name in ("#learn", "#undecided", "#taste-more")}
    assert len(tops) == 1, "in one line"
    assert page.locator("#gallery").bounding_box()["height"] > 350
    page.tap("#taste-more")
    assert page.locator("#save-taste").bounding_box()["width"] > 200

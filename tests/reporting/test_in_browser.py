"""The page in headless Chromium: it asks nothing of a network, obeys its own policy, and can be used by keyboard."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from beholder.models.catalog import DEFAULT_HEAD
from beholder.reporting.evaluation import write_evaluation
from beholder.reporting.report import report
from beholder.train.options import EvaluateOptions
from oracles.report_page import MakeSet
from oracles.score_records import HOSTILE, V1_HEAD
from oracles.tar_making import png
from oracles.tiers import mostly_slow
from oracles.web import serving

_CONTRAST = """() => {
  const luminance = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).slice(0, 3).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$/.test(colour) && colour !== "transparent") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faults = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, script, style, .below")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [luminance(style.color), luminance(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faults.push(`${element.tagName}.${element.className}: ${ratio.toFixed(2)}`);
  }
  return [...new Set(faults)];
}"""


class Watched:
    """A page of the browser, and what it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(message.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.faults.append("a dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.goto(path.as_uri())

    def _asked(self, url: str) -> None:
        if not url.startswith(("data:", "file:")):
            self.faults.append(url)

    def run(self, code: str) -> Any:
        return self.page.evaluate(code)

    def is_soon(self, code: str, seconds: float = 20) -> bool:
        """Whether an expression becomes true; asked from here, since the page's policy forbids evaluation in it."""
        stop = time.monotonic() + seconds
        while not self.run(code):
            if time.monotonic() > stop:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture
def report_page(make_set: MakeSet, photographs: Path, tmp_path: Path) -> Path:
    names = sorted(str(path) for path in photographs.iterdir())
    samples = [*names, *HOSTILE]
    path = make_set(
        {"aesthetic_score": np.linspace(3.2, 6.8, len(samples))},
        samples,
        columns={"caption": [HOSTILE[row % 5] for row in range(len(samples))]},
        rejects=[(HOSTILE[0], "truncated", HOSTILE[1])],
        heads=[DEFAULT_HEAD],
    )
    out = tmp_path / "report.html"
    report(path, out, at=5)
    return out


@pytest.mark.parametrize("scheme", mostly_slow(["light", "dark"]))
@pytest.mark.parametrize("width", [1280, 390])
def test_it_shows_without_complaints_in_every_size_and_colour(
    chromium: Any, report_page: Path, width: int, scheme: str
) -> None:
    watched = Watched(chromium, report_page, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert watched.run("document.documentElement.scrollWidth") <= width
    assert watched.run("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert watched.run(_CONTRAST) == []
    assert watched.faults == []
    watched.context.close()


def test_the_policy_stops_what_is_not_the_pages_own(chromium: Any, report_page: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    with serving({"x.png": png()}) as server:
        foreign = f"<script>document.title='hacked'</script><img id='foreign' src='{server.url}/x.png'>"
        changed.write_text(report_page.read_text().replace("</main>", f"{foreign}</main>"))
        watched = Watched(chromium, changed)
        assert watched.run("document.title") != "hacked"
        assert watched.run("document.getElementById('foreign').naturalWidth") == 0
        assert sum("Content Security Policy" in fault for fault in watched.faults) == 2
        assert server.asked == []
        watched.context.close()


@pytest.mark.slow
def test_galleries_and_the_large_view_by_keyboard(chromium: Any, report_page: Path) -> None:
    watched = Watched(chromium, report_page, viewport={"width": 1280, "height": 800})
    page, focused = watched.page, "document.activeElement.closest('.gallery') && document.activeElement.dataset.picture"
    page.keyboard.press("Tab")
    assert "Skip to the content" in watched.run("document.activeElement.textContent")
    gallery = page.locator(".gallery[aria-label='just kept']")
    names = gallery.locator(".shot").evaluate_all("(shots) => shots.map((shot) => shot.dataset.picture)")
    assert gallery.locator(".shot[tabindex='0']").count() == 1  # one stop of the Tab key
    gallery.locator(".shot").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert watched.run(focused) == names[1]
    page.keyboard.press("ArrowDown")
    assert names.index(watched.run(focused)) > 1
    page.keyboard.press("ArrowUp")
    assert watched.run(focused) == names[1]
    page.keyboard.press("End")
    assert watched.run(focused) == names[-1]
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert watched.run("document.getElementById('lightbox').open")
    page.keyboard.press("ArrowRight")
    assert page.locator("#lightbox .count").inner_text() == f"2 of {len(names)}"
    facts = page.locator("#lightbox dd").all_inner_texts()
    assert any(text in HOSTILE for text in facts)
    page.keyboard.press("Escape")
    assert not watched.run("document.getElementById('lightbox').open")
    assert watched.is_soon(f"({focused}) === '{names[1]}'")  # the dialog tells that it closed a moment later
    assert watched.faults == []
    watched.context.close()


@pytest.mark.slow
def test_a_threshold_can_be_tried(chromium: Any, report_page: Path) -> None:
    watched = Watched(chromium, report_page, viewport={"width": 1280, "height": 800})
    page, slider = watched.page, watched.page.locator(".try-out input")
    slider.focus()
    page.keyboard.press("End")
    assert "kept at 6.8" in page.locator(".try-out output").inner_text()
    page.keyboard.press("Home")
    assert page.locator("li.below").count() == 0
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    threshold = float(page.locator(".try-out output").inner_text().split("kept at ")[1].split(" ")[0])
    scores = np.linspace(3.2, 6.8, 29).astype(np.float32)
    assert f": {int((scores >= threshold).sum())} of 29" in page.locator(".try-out output").inner_text()
    shown = page.locator("li[data-score]").evaluate_all("(cards) => cards.map((card) => [card.dataset.score, card.className])")
    assert all(("below" in words) == (float(score) < threshold) for score, words in shown)
    page.locator("[data-clear]").click()
    assert page.locator("li.below").count() == 0
    chart = page.locator("svg[id^='kept-']")
    chart.focus()
    page.keyboard.press("Home")
    assert "29 kept, 100\N{NO-BREAK SPACE}%" in page.locator("[id^='kept-'][id$='-read']").inner_text()
    assert watched.faults == []
    watched.context.close()


@pytest.mark.slow
def test_colours_can_be_changed(chromium: Any, report_page: Path) -> None:
    watched = Watched(chromium, report_page, color_scheme="light")
    before = watched.run("getComputedStyle(document.body).backgroundColor")
    watched.page.locator("#theme").click()
    assert watched.run("getComputedStyle(document.body).backgroundColor") != before
    assert watched.page.locator("#theme").inner_text() == "Light"
    watched.context.close()


def test_heads_are_tabs_and_all_are_printed(chromium: Any, make_set: MakeSet, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    path = make_set({"v2": rng.normal(5, 0.5, 50), "v1": rng.normal(6, 0.5, 50)}, heads=[DEFAULT_HEAD, V1_HEAD])
    out = tmp_path / "two.html"
    report(path, out, no_thumbnails=True)
    watched = Watched(chromium, out)
    page = watched.page
    shown = "[...document.querySelectorAll('.head-section')].map((section) => section.checkVisibility())"
    assert watched.run(shown) == [True, False]
    page.locator("[role=tab]").first.focus()
    page.keyboard.press("ArrowRight")
    assert watched.run(shown) == [False, True]
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == V1_HEAD
    page.emulate_media(media="print")
    assert watched.run(shown) == [True, True]
    assert not page.locator(".bar").is_visible()
    assert watched.faults == []
    watched.context.close()


@pytest.mark.slow
def test_it_can_be_read_without_scripts(chromium: Any, report_page: Path) -> None:
    watched = Watched(chromium, report_page, java_script_enabled=False)
    assert watched.page.locator("#theme").is_hidden()
    assert watched.page.locator(".gallery img").first.is_visible()
    assert watched.page.locator("text=Choosing a threshold").first.is_visible()
    watched.context.close()


@pytest.mark.slow
def test_the_section_that_is_read_is_marked_and_the_slider_stays(chromium: Any, report_page: Path) -> None:
    for width in (1280, 390):
        watched = Watched(chromium, report_page, viewport={"width": width, "height": 800}, reduced_motion="reduce")
        page = watched.page
        current = "[...document.querySelectorAll('.bar a[aria-current]')].map((link) => link.hash)"
        assert watched.run(current) == ["#summary"]
        tries = 0
        for place in ("#scores-0", "#border-0", "#advice-0", "#gallery-0"):
            link = page.locator(f".bar a[href='{place}']")
            link.click()
            while not watched.is_soon(f"({current}).join() === '{place}'", 4):  # pictures above came meanwhile, and moved it
                assert (tries := tries + 1) < 5
                link.click()
            slider = page.locator(".try-out").bounding_box()
            heading = page.locator(place).bounding_box()
            box = link.bounding_box()
            assert 0 <= box["x"] <= box["x"] + box["width"] <= width
            if place != "#scores-0":  # the heading is under neither bar, and the slider is there
                assert heading["y"] >= slider["y"] + slider["height"] > slider["y"] >= box["y"] + box["height"]
        page.locator(".bar a[href='#provenance']").click()
        assert watched.is_soon(f"({current}).join() === '#provenance'")
        assert page.locator(".try-out").bounding_box()["y"] < 0
        assert watched.faults == []
        watched.context.close()


@pytest.mark.parametrize("at", mostly_slow([3.25, 5, 6.75]))
def test_the_label_of_the_threshold_is_whole_and_on_no_curve(
    chromium: Any, make_set: MakeSet, tmp_path: Path, at: float
) -> None:
    out = tmp_path / "report.html"
    report(make_set({"aesthetic_score": np.linspace(3.2, 6.8, 300)}), out, at=at, no_thumbnails=True)
    watched = Watched(chromium, out, viewport={"width": 390, "height": 800})
    boxes = watched.run(
        """() => [...document.querySelectorAll(".chart > svg")].map((svg) => ["text.cut-text", ".line, .bars"].map((what) => {
          const {left, top, width} = svg.getBoundingClientRect();
          return [...svg.querySelectorAll(what)].map((item) => item.getBoundingClientRect())
            .map((box) => [box.left - left, box.right - left, box.top - top, box.bottom - top, width]);
        }))"""
    )
    assert len(boxes) == 3
    for labels, drawn in boxes:
        ((left, right, top, bottom, width),) = labels
        assert left >= 0
        assert right <= width
        assert top >= 0
        assert all(bottom <= box[2] + 1 for box in drawn if box[1] > box[0])
    watched.context.close()


@pytest.mark.slow
def test_table_cards_are_of_one_colour_in_light_and_dark(chromium: Any, report_page: Path) -> None:
    for scheme in ("light", "dark"):
        watched = Watched(chromium, report_page, color_scheme=scheme)
        colours = watched.run(
            "[...document.querySelectorAll('.card, .scroll')].map((item) => getComputedStyle(item).backgroundColor)"
        )
        assert len(set(colours)) == 1
        watched.context.close()


@pytest.mark.slow
def test_ratio_bars_on_a_phone(chromium: Any, make_set: MakeSet, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    languages = rng.choice(["de", "en", "a language with a long name that takes more than one line"], 900)
    scores = rng.normal(5, 0.5, 900) + 0.5 * (languages == "de")
    out = tmp_path / "report.html"
    report(make_set({"aesthetic_score": scores}, columns={"language": languages}), out, at=5, no_thumbnails=True)
    watched = Watched(chromium, out, viewport={"width": 390, "height": 800})
    rows = watched.run(
        """() => [...document.querySelectorAll("details[open] .price tbody tr")].map((row) =>
          [...row.querySelectorAll("th, td:not(.thin), svg")].map((cell) => cell.getBoundingClientRect())
            .map((box) => [box.left, box.right, box.height]))"""
    )
    assert len(rows) == 3
    for cells in rows:
        assert all(0 <= left <= right <= 390 for left, right, _ in cells)
    bars = watched.run(
        "[...document.querySelectorAll('details[open] svg.forest')].map((bar) => bar.getBoundingClientRect().width)"
    )
    assert min(bars) > 250
    watched.context.close()


@pytest.fixture
def evaluation_page(tmp_path: Path) -> Path:
    """Three heads on 1,300 ratings of pictures with hostile names, by group, with an odd rating."""
    rng = np.random.default_rng(2)
    truth = rng.standard_normal(1300)
    truth[5] = 9
    names = [f"{HOSTILE[row % 5]}/{row}" for row in range(1300)]
    heads = {
        name: truth * (np.arange(1300) != 5) + spread * rng.standard_normal(1300)
        for name, spread in (("a", 1), ("b", 1.1), ("c", 2))
    }
    pl.DataFrame({"sample": names, **heads}).write_parquet(tmp_path / "scores.parquet")
    groups = [HOSTILE[row % 3] for row in range(1300)]
    pl.DataFrame({"image": names, "rating": truth, "subject": groups}).write_parquet(tmp_path / "ratings.parquet")
    out = tmp_path / "evaluation.html"
    write_evaluation(
        EvaluateOptions(
            sources=(str(tmp_path / "scores.parquet"),), ratings=str(tmp_path / "ratings.parquet"), score_column=tuple(heads),
            rating_column="rating", by=("subject",), out=str(out), title=HOSTILE[1],
        )
    )  # fmt: skip
    return out


@pytest.mark.parametrize("scheme", mostly_slow(["light", "dark"]))
@pytest.mark.parametrize("width", [1280, 390])
def test_an_evaluation_shows_without_complaints(chromium: Any, evaluation_page: Path, width: int, scheme: str) -> None:
    watched = Watched(chromium, evaluation_page, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert watched.run("document.documentElement.scrollWidth") <= width
    assert watched.run(_CONTRAST) == []
    page = watched.page
    shown = "[...document.querySelectorAll('.head-section')].map((section) => section.checkVisibility())"
    assert watched.run(shown) == [True, False, False]
    page.locator("[role=tab]").first.focus()
    page.keyboard.press("ArrowRight")
    assert watched.run(shown) == [False, True, False]
    page.locator("#calibration-1").focus()
    page.keyboard.press("Home")
    assert page.locator("#calibration-1-read").inner_text().startswith("score ")
    assert ": mean rating " in page.locator("#calibration-1-read").inner_text()
    assert HOSTILE[0] in page.locator("#by").inner_text()
    assert watched.faults == []
    watched.context.close()

"""What the page opens with, and how numbers are told apart in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import beholder
from beholder.models.catalog import DEFAULT_HEAD
from beholder.reporting.charts import digits_apart, numbers_apart
from beholder.reporting.heads import bucket_edges, buckets
from beholder.scoreset.numbers import HeadNumbers
from oracles.html_page import Element, Page
from oracles.report_page import MakeSet, page_of, shown
from oracles.score_records import V1_HEAD


def sentences(page: Page) -> list[str]:
    return [line.text for line in page.root.all("p", class_="lead-line")]


def places(page: Page) -> list[tuple[str, dict[str, str | None]]]:
    """Tags and attributes in the order of the page."""
    return [(item.tag, item.attributes) for item in page.elements]


def test_a_threshold_opens_with_what_it_keeps_before_any_table(make_set: MakeSet, tmp_path: Path) -> None:
    scores = np.random.default_rng(2).normal(4.8, 0.6, 1000).astype(np.float32)
    page = page_of(str(make_set({"aesthetic_score": scores})), folder=tmp_path, at=5, no_thumbnails=True)
    kept = int((scores >= 5).sum())
    assert sentences(page)[0] == (
        f"At 5.0, {kept} of 1,000 pictures stay: the best {100 * kept / 1000:.1f} %; of LAION-2B-en, 25 % score as high."
    )
    names = [f"photos/{row:05d}.jpg" for row in range(1000)]
    order = np.argsort(scores, kind="stable")
    assert shown(page, "just kept, the first few") == [names[row] for row in order[-kept:][:6]]
    assert shown(page, "just dropped, the first few") == [names[row] for row in order[:-kept][::-1][:6]]
    found = places(page)
    first_table = next(at for at, (tag, _) in enumerate(found) if tag == "table")
    for tag, wanted in (("svg", {"id": "histogram-0"}), ("ul", {"aria-label": "just dropped, the first few"})):
        assert next(i for i, (t, a) in enumerate(found) if t == tag and wanted.items() <= a.items()) < first_table


def test_without_a_threshold_it_opens_with_the_spread(make_set: MakeSet, tmp_path: Path) -> None:
    scores = np.linspace(3, 7, 101, dtype=np.float32)
    page = page_of(str(make_set({"aesthetic_score": scores})), folder=tmp_path, no_thumbnails=True)
    assert sentences(page) == [
        "101 pictures score from 3.00 to 7.00; half of them lie between 4.00 and 6.00, the middle one at 5.00."
    ]
    assert shown(page, "highest, the first few") == [f"photos/{row:05d}.jpg" for row in range(100, 94, -1)]
    assert shown(page, "lowest, the first few") == [f"photos/{row:05d}.jpg" for row in range(6)]


@pytest.mark.slow
def test_small_sets_and_several_heads(make_set: MakeSet, tmp_path: Path) -> None:
    one = page_of(str(make_set({"aesthetic_score": [5.25]})), folder=tmp_path, no_thumbnails=True)
    assert sentences(one) == ["One picture is scored: 5.250."]
    assert "beyond" not in one.root.one("p", id="histogram-0-summary").text
    none = page_of(str(make_set({"aesthetic_score": [np.nan, np.nan]})), folder=tmp_path, no_thumbnails=True)
    assert sentences(none) == ["No picture has a score."]
    alike = page_of(str(make_set({"aesthetic_score": [5.0] * 3})), folder=tmp_path, no_thumbnails=True)
    assert sentences(alike) == ["All 3 pictures score 5.000."]
    path = make_set({"v2": [4.0, 6.0], "v1": [np.nan, 7.0]}, heads=[DEFAULT_HEAD, V1_HEAD])
    two = page_of(str(path), folder=tmp_path, no_thumbnails=True)
    assert [line.one("bdi").text for line in two.root.all("p", class_="lead-line")] == [DEFAULT_HEAD, V1_HEAD]
    assert len(two.root.all("div", class_="lead")) == 2


def test_a_selection_opens_with_what_it_keeps(make_set: MakeSet, tmp_path: Path) -> None:
    scores = np.linspace(4, 6, 40, dtype=np.float32)
    path, decisions = make_set({"aesthetic_score": scores}), tmp_path / "decisions.parquet"
    with beholder.select(path, top=10) as selection:
        pq.write_table(selection.decisions(), decisions)
    page = page_of(str(path), folder=tmp_path, selection=decisions, no_thumbnails=True)
    assert sentences(page) == [
        "The selection keeps 10 of 40 pictures: 25.0 %.",
        "40 pictures score from 4.00 to 6.00; half of them lie between 4.50 and 5.50, the middle one at 5.00.",
    ]
    assert shown(page, "last to stay, the first few") == [f"photos/{row:05d}.jpg" for row in range(30, 36)]
    assert "second colour" in page.root.one("p", id="histogram-0-summary").text


@pytest.mark.slow
def test_a_selection_does_not_open_with_the_price_of_its_bare_threshold(make_set: MakeSet, tmp_path: Path) -> None:
    """200 of 300 reach 5, all of one kind; the selection keeps 30 of those, so "66.7 % of all" stay by the threshold only."""
    scores = np.concatenate([np.full(200, 6.0), np.full(100, 4.0)]).astype(np.float32)
    metadata = tmp_path / "kinds.csv"
    rows = "".join(f"photos/{row:05d}.jpg,{'field' if row < 200 else 'cell'}\n" for row in range(300))
    metadata.write_text(f"sample,kind\n{rows}")
    path, decisions = make_set({"aesthetic_score": scores}), tmp_path / "decisions.parquet"
    with beholder.select(path, min_score=5, top=30) as selection:
        pq.write_table(selection.decisions(), decisions)
    more = {"join": str(metadata), "no_thumbnails": True}
    opening = "The selection keeps 30 of 300 pictures: 10.0 %."
    page = page_of(str(path), folder=tmp_path, selection=decisions, **more)
    assert sentences(page) == [
        opening,
        "300 pictures score from 4.00 to 6.00; half of them lie between 4.00 and 6.00, the middle one at 6.00.",
    ]
    kept = "At 5.0, 200 of 300 pictures stay: the best 66.7 %; of LAION-2B-en, 25 % score as high."
    page = page_of(str(path), folder=tmp_path, selection=decisions, at=5, **more)
    assert sentences(page) == [opening, kept]
    alone = sentences(page_of(str(path), folder=tmp_path, at=5, **more))
    assert alone[0] == kept
    assert "whose kind is cell are dropped most: 0 % of these 100 stay" in alone[1]


def links_and_headings(page: Page) -> tuple[list[str], list[str]]:
    menu = [link.attributes["href"] or "" for link in page.root.one("nav", class_="bar").all("a")]
    order = [f"#{item.attributes['id']}" for item in page.elements if f"#{item.attributes.get('id')}" in menu]
    return menu, order


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("has_all", [False, True])
def test_the_menu_is_in_the_order_of_the_page(make_set: MakeSet, tmp_path: Path, heads: int, has_all: bool) -> None:
    scores = np.linspace(4, 6, 40, dtype=np.float32)
    columns = {f"score{number}": scores for number in range(heads)}
    path, more = make_set(columns, heads=[DEFAULT_HEAD, V1_HEAD][:heads]), {}
    if has_all:
        more = {"selection": tmp_path / "decisions.parquet", "groups": tmp_path / "groups.parquet"}
        with beholder.select(path, top=10, score="score0") as selection:
            pq.write_table(selection.decisions(), more["selection"])
        pair = {"group": [0, 0], "sample": ["photos/00000.jpg", "photos/00001.jpg"], "kept": [True, False]}
        pq.write_table(pa.table(pair), more["groups"])
    page = page_of(str(path), folder=tmp_path, no_thumbnails=True, **more)
    menu, order = links_and_headings(page)
    assert menu == order
    assert len(menu) >= 4


def test_scores_at_the_border_differ_from_the_cut_and_each_other(make_set: MakeSet, tmp_path: Path) -> None:
    near = np.float32(5) - np.arange(1, 4, dtype=np.float32) * np.float32(4.8e-7)
    scores = np.concatenate([near, [np.float32(5), np.float32(5.0000005), 5.0001]]).astype(np.float32)
    page = page_of(str(make_set({"aesthetic_score": scores})), folder=tmp_path, at=5, no_thumbnails=True)

    def labels(gallery: str) -> list[str]:
        (found,) = [item for item in page.root.all("ul") if item.attributes.get("aria-label") == gallery]
        return [shot.all("b")[0].text for shot in found.all("button", class_="shot")]

    told = [*labels("just kept"), *labels("just dropped")]
    assert len(set(told)) == 6
    assert [float(text) >= 5 for text in told] == [True] * 3 + [False] * 3


def test_digits_that_tell_numbers_apart() -> None:
    assert digits_apart([5.1, 5.2]) == 3
    assert digits_apart([5.00012, 5.00018]) == 4
    assert digits_apart([5.0, 5.0]) == 3
    assert digits_apart([]) == 3
    assert numbers_apart([4.0, 4.5]) == ["4", "4.5"]
    assert numbers_apart([4.123451, 4.123452]) == ["4.123451", "4.123452"]


def test_scores_that_lie_close_are_parted_by_count() -> None:
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.normal(5, 0.0004, 5000), rng.uniform(0, 10, 60)]).astype(np.float32)
    numbers = HeadNumbers("s", None, scores)
    counts = numbers.histogram().counts
    assert counts.sum() == len(scores)
    assert counts.max() < 0.25 * len(scores)
    found = buckets(numbers, scores, 4, 0)
    assert sum(bucket.count for bucket in found) == len(scores)
    assert len(found) == 8
    assert max(bucket.count for bucket in found) < 0.14 * len(scores)
    for bucket in found:
        inside = (scores >= np.float32(bucket.low)) & (scores < np.float32(bucket.high))
        assert inside.sum() == bucket.count


def test_each_step_of_the_slider_says_another_threshold(make_set: MakeSet, tmp_path: Path) -> None:
    scores = np.random.default_rng(5).normal(5, 0.0004, 2000).astype(np.float32)
    page = page_of(str(make_set({"aesthetic_score": scores})), folder=tmp_path, no_thumbnails=True)
    words = [step[2].split(" or more")[0] for step in page.json("try-0-steps")]
    assert len(set(words)) == len(words) > 100
    for chart in ("histogram-0-reads", "kept-0-reads"):
        told = [read[1].split(":")[0] for read in page.json(chart)]
        assert len(set(told)) == len(told) > 20


def test_usual_scores_are_parted_at_half_points_and_ties_stay_together() -> None:
    usual = np.random.default_rng(4).normal(5, 0.8, 3000).astype(np.float32)
    assert set(np.diff(bucket_edges(HeadNumbers("s", None, usual)))) == {0.5}
    tied = np.concatenate([np.full(900, 5.0), np.linspace(4, 6, 100)]).astype(np.float32)
    found = buckets(HeadNumbers("s", None, tied), tied, 4, 0)
    assert sum(bucket.count for bucket in found) == 1000


def test_first_legend_entries_have_a_swatch(make_set: MakeSet, tmp_path: Path) -> None:
    page = page_of(str(make_set({"aesthetic_score": np.linspace(4, 6, 40)})), folder=tmp_path, at=5, no_thumbnails=True)
    legends: list[Element] = page.root.all("ul", class_="legend")
    assert len(legends) == 3
    assert all(item.all("svg") for legend in legends for item in legend.all("li"))

"""The page: well-formed, self-contained, escaped, and its numbers are those of the score set."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.errors import InputError, OutputError
from beholder.models.registry import DEFAULT_HEAD
from beholder.reporting.api import report
from oracles.html_page import Page
from oracles.score_records import HOSTILE, V1_HEAD


def test_the_page_is_called_html(tmp_path: Path) -> None:
    table = pa.table({"sample": ["a"], "aesthetic_score": [5.0]})
    with pytest.raises(OutputError, match=r"x\.txt: the page is an HTML file"):
        report(table, tmp_path / "x.txt")
    assert not list(tmp_path.iterdir())


MakeSet = Callable[..., Path]


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
    """What holds for every page."""
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
    return np.random.default_rng(seed).normal(4.9, 0.7, num_rows).astype(np.float32)


def test_numbers_in_the_page_are_those_of_pandas(make_set: MakeSet, tmp_path: Path) -> None:
    scores = some_scores(500)
    path = make_set({"aesthetic_score": scores}, rejects=[("photos/bad.jpg", "truncated", "it breaks off")])
    page = page_of(str(path), folder=tmp_path, at=5, no_thumbnails=True)
    series = pd.Series(scores.astype(np.float64))
    header, line = table_rows(page, "Moments")
    found = dict(zip(header, line, strict=True))
    assert found["head"] == DEFAULT_HEAD
    assert found["scored"] == "500"
    wanted = {
        "mean": series.mean(),
        "sd": series.std(ddof=0),
        "min": series.min(),
        "max": series.max(),
        "median": series.median(),
    }
    wanted |= {f"{100 * q:g} %": series.quantile(q) for q in (0.01, 0.05, 0.25, 0.75, 0.95, 0.99)}
    assert {name: found[name] for name in wanted} == {name: f"{value:.3f}" for name, value in wanted.items()}
    tiles = [(tile.all("b")[0].text, tile.all("span")[0].text) for tile in page.root.one("ul", class_="tiles").all("li")]
    kept = int((series >= 5).sum())
    assert ("501", "read") in tiles
    assert ("500", "scored") in tiles
    assert ("1", "rejected") in tiles
    assert (f"{100 * kept / 500:.1f} %", f"{kept} kept at 5 or more; LAION-2B-en 25.3 %") in tiles
    grid = {row[0]: row[1:] for row in table_rows(page, "What a threshold keeps")[1:]}
    assert grid["5"] == [f"{100 * kept / 500:.1f} %", str(kept), "25.3 %"]
    for threshold, (_, count, _) in grid.items():
        assert int(count.replace(",", "")) == int((series >= float(threshold)).sum())
    assert [row.inside[0].text for row in page.root.all("tr", class_="chosen")] == ["5"]


def test_galleries_hold_the_right_pictures(make_set: MakeSet, tmp_path: Path) -> None:
    scores = np.round(some_scores(400), 1).astype(np.float32)  # many ties
    samples = [f"photos/{name:05d}.jpg" for name in np.random.default_rng(5).permutation(400)]
    page = page_of(str(make_set({"aesthetic_score": scores}, samples)), folder=tmp_path, at=5, no_thumbnails=True, per_bucket=7)
    frame = pd.DataFrame({"sample": samples, "score": scores.astype(np.float64)})
    down, up = [False, True], [True, True]
    assert shown(page, "best") == frame.sort_values(["score", "sample"], ascending=down)["sample"].head(18).tolist()
    assert shown(page, "worst") == frame.sort_values(["score", "sample"], ascending=up)["sample"].head(18).tolist()
    above, below = frame[frame.score >= 5], frame[frame.score < 5]
    assert shown(page, "just kept") == above.sort_values(["score", "sample"], ascending=up)["sample"].head(12).tolist()
    assert shown(page, "just dropped") == below.sort_values(["score", "sample"], ascending=down)["sample"].head(12).tolist()
    by_name = frame.set_index("sample")["score"]
    counts = (np.floor(frame.score * 2) / 2).value_counts()
    for low, count in counts.items():
        label = f"score {low:g} to {low + 0.5:g}"
        names = shown(page, label)
        assert len(names) == min(7, count)
        assert all(low <= by_name[name] < low + 0.5 for name in names)
        assert f"{count} pictures" in page.root.one("section", **{"aria-labelledby": heading_of(page, label)}).text


def heading_of(page: Page, label: str) -> str:
    (heading,) = [item for item in page.root.all("h4") if f"score {item.text}" == label]
    return heading.attributes["id"] or ""


def test_thumbnails_are_the_pictures(make_set: MakeSet, photographs: Path, tmp_path: Path) -> None:
    names = sorted(str(path) for path in photographs.iterdir())
    gone = str(photographs / "gone.jpg")
    scores = np.linspace(3, 7, 25, dtype=np.float32)
    page = page_of(str(make_set({"aesthetic_score": scores}, [*names, gone])), folder=tmp_path, at=5)
    images = {button.attributes["data-picture"]: button.all("img") for button in page.root.all("button", class_="shot")}
    pictures = page.json("pictures")
    assert len(images) == 25
    for key, found in images.items():
        name = pictures[key]["name"]
        if name == gone:
            assert not found
            continue
        data = base64.b64decode((found[0].attributes["src"] or "").split(",", 1)[1])
        with Image.open(io.BytesIO(data)) as small, Image.open(name) as whole:
            assert small.size == whole.size  # they are small as they are
            assert np.abs(np.asarray(small.convert("RGB"), int) - np.asarray(whole.convert("RGB"), int)).mean() < 12
    blank = page.root.all("span", class_="blank")
    assert {item.all("b")[0].text for item in blank} == {"missing"}
    assert any("1 of the 25 pictures chosen for this page could not be shown: 1 missing" in p.text for p in page.root.all("p"))


def test_text_from_data_is_escaped(make_set: MakeSet, tmp_path: Path) -> None:
    columns = {"caption": list(HOSTILE), HOSTILE[1]: [HOSTILE[0]] * len(HOSTILE)}
    path = make_set(
        {"aesthetic_score": np.linspace(4, 6, len(HOSTILE))},
        HOSTILE,
        heads=["</script><script>alert('head')</script>"],
        columns=columns,
        rejects=[(HOSTILE[0], "truncated", HOSTILE[1]), (HOSTILE[1], "<b>reason</b>", HOSTILE[0])],
        record={"software": {"<i>torch</i>": HOSTILE[0]}, "options": {"--x": HOSTILE[3]}},
    )
    groups = tmp_path / "groups.parquet"
    pq.write_table(pa.table({"group": [0] * len(HOSTILE), "sample": list(HOSTILE), "kept": [True, *[False] * 4]}), groups)
    page = page_of(str(path), folder=tmp_path, at=5, groups=groups, title=HOSTILE[0])
    scripts = [item for item in page.elements if item.tag == "script"]
    assert all(item.attributes.get("type") == "application/json" for item in scripts[:-1])
    assert "alert" not in "".join(scripts[-1].texts)
    assert not [item for item in page.elements if item.tag == "b" and item.text == "reason"]
    names = [picture["name"] for picture in page.json("pictures").values()]
    assert set(HOSTILE) <= set(names)
    assert page.root.one("h1").text == " ".join(HOSTILE[0].split())
    assert "{{ 7*7 }}&amp;" in page.root.text
    assert "49" not in [code.text for code in page.root.all("bdi")]


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_few_rows(make_set: MakeSet, tmp_path: Path, num_rows: int) -> None:
    page = page_of(str(make_set({"aesthetic_score": some_scores(num_rows)})), folder=tmp_path, at=5)
    assert len(page.json("pictures")) == num_rows
    assert len(page.root.all("svg", role="slider")) == (3 if num_rows else 0)
    assert ("There are no scores" in page.root.text) == (num_rows == 0)


def test_all_rejected(make_set: MakeSet, tmp_path: Path) -> None:
    rejects = [(f"photos/{i}.jpg", reason, f"message {i}") for i, reason in enumerate(["truncated"] * 9 + ["missing"])]
    page = page_of(str(make_set({"aesthetic_score": []}, rejects=rejects)), folder=tmp_path)
    rows = table_rows(page, "Reasons")
    assert [row[:2] for row in rows[1:]] == [["truncated", "9"], ["missing", "1"]]
    assert "10 of 10 were read and not scored" in page.root.one("section", id="rejects").text
    examples = page.root.one("section", id="rejects").all("dt")
    assert [item.text for item in examples] == [f"photos/{i}.jpg" for i in (0, 1, 2, 3, 4, 5, 9)]


def test_rows_without_a_score_are_told(make_set: MakeSet, tmp_path: Path) -> None:
    scores = np.array([5, np.nan, 4, np.inf, -np.inf, 6], np.float32)
    page = page_of(str(make_set({"aesthetic_score": scores})), folder=tmp_path, no_thumbnails=True)
    header, line = table_rows(page, "Moments")
    assert line[1] == "3"
    assert dict(zip(header, line, strict=True))["mean"] == "5.000"
    assert "2 infinite scores" in page.root.text
    assert len(page.json("pictures")) == 3


def test_several_heads_have_a_section_each(make_set: MakeSet, tmp_path: Path) -> None:
    first, second = some_scores(100, 1), some_scores(100, 2)
    path = make_set({"v2": first, "v1": second}, heads=[DEFAULT_HEAD, V1_HEAD])
    page = page_of(str(path), folder=tmp_path, at=5, no_thumbnails=True)
    rows = table_rows(page, "Moments")
    assert [row[0] for row in rows[1:]] == [DEFAULT_HEAD, V1_HEAD]
    assert [row[2] for row in rows[1:]] == [f"{first.mean(dtype=float):.3f}", f"{second.mean(dtype=float):.3f}"]
    assert [tab.text for tab in page.root.all("button", role="tab")] == [DEFAULT_HEAD, V1_HEAD]
    assert len(page.root.all("section", role="tabpanel")) == 2
    assert len(page.root.all("svg", role="slider")) == 6


def test_other_peoples_tables(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"URL": [f"https://example.org/{i}.jpg?sig=secret" for i in range(40)], "AESTHETIC_SCORE": some_scores(40)}
    )
    frame.to_parquet(tmp_path / "laion.parquet")
    page = page_of(tmp_path / "laion.parquet", folder=tmp_path, no_thumbnails=True)
    assert table_rows(page, "Moments")[1][0] == DEFAULT_HEAD
    assert len(page.json("pictures")) == 40
    frame.rename(columns={"AESTHETIC_SCORE": "points"}).to_csv(tmp_path / "own.csv", index=False)
    page = page_of(tmp_path / "own.csv", folder=tmp_path, score_column="points", no_thumbnails=True)
    assert table_rows(page, "Moments")[1][0] == "points"


def test_data_frames_give_the_same_page(make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    frame = pd.DataFrame(
        {"sample": [f"a/{i}.jpg" for i in range(50)], "aesthetic_score": some_scores(50), "kind": ["x", "y"] * 25}
    )
    pages = []
    for scores in (frame, pl.from_pandas(frame), pl.from_pandas(frame).lazy(), pa.Table.from_pandas(frame)):
        out = tmp_path / "frame.html"
        report(scores, out, overwrite=True, no_thumbnails=True)
        pages.append(out.read_bytes())
    assert pages[0] == pages[1] == pages[2] == pages[3]
    assert b"2023-11-14" in pages[0]
    with pytest.raises(TypeError, match="not list"):
        report([1, 2], tmp_path / "x.html")
    with pytest.raises(TypeError, match="no option 'colour'"):
        report(frame, tmp_path / "x.html", colour="red")


def test_a_selection_is_shown(make_set: MakeSet, tmp_path: Path) -> None:
    scores = some_scores(300)
    path = make_set({"aesthetic_score": scores}, columns={"kind": ["a", "b", "c"] * 100})
    decisions, kept, rank = tmp_path / "decisions.parquet", *decided(scores)
    record = {
        "format": "beholder-selection",
        "rules": {"where": ["kind = 'a'"], "min_score": 5.0},
        "funnel": [
            {
                "rule": "where",
                "text": "where kind <> 'a'",
                "rows_in": 300,
                "dropped": 100,
                "left": 200,
                "threshold": None,
                "note": "",
            },
            {"rule": "min_score", "text": "score >= 5", "rows_in": 200, "dropped": 200 - kept.sum(), "left": kept.sum()},
        ],
    }
    reasons = np.where(kept, None, np.where(np.arange(300) % 3 == 0, "where", "min_score"))
    table = pa.table(
        {"sample": [f"photos/{i:05d}.jpg" for i in range(300)], "rank": rank, "kept": kept, "dropped_by": reasons.tolist()}
    )
    pq.write_table(table.replace_schema_metadata({b"beholder": json.dumps(record, default=int).encode()}), decisions)
    page = page_of(path, folder=tmp_path, selection=decisions, no_thumbnails=True)
    rows = table_rows(page, "Rules")
    assert rows[1] == ["where kind <> 'a'", "300", "100", "200"]
    assert rows[2] == ["score >= 5", "200", str(200 - kept.sum()), str(kept.sum())]
    order = np.argsort(rank)
    names = table.column("sample").to_pylist()
    assert shown(page, "just kept") == [names[row] for row in order[::-1] if kept[row]][:12]
    for label, rule in (("just dropped", "min_score"), ("best that other rules dropped", "where")):
        assert shown(page, label) == [names[row] for row in order if reasons[row] == rule][:12]
        tags = page.root.one("ul", **{"aria-label": label}).all("span", class_="tag")
        assert {tag.text for tag in tags} == {rule.replace("_", " ")}
    assert len(page.root.all("g", class_="kept")) == 2  # the bars, and the legend's
    assert [row.inside[0].text for row in page.root.all("tr", class_="chosen")] == ["5"]


def decided(scores: Any) -> tuple[Any, Any]:
    kept = (np.arange(len(scores)) % 3 != 0) & (scores >= 5)
    rank = np.empty(len(scores), np.uint32)
    rank[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return kept, rank


def test_a_selection_of_other_scores_is_refused(make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set({"aesthetic_score": some_scores(3)})
    decisions = tmp_path / "decisions.parquet"
    for table, words in (
        ({"sample": ["x"] * 4, "kept": [True] * 4}, "4 rows, the scores have 3"),
        ({"sample": ["x", "y", "z"], "kept": [True] * 3}, "of another score set"),
        ({"sample": ["x", "y", "z"]}, "no column 'kept'"),
    ):
        pq.write_table(pa.table(table), decisions)
        with pytest.raises(InputError, match=words):
            report(path, tmp_path / "x.html", selection=decisions)
    with pytest.raises(InputError, match="does not exist"):
        report(path, tmp_path / "x.html", selection=tmp_path / "none.parquet")


def test_near_duplicate_groups_are_shown(make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set({"aesthetic_score": np.linspace(4, 6, 30)})
    groups = tmp_path / "groups.parquet"
    members = [
        (7, 3, 1.0, True),
        (7, 4, 0.97, False),
        (2, 5, 1.0, True),
        (2, 6, 0.98, False),
        (2, 8, 0.99, False),
        (2, 99, 0.96, False),
    ]
    table = {
        "group": [group for group, *_ in members],
        "sample": [f"photos/{row:05d}.jpg" for _, row, *_ in members],
        "similarity": pa.array([similarity for _, _, similarity, _ in members], pa.float32()),
        "kept": [kept for *_, kept in members],
        "row": [row for _, row, *_ in members],
    }
    pq.write_table(pa.table(table), groups)
    page = page_of(path, folder=tmp_path, groups=groups, no_thumbnails=True)
    section = page.root.one("section", id="duplicates")
    assert "2 groups hold 6 pictures, of which 4 go" in section.text
    pictures = page.json("pictures")
    found = [
        [pictures[shot.attributes["data-picture"]]["name"][-9:-4] for shot in gallery.all("button")]
        for gallery in section.all("ul", class_="gallery")
    ]
    assert found == [["00005", "00008", "00006", "00099"], ["00003", "00004"]]
    assert [tag.text for tag in section.all("span", class_="tag")][:3] == ["stays", "goes, 0.990 alike", "goes, 0.980 alike"]
    pq.write_table(pa.table({"sample": ["a"]}), groups)
    with pytest.raises(InputError, match="no column 'group'"):
        report(path, tmp_path / "x.html", groups=groups)


def test_provenance_tells_models_and_hides_secrets(make_set: MakeSet, tmp_path: Path) -> None:
    record = {
        "pictures": {"sources": ["s3://me:key@bucket/x?X-Amz-Signature=abc"], "folder": "/data"},
        "precision": {"device": "cpu"},
    }
    page = page_of(make_set({"aesthetic_score": [5.0]}, record=record), folder=tmp_path, no_thumbnails=True)
    text = page.root.one("section", id="provenance").text
    assert "ab" * 32 in text
    assert "openai/clip-vit-large-patch14" in text
    assert "device" in text
    assert "s3://bucket/x?…" in text
    assert "Signature" not in text
    assert "key@" not in text


def test_an_existing_file_stays(make_set: MakeSet, tmp_path: Path) -> None:
    path, out = make_set({"aesthetic_score": [5.0]}), tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        report(path, out, no_thumbnails=True)
    assert out.read_text() == "mine"
    report(path, out, no_thumbnails=True, overwrite=True)
    assert out.read_bytes().startswith(b"<!doctype html>")


def test_files_that_are_no_decisions_or_groups_are_refused_in_words(tmp_path: Path) -> None:
    scores, path = pa.table({"sample": ["a", "b"], "aesthetic_score": [1.0, 2.0]}), tmp_path / "d.parquet"
    for column, values in (("kept", ["yes", "no"]), ("kept", [[1], [2]]), ("rank", ["a", "b"]), ("dropped_by", [["a"], ["b"]])):
        pq.write_table(pa.table({"sample": ["a", "b"]} | {"kept": [True, False]} | {column: values}), path)
        with pytest.raises(InputError, match=f"column '{column}' is "):
            report(scores, tmp_path / "r.html", selection=path, no_thumbnails=True)
    pq.write_table(pa.table({"group": [[1], [1]], "sample": ["a", "b"], "kept": [True, False]}), path)
    assert page_of(scores, folder=tmp_path, groups=path, no_thumbnails=True).root.one("section", id="duplicates")


def test_what_the_page_is_made_of_is_not_replaced(make_set: MakeSet, tmp_path: Path) -> None:
    path = Path(make_set({"aesthetic_score": [5.0]}))
    file = path if path.is_file() else next(path.rglob("*.parquet"))
    before = file.read_bytes()
    (tmp_path / "same.html").symlink_to(file)
    for out in (file, tmp_path / "same.html"):
        with pytest.raises(OutputError, match="is what the page is made of"):
            report(file, out, no_thumbnails=True, overwrite=True)
    assert file.read_bytes() == before


def test_sources_that_are_gone_are_told(make_set: MakeSet, tmp_path: Path) -> None:
    record = {"pictures": {"sources": [str(tmp_path / "nowhere")], "folder": str(tmp_path)}}
    samples = [str(tmp_path / f"nowhere/{i}.jpg") for i in range(5)]
    page = page_of(make_set({"aesthetic_score": some_scores(5)}, samples, record=record), folder=tmp_path)
    assert not page.root.all("img")
    assert any("--pictures" in item.text for item in page.root.all("p", class_="warn"))


def test_a_million_rows_stay_below_ten_megabytes(photographs: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    for number in range(120):  # noise: what takes most bytes
        Image.fromarray(rng.integers(0, 256, (480, 480, 3), np.uint8)).save(photographs / f"noise{number}.jpg", quality=95)
    names = sorted(str(path) for path in photographs.glob("noise*"))
    samples = pa.DictionaryArray.from_arrays(pa.array(np.arange(1_000_000, dtype=np.int32) % 120), names).cast(
        pa.large_string()
    )
    scores = rng.normal(4.9, 0.7, 1_000_000).astype(np.float32)
    table = pa.table({"sample": samples, "aesthetic_score": scores})
    out = tmp_path / "million.html"
    summary = report(table, out, at=5, per_bucket=200)
    assert out.stat().st_size < 9_000_000
    assert summary.num_thumbnails + summary.missing.get("left_out", 0) == 120
    page = Page(out.read_text())
    check(page)
    header, line = table_rows(page, "Moments")
    wide = scores.astype(np.float64)
    assert dict(zip(header, line, strict=True))["median"] == f"{np.median(wide):.3f}"
    assert dict(zip(header, line, strict=True))["sd"] == f"{wide.std():.3f}"
    assert f"{int((wide >= 5).sum()):,} kept at 5 or more" in page.root.text
    small = report(table, tmp_path / "small.html", at=5, per_bucket=200, max_size=2_000_000)
    assert (tmp_path / "small.html").stat().st_size < 2_000_000
    assert small.thumbnail_px < summary.thumbnail_px or small.missing


def test_a_selection_of_one_head_says_nothing_of_the_other(make_set: MakeSet, tmp_path: Path) -> None:
    first, second = some_scores(60, 1), some_scores(60, 2)
    path = make_set({"v2": first, "v1": second}, heads=[DEFAULT_HEAD, V1_HEAD])
    record = {"rules": {"min_score": 5.3, "score": "laion-v2"}, "funnel": []}
    table = pa.table({"sample": [f"photos/{i:05d}.jpg" for i in range(60)], "kept": first >= 5.3})
    pq.write_table(table.replace_schema_metadata({b"beholder": json.dumps(record).encode()}), tmp_path / "d.parquet")
    page = page_of(path, folder=tmp_path, selection=tmp_path / "d.parquet", no_thumbnails=True)
    sections = page.root.all("section", class_="head-section")
    legends = [
        [item.text for item in section.all("li") if "the threshold" in item.text or "example" in item.text]
        for section in sections
    ]
    assert set(legends[0]) == {"the threshold"}
    assert set(legends[1]) == {"a threshold, as an example"}
    assert f"{int((first >= 5.3).sum())} of 60 rows stay" in page.root.one("section", id="selection").text


def test_a_head_can_be_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"sample": ["a", "b", "c"], "score": [4.0, 5.0, 6.0]})
    page = page_of(frame, folder=tmp_path, head="laion-v2", no_thumbnails=True)
    assert table_rows(page, "Moments")[1][0] == DEFAULT_HEAD
    assert table_rows(page, "What a threshold keeps")[0][-1] == "LAION-2B-en"
    two = pa.table({"sample": ["a"], "v2": pa.array([5.0], pa.float32()), "v1": pa.array([5.0], pa.float32())})
    record = {"score_columns": ["v2", "v1"], "heads": [{"name": DEFAULT_HEAD}, {"name": V1_HEAD}]}
    with pytest.raises(InputError, match="several"):
        report(two.replace_schema_metadata({b"beholder": json.dumps(record).encode()}), tmp_path / "x.html", head="laion-v2")


def test_a_csv_with_rejected_rows_in_place_counts_them_once(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_text("sample,aesthetic_score,status\na.jpg,5.5,ok\nb.jpg,,truncated\nc.jpg,4.5,ok\n")
    rejects = {"sample": ["b.jpg"], "stage": ["decode"], "reason": ["truncated"], "message": ["it breaks off"]}
    pq.write_table(pa.table(rejects), tmp_path / "scores.csv.rejects.parquet")
    page = page_of(tmp_path / "scores.csv", folder=tmp_path, at=5, no_thumbnails=True)
    tiles = [(tile.all("b")[0].text, tile.all("span")[0].text) for tile in page.root.one("ul", class_="tiles").all("li")]
    assert tiles[:3] == [("3", "read"), ("2", "scored"), ("1", "rejected")]


def test_members_of_groups_that_the_set_names_otherwise_are_told_without_scores(make_set: MakeSet, tmp_path: Path) -> None:
    path = make_set({"aesthetic_score": [4.0, 5.0, 6.0]})
    table = {"group": [1, 1], "sample": ["photos/00002.jpg", "another.jpg"], "similarity": [1.0, 0.99], "kept": [True, False]}
    pq.write_table(pa.table(table | {"row": [2, 1]}), tmp_path / "groups.parquet")
    page = page_of(path, folder=tmp_path, groups=tmp_path / "groups.parquet", no_thumbnails=True)
    shots = page.root.one("section", id="duplicates").all("button")
    assert [shot.all("b")[0].text for shot in shots] == ["6.000", "no score"]


def test_long_names_many_columns_and_many_pictures_do_not_swell_the_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    table: dict[str, Any] = {
        "sample": [f"{'long' * 5000}/{row}.jpg" for row in range(200)] + [f"{row}.jpg" for row in range(6000)],
        "aesthetic_score": pa.array(rng.normal(5, 0.7, 6200), pa.float32()),
    }
    table |= {f"column {number} {'name' * 40}": rng.integers(0, 3, 6200) for number in range(60)}
    table["text"] = ["words " * 10_000] * 200 + ["words"] * 6000
    page = page_of(pa.table(table), folder=tmp_path, per_bucket=1000, max_size=3_000_000, no_thumbnails=True)
    assert any("Fewer pictures of each bucket" in item.text for item in page.root.all("p"))
    assert all(len(picture["name"]) <= 501 for picture in page.json("pictures").values())
    for bucket in page.root.all("section"):
        heads = bucket.all("h4")
        if len(heads) == 1:
            assert bucket.all("button")

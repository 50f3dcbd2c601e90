"""The page: its numbers, galleries and thumbnails are those of the score set, texts are escaped, no file is replaced."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.errors import OutputError
from beholder.models.catalog import DEFAULT_HEAD
from beholder.reporting.report import report
from oracles.report_page import MakeSet, heading_of, page_of, shown, some_scores, table_rows
from oracles.score_records import HOSTILE


def test_the_page_is_called_html(tmp_path: Path) -> None:
    table = pa.table({"sample": ["a"], "aesthetic_score": [5.0]})
    with pytest.raises(OutputError, match=r"x\.txt: the page is an HTML file"):
        report(table, tmp_path / "x.txt")
    assert not list(tmp_path.iterdir())


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


def test_an_existing_file_stays(make_set: MakeSet, tmp_path: Path) -> None:
    path, out = make_set({"aesthetic_score": [5.0]}), tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        report(path, out, no_thumbnails=True)
    assert out.read_text() == "mine"
    report(path, out, no_thumbnails=True, overwrite=True)
    assert out.read_bytes().startswith(b"<!doctype html>")


def test_what_the_page_is_made_of_is_not_replaced(make_set: MakeSet, tmp_path: Path) -> None:
    path = Path(make_set({"aesthetic_score": [5.0]}))
    file = path if path.is_file() else next(path.rglob("*.parquet"))
    before = file.read_bytes()
    (tmp_path / "same.html").symlink_to(file)
    for out in (file, tmp_path / "same.html"):
        with pytest.raises(OutputError, match="is what the page is made of"):
            report(file, out, no_thumbnails=True, overwrite=True)
    assert file.read_bytes() == before

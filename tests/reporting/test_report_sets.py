"""Score sets of all kinds in a report: empty, rejected, infinite, of several heads, other people's, very large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.errors import InputError
from beholder.models.catalog import DEFAULT_HEAD
from beholder.reporting.report import report
from oracles.html_page import Page
from oracles.report_page import MakeSet, check, page_of, some_scores, table_rows
from oracles.score_records import V1_HEAD


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


@pytest.mark.slow
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


def test_sources_that_are_gone_are_told(make_set: MakeSet, tmp_path: Path) -> None:
    record = {"pictures": {"sources": [str(tmp_path / "nowhere")], "folder": str(tmp_path)}}
    samples = [str(tmp_path / f"nowhere/{i}.jpg") for i in range(5)]
    page = page_of(make_set({"aesthetic_score": some_scores(5)}, samples, record=record), folder=tmp_path)
    assert not page.root.all("img")
    assert any("--pictures" in item.text for item in page.root.all("p", class_="warn"))


@pytest.mark.soak
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
    summary = report(table, out, at=5, per_bucket=200, repeated="all")
    assert out.stat().st_size < 9_000_000
    assert summary.num_thumbnails + summary.missing.get("left_out", 0) == 120
    page = Page(out.read_text())
    check(page)
    header, line = table_rows(page, "Moments")
    wide = scores.astype(np.float64)
    assert dict(zip(header, line, strict=True))["median"] == f"{np.median(wide):.3f}"
    assert dict(zip(header, line, strict=True))["sd"] == f"{wide.std():.3f}"
    assert f"{int((wide >= 5).sum()):,} kept at 5 or more" in page.root.text
    small = report(table, tmp_path / "small.html", at=5, per_bucket=200, max_size=2_000_000, repeated="all")
    assert (tmp_path / "small.html").stat().st_size < 2_000_000
    assert small.thumbnail_px < summary.thumbnail_px or small.missing


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


@pytest.mark.slow
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

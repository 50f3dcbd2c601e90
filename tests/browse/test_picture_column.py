"""Sets whose pictures are at the addresses of a column; tables that are joined; conditions that hold from the start."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from beholder.browse.options import BrowseOptions
from beholder.browse.server import serving as serving_set
from beholder.cli.app import app
from beholder.errors import InputError
from oracles.browse_page import Open, wait_for_tiles
from oracles.browse_sets import Served, running, write_set
from oracles.made_pictures import encoded, smooth
from oracles.tiers import mostly_slow
from oracles.web import FileServer, serving

NUM_ROWS = 12
LOST, EMPTY, TURNED = 3, 5, 7
"""Rows whose picture is not on the server, that have no address, and whose picture EXIF turns."""


def picture(row: int) -> bytes:
    """A picture whose size tells the row."""
    from PIL import Image

    exif = Image.Exif()
    if row == TURNED:
        exif[0x0112] = 6
    return encoded(smooth(60 + row, 40), "JPEG", exif=exif)


@pytest.fixture(scope="module")
def web() -> Iterator[FileServer]:
    files = {f"p/{row:03d}.jpg": picture(row) for row in range(NUM_ROWS) if row != LOST}
    with serving(files, "image/jpeg") as found:
        yield found


@pytest.fixture
def url_set(web: FileServer, tmp_path: Path) -> Path:
    """Keys, URLs and captions; scores 8.0, 7.9, ..., so that rows come in their order."""
    rows = {
        "sample": [f"{row:06d}" for row in range(NUM_ROWS)],
        "aesthetic_score": (8 - np.arange(NUM_ROWS) / 10).astype(np.float32),
        "url": [f"{web.url}/p/{row:03d}.jpg" if row != EMPTY else None for row in range(NUM_ROWS)],
        "TEXT": [f"caption {row} <b>" if row != LOST else "lost & gone" for row in range(NUM_ROWS)],
    }
    return write_set(tmp_path / "urls.parquet", rows)


def served(path: Path, **more: Any) -> Any:
    options = BrowseOptions(scores=str(path), no_open=True, marks=str(path.parent / "m.jsonl"), **more)
    return running(options, path.parent)


def ask(server: Served, path: str, **parameters: Any) -> httpx.Response:
    return httpx.get(server.url + path.lstrip("/"), params=parameters, timeout=100)


def thumbnail(server: Served, row: int) -> httpx.Response:
    return ask(server, f"/thumb/{ask(server, '/api/set').json()['run']}/160/{row}")


def test_pictures_come_from_the_column_of_addresses(url_set: Path) -> None:
    with served(url_set) as server:
        told = ask(server, "/api/set").json()
        assert (told["picture_column"], told["caption_column"]) == ("url", "TEXT")
        found = ask(server, f"/picture/{told['run']}/2")
        assert found.content == picture(2)
        assert thumbnail(server, 2).status_code == 200
        lost, empty = thumbnail(server, LOST), thumbnail(server, EMPTY)
        assert (lost.status_code, empty.status_code) == (404, 404)
        assert lost.json()["error"].startswith("missing: ")
        assert empty.json()["error"] == "missing: column 'url' is empty for this row"


def test_a_picture_that_exif_turns_is_told_when_its_thumbnail_was_made(url_set: Path) -> None:
    with served(url_set) as server:
        assert ask(server, "/api/turned", rows=f"0,{TURNED}").json() == {"rows": []}
        for row in (0, TURNED):
            assert thumbnail(server, row).status_code == 200
        assert ask(server, "/api/turned", rows=f"0,{TURNED},{EMPTY},9999,x").json() == {"rows": [TURNED]}


def test_nothing_is_fetched_offline(url_set: Path, web: FileServer) -> None:
    with served(url_set, offline=True) as server:
        before = len(web.asked)
        assert "--offline was given" in thumbnail(server, 0).json()["error"]
        assert len(web.asked) == before


def test_a_column_that_is_named_is_taken_even_where_sources_are_known(tmp_path: Path, web: FileServer) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "b.jpg").write_bytes(picture(1))
    rows = {"sample": ["old/a.jpg", "old/b.jpg"], "aesthetic_score": [5.0, 4.0], "other": [f"{web.url}/p/000.jpg", "new/b.jpg"]}
    path = write_set(tmp_path / "s.parquet", rows, sources=["old"], folder=tmp_path)
    with served(path) as server:
        assert ask(server, "/api/set").json()["picture_column"] is None
        assert thumbnail(server, 0).status_code == 404
    with served(path, picture_column="other", pictures=(str(tmp_path / "new"), str(tmp_path))) as server:
        run = ask(server, "/api/set").json()["run"]
        assert [ask(server, f"/picture/{run}/{row}").content for row in (0, 1)] == [picture(0), picture(1)]


def refusal(path: Path, **more: Any) -> str:
    with pytest.raises(InputError) as error, serving_set(BrowseOptions(scores=str(path), **more), 0):
        pass
    return str(error.value)


def test_columns_that_cannot_say_where_pictures_are(url_set: Path, tmp_path: Path) -> None:
    assert "--picture-column ulr: " in (told := refusal(url_set, picture_column="ulr"))
    assert "it has sample, aesthetic_score, url, TEXT" in told
    assert "has float there" in refusal(url_set, picture_column="aesthetic_score")
    table = pq.read_table(url_set).append_column("jpg", pa.array([b"x"] * NUM_ROWS))
    pq.write_table(table, tmp_path / "bytes.parquet")
    assert "has binary there, not paths or URLs" in refusal(tmp_path / "bytes.parquet", picture_column="jpg")


def test_the_command_says_which_column_was_taken(url_set: Path) -> None:
    with serving_set(BrowseOptions(scores=str(url_set)), 0) as (_, address):
        assert address.pictures == (
            "pictures are shown from column 'url', since 'sample' holds no paths or URLs of pictures; "
            "--picture-column names another"
        )
        assert address.warning is None
    with serving_set(BrowseOptions(scores=str(url_set), sample_column="url"), 0) as (_, address):
        assert address.pictures is None
        assert "column 'sample' is left out" in str(address.warning)
    with serving_set(BrowseOptions(scores=str(url_set), sample_column="TEXT", picture_column="url"), 0) as (_, address):
        assert address.pictures == "pictures are shown from column 'url'"
    bare = url_set.with_name("bare.parquet")
    pq.write_table(pq.read_table(url_set).select(["sample", "aesthetic_score"]), bare)
    with serving_set(BrowseOptions(scores=str(bare)), 0) as (_, address):
        assert "--picture-column names a column with the pictures' paths or URLs" in str(address.warning)


@pytest.mark.slow
@pytest.mark.parametrize("kind", mostly_slow(["parquet", "csv"]))
def test_joined_columns_are_shown_filtered_and_exported_as_select_writes_them(url_set: Path, kind: str) -> None:
    """The table lacks two rows, is in another order, and has a column that the set has, too."""
    rows = list(range(NUM_ROWS - 2))[::-1]
    table = pa.table({"key": [f"{row:06d}" for row in rows], "n": rows, "url": ["x"] * len(rows), "where": ["a b"] * len(rows)})
    more = url_set.with_name(f"more.{kind}")
    (pq.write_table if kind == "parquet" else pa_csv.write_csv)(table, str(more))
    shutil.copy(url_set, keyed := url_set.with_name("keyed.parquet"))
    with served(keyed, join=(str(more),), where=("n >= 4",)) as server:
        told = ask(server, "/api/set").json()
        assert (told["num_rows"], told["where"], told["picture_column"]) == (6, ["n >= 4"], "url")
        assert [column["name"] for column in told["columns"]][-3:] == ["n", "meta_url", "where"]
        assert {column["name"]: column["kind"] for column in told["columns"]}["n"] == "number"
        assert [ask(server, f"/api/row/{row}").json()["values"]["where"] for row in (0, 11)] == ["a b", None]
        own = {"origin": server.url.rstrip("/")}
        body = {"score": "aesthetic_score", "filters": [{"column": "n", "kind": "range", "high": 8}]}
        view = httpx.post(f"{server.url}api/view", json=body, headers=own, timeout=100).json()
        assert view["num_matching"] == 5
        exported = ask(server, "/api/export", view=view["view"], threshold=7.45, format="csv").text
        command = ask(server, "/api/command", view=view["view"], threshold=7.45, format="csv").json()["command"]
    words = [*shlex.split(command)[1:-1], str(url_set.with_name("mine.csv"))]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    assert exported == url_set.with_name("mine.csv").read_text()
    assert [line.split(",")[0] for line in exported.splitlines()[1:]] == ["000004", "000005"]


def test_conditions_and_tables_that_cannot_be_are_said_at_the_start(url_set: Path, tmp_path: Path) -> None:
    assert "wdth" in refusal(url_set, where=("wdth > 3",))
    assert "does not exist" in refusal(url_set, join=(str(tmp_path / "none.parquet"),))
    pq.write_table(pa.table({"sample": ["other"], "n": [1]}), tmp_path / "strange.parquet")
    assert "has none of the scores' samples" in refusal(url_set, join=(str(tmp_path / "strange.parquet"),))


def test_a_condition_that_no_row_satisfies_shows_none(url_set: Path) -> None:
    with served(url_set, where=("aesthetic_score > 99",)) as server:
        assert ask(server, "/api/set").json()["num_rows"] == 0


@pytest.mark.slow
def test_filters_and_tabs_know_only_the_rows_that_the_condition_at_the_start_left(tmp_path: Path) -> None:
    """Values, ranges and rows without a score, of columns with a type and of those of a CSV; no column is mistaken for ours."""
    lines = [
        "sample,aesthetic_score,label,n,beholder_shown,huge",
        "a,5,cat,1,x,10",
        "b,6,dog,2,x,20",
        "c,,bird,3,y,30",
        "d,7,cat,40,y,40",
        "e,,cat,,y,50",
    ]
    (tmp_path / "s.csv").write_text("\n".join(lines) + "\n")
    names = ["sample", "aesthetic_score", "label", "n", "beholder_shown", "huge"]
    numbers = {"aesthetic_score": [5.0, 6.0, None, 7.0, None], "n": [1, 2, 3, 40, None], "huge": [10, 20, 30, 40, 50]}
    texts = {"sample": list("abcde"), "label": ["cat", "dog", "bird", "cat", "cat"], "beholder_shown": list("xxyyy")}
    pq.write_table(pa.table(numbers | texts).select(names), tmp_path / "s.parquet")
    expected = [  # conditions; values of label; those of beholder_shown; range of n; rows without a score
        ((), [["cat", 3], ["bird", 1], ["dog", 1]], [["y", 3], ["x", 2]], [1, 40], 2),
        (("n <= 3",), [["bird", 1], ["cat", 1], ["dog", 1]], [["x", 2], ["y", 1]], [1, 3], 1),
        (("n <= 3", "label != 'bird'"), [["cat", 1], ["dog", 1]], [["x", 2]], [1, 2], 0),
        (("huge > 1000",), [], [], [None, None], 0),
    ]
    for name, cases in (("s.csv", expected[2:3]), ("s.parquet", expected)):
        for where, labels, shown, ends, num_without in cases:
            with served(tmp_path / name, where=where) as server:
                for column, counted in (("label", labels), ("beholder_shown", shown)):
                    found = ask(server, "/api/values", column=column).json()["values"]
                    assert [[item["value"], item["count"]] for item in found] == counted, (name, where)
                found = ask(server, "/api/range", column="n").json()
                assert [found["least"], found["largest"]] == ends
                assert ask(server, "/api/set").json()["scores"][0]["num_without"] == num_without


def test_rows_marked_keep_have_their_place_among_those_without_a_score(tmp_path: Path) -> None:
    """The condition at the start leaves none of them; one is marked keep, so it is shown all the same."""
    rows = {"sample": list("abc"), "aesthetic_score": pa.array([5, None, None], pa.float32()), "n": [1, 2, 3]}
    path = write_set(tmp_path / "s.parquet", rows)
    (tmp_path / "m.jsonl").write_text('{"sample": "c", "mark": "keep"}\n')
    with served(path, where=("n = 1",)) as server:
        assert ask(server, "/api/set").json()["scores"][0]["num_without"] == 1


@pytest.mark.slow
def test_tiles_tell_names_and_captions_and_which_pictures_are_turned(url_set: Path, open_page: Open) -> None:
    with served(url_set, where=("aesthetic_score < 99",)) as server:
        page = open_page(server.url)
        wait_for_tiles(page)
        assert "pictures from column url" in page.locator("#about").inner_text()
        for row in (LOST, EMPTY):
            page.wait_for_selector(f"#tile-{row}.failed")
        assert page.locator(f"#tile-{LOST} .why").inner_text().split("\n") == [f"{LOST:06d}", "lost & gone", "no picture"]
        page.wait_for_selector(f"#tile-{TURNED} .turned:visible")
        assert [index for index in range(NUM_ROWS) if page.locator(f"#tile-{index} .turned").is_visible()] == [TURNED]
        assert not page.locator("#tile-0 .told").is_visible()
        page.hover("#tile-0")
        assert page.locator("#tile-0 .told").inner_text().split("\n") == ["caption 0 <b>", "000000"]
        page.mouse.move(2, 2)
        page.locator("#gallery").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator("#tile-1 .told").inner_text().split("\n") == ["caption 1 <b>", "000001"]
        assert not page.locator("#tile-0 .told").is_visible()
        assert page.locator("#tile-1").get_attribute("aria-label") == "000001, 7.90, caption 1 <b>"
        page.keyboard.press("Enter")
        page.wait_for_selector("#view-large.here")
        assert page.locator("#view-source").inner_text().startswith("pictures are shown from column 'url'")
        page.keyboard.press("Escape")
        fixed = page.locator("#chips .chip.fixed")
        assert fixed.all_inner_texts() == ["aesthetic_score < 99"]
        page.context.close()


@pytest.mark.slow
def test_pictures_are_fetched_only_where_tiles_are_in_sight(web: FileServer, tmp_path: Path, open_page: Open) -> None:
    rows = {
        "sample": [f"{row:06d}" for row in range(600)],
        "aesthetic_score": (8 - np.arange(600) / 100).astype(np.float32),
        "url": [f"{web.url}/p/{row}-of-600.jpg" for row in range(600)],
    }
    path = write_set(tmp_path / "many.parquet", rows)
    web.asked.clear()
    with served(path) as server:
        page = open_page(server.url)
        page.wait_for_selector("#tile-0.failed")
        page.wait_for_function(
            "() => [...document.querySelectorAll('.tile:not([hidden])')].every((tile) => tile.matches('.failed'))"
        )
        shown = page.locator(".tile:not([hidden])").count()
        page.context.close()
    numbers = {int(name.removeprefix("p/").split("-")[0]) for name, _ in web.asked}
    assert numbers == set(range(shown))
    assert shown < 100

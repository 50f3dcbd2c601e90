"""The application's answers: files, rows, pictures, marks, exports; hostile pictures, names, paths and messages."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.browse.about import Rejects
from beholder.browse.app import make_app
from beholder.browse.options import BrowseOptions
from beholder.browse.pictures import Pictures, Sent, as_stored
from beholder.browse.session import Session
from beholder.pixels.picture import PictureError
from beholder.scoreset.score_set import open_scores
from beholder.sources.fetch import ReadLimits
from oracles.browse_clients import Ask, client_of
from oracles.browse_sets import write_set
from oracles.tiers import mostly_slow


@pytest.fixture
def ask(photo_set: Path, tmp_path: Path) -> Iterator[Ask]:
    yield from client_of(photo_set, tmp_path, tmp_path / "m.jsonl")


def view_of(ask: Ask, **more: Any) -> str:
    return str(ask("/api/view", {"score": "aesthetic_score", **more}).json()["view"])


def test_the_page_and_its_files_and_nothing_else(ask: Ask) -> None:
    assert ask("/").text.startswith("<!doctype html>")
    assert ask("/static/app.js").headers["content-type"] == "text/javascript; charset=utf-8"
    for path in ("/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static//etc/passwd", "/static/app.py",
                 "/static/", "/etc/passwd", "/docs", "/redoc", "/openapi.json", "/static/x/../../../server.py"):  # fmt: skip
        assert ask(path).status_code == 404, path


def test_the_page_asks_nobody_else_for_anything(ask: Ask) -> None:
    folder = Path(os.fspath(__import__("beholder").__file__)).parent / "browse/static"
    for file in folder.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, file
        assert "https:" not in text, file
        assert "innerHTML" not in text, file
        assert "eval(" not in text, file


def test_the_set_tells_about_itself(ask: Ask) -> None:
    found = ask("/api/set").json()
    assert (found["num_rows"], found["name"], found["rejects"]["count"]) == (60, "scores.parquet", 2)
    (score,) = found["scores"]
    assert (score["head"], score["start"]) == ("sac+logos+ava1-l14-linearMSE", 5.0)
    assert (score["low"], score["high"]) == (4.0, pytest.approx(6.95))
    shares = {mark["at"]: mark["share"] for mark in score["landmarks"]}
    assert shares[5.0] == pytest.approx(600 / 2370)
    assert {column["name"]: column["kind"] for column in found["columns"]}["width"] == "number"


def test_view_count_rows_and_one_row(ask: Ask) -> None:
    view = ask(
        "/api/view",
        {
            "score": "aesthetic_score",
            "where": "width >= 100",
            "filters": [{"column": "label", "kind": "in", "values": ["cat"]}],
        },
    )
    assert view.json()["num_matching"] == 8
    key = view.json()["view"]
    assert ask("/api/count", view=key, threshold=0).json()["kept"] == 8
    listing = ask("/api/listing", {"view": key, "tab": "all", "threshold": 5}).json()
    rows = ask("/api/rows", listing=listing["listing"], score="aesthetic_score", start=0, count=5).json()["rows"]
    assert len(rows) == 5
    assert rows == sorted(rows, key=lambda row: -row["score"])
    one = ask(f"/api/row/{rows[0]['row']}").json()
    assert one["values"]["sample"] == rows[0]["sample"]
    json.dumps(one, allow_nan=False)
    assert ask("/api/row/60").status_code == ask("/api/row/-1").status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/view", {"score": "nothing"}),
        ("/api/view", {"score": "aesthetic_score", "where": "wdth > 3"}),
        ("/api/view", {"score": "aesthetic_score", "filters": [{"column": "width", "kind": "range"}]}),
        ("/api/view", {"score": "aesthetic_score", "filters": [{"column": "nothing", "kind": "null"}]}),
        ("/api/view", {"score": "aesthetic_score", "where": "x" * 30_000}),
        ("/api/view", {"score": "aesthetic_score", "other": 1}),
        ("/api/view", {"score": ["aesthetic_score"]}),
        ("/api/view", []),
        ("/api/listing", {"view": "v", "tab": "everything"}),
        ("/api/marks", {"rows": [], "mark": "keep"}),
        ("/api/marks", {"rows": [-1], "mark": "keep"}),
        ("/api/marks", {"rows": ["../x"], "mark": "keep"}),
        ("/api/marks", {"rows": [1], "mark": "delete"}),
        ("/api/marks", {"rows": [1]}),
        ("/api/marks", {"rows": list(range(20_000)), "mark": "keep"}),
    ],
)
def test_what_the_page_may_not_say_is_refused_with_one_line(ask: Ask, path: str, body: Any) -> None:
    found = ask(path, body)
    assert found.status_code == 400
    assert found.json()["error"]
    assert "\n" not in found.json()["error"]


def test_unknown_views_and_listings_are_gone(ask: Ask) -> None:
    assert ask("/api/count", view="x", threshold=5).status_code == 410
    assert ask("/api/listing", {"view": "x", "tab": "all"}).status_code == 410
    assert ask("/api/rows", listing="x", score="aesthetic_score", start=0).status_code == 410
    assert ask("/api/export", view="x", threshold=5, format="csv").status_code == 410
    assert ask("/api/count", view=view_of(ask), threshold="nan").json()["kept"] >= 0
    assert ask("/api/export", view=view_of(ask), threshold=5, format="exe").status_code == 400


def test_pictures_by_row_number_only(ask: Ask, photo_set: Path) -> None:
    whole = ask("/picture/x/57")
    name = pq.read_table(photo_set).column("sample")[57].as_py()
    assert whole.content == (photo_set.parent / name).read_bytes()
    assert whole.headers["content-type"] == "image/jpeg"
    small = ask("/thumb/x/160/57")
    assert Image.open(io.BytesIO(small.content)).size == (64, 48)
    assert ask("/thumb/x/160/57").content == small.content
    for path in ("/picture/x/60", "/picture/x/-1", "/picture/x/..%2f..%2fetc%2fpasswd", "/picture/x/pictures%2f000.jpg",
                 "/picture/x/1/../../etc/passwd", "/thumb/x/161/1", "/thumb/x/99999/1", "/thumb/x/160/1e3", "/picture/x/0x1",
                 "/picture/x/99999999999999999999999"):  # fmt: skip
        assert ask(path).status_code in (400, 404), path


def hostile_set(folder: Path) -> list[str]:
    """A folder with pictures and traps; returns the names in order."""
    (folder / "pictures").mkdir()
    (folder / "secret").mkdir()
    Image.new("RGB", (9, 7), "red").save(folder / "secret/secret.png")
    inside = folder / "pictures"
    (inside / "link.png").symlink_to(folder / "secret/secret.png")
    (inside / "linked").symlink_to(folder / "secret")
    (inside / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    (inside / "drawing.jpg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
    (inside / "page.jpg").write_text("<!doctype html><script>alert(1)</script>")
    (inside / "script.png").write_text("alert(1)")
    (inside / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (30, 20), "blue").save(inside / "scan.tif")
    Image.new("RGB", (30, 20), "blue").save(inside / "bitmap.bmp")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(inside / "deep.png")
    names = ["link.png", "linked/secret.png", "../secret/secret.png", "drawing.svg", "drawing.jpg", "page.jpg", "script.png",
             "empty.jpg", "scan.tif", "bitmap.bmp", "deep.png", "none.jpg", "linked/../../secret/secret.png"]  # fmt: skip
    found = [f"pictures/{name}" for name in names]
    return [*found, "/etc/passwd", str(folder / "secret/secret.png"), f"file://{folder}/secret/secret.png", "secret/secret.png"]


def test_hostile_pictures_and_places_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = hostile_set(tmp_path)
    rows = {"sample": names, "aesthetic_score": np.full(len(names), 5, np.float32)}
    path = write_set(tmp_path / "s.parquet", rows, sources=["pictures"], folder=tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(tmp_path)
    for ask in client_of(path, scratch):
        for row, name in enumerate(names):
            for found in (ask(f"/picture/x/{row}"), ask(f"/thumb/x/160/{row}")):
                if name.endswith(("scan.tif", "bitmap.bmp", "deep.png")):
                    kind = Image.open(io.BytesIO(found.content)).format
                    assert found.headers["content-type"] == f"image/{kind.lower()}"  # type: ignore[union-attr]
                    assert kind in ("JPEG", "WEBP", "PNG")
                else:
                    assert found.status_code == 404, name
                    assert found.headers["content-type"] == "application/json"
                    assert "root:" not in found.text
                    said = found.json()["error"]
                    is_outside = name in names[:3]
                    is_gone = said.startswith("missing: ") and not is_outside
                    assert said.count("--pictures or --root say where the pictures are now") == is_gone
                    assert said.count("name its folder with --pictures to allow it") == is_outside


@pytest.mark.parametrize("is_folder_there", [False, True])
def test_of_pictures_that_are_gone_it_is_said_what_helps(tmp_path: Path, is_folder_there: bool) -> None:
    if is_folder_there:
        (tmp_path / "photos").mkdir()
    rows = {"sample": ["photos/a.jpg", "photos/b.jpg"], "aesthetic_score": np.full(2, 5, np.float32)}
    path = write_set(tmp_path / "s.parquet", rows, sources=["photos"], folder=tmp_path)
    for ask in client_of(path, tmp_path, tmp_path / "m.jsonl"):
        for address in ("/picture/x/0", "/thumb/x/160/0", "/picture/x/1"):
            said = ask(address).json()["error"]
            assert said.count("--pictures or --root say where the pictures are now") == 1, said


@pytest.mark.slow
def test_names_of_any_length_are_said_shortly(tmp_path: Path) -> None:
    names = ["pictures/" + "x" * 10_000 + ".jpg", "pictures/" + "y/" * 5_000 + "end.jpg"]
    rows = {"sample": names, "aesthetic_score": np.full(len(names), 5, np.float32)}
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (9, 7), "red").save(tmp_path / "pictures/there.png")
    path = write_set(tmp_path / "s.parquet", rows, sources=["pictures"], folder=tmp_path)
    for ask in client_of(path, tmp_path, tmp_path / "m.jsonl"):
        for row, name in enumerate(names):
            for found in (ask(f"/picture/x/{row}"), ask(f"/thumb/x/160/{row}")):
                said = found.json()["error"]
                assert found.status_code == 404
                assert 100 < len(said) < 600, said
                assert " … " in said
                assert name[:9] in said


def test_bytes_are_sent_as_what_they_are() -> None:
    shown = {}
    for kind, media_type in (("JPEG", "image/jpeg"), ("PNG", "image/png"), ("GIF", "image/gif"), ("WEBP", "image/webp")):
        buffer = io.BytesIO()
        Image.new("RGB", (5, 4)).save(buffer, kind)
        shown[kind] = buffer.getvalue()
        assert as_stored(buffer.getvalue()) == Sent(buffer.getvalue(), media_type)
    buffer = io.BytesIO()
    Image.new("RGB", (5000, 10), "green").save(buffer, "TIFF")
    found = {**shown, "scan": buffer.getvalue(), "nothing": b"", "svg": b"<svg/>", "zeros": b"\0" * 100, "pdf": b"%PDF-1.7"}

    class Finder:
        def read(self, sample: str, limits: ReadLimits) -> bytes:
            return found[sample]

    pictures = Pictures(Finder(), num_workers=1)
    for kind, data in shown.items():
        assert pictures.picture(kind).result(20).data == data
    assert not pictures.process_ids, "nothing was decoded"
    made = pictures.picture("scan").result(60)
    assert made.media_type == "image/jpeg"
    assert Image.open(io.BytesIO(made.data)).size == (4096, 8)
    for bad in ("nothing", "svg", "zeros", "pdf"):
        with pytest.raises(PictureError):
            pictures.picture(bad).result(20)
    pictures.close()


def test_a_thumbnail_that_nobody_waits_for_any_more_is_not_made(photo_set: Path, tmp_path: Path) -> None:
    gate, asked = threading.Event(), []

    class Finder:
        def read(self, sample: str, limits: ReadLimits) -> bytes:
            asked.append(sample)
            gate.wait(20)
            return (photo_set.parent / sample).read_bytes()

    pictures = Pictures(Finder(), num_workers=1, num_readers=1)
    options = BrowseOptions(scores=str(photo_set), marks=str(tmp_path / "m.jsonl"))
    with open_scores(str(photo_set)) as scores, Session(scores, tmp_path, options) as session:
        app = make_app(session, pictures, Rejects(()), tmp_path)

        async def request(row: int, leaves_after_s: float) -> int:
            sent: list[Any] = []

            async def receive() -> Any:
                await asyncio.sleep(leaves_after_s)
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {
                "type": "http",
                "method": "GET",
                "path": f"/thumb/x/160/{row}",
                "headers": [],
                "query_string": b"",
                "root_path": "",
            }
            await app(scope, receive, send)
            return int(sent[0]["status"])

        async def scroll() -> list[int]:
            first = asyncio.create_task(request(0, 30))
            while not asked:
                await asyncio.sleep(0.01)
            past = await asyncio.gather(*(request(row, 0.05) for row in range(1, 9)))
            gate.set()
            return [await first, *past, await request(9, 30)]

        assert asyncio.run(scroll()) == [200, *[499] * 8, 200]
        assert asked == session.store.samples(np.array([0, 9]))
    pictures.close()


def test_marks_by_row_change_counts_and_are_told_to_all(ask: Ask, tmp_path: Path) -> None:
    view = view_of(ask)
    before = ask("/api/count", view=view, threshold=5).json()
    listing = ask("/api/listing", {"view": view, "tab": "kept", "threshold": 5}).json()["listing"]
    rows = [row["row"] for row in ask("/api/rows", listing=listing, score="aesthetic_score", start=0, count=3).json()["rows"]]
    version = ask("/api/marks", since=0).json()["version"]
    assert ask("/api/marks", {"rows": rows, "mark": "drop"}).status_code == 200
    assert ask("/api/count", view=view, threshold=5).json()["kept"] == before["kept"] - 3
    assert ask("/api/marks", since=version).json()["changes"] == [[row, "drop"] for row in rows]
    assert len((tmp_path / "m.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    assert ask("/api/marks", {"rows": rows, "mark": None}).status_code == 200
    assert ask("/api/count", view=view, threshold=5).json()["kept"] == before["kept"]
    assert ask("/api/marks", {"rows": [60], "mark": "keep"}).status_code == 404


def test_marks_that_cannot_be_written_are_an_error_not_a_mark(photo_set: Path, tmp_path: Path) -> None:
    marks = tmp_path / "folder" / "m.jsonl"
    marks.parent.mkdir()
    for ask in client_of(photo_set, tmp_path, marks):
        marks.parent.rmdir()
        found = ask("/api/marks", {"rows": [1], "mark": "keep"})
        assert found.status_code == 507
        assert "m.jsonl" in found.json()["error"]
        assert ask("/api/count", view=view_of(ask), threshold=5).json()["marked_keep"] == 0


@pytest.mark.parametrize("kind", mostly_slow(["txt", "csv", "parquet", "jsonl"]))
def test_exports_are_downloads(ask: Ask, kind: str, tmp_path: Path) -> None:
    view = view_of(ask, where="label = 'dog'")
    found = ask("/api/export", view=view, threshold=5, format=kind)
    assert found.headers["content-disposition"] == f'attachment; filename="selection.{kind}"'
    kept = ask("/api/count", view=view, threshold=5).json()["kept"]
    assert found.headers["x-beholder-rows"] == str(kept)
    if kind == "parquet":
        num_rows = pq.read_table(pa.BufferReader(found.content)).num_rows
    else:
        num_rows = found.text.count("\n") - (kind == "csv")
    assert num_rows == kept > 0
    assert not list(tmp_path.glob("export-*"))


def test_rejects_come_by_reason(ask: Ask) -> None:
    everything = ask("/api/rejects").json()
    assert everything["count"] == 2
    one = ask("/api/rejects", reason="truncated").json()
    assert (one["count"], one["rows"][0]["message"]) == (1, "breaks off <i>here</i>")
    assert ask("/api/rejects", reason="nothing").json() == {"count": 0, "rows": []}
    assert ask("/api/rejects", start=1, count=9).json()["rows"] == everything["rows"][1:]


def test_columns_tell_their_values_and_ranges(ask: Ask) -> None:
    assert ask("/api/values", column="label").json()["values"][0]["count"] == 20
    assert ask("/api/values", column="caption").json() == {"values": [], "are_few": False}
    assert ask("/api/range", column="width").json() == {"least": 64, "largest": 123}
    assert ask("/api/values", column="nothing").status_code == 404
    assert ask("/api/range", column="label").status_code == 400
    assert ask("/api/values", column='label"; DROP TABLE scores').status_code == 404

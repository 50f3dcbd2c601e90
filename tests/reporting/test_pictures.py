"""Thumbnails from every kind of source, in a bounded time and number of bytes."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.columns import PictureReason
from beholder.errors import BeholderError, InputError
from beholder.pixels.picture import PictureError
from beholder.reporting.pictures import LADDER, Thumbnails, find_places, load_thumbnails
from beholder.reporting.report import report
from beholder.sources.reader import PictureRef
from oracles.made_pictures import encoded, noise, smooth
from oracles.tar_making import tar
from oracles.tiers import mostly_slow
from oracles.web import serving


def load(pictures: dict[str, bytes], *, max_bytes: int = 1 << 30, uses: dict[str, int] | None = None, timeout_s: float = 20.0):  # type: ignore[no-untyped-def]
    return load_thumbnails(
        lambda name: pictures[name], uses or dict.fromkeys(pictures, 1), max_bytes=max_bytes, timeout_s=timeout_s
    )


def num_bytes(thumbnails: Thumbnails) -> int:
    return sum(len(thumbnail.data) for thumbnail in thumbnails.found.values())


@pytest.mark.slow
def test_thumbnails_fit_the_bytes_they_may_take() -> None:
    pictures = {f"{i}.jpg": encoded(noise("RGB", 500, 400, i), "JPEG", quality=95) for i in range(12)}
    whole = load(pictures)
    assert (whole.longest_px, whole.quality) == LADDER[0]
    sizes = []
    for share in (0.5, 0.1, 0.02):
        budget = int(num_bytes(whole) * share)
        found = load(pictures, max_bytes=budget)
        assert num_bytes(found) <= budget
        assert len(found.found) == 12
        sizes.append(found.longest_px)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < LADDER[0][0]


def test_what_does_not_fit_at_all_is_left_out_from_the_end() -> None:
    pictures = {f"{i}.jpg": encoded(noise("RGB", 300, 300, i), "JPEG") for i in range(6)}
    least = load(pictures, max_bytes=0)
    assert least.num_left_out == 6
    assert {item.reason for item in least.failed.values()} == {"left_out"}
    some = load(pictures, max_bytes=6000)
    assert 0 < len(some.found) < 6
    assert list(some.found) == list(pictures)[: len(some.found)]
    assert num_bytes(some) <= 6000


@pytest.mark.slow
def test_pictures_that_are_shown_twice_count_twice() -> None:
    pictures = {f"{i}.jpg": encoded(noise("RGB", 400, 400, i), "JPEG") for i in range(4)}
    budget = num_bytes(load(pictures))
    assert load(pictures, max_bytes=budget).longest_px == LADDER[0][0]
    assert load(pictures, max_bytes=budget, uses=dict.fromkeys(pictures, 3)).longest_px < LADDER[0][0]


def test_a_failure_that_nobody_thought_of_ends_the_report_in_one_line() -> None:
    with pytest.raises(BeholderError, match="internal error in making a thumbnail") as caught:
        load_thumbnails(lambda _: "text, not bytes", {"a": 1, "b": 1}, max_bytes=1 << 20, timeout_s=20)  # type: ignore[arg-type,return-value]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name_length", "per_bucket", "max_size"), mostly_slow([(3000, 12, 400_000), (200, 1000, 2_000_000)]))
def test_the_page_keeps_its_size_where_pictures_are_missing_and_names_are_long(
    tmp_path: Path, name_length: int, per_bucket: int, max_size: int
) -> None:
    names = [f"photos/{'x' * name_length}{number:05d}.jpg" for number in range(2000)]
    (tmp_path / "photos").mkdir()
    for number in range(0, 2000, 40):
        names[number] = f"photos/{number}.jpg"
        (tmp_path / names[number]).write_bytes(encoded(noise("RGB", 300, 300, number), "JPEG"))
    scores = np.random.default_rng(0).normal(5, 0.7, 2000).astype(np.float32)
    table = pa.table({"sample": names, "aesthetic_score": scores})
    out = tmp_path / "report.html"
    summary = report(table, out, root=str(tmp_path), max_size=max_size, per_bucket=per_bucket)
    assert summary.num_bytes == out.stat().st_size <= max_size
    assert 0 < summary.num_thumbnails <= 50
    assert any("Fewer pictures of each bucket" in warning for warning in summary.warnings)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e10, 86_401.0])
@pytest.mark.parametrize("limit", ["timeout", "max_time"])
def test_a_time_limit_that_no_system_can_wait_for_is_refused(tmp_path: Path, limit: str, seconds: float) -> None:
    table, flag = pa.table({"sample": ["a"], "aesthetic_score": [5.0]}), "--" + limit.replace("_", "-")
    with pytest.raises(InputError, match=f"^{flag} .*: give seconds, more than 0 and at most 86,400$"):
        report(table, tmp_path / "r.html", **{limit: seconds})


def test_the_longest_time_limit_is_taken(tmp_path: Path) -> None:
    table = pa.table({"sample": ["a"], "aesthetic_score": [5.0]})
    summary = report(table, tmp_path / "r.html", root=str(tmp_path), timeout=86_400.0, max_time=86_400.0)
    assert summary.missing == {"missing": 1}


@pytest.mark.slow
def test_advice_for_moved_pictures_is_given_where_some_are_missing_only(tmp_path: Path) -> None:
    (tmp_path / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than that")
    for names, is_told in ((["damaged.jpg"], False), (["damaged.jpg", "gone.jpg"], True)):
        table = pa.table({"sample": names, "aesthetic_score": [5.0] * len(names)})
        report(table, tmp_path / "r.html", root=str(tmp_path), overwrite=True)
        text = (tmp_path / "r.html").read_text()
        assert "could not be shown" in text
        assert ("If they were moved" in text) == is_told


def test_every_failure_has_a_reason() -> None:
    def read(name: str) -> bytes:
        if name == "gone":
            raise PictureError(PictureReason.MISSING, "it is gone")
        if name == "broken":
            raise RuntimeError("two\nlines")
        return {"text": b"no picture, but text that is long enough", "good": encoded(smooth(30, 20), "PNG")}[name]

    told: list[int] = []
    names = ["gone", "broken", "text", "good"]
    found = load_thumbnails(read, dict.fromkeys(names, 1), max_bytes=1 << 20, timeout_s=20, on_progress=told.append)
    assert list(found.found) == ["good"]
    assert {name: failure.reason for name, failure in found.failed.items()} == {
        "gone": "missing", "broken": "unreadable", "text": "not_an_image"
    }  # fmt: skip
    assert found.failed["gone"].text == "it is gone"
    assert found.failed["broken"].text == "RuntimeError: two lines"
    assert sum(told) == 4


def test_a_picture_that_hangs_holds_nothing_up() -> None:
    hold = threading.Event()
    good = encoded(smooth(30, 20), "PNG")

    def read(name: str) -> bytes:
        if name.startswith("slow"):
            hold.wait(30)
        return good

    names = [f"slow{i}" for i in range(5)] + [f"good{i}" for i in range(30)]
    started = time.monotonic()
    found = load_thumbnails(read, dict.fromkeys(names, 1), max_bytes=1 << 20, timeout_s=0.3, threads=2)
    assert time.monotonic() - started < 10
    hold.set()
    assert len(found.found) == 30
    assert {failure.reason for failure in found.failed.values()} == {"timed_out"}


def write_set(path: Path, samples: list[str]) -> Path:
    scores = np.linspace(4, 6, len(samples), dtype=np.float32)
    pq.write_table(pa.table({"sample": samples, "aesthetic_score": scores}), path)
    return path


PICTURES = {f"{i:03d}": encoded(smooth(60 + i, 40), "JPEG") for i in range(6)}


def test_pictures_in_tars(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar([(f"{key}.{end}", data) for key, data in PICTURES.items() for end in ("jpg",)]))
    scores = write_set(tmp_path / "scores.parquet", [f"{tmp_path}/a.tar/{key}" for key in PICTURES])
    summary = report(scores, tmp_path / "page.html")
    assert (summary.num_thumbnails, summary.missing) == (6, {})


def test_pictures_in_zips(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for key, data in PICTURES.items():
            archive.writestr(f"in/{key}.jpg", data)
    scores = write_set(tmp_path / "scores.parquet", [f"{tmp_path}/a.zip/in/{key}.jpg" for key in PICTURES])
    summary = report(scores, tmp_path / "page.html")
    assert (summary.num_thumbnails, summary.missing) == (6, {})


def test_pictures_in_parquet(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": f"{key}.jpg"} for key, data in PICTURES.items()]
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "part.parquet")
    scores = write_set(tmp_path / "scores.parquet", [f"{key}.jpg" for key in PICTURES])
    summary = report(scores, tmp_path / "page.html", pictures=[str(tmp_path / "part.parquet")])
    assert (summary.num_thumbnails, summary.missing) == (6, {})


@pytest.mark.slow
def test_pictures_on_a_server_and_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{key}.jpg": data for key, data in PICTURES.items()}
    del files["003.jpg"]
    with serving(files) as server:
        scores = write_set(tmp_path / "scores.parquet", [f"{server.url}/{key}.jpg" for key in PICTURES])
        summary = report(scores, tmp_path / "page.html")
        assert (summary.num_thumbnails, summary.missing) == (5, {"missing": 1})
        asked = len(server.asked)
        offline = report(scores, tmp_path / "offline.html", offline=True)
        assert offline.num_thumbnails == 0
        assert sum(offline.missing.values()) == 6
        monkeypatch.setenv("BEHOLDER_OFFLINE", "1")
        assert report(scores, tmp_path / "by_environment.html").num_thumbnails == 0
        assert len(server.asked) == asked


@pytest.mark.slow
def test_pictures_that_were_moved(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for key, data in PICTURES.items():
        (new / f"{key}.jpg").write_bytes(data)
    scores = write_set(tmp_path / "scores.parquet", [f"{key}.jpg" for key in PICTURES])
    assert report(scores, tmp_path / "a.html").num_thumbnails == 0
    assert report(scores, tmp_path / "b.html", root=new).num_thumbnails == 6
    assert report(scores, tmp_path / "c.html", pictures=str(new)).num_thumbnails == 6


@pytest.mark.parametrize("orientation", [1, 6])
def test_thumbnails_stand_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    smooth(200, 100).save(path, exif=exif)
    found = load({"turned.jpg": path.read_bytes()}).found["turned.jpg"]
    assert (found.width, found.height) == ((200, 100) if orientation == 1 else (100, 200))
    with Image.open(io.BytesIO(found.data)) as image:
        assert image.size == (found.width, found.height)


def test_places_are_found_in_stretches_of_one_folder() -> None:
    asked: list[list[str]] = []
    told: list[int] = []

    def find(names: Sequence[str]) -> list[PictureRef]:
        asked.append(list(names))
        return [PictureRef(path=f"/{name}") for name in names]

    names = [f"{part}.tar/{key}" for key in range(30) for part in range(4)]
    found = find_places(find, names, max_time_s=30, on_progress=told.append)
    assert {name: ref.path for name, ref in found.items()} == {name: f"/{name}" for name in names}
    assert sum(told) == len(names)
    tars = [{name.split("/")[0] for name in stretch} for stretch in asked]
    assert sum(len(inside) for inside in tars) == 4  # no tar was asked for twice
    assert find_places(find, [], max_time_s=1) == {}


def test_what_takes_too_long_to_find_is_given_up() -> None:
    hold = threading.Event()

    def find(names: Sequence[str]) -> list[PictureRef]:
        if "slow" in names[0]:
            hold.wait(30)
        return [PictureRef(data=b"x") for _ in names]

    names = [f"quick/{i}" for i in range(40)] + [f"slow/{i}" for i in range(40)]
    started = time.monotonic()
    found = find_places(find, names, max_time_s=0.5)
    hold.set()
    assert time.monotonic() - started < 10
    assert [ref.data for ref in found.values()][:40] == [b"x"] * 40
    assert {(ref.error or ("",))[0] for ref in list(found.values())[40:]} == {PictureReason.TIMED_OUT}


def test_what_finding_raises_is_raised() -> None:
    def find(names: Sequence[str]) -> list[PictureRef]:
        raise InputError("the source is gone")

    with pytest.raises(InputError, match="the source is gone"):
        find_places(find, ["a"], max_time_s=30)

"""A picture as the score saw it: the preset's square, by the code that made it for the tower."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from beholder import preprocess
from beholder.browse.options import BrowseOptions
from beholder.pixels.picture import PixelOptions
from oracles.browse_sets import Served, running, write_set
from oracles.made_pictures import encoded, noise, smooth

NAMES = ["p/turned.jpg", "p/palette.png", "p/plain.png"]


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    """A score set of three pictures, scored with the preset "rgb" in squares of 48 pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "p").mkdir()
    for name, data in zip(
        NAMES,
        (encoded(smooth(90, 60), "JPEG", exif=exif), encoded(noise("P", 70, 50, 1), "PNG"), encoded(smooth(60, 90), "PNG")),
        strict=True,
    ):
        (tmp_path / name).write_bytes(data)
    rows = {"sample": NAMES, "aesthetic_score": np.array([6, 5.5, 5], np.float32)}
    path = write_set(tmp_path / "s.parquet", rows, sources=["p"], folder=tmp_path)
    say_pixels(path, PixelOptions(preset="rgb", size_px=48).to_json())
    return path


def say_pixels(path: Path, pixels: object) -> None:
    beside = Path(f"{path}.beholder.json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"pixels": pixels}))


@pytest.fixture
def served(phone: Path) -> Iterator[Served]:
    with running(BrowseOptions(scores=str(phone), no_open=True, marks=f"{phone}.m.jsonl"), phone.parent) as found:
        yield found


@pytest.mark.slow
def test_the_square_is_the_one_that_was_scored(served: Served) -> None:
    told = httpx.get(f"{served.url}api/set").json()
    assert told["preset"] == "rgb"
    for row, name in enumerate(NAMES):
        for _ in range(2):
            sent = httpx.get(f"{served.url}seen/{told['run']}/{row}", timeout=60)
            assert sent.headers["content-type"] == "image/png"
            found = np.asarray(Image.open(io.BytesIO(sent.content)))
            assert np.array_equal(found, preprocess(served.folder / name, preset="rgb", size_px=48))
    assert httpx.get(f"{served.url}seen/{told['run']}/3").status_code == 404


@pytest.mark.parametrize("pixels", [None, {}, {"preset": "of another time"}, {"preset": "rgb", "more": 1}, [1]])
def test_where_nothing_says_how_nothing_is_shown(phone: Path, pixels: object) -> None:
    say_pixels(phone, pixels)
    with running(BrowseOptions(scores=str(phone), no_open=True, marks=f"{phone}.m.jsonl"), phone.parent) as served:
        told = httpx.get(f"{served.url}api/set").json()
        assert told["preset"] == ("reference" if pixels == {} else None)
        if told["preset"] is None:
            sent = httpx.get(f"{served.url}seen/{told['run']}/0")
            assert sent.status_code == 404
            assert "nothing says which pixels" in sent.json()["error"]


def test_a_picture_that_is_none_is_told(served: Served) -> None:
    (served.folder / NAMES[0]).write_bytes(b"no picture")
    run = httpx.get(f"{served.url}api/set").json()["run"]
    sent = httpx.get(f"{served.url}seen/{run}/0", timeout=60)
    assert sent.status_code == 404
    assert "not_an_image" in sent.json()["error"]


@pytest.mark.slow
def test_the_large_view_switches(served: Served, open_page: Callable[..., Any]) -> None:
    page = open_page(served.url)
    page.wait_for_selector("#tile-0 img")
    page.locator("#tile-0").click(position={"x": 20, "y": 20})
    page.wait_for_selector("#viewer[open]")
    large = "const it = document.getElementById('view-large'); return it.complete && `${it.naturalWidth} x ${it.naturalHeight}`"
    page.wait_for_function(f"() => {{ {large} === '60 x 90' }}")  # turned by EXIF
    assert page.locator("#view-seen-line").inner_text().startswith("As the score saw it (rgb)")
    page.keyboard.press("s")
    page.wait_for_function(f"() => {{ {large} === '48 x 48' }}")
    assert page.locator("#view-seen").is_checked()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('view-large').src.endsWith('/1')")
    assert "/seen/" in page.get_attribute("#view-large", "src")
    page.locator("#view-seen").click()
    page.wait_for_function(f"() => {{ {large} === '70 x 50' }}")

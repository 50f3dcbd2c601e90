"""Score sets made of real and of generated pictures, sessions over them, and a running server with a browser's page."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from beholder.browse.options import BrowseOptions
from oracles.browse_sets import Served, running, write_set


def jpeg(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A small picture of one colour with a stripe, different for every seed."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pixels = np.full((size[1], size[0], 3), rng.integers(0, 256, 3), np.uint8)
    pixels[:, seed % size[0]] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A score set of 60 pictures in a folder, with odd names among them; scores 4.00, 4.05, ... in a mixed order."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "pictures").mkdir()
    names = [f"pictures/{number:03d}.jpg" for number in range(57)]
    names += ["pictures/<img src=x onerror=alert(1)>.jpg", "pictures/Grüße 猫.jpg", 'pictures/it\'s "so".jpg']
    for number, name in enumerate(names):
        (folder / name).write_bytes(jpeg(number))
    scores = 4 + 0.05 * np.random.default_rng(5).permutation(len(names))
    rows: dict[str, Any] = {
        "sample": names,
        "aesthetic_score": scores.astype(np.float32),
        "label": [("cat", "dog", None)[number % 3] for number in range(len(names))],
        "caption": [f"<b>caption</b> {number} & more" for number in range(len(names))],
        "width": pa.array([64 + number for number in range(len(names))], pa.int32()),
        "punsafe": [number / 60 if number % 7 else float("nan") for number in range(len(names))],
    }
    rejects = [
        ("pictures/bad.jpg", "decode", "truncated", "breaks off <i>here</i>"),
        ("pictures/gone.jpg", "decode", "missing", "-"),
    ]
    write_set(folder / "scores.parquet", rows, sources=["pictures"], folder=folder, rejects=rejects)
    return folder / "scores.parquet"


NUM_LARGE = 120_000


def large_scores() -> np.ndarray[Any, np.dtype[np.float32]]:
    """Scores of the large set, with ties."""
    return np.round(np.random.default_rng(11).normal(5, 0.6, NUM_LARGE), 3).astype(np.float32)


@pytest.fixture(scope="session")
def large_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A score set of 120,000 rows whose pictures are gone."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "pictures").mkdir()
    rows: dict[str, Any] = {
        "sample": [f"pictures/{number:06d}.jpg" for number in range(NUM_LARGE)],
        "aesthetic_score": large_scores(),
        "width": np.arange(NUM_LARGE, dtype=np.int32) % 1000,
    }
    return write_set(folder / "scores.parquet", rows, sources=["pictures"], folder=folder)


@pytest.fixture(scope="session")
def large_server(large_set: Path) -> Iterator[Served]:
    """A server of the large set, which no test marks."""
    with running(BrowseOptions(scores=str(large_set), no_open=True), large_set.parent) as found:
        yield found


@pytest.fixture
def photo_server(photo_set: Path, tmp_path: Path) -> Iterator[Served]:
    """A server of the photographs, with marks of its own in `tmp_path / "m.jsonl"`."""
    options = BrowseOptions(scores=str(photo_set), no_open=True, marks=str(tmp_path / "m.jsonl"))
    with running(options, photo_set.parent) as found:
        yield found


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page and waits until it is ready; at the end nothing may have gone wrong or been asked of anybody else."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def opened(url: str, *, width: int = 1000, height: int = 700, context: Any = None, **more: Any) -> Any:
        if context is None:
            context = chromium.new_context(viewport={"width": width, "height": height}, **more)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        own = url.split("?")[0].split("#")[0]
        page.on("request", lambda request: None if request.url.startswith((own, "data:")) else wrong.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: wrong.append(message.text) if is_bad(message) else None)
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong, wrong


def is_bad(message: Any) -> bool:
    """Whether the browser complains; answers that refuse (a missing picture, a wrong condition) are no fault of the page."""
    return message.type in ("error", "warning") and "Failed to load resource" not in message.text

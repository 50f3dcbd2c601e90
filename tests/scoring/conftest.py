"""A folder of photographs that jobs embed and score."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracles.picture_jobs import picture_bytes


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 pictures in folders, one of them no picture inside, one named in another script, and a text beside them."""
    root = tmp_path_factory.mktemp("album") / "photos"
    for number in range(22):
        folder = root / ("a" if number % 2 else "b/c")
        folder.mkdir(parents=True, exist_ok=True)
        kind, suffix = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"))[number % 3]
        name = "写真 é" if number == 5 else f"p{number:02}"
        (folder / f"{name}.{suffix}").write_bytes(picture_bytes(number, kind, (60 + 3 * number, 90 - number)))
    (root / "a" / "broken.jpg").write_bytes(b"<html>not found</html>")
    (root / "notes.txt").write_text("no picture")
    return root

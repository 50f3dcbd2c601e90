"""A folder of made pictures to act on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oracles.acting import NAMES
from oracles.tar_making import png


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in which `photos` holds a picture for each of NAMES, of different times."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
        os.utime(path, ns=(10**18 + i, 10**18 + i))
    return tmp_path

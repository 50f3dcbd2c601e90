"""Rates typed by hand, for plans whose hours are worked out by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

L14 = "openai/clip-vit-large-patch14"
TYPED: dict[str, Any] = {
    "format": "beholder-rates",
    "version": 2,
    "date": "2026-11-29",
    "num_cores": 16,
    "about": ["- processor: typed by hand"],
    "busy": 0.0,
    "decode": {
        "constant_s": 0.001,
        "pixel_s": 1e-8,
        "decoder": "pillow",
        "image_px": 224,
        "sizes": [{"what": "made", "pixels": 1e6, "num_bytes": 200_000, "core_s": 0.011, "core_s_alone": 0.011}],
    },
    "towers": [
        {
            "backbone": L14, "device": "cuda", "device_name": "a card", "precision": "fp16", "dim": 768,
            "pictures_per_second": 2000, "core_s": 0.0001, "feed_s": 0.00005, "load_s": 10, "is_random": False,
        },
        {
            "backbone": L14, "device": "cpu", "device_name": "a processor", "precision": "fp32", "dim": 768,
            "pictures_per_second": 10, "core_s": 1.6, "feed_s": 0, "load_s": 5, "is_random": False,
        },
    ],
    "run": {"core_s": 0.0002, "start_s": 20, "written_bytes": 100},
    "storage": {"place": "/data", "read_bytes_per_second": 1e9, "write_bytes_per_second": 2e8, "is_cached": False},
    "rows": {"rows_per_second": 100, "num_cores": 16, "dim": 768, "start_s": 2},
}  # fmt: skip
"""Of 16 cores: a picture of 1000 x 500 costs 1 ms + 5 ms of a core to decode, and has 100 kB."""

Write = Callable[..., str]


@pytest.fixture
def rates_file(tmp_path: Path) -> Write:
    """Writes a file of the typed rates: `rates_file(name="other.json", storage={"read_bytes_per_second": 1e8}, run=None)`."""

    def write(name: str = "typed.json", **changed: Any) -> str:
        record = copy.deepcopy(TYPED)
        for stage, value in changed.items():
            if isinstance(value, dict):
                record[stage].update(value)
            else:
                record[stage] = value
        path = tmp_path / name
        path.write_text(json.dumps(record), encoding="utf-8")
        return str(path)

    return write

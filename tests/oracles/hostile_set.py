"""A folder in; ten pictures in it, five of which crash, hang, eat memory or end their decoder, with their score set, out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from oracles import odd_thumbnails
from oracles.browse_sets import write_set

HOSTILE = {"segfault": "crashed", "leave": "crashed", "spin": "timed_out", "hang": "timed_out", "eat": "too_large"}
"""An order of `odd_thumbnails` -> the reason it has to be rejected with."""


def picture(seed: int) -> bytes:
    """A PNG of 80 x 60 pixels of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def order_of(number: int) -> str:
    """What the picture of this number orders: every second one is whole and orders nothing."""
    return list(HOSTILE)[number // 2] if number % 2 else ""


def write_hostile_set(folder: Path) -> Path:
    """`folder/p/NUMBERorder.png` and `folder/scores.parquet`, whose path is returned; scores rise with the number."""
    (folder / "p").mkdir()
    names = []
    for number in range(10):
        order = order_of(number)
        names.append(f"p/{number}{order}.png")
        data = picture(number)
        (folder / names[-1]).write_bytes(odd_thumbnails.ordered(data, order, "7") if order else data)
    rows = {"sample": names, "aesthetic_score": np.linspace(4, 6, 10).astype(np.float32)}
    return write_set(folder / "scores.parquet", rows, sources=["p"], folder=folder)

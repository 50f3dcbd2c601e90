"""Small pictures from a seed, in every Pillow mode, as images and as files."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def noise(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """A picture of random values in a mode, with a random palette where it has one."""
    rng = np.random.default_rng(seed)
    if mode == "1":
        return Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)).convert("1")
    num_bytes = 2 if mode == "I;16" else len(Image.new(mode, (1, 1)).getbands())
    image = Image.frombytes(mode, (width, height), rng.bytes(width * height * num_bytes))
    if mode in ("P", "PA"):
        image.putpalette(rng.bytes(768))
    return image


def smooth(width: int, height: int) -> Image.Image:
    """A picture without fine detail: gradients and a disc."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    disc = ((x - 0.4) ** 2 + (y - 0.6) ** 2 < 0.04) * 80
    bands = [255 * x * 0.6 + disc, 255 * y * 0.6 + disc, 120 + 60 * np.sin(9 * x + 7 * y)]
    return Image.fromarray(np.stack(bands, axis=-1).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()

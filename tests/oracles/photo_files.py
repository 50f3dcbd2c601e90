"""Photographs of scikit-image as files out: colour, grey, with an alpha channel, of odd sizes, very wide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data


def write_photographs(folder: Path) -> list[Path]:
    """Their paths, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    astronaut, cat, coffee = data.astronaut(), data.chelsea(), data.coffee()
    alpha = np.linspace(0, 255, 299 * 451).reshape(299, 451).astype(np.uint8)
    images = {
        "colour.png": Image.fromarray(astronaut),
        "odd.jpg": Image.fromarray(coffee[:333, :217]),
        "grey.png": Image.fromarray(data.camera()[:301, :200]),
        "alpha.png": Image.fromarray(np.dstack([cat[:299, :451], alpha])),
        "wide.png": Image.fromarray(coffee[200:231]),
        "tiny.png": Image.fromarray(cat[100:111, 100:107]),
        "palette.png": Image.fromarray(coffee[:200, :300]).quantize(64),
    }
    for name, image in images.items():
        image.save(folder / name)
    return [folder / name for name in images]

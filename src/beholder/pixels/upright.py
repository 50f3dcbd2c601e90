"""A decoded Pillow image in; how it is to be turned, and its colours as people see them, 8 bits and opaque, out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from beholder.pixels.deep import SIXTEEN_BITS, Levels

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112
"""EXIF's tag."""
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""More than 8 bits; of modes I and F only what `opening.check_mode` lets through, whose black and white are known."""


def orientation(image: Image) -> int:
    """EXIF orientation, 1 to 8; 1 when there is none, or metadata are broken."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken metadata raise all kinds of errors, and are no reason to lose the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def is_opaque(image: Image) -> bool:
    """Whether every pixel of an image with an alpha channel has alpha 255."""
    return bool(image.getchannel(image.getbands()[-1]).getextrema()[0] == 255)


def flat(image: Image, levels: Levels | None = None) -> Image:
    """L or RGB, 8 bits, of any mode: palettes expanded, alpha laid on white, deep grey scaled from black to white and rounded.

    `levels`: what black and white are in deep grey; None: 0 and 65535.
    """
    if image.mode in DEEP_MODES:
        image = _shallow(image, levels or SIXTEEN_BITS)
    clear = "transparency" in image.info
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ALPHA_MODES or (clear and image.mode in ("1", "L", "P", "RGB")):
        return _on_white(image.convert("RGBA"))
    if image.mode == "P" and image.palette is not None and image.palette.mode == "RGBA":
        return _on_white(image.convert("RGBA"))
    if image.mode == "1":
        return image.convert("L")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _on_white(image: Image) -> Image:
    """RGB of an RGBA image laid on white (Pillow's own composition, as transformers 5 does it)."""
    from PIL import Image as PillowImage

    if is_opaque(image):
        return image.convert("RGB")
    white = PillowImage.new("RGBA", image.size, (255, 255, 255, 255))
    return PillowImage.alpha_composite(white, image).convert("RGB")


def _shallow(image: Image, levels: Levels) -> Image:
    """L, or LA when one value is marked as clear, of deep grey: black becomes 0, white 255, and what lies beyond is cut off."""
    import numpy as np
    from PIL import Image as PillowImage

    deep = np.asarray(image)
    low, high = min(levels.black, levels.white), max(levels.black, levels.white)
    if deep.dtype.kind == "f":
        shares = (np.nan_to_num(np.clip(deep, low, high), nan=levels.black) - levels.black) / (levels.white - levels.black)
        values = np.floor(shares * 255 + 0.5).astype(np.uint8)
    else:
        steps = np.abs(np.arange(int(low), int(high) + 1, dtype=np.int64) - int(levels.black))
        table = ((steps * 510 + int(high - low)) // (2 * int(high - low))).astype(np.uint8)  # halves upwards
        values = table[np.clip(deep.astype(np.int32), int(low), int(high)) - int(low)]
    small = PillowImage.fromarray(values)
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return small
    return PillowImage.merge("LA", (small, PillowImage.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8))))

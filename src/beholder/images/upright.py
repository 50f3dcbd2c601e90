"""A decoded Pillow image in; how it is to be turned, and its colours as people see them, 8 bits and opaque, out."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""16 bits; of mode I only what `opening.check_mode` lets through: 0..65535, too."""


def orientation(image: Image) -> int:
    """EXIF orientation, 1 to 8; 1 when there is none, or metadata are broken."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken metadata raise all kinds of errors, and are no reason to lose the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def is_opaque(image: Image) -> bool:
    """Whether every pixel of an image with an alpha channel has alpha 255."""
    return bool(image.getchannel(image.getbands()[-1]).getextrema()[0] == 255)


def flat(image: Image) -> Image:
    """L or RGB, 8 bits, of any mode: palettes expanded, alpha laid on white, 16 bits divided by 257 and rounded."""
    if image.mode in DEEP_MODES:
        image = _shallow(image)
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


def _shallow(image: Image) -> Image:
    """L, or LA when one value is marked as clear, of a 16-bit image: round(value / 257)."""
    import numpy as np
    from PIL import Image as PillowImage

    deep = np.asarray(image)
    small = PillowImage.fromarray(((deep.astype(np.uint32) + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return small
    return PillowImage.merge("LA", (small, PillowImage.fromarray(np.where(deep == clear, 0, 255).astype(np.uint8))))

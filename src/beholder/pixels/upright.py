"""A decoded Pillow image as people see it: turned, 8 bits a channel, opaque; and what is black and white in deep grey."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beholder.pixels.sniff import TIFF_SHORT, tiff_entries

if TYPE_CHECKING:
    from PIL.Image import Image

ORIENTATION = 0x0112
"""EXIF's tag."""
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation -> PIL.Image.Transpose that undoes it (the table of Pillow's `ImageOps.exif_transpose`)."""
SWAPPING = (5, 4, 6, 2)
"""Of these, the ones that swap width and height: TRANSPOSE, ROTATE_270, TRANSVERSE, ROTATE_90."""
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""More than 8 bits; of modes I and F only what `opening.check_mode` lets through, whose black and white are known."""
_BITS, _PHOTOMETRIC, _FORMAT, _LOWEST, _HIGHEST = 258, 262, 339, 340, 341
"""Tags of TIFF 6.0: BitsPerSample, PhotometricInterpretation, SampleFormat, SMinSampleValue, SMaxSampleValue."""
_SIGNED, _FLOAT = 2, 3


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


@dataclass(frozen=True)
class Levels:
    """The values of black and white; black is above white where a file has them the other way round (MinIsWhite)."""

    black: float
    white: float


SIXTEEN_BITS = Levels(0, 65535)


def levels_of(image: Image, *, is_inverted: bool = False) -> Levels | None:
    """What is black and white in a grey image of more than 8 bits; None where nothing defines it.

    Of TIFF files the stated bits decide (12: 0..4095; 16 with a sign: -32768..32767), of those of fractions the least and the
    largest value that the file states. All others (PNG, PGM) reach from 0 to 65535.

    Args:
        image: opened by Pillow, loaded or not.
        is_inverted: the file has white at the lower end.
    """
    found = SIXTEEN_BITS
    if getattr(image, "format", None) == "TIFF" and hasattr(image, "tag_v2"):
        bits, kind = _first(image, _BITS), _first(image, _FORMAT) or 1
        is_inverted = is_inverted or _first(image, _PHOTOMETRIC) == 0
        if kind == _FLOAT or image.mode == "F":
            lowest, highest = _first(image, _LOWEST), _first(image, _HIGHEST)
            if lowest is None or highest is None or not lowest < highest:
                return None
            found = Levels(float(lowest), float(highest))
        elif not isinstance(bits, int) or not 8 < bits <= 16:
            return None if image.mode == "I" else SIXTEEN_BITS
        else:
            found = Levels(-(1 << bits - 1), (1 << bits - 1) - 1) if kind == _SIGNED else Levels(0, (1 << bits) - 1)
    elif image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        return None
    return Levels(found.white, found.black) if is_inverted else found


def _first(image: Any, tag: int) -> Any:
    """The first value of a TIFF tag; None where it is missing."""
    value = image.tag_v2.get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def with_black_first(data: bytes) -> tuple[bytes, bool]:
    """A TIFF of grey values of more than 8 bits whose header says that 0 is white, with a header that says black instead.

    Pillow does not turn such values over, and of some byte orders and depths refuses them.

    Returns:
        The bytes, and whether 0 is white in them.
    """
    try:
        entries = tiff_entries(data)
    except struct.error:
        return data, False
    found = {entry.tag: entry for entry in entries if entry.kind == TIFF_SHORT and entry.count == 1}
    if not {_BITS, _PHOTOMETRIC} <= set(found) or found[_PHOTOMETRIC].number != 0 or found[_BITS].number <= 8:
        return data, False
    changed = bytearray(data)
    changed[found[_PHOTOMETRIC].at + (0 if data[:2] == b"II" else 1)] = 1
    return bytes(changed), True


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

"""What values are black and white in a picture of more than 8 bits a channel, by what its file says."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_BITS, _PHOTOMETRIC, _FORMAT, _LOWEST, _HIGHEST = 258, 262, 339, 340, 341
"""Tags of TIFF 6.0: BitsPerSample, PhotometricInterpretation, SampleFormat, SMinSampleValue, SMaxSampleValue."""
_SIGNED, _FLOAT = 2, 3
_SHORT = 3


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
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] not in (b"*\0", b"\0*"):
        return data, False
    found: dict[int, tuple[int, int]] = {}
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, length = struct.unpack_from(f"{order}HHI", data, at)
            if tag in (_BITS, _PHOTOMETRIC) and kind == _SHORT and length == 1:
                found[tag] = (*struct.unpack_from(f"{order}H", data, at + 8), at + 8)
    except struct.error:
        return data, False
    if len(found) < 2 or found[_PHOTOMETRIC][0] != 0 or found[_BITS][0] <= 8:
        return data, False
    at = found[_PHOTOMETRIC][1] + (0 if order == "<" else 1)
    changed = bytearray(data)
    changed[at] = 1
    return bytes(changed), True

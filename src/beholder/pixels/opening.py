"""Decoding with Pillow, and a decoded picture as people see it; whatever the bytes are, only a PictureError comes of it."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beholder.columns import PictureReason
from beholder.errors import kind_and_text, text_of
from beholder.pixels.picture import MAX_PIXELS, PictureError, PixelOptions
from beholder.pixels.sniff import TIFF_SHORT, breaks_off, sniff, stored_size, tiff_entries

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

_READERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "HEIC": ("pillow_heif", "HeifImageFile"),
}
"""Format -> the class that reads it. These are used directly, so that nothing else is ever tried on the bytes, Pillow's
registry and its global limits stay as the user left them, and threads share nothing."""
_QUIET = ("ignore", None, UserWarning, re.compile(r"(PIL\.\w+Plugin|PIL\.Image|pillow_heif\b.*)$"), 0)
_NEEDED_MODULE = {"WEBP": "webp", "AVIF": "avif", "TIFF": "libtiff", "JPEG": "jpg", "PNG": "zlib"}
_UNPACKS_TOO_FAR = ("decompressed data too large", "too much memory used", "decompression bomb", "security limits")
_NO_DECODER = ("unknown pixel mode", "unsupported", "not supported", "not available", "unknown data organization")
_ALWAYS_BELIEVED_PIXELS = 1 << 25
_MOST_PIXELS_PER_BYTE = 1 << 18
"""More than an empty page has in any format but lossless WebP: fax TIFF of 32,768 columns 2^18, GIF about 2,700, PNG 8,256."""
_MOST_OUTGROWN_PIXELS = MAX_PIXELS // 2
"""Of a GIF whose canvas Pillow makes larger; of more it prints a warning."""
NO_PIXELS = {"F": "floating-point pixels", "I": "32-bit pixels", "F;16": "floating-point pixels", "I;32": "32-bit pixels"}
"""Modes that have no defined place in 0..255 by themselves, and their names (see `check_mode`)."""
SCALED_MARGIN = 2
"""Decoder "scaled": a JPEG's short side stays at least so many times the side it is resized to (see docs/pixels.md)."""


@dataclass(frozen=True)
class Opened:
    """A decoded picture.

    Attributes:
        image: loaded, in its own mode, as decoded.
        size: stored (width, height), which sets the aspect ratio.
        area: the (width, height) of `image` that the picture covers, from its top left corner: all of it, or with decoder
            "scaled" size / 2, / 4 or / 8, which can end inside the last column and row.
        levels: what black and white are in deep grey; None where nothing says it.
    """

    image: Image
    size: tuple[int, int]
    area: tuple[float, float]
    levels: Levels | None = None


def open_picture(data: bytes, options: PixelOptions) -> Opened:
    """Decode the first picture of a file.

    EXIF orientation is not applied here (of TIFF and HEIC files the decoder applies it).

    Raises:
        PictureError: whatever is wrong with the bytes.
    """
    kind = sniff(data)
    be_quiet()
    try:
        width, height = stored_size(data, kind) or (1, 1)
        if kind in ("WEBP", "GIF"):  # these make room for the canvas, or the first frame, when they are opened
            check_size((max(width, 1), max(height, 1)), options.max_pixels)
            if kind == "GIF" and (width, height) != struct.unpack_from("<HH", data, 6):
                _check_outgrown(width, height)
        _check_believable(width * height, len(data))
        is_inverted = False
        if kind == "TIFF" and options.preset == "upright":
            data, is_inverted = with_black_first(data)
        opened = reader_for(kind)(io.BytesIO(data))
        levels = levels_of(opened, is_inverted=is_inverted)
        size = opened.size
        check_size(size, options.max_pixels)
        check_mode(opened, levels, options)
        scale = 1
        if options.decoder == "scaled" and kind == "JPEG":
            scale = _scale(opened, int(options.size_px / options.crop))
        opened.load()
        if kind == "WEBP":
            opened._decoder = None  # type: ignore[attr-defined]  # its two canvases, 8 bytes a pixel; Pillow would keep them
        check_mode(opened, levels, options)
        area = (size[0] / scale, size[1] / scale) if scale > 1 else opened.size
        return Opened(opened, size, area, levels)
    except PictureError:
        raise
    except Exception as error:  # decoders raise whatever their libraries do: there is no common parent
        raise _failed(error, data, kind) from None


@contextlib.contextmanager
def whatever_happens(what: str) -> Iterator[None]:
    """Inside, every error becomes a PictureError: a bad picture never stops a run. `what` cannot be done with the picture."""
    try:
        yield
    except PictureError:
        raise
    except MemoryError:
        raise PictureError(PictureReason.TOO_LARGE, "the picture needs more memory than there is") from None
    except Exception as error:  # decoders and Pillow raise whatever they do
        raise PictureError(PictureReason.DAMAGED, f"the picture cannot be {what}: {kind_and_text(error)}") from None


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise PictureError for a picture of no pixels or of more than `max_pixels`."""
    width, height = size
    if width < 1 or height < 1:
        raise PictureError(PictureReason.ZERO_SIZE, f"the picture is {width} x {height} pixels")
    if width * height > max_pixels:
        message = f"the picture is {width} x {height} = {width * height:,} pixels, more than the limit of {max_pixels:,}"
        raise PictureError(PictureReason.TOO_LARGE, f"{message} (--max-pixels)")


def _check_outgrown(width: int, height: int) -> None:
    """Refuse a large GIF whose first frame goes beyond its canvas, as it never should: Pillow prints a warning of it."""
    if width * height > _MOST_OUTGROWN_PIXELS:
        message = f"its first frame goes beyond its canvas, to {width} x {height} = {width * height:,} pixels"
        reason = f"such GIFs are read up to {_MOST_OUTGROWN_PIXELS:,}; write it again"
        raise PictureError(PictureReason.TOO_LARGE, f"{message}; {reason}")


def _check_believable(num_pixels: int, num_bytes: int) -> None:
    """Refuse a large picture in so few bytes that it can only be one colour: gigabytes and a minute for nothing."""
    if num_pixels > _ALWAYS_BELIEVED_PIXELS and num_pixels > _MOST_PIXELS_PER_BYTE * num_bytes:
        message = f"it states {num_pixels:,} pixels in {num_bytes:,} bytes: it unpacks to far more than its size"
        raise PictureError(PictureReason.TOO_LARGE, message)


def check_mode(image: Image, levels: Levels | None, options: PixelOptions) -> None:
    """Refuse pixels that have no defined place in 0..255.

    Pillow opens grey PNM files of more than 8 bits in mode I, scaled to 0..65535, and TIFF files of 16 bits with a sign as
    well. The preset "upright" takes what is known to reach from black to white.
    """
    mode = image.mode
    if mode not in NO_PIXELS or (mode == "I" and image.format == "PPM"):
        return
    if levels is None:
        what = f"the picture has {NO_PIXELS[mode]} (Pillow mode {mode}), which have no defined range"
        raise PictureError(PictureReason.UNSUPPORTED, f"{what}; convert it to 8 or 16 bits first")
    if options.preset != "upright":
        kind = "floating-point" if mode == "F" else "signed 16-bit"
        what = f"the picture has {kind} pixels, which have no place in 0..255 with --preset {options.preset}"
        raise PictureError(PictureReason.UNSUPPORTED, f"{what}; --preset upright scales them")


def reader_for(kind: str) -> type[ImageFile]:
    """The class that reads `kind`. Raises PictureError when it is not installed."""
    module, name = _READERS[kind]
    try:
        found: type[ImageFile] = getattr(importlib.import_module(module), name)
    except ImportError:
        hint = "a HEIC picture needs a decoder that is not installed: pip install 'beholder[heic]'"
        raise PictureError(PictureReason.UNSUPPORTED, hint) from None
    return found


def be_quiet() -> None:
    """Keep Pillow's notes on odd metadata off the terminal: one narrow filter, put in once.

    `warnings.catch_warnings` would swap the filters of all threads. Only UserWarnings of Pillow's format readers are hushed.
    """
    if _QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", category=UserWarning, module=_QUIET[3].pattern)


def _scale(image: ImageFile, short_px: int) -> int:
    """Have libjpeg decode at the smallest of 1/2, 1/4, 1/8 that keeps the short side at SCALED_MARGIN x `short_px` or more.

    Returns the divisor: 2, 4, 8, or 1 for whole pictures.
    """
    wanted = SCALED_MARGIN * short_px
    scale = next((divisor for divisor in (8, 4, 2) if min(image.size) >= divisor * wanted), 1)
    if scale > 1:
        image.draft(None, (image.size[0] // scale, image.size[1] // scale))
    return scale


def _failed(error: Exception, data: bytes, kind: str) -> PictureError:
    """What a decoder's exception means."""
    from PIL import features

    text = text_of(error) or type(error).__name__
    lower = text.lower()
    width, height = stored_size(data, kind) or (1, 1)
    if width < 1 or height < 1:
        return PictureError(PictureReason.ZERO_SIZE, f"the {kind} picture is {width} x {height} pixels")
    needed = _NEEDED_MODULE.get(kind)
    if needed is not None and not features.check(needed):
        return PictureError(PictureReason.UNSUPPORTED, f"a {kind} picture, which this build of Pillow cannot decode")
    if isinstance(error, MemoryError):
        return PictureError(PictureReason.TOO_LARGE, f"the {kind} picture needs more memory than there is")
    if any(phrase in lower for phrase in _UNPACKS_TOO_FAR) or "DecompressionBomb" in type(error).__name__:
        return PictureError(PictureReason.TOO_LARGE, f"the {kind} file unpacks to far more than its size: {text}")
    if breaks_off(data, kind) or "truncated" in lower or (kind == "PPM" and "not enough image data" in lower):
        return PictureError(PictureReason.TRUNCATED, f"the {kind} picture breaks off after {len(data)} bytes: {text}")
    if any(phrase in lower for phrase in _NO_DECODER):
        return PictureError(PictureReason.UNSUPPORTED, f"a {kind} picture of a kind that has no decoder here: {text}")
    return PictureError(PictureReason.DAMAGED, f"the {kind} picture is damaged: {text}")


ORIENTATION = 0x0112
"""EXIF's tag."""
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation -> PIL.Image.Transpose that undoes it (the table of Pillow's `ImageOps.exif_transpose`)."""
SWAPPING = (5, 4, 6, 2)
"""Of these, the ones that swap width and height: TRANSPOSE, ROTATE_270, TRANSVERSE, ROTATE_90."""
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""More than 8 bits; of modes I and F only what `check_mode` lets through, whose black and white are known."""
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


def upright(opened: Opened) -> tuple[Image, int | None]:
    """The picture as people see it, turned by EXIF and `flat`; and the PIL.Image.Transpose that turned it, None for none."""
    from PIL.Image import Transpose

    image, turn = opened.image, TURNS.get(orientation(opened.image))
    return flat(image if turn is None else image.transpose(Transpose(turn)), opened.levels), turn


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

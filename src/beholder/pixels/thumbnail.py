"""A small WebP or JPEG of a picture as a person sees it."""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from beholder.errors import InputError
from beholder.pixels.opening import TURNS, Opened, flat, open_picture, orientation, whatever_happens
from beholder.pixels.picture import MAX_PIXELS, PixelOptions

if TYPE_CHECKING:
    from PIL.Image import Image

ThumbnailKind = Literal["webp", "jpeg"]
MEDIA_TYPES: dict[ThumbnailKind, str] = {"webp": "image/webp", "jpeg": "image/jpeg"}
SQUARE_TYPE = "image/png"
"""Of a tower's square, which loses nothing."""

_REDUCING_GAP = 3.0
"""How far Pillow first reduces by averaging whole blocks; from 3.0 on it says the result is nearly that of a plain resize."""
_WEBP_EFFORT = 4
_MAX_SIDE = 16_383
"""WebP holds no longer sides."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, without the metadata of the large one.

    Attributes:
        data: the bytes of a file.
        media_type: "image/webp" or "image/jpeg"; "image/png" of a tower's square.
        width, height: in pixels, upright.
        is_turned: whether EXIF says that the stored picture is to be turned or mirrored (an orientation other than 1).
    """

    data: bytes
    media_type: str
    width: int
    height: int
    is_turned: bool = False


def make_thumbnail(
    data: bytes,
    *,
    longest_px: int = 320,
    quality: int = 78,
    kind: ThumbnailKind = "webp",
    max_pixels: int = MAX_PIXELS,
    pixels: PixelOptions | None = None,
) -> Thumbnail:
    """A small picture: EXIF orientation applied, palettes expanded, alpha on white, as the preset `upright` does.

    May be called from many threads; nothing guards against pictures that crash or hang the decoder (`ThumbnailPool` does).

    Args:
        data: the bytes of a file, of any format that is scored.
        longest_px: the longer side is made at most so long; smaller pictures keep their size.
        quality: 1 to 100, of the encoder.
        kind: "webp", where Pillow was built with it, else "jpeg".
        max_pixels: pictures with more pixels are refused before they are decoded.
        pixels: in place of all these: the square that goes to a tower by these options, as it is, as PNG.

    Raises:
        PictureError: and nothing else, whatever `data` holds.
        InputError: there is no such kind, size or quality.
    """
    check_request(longest_px, quality, kind)
    if pixels is not None:
        return _square(data, pixels)
    options = PixelOptions(preset="upright", size_px=longest_px, decoder="scaled", max_pixels=max_pixels)
    with whatever_happens("shown"):
        opened = open_picture(data, options)
        is_turned = orientation(opened.image) != 1
        return replace(encoded(_shrunk(opened, longest_px), quality=quality, kind=kind), is_turned=is_turned)


def _square(data: bytes, pixels: PixelOptions) -> Thumbnail:
    """What a tower is shown of the picture, by the code that shows it. Raises PictureError."""
    from PIL import Image as PillowImage

    from beholder.pixels.decode import prepare

    importlib.import_module("PIL.PngImagePlugin")  # else Pillow loads all it has, to find this one
    buffer = io.BytesIO()
    square = PillowImage.fromarray(prepare(data, pixels).pixels)
    square.save(buffer, "PNG")
    return Thumbnail(buffer.getvalue(), SQUARE_TYPE, square.width, square.height)


def check_request(longest_px: int, quality: int, kind: str) -> None:
    """Refuse what no thumbnail can be. Raises InputError."""
    if not 1 <= longest_px <= _MAX_SIDE or not 1 <= quality <= 100 or kind not in MEDIA_TYPES:
        raise InputError(f"a thumbnail of {longest_px} pixels, quality {quality}, as {kind} cannot be made")


def _shrunk(opened: Opened, longest_px: int) -> Image:
    """An upright, opaque picture of mode L or RGB, at most `longest_px` long, that carries no metadata."""
    from PIL.Image import Resampling, Transpose

    turn = TURNS.get(orientation(opened.image))
    flattened = flat(opened.image, opened.levels)
    width, height = opened.size
    scale = min(1.0, longest_px / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = flattened.resize(size, Resampling.BICUBIC, box=(0.0, 0.0, *opened.area), reducing_gap=_REDUCING_GAP)
    small = small if turn is None else small.transpose(Transpose(turn))
    small.info = {}
    return small


def encoded(image: Image, *, quality: int, kind: ThumbnailKind = "webp") -> Thumbnail:
    """The image (mode L or RGB, no metadata) as a file."""
    from PIL import features

    if kind == "webp" and not features.check("webp"):
        kind = "jpeg"
    buffer = io.BytesIO()
    if kind == "webp":
        importlib.import_module("PIL.WebPImagePlugin")  # else Pillow loads all it has, to find this one
        image.save(buffer, "WEBP", quality=quality, method=_WEBP_EFFORT, icc_profile=b"", exif=b"")
    else:
        image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return Thumbnail(buffer.getvalue(), MEDIA_TYPES[kind], image.width, image.height)

"""The bytes of a picture made into the square of pixels that goes to the tower, by one of the presets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from beholder.columns import PictureReason
from beholder.errors import text_of
from beholder.pixels.library import library_pixels
from beholder.pixels.opening import (
    ALPHA_MODES,
    DEEP_MODES,
    SWAPPING,
    Opened,
    is_opaque,
    open_picture,
    orientation,
    upright,
    whatever_happens,
)
from beholder.pixels.picture import PictureError, PixelOptions, Pixels, Trait

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_PX = (2**31 - 1) // (5 * 8)
"""Longest side that Pillow's bicubic resize makes: above, its table of 5 coefficients of 8 bytes a pixel overflows an int."""
_MOST_PIXELS = 1 << 28
"""Pillow is not asked for more resized pixels than this: pictures over 5,000 times longer than wide would have them."""


def prepare(data: bytes, options: PixelOptions) -> Pixels:
    """Decode a picture and cut the square that goes to the tower out of it.

    Args:
        data: the bytes of a file: JPEG, PNG, WebP, AVIF, GIF (its first frame), BMP, TIFF, PPM, HEIC (with its plug-in).
        options: which pixels are wanted.

    Returns:
        (size_px, size_px, 3) uint8 pixels, the stored size, and the traits that make presets differ.

    Raises:
        PictureError: and nothing else, whatever `data` holds; `reason` is one of EMPTY, NOT_AN_IMAGE, TRUNCATED, DAMAGED,
            TOO_LARGE, ZERO_SIZE, UNSUPPORTED.
    """
    with whatever_happens("used"):
        opened = open_picture(data, options)
        return Pixels(pixels_of(opened, options), *opened.size, traits_of(opened.image))


def resized_size(width: int, height: int, short_px: int) -> tuple[int, int]:
    """(width, height) after torchvision's `Resize(short_px)`: the short side becomes `short_px`, the long one is truncated."""
    if width <= height:
        return short_px, int(short_px * height / width)
    return int(short_px * width / height), short_px


def crop_box(width: int, height: int, side: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of torchvision's `CenterCrop(side)`: halves are rounded to even."""
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    return left, top, left + side, top + side


def traits_of(image: Image) -> Trait:
    """What makes presets give different pixels for `image` (loaded, as decoded)."""
    traits = header_traits(image, is_turned=False)
    if "transparency" not in image.info and image.mode in ALPHA_MODES and is_opaque(image):
        traits &= ~Trait.ALPHA
    return traits


def header_traits(image: Image, *, is_turned: bool) -> Trait:
    """As `traits_of`, of an image that is opened but not loaded: an alpha channel counts, opaque or not.

    `is_turned`: its decoder turns it upright itself.
    """
    traits = Trait.NONE
    if not is_turned and orientation(image) != 1:
        traits |= Trait.ROTATED
    if image.mode in ("1", "P", "PA"):
        traits |= Trait.PALETTE
    if image.mode in DEEP_MODES:
        traits |= Trait.DEEP
    if image.mode == "CMYK":
        traits |= Trait.CMYK
    if "transparency" in image.info or image.mode in ALPHA_MODES:
        traits |= Trait.ALPHA
    return traits


def pixels_of(opened: Opened, options: PixelOptions) -> npt.NDArray[np.uint8]:
    """Apply a preset to a decoded picture.

    Returns:
        (S, S, 3) uint8, contiguous.

    Raises:
        PictureError: UNSUPPORTED when Pillow cannot make RGB of this mode, TOO_LARGE when it is too thin to be resized.
    """
    if options.transform:
        return library_pixels(opened, options)
    image, size, area = opened.image, opened.size, (0.0, 0.0, *opened.area)
    try:
        if options.preset == "upright":
            image, turn = upright(opened)
            if turn is not None:
                size = (size[1], size[0]) if turn in SWAPPING else size
                area = _turned_area(opened.image.size, opened.area, turn)
        elif options.preset != "reference":
            image = image.convert("L") if image.mode == "1" else image if image.mode == "L" else image.convert("RGB")
        return _cut(image, size, area, options)
    except ValueError as error:
        message = f"a picture of Pillow mode {image.mode} cannot be made RGB: {text_of(error, None)}"
        raise PictureError(PictureReason.UNSUPPORTED, message) from None
    except MemoryError:
        message = f"the picture of {size[0]} x {size[1]} pixels needs more memory than there is"
        raise PictureError(PictureReason.TOO_LARGE, message) from None


def _turned_area(whole: tuple[int, int], area: tuple[float, float], turn: int) -> tuple[float, float, float, float]:
    """Where the picture lies in an image that is turned, whose last column and row it covered only in part."""
    right, bottom = whole[0] - area[0], whole[1] - area[1]
    left = {0: right, 3: right, 4: bottom, 6: bottom}.get(turn, 0.0)
    top = {1: bottom, 3: bottom, 2: right, 6: right}.get(turn, 0.0)
    width, height = (area[1], area[0]) if turn in SWAPPING else area
    return left, top, left + width, top + height


def _cut(
    image: Image, size: tuple[int, int], area: tuple[float, float, float, float], options: PixelOptions
) -> npt.NDArray[np.uint8]:
    """Resize and crop in the image's own mode, then make it RGB."""
    from PIL.Image import Resampling

    from beholder.pixels.resize import PIXEL_BYTES, is_in_place, resize_crop

    side = options.size_px
    inner = int(side / options.crop)
    width, height = (inner, inner) if options.preset == "squash" else resized_size(*size, inner)
    is_whole = area == (0, 0, *image.size)  # else it was decoded smaller, and is not exact anyway
    is_ours = is_whole and image.mode in PIXEL_BYTES
    is_large = width * height > _MOST_PIXELS
    if max(width, height) > LONGEST_PX or (is_large and not (is_ours and is_in_place(image))):
        message = f"{size[0]} x {size[1]} pixels are too thin: resized, they would be {width} x {height}"
        raise PictureError(PictureReason.TOO_LARGE, message)
    box = crop_box(width, height, side)
    if is_ours:
        pixels = resize_crop(image, width, height, box)
        return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else np.ascontiguousarray(pixels)
    small = image.resize((width, height), Resampling.BICUBIC, box=None if is_whole else area).crop(box)
    return np.array(small if small.mode == "RGB" else small.convert("RGB"))

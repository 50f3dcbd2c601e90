"""A decoded Pillow image and the options in; (S, S, 3) uint8 pixels and the traits that make presets differ out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from beholder.columns import PictureReason
from beholder.pixels.opening import Opened
from beholder.pixels.picture import PictureError, PixelOptions, Trait
from beholder.pixels.thin import LONGEST_PX, is_thin, thin_crop
from beholder.pixels.upright import ALPHA_MODES, DEEP_MODES, flat, is_opaque, orientation

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_PIXELS = 1 << 28
"""No picture is resized to more pixels than this in one piece; only 16-bit ones over 5,000 times longer than wide would be."""


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
    image, size, area = opened.image, opened.size, (0.0, 0.0, *opened.area)
    try:
        if options.preset == "upright":
            turn = _TURNS.get(orientation(image))
            if turn is not None:
                size = (size[1], size[0]) if turn in _SWAPPING else size
                area = _turned_area(image.size, opened.area, turn)
                image = image.transpose(turn)
            image = flat(image, opened.levels)
        elif options.preset != "reference":
            image = image.convert("L") if image.mode == "1" else image if image.mode == "L" else image.convert("RGB")
        return _cut(image, size, area, options)
    except ValueError as error:
        text = " ".join(str(error).split())
        message = f"a picture of Pillow mode {image.mode} cannot be made RGB: {text}"
        raise PictureError(PictureReason.UNSUPPORTED, message) from None
    except MemoryError:
        message = f"the picture of {size[0]} x {size[1]} pixels needs more memory than there is"
        raise PictureError(PictureReason.TOO_LARGE, message) from None


_TURNS: dict[int, Any] = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""EXIF orientation -> PIL.Image.Transpose that undoes it (the table of Pillow's `ImageOps.exif_transpose`)."""
_SWAPPING = (5, 4, 6, 2)
"""Of these, the ones that swap width and height: TRANSPOSE, ROTATE_270, TRANSVERSE, ROTATE_90."""


def _turned_area(whole: tuple[int, int], area: tuple[float, float], turn: int) -> tuple[float, float, float, float]:
    """Where the picture lies in an image that is turned, whose last column and row it covered only in part."""
    right, bottom = whole[0] - area[0], whole[1] - area[1]
    left = {0: right, 3: right, 4: bottom, 6: bottom}.get(turn, 0.0)
    top = {1: bottom, 3: bottom, 2: right, 6: right}.get(turn, 0.0)
    width, height = (area[1], area[0]) if turn in _SWAPPING else area
    return left, top, left + width, top + height


def _cut(
    image: Image, size: tuple[int, int], area: tuple[float, float, float, float], options: PixelOptions
) -> npt.NDArray[np.uint8]:
    """Resize and crop in the image's own mode, then make it RGB."""
    from PIL import Image as PillowImage

    from beholder.pixels.resize import resize_crop

    side = options.size_px
    inner = int(side / options.crop)
    width, height = (inner, inner) if options.preset == "squash" else resized_size(*size, inner)
    if max(width, height) > LONGEST_PX:
        message = f"{size[0]} x {size[1]} pixels are too thin: resized, they would be {width} x {height}"
        raise PictureError(PictureReason.TOO_LARGE, message)
    box = crop_box(width, height, side)
    if area != (0, 0, *image.size):  # decoded smaller; not exact anyway
        small = image.resize((width, height), PillowImage.Resampling.BICUBIC, box=area).crop(box)
    elif is_thin(width, height, box) and image.mode not in DEEP_MODES:
        small = thin_crop(image, width, height, box)
    elif image.mode in ("L", "RGB"):
        pixels = resize_crop(image, width, height, box)
        return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else np.ascontiguousarray(pixels)
    elif width * height > _MOST_PIXELS:
        raise MemoryError
    else:
        small = image.resize((width, height), PillowImage.Resampling.BICUBIC).crop(box)
    return np.array(small if small.mode == "RGB" else small.convert("RGB"))

"""Slow, plain transcription of OpenAI's picture transform down to the arithmetic of Pillow's C code: the oracle for pixels.

Nothing of `beholder` is used, and of Pillow only what stores and hands out values (and, for YCbCr, HSV and LAB, its
conversion of single pixels). Sums are Python integers and floats, in the order in which C adds them up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

Array = npt.NDArray[Any]
VERTICAL_MAY_COME_FIRST = int(PIL.__version__.split(".")[0]) >= 13
"""Pillow 13 began to run the vertical pass first when the height shrinks by more than twice as many pixels as the width."""


def size_after_resize(width: int, height: int, side: int) -> tuple[int, int]:
    """As torchvision's Resize(side): the short side becomes `side`; exact integer arithmetic here."""
    short, long = min(width, height), max(width, height)
    grown = side * long // short
    return (side, grown) if width <= height else (grown, side)


def crop_start(length: int, side: int) -> int:
    """As torchvision's CenterCrop: half of the rest, and a half pixel goes to the even neighbour."""
    whole, odd = divmod(length - side, 2)
    return whole + (odd and whole % 2)


def cubic(x: float) -> float:
    """Keys' cubic convolution, a = -1/2."""
    a = -0.5
    x = abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0


def taps(in_px: int, out_px: int) -> list[tuple[int, list[float]]]:
    """For each output pixel: the first source pixel, and the weights of it and its followers."""
    scale = in_px / out_px
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    found = []
    for out in range(out_px):
        centre = (out + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), in_px)
        weights = [cubic((place - centre + 0.5) * (1.0 / stretch)) for place in range(first, last)]
        total = 0.0
        for weight in weights:
            total += weight
        found.append((first, [weight / total for weight in weights] if total != 0.0 else weights))
    return found


def fixed_matrix(in_px: int, out_px: int) -> npt.NDArray[np.float64]:
    """(out_px, in_px) weights in units of 2**-22, whole numbers."""
    matrix = np.zeros((out_px, in_px))
    for out, (first, weights) in enumerate(taps(in_px, out_px)):
        for place, weight in enumerate(weights):
            matrix[out, first + place] = math.trunc(weight * (1 << 22) + (0.5 if weight >= 0 else -0.5))
    return matrix


def pass_8_bits(values: Array, matrix: npt.NDArray[np.float64], axis: int) -> Array:
    """One pass over (H, W) bytes. Sums of whole numbers below 2**53 are exact in float64, in any order."""
    wide = values.astype(np.float64)
    sums = matrix @ wide if axis == 0 else (matrix @ wide.T).T
    shifted = (sums.astype(np.int64) + (1 << 21)) >> 22
    return np.clip(shifted, 0, 255).astype(np.uint8)


def pass_16_bits(values: Array, out_px: int, axis: int) -> Array:
    """One pass over (H, W) 16-bit numbers (kept in 0..65535) or 32-bit ones (left as they are), in doubles, tap by tap."""
    low, high = (0, 65535) if values.dtype == np.uint16 else (-(2**31), 2**31 - 1)
    lines = (values.T if axis == 0 else values).tolist()
    plan = taps(len(lines[0]), out_px)
    result = []
    for line in lines:
        row = []
        for first, weights in plan:
            total = 0.0
            for place, weight in enumerate(weights):
                total += line[first + place] * weight
            row.append(min(max(int(total + 0.5 if total >= 0 else total - 0.5), low), high))
        result.append(row)
    done = np.array(result, values.dtype)
    return done.T if axis == 0 else done


def bicubic(values: Array, size: tuple[int, int]) -> Array:
    """(H, W) numbers resized to `size` (width, height) as Pillow does it: two passes, each rounded; none where not needed."""
    height, width = values.shape
    lost_height, lost_width = height - size[1], width - size[0]
    order = [(1, width, size[0]), (0, height, size[1])]
    if VERTICAL_MAY_COME_FIRST and lost_height > 0 and lost_height > 2 * lost_width:
        order.reverse()
    for axis, before, after in order:
        if before != after:
            deep = values.dtype != np.uint8
            values = pass_16_bits(values, after, axis) if deep else pass_8_bits(values, fixed_matrix(before, after), axis)
    return values


def nearest(values: Array, size: tuple[int, int]) -> Array:
    """(H, W) numbers resized by picking: positions are added up step by step, as Pillow's loop does."""

    def places(in_px: int, out_px: int) -> list[int]:
        step = in_px / out_px
        at, found = step * 0.5, []
        for _ in range(out_px):
            found.append(int(at))
            at += step
        return found

    if (values.shape[1], values.shape[0]) == size:
        return values
    return values[np.ix_(places(values.shape[0], size[1]), places(values.shape[1], size[0]))]


def times(a: Array, b: Array) -> Array:
    """Products a * b / 255 of bytes, rounded as Pillow's MULDIV255."""
    product = a.astype(np.int64) * b.astype(np.int64) + 128
    return ((product >> 8) + product) >> 8


def premultiplied(colour: Array, alpha: Array) -> Array:
    """Colour times alpha."""
    return times(colour, alpha).astype(np.uint8)


def unmultiplied(colour: Array, alpha: Array) -> Array:
    """Colour divided by alpha, rounded down; left alone where alpha is 0 or 255."""
    plain = (alpha == 0) | (alpha == 255)
    divided = np.minimum(255 * colour.astype(np.int64) // np.where(plain, 1, alpha), 255)
    return np.where(plain, colour, divided).astype(np.uint8)


def bands_of(image: Image.Image) -> list[Array]:
    """The stored values of each channel, (H, W) each."""
    if image.mode == "1":
        return [np.asarray(image).astype(np.uint8) * 255]
    if image.mode.startswith("I;16"):
        return [np.asarray(image).astype(np.uint16)]
    if image.mode == "I":
        return [np.asarray(image)]
    return [np.asarray(band) for band in image.split()]


def resized_in_mode(image: Image.Image, size: tuple[int, int]) -> list[Array]:
    """Channels of `image.resize(size, BICUBIC)`."""
    bands = bands_of(image)
    if (image.width, image.height) == size:
        return bands
    if image.mode in ("1", "P"):
        return [nearest(band, size) for band in bands]
    if image.mode in ("RGBA", "LA"):
        small = [bicubic(premultiplied(band, bands[-1]), size) for band in bands[:-1]]
        alpha = bicubic(bands[-1], size)
        return [unmultiplied(band, alpha) for band in small] + [alpha]
    return [bicubic(band, size) for band in bands]


def to_rgb(bands: list[Array], image: Image.Image, resized: bool = False) -> Array:
    """(H, W, 3) uint8 of cropped channels in the mode of `image`, as Pillow's convert("RGB") gives it."""
    mode = image.mode
    if mode in ("1", "L", "LA"):
        return np.stack([bands[0]] * 3, axis=-1)
    if mode.startswith("I"):  # cut off at 255 (32-bit numbers overshoot below 0 as well)
        return np.stack([np.clip(bands[0], 0, 255).astype(np.uint8)] * 3, axis=-1)
    if mode in ("RGB", "RGBA", "RGBX"):
        return np.stack(bands[:3], axis=-1)
    if mode == "PA" and resized:
        return np.zeros((*bands[0].shape, 3), np.uint8)  # Pillow loses the palette of this mode when it resizes: all black
    if mode in ("P", "PA"):
        palette = np.zeros((256, 3), np.uint8)
        stored = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette[: len(stored)] = stored
        return palette[bands[0]]
    if mode == "CMYK":
        white = 255 - bands[3].astype(np.int64)
        return np.stack([np.clip(white - times(band, white), 0, 255) for band in bands[:3]], axis=-1).astype(np.uint8)
    merged = Image.merge(mode, [Image.fromarray(band) for band in bands])  # pixel by pixel: no neighbour has a say
    return np.asarray(merged.convert("RGB"))


def reference(image: Image.Image, side: int = 224) -> Array:
    """(side, side, 3) uint8: Resize(side, BICUBIC) in the image's own mode, CenterCrop(side), then RGB."""
    size = size_after_resize(image.width, image.height, side)
    return _cropped(image, size, side)


def rgb_first(image: Image.Image, side: int = 224) -> Array:
    """As `reference`, of the image converted to RGB before anything else."""
    return reference(_rgb(image), side)


def squashed(image: Image.Image, side: int = 224, inner: int | None = None) -> Array:
    """RGB first, then resized to a square of `inner` (default `side`) pixels whatever its shape, then cropped to `side`."""
    inner = inner or side
    return _cropped(_rgb(image), (inner, inner), side)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("YCbCr", "HSV", "LAB", "RGBa"):
        return image.convert("RGB")
    return Image.fromarray(np.ascontiguousarray(to_rgb(bands_of(image), image)))


def _cropped(image: Image.Image, size: tuple[int, int], side: int) -> Array:
    left, top = crop_start(size[0], side), crop_start(size[1], side)
    cut: Callable[[Array], Array] = lambda band: band[top : top + side, left : left + side]  # noqa: E731
    return to_rgb([cut(band) for band in resized_in_mode(image, size)], image, resized=image.size != size)


def on_white(colours: Array, alpha: Array) -> Array:
    """(H, W, 3) colours laid on white by alpha, real arithmetic: within a level of any integer form."""
    share = alpha.astype(np.float64)[..., None] / 255
    return colours * share + 255 * (1 - share)

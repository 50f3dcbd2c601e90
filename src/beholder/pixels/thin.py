"""A very long and thin Pillow image in; the crop of its resized self out, to the bit as Pillow's, without the rest of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]

LONGEST_PX = (2**31 - 1) // (5 * 8)
"""Longest side that Pillow's bicubic resize makes: above, its table of 5 coefficients of 8 bytes a pixel overflows an int."""
_THIN_PIXELS = 1 << 22
"""Resized pictures with more pixels than this, most of them outside the crop, are not made whole."""
_PRECISION_BITS = 32 - 8 - 2
_NEAREST_STEP = 1 << 20


def is_thin(width: int, height: int, box: Box) -> bool:
    """Whether a resized picture of `width` x `height` is much larger than the `box` (left, top, right, bottom) of it."""
    return width * height > max(_THIN_PIXELS, 16 * (box[2] - box[0]) * (box[3] - box[1]))


def thin_crop(image: Image, width: int, height: int, box: Box) -> Image:
    """`image.resize((width, height), BICUBIC).crop(box)`; only the box is computed.

    Follows Pillow's Resample.c and Geometry.c: float32 sizes, float64 coefficients rounded to 22 binary places, each pass
    rounded to 8 bits, in Pillow's order; 1-bit and palette images take the nearest pixel. `box` lies inside
    (0, 0, width, height). Not for 16-bit modes and mode I.
    """
    from PIL import Image as PillowImage

    if image.mode in ("1", "P"):
        columns = _nearest(image.width, width, box[0], box[2])
        rows = _nearest(image.height, height, box[1], box[3])
        part = image.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
        indices = np.asarray(part.convert("L") if image.mode == "1" else part)[np.ix_(rows - rows[0], columns - columns[0])]
        if image.mode == "1":
            return PillowImage.fromarray(indices).convert("1", dither=PillowImage.Dither.NONE)
        return _filled(part, indices)
    if image.mode in ("RGBA", "LA"):
        plain = "RGBa" if image.mode == "RGBA" else "La"
        return _resampled(image, plain, width, height, box).convert(image.mode)
    return _resampled(image, image.mode, width, height, box)


def _resampled(image: Image, mode: str, width: int, height: int, box: Box) -> Image:
    """The two bicubic passes over the box, in `mode` (premultiplied, for images with alpha)."""
    from PIL import Image as PillowImage

    across = _Taps(image.width, width, box[0], box[2])
    down = _Taps(image.height, height, box[1], box[3])
    part = image.crop((across.first, down.first, across.last, down.last))
    part = part if mode == image.mode else part.convert(mode)
    if vertical_first(image.size, (width, height)):
        bands = [across.apply(down.apply(np.asarray(band), 0), 1) for band in part.split()]
    else:
        bands = [down.apply(across.apply(np.asarray(band), 1), 0) for band in part.split()]
    if part.mode == "PA":
        return _filled(part, np.stack(bands, axis=-1))
    images = [PillowImage.fromarray(band) for band in bands]
    return images[0] if len(images) == 1 else PillowImage.merge(part.mode, images)


def vertical_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether Pillow runs the vertical pass first: since 13.0 when the height loses more than twice what the width loses."""
    import PIL

    lost = before[1] - after[1]
    return int(PIL.__version__.split(".")[0]) >= 13 and lost > 0 and lost > 2 * (before[0] - after[0])


def _filled(part: Image, values: npt.NDArray[np.uint8]) -> Image:
    """`values` (H, W) or (H, W, bands) as an image such as Pillow makes when it resizes `part`, its palette included."""
    from PIL import Image as PillowImage

    height, width = values.shape[:2]
    other = (width + (width == part.width), height)  # the same size would only be a copy
    shell = part.resize(other, PillowImage.Resampling.BICUBIC).crop((0, 0, width, height))
    shell.frombytes(np.ascontiguousarray(values).tobytes())
    return shell


class _Taps:
    """Which source pixels, with which weights, make the output pixels [start, stop) of one axis."""

    def __init__(self, in_px: int, out_px: int, start: int, stop: int) -> None:
        scale = float(np.float32(in_px)) / out_px
        stretch = max(scale, 1.0)
        support = 2.0 * stretch
        num_taps = int(np.ceil(support)) * 2 + 1
        centre = (np.arange(start, stop) + 0.5) * scale
        low = np.maximum(np.trunc(centre - support + 0.5).astype(np.int64), 0)
        high = np.minimum(np.trunc(centre + support + 0.5).astype(np.int64), in_px)
        place = low[:, None] + np.arange(num_taps)
        weights = np.where(place < high[:, None], _bicubic((place - centre[:, None] + 0.5) * (1.0 / stretch)), 0.0)
        total = np.add.accumulate(weights, axis=1)[:, -1:]  # one after the other, as C does
        self.weights: npt.NDArray[np.float64] = np.divide(weights, total, out=weights, where=total != 0)
        self.first, self.last = int(low.min()), int(high.max())
        self.places = np.minimum(place, self.last - 1) - self.first

    def apply(self, values: npt.NDArray[np.uint8], axis: int) -> npt.NDArray[np.uint8]:
        """One pass over 8-bit `values` (H, W), whose `axis` begins at `first`."""
        fixed = np.trunc(self.weights * (1 << _PRECISION_BITS) + np.where(self.weights < 0, -0.5, 0.5)).astype(np.int64)
        total = np.full(1, 1 << (_PRECISION_BITS - 1), np.int64)
        for tap in range(fixed.shape[1]):
            weight = fixed[:, tap] if axis == 1 else fixed[:, tap, None]
            total = total + values.take(self.places[:, tap], axis=axis) * weight
        clipped: npt.NDArray[np.uint8] = np.clip(total >> _PRECISION_BITS, 0, 255).astype(np.uint8)
        return clipped


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic with a = -1/2, with Pillow's order of operations."""
    x = np.abs(x)
    inner = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    outer = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1.0, inner, np.where(x < 2.0, outer, 0.0))


def _nearest(in_px: int, out_px: int, start: int, stop: int) -> npt.NDArray[np.int64]:
    """Source index of the output pixels [start, stop): Pillow adds the step up from the left, rounding at each pixel."""
    step = float(np.float32(in_px)) / out_px
    at = step * 0.5
    done = 0
    while done < start:
        count = min(_NEAREST_STEP, start - done)
        at = float(np.add.accumulate(np.concatenate([[at], np.full(count, step)]))[-1])
        done += count
    places = np.add.accumulate(np.concatenate([[at], np.full(stop - start - 1, step)]))
    return np.minimum(places.astype(np.int64), in_px - 1)

"""A Pillow image, a size and a window in; the window of the bicubic resize out, to the bit as Pillow gives it, only faster.

`image.resize((w, h), BICUBIC).crop(box)` filters the whole image and throws most away. Here only the window is computed
(`kernels.bicubic`), straight from Pillow's memory (`pixels.pillow_memory`), with the processor's widest byte arithmetic.
Memory is that of the window and of the input rows it looks at, however large the whole output would be.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from beholder.pixels.pillow_memory import PIXEL_BYTES, rows_of

Box = tuple[int, int, int, int]
Order = Literal["pillow", "rows"]

_BANDS = {"L": 1, "RGB": 3, "YCbCr": 3, "LAB": 3, "HSV": 3}
"""Channels of the modes in PIXEL_BYTES that have not 4."""


def resize_crop(
    image: Image.Image, out_width: int, out_height: int, box: Box, *, order: Order = "pillow"
) -> npt.NDArray[np.uint8]:
    """What `np.asarray(image.resize((out_width, out_height), Image.Resampling.BICUBIC).crop(box))` is, to the bit.

    Args:
        image: any Pillow image. L, RGB, RGBX, RGBA, CMYK, YCbCr, LAB, HSV and LA are filtered here; 1 and P are looked up
            (Pillow resizes them with NEAREST); anything else (I;16, I, F, PA) goes through Pillow itself, whole output and all.
        out_width: width of the whole output in pixels, >= 1.
        out_height: its height.
        box: (left, top, right, bottom), the wanted part of the output, inside it and not empty.
        order: "pillow": rows or columns first as the installed Pillow does; "rows": always rows first, as Pillow did before
            13.0, which takes columns first where height shrinks by more than twice what width does (pixels differ by rounding).

    Returns:
        (bottom - top, right - left) for one channel, (bottom - top, right - left, channels) for more; uint8, but bool for
        mode 1, and what NumPy makes of Pillow's other modes.

    Raises:
        ValueError: the box is empty or reaches outside the output. OSError and others from `image.load()`.
    """
    left, top, right, bottom = box
    if not (0 <= left < right <= out_width and 0 <= top < bottom <= out_height):
        raise ValueError(f"box {box} is empty or outside of {out_width} x {out_height}")
    image.load()
    if image.size == (out_width, out_height):
        return np.asarray(image.crop(box))
    if image.mode in ("1", "P"):
        return _looked_up(image, out_width, out_height, box)
    if image.mode == "RGBA":
        return _from_bands("RGBa", _filtered(image.convert("RGBa"), out_width, out_height, box, order), "RGBA")
    if image.mode == "LA":
        premultiplied = image.convert("La")
        bands = [_filtered(premultiplied.getchannel(i), out_width, out_height, box, order) for i in range(2)]
        return np.asarray(Image.merge("La", [Image.fromarray(band) for band in bands]).convert("LA"))
    if image.mode in PIXEL_BYTES:
        return _filtered(image, out_width, out_height, box, order)
    return _by_pillow(image, out_width, out_height, box)


def _filtered(image: Image.Image, out_width: int, out_height: int, box: Box, order: Order) -> npt.NDArray[np.uint8]:
    from beholder.kernels.bicubic import resize_columns_first, resize_rows_first, window

    first = window(image.height, out_height, box[1])[0]
    last = window(image.height, out_height, box[3] - 1)[1]
    rows = rows_of(image, first, last)
    if rows is None:
        return _by_pillow(image, out_width, out_height, box)
    shrinks = (image.width - out_width, image.height - out_height)
    by_columns = order == "pillow" and shrinks[1] > max(0, 2 * shrinks[0]) and _pillow_takes_columns_first()
    function = resize_columns_first if by_columns else resize_rows_first
    bands = _BANDS.get(image.mode, 4)
    result: npt.NDArray[np.uint8] = function(
        _pieces(), rows.addresses, first, rows.pixel_bytes, image.size, (out_width, out_height), box, bands
    )
    return result[:, :, 0] if bands == 1 else result


def _looked_up(image: Image.Image, out_width: int, out_height: int, box: Box) -> npt.NDArray[Any]:
    """As Pillow resizes palette indices and bits: with NEAREST."""
    from beholder.kernels.bicubic import nearest_places

    columns = nearest_places(image.width, out_width, box[0], box[2])
    rows = nearest_places(image.height, out_height, box[1], box[3])
    left, top = max(int(columns[0]), 0), max(int(rows[0]), 0)
    pixels = np.asarray(image.crop((left, top, max(int(columns.max()), left) + 1, max(int(rows.max()), top) + 1)))
    result = pixels[np.ix_(np.maximum(rows - top, 0), np.maximum(columns - left, 0))]
    result[rows < 0] = 0
    result[:, columns < 0] = 0
    return result


@cache
def _pillow_takes_columns_first() -> bool:
    """Whether the installed Pillow filters columns before rows when a picture shrinks mostly in height (13.0 and later)."""
    values = bytes((37 * i * i) % 256 for i in range(64))
    found = Image.frombytes("L", (4, 16), values).resize((13, 5), Image.Resampling.BICUBIC).tobytes()
    image = Image.frombytes("L", (4, 16), values)
    return found != _filtered(image, 13, 5, (0, 0, 13, 5), "rows").tobytes()


def _by_pillow(image: Image.Image, out_width: int, out_height: int, box: Box) -> npt.NDArray[Any]:
    return np.asarray(image.resize((out_width, out_height), Image.Resampling.BICUBIC).crop(box))


@cache
def _pieces() -> npt.NDArray[Any]:
    """The arithmetic of this processor."""
    from beholder.kernels.quads import best_pieces

    pieces: npt.NDArray[Any] = best_pieces()
    return pieces


def _from_bands(storage: str, pixels: npt.NDArray[np.uint8], mode: str) -> npt.NDArray[np.uint8]:
    """Pixels of one of Pillow's inner modes as those of the mode it stands for."""
    size = (pixels.shape[1], pixels.shape[0])
    return np.asarray(Image.frombytes(storage, size, pixels.tobytes()).convert(mode))

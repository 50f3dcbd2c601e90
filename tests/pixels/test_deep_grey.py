"""Grey pictures of more than 8 bits as `upright` shows them, beside numpy's arithmetic on what tifffile or Pillow wrote."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from beholder import preprocess
from beholder.columns import PictureReason
from beholder.pixels.picture import PictureError
from beholder.pixels.thumbnail import make_thumbnail
from oracles.made_pictures import encoded

SIDE = 40
LEVELS = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) / (SIDE * SIDE - 1)
"""From black to white, each pixel another share."""


def tiff(values: npt.NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    options = {"metadata": None, "photometric": "minisblack"} | options
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def shares(values: npt.NDArray[Any], black: float, white: float) -> npt.NDArray[np.float64]:
    return (values.astype(np.float64) - black) / (white - black)


def upright(data: bytes) -> npt.NDArray[np.uint8]:
    found = preprocess(data, preset="upright", size_px=SIDE)
    assert (found == found[:, :, :1]).all()
    return found[:, :, 0]


def packed_12_bits(values: npt.NDArray[Any], photometric: int = 1, order: str = "<") -> bytes:
    """A TIFF of 12 bits a pixel, two pixels in three bytes, the higher bits first."""
    pairs = values.reshape(-1, 2).astype(np.uint32)
    joined = (pairs[:, 0] << 12) | pairs[:, 1]
    body = np.stack([joined >> 16, joined >> 8, joined], axis=1).astype(np.uint8).tobytes()
    tags = [(256, SIDE), (257, SIDE), (258, 12), (259, 1), (262, photometric), (273, 8 + 2 + 12 * 8 + 4), (277, 1), (278, SIDE)]
    entries = b"".join(struct.pack(f"{order}HHIH2x", tag, 3, 1, value) for tag, value in tags)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 8)
    return head + entries + struct.pack(f"{order}I", 0) + body


FULL = np.round(LEVELS * 65535).astype(np.uint16)
SIGNED = (FULL.astype(np.int32) - 32768).astype(np.int16)
FLOAT = (LEVELS * 7 - 3).astype(np.float32)
STATED = [(340, "f", 1, -3.0, True), (341, "f", 1, 4.0, True)]
TWELVE = np.round(LEVELS * 4095).astype(np.uint16)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (tiff(FULL), shares(FULL, 0, 65535)),
        (tiff(FULL, byteorder=">"), shares(FULL, 0, 65535)),
        (tiff(FULL, photometric="miniswhite"), shares(FULL, 65535, 0)),
        (tiff(FULL, photometric="miniswhite", byteorder=">"), shares(FULL, 65535, 0)),
        (tiff(FULL, photometric="miniswhite", compression="zlib"), shares(FULL, 65535, 0)),
        (packed_12_bits(TWELVE), shares(TWELVE, 0, 4095)),
        (packed_12_bits(TWELVE, photometric=0), shares(TWELVE, 4095, 0)),
        (tiff(SIGNED), shares(SIGNED, -32768, 32767)),
        (tiff(SIGNED, byteorder=">"), shares(SIGNED, -32768, 32767)),
        (tiff(SIGNED, photometric="miniswhite"), shares(SIGNED, 32767, -32768)),
        (tiff(FLOAT, extratags=STATED), shares(FLOAT, -3, 4)),
        (tiff((LEVELS * 255).astype(np.uint8), photometric="miniswhite"), 1 - (LEVELS * 255).astype(np.uint8) / 255),
        (tiff((LEVELS > 0.3), photometric="miniswhite"), 1.0 - (LEVELS > 0.3)),
        (tiff(LEVELS > 0.3), 1.0 * (LEVELS > 0.3)),
        (encoded(Image.fromarray(FULL), "PNG"), shares(FULL, 0, 65535)),
    ],
)
def test_upright_shows_deep_grey_from_black_to_white(data: bytes, wanted: npt.NDArray[np.float64]) -> None:
    assert np.abs(upright(data) - wanted * 255).max() <= 0.5 + 1e-5


def test_halves_are_rounded_upwards() -> None:
    """In whole numbers: round(value * 255 / largest)."""
    exact = np.floor(TWELVE.astype(np.int64) * 510 / 8190 + 0.5)
    assert np.array_equal(upright(packed_12_bits(TWELVE)), exact)
    assert np.array_equal(upright(tiff(FULL)), (FULL.astype(np.int64) + 128) // 257)


def test_reference_is_left_as_it_was() -> None:
    """As Pillow has it: 16 bits are cut off at 255, whatever is white."""
    cut = np.minimum(FULL, 255).astype(np.uint8)
    for data in (tiff(FULL), tiff(FULL, photometric="miniswhite")):
        assert np.array_equal(preprocess(data, size_px=SIDE)[:, :, 0], cut)
    with pytest.raises(PictureError, match="--preset upright scales them"):
        preprocess(tiff(SIGNED), size_px=SIDE)


def test_what_has_no_stated_range_is_refused_in_words() -> None:
    for data, words in (
        (tiff(FLOAT), "floating-point pixels (Pillow mode F), which have no defined range"),
        (tiff(FULL.astype(np.uint32)), "32-bit pixels (Pillow mode I), which have no defined range"),
        (tiff(FULL.astype(np.int32)), "32-bit pixels (Pillow mode I), which have no defined range"),
        (tiff(FLOAT, extratags=[(340, "f", 1, 4.0, True), (341, "f", 1, 4.0, True)]), "no defined range"),
    ):
        with pytest.raises(PictureError) as caught:
            preprocess(data, preset="upright", size_px=SIDE)
        assert caught.value.reason is PictureReason.UNSUPPORTED
        assert words in str(caught.value)


def test_thumbnails_show_the_same() -> None:
    for data, wanted in ((tiff(FULL, photometric="miniswhite"), 1 - LEVELS), (packed_12_bits(TWELVE), LEVELS)):
        small = Image.open(io.BytesIO(make_thumbnail(data, longest_px=SIDE, quality=95, kind="jpeg").data)).convert("L")
        assert np.abs(np.asarray(small) - wanted * 255).max() < 12


def test_what_is_beyond_the_stated_range_is_cut_off() -> None:
    values = np.full((SIDE, SIDE), np.nan, np.float32)
    values[0], values[1], values[2] = -100, 100, 0.5
    found = upright(tiff(values, extratags=STATED))
    assert found[0, 0] == 0
    assert found[1, 0] == 255
    assert found[2, 0] == round(3.5 / 7 * 255)
    assert found[3, 0] == 0

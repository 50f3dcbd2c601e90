"""Thumbnails: upright, opaque, small, without metadata; a PictureError and nothing else for what is no picture."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.pixels.picture import PictureError
from beholder.pixels.thumbnail import make_thumbnail
from oracles.made_pictures import encoded, noise, smooth


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def with_orientation(image: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "PNG", exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(orientation: int) -> None:
    image = Image.new("RGB", (400, 200), "black")
    image.paste("red", (0, 0, 200, 100))
    image.paste("lime", (200, 0, 400, 100))
    data = with_orientation(image, orientation)
    expected = ImageOps.exif_transpose(opened(data))
    expected.thumbnail((100, 100))
    found = make_thumbnail(data, longest_px=100, quality=95)
    assert (found.width, found.height) == expected.size
    difference = np.abs(np.asarray(opened(found.data).convert("RGB"), int) - np.asarray(expected.convert("RGB"), int))
    assert difference.mean() < 6


def test_alpha_lies_on_white_and_palettes_are_expanded() -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    half = Image.new("RGBA", (64, 64), (0, 0, 0, 128))
    assert np.asarray(opened(make_thumbnail(encoded(clear, "PNG")).data).convert("RGB")).min() >= 250
    grey = np.asarray(opened(make_thumbnail(encoded(half, "PNG")).data).convert("RGB"))
    assert abs(int(grey.mean()) - 127) <= 2
    palette = smooth(60, 40).convert("P", palette=Image.Palette.ADAPTIVE)
    again = opened(make_thumbnail(encoded(palette, "PNG"), quality=95).data).convert("RGB")
    assert np.abs(np.asarray(again, int) - np.asarray(palette.convert("RGB"), int)).mean() < 8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_every_mode_becomes_a_small_picture(mode: str, kind: str) -> None:
    found = make_thumbnail(encoded(noise(mode, 300, 150, 5), "PNG"), longest_px=50, kind=kind)  # type: ignore[arg-type]
    image = opened(found.data)
    assert image.size == (found.width, found.height) == (50, 25)
    assert found.media_type == f"image/{kind}" == Image.MIME[image.format or ""]


def test_cmyk_and_sixteen_bits_keep_their_brightness() -> None:
    cmyk = encoded(smooth(80, 60).convert("CMYK"), "JPEG", quality=95)
    expected = np.asarray(opened(cmyk).convert("RGB"), int)
    found = np.asarray(opened(make_thumbnail(cmyk, quality=95).data).convert("RGB"), int)
    assert np.abs(found - expected).mean() < 8
    deep = Image.fromarray(np.full((20, 20), 32768, np.uint16))
    assert abs(np.asarray(opened(make_thumbnail(encoded(deep, "PNG")).data).convert("L"), int).mean() - 128) <= 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1, 1), (1, 1)), ((20, 30), (20, 30)), ((3000, 2), (320, 1)), ((1, 2000), (1, 320)), ((641, 320), (320, 160))],
)
def test_sizes(size: tuple[int, int], expected: tuple[int, int]) -> None:
    found = make_thumbnail(encoded(Image.new("RGB", size, "teal"), "PNG"))
    assert (found.width, found.height) == expected


def test_large_jpegs_are_right_although_they_are_decoded_small() -> None:
    data = encoded(smooth(2001, 1003), "JPEG", quality=95)
    found = opened(make_thumbnail(data, longest_px=200, quality=95).data).convert("RGB")
    expected = opened(data).resize(found.size, Image.Resampling.LANCZOS)
    assert found.size == (200, 100)
    assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).mean() < 4


def test_nothing_of_the_metadata_stays() -> None:
    exif = Image.Exif()
    exif[0x010E] = "secret words"
    image = smooth(200, 100)
    data = encoded(image, "JPEG", exif=exif, comment=b"secret words", icc_profile=b"secret words " * 20, xmp=b"secret words")
    assert b"secret" in data
    for kind in ("webp", "jpeg"):
        found = make_thumbnail(data, kind=kind)  # type: ignore[arg-type]
        assert b"secret" not in found.data
        assert not opened(found.data).getexif()


def test_limits() -> None:
    data = encoded(smooth(200, 100), "PNG")
    with pytest.raises(PictureError) as failure:
        make_thumbnail(data, max_pixels=19_999)
    assert failure.value.reason is PictureReason.TOO_LARGE
    assert make_thumbnail(data, max_pixels=20_000).width == 200
    for wrong in ({"longest_px": 0}, {"quality": 0}, {"quality": 101}, {"longest_px": 1 << 20}, {"kind": "png"}):
        with pytest.raises(InputError):
            make_thumbnail(data, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", PictureReason.EMPTY),
        (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", PictureReason.NOT_AN_IMAGE),
        (b"no picture at all, but long enough", PictureReason.NOT_AN_IMAGE),
        (encoded(smooth(100, 100), "PNG")[:900], PictureReason.TRUNCATED),
        (encoded(smooth(100, 100), "JPEG")[:700], PictureReason.TRUNCATED),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes, reason: PictureReason) -> None:
    with pytest.raises(PictureError) as failure:
        make_thumbnail(data)
    assert failure.value.reason is reason


@settings(max_examples=60)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]), st.integers(0, 10_000), st.binary(min_size=1, max_size=8)
)
def test_damaged_bytes_raise_nothing_else(kind: str, place: int, patch: bytes) -> None:
    data = bytearray(encoded(smooth(40, 30), kind))
    place %= len(data)
    data[place : place + len(patch)] = patch
    try:
        found = make_thumbnail(bytes(data), longest_px=16)
    except PictureError:
        return
    assert max(found.width, found.height) <= 16


def test_threads_give_the_same_bytes() -> None:
    data = [encoded(smooth(300 + i, 200), "JPEG") for i in range(24)]
    alone = [make_thumbnail(item).data for item in data]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda item: make_thumbnail(item).data, data)) == alone

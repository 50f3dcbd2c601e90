"""What the presets other than `reference` do, and scaled decoding, worked out with numpy."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from beholder.pixels.decode import prepare, resized_size, traits_of
from beholder.pixels.picture import PixelOptions, Trait
from beholder.scoring.scorer import preprocess
from oracles import slow_pixels
from oracles.made_pictures import encoded, noise, smooth

Array = npt.NDArray[Any]


# What upright does


def turned_back(array: Array, orientation: int) -> Array:
    """The upright pixels of an array stored with an EXIF orientation, by the words of the EXIF standard."""
    if orientation in (5, 6, 7, 8):  # the first row is the visual left or right side
        array = array.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_upright_turns_pictures(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise("RGB", 47, 31, 5), kind, exif=exif)
    stored = np.asarray(Image.open(io.BytesIO(data)))
    turned = np.ascontiguousarray(turned_back(stored, orientation))
    np.testing.assert_array_equal(preprocess(data, preset="upright", size_px=20), preprocess(turned, size_px=20))
    np.testing.assert_array_equal(preprocess(data, size_px=20), preprocess(stored, size_px=20))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_upright_lays_alpha_on_white(mode: str) -> None:
    image = noise(mode, 32, 32, 2)
    bands = [np.asarray(band) for band in image.split()]
    colours = np.stack(bands[:-1] * (3 if mode == "LA" else 1), axis=-1)
    got = preprocess(image, preset="upright", size_px=32).astype(float)
    assert np.abs(got - slow_pixels.on_white(colours, bands[-1])).max() <= 1
    opaque = image.copy()
    opaque.putalpha(255)
    np.testing.assert_array_equal(preprocess(opaque, preset="upright", size_px=9), preprocess(opaque, size_px=9))


def test_upright_expands_palettes_before_it_resizes() -> None:
    image = noise("P", 40, 30, 4)
    rgb = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(image)]
    np.testing.assert_array_equal(preprocess(image, preset="upright", size_px=11), preprocess(rgb, size_px=11))
    data = encoded(image, "PNG", transparency=bytes([0] * 128 + [255] * 128))
    clear = np.where(np.asarray(image)[..., None] < 128, 255, rgb).astype(np.uint8)
    np.testing.assert_array_equal(preprocess(data, preset="upright", size_px=11), preprocess(clear, size_px=11))


def test_upright_scales_16_bits() -> None:
    image = noise("I;16", 50, 40, 6)
    exact = np.asarray(image) / 257
    scaled = np.floor(exact + 0.5).astype(np.uint8)
    want = preprocess(np.stack([scaled] * 3, axis=-1), size_px=24)
    np.testing.assert_array_equal(preprocess(image, preset="upright", size_px=24), want)
    np.testing.assert_array_equal(preprocess(encoded(image, "PNG"), preset="upright", size_px=24), want)
    big_endian = Image.frombytes("I;16B", image.size, np.asarray(image).astype(">u2").tobytes())
    np.testing.assert_array_equal(preprocess(big_endian, preset="upright", size_px=24), want)
    assert preprocess(image, size_px=24).mean() > 250


@pytest.mark.parametrize("most", [65535, 4095, 300])
@pytest.mark.parametrize("kind", ["P5", "P2"])
def test_upright_scales_deep_pgm_files_by_their_largest_value(most: int, kind: str) -> None:
    values = np.random.default_rng(most).integers(0, most + 1, (30, 40))
    values[0, :2] = 0, most
    text = " ".join(map(str, values.ravel().tolist())).encode()
    data = b"%s 40 30 %d\n" % (kind.encode(), most) + (values.astype(">u2").tobytes() if kind == "P5" else text)
    got = preprocess(data, preset="upright", size_px=30, crop=1.0)
    exact = values[:, 5:35] / most * 255
    assert np.abs(got[..., 0] - exact).max() <= 0.51  # rounded to 16 bits, then to 8
    assert (got[..., 0] == got[..., 2]).all()
    found = prepare(data, PixelOptions(size_px=30))
    assert (found.traits, found.width, found.height) == (Trait.DEEP, 40, 30)
    assert found.pixels.mean() > 200  # cut off at 255


def test_upright_on_a_transparent_colour() -> None:
    grey = Image.fromarray(np.array([[10, 20], [20, 30]], np.uint8))
    got = preprocess(encoded(grey, "PNG", transparency=20), preset="upright", size_px=2)
    np.testing.assert_array_equal(got[..., 0], [[10, 255], [255, 30]])
    deep = Image.frombytes("I;16", (2, 2), np.array([[2570, 5140], [5140, 7710]], "<u2").tobytes())
    got = preprocess(encoded(deep, "PNG", transparency=5140), preset="upright", size_px=2)
    np.testing.assert_array_equal(got[..., 1], [[10, 255], [255, 30]])


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_plain_pictures_are_the_same_in_every_crop_preset(mode: str) -> None:
    image = noise(mode, 90, 61, 8)
    first = preprocess(image, size_px=33)
    for preset in ("rgb", "upright"):
        np.testing.assert_array_equal(preprocess(image, preset=preset, size_px=33), first)
    assert traits_of(image) is Trait.NONE


def test_crop_keeps_the_middle() -> None:
    image = noise("RGB", 100, 80, 1)
    inner = int(30 / 0.875)
    whole = image.resize(resized_size(100, 80, inner), Image.Resampling.BICUBIC)
    left, top = round((whole.width - 30) / 2), round((whole.height - 30) / 2)
    want = np.asarray(whole)[top : top + 30, left : left + 30]
    np.testing.assert_array_equal(preprocess(image, size_px=30, crop=0.875), want)


# Scaled decoding


@pytest.mark.parametrize(("short", "divisor"), [(255, 1), (256, 2), (515, 4), (1031, 8)])
def test_scaled_decoding_is_close(short: int, divisor: int) -> None:
    data = encoded(smooth(short + 61, short), "JPEG", quality=92)
    exact, scaled = (preprocess(data, decoder=decoder, size_px=64).astype(int) for decoder in ("pillow", "scaled"))
    drift = np.abs(exact - scaled)
    assert drift.max() <= 6
    assert drift.mean() < 0.5
    assert bool(drift.any()) == (divisor > 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_scaled_decoding_of_turned_pictures(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth(643, 515), "JPEG", quality=95, exif=exif)
    exact, scaled = (preprocess(data, decoder=name, preset="upright", size_px=32).astype(int) for name in ("pillow", "scaled"))
    assert np.abs(exact - scaled).max() <= 8
    assert np.abs(exact - scaled).mean() < 0.4


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_scaled_decoding_of_other_modes(mode: str) -> None:
    data = encoded(smooth(1000, 900).convert(mode), "JPEG", quality=95)
    exact, scaled = (preprocess(data, decoder=name).astype(int) for name in ("pillow", "scaled"))
    assert 0 < np.abs(exact - scaled).mean() < 0.5

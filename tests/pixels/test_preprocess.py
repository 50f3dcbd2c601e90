"""`preprocess` against a slow transcription, transformers, torchvision and birder: the same bits."""

from __future__ import annotations

import ctypes
import io
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beholder.columns import PictureReason
from beholder.pixels.decode import LONGEST_PX, crop_box, pixels_of, resized_size
from beholder.pixels.opening import Opened
from beholder.pixels.picture import PictureError, PixelOptions
from beholder.scoring.scorer import preprocess
from oracles import slow_pixels
from oracles.made_pictures import encoded, noise
from oracles.peers import PEERS
from oracles.tiers import mostly_slow

MODES = ["1", "L", "P", "PA", "RGB", "RGBA", "LA", "I;16", "CMYK", "YCbCr", "LAB", "HSV", "RGBX"]
Array = npt.NDArray[Any]


# The reference against the slow transcription


@pytest.mark.parametrize("mode", MODES)
def test_reference_is_the_slow_transcription_in_every_mode(mode: str) -> None:
    rng = np.random.default_rng(MODES.index(mode))
    for number in range(25):
        width, height, side = (int(value) for value in rng.integers(1, (90, 90, 30)))
        image = noise(mode, width, height, number)
        got = preprocess(image, size_px=side)
        np.testing.assert_array_equal(got, slow_pixels.reference(image, side), err_msg=f"{width} x {height} to {side}")


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "I;16"])
@pytest.mark.parametrize(
    "size", mostly_slow(map(pytest.param, [(300, 451), (100, 77), (224, 225), (640, 227), (224, 224), (150, 700)]), quick=2)
)
def test_reference_is_the_slow_transcription_at_the_usual_side(mode: str, size: tuple[int, int]) -> None:
    image = noise(mode, *size, 7)
    np.testing.assert_array_equal(preprocess(image), slow_pixels.reference(image))


@pytest.mark.parametrize("most", [65535, 4095, 300])
def test_deep_pgm_files_are_the_slow_transcription(most: int) -> None:
    """Pillow opens them in mode I, scaled to 0..65535."""
    rng = np.random.default_rng(most)
    for number in range(10):
        width, height, side = (int(value) for value in rng.integers(1, (90, 90, 30)))
        values = rng.integers(0, min(most, 600 if number % 2 else most) + 1, (height, width))
        data = b"P5 %d %d %d\n" % (width, height, most) + values.astype(">u2").tobytes()
        image = Image.open(io.BytesIO(data))
        np.testing.assert_array_equal(np.asarray(image), np.rint(values / most * 65535))
        np.testing.assert_array_equal(preprocess(data, size_px=side), slow_pixels.reference(image, side))
        np.testing.assert_array_equal(
            preprocess(Image.open(io.BytesIO(data)), size_px=side), slow_pixels.reference(image, side)
        )
        np.testing.assert_array_equal(preprocess(data, preset="rgb", size_px=side), slow_pixels.rgb_first(image, side))
        np.testing.assert_array_equal(preprocess(data, preset="squash", size_px=side), slow_pixels.squashed(image, side))


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.sampled_from(["L", "RGB", "RGBA"]), st.integers(0, 99))
def test_reference_at_any_size(width: int, height: int, side: int, mode: str, seed: int) -> None:
    image = noise(mode, width, height, seed)
    np.testing.assert_array_equal(preprocess(image, size_px=side), slow_pixels.reference(image, side))


@pytest.mark.parametrize("mode", MODES)
def test_rgb_and_squash_are_the_slow_transcription(mode: str) -> None:
    rng = np.random.default_rng(40 + MODES.index(mode))
    for number in range(10):
        width, height, side = (int(value) for value in rng.integers(1, (90, 90, 30)))
        image = noise(mode, width, height, number)
        np.testing.assert_array_equal(preprocess(image, preset="rgb", size_px=side), slow_pixels.rgb_first(image, side))
        np.testing.assert_array_equal(preprocess(image, preset="squash", size_px=side), slow_pixels.squashed(image, side))
        inner = int(side / 0.7)
        got = preprocess(image, preset="squash", size_px=side, crop=0.7)
        np.testing.assert_array_equal(got, slow_pixels.squashed(image, side, inner))


# The reference against transformers


@pytest.mark.parametrize("wanted", [120, pytest.param(2000, marks=pytest.mark.slow)])
def test_reference_is_what_transformers_makes_of_many_sizes(wanted: int) -> None:
    pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    rng = np.random.default_rng(11)
    values = rng.integers(0, 256, (700, 700, 3), np.uint8)
    processor = CLIPImageProcessorPil()
    compared = 0
    while compared < wanted:
        if compared % 40:  # small sides, to be quick
            side, highest = int(rng.integers(1, 48)), 700 if compared % 8 == 1 else 120
        else:
            side, highest = 224, 700
        width, height = (int(value) for value in rng.integers(1, highest + 1, 2))
        long = max(resized_size(width, height, side))
        if max(width, height) > 40 * min(width, height) or (long - side) % 4 == 3:  # its crop is one pixel off there
            continue
        array = values[:height, :width]
        found = processor(
            array, size={"shortest_edge": side}, crop_size={"height": side, "width": side}, do_rescale=False,
            do_normalize=False, return_tensors="np", input_data_format="channels_last",
        )["pixel_values"][0]  # fmt: skip
        np.testing.assert_array_equal(preprocess(array, size_px=side), found.transpose(1, 2, 0), err_msg=f"{width} x {height}")
        compared += 1


def photographs() -> list[tuple[str, Image.Image]]:
    """Real photographs inside installed packages."""
    found: list[tuple[str, Image.Image]] = []
    skimage_data = pytest.importorskip("skimage.data", reason="scikit-image, which brings photographs, is not installed")
    for path in sorted(Path(skimage_data.__file__).parent.glob("*")):
        if path.suffix in (".png", ".jpg", ".gif"):
            found.append((path.name, Image.open(path)))
    for package, folder in (("sklearn.datasets", "images"), ("matplotlib", "mpl-data/sample_data")):
        try:
            module = __import__(package, fromlist=["x"])
        except ImportError:
            continue
        for path in sorted((Path(module.__file__).parent / folder).glob("*.jp*g")):
            found.append((path.name, Image.open(path)))
    return found


def test_reference_on_real_photographs() -> None:
    names = []
    for name, image in photographs():
        if image.width * image.height > 400_000:  # the slow way is slow
            continue
        image.load()
        np.testing.assert_array_equal(preprocess(image), slow_pixels.reference(image), err_msg=name)
        if image.mode not in ("L", "RGB"):
            np.testing.assert_array_equal(preprocess(image, preset="rgb"), slow_pixels.rgb_first(image), err_msg=name)
        names.append(name)
    assert len(names) >= 5, names


# The presets against torchvision and birder themselves

PEER_SCRIPT = """
import sys
from io import BytesIO  # mapped from a path, uncompressed TIFF files that are turned make Pillow 13 fail
from pathlib import Path
import numpy as np
from PIL import Image
from torchvision import transforms as T
from birder.data.datasets.directory import pil_rgb_loader
from birder.data.transforms.classification import inference_preset

values = {"mean": (0, 0, 0), "std": (1, 1, 1), "name": "none"}
found = {}
for path in sorted(Path(sys.argv[1]).glob("*.*")):
    if path.suffix == ".npz":
        continue
    steps = T.Compose([T.Resize(48, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(48)])
    found["reference " + path.name] = np.asarray(steps(Image.open(BytesIO(path.read_bytes()))).convert("RGB"))
    for name, simple, crop in (("rgb", True, 1.0), ("rgb7", True, 0.7), ("squash", False, 1.0), ("squash7", False, 0.7)):
        steps = inference_preset((48, 48), values, crop, simple).transforms[:3]
        image = pil_rgb_loader(str(path))
        for step in steps:
            image = step(image)
        found[name + " " + path.name] = image.numpy().transpose(1, 2, 0)
np.savez(sys.argv[2], **found)
"""


@pytest.mark.slow
def test_presets_are_those_of_torchvision_and_birder(tmp_path: Path) -> None:
    if not PEERS.exists():
        pytest.skip("needs-peers: torchvision and birder are not installed (make peers)")
    kinds = [("RGB", "PNG"), ("RGB", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("RGBA", "PNG"), ("LA", "PNG")]
    kinds += [("I;16", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("RGBA", "WEBP"), ("P", "GIF"), ("YCbCr", "TIFF")]
    kinds += [("PA", "TIFF"), ("LAB", "TIFF"), ("RGB", "BMP"), ("L", "JPEG"), ("RGBA", "AVIF"), ("L", "PPM"), ("I;16", "PPM")]
    rng = np.random.default_rng(9)
    for number, (mode, kind) in enumerate(kinds * 4):
        width, height = (int(value) for value in rng.integers(1, 150, 2))
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if kind in ("JPEG", "WEBP", "PNG", "TIFF") else {}
        path = tmp_path / f"{number:03d}-{mode.replace(';', '')}.{kind.lower()}"
        path.write_bytes(encoded(noise(mode, width, height, number), kind, **options))
    result = tmp_path / "found.npz"
    subprocess.run([str(PEERS), "-c", PEER_SCRIPT, str(tmp_path), str(result)], check=True)
    with np.load(result) as found:
        assert len(found.files) == 5 * 4 * len(kinds)
        for key in found.files:
            preset, name = key.split(" ", 1)
            got = preprocess(tmp_path / name, preset=preset.rstrip("7"), size_px=48, crop=0.7 if preset[-1] == "7" else 1.0)
            np.testing.assert_array_equal(got, found[key], err_msg=key)


# Sizes and crops


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 1000))
def test_sizes_are_exact_fractions_cut_off(width: int, height: int, side: int) -> None:
    assert resized_size(width, height, side) == slow_pixels.size_after_resize(width, height, side)
    ratio = Fraction(max(width, height), min(width, height)) * side
    assert max(resized_size(width, height, side)) == ratio.numerator // ratio.denominator


def test_crop_offsets_go_to_the_even_neighbour() -> None:
    assert [crop_box(224 + rest, 224, 224)[0] for rest in range(8)] == [0, 0, 1, 2, 2, 2, 3, 4]
    assert crop_box(10, 15, 10) == (0, 2, 10, 12)


# Very thin pictures


def test_a_strip_of_16_bits_goes_through_pillow() -> None:
    values = np.random.default_rng(5).integers(0, 300, (1, 3000))
    data = b"P5 3000 1 65535\n" + values.astype(">u2").tobytes()
    size = resized_size(3000, 1, 48)
    whole = Image.open(io.BytesIO(data)).resize(size, Image.Resampling.BICUBIC).crop(crop_box(*size, 48)).convert("RGB")
    np.testing.assert_array_equal(preprocess(data, size_px=48), np.asarray(whole))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_a_strip_of_20000_pixels(mode: str) -> None:
    image = noise(mode, 20_000, 1, 3)
    size = resized_size(20_000, 1, 32)
    assert size == (640_000, 32)
    whole = image.resize(size, Image.Resampling.BICUBIC).crop(crop_box(*size, 32)).convert("RGB")
    np.testing.assert_array_equal(preprocess(image, size_px=32), np.asarray(whole))
    if mode == "L":
        assert preprocess(image).shape == (224, 224, 3)  # whole, it would have 224 x 4.48 million pixels
    else:
        with pytest.raises(PictureError, match="20000 x 1 pixels are too thin: resized, they would be 4480000 x 224"):
            preprocess(image)
    assert preprocess(image, preset="rgb").shape == (224, 224, 3)


class OtherMemory(Image.Image):
    """An image whose structure in memory is not the one that is known, as a later Pillow's may be."""

    def __init__(self, image: Image.Image) -> None:
        super().__init__()
        self.im, self._mode, self._size = image.im, image.mode, image.size
        self._structure = (ctypes.c_uint64 * 32)()

    def getim(self) -> Any:
        make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return make(("PyCapsule_New", ctypes.pythonapi))(ctypes.addressof(self._structure), b"Pillow Imaging", None)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_where_pillow_has_to_resize_the_whole_strip_it_is_too_thin(mode: str) -> None:
    image = noise(mode, 20_000, 1, 3)
    np.testing.assert_array_equal(preprocess(OtherMemory(image), size_px=32), preprocess(image, size_px=32))
    assert preprocess(image).shape == (224, 224, 3)
    with pytest.raises(PictureError, match="20000 x 1 pixels are too thin: resized, they would be 4480000 x 224") as caught:
        preprocess(OtherMemory(image))
    assert caught.value.reason is PictureReason.TOO_LARGE


def test_what_pillow_itself_cannot_resize_is_too_large() -> None:
    with pytest.raises(MemoryError):
        Image.new("L", (2, 1)).resize((LONGEST_PX + 1, 1), Image.Resampling.BICUBIC)
    with pytest.raises(PictureError, match="too thin") as caught:
        preprocess(Image.new("L", (1_000_000, 1)))
    assert caught.value.reason is PictureReason.TOO_LARGE


# What may be given


def test_every_kind_of_input_gives_the_same(tmp_path: Path) -> None:
    image = noise("RGB", 60, 45, 3)
    path = tmp_path / "Überraschung.txt"
    path.write_bytes(encoded(image, "PNG"))
    want = preprocess(image, size_px=16)
    for given_ in (str(path), path, f"file://{path}", path.read_bytes(), bytearray(path.read_bytes()), np.asarray(image)):
        np.testing.assert_array_equal(preprocess(given_, size_px=16), want)
    with Image.open(path) as lazy:
        np.testing.assert_array_equal(preprocess(lazy, size_px=16), want)
        assert lazy.size == (60, 45)
    assert want.shape == (16, 16, 3)
    assert want.dtype == np.uint8
    assert want.flags.c_contiguous
    assert want.flags.writeable


@pytest.mark.parametrize(
    ("given_", "reason"),
    [
        (np.zeros((4, 4), np.uint8), PictureReason.UNSUPPORTED),
        (np.zeros((4, 4, 3), np.float32), PictureReason.UNSUPPORTED),
        (np.zeros((0, 4, 3), np.uint8), PictureReason.ZERO_SIZE),
        (Image.new("RGB", (5, 0)), PictureReason.ZERO_SIZE),
        (Image.new("F", (5, 5)), PictureReason.UNSUPPORTED),
        (Image.new("I", (5, 5)), PictureReason.UNSUPPORTED),
        (Image.new("La", (5, 5)), PictureReason.UNSUPPORTED),
        (b"", PictureReason.EMPTY),
        (17, PictureReason.UNSUPPORTED),
        ("no/such/picture.jpg", PictureReason.MISSING),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(given_: Any, reason: PictureReason) -> None:
    with pytest.raises(PictureError) as caught:
        preprocess(given_, size_px=8)
    assert caught.value.reason is reason
    assert "\n" not in str(caught.value)


def test_pixels_of_a_lazily_opened_broken_file() -> None:
    data = encoded(noise("RGB", 90, 90, 0), "JPEG")
    with pytest.raises(PictureError, match="cannot be loaded"):
        preprocess(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_one_pixel() -> None:
    for preset in ("reference", "upright", "rgb", "squash"):
        got = pixels_of(Opened(Image.new("RGB", (1, 1), (1, 2, 3)), (1, 1), (1, 1)), PixelOptions(preset=preset, size_px=4))
        assert (got == [1, 2, 3]).all()

"""Windows of resized pictures against Pillow's own resize, to the bit."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beholder.pixels.resize import Box, resize_crop, row_addresses

MODES = ("RGB", "L")


def noise(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """A picture of noise, every second one of black and white only."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (height, width, Image.getmodebands(mode)), dtype=np.uint8)
    if seed % 2:
        values = np.where(values > 127, 255, 0).astype(np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())


def check(image: Image.Image, width: int, height: int, box: Box) -> None:
    expected = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC).crop(box))
    result = resize_crop(image, width, height, box)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert np.array_equal(result, expected), (image.mode, image.size, (width, height), box)


def clip_box(width: int, height: int, side: int = 224) -> tuple[tuple[int, int], Box]:
    """The size and the crop of the CLIP transform."""
    size = (side, int(side * height / width)) if width <= height else (int(side * width / height), side)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return size, (left, top, left + side, top + side)


def photos() -> list[Path]:
    """Photographs that come with libraries the tests need anyway."""
    found = []
    for package, names in (
        ("matplotlib", ("mpl-data/sample_data/grace_hopper.jpg",)),
        ("skimage", ("data/rocket.jpg", "data/coffee.png", "data/chelsea.png")),
        ("sklearn", ("datasets/images/china.jpg", "datasets/images/flower.jpg")),
    ):
        try:
            folder = Path(str(__import__(package).__file__)).parent
        except ImportError:
            continue
        found += [folder / name for name in names if (folder / name).exists()]
    return found


@settings(max_examples=150)
@given(st.data())
def test_any_window_of_any_picture_is_pillows(data: st.DataObject) -> None:
    sides = st.one_of(st.integers(1, 6), st.integers(1, 80))
    mode, width, height = data.draw(st.sampled_from(MODES)), data.draw(sides), data.draw(sides)
    out_width = data.draw(st.one_of(sides, st.just(width)))
    out_height = data.draw(st.one_of(sides, st.just(height)))
    left, top = data.draw(st.integers(0, out_width - 1)), data.draw(st.integers(0, out_height - 1))
    box = (left, top, data.draw(st.integers(left + 1, out_width)), data.draw(st.integers(top + 1, out_height)))
    check(noise(mode, width, height, data.draw(st.integers(0, 99))), out_width, out_height, box)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_small_sizes(mode: str) -> None:
    rng = np.random.default_rng(8)
    for number in range(400):
        width, height = (int(side) for side in rng.integers(1, (9, 40, 120)[number % 3], 2))
        out_width, out_height = (int(side) for side in rng.integers(1, (120, 40, 9)[number // 3 % 3], 2))
        left, top = int(rng.integers(0, out_width)), int(rng.integers(0, out_height))
        box = (left, top, int(rng.integers(left + 1, out_width + 1)), int(rng.integers(top + 1, out_height + 1)))
        check(noise(mode, width, height, number), out_width, out_height, box)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("width", "height"),
    [
        (640, 480),
        (480, 640),
        (224, 224),
        (223, 225),
        (100, 151),
        (1, 9),
        (500, 1),
        (1, 1),
        (300, 1000),
        (3001, 37),
        (2400, 1801),
    ],
)
def test_the_clip_crop(mode: str, width: int, height: int) -> None:
    size, box = clip_box(width, height)
    check(noise(mode, width, height, width), *size, box)


@pytest.mark.parametrize("side", [224, 336, 32])
def test_photographs(side: int) -> None:
    paths = photos()
    if not paths:
        pytest.skip("none of the libraries that bring photographs is installed")
    for path in paths:
        with Image.open(path) as image:
            size, box = clip_box(*image.size, side)
            check(image, *size, box)
            check(image.convert("RGB"), side, side, (0, 0, side, side))


def test_a_picture_of_several_blocks_is_read_in_place() -> None:
    image = noise("RGB", 3000, 2500, 4)
    rows = row_addresses(image, 7, 2500)
    assert rows is not None
    assert len(rows) == 2493
    assert len(set(np.diff(rows).tolist())) > 1, "30 MB lie in more than one block of 16 MiB"
    size, box = clip_box(*image.size)
    check(image, *size, box)


def test_a_file_mapped_by_pillow_is_read_with_its_own_stride(tmp_path: Path) -> None:
    """Pillow maps grey BMP files: rows lie bottom up and are padded to 4 bytes."""
    image = noise("L", 61, 50, 3)
    image.save(tmp_path / "grey.bmp")
    with Image.open(tmp_path / "grey.bmp") as opened:
        opened.load()
        rows = row_addresses(opened, 0, 50)
        assert rows is not None
        assert set(np.diff(rows).tolist()) == {-64}
        check(opened, 30, 20, (3, 4, 29, 20))


def test_a_window_of_a_huge_output_needs_little_memory() -> None:
    """1 x 20000 to 224 x 4,480,000 would be 4 GB; the middle is that of the neighbourhood alone."""
    for mode in MODES:
        image = noise(mode, 1, 20_000, 5)
        size, box = clip_box(*image.size)
        result = resize_crop(image, *size, box)
        near = image.crop((0, 9_990, 1, 10_010))
        expected = resize_crop(near, 224, 4480, (0, 2240 - 112, 224, 2240 + 112))
        assert result.shape[:2] == (224, 224)
        assert np.array_equal(result, expected)


def test_threads_do_not_disturb_each_other() -> None:
    image = noise("RGB", 400, 300, 7)
    expected = resize_crop(image, 150, 120, (0, 0, 150, 120))
    wrong: list[int] = []

    def work() -> None:
        for turn in range(30):
            if not np.array_equal(resize_crop(image, 150, 120, (0, 0, 150, 120)), expected):
                wrong.append(turn)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

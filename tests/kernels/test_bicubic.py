"""The compiled bicubic resize against a slow one written down from the definition, for each arithmetic this processor has."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from beholder.kernels import bicubic
from oracles import slow_bicubic
from oracles.tiers import mostly_slow

PIECES = {"uint8": {"avx512vnni", "avxvnni"}, "int16": {"avx2"}, "int32": set()}
FEATURES = bicubic.target_features()
AVAILABLE = [name for name, needed in PIECES.items() if not needed or needed & FEATURES]


@pytest.fixture(params=mostly_slow(AVAILABLE))
def like(request: pytest.FixtureRequest) -> npt.NDArray[Any]:
    return np.empty(0, request.param)


Box = tuple[int, int, int, int]


class Guarded:
    """Bytes between two pages that must not be touched: reading one byte too far ends the process."""

    def __init__(self, data: bytes, at_end: bool) -> None:
        page = mmap.PAGESIZE
        inner = -(-len(data) // page) * page
        self._memory = mmap.mmap(-1, inner + 2 * page)
        first = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        offset = page + (inner - len(data) if at_end else 0)
        self._memory[offset : offset + len(data)] = data
        self.address = first + offset
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            for guard in (first, first + page + inner):
                assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0


def resized(
    like: npt.NDArray[Any],
    pixels: npt.NDArray[np.uint8],
    size: tuple[int, int],
    box: Box,
    by_columns: bool,
) -> npt.NDArray[np.uint8]:
    """Our window of (H, W, C) pixels kept between guard pages; C = 3 is stored as 4, as Pillow does."""
    height, width, bands = pixels.shape
    stored = pixels if bands != 3 else np.concatenate([pixels, np.full((height, width, 1), 77, np.uint8)], axis=2)
    memory = Guarded(stored.tobytes(), at_end=bool((height + width) % 2))
    first = bicubic.window(height, size[1], box[1])[0]
    last = bicubic.window(height, size[1], box[3] - 1)[1]
    rows = memory.address + np.arange(first, last, dtype=np.int64) * (width * stored.shape[2])
    rows.flags.writeable = False  # as Pillow's are: the same machine code
    function = bicubic.resize_columns_first if by_columns else bicubic.resize_rows_first
    result: npt.NDArray[np.uint8] = function(like, rows, first, stored.shape[2], (width, height), size, box)
    return result


def expected(pixels: npt.NDArray[np.uint8], size: tuple[int, int], box: Box, by_columns: bool) -> npt.NDArray[np.uint8]:
    if not by_columns:
        window: npt.NDArray[np.uint8] = slow_bicubic.resize_window(pixels, *size, box)
        return window
    left, top, right, bottom = box
    swapped: npt.NDArray[np.uint8] = slow_bicubic.resize_window(
        pixels.swapaxes(0, 1), size[1], size[0], (top, left, bottom, right)
    )
    return swapped.swapaxes(0, 1)


def random_case(rng: np.random.Generator, number: int) -> tuple[npt.NDArray[np.uint8], tuple[int, int], Box]:
    """Sizes from 1 to 90 before and after, any window, black-and-white noise every other time (it overshoots most)."""
    before, after = rng.integers(1, (5, 20, 90)[number % 3], 2), rng.integers(1, (90, 20, 5)[number // 3 % 3], 2)
    bands = (3, 1)[number // 2 % 2]
    pixels = rng.integers(0, 256, (before[1], before[0], bands), dtype=np.uint8)
    if number % 2:
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)
    left, top = (int(rng.integers(0, side)) for side in after)
    box = (left, top, int(rng.integers(left + 1, after[0] + 1)), int(rng.integers(top + 1, after[1] + 1)))
    return pixels, (int(after[0]), int(after[1])), box


@pytest.mark.parametrize("by_columns", [False, True])
def test_windows_of_random_pictures_are_those_of_the_slow_resize(like: npt.NDArray[Any], by_columns: bool) -> None:
    rng = np.random.default_rng(5)
    for number in range(240):
        pixels, size, box = random_case(rng, number)
        result = resized(like, pixels, size, box, by_columns)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous
        assert np.array_equal(result, expected(pixels, size, box, by_columns)), (number, pixels.shape, size, box)


@pytest.mark.parametrize("by_columns", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 700), (700, 1), (2, 333), (3, 50), (17, 5), (16, 16)])
def test_thin_pictures(like: npt.NDArray[Any], width: int, height: int, by_columns: bool) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for size in ((1, 1), (7, 3), (width, 9), (9, height), (2 * width, 2 * height)):
        box = (0, 0, *size)
        assert np.array_equal(resized(like, pixels, size, box, by_columns), expected(pixels, size, box, by_columns))


@pytest.mark.parametrize("by_columns", [False, True])
def test_many_taps_and_a_buffer_that_is_moved(like: npt.NDArray[Any], by_columns: bool) -> None:
    """3000 rows to 300 columns: filtered rows need more than the buffer holds; and 3000 rows to 2: windows of all rows."""
    pixels = np.random.default_rng(2).integers(0, 256, (3000, 310, 3), dtype=np.uint8)
    for size in ((300, 40), (5, 2)):
        box = (0, 0, *size)
        assert np.array_equal(resized(like, pixels, size, box, by_columns), expected(pixels, size, box, by_columns))


def test_one_pixel_of_an_output_of_billions_needs_no_memory_for_the_rest(like: npt.NDArray[Any]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (400, 1, 3), dtype=np.uint8)
    size = (2_000_000, 800_000_000)
    box = (999_888, 399_999_888, 1_000_112, 400_000_112)
    result = resized(like, pixels, size, box, False)
    assert result.shape == (224, 224, 3)
    assert np.array_equal(result[100:104, 7:9], expected(pixels, size, (999_895, 399_999_988, 999_897, 399_999_992), False))


@pytest.mark.parametrize(("before", "after"), [(640, 299), (4000, 224), (3, 224), (224, 3), (7, 7), (5, 1), (1, 5), (900, 899)])
def test_weights_are_the_written_down_ones_and_sum_to_one(before: int, after: int) -> None:
    starts, counts, weights = bicubic.windows(before, after, 0, after)
    for place in range(after):
        first, expected_weights = slow_bicubic.fixed_weights(before, after, place)
        assert (starts[place], counts[place]) == (first, len(expected_weights))
        assert weights[place, : counts[place]].tolist() == expected_weights
        assert not weights[place, counts[place] :].any()
        assert abs(int(weights[place].sum()) - (1 << 22)) <= counts[place] / 2
        assert bicubic.window(before, after, place) == (first, first + len(expected_weights))
    assert np.all(np.diff(starts) >= 0)


def test_weights_by_hand() -> None:
    """Twice as large: centres lie 1/4 from a pixel; the cubic is 0.8671875, 0.2265625, -0.0703125, -0.0234375 there."""
    starts, _, weights = bicubic.windows(8, 16, 6, 8)
    shares = [-0.0234375, 0.2265625, 0.8671875, -0.0703125]
    assert starts.tolist() == [1, 2]
    assert weights[0].tolist() == [int(share * 2**22) for share in shares]
    assert weights[1].tolist() == [int(share * 2**22) for share in reversed(shares)]


def test_no_weight_is_too_large_for_its_pieces() -> None:
    """Three signed bytes hold up to 8,355,711; the largest weight of all small sizes stays far below."""
    largest = max(
        np.abs(bicubic.windows(before, after, 0, after)[2]).max() for before in range(1, 40) for after in range(1, 120)
    )
    assert 2**22 <= largest < 1.3 * 2**22


@pytest.mark.parametrize("name", ["uint8", "int16", "int32"])
def test_pieces_put_together_are_the_weights(name: str) -> None:
    weights = np.random.default_rng(4).integers(-(2**22), 2**22, (3, 7), dtype=np.int32)
    counts, shifts = np.array([7, 5, 6]), np.array([1, 0, 2])
    for row, count in enumerate(counts):
        weights[row, count:] = 0
    packed = bicubic.pack_weights(np.empty(0, name), weights, counts, shifts, 12)
    for row in range(3):
        together = np.zeros(12, np.int64)
        for tap in range(12):
            quad, byte = divmod(tap, 4)
            if name == "uint8":
                together[tap] = sum(int(packed[row, plane, tap].view(np.int8)) << (8 * plane) for plane in range(3))
            elif name == "int16":
                halves = packed[row].view(np.int16)[:, 2 * quad + byte // 2]
                together[tap] = int(halves[byte % 2]) + (int(halves[2 + byte % 2]) << 16)
            else:
                together[tap] = packed[row].view(np.int32)[byte, quad]
        shift, count = shifts[row], counts[row]
        assert together[shift : shift + count].tolist() == weights[row, :count].tolist()
        assert np.count_nonzero(together) == np.count_nonzero(weights[row])


def test_the_arithmetic_is_chosen_by_what_the_processor_has() -> None:
    assert bicubic.best_pieces({"avx512vnni", "avx512vl", "avx2"}).dtype == np.uint8
    assert bicubic.best_pieces({"avxvnni", "avx2"}).dtype == np.uint8
    assert bicubic.best_pieces({"avx2", "avx"}).dtype == np.int16
    assert bicubic.best_pieces({"neon"}).dtype == np.int32
    assert bicubic.best_pieces().dtype == np.dtype(AVAILABLE[0])

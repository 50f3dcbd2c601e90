"""A window of Pillow's bicubic resize, to the bit as Pillow gives it, only faster.

`image.resize((w, h), BICUBIC).crop(box)` filters the whole image and throws most away. Here only the window is computed
(`kernels.bicubic`), straight from Pillow's memory, with the processor's widest byte arithmetic. Memory is that of the window,
however large the whole output would be.

Pillow keeps pixels as 1 byte (L) or 4 bytes (RGB), in blocks of up to 16 MiB of whole rows, or where a mapped file has them.
Its own structure has a table of row addresses. Where it lies there is found out once, with two images whose address is known
from the public Arrow interface, and at every use the neighbouring fields are checked. Should a Pillow arrange them
differently, it resizes the image itself.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Box = tuple[int, int, int, int]

PIXEL_BYTES = {"L": 1, "RGB": 4}
"""Modes that are resized here, and the bytes that Pillow has for a pixel."""
_HEAD_WORDS = 12
"""8-byte words of Pillow's structure that are looked at; it has at least 16."""


def resize_crop(image: Image.Image, out_width: int, out_height: int, box: Box) -> npt.NDArray[np.uint8]:
    """What `np.asarray(image.resize((out_width, out_height), Image.Resampling.BICUBIC).crop(box))` is, to the bit.

    Args:
        image: a loaded image of one of the modes in `PIXEL_BYTES`.
        out_width: width of the whole output in pixels, >= 1.
        out_height: its height.
        box: (left, top, right, bottom), the wanted part of the output, inside it and not empty.

    Returns:
        (bottom - top, right - left) for L, (bottom - top, right - left, 3) for RGB.
    """
    if image.size == (out_width, out_height):
        return np.asarray(image.crop(box))
    found = _filtered(image, out_width, out_height, box, by_columns=_takes_columns_first(image.size, (out_width, out_height)))
    if found is None:
        return np.asarray(image.resize((out_width, out_height), Image.Resampling.BICUBIC).crop(box))
    return found


def _takes_columns_first(before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether the installed Pillow filters columns before rows; since 13.0 where height shrinks over twice as much as width."""
    lost_width, lost_height = before[0] - after[0], before[1] - after[1]
    return lost_height > max(0, 2 * lost_width) and _pillow_knows_columns_first()


@cache
def _pillow_knows_columns_first() -> bool:
    image = Image.frombytes("L", (4, 16), bytes((37 * i * i) % 256 for i in range(64)))
    rows_first = _filtered(image, 13, 5, (0, 0, 13, 5), by_columns=False)
    return rows_first is not None and image.resize((13, 5), Image.Resampling.BICUBIC).tobytes() != rows_first.tobytes()


def _filtered(
    image: Image.Image, out_width: int, out_height: int, box: Box, *, by_columns: bool
) -> npt.NDArray[np.uint8] | None:
    """The window; None where Pillow's memory cannot be read in place."""
    from beholder.kernels.bicubic import resize_columns_first, resize_rows_first, window

    first = window(image.height, out_height, box[1])[0]
    rows = row_addresses(image, first, window(image.height, out_height, box[3] - 1)[1])
    if rows is None:
        return None
    function = resize_columns_first if by_columns else resize_rows_first
    pixel_bytes = PIXEL_BYTES[image.mode]
    found: npt.NDArray[np.uint8] = function(_pieces(), rows, first, pixel_bytes, image.size, (out_width, out_height), box)
    return found[:, :, 0] if pixel_bytes == 1 else found


@cache
def _pieces() -> npt.NDArray[Any]:
    """The arithmetic of this processor."""
    from beholder.kernels.bicubic import best_pieces

    pieces: npt.NDArray[Any] = best_pieces()
    return pieces


def is_in_place(image: Image.Image) -> bool:
    """Whether `resize_crop` reads this loaded image where Pillow has it; else Pillow makes the whole output."""
    return _table_of(image) is not None


def row_addresses(image: Image.Image, first: int, last: int) -> npt.NDArray[np.int64] | None:
    """(last - first,) where rows [first, last) of a loaded image begin; None where Pillow's table of them is not found.

    In a row, pixels follow one another. The image must live, unchanged, as long as the addresses are used.
    """
    table = _table_of(image)
    if table is None:
        return None
    return np.frombuffer(ctypes.string_at(table + 8 * first, 8 * (last - first)), np.int64)


def _table_of(image: Image.Image) -> int | None:
    """Where Pillow has the addresses of the rows; None where that is not found."""
    word = _table_word()
    return None if word is None else _table_at(_head(image), word, image.width, PIXEL_BYTES[image.mode])


@cache
def _table_word() -> int | None:
    """Which word of Pillow's structure holds the row table; None if none does beyond doubt."""
    if ctypes.sizeof(ctypes.c_void_p) != 8 or ctypes.sizeof(ctypes.c_int) != 4:
        return None
    found: set[int] = set(range(2, _HEAD_WORDS - 3))
    for mode, width, height in (("RGB", 37, 5), ("L", 41, 3)):
        image = Image.new(mode, (width, height))
        start = _start_of(image)
        if start is None:
            return None
        row_bytes = width * PIXEL_BYTES[mode]
        rows = [start + row_bytes * y for y in range(height)]
        head = _head(image)
        for word in sorted(found):
            table = _table_at(head, word, width, PIXEL_BYTES[mode])
            if table is None or list((ctypes.c_uint64 * height).from_address(table)) != rows:
                found.discard(word)
    return found.pop() if len(found) == 1 else None


def _head(image: Image.Image) -> list[int]:
    """The first words of Pillow's structure of an image."""
    address = _capsule_pointer(image.getim(), b"Pillow Imaging")
    return list((ctypes.c_uint64 * _HEAD_WORDS).from_address(address))


def _table_at(head: list[int], word: int, width: int, pixel_bytes: int) -> int | None:
    """The address of the row table if word number `word` holds it and the fields around it are as they should be.

    Before it: the same table once more, typed, and nothing for the other type. After it: the address of a single block,
    that of a list of blocks, then bytes of a pixel and of a row as two 32-bit numbers.
    """
    typed, empty = (head[word - 2], head[word - 1]) if pixel_bytes == 1 else (head[word - 1], head[word - 2])
    sizes = head[word + 3]
    expected = pixel_bytes | (width * pixel_bytes) << 32
    return head[word] if head[word] and typed == head[word] and empty == 0 and sizes == expected else None


class _ArrowArray(ctypes.Structure):
    """`struct ArrowArray` of the Arrow C data interface."""


_ArrowArray._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _start_of(image: Image.Image) -> int | None:
    """Address of the first pixel of a small image, whose rows follow one another; None where unknown."""
    try:
        capsule = image.im.__arrow_c_array__()
    except (AttributeError, ValueError):
        return None
    array = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
    if array.n_children == 1:
        array = array.children[0].contents
    address = array.buffers[1] if array.n_buffers == 2 and array.offset == 0 else None
    return address or None

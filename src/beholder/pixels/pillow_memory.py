"""A loaded Pillow image in, the addresses of its rows out: pixels are read where Pillow keeps them, without a copy.

Pillow keeps pixels of 8-bit modes as 1 byte (L) or 4 bytes (all others, RGB too), in blocks of up to 16 MiB of whole rows,
or where a mapped file has them. Its own structure has a table of row addresses. Where it lies there is found out once, with
two images whose address is known from the public Arrow interface, and at every use the neighbouring fields are checked.
Should a Pillow arrange them differently, bands of the image are copied instead, and these export their memory by Arrow.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

PIXEL_BYTES = {"L": 1, "RGB": 4, "RGBX": 4, "RGBA": 4, "RGBa": 4, "CMYK": 4, "YCbCr": 4, "LAB": 4, "HSV": 4}
"""Modes whose pixels are bytes, one per channel, with the bytes a pixel takes."""

_BAND_BYTES = 8 << 20
_HEAD_WORDS = 12
"""8-byte words of Pillow's structure that are looked at; it has at least 16."""


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


@dataclass(frozen=True)
class PixelRows:
    """Rows of an image in memory.

    Attributes:
        addresses: (R,) int64: where rows `first` to `first + R` begin; in a row, pixels follow one another.
        first: see above.
        pixel_bytes: 4 or 1.
        owners: what must live as long as the addresses are used; the image itself must live too, unchanged.
    """

    addresses: npt.NDArray[np.int64]
    first: int
    pixel_bytes: int
    owners: tuple[Any, ...]


def rows_of(image: Image.Image, first: int, last: int) -> PixelRows | None:
    """Addresses of rows [first, last) of a loaded image; None where its mode is not one of `PIXEL_BYTES`."""
    pixel_bytes = PIXEL_BYTES.get(image.mode)
    if pixel_bytes is None:
        return None
    table = _row_table(image, pixel_bytes)
    if table is not None:
        copied = ctypes.string_at(table + 8 * first, 8 * (last - first))
        return PixelRows(np.frombuffer(copied, np.int64), first, pixel_bytes, ())
    return _banded(image, first, last, pixel_bytes)


def _one_block(image: Image.Image) -> tuple[int, Any] | None:
    """Address of the first pixel of an image whose rows follow one another, and what keeps it alive; None where unknown."""
    try:
        capsule = image.im.__arrow_c_array__()
    except (AttributeError, ValueError):
        return None
    array = _ArrowArray.from_address(_capsule_pointer(capsule, b"arrow_array"))
    if array.n_children == 1:
        array = array.children[0].contents
    address = array.buffers[1] if array.n_buffers == 2 and array.offset == 0 else None
    return (address, capsule) if address else None


def _banded(image: Image.Image, first: int, last: int, pixel_bytes: int) -> PixelRows | None:
    """Rows copied to smaller images of one block each."""
    row_bytes = image.width * pixel_bytes
    step = max(1, _BAND_BYTES // row_bytes)
    addresses, owners = [], []
    for top in range(first, last, step):
        bottom = min(top + step, last)
        single = _one_block(image.crop((0, top, image.width, bottom)))
        if single is None:
            return None
        addresses.append(single[0] + row_bytes * np.arange(bottom - top, dtype=np.int64))
        owners.append(single[1])
    return PixelRows(np.concatenate(addresses), first, pixel_bytes, tuple(owners))


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


@cache
def _table_word() -> int | None:
    """Which word of Pillow's structure holds the row table; None if none does beyond doubt."""
    if ctypes.sizeof(ctypes.c_void_p) != 8 or ctypes.sizeof(ctypes.c_int) != 4:
        return None
    found: set[int] = set(range(2, _HEAD_WORDS - 3))
    for mode, width, height in (("RGB", 37, 5), ("L", 41, 3)):
        image = Image.new(mode, (width, height))
        single = _one_block(image)
        if single is None:
            return None
        row_bytes = width * PIXEL_BYTES[mode]
        rows = [single[0] + row_bytes * y for y in range(height)]
        head = _head(image)
        for word in sorted(found):
            table = _table_at(head, word, width, PIXEL_BYTES[mode])
            if table is None or list((ctypes.c_uint64 * height).from_address(table)) != rows:
                found.discard(word)
    return found.pop() if len(found) == 1 else None


def _row_table(image: Image.Image, pixel_bytes: int) -> int | None:
    """Address of Pillow's table of row addresses, or None."""
    word = _table_word()
    return None if word is None else _table_at(_head(image), word, image.width, pixel_bytes)

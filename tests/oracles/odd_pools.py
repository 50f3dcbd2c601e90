"""Decode pools whose decoder does what the bytes say; what they give of pictures, and whether it is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from beholder.pixels.picture import PixelOptions
from beholder.sources.reader import PictureRef
from beholder.workers.pool import DecodePool
from oracles.odd_decoders import pixels_of

SIZE_PX = 16
ODD = "oracles.odd_decoders:prepare"


def pool_of(num_workers: int = 2, *, decoder: str = ODD, **options: Any) -> DecodePool:
    """A pool for pictures of SIZE_PX pixels."""
    return DecodePool(PixelOptions(size_px=SIZE_PX), num_workers=num_workers, decoder=decoder, **options)


def refs_of(datas: list[bytes]) -> Iterator[tuple[int, PictureRef]]:
    """These bytes as pictures, numbered."""
    return enumerate(PictureRef(data=data) for data in datas)


def run(pool: DecodePool, refs: Iterator[tuple[Any, PictureRef]]) -> dict[Any, Any]:
    """Tag -> a copy of the pixels, or (reason, message); tags come in the order of the refs."""
    found: dict[Any, Any] = {}
    for outcome in pool.map(refs):
        assert outcome.tag not in found
        if outcome.error is None:
            assert outcome.pixels is not None
            assert outcome.pixels.shape == (SIZE_PX, SIZE_PX, 3)
            assert outcome.pixels.dtype == np.uint8
            found[outcome.tag] = outcome.pixels.copy()
            outcome.release()
            assert outcome.pixels is None
        else:
            assert outcome.pixels is None
            found[outcome.tag] = (outcome.error.reason, str(outcome.error))
    return found


def assert_right(found: dict[Any, Any], datas: list[bytes]) -> None:
    """All pictures are there, in order, with the pixels that their bytes stand for."""
    assert list(found) == list(range(len(datas)))
    for number, data in enumerate(datas):
        np.testing.assert_array_equal(found[number], pixels_of(data, SIZE_PX), err_msg=f"picture {number}")

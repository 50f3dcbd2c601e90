"""What of local files the system holds in memory, so that reading it does not come from the disk."""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_SAMPLES = 64
"""Pages that are asked for, of all the files together."""
_FLAG = 1
"""Of mincore(2): the page is in memory."""


def is_in_memory(address: int) -> bool | None:
    """Whether the page of a mapped file that begins at this address is in memory; None where the system does not tell."""
    mincore, state = _mincore(), (ctypes.c_ubyte * 1)()
    if mincore is None or mincore(address, 1, state) != 0:
        return None
    return bool(state[0] & _FLAG)


@functools.cache
def _mincore() -> Callable[..., int] | None:
    """mincore(2) of the C library; None where it has none."""
    try:
        found = ctypes.CDLL(None, use_errno=True).mincore
    except (AttributeError, OSError, TypeError):
        return None
    found.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    return found


def share_in_memory(files: Sequence[Path]) -> float | None:
    """Share of the bytes of these files that lie in memory, 0 to 1, of a sample of pages; None where the system does not tell.

    Files that are empty, gone, or cannot be read count for nothing.
    """
    sizes = np.array([_size(path) for path in files], np.int64)
    ends = sizes.cumsum()
    if not len(ends) or not ends[-1]:
        return None
    wanted = (np.arange(_SAMPLES) * ends[-1]) // _SAMPLES
    owners = np.searchsorted(ends, wanted, side="right")
    found = [
        _in_memory(files[owner], (wanted[owners == owner] - (ends[owner] - sizes[owner])).tolist())
        for owner in np.unique(owners).tolist()
    ]
    told = [one for some in found for one in some if one is not None]
    return sum(told) / len(told) if told else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _in_memory(path: Path, places: Sequence[int]) -> list[bool | None]:
    """`is_in_memory` of the pages of a file that hold these bytes; nothing of a file that cannot be read, or is shorter."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            mapped: Any = mmap.mmap(handle, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(handle)
    except (OSError, ValueError):
        return []
    with mapped:
        view = np.frombuffer(mapped, np.uint8)
        start, end = view.ctypes.data, len(view)
        del view
        return [is_in_memory(start + place // mmap.PAGESIZE * mmap.PAGESIZE) for place in places if place < end]

"""Which share of local files the system holds in memory, so that reading them does not come from the disk."""

from __future__ import annotations

import ctypes
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


def share_in_memory(files: Sequence[Path]) -> float | None:
    """Share of the bytes of these files that lie in memory, 0 to 1, of a sample of pages; None where the system does not tell.

    Files that are empty, gone, or cannot be read count for nothing.
    """
    try:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
    except (AttributeError, OSError, TypeError):
        return None
    mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    sizes = np.array([_size(path) for path in files], np.int64)
    ends = sizes.cumsum()
    if not len(ends) or not ends[-1]:
        return None
    wanted = (np.arange(_SAMPLES) * ends[-1]) // _SAMPLES
    owners = np.searchsorted(ends, wanted, side="right")
    found = [
        _in_memory(mincore, files[owner], (wanted[owners == owner] - (ends[owner] - sizes[owner])).tolist())
        for owner in np.unique(owners).tolist()
    ]
    told = [one for some in found for one in some]
    return sum(told) / len(told) if told else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _in_memory(mincore: Callable[..., int], path: Path, places: Sequence[int]) -> list[bool]:
    """Whether the pages of a file that hold these bytes are in memory; nothing where it cannot be told."""
    state, found = (ctypes.c_ubyte * 1)(), []
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
        for place in places:
            if place < len(view) and mincore(view.ctypes.data + place // mmap.PAGESIZE * mmap.PAGESIZE, 1, state) == 0:
                found.append(bool(state[0] & _FLAG))
        del view
    return found

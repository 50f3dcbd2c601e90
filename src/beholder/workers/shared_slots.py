"""Sizes in, memory that the decode pool and its workers share out: pixel slots, a state cell per worker, a spool for bytes."""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.streams import above_standard

_CELL_BYTES = 64
_PAGE_BYTES = 4096
_SPOOL_STRIDE_BYTES = 1 << 32
_KEPT_SPOOL_BYTES = 4 << 20
_NOW = struct.Struct("<dq")
_SPENT = struct.Struct("<ddd")
_CELL = struct.Struct("<dqddd")


def anonymous_file(name: str) -> int:
    """Descriptor of a file without a name that lives in memory (or, where the system has none such, on the disk).

    It is none of 0 to 2, even where those are closed: a child process that inherits it has its standard streams there.
    """
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # refused by some sandboxes
            return above_standard(os.memfd_create(name, os.MFD_CLOEXEC))
    handle, path = tempfile.mkstemp(prefix=f"{name}-")
    os.unlink(path)  # noqa: PTH108
    return above_standard(handle)


@dataclass(frozen=True)
class WorkerState:
    """What a worker says of itself.

    Attributes:
        started: when the picture at hand was begun, on the clock of `time.monotonic`.
        ticket: the picture at hand; 0: none.
        read_s, decode_s, idle_s: seconds spent so far on reading (or waiting for it), decoding, waiting for work.
    """

    started: float
    ticket: int
    read_s: float
    decode_s: float
    idle_s: float


class SharedSlots:
    """One shared file, mapped by the pool and by each worker: state cells first, then the slots for pixels."""

    def __init__(self, handle: int, *, num_workers: int, num_slots: int, size_px: int) -> None:
        self.handle = handle
        first = -(-num_workers * _CELL_BYTES // _PAGE_BYTES) * _PAGE_BYTES
        slot_bytes = size_px * size_px * 3
        total = first + num_slots * slot_bytes
        if os.fstat(handle).st_size < total:
            os.ftruncate(handle, total)
        self._memory = mmap.mmap(handle, total)
        shape = (num_slots, size_px, size_px, 3)
        self.pixels: npt.NDArray[np.uint8] = np.frombuffer(self._memory, np.uint8, num_slots * slot_bytes, first).reshape(shape)
        """(num_slots, size_px, size_px, 3)."""

    def begin(self, worker: int, started: float, ticket: int) -> None:
        """Say which picture is at hand (0: none)."""
        _NOW.pack_into(self._memory, worker * _CELL_BYTES, started, ticket)

    def spend(self, worker: int, read_s: float, decode_s: float, idle_s: float) -> None:
        """Say how long what took so far."""
        _SPENT.pack_into(self._memory, worker * _CELL_BYTES + _NOW.size, read_s, decode_s, idle_s)

    def state(self, worker: int) -> WorkerState:
        """What the worker said last."""
        return WorkerState(*_CELL.unpack_from(self._memory, worker * _CELL_BYTES))

    def clear(self, worker: int) -> None:
        """Forget what a worker said; for its successor."""
        _CELL.pack_into(self._memory, worker * _CELL_BYTES, 0.0, 0, 0.0, 0.0, 0.0)


class Spool:
    """A shared file through which bytes of pictures go to workers: `pwrite` here, `pread` there; places are used again."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self._free: list[int] = []
        self._num_places = 0

    def put(self, data: bytes) -> int:
        """Write `data` to a free place and return the place; it is taken until `release`."""
        place = self._free.pop() if self._free else self._num_places
        self._num_places += place == self._num_places
        view, offset = memoryview(data), self.offset(place)
        while view:
            written = os.pwrite(self.handle, view, offset)
            view, offset = view[written:], offset + written
        return place

    @staticmethod
    def offset(place: int) -> int:
        """Where the bytes of a place begin in the file."""
        return place * _SPOOL_STRIDE_BYTES

    def release(self, place: int, num_bytes: int) -> None:
        """Give a place back; the memory behind large pictures goes back to the system."""
        if num_bytes > _KEPT_SPOOL_BYTES:
            _punch_hole(self.handle, self.offset(place), num_bytes)
        self._free.append(place)


def _punch_hole(handle: int, start: int, num_bytes: int) -> None:
    """Free the memory of a range of a file, where the system can."""
    if not sys.platform.startswith("linux"):
        return
    fallocate = _fallocate()
    if fallocate is not None:
        keep_size, punch_hole = 1, 2
        fallocate(handle, keep_size | punch_hole, start, num_bytes)  # a refusal only costs memory


def _fallocate() -> Any:
    """The C library's fallocate, or None."""
    import ctypes

    found = getattr(ctypes.CDLL(None), "fallocate64", None)
    if found is not None:
        found.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return found

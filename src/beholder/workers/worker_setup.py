"""What a worker process does before and around its work: know its place, bound its memory, load a decoder, name a failure."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
from typing import Any

from beholder.columns import PictureReason
from beholder.pixels.picture import PictureError
from beholder.pixels.sniff import sniff, stored_size

GRACE_S = 5.0
"""Past the time limit; then the system itself ends the worker, should its parent be gone or stopped."""
_LEAST_MEMORY_BYTES = 4 << 30
_MEMORY_PER_PIXEL_BYTES = 32
_MEMORY_PER_PICTURE_BYTES = 1 << 30


def function_of(name: str) -> Any:
    """The function behind "package.module:function"."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def memory_for(max_pixels: int) -> int:
    """Bytes that a worker may use for a picture of so many pixels beyond what it starts with."""
    return max(_LEAST_MEMORY_BYTES, _MEMORY_PER_PIXEL_BYTES * max_pixels)


def set_up_process(parent: int, nice: int) -> None:
    """End with the parent, know one's place: lower priority if asked, and the first to go when memory runs out.

    Args:
        parent: its process id; the worker ends when the thread there that started it does.
        nice: added to the niceness.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if sys.platform.startswith("linux"):
        die_with_thread = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(die_with_thread, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before that
        os._exit(0)
    if nice:
        with contextlib.suppress(OSError):
            os.nice(nice)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("500")


class MemoryLimit:
    """How much address space this process may use; more gives MemoryError. Linux only.

    All pictures together: `limit_bytes` beyond what is in use now (0: any). Each picture: 1 GiB, and 32 bytes for each of its
    own pixels, beyond what is in use when it is begun: a file that says it is small cannot take what the largest may.
    """

    def __init__(self, limit_bytes: int) -> None:
        import resource

        self._resource = resource
        self._most = self._now = 0
        used = self._used()
        if limit_bytes and used:
            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            self._most = used + limit_bytes if hard == resource.RLIM_INFINITY else min(used + limit_bytes, hard)
            self._set(self._most)

    def begin(self, data: bytes) -> None:
        """Allow what the picture of these bytes may take; of one whose header tells no size, what all may."""
        if not self._most:
            return
        size = declared_size(data)
        used = self._used()
        if size is None or not used:
            self.lift()
            return
        own = _MEMORY_PER_PICTURE_BYTES + _MEMORY_PER_PIXEL_BYTES * size[0] * size[1]
        self._set(min(used + own, self._most))

    def lift(self) -> None:
        """Allow what all pictures may take."""
        if self._now != self._most:
            self._set(self._most)

    def _used(self) -> int:
        """Bytes of address space in use; 0 where that cannot be told."""
        with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * self._resource.getpagesize()
        return 0

    def _set(self, limit: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._resource.setrlimit(self._resource.RLIMIT_AS, (limit, self._resource.getrlimit(self._resource.RLIMIT_AS)[1]))
            self._now = limit


def declared_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that a picture's header states; None where it is no picture, or of a format whose header is not read."""
    try:
        return stored_size(data, sniff(data))
    except PictureError:
        return None


def failure_of(error: Exception) -> tuple[PictureReason, str]:
    """What is told of a picture whose decoding raised `error`: a fault of the decoder costs the picture, not the run."""
    if isinstance(error, PictureError):
        return error.reason, str(error)
    if isinstance(error, MemoryError):
        return PictureReason.TOO_LARGE, "decoding needs more memory than it may use"
    return PictureReason.CRASHED, f"the decoder failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"

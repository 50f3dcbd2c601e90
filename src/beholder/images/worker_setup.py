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
from beholder.images.picture import PictureError

GRACE_S = 5.0
"""Past the time limit; then the system itself ends the worker, should its parent be gone or stopped."""
_LEAST_MEMORY_BYTES = 4 << 30
_MEMORY_PER_PIXEL_BYTES = 32


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


def limit_memory(limit_bytes: int) -> None:
    """Allow `limit_bytes` of address space beyond what is in use now (0: any); more gives MemoryError. Linux only."""
    import resource

    if not limit_bytes:
        return
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        used = int(file.read().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        wanted = used + limit_bytes
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def failure_of(error: Exception) -> tuple[PictureReason, str]:
    """What is told of a picture whose decoding raised `error`: a fault of the decoder costs the picture, not the run."""
    if isinstance(error, PictureError):
        return error.reason, str(error)
    if isinstance(error, MemoryError):
        return PictureReason.TOO_LARGE, "decoding needs more memory than it may use"
    return PictureReason.CRASHED, f"the decoder failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"

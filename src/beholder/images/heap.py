"""A number of bytes in: from then on this process keeps that much freed memory, so that pictures need no fresh pages.

Pillow allocates a picture's pixels anew, 16 MiB at a time, and frees them. glibc gives such blocks back to the system, which
has to hand out and clear thousands of pages again for the next picture: for 12 megapixels a quarter of the time that
decoding takes. For processes that do nothing but decode; a whole program should decide for itself.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""From glibc's malloc.h."""
_NEVER = 1 << 30


def keep_freed_memory(num_bytes: int = 128 << 20) -> bool:
    """Let the C library keep up to `num_bytes` of freed memory; 128 MiB hold the pixels of 32 megapixels.

    Call it once, early, in a decode worker. All threads share one heap afterwards.

    Returns:
        Whether the C library can be told so: glibc can (Linux other than Alpine); elsewhere nothing is changed.
    """
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  there is none elsewhere
        mallopt = library.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    wanted = ((_M_MMAP_THRESHOLD, _NEVER), (_M_TRIM_THRESHOLD, num_bytes), (_M_ARENA_MAX, 1))
    taken = [mallopt(option, value) == 1 for option, value in wanted]
    return all(taken)

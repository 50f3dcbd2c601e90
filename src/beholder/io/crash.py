"""Named points at which a test can have the process die, as a kill or a power cut would end it."""

from __future__ import annotations

import os
from collections import Counter

_VARIABLE = "BEHOLDER_CRASH_AT"
_reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """Die here by `os._exit(137)` if BEHOLDER_CRASH_AT is "POINT", or "POINT:N" and this is the N-th time in this process."""
    wanted = os.environ.get(_VARIABLE)
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    if name == point:
        _reached[point] += 1
        if _reached[point] == int(count or 1):
            os._exit(137)

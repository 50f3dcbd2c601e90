"""Time spent waiting for two stages that take turns in, the one that holds the other up lately out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

_WAITING_SHARE = 0.5
"""The first stage is the bottleneck when it took more than this share of the last seconds."""


class StageClock:
    """Seconds spent waiting for each of two stages, older ones fading away. One thread measures, any may ask."""

    def __init__(self, first: str, second: str, memory_s: float = 10.0) -> None:
        self._first, self._second, self._memory_s = first, second, memory_s
        self._seconds = {first: 0.0, second: 0.0}
        self._last = time.perf_counter()
        self._running: tuple[str, float] | None = None

    @contextlib.contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time inside for `stage`."""
        started = time.perf_counter()
        self._running = (stage, started)
        try:
            yield
        finally:
            self._running = None
            now = time.perf_counter()
            self._seconds = self._faded(now)
            self._last = now
            self._seconds[stage] += now - started

    def _faded(self, now: float) -> dict[str, float]:
        fade = 0.5 ** ((now - self._last) / self._memory_s)
        return {name: seconds * fade for name, seconds in self._seconds.items()}

    def slowest(self) -> str:
        """The stage that took most of the last seconds, the one under way included; "" before anything was measured."""
        running, now = self._running, time.perf_counter()
        seconds = self._faded(now) if running is not None else self._seconds
        if running is not None:
            seconds[running[0]] += now - running[1]
        total = sum(seconds.values())
        if not total:
            return ""
        return self._first if seconds[self._first] > _WAITING_SHARE * total else self._second

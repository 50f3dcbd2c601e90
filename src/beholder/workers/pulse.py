"""When a process woke up in; its time without the stretches in which it stood still out, as time limits are to count it."""

from __future__ import annotations

import threading
import time
from time import monotonic

BEAT_S = 0.1
_LATE_S = 0.2
"""A beat that comes so much late was held up; a little lateness is how computers are."""


class Pulse:
    """Told about every BEAT_S that the process is awake, it knows how long it was not.

    It was not when it was stopped or frozen, when one thread held the interpreter, and when no core was free for long.
    """

    def __init__(self) -> None:
        self._state = (monotonic(), 0.0)
        """When it was told last; seconds lost so far. One value, so that other threads see both or neither change."""

    @property
    def lost_s(self) -> float:
        """Seconds in which this process stood still so far, a stretch that is not over included."""
        last, lost_s = self._state
        late = monotonic() - last - BEAT_S
        return lost_s + (late if late > _LATE_S else 0.0)

    def now(self) -> float:
        """`time.monotonic()` without the time lost."""
        return monotonic() - self.lost_s

    def beat(self) -> None:
        """The process is awake."""
        lost_s = self.lost_s
        self._state = (monotonic(), lost_s)

    def start_thread(self) -> None:
        """Have a thread do that until the process ends."""
        threading.Thread(target=self._beat_on, name="beholder-pulse", daemon=True).start()

    def _beat_on(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.beat()

"""The type of what tells the time to measurements: seconds that only grow."""

from __future__ import annotations

from collections.abc import Callable

Clock = Callable[[], float]

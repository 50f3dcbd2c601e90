"""What a result file says about the machine and the software it was measured with: as `beholder bench` says it."""

from beholder.planning.machine import lines, processor

__all__ = ["lines", "processor"]

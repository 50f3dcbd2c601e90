"""How far a job is: how many rows of how many (or of about how many), and which stage the others wait for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from beholder.scoring.shards import Shard, ShardResult

_TAR_BLOCK_BYTES = 512
"""A member of a tar has a header of so many bytes, and is padded to a multiple of them."""


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """What is known of a part before it is read.

    Attributes:
        num_rows: how many rows it has; None where only reading it through can tell.
        about_rows: where that is None: an estimate, if there is one.
        num_bytes: where both are None: bytes of the file, of which an estimate is made once some of it was read; 0: unknown.
        is_plain: whether it is a tar without compression, so that the rows read of it tell of the rest.
    """

    num_rows: int | None
    about_rows: int | None = None
    num_bytes: int = 0
    is_plain: bool = False


class Tally:
    """Counts what is done. One thread counts, any may ask.

    Attributes:
        num_done: rows whose end is known, those of earlier runs among them.
        num_new: of these, those of this run.
        num_bytes: bytes read in this run.
        num_rejected: of `num_done`.
        num_parts: parts of the job.
        part: number of the part at hand, from 1.
        on_progress: told (rows, bytes read) of this run as they are done.
    """

    on_progress: Callable[[int, int], None] | None = None

    def __init__(self, shards: Sequence[Shard], sizes: Sequence[PartSize]) -> None:
        """Shards of the job, in the order in which they are done, and the size of each part that they are of."""
        self._shards, self._sizes, self.num_parts = list(shards), list(sizes), len(sizes)
        self.num_done = self.num_new = self.num_bytes = self.num_rejected = self.part = 0
        self._known = sum(size.num_rows or 0 for size in sizes)
        open_parts = [size for size in sizes if size.num_rows is None]
        self._left_about = sum(size.about_rows or 0 for size in open_parts)
        self._left_bytes = sum(size.num_bytes for size in open_parts if size.about_rows is None)
        self._num_unsized = sum(size.about_rows is None and not size.num_bytes for size in open_parts)
        self._num_open = len(open_parts)
        self._measured_rows = self._measured_bytes = self._at_rows = self._at_bytes = 0
        self._at: int | None = None
        self._told: int | None = None

    def tell_total(self, num_rows: int) -> None:
        """Say how many rows there are, where somebody knows."""
        self._told = num_rows

    def resume(self, results: Mapping[str, ShardResult]) -> None:
        """Count what earlier runs did: results by shard name."""
        for shard in self._shards:
            result = results.get(shard.name)
            if result is None:
                continue
            self.num_done += result.num_read
            self.num_rejected += result.num_rejected
            if self._sizes[shard.part].num_rows is None:  # (such a part is one shard)
                self._close(shard.part, result.num_read)

    def add(self, shard: Shard, rows: int, num_bytes: int, num_rejected: int, *, are_new: bool = True) -> None:
        """Count rows of `shard` and their bytes, those of a tar one by one; rows of shards before it have all been counted.

        are_new: not done by an earlier run.
        """
        if shard.part != self._at:
            self._leave()
            self._at, self.part = shard.part, shard.part + 1
        self._at_rows += rows
        self._at_bytes += rows * _TAR_BLOCK_BYTES + -(-num_bytes // _TAR_BLOCK_BYTES) * _TAR_BLOCK_BYTES
        self.num_done += rows
        self.num_bytes += num_bytes
        self.num_rejected += num_rejected
        if are_new:
            self.num_new += rows
            if self.on_progress is not None:
                self.on_progress(rows, num_bytes)

    def end(self) -> None:
        """Say that there are no more rows."""
        self._leave()
        self._at = None

    def total(self) -> tuple[int | None, bool]:
        """How many rows there are, and whether that is certain; None where there is nothing to tell it by yet."""
        if self._told is not None:
            return max(self._told, self.num_done), True
        if not self._num_open:
            return max(self._known, self.num_done), True
        rows, num_bytes = self._measured_rows, self._measured_bytes
        number = self._at
        at = None if number is None else self._sizes[number]
        is_open = at is not None and at.num_rows is None
        if at is not None and is_open and at.is_plain and at.about_rows is None:
            rows, num_bytes = rows + self._at_rows, num_bytes + self._at_bytes
        if self._num_unsized or (self._left_bytes and not (rows and num_bytes)):
            return None, False
        left = self._left_about + (self._left_bytes * rows / num_bytes if self._left_bytes else 0)
        return max(round(self._known + max(left, self._at_rows if is_open else 0)), self.num_done), False

    def _leave(self) -> None:
        """The part at hand is done."""
        if self._at is not None and self._sizes[self._at].num_rows is None:
            self._close(self._at, self._at_rows)
        self._at_rows = self._at_bytes = 0

    def _close(self, part: int, rows: int) -> None:
        """A part whose size was not known has so many rows."""
        size = self._sizes[part]
        self._known += rows
        self._num_open -= 1
        if size.about_rows is not None:
            self._left_about -= size.about_rows
        elif size.num_bytes:
            self._left_bytes -= size.num_bytes
            self._measured_rows += rows
            self._measured_bytes += size.num_bytes
        else:
            self._num_unsized -= 1


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

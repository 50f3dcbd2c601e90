"""Byte ranges of a remote file in, those bytes in a local file out: several at a time, each tried again when it breaks."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from beholder import notices
from beholder.errors import HeadError
from beholder.models.tensors import read_exactly

PIECE_BYTES = 16 << 20
_NUM_AT_ONCE = 4
_PAUSES_S = (0.2, 1.0)
"""Before the second and the third try of a piece."""
_SHOWN_FROM_BYTES = 32 << 20
"""Smaller transfers show no bar and are not held back by a nearly full disk."""
_SPARE_BYTES = 64 << 20

PATIENCE_S, SLOWEST_BYTES_A_S = 60.0, 1024
"""A transfer that brings less in such a time is given up."""
MOST_TOWER_BYTES = 32 << 30
"""Largest checkpoint that is fetched where its size is not known beforehand; CLIP's largest have about 10 GB."""

Span = tuple[int, int, int]
"""Bytes [start, stop) of the remote file, and where they go in the local one."""


def cut(spans: Iterable[Span]) -> list[Span]:
    """Neighbouring spans joined, then cut to at most `PIECE_BYTES` each."""
    joined: list[list[int]] = []
    for start, stop, place in sorted(span for span in spans if span[1] > span[0]):
        if joined and joined[-1][1] == start and joined[-1][2] + joined[-1][1] - joined[-1][0] == place:
            joined[-1][1] = stop
        else:
            joined.append([start, stop, place])
    return [
        (at, min(at + PIECE_BYTES, stop), place + at - start)
        for start, stop, place in joined
        for at in range(start, stop, PIECE_BYTES)
    ]


class Watch:
    """Is told of bytes as they come; raises HeadError when there are too many, or hardly any come.

    Time counts from the first bytes on: connecting and asking again have limits of their own.

    Args:
        what: what is fetched, for the message.
        most_bytes: that may come, unpacked; once all of them are there, it does not matter how long they took.
        clock: gives seconds.
    """

    def __init__(self, what: str, most_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._what, self._most, self._clock = what, most_bytes, clock
        self._total, self._lately = 0, 0
        self._since: float | None = None

    def expect(self, num_bytes: int) -> None:
        """Be told beforehand how many bytes will come."""
        if num_bytes > self._most:
            raise HeadError(f"{self._what}: {num_bytes:,} bytes come where at most {self._most:,} are expected")

    def __call__(self, num_bytes: int) -> None:
        """Be told of bytes that came."""
        self._total += num_bytes
        self.expect(self._total)
        if self._since is None:
            self._since = self._clock()
            return
        self._lately += num_bytes
        passed = self._clock() - self._since
        if passed >= PATIENCE_S and self._total < self._most:
            if self._lately < SLOWEST_BYTES_A_S * passed:
                raise HeadError(f"{self._what}: only {self._lately:,} bytes came in {passed:.0f} s; try again later")
            self._since, self._lately = self._clock(), 0


def fetch_pieces(url: str, spans: Sequence[Span], target: Path, label: str) -> None:
    """Write the spans of `url` into the existing local file `target`. Raises HeadError, and OSError for the disk."""
    pieces = cut(spans)
    with transfer_bar(label, sum(stop - start for start, stop, _ in pieces)) as advance, target.open("r+b") as file:

        def fetch(piece: Span) -> None:
            start, stop, place = piece
            os.pwrite(file.fileno(), _tried(url, start, stop), place)
            advance(stop - start)

        with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
            waiting = [pool.submit(fetch, piece) for piece in pieces]
            try:
                for future in waiting:
                    future.result()
            finally:
                for future in waiting:
                    future.cancel()


def _tried(url: str, start: int, stop: int) -> bytes:
    for pause in _PAUSES_S:
        try:
            return read_exactly(url, start, stop)
        except HeadError:
            time.sleep(pause)
    return read_exactly(url, start, stop)


def need_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raise HeadError where the disk of `folder` has less than `num_bytes` (and a little more) to spare; small files pass."""
    if num_bytes < _SHOWN_FROM_BYTES:
        return
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    free = shutil.disk_usage(there).free if there is not None else None
    if free is not None and free < num_bytes + _SPARE_BYTES:
        raise HeadError(
            f"{what} needs {num_bytes / 1e9:.2f} GB, and the disk of {folder} has {free / 1e9:.2f} GB free; make room, or set "
            "BEHOLDER_CACHE (HF_HOME for files of the hub) to a folder on another disk"
        )


@contextlib.contextmanager
def transfer_bar(label: str, num_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal's standard error for large transfers; gives the function that is told of bytes.

    Where a command shows what is going on itself, it shows this as well.
    """
    if notices.is_heard():
        told: list[int] = []

        def far() -> str:
            of = "" if num_bytes is None else f" of {num_bytes / 1e6:,.0f}"
            return f"network: fetching {label}, {sum(told) / 1e6:,.0f}{of} MB"

        with notices.doing(far):
            yield told.append
        return
    if not sys.stderr.isatty() or (num_bytes is not None and num_bytes < _SHOWN_FROM_BYTES):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=num_bytes)
        yield lambda count: progress.advance(task, count)

"""Transfers: a URL into a local file, whole or in byte ranges, within bounds of size and patience, large ones with a bar."""

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
from beholder.errors import BeholderError, HeadError, text_of
from beholder.io import locations, remote, storage
from beholder.models.tensor_files import read_exactly

LARGE_BYTES = 32 << 20
"""Larger transfers come in byte ranges, show a bar and are held back by a nearly full disk; larger files are hashed once."""
RANGE_BYTES = 16 << 20
_NUM_AT_ONCE = 4
_SPARE_BYTES = 64 << 20

_PATIENCE_S = 60.0
_SLOWEST_BYTES_A_S = 1024
"""A transfer that brings less, for as long, is given up."""
TIMEOUT_S = 15.0
"""Of the hub's answers to questions."""
Span = tuple[int, int, int]
"""Bytes [start, stop) of the remote file, and where they go in the local one."""


class UnavailableError(HeadError):
    """A place does not give the file; the next one is asked."""


def get_large(url: str, target: Path, label: str, num_bytes: int | None = None, *, most_bytes: int) -> None:
    """Fetch a URL into an existing local file: in byte ranges where it is large and the server gives parts.

    Raises UnavailableError. `num_bytes` is its size where that is known; otherwise the server is asked. More than `most_bytes`
    are not taken.
    """
    if locations.is_web(url) and (num_bytes is None or num_bytes >= LARGE_BYTES):
        try:
            total = storage.size(url)
            if total >= LARGE_BYTES:
                Watch(url, most_bytes).expect(total)
                need_space(target.parent, total, label)
                fetch_ranges(url, [(0, total, 0)], target, label)
                return
        except BeholderError as error:
            if not any(isinstance(one, remote.WholeOnlyError) for one in (error, error.__cause__)):
                text = str(error).removeprefix(f"cannot read {url}: ").removeprefix(f"{url}: ")
                raise UnavailableError(f"cannot get {url}: {text}") from None
    get(url, target, most_bytes)


def get(url: str, target: Path, most_bytes: int) -> None:
    """Stream a URL into a local file. Raises UnavailableError when that fails for whatever reason."""
    from fsspec.callbacks import Callback

    class Watched(Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._watch = Watch(url, most_bytes)

        def set_size(self, size: int | None) -> None:
            self._watch.expect(size or 0)

        def relative_update(self, inc: int = 1) -> None:
            self._watch(inc)

    try:
        file_system, inner = remote.filesystem(url)
        remote.asked_again(lambda: file_system.get_file(inner, str(target), callback=Watched()), is_passing)
    except FileNotFoundError as error:
        is_gone = not isinstance(error.__cause__, Exception) or getattr(error.__cause__, "status", None) in (404, 410)
        reason = "it does not exist there" if is_gone else why(error.__cause__)  # type: ignore[arg-type]
        raise UnavailableError(f"cannot get {url}: {reason}") from None
    except BeholderError as error:
        raise UnavailableError(f"cannot get {error}") from None
    except Exception as error:  # remote back ends raise errors of their own libraries, which have no common parent
        raise UnavailableError(f"cannot get {url}: {why(error)}") from None


def is_passing(error: BaseException) -> bool:
    """Whether what a web server or the hub's client raised may be otherwise a moment later.

    The hub's client has changed its HTTP library twice.
    """
    if remote.is_passing(error):
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status in remote.PASSING_STATUS
    chain = (error, error.__cause__)
    return any(kind.__name__ == "TransportError" for one in chain for kind in type(one).__mro__)


def why(error: Exception) -> str:
    """A remote back end's error in a few words."""
    status = getattr(error, "status", None)
    if isinstance(status, int) and status >= 400:
        return f"the server answered with HTTP status {status}"
    text = text_of(error)
    if "Timeout" in type(error).__name__ or isinstance(error, TimeoutError):
        return "the server did not answer in time"
    if "Payload" in type(error).__name__:
        return f"the connection broke off before the end ({text})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def cut(spans: Iterable[Span]) -> list[Span]:
    """Neighbouring spans joined, then cut to at most `RANGE_BYTES` each."""
    joined: list[list[int]] = []
    for start, stop, place in sorted(span for span in spans if span[1] > span[0]):
        if joined and joined[-1][1] == start and joined[-1][2] + joined[-1][1] - joined[-1][0] == place:
            joined[-1][1] = stop
        else:
            joined.append([start, stop, place])
    return [
        (at, min(at + RANGE_BYTES, stop), place + at - start)
        for start, stop, place in joined
        for at in range(start, stop, RANGE_BYTES)
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
        if passed >= _PATIENCE_S and self._total < self._most:
            if self._lately < _SLOWEST_BYTES_A_S * passed:
                raise HeadError(f"{self._what}: only {self._lately:,} bytes came in {passed:.0f} s; try again later")
            self._since, self._lately = self._clock(), 0


def fetch_ranges(url: str, spans: Sequence[Span], target: Path, label: str) -> None:
    """Write the spans of `url` into the existing local file `target`. Raises HeadError, and OSError for the disk."""
    ranges = cut(spans)
    with transfer_bar(label, sum(stop - start for start, stop, _ in ranges)) as advance, target.open("r+b") as file:

        def fetch(span: Span) -> None:
            start, stop, place = span
            os.pwrite(file.fileno(), read_exactly(url, start, stop), place)
            advance(stop - start)

        with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
            waiting = [pool.submit(fetch, span) for span in ranges]
            try:
                for future in waiting:
                    future.result()
            finally:
                for future in waiting:
                    future.cancel()


def need_space(folder: Path, num_bytes: int, what: str) -> None:
    """Raise HeadError where the disk of `folder` has less than `num_bytes` (and a little more) to spare; small files pass."""
    if num_bytes < LARGE_BYTES:
        return
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < num_bytes + _SPARE_BYTES:
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
    if not sys.stderr.isatty() or (num_bytes is not None and num_bytes < LARGE_BYTES):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=num_bytes)
        yield lambda count: progress.advance(task, count)

"""Files that are read from front to back, remote ones in pieces of which the next one is fetched ahead."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from beholder.errors import BeholderError, InputError
from beholder.io import locations, remote, storage

PIECE_BYTES = 8 << 20
_PAUSES_S = (0.25, 0.5, 1.0)
"""Before a piece of a stream is asked for again, which failed in passing."""


def open_stream(path: str, num_bytes: int | None = None) -> IO[bytes]:
    """Open a file to be read from front to back, a remote one in pieces that are fetched ahead. The caller closes it."""
    if locations.is_local(path):
        return storage.open_binary(path)
    return io.BufferedReader(RemoteStream(path, storage.size(path) if num_bytes is None else num_bytes))


class RemoteStream(io.RawIOBase):
    """The bytes of a remote file. Seeking is possible, forward within the piece at hand or to another one.

    Every piece is a request of its own, so that a consumer may take its time without a server hanging up.

    Args:
        path: URL.
        num_bytes: its size.
        piece_bytes: bytes of one request.
        pauses_s: before a request that failed in passing is made again.
    """

    def __init__(
        self, path: str, num_bytes: int, piece_bytes: int = PIECE_BYTES, *, pauses_s: Sequence[float] = _PAUSES_S
    ) -> None:
        self._pauses_s = pauses_s
        self.path, self.num_bytes, self._piece_bytes = path, num_bytes, piece_bytes
        self._at, self._low, self._piece = 0, 0, b""
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="beholder-fetch")
        self._ahead: tuple[int, Future[bytes]] | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; nothing is fetched yet."""
        self._at = max(0, offset + (0, self._at, self.num_bytes)[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill `buffer` from the piece at hand; fewer bytes at its end. Raises InputError when the server fails for good."""
        if self._at >= self.num_bytes:
            return 0
        if not self._low <= self._at < self._low + len(self._piece):
            self._load(self._at - self._at % self._piece_bytes)
        inside = self._at - self._low
        count = min(len(buffer), len(self._piece) - inside)
        if count <= 0:
            raise InputError(f"cannot read {self.path}: the server sends fewer bytes than it promised; did the file change?")
        buffer[:count] = self._piece[inside : inside + count]
        self._at += count
        return count

    def _load(self, low: int) -> None:
        if self._ahead is not None and self._ahead[0] == low:
            self._piece = self._ahead[1].result()
        else:
            self._piece = self._fetch(low)
        self._low, self._ahead = low, None
        following = low + self._piece_bytes
        if following < self.num_bytes:
            self._ahead = (following, self._pool.submit(self._fetch, following))

    def _fetch(self, low: int) -> bytes:
        high = min(low + self._piece_bytes, self.num_bytes)
        with remote.read_errors(self.path):
            return remote.asked_again(lambda: remote.remote_range(self.path, low, high), self._is_passing, self._pauses_s)

    def _is_passing(self, error: Exception) -> bool:
        """Whether a piece may come a moment later: not what is not there or closed to us, whatever the back end."""
        if locations.is_web(self.path):
            return remote.is_passing(error)
        return not isinstance(error, BeholderError | FileNotFoundError | PermissionError)

    def close(self) -> None:
        """Drop what is under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

"""An opened remote file in, one whose failures are told from damage out."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


class RemoteFile(io.RawIOBase):
    """A remote file for libraries that take it apart, which cannot mistake a failing server for a damaged file.

    Args:
        opened: a file of fsspec's.
        errors: gives the context in which it is read: it turns what the server's library raises into a BeholderError.
    """

    def __init__(self, opened: Any, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._opened, self._errors = opened, errors

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes."""
        with self._errors():
            data: bytes = self._opened.read(size)
            return data

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; returns how many bytes came."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place. Raises ValueError for one before the start."""
        return int(self._opened.seek(offset, whence))

    def tell(self) -> int:
        """The place."""
        return int(self._opened.tell())

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Let go of it."""
        if not self.closed:
            self._opened.close()
        super().close()

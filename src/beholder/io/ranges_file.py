"""File objects over whatever gives ranges of bytes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable


class SizedFile(io.RawIOBase):
    """A file of `num_bytes` bytes that can be read from any place; subclasses read it, from `_at` on."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self._at = num_bytes, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to another place; returns it. Nothing is read yet."""
        self._at = max(0, offset + (0, self._at, self.num_bytes)[whence])
        return self._at

    def tell(self) -> int:
        """Where the next bytes are read."""
        return self._at

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True


class RangesFile(SizedFile):
    """A file of which exactly the bytes are read that are asked for: `read_range` gives bytes [start, stop)."""

    def __init__(self, read_range: Callable[[int, int], bytes], num_bytes: int) -> None:
        super().__init__(num_bytes)
        self._read_range = read_range

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes; -1: all that are left."""
        stop = self.num_bytes if size < 0 else min(self._at + size, self.num_bytes)
        data = self._read_range(self._at, stop) if stop > self._at else b""
        self._at += len(data)
        return data

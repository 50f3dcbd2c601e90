"""Files on servers in; their bytes out, no more than were asked for, and failures that are told from damage."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

NO_RANGES = "support range requests"
"""What fsspec says, and is said here, about servers that give whole files only."""
_PIECE_BYTES = 1 << 18


def web_range(fs: Any, url: str, start: int, stop: int, most_whole: int) -> bytes:
    """Bytes [start, stop) of a URL, fewer at its end; never more are read, whatever the server sends.

    A server that gives whole files only is read from the beginning, up to `most_whole` bytes. Raises ValueError for a larger
    file, and what the server's library raises.
    """
    from fsspec.asyn import sync

    async def get() -> bytes:
        options = dict(fs.kwargs)
        headers = dict(options.pop("headers", None) or {})
        headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        session = await fs.set_session()
        async with session.get(fs.encode_url(url), headers=headers, **options) as response:
            if response.status == 416:  # it ends before
                return b""
            response.raise_for_status()
            skip = 0 if response.status == 206 else start
            wanted = skip + stop - start
            if response.status != 206 and wanted > most_whole and (response.content_length or wanted) > most_whole:
                raise ValueError(f"The HTTP server does not {NO_RANGES}")
            found = bytearray()
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                found += piece
                if len(found) >= wanted:
                    break
            return bytes(found[skip:wanted])

    data: bytes = sync(fs.loop, get)
    return data


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

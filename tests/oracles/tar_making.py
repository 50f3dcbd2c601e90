"""Tars and pictures made in memory for tests: bytes that look like pictures, archives with exact members."""

from __future__ import annotations

import io
import re
import struct
import tarfile
import zlib
from collections.abc import Iterable


def png(number: int = 0, size: int = 1) -> bytes:
    """A real PNG of `size` x `size` grey pixels of one value, unlike those of other numbers."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([number % 256]) * size for _ in range(size))
    head = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    note = b"number\0" + str(number).encode()
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"tEXt", note)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def tar(members: Iterable[tuple[str, bytes]], *, format: int = tarfile.PAX_FORMAT, end: bool = True) -> bytes:
    """A tar of plain files, in order; `end`: with its end marker."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        stop = stream.tell()
    return stream.getvalue() if end else stream.getvalue()[:stop]


def base_plus_ext(path: str) -> tuple[str | None, str | None]:
    """Webdataset's rule (webdataset/tariterators.py), transcribed."""
    match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", path)
    if not match:
        return None, None
    return match.group(1), match.group(2)

"""The XMP packet inside a picture: its bytes, without decoding a pixel."""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO, Any

from beholder.pixels.opening import be_quiet, reader_for
from beholder.pixels.picture import PictureError
from beholder.pixels.sniff import sniff

_KEYWORD = b"XML:com.adobe.xmp"
_MOST_BYTES = 64 << 20
_READ_BYTES = 1 << 16
_XMP_TAG = 700
_TAKEN_APART = frozenset(("JPEG", "TIFF", "WEBP", "AVIF", "HEIC"))
"""Formats whose packet Pillow finds as it opens a file. PNG is looked through here: its packet may come behind the pixels."""


def embedded_packet(file: IO[bytes]) -> bytes | None:
    """The XMP packet of a picture: of JPEG (APP1), PNG (iTXt), WebP, TIFF (tag 700), AVIF, and HEIC with its extra.

    Args:
        file: opened at its start, with `seek`.

    Returns:
        The packet; None where there is none, or the file is no picture of these formats or damaged.
    """
    head = file.read(_READ_BYTES)
    try:
        kind = sniff(head)
        if kind == "PNG":
            return _png(file)
        if kind not in _TAKEN_APART:
            return None
        be_quiet()
        file.seek(0)
        # WebP and the like are taken apart from bytes; the others read as much as they need.
        opened = reader_for(kind)(file if kind in ("JPEG", "TIFF") else io.BytesIO(file.read()))
        found: Any = opened.info.get("xmp")
        if found is None and kind == "TIFF":
            found = opened.tag_v2.get(_XMP_TAG)  # type: ignore[attr-defined]
    except PictureError:
        return None
    except Exception:  # decoders raise whatever their libraries do: there is no common parent
        return None
    return bytes(found) if found else None


def _png(file: IO[bytes]) -> bytes | None:
    """The text of the iTXt chunk with XMP's keyword (XMP specification part 3, 1.1.5); pixels are passed over."""
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IEND":
            return None
        if kind == b"iTXt" and length <= _MOST_BYTES:
            data = file.read(length)
            file.seek(4, io.SEEK_CUR)
            keyword, _, rest = data.partition(b"\0")
            if keyword == _KEYWORD and len(rest) >= 2:
                text = rest[2:].split(b"\0", 2)[-1]
                return zlib.decompressobj().decompress(text, _MOST_BYTES) if rest[0] else text
        else:
            file.seek(length + 4, io.SEEK_CUR)
    return None

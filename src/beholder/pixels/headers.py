"""The bytes of a picture in; its stored size and whether it breaks off early out, read from its headers without decoding."""

from __future__ import annotations

import struct

_START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}


def stored_size(data: bytes, kind: str) -> tuple[int, int] | None:
    """Width and height as the header of a `kind` (see `sniff`) states them; None when it does not get that far.

    Cheap, and allocates nothing. Not for AVIF and HEIC, whose decoders read sizes without allocating.
    """
    try:
        if kind == "PNG" and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
        elif kind == "GIF":
            width, height = struct.unpack_from("<HH", data, 6)
        elif kind == "BMP":
            short = int.from_bytes(data[14:18], "little") == 12
            width, height = struct.unpack_from("<HH" if short else "<ii", data, 18)
        elif kind == "WEBP":
            return _webp_size(data)
        elif kind == "JPEG":
            return _jpeg_size(data)
        elif kind == "TIFF":
            return _tiff_size(data)
        elif kind == "PPM":
            return _ppm_size(data)
        else:
            return None
    except struct.error:
        return None
    return abs(width), abs(height)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Canvas size from the first chunk of a WebP: lossy, lossless or extended."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L" and data[20:21] == b"\x2f" and len(data) >= 25:  # all of such a file can be 28 bytes
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Size from the first start-of-frame segment of a JPEG."""
    at = 2
    while 0 <= (at := data.find(b"\xff", at)) < len(data) - 9:
        marker = data[at + 1]
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker in (0xD9, 0xDA):
            return None
        bare = marker in _BARE_MARKERS or marker in (0x00, 0xFF)
        at += 1 + (marker != 0xFF) if bare else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    """Width (tag 256) and height (tag 257) of the first directory of a classic TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] not in (b"*\0", b"\0*"):
        return None
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    found: dict[int, int] = {}
    for number in range(count):
        tag, kind = struct.unpack_from(f"{order}HH", data, start + 2 + 12 * number)
        if tag in (256, 257) and kind in (3, 4):
            (found[tag],) = struct.unpack_from(f"{order}{'H' if kind == 3 else 'I'}", data, start + 10 + 12 * number)
    return (found[256], found[257]) if len(found) == 2 else None


def _ppm_size(data: bytes) -> tuple[int, int] | None:
    """The two numbers after the two letters of a PPM, comments skipped."""
    words: list[bytes] = []
    for line in data[2:4096].splitlines():
        words += line.split(b"#", 1)[0].split()
    if len(words) < 2 or not (words[0].isdigit() and words[1].isdigit()) or max(len(words[0]), len(words[1])) > 9:
        return None
    return int(words[0]), int(words[1])


def breaks_off(data: bytes, kind: str) -> bool:
    """Whether a file of `kind` that failed to decode ends before its format says it does."""
    try:
        if kind == "PNG":
            return _png_breaks_off(data)
        if kind == "JPEG":
            return b"\xff\xd9" not in data[-4096:]
        if kind == "GIF":
            return b"\x3b" not in data[-2:]
        if kind == "WEBP":
            return len(data) < 8 + int.from_bytes(data[4:8], "little")
        if kind in ("AVIF", "HEIC"):
            return _boxes_break_off(data)
        if kind == "TIFF":
            return _tiff_breaks_off(data)
        if kind == "BMP":
            return len(data) < 26 or len(data) < int.from_bytes(data[10:14], "little")
    except struct.error:
        return True
    return kind == "PPM" and len(data.split(None, 4)) < 4


def _png_breaks_off(data: bytes) -> bool:
    """Whether the chunks of a PNG run past its end, or stop before IEND."""
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IEND":
            return False
        at += 12 + length
    return True


def _boxes_break_off(data: bytes) -> bool:
    """Whether the boxes of an AVIF or HEIC run past its end."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            return True
        (length,) = struct.unpack_from(">I", data, at)
        if length == 0:
            return False
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, at + 8)
        if length < 8:
            return False
        at += length
    return at > len(data)


def _tiff_breaks_off(data: bytes) -> bool:
    """Whether the first directory of a classic TIFF, or the last of its strips or tiles, ends past the end of the file."""
    if data[2:4] not in (b"*\0", b"\0*"):
        return False
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    arrays: dict[int, tuple[int, ...]] = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(f"{order}HHI", data, at)
        if tag in (273, 279, 324, 325) and kind in (3, 4):
            size, code = (2, "H") if kind == 3 else (4, "I")
            place = at + 8 if length * size <= 4 else struct.unpack_from(f"{order}I", data, at + 8)[0]
            if place + length * size > len(data):
                return True
            arrays[tag] = struct.unpack_from(f"{order}{length}{code}", data, place)
    starts, lengths = arrays.get(273, arrays.get(324, ())), arrays.get(279, arrays.get(325, ()))
    return any(first + length > len(data) for first, length in zip(starts, lengths, strict=False))

"""What the bytes of a file show without decoding: format, what it is instead, stored size, whether it breaks off early."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from beholder.columns import PictureReason
from beholder.pixels.picture import PictureError

_MAGICS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Sizes of the second header of a BMP; two letters alone would make pictures of many texts."""
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS = {b"mif1", b"mif2", b"msf1"}
_PPM_KINDS = b"123456f"
_SHORTEST = 12
"""So many bytes tell every format."""

_OTHER_PICTURES = (
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"8BPS", "a Photoshop picture"),
    (b"\0\0\1\0", "an icon file"),
    (b"%!PS", "a PostScript drawing"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript drawing"),
    (b"v/1\1", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance HDR picture"),
    (b"qoif", "a QOI picture"),
    (b"DDS ", "a DDS texture"),
    (b"gimp xcf", "a GIMP picture"),
)
_OTHER_FILES = (
    (b"version https://git-lfs", "a git-lfs pointer, not the picture itself; run: git lfs pull"),
    (b"PK\3\4", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"%PDF", "a PDF document"),
    (b"PAR1", "a Parquet file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x1aE\xdf\xa3", "a video (Matroska, WebM)"),
    (b"ID3", "a sound file"),
    (b"OggS", "a sound or video file"),
)

_START_OF_FRAME = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_BARE_MARKERS = {0x01, *range(0xD0, 0xD9)}
TIFF_SHORT, _TIFF_LONG = 3, 4
"""Types of values of 16 and 32 bits."""
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_STARTS, _TIFF_LENGTHS = (273, 324), (279, 325)
"""Tags of where strips, or tiles, begin, and of how many bytes they have."""


def sniff(data: bytes) -> str:
    """The format of a picture by its first bytes, never by its name.

    Returns:
        "JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "AVIF", "HEIC" or "PPM" (PBM, PGM, PPM, PFM).

    Raises:
        PictureError: EMPTY, TRUNCATED (the beginning of a picture's first bytes and no more), UNSUPPORTED (a picture of
            another format), NOT_AN_IMAGE (anything else; the text says what it looks like).
    """
    if not data:
        raise PictureError(PictureReason.EMPTY, "the file is empty (0 bytes)")
    found = _known(data[:64], data)
    if found is not None:
        return found
    if len(data) < _SHORTEST and _begins_a_picture(data):
        raise PictureError(PictureReason.TRUNCATED, f"the file ends after {len(data)} bytes, inside a picture's first header")
    for magic, what in _OTHER_PICTURES:
        if data.startswith(magic):
            raise PictureError(PictureReason.UNSUPPORTED, f"{what}; there is no decoder for it here, convert it to PNG or JPEG")
    raise PictureError(PictureReason.NOT_AN_IMAGE, f"{_describe(data)} ({len(data)} bytes)")


def _known(head: bytes, data: bytes) -> str | None:
    """The supported format that `head` begins, if any."""
    for magic, name in _MAGICS:
        if head.startswith(magic):
            if name == "BMP" and not _is_bmp(data):
                continue
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return _container(data)
    if len(head) > 2 and head[:1] == b"P" and head[1] in _PPM_KINDS and head[2:3] in b" \t\r\n#":
        return "PPM"
    return None


def _is_bmp(data: bytes) -> bool:
    """Whether the second header of a BMP has one of its known sizes (or is missing, in a cut file)."""
    return (len(data) < 18 and not data[2:].isascii()) or int.from_bytes(data[14:18], "little") in _BMP_HEADERS


def _container(data: bytes) -> str | None:
    """AVIF or HEIC by the brands in the `ftyp` box; None for videos and others."""
    length = min(max(int.from_bytes(data[:4], "big"), 16), 1024, len(data))
    major, brands = data[8:12], {data[at : at + 4] for at in range(16, length - 3, 4)}
    brands.add(major)
    if major in _AVIF_BRANDS or (major in _HEIF_BRANDS and brands & _AVIF_BRANDS and not brands & _HEIC_BRANDS):
        return "AVIF"
    return "HEIC" if brands & _HEIC_BRANDS or major in _HEIF_BRANDS else None


def _begins_a_picture(data: bytes) -> bool:
    """Whether these few bytes are the beginning of a supported format's first bytes."""
    magics = [magic for magic, _ in _MAGICS if len(magic) > 2]
    return any(magic.startswith(data) for magic in magics) or (data.startswith(b"RIFF") and len(data) > 3)


def _describe(data: bytes) -> str:
    """What these bytes are, as well as a short look can tell."""
    for magic, what in _OTHER_FILES:
        if data.startswith(magic):
            return what
    if data[4:8] == b"ftyp":
        return "a video (MP4)"
    if data[257:262] == b"ustar":
        return "a tar archive"
    if not data[:4096].strip(b"\0"):
        return "nothing but zero bytes"
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "an SVG drawing, which has no pixels"
    if start.startswith((b"<!doctype html", b"<html", b"<head")) or b"<html" in start:
        return "a web page (HTML), perhaps an error message that was saved in the picture's place"
    if start.startswith((b"<?xml", b"<error")):
        return "an XML text, perhaps an error message that was saved in the picture's place"
    text = _as_text(data[:256])
    return f"a text that begins with {text!r}" if text else "no picture format that is known here"


def _as_text(head: bytes) -> str:
    """The first words, when the bytes are readable text; else nothing."""
    try:
        text = head[: len(head) - 3 if len(head) > 64 else None].decode("utf-8")
    except UnicodeDecodeError:
        return ""
    words = " ".join(text.split())
    return words[:40] if words.isprintable() else ""


_GIF_EXTENSION, _GIF_FRAME, _GIF_END = 0x21, 0x2C, 0x3B
_MOST_BEFORE_A_FRAME = 8 << 20
"""Bytes of comments and the like of a GIF that are looked through."""


def stored_size(data: bytes, kind: str) -> tuple[int, int] | None:
    """Width and height as the header of a `kind` (see `sniff`) states them; None when it does not get that far.

    Cheap, and allocates nothing. Not for AVIF and HEIC, whose decoders read sizes without allocating.
    """
    try:
        if kind == "PNG" and data[12:16] == b"IHDR":
            width, height = struct.unpack_from(">II", data, 16)
        elif kind == "GIF":
            width, height = _gif_size(data)
        elif kind == "BMP":
            short = int.from_bytes(data[14:18], "little") == 12
            width, height = struct.unpack_from("<HH" if short else "<ii", data, 18)
        elif kind == "WEBP":
            return _webp_size(data)
        elif kind == "JPEG":
            return _jpeg_size(data)
        elif kind == "TIFF":
            sides = {entry.tag: entry.number for entry in tiff_entries(data) if entry.kind in (TIFF_SHORT, _TIFF_LONG)}
            return (sides[_TIFF_WIDTH], sides[_TIFF_HEIGHT]) if {_TIFF_WIDTH, _TIFF_HEIGHT} <= set(sides) else None
        elif kind == "PPM":
            return _ppm_size(data)
        else:
            return None
    except struct.error:
        return None
    return abs(width), abs(height)


def _gif_size(data: bytes) -> tuple[int, int]:
    """Canvas of a GIF, made larger where its first frame goes beyond it, as Pillow does. Raises struct.error."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    end = min(len(data), at + _MOST_BEFORE_A_FRAME)
    while at < end and data[at] != _GIF_END:
        if data[at] == _GIF_FRAME:
            left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
            return max(width, left + wide), max(height, top + high)
        if data[at] == _GIF_EXTENSION:
            at += 2
            while at < end and data[at]:
                at += 1 + data[at]
        at += 1
    return width, height


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


@dataclass(frozen=True)
class TiffEntry:
    """One entry of a TIFF's directory.

    Attributes:
        tag, kind: what it says, and the type of its values (3: 16 bits, 4: 32 bits).
        count: how many values it has.
        number: the first of them where they lie in the entry itself, else where in the file they lie.
        at: where in the file the number stands.
    """

    tag: int
    kind: int
    count: int
    number: int
    at: int


def tiff_entries(data: bytes) -> list[TiffEntry]:
    """The first directory of a classic TIFF; [] of other files. Raises struct.error where the file ends inside it."""
    if data[2:4] not in (b"*\0", b"\0*"):
        return []
    order = "<" if data[:2] == b"II" else ">"
    found = []
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (length,) = struct.unpack_from(f"{order}H", data, start)
    for at in range(start + 2, start + 2 + 12 * length, 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", data, at)
        is_short = kind == TIFF_SHORT and count <= 2
        (number,) = struct.unpack_from(f"{order}{'H' if is_short else 'I'}", data, at + 8)
        found.append(TiffEntry(tag, kind, count, number, at + 8))
    return found


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
    order = "<" if data[:2] == b"II" else ">"
    arrays: dict[int, tuple[int, ...]] = {}
    for entry in tiff_entries(data):
        if entry.tag in (*_TIFF_STARTS, *_TIFF_LENGTHS) and entry.kind in (TIFF_SHORT, _TIFF_LONG):
            size, code = (2, "H") if entry.kind == TIFF_SHORT else (4, "I")
            place = entry.at if entry.count * size <= 4 else entry.number
            if place + entry.count * size > len(data):
                return True
            arrays[entry.tag] = struct.unpack_from(f"{order}{entry.count}{code}", data, place)
    starts, lengths = (next((arrays[tag] for tag in tags if tag in arrays), ()) for tags in (_TIFF_STARTS, _TIFF_LENGTHS))
    return any(first + length > len(data) for first, length in zip(starts, lengths, strict=False))

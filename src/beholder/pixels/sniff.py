"""The first bytes of a file in; the picture format they are of out, or a PictureError that says what they are instead."""

from __future__ import annotations

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
    raise _foreign(data)


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


def _foreign(data: bytes) -> PictureError:
    """NOT_AN_IMAGE with what the bytes look like."""
    return PictureError(PictureReason.NOT_AN_IMAGE, f"{_describe(data)} ({len(data)} bytes)")


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

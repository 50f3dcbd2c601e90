"""Pictures that are written out as text in a table or list: base64, and `data:` addresses."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import PictureReason
from beholder.pixels.picture import PictureRef
from beholder.sources.pictures.magic import is_picture

_HEAD_LETTERS = 96
"""So many letters are looked at: 72 bytes, which tell every format."""
_LEAST_LETTERS = 40
_BASE64_STARTS = "/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk[0-3]|SUk[qr]A|TU0A[KL]|AAAA|UD[E-Zab]"
"""How the first bytes of JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF and HEIC, and PNM look in base64."""
_LONG = 1000
"""Longer texts of nothing but letters of base64 are base64, of whatever: no file is called so."""
_LETTER = r"[A-Za-z0-9+/_\-\s]"
_LONG_TEXT = rf"^{_LETTER}{{{_LONG}}}"
_WRITTEN_OUT = rf"^\s*([dD][aA][tT][aA]:|({_BASE64_STARTS}){_LETTER}{{{_LEAST_LETTERS}}})|{_LONG_TEXT}"
_PATTERN, _LONG_PATTERN = re.compile(_WRITTEN_OUT), re.compile(_LONG_TEXT)
_DATA = re.compile(r"\s*data:((?:[\w.+-]+/[\w.+-]+)?(?:;[\w.+=-]+)*),", re.IGNORECASE)
_URL_SAFE = str.maketrans("-_", "+/")


def is_written_out(text: str) -> bool:
    """Whether a text stands for itself, not for a place: `is_picture_text`, or long base64 of whatever.

    Such texts are never names, and are not repeated in messages.
    """
    return _PATTERN.match(text) is not None and (_LONG_PATTERN.match(text) is not None or is_picture_text(text))


def is_picture_text(text: str) -> bool:
    """Whether a text is a picture: a `data:` address, or base64 that begins as a picture does."""
    return _PATTERN.match(text) is not None and (_DATA.match(text) is not None or is_picture(_first_bytes(text)))


def _first_bytes(text: str) -> bytes:
    head = "".join(text[: 2 * _HEAD_LETTERS].split())[:_HEAD_LETTERS].translate(_URL_SAFE)
    try:
        return base64.b64decode(head[: len(head) // 4 * 4])
    except binascii.Error:
        return b""


def without_written_out(texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Texts (dictionary-encoded or not), with null in place of those that are pictures themselves: no names, no labels."""
    plain = texts.cast(texts.type.value_type) if pa.types.is_dictionary(texts.type) else texts
    if not pc.any(pc.match_substring_regex(plain, pattern=_WRITTEN_OUT)).as_py():
        return texts
    written = pa.array([value is not None and is_written_out(value) for value in plain.to_pylist()])
    return pc.if_else(written, pa.scalar(None, plain.type), plain)


def picture_of_text(text: str) -> PictureRef:
    """The picture that a text is, or what is wrong with it; the text itself is in no message."""
    found = _DATA.match(text)
    body, words = (text, ["", "base64"]) if found is None else (text[found.end() :], found[1].lower().split(";"))
    if found is not None and "base64" not in map(str.strip, words):
        return PictureRef(data=unquote_to_bytes(body))
    if "%" in body:
        body = unquote_to_bytes(body).decode("latin-1")
    letters = "".join(body.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return PictureRef(data=base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True))
    except (binascii.Error, ValueError) as error:
        what = "base64 text" if found is None else "a data: address"
        why = " ".join(str(error).split())
        return PictureRef(error=(PictureReason.DAMAGED, f"{what} of {len(text):,} letters that cannot be decoded: {why}"))

"""What file names, first bytes and short texts show: a picture, an archive, a table, a list, a picture written as text."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.compute as pc

from beholder.columns import PictureReason
from beholder.errors import InputError, text_of
from beholder.io import locations, storage
from beholder.io.tables import read_head
from beholder.pixels.picture import PictureError
from beholder.pixels.sniff import sniff
from beholder.sources.reader import PictureRef


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PICTURE_SUFFIXES = _words(
    "jpg jpeg jpe jfif png webp gif bmp dib tif tiff avif avifs heic heif hif ppm pgm pbm pnm pfm jxl jp2 j2k"
)
"""Files with these are pictures whatever their bytes are: wrong bytes are rejected by decoding, with a reason."""
RAW_SUFFIXES = _words("cr2 cr3 crw nef nrw arw srf sr2 dng orf rw2 raf pef srw x3f raw rwl 3fr iiq erf mrw")
"""Raw files of cameras, which are not decoded here."""
OTHER_SUFFIXES = RAW_SUFFIXES | _words(
    """txt caption json jsonl ndjson csv tsv parquet pq arrow feather md rst html htm xml xmp yaml yml toml ini cfg conf log
    py pyc ipynb js css ts sh c h cpp cu rs go java r sql lock so dll exe db sqlite lmdb mdb idx index
    npy npz pt pth ckpt safetensors onnx pkl pickle pyd h5 hdf5 tfrecord msgpack mp ten tb cls cls2
    mp4 m4v mov avi mkv webm mpg mpeg wmv flv 3gp mts thm mp3 wav flac ogg m4a aac
    tar tgz zip gz bz2 xz zst 7z rar iso dmg pdf doc docx xls xlsx ppt pptx odt
    svg eps ps ai psd xcf ico icns cur exr hdr dds qoi tga aae lrcat
    ttf otf woff woff2 tmp part crdownload bak swp"""
)
"""Files with these are no pictures (or none that can be decoded here, such as raw files of cameras) and are not looked into."""
SIDECAR_SUFFIXES = _words("txt caption json xmp xml yaml yml cls npy npz pt aae thm")
"""Beside a picture of the same stem, files with these belong to it."""
TAR_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)$", re.IGNORECASE)
PARQUET_SUFFIXES = frozenset(("parquet", "pq"))
TABLE_SUFFIXES = frozenset(("csv", "tsv", "jsonl", "ndjson", "json"))
HEAD_BYTES = 512
"""So many first bytes are enough to recognise every kind of file."""

_COMPRESSED = ((b"\x1f\x8b", "gz"), (b"BZh", "bz2"), (b"\xfd7zXZ\0", "xz"))


def suffix_of(name: str) -> str:
    """The part behind the last dot of a path's or URL's last piece, in lower case; a URL's query is left out. May be ""."""
    stem, dot, suffix = locations.without_query(name).rsplit("/", 1)[-1].rpartition(".")
    return suffix.lower() if dot and stem else ""


def base_name(path: str) -> str:
    """The last piece of a path or URL, without a URL's query."""
    path = path.split("?", 1)[0] if locations.is_web(path) else path
    return path.rstrip("/").rsplit("/", 1)[-1]


def is_tar_name(name: str) -> bool:
    """Whether a path or URL ends like a tar, compressed or not."""
    return TAR_SUFFIX.search(locations.without_query(name)) is not None


def is_picture(head: bytes) -> bool:
    """Whether these first bytes (64 or more, fewer for shorter files) are of a picture that can be decoded here."""
    try:
        sniff(head)
    except PictureError:
        return False
    return True


def compression_of(head: bytes) -> str | None:
    """How data are compressed by their first bytes: "gz", "bz2", "xz" or None."""
    return next((name for magic, name in _COMPRESSED if head.startswith(magic)), None)


def kind_of_bytes(head: bytes) -> str | None:
    """Kind by HEAD_BYTES first bytes: "files" (a picture), "tar", "parquet", "zip"; None for others and compressed ones."""
    if is_picture(head):
        return "files"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    return "tar" if is_tar_header(head) else None


def is_tar_header(block: bytes) -> bool:
    """Whether `block` (512 bytes) begins a tar: a header whose checksum is right. Old tars have no magic word."""
    if len(block) < 512 or not block.strip(b"\0"):
        return False
    try:
        written = int(block[148:156].strip(b"\0 ") or b"-1", 8)
    except ValueError:
        return False
    unsigned = sum(block[:148]) + 8 * 32 + sum(block[156:512])
    signed = unsigned - 256 * sum(byte > 127 for byte in (*block[:148], *block[156:512]))
    return written in (unsigned, signed)


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
    except ValueError:  # no base64, or not even ASCII
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
        why = f"{what} of {len(text):,} letters that cannot be decoded: {text_of(error, None)}"
        return PictureRef(error=(PictureReason.DAMAGED, why))


RANGE = re.compile(r"\{([0-9]+|[a-zA-Z])\.\.([0-9]+|[a-zA-Z])(\.\.[0-9]+)?\}")
"""A brace range as shells and webdataset have it."""
_MOST_EXPANDED = 1_000_000
MOST_LOOKED_AT = 64
"""So many things of a kind are looked at."""
_LOOK_BYTES = 1 << 16


def head_of(path: str) -> bytes:
    """The first bytes of a file, few or none of a short one. Raises InputError when it cannot be read."""
    if locations.is_web(path):  # some servers do not tell sizes
        return storage.read_range(path, 0, HEAD_BYTES)
    return storage.read_range(path, 0, min(HEAD_BYTES, storage.size(path)))


def kind_of_head(path: str) -> str | None:
    """Kind of a local file by its first bytes; None for one that cannot be read."""
    try:
        return kind_of_bytes(storage.read_range(path, 0, HEAD_BYTES))
    except InputError:
        return None


def first_line(path: str) -> str | None:
    """The first entry of a list; None when there is none."""
    text = read_head(path, _LOOK_BYTES)[0].decode("utf-8-sig", "replace")
    return next((line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")), None)


def names_pictures(entry: str) -> bool:
    """Whether a line of a list is a single picture's path or URL, by the look of it, or by its content where that is local."""
    if is_written_out(entry):
        return True
    suffix = suffix_of(entry)
    if storage.is_glob(entry) or RANGE.search(entry):
        return False
    if suffix in PICTURE_SUFFIXES:
        return True
    if is_tar_name(entry) or suffix in (*PARQUET_SUFFIXES, *TABLE_SUFFIXES, "zip", "txt", "npy", "npz", "pt", "pth"):
        return False
    if not locations.is_local(entry):
        return locations.is_web(entry)
    return storage.is_local_file(entry) and kind_of_head(entry) == "files"


def expand_ranges(source: str) -> list[str]:
    """What a source with brace ranges names: `{00000..00012}` as in a shell. Raises InputError for more than a million."""
    from braceexpand import braceexpand

    count = 1
    for low, high, step in RANGE.findall(source):
        span = abs(int(high) - int(low)) if low.isdigit() and high.isdigit() else 26
        count *= span // max(1, int(step.strip(".") or 1)) + 1
    if count > _MOST_EXPANDED:
        raise InputError(f"{source} names {count:,} files; name fewer at a time")
    try:
        return list(braceexpand(source))
    except ValueError:
        raise InputError(f"{source}: the braces do not match") from None

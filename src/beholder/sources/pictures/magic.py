"""File names and first bytes in; whether they are of a picture, an archive of pictures, or something else out."""

from __future__ import annotations

import re

from beholder.io import storage
from beholder.pixels.picture import PictureError
from beholder.pixels.sniff import sniff


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PICTURE_SUFFIXES = _words(
    "jpg jpeg jpe jfif png webp gif bmp dib tif tiff avif avifs heic heif hif ppm pgm pbm pnm pfm jxl jp2 j2k"
)
"""Files with these are pictures whatever their bytes are: wrong bytes are rejected by decoding, with a reason."""
OTHER_SUFFIXES = _words(
    """txt caption json jsonl ndjson csv tsv parquet pq arrow feather md rst html htm xml xmp yaml yml toml ini cfg conf log
    py pyc ipynb js css ts sh c h cpp cu rs go java r sql lock so dll exe db sqlite lmdb mdb idx index
    npy npz pt pth ckpt safetensors onnx pkl pickle pyd h5 hdf5 tfrecord msgpack mp ten tb cls cls2
    mp4 m4v mov avi mkv webm mpg mpeg wmv flv 3gp mts thm mp3 wav flac ogg m4a aac
    tar tgz zip gz bz2 xz zst 7z rar iso dmg pdf doc docx xls xlsx ppt pptx odt
    svg eps ps ai psd xcf ico icns cur exr hdr dds qoi tga aae lrcat
    cr2 cr3 crw nef nrw arw srf sr2 dng orf rw2 raf pef srw x3f raw rwl 3fr iiq erf mrw
    ttf otf woff woff2 tmp part crdownload bak swp"""
)
"""Files with these are no pictures (or none that can be decoded here, such as raw files of cameras) and are not looked into."""
SIDECAR_SUFFIXES = _words("txt caption json xmp xml yaml yml cls npy npz pt aae thm")
"""Beside a picture of the same stem, files with these belong to it."""
TAR_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)$", re.IGNORECASE)
PARQUET_SUFFIXES = frozenset(("parquet", "pq"))
TABLE_SUFFIXES = frozenset(("csv", "tsv", "jsonl", "ndjson", "json"))
HEAD_BYTES = 512
"""So many first bytes tell every kind of file."""

_COMPRESSED = ((b"\x1f\x8b", "gz"), (b"BZh", "bz2"), (b"\xfd7zXZ\0", "xz"))


def suffix_of(name: str) -> str:
    """The part behind the last dot of a path's or URL's last piece, in lower case; a URL's query is left out. May be ""."""
    stem, dot, suffix = storage.without_query(name).rsplit("/", 1)[-1].rpartition(".")
    return suffix.lower() if dot and stem else ""


def is_tar_name(name: str) -> bool:
    """Whether a path or URL ends like a tar, compressed or not."""
    return TAR_SUFFIX.search(storage.without_query(name)) is not None


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

"""Changes inside of the usual containers, with checksums and lengths made right again (`mutating.Inside`)."""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import zipfile
import zlib

from oracles.mutating import Change

_NPY_START = 10


def whole(data: bytes, change: Change, rng: random.Random) -> bytes:
    """The file as it is, changed anywhere."""
    return change(data)


def in_gzip(data: bytes, change: Change, rng: random.Random) -> bytes:
    """What is packed."""
    return gzip.compress(change(gzip.decompress(data)), 1, mtime=0)


def in_npy_header(data: bytes, change: Change, rng: random.Random) -> bytes:
    """The header of an .npy, its stated length right; in half of the cases padded so that the rows stay where they are."""
    (size,) = struct.unpack_from("<H", data, 8)
    header = change(data[_NPY_START : _NPY_START + size])
    if rng.random() < 0.5:
        header = header.rstrip(b"\n ")[:size].ljust(max(0, size - 1)) + b"\n"
    return data[:8] + struct.pack("<H", len(header) & 0xFFFF) + header + data[_NPY_START + size :]


def in_tar_header(data: bytes, change: Change, rng: random.Random) -> bytes:
    """One header of a tar, its checksum right."""
    starts = [
        at
        for at in range(0, len(data) - 511, 512)
        if data[at + 257 : at + 262] == b"ustar" or _is_old_header(data[at : at + 512])
    ]
    at = rng.choice(starts)
    return data[:at] + with_tar_checksum(change(data[at : at + 512])) + data[at + 512 :]


def _is_old_header(block: bytes) -> bool:
    """Whether the checksum fits that stands in the block."""
    try:
        return int(block[148:156].strip(b"\0 ") or b"x", 8) == _tar_sum(block)
    except ValueError:
        return False


def _tar_sum(block: bytes) -> int:
    return sum(block[:148]) + 8 * 32 + sum(block[156:512])


def with_tar_checksum(block: bytes) -> bytes:
    """A block of 512 bytes with the checksum of a tar's header in its place."""
    block = block[:512].ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % _tar_sum(block) + block[156:]


def in_tar_field(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A field of one header (name, mode, size, type, link, magic, prefix), the checksum right."""

    def field(block: bytes) -> bytes:
        start, stop = rng.choice(((0, 100), (124, 136), (124, 136), (156, 157), (157, 257), (257, 265), (345, 500), (482, 512)))
        return block[:start] + change(block[start:stop])[: stop - start].ljust(stop - start, b"\0") + block[stop:]

    return in_tar_header(data, field, rng)


def in_zip_member(data: bytes, change: Change, rng: random.Random) -> bytes:
    """One member of a zip, unpacked, then the whole zip anew."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen = rng.randrange(len(members))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number, (info, payload) in enumerate(members):
            archive.writestr(info, change(payload) if number == chosen else payload)
    return out.getvalue()


def in_zip_name(data: bytes, change: Change, rng: random.Random) -> bytes:
    """The name of one member, in both of its places."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = rng.choice(archive.infolist()).orig_filename.encode()
    return data.replace(name, change(name)[: len(name)].ljust(len(name), b"_"))


def in_zip_directory(data: bytes, change: Change, rng: random.Random) -> bytes:
    """The central directory; the stated size of it and the end record are right."""
    end = data.rindex(b"PK\5\6")
    size, start = struct.unpack_from("<II", data, end + 12)
    directory = change(data[start : start + size])
    record = bytearray(data[end:])
    struct.pack_into("<I", record, 12, len(directory) & 0xFFFFFFFF)
    return data[:start] + directory + bytes(record)


def in_parquet_footer(data: bytes, change: Change, rng: random.Random) -> bytes:
    """The metadata at the end of a Parquet file, the length behind them right."""
    (size,) = struct.unpack_from("<I", data, len(data) - 8)
    footer = change(data[-8 - size : -8])
    return data[: -8 - size] + footer + struct.pack("<I", len(footer)) + b"PAR1"


def in_parquet_pages(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A stretch of pages, of the same length, so that the footer's offsets stay right."""
    (size,) = struct.unpack_from("<I", data, len(data) - 8)
    stop = len(data) - 8 - size
    start = rng.randrange(4, stop)
    end = min(stop, start + rng.choice((4, 16, 64, 400)))
    return data[:start] + change(data[start:end])[: end - start].ljust(end - start, b"\0") + data[end:]


def in_png_chunk(data: bytes, change: Change, rng: random.Random) -> bytes:
    """One chunk of a PNG: the packed pixels in half of the cases, unpacked and packed again; length and checksum right."""
    places, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        places.append((at, size))
        at += 12 + size
    at, size = rng.choice(places)
    name, payload = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
    if name == b"IDAT" and rng.random() < 0.5:
        payload = zlib.compress(change(zlib.decompress(payload)), 1)
    elif rng.random() < 0.8:
        payload = change(payload)
    else:
        name = change(name)[:4].ljust(4, b"x")
    chunk = struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", zlib.crc32(name + payload))
    return data[:at] + chunk + data[at + 12 + size :]


def in_jpeg_segment(data: bytes, change: Change, rng: random.Random) -> bytes:
    """One segment of a JPEG before its pixels, its length right."""
    places, at = [], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", data, at + 2)
        places.append((at, size))
        at += 2 + size
    at, size = rng.choice(places)
    payload = change(data[at + 4 : at + 2 + size])[:65_533]
    return data[: at + 2] + struct.pack(">H", len(payload) + 2) + payload + data[at + 2 + size :]


def in_riff_chunk(data: bytes, change: Change, rng: random.Random) -> bytes:
    """One chunk of a WebP, its length and that of the file right."""
    places, at = [], 12
    while at + 8 <= len(data):
        (size,) = struct.unpack_from("<I", data, at + 4)
        places.append((at, size))
        at += 8 + size + size % 2
    at, size = rng.choice(places)
    payload = change(data[at + 8 : at + 8 + size])
    chunk = data[at : at + 4] + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
    rest = data[12:at] + chunk + data[at + 8 + size + size % 2 :]
    return b"RIFF" + struct.pack("<I", len(rest) + 4) + b"WEBP" + rest


def in_box(data: bytes, change: Change, rng: random.Random) -> bytes:
    """One box of an AVIF or HEIC file, at any depth, of the same length."""
    found = [
        match.start() - 4
        for match in re.finditer(rb"ftyp|meta|hdlr|pitm|iloc|iinf|infe|iprp|ipco|ispe|av1C|hvcC|pixi|ipma|irot|imir", data)
    ]
    at = rng.choice(found)
    (size,) = struct.unpack_from(">I", data, at)
    payload = data[at + 8 : at + size]
    return data[: at + 8] + change(payload)[: len(payload)].ljust(len(payload), b"\0") + data[at + size :]


def in_tiff_directory(data: bytes, change: Change, rng: random.Random) -> bytes:
    """One entry of the first directory of a TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    at = start + 2 + 12 * rng.randrange(count)
    return data[:at] + change(data[at : at + 12])[:12].ljust(12, b"\0") + data[at + 12 :]


def in_json_value(data: bytes, change: Change, rng: random.Random) -> bytes:
    """One value of a JSON text becomes another kind of value."""
    pieces = list(re.finditer(rb'"[^"\\]*"|-?\d[\d.eE+-]*|true|false|null', data))
    piece = rng.choice(pieces)
    new = rng.choice(
        (b"null",
         b"true", b"{}", b"[]", b"[[1]]", b'{"a":{}}', b"1e999", b"-1", b"NaN", b"9" * 30, b'"\\ud800"', b'"\\u0000"', b'""',
         b"[" * 3000, b'"' + b"x" * 5000 + b'"', change(piece.group()))
    )  # fmt: skip
    return data[: piece.start()] + new + data[piece.end() :]

"""Files that no scorer should trip over: each with a name that lies, its bytes, and the reason it has to be rejected with.

Made with Pillow and by hand; nothing of `beholder` is used but the words of the reasons. What is cut or broken here, Pillow
notices. There is damage it does not notice (a bit flipped inside a JPEG's data gives a picture with a few wrong blocks):
such files are pictures, and none of them is in here.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from beholder.columns import PictureReason

Made = tuple[str, bytes, PictureReason]
SUFFIXES = (".jpg", ".png", ".webp", ".gif", ".jpeg", ".tiff", ".bmp", ".avif", ".JPG", "")
FORMATS = ("JPEG", "progressive", "PNG", "GIF", "BMP", "TIFF", "deflated", "WEBP", "lossless", "AVIF", "PPM")


def picture(rng: random.Random, kind: str) -> bytes:
    """A good picture with noise in it, 40 to 90 pixels a side, in one of FORMATS."""
    size = rng.randint(40, 90), rng.randint(40, 90)
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(noise)
    file = io.BytesIO()
    if kind == "progressive":
        image.save(file, "JPEG", progressive=True)
    elif kind == "deflated":
        image.save(file, "TIFF", compression="tiff_adobe_deflate")
    elif kind == "lossless":
        image.save(file, "WEBP", lossless=True)
    elif kind == "AVIF":
        image.save(file, "AVIF", speed=10)
    else:
        (image.quantize(64) if kind == "GIF" else image).save(file, kind)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A PNG chunk with a right checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *extra: bytes, depth: int = 8, colour: int = 0, packed: bytes = b"\0\0") -> bytes:
    """A PNG file that says it is so large, with `packed` as all its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(packed))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + pixels + chunk(b"IEND", b"")


def jpeg_of_size(rng: random.Random, width: int, height: int) -> bytes:
    """A JPEG whose start-of-frame says another size than it has."""
    data = bytearray(picture(rng, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp_of_size(rng: random.Random, width: int, height: int) -> bytes:
    """A BMP whose header says another size than it has."""
    data = bytearray(picture(rng, "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tiff_of(image: Image.Image) -> bytes:
    """An uncompressed TIFF."""
    file = io.BytesIO()
    image.save(file, "TIFF")
    return file.getvalue()


def tiff_of_size(rng: random.Random, width: int, height: int) -> bytes:
    """A TIFF whose directory says another size than it has."""
    data = bytearray(picture(rng, "TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in (256, 257):
            struct.pack_into("<HHII", data, at, tag, 4, 1, width if tag == 256 else height)
    return bytes(data)


def webp_of_size(width: int, height: int) -> bytes:
    """A WebP file of a canvas and nothing on it."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + size
    return b"RIFF" + struct.pack("<I", 4 + len(canvas)) + b"WEBP" + canvas


def gif_of_size(width: int, height: int) -> bytes:
    """A GIF with one frame of all its screen, and two bytes of pixels."""
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x4c\1\0;"


def _texts(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield b"The picture is not here any more.\n" * rng.randint(1, 50)
        yield b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Sorry</body></html>\n"
        yield b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
        yield b'{"error": "rate limited", "retry": %d}' % rng.randint(1, 99)
        digest = rng.randbytes(32).hex()
        yield f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 48213\n".encode()
        yield b"\0" + rng.randbytes(rng.randint(1, 5000))
        yield b"PK\3\4" + rng.randbytes(300)
        yield b"\x7fELF\2\1\1" + rng.randbytes(300)
        yield b"%PDF-1.7\n" + rng.randbytes(300)
        yield b"\x1f\x8b\x08\0" + rng.randbytes(300)
        yield b"\0\0\0\x18ftypisom\0\0\2\0isomavc1" + rng.randbytes(300)
        yield bytes(rng.randint(1, 3000))


def _cut(rng: random.Random) -> Iterator[bytes]:
    while True:
        for kind in FORMATS:
            data = picture(rng, kind)
            yield data[: rng.randint(24 if kind != "PPM" else 14, len(data) * 9 // 10)]
        data = picture(rng, "JPEG")
        yield data[: len(data) - rng.randint(64, 200)]
        yield b"\x89PNG\r\n\x1a\n"
        yield picture(rng, "PNG")[: rng.randint(3, 7)]


def _broken(rng: random.Random) -> Iterator[bytes]:
    while True:
        data = bytearray(picture(rng, "PNG"))
        at = data.index(b"IDAT") + 4
        data[at : at + 2] = b"\xff\xff"  # no zlib stream
        yield bytes(data)
        yield png(50, 50, packed=b"\7" * 50 * 51)  # a filter that does not exist
        data = bytearray(picture(rng, "PNG"))
        data[16 + rng.randrange(13)] ^= 0x55  # the checksum of the header does not fit
        yield bytes(data)
        data = bytearray(picture(rng, "JPEG"))
        at = data.index(b"\xff\xdb")
        data[at + 2 : at + 4] = b"\0\1"  # a table of negative length
        yield bytes(data)
        data = bytearray(picture(rng, "JPEG"))
        at = data.index(b"\xff\xc4")
        data[at + 5 : at + 21] = b"\xff" * 16  # Huffman tables with more codes than there are
        yield bytes(data)
        data = bytearray(picture(rng, "lossless"))
        data[20] = 0  # not the signature of its only chunk
        yield bytes(data)
        data = bytearray(picture(rng, "deflated"))
        data[8:12] = b"\xff\xff\xff\xff"  # no zlib stream
        yield bytes(data)
        data = bytearray(picture(rng, "AVIF"))
        at = data.index(b"av1C")
        data[at : at + 4] = b"free"  # no decoder settings
        yield bytes(data)
        yield b"P6 12 twelve 255\n" + rng.randbytes(500)
        yield b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b"?" * 40 + b";"


def _bombs(rng: random.Random) -> Iterator[bytes]:
    zeros = zlib.compress(bytes(100_000_000))
    while True:
        yield png(60_000, 60_000, depth=1, packed=bytes(20_000_000))
        yield png(2**31 - 1, 2**31 - 1)
        yield gif_of_size(65_535, 65_535)
        yield webp_of_size(16_383, 16_383)
        yield jpeg_of_size(rng, 65_500, 65_500)
        yield bmp_of_size(rng, 100_000, -100_000)
        yield tiff_of_size(rng, 1_000_000, 1_000_000)
        yield b"P6\n200000 200000\n255\n" + rng.randbytes(1000)
        yield png(8, 8, chunk(b"zTXt", b"note\0\0" + zeros))
        yield png(8, 8, chunk(b"iTXt", b"note\0\1\0\0\0" + zeros))


def _nothing(rng: random.Random) -> Iterator[bytes]:
    while True:
        yield png(0, rng.randint(0, 9))
        yield png(rng.randint(1, 9), 0)
        yield jpeg_of_size(rng, 0, 40)
        yield bmp_of_size(rng, 0, 40)
        yield b"P6\n0 12\n255\n"
        yield tiff_of_size(rng, 0, 12)


def _without_pixels(rng: random.Random) -> Iterator[bytes]:
    values = np.random.default_rng(rng.getrandbits(32)).standard_normal((20, 30)).astype(np.float32)
    while True:
        yield tiff_of(Image.fromarray(values))
        yield tiff_of(Image.fromarray((values * 1e6).astype(np.int32)))
        yield b"Pf\n30 20\n-1.0\n" + values.tobytes()
        yield b"8BPS\0\1" + rng.randbytes(200)
        yield b"\xff\x0a" + rng.randbytes(200)
        yield b"\0\0\0\x0cjP  \r\n\x87\n" + rng.randbytes(200)


def hostile_files(rng: random.Random, count: int) -> list[Made]:
    """`count` files, all kinds in turn: (name with a suffix that may lie, bytes, the reason).

    Names are unique: hostile-0000-<reason><suffix>.
    """
    makers: list[tuple[PictureReason, Iterator[bytes]]] = [
        (PictureReason.NOT_AN_IMAGE, _texts(rng)),
        (PictureReason.TRUNCATED, _cut(rng)),
        (PictureReason.DAMAGED, _broken(rng)),
        (PictureReason.TOO_LARGE, _bombs(rng)),
        (PictureReason.ZERO_SIZE, _nothing(rng)),
        (PictureReason.UNSUPPORTED, _without_pixels(rng)),
        (PictureReason.EMPTY, iter(lambda: b"", None)),
    ]
    made = []
    for number in range(count):
        reason, source = makers[number % len(makers)]
        name = f"hostile-{number:04d}-{reason.value}{rng.choice(SUFFIXES)}"
        made.append((name, next(source), reason))
    return made
